/*
 * virt.h - the connection to libvirt: one event loop thread for the process, a connection that is opened again after
 * libvirtd was restarted, and libvirt's thread-local errors copied into struct err at once.
 */
#ifndef VMFERRY_MIGRATOR_VIRT_H
#define VMFERRY_MIGRATOR_VIRT_H

#include "base/err.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct virt;

/* virInitialize, the default event loop in a thread that lives as long as the process (keepalive needs it), and
 * libvirt's printing of errors on stderr turned off. Safe to call any number of times, from any thread. */
int virt_init(struct err *e);

/* Does not connect yet: libvirtd may be down. The uri is copied. */
struct virt *virt_new(const char *uri, struct err *e);
/* References given out by virt_get stay valid. NULL is fine. */
void virt_free(struct virt *v);
const char *virt_uri(const struct virt *v);

/* The connection, opened or opened again when the old one is dead. New reference: the caller virConnectClose()s it
 * (VIRT_CONN_AUTO). Any thread. Failure: ERR_LIBVIRT with the remedy to start libvirtd. */
virConnectPtr virt_get(struct virt *v, struct err *e);
/* The same, and which one it is: 1 for the first that was opened, 2 for the one after that died. */
virConnectPtr virt_get_opened(struct virt *v, uint64_t *opened, struct err *e);

/* Another connection, with keepalive, not shared: the destination of a migration. The caller closes it. */
virConnectPtr virt_open(const char *uri, struct err *e);

/* Copies this thread's last libvirt error: class ERR_LIBVIRT, errnum = libvirt's code (VIR_ERR_...), text "what:
 * libvirt's message", and a remedy where one is known. Must follow the failed call directly, on the same thread;
 * nearly every libvirt call resets the error, also virDomainGetName(), so none may be among the arguments. Always
 * returns -1. */
int virt_err(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* True when the error is libvirt's and has this code. */
bool virt_err_is(const struct err *e, int code);

/* Cleanup attributes; NULL is fine. They may reset the thread's last libvirt error: virt_err comes before. */
void virt_conn_close(virConnectPtr *c);
void virt_dom_free(virDomainPtr *d);
void virt_str_free(char **s);
#define VIRT_CONN_AUTO __attribute__((cleanup(virt_conn_close)))
#define VIRT_DOM_AUTO __attribute__((cleanup(virt_dom_free)))
#define VIRT_STR_AUTO __attribute__((cleanup(virt_str_free))) /* char * from libvirt or the heap */

/* "8.2.0" from libvirt's number for a version; returns buf. */
const char *virt_format_version(unsigned long version, char *buf, size_t size);

#endif
