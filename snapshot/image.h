/*
 * image.h - a VM's state put together again, as QEMU and libvirt read it: an ordinary migration stream (QEMU-STREAM.md) and libvirt's save image
 * (FORMAT.md section "libvirt save image").
 */
#ifndef VMFERRY_SNAPSHOT_IMAGE_H
#define VMFERRY_SNAPSHOT_IMAGE_H

#include "base/err.h"
#include "snapshot/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where bytes go; -1 with the error set ends the writing. */
typedef int (*image_write)(void *ctx, const void *p, size_t n, struct err *e);

/* header + RAM section (one END with all pages) + device state + `06 00000002 {}`, from the view's RAM volumes and its files "header",
 * "device". Accepted by QEMU 7.2 and 10.0. ERR_REFUSED when the point has no memory, ERR_CORRUPT when its header or device state is not QEMU's. */
int image_write_stream(struct store_view *v, image_write write, void *ctx, struct err *e);

/* Device state ends with the mark of the sections' end; as QEMU sends it, a description (`06 length {json}`) may follow. The length without that. */
size_t image_device_length(const uint8_t *p, size_t n);

/* The 92-byte header and the XML, padded as libvirt does. running: the VM runs after the restore. Heap; the caller frees. */
uint8_t *image_save_header(const char *xml, bool running, size_t *len, struct err *e);

#endif
