/*
 * qemu_conf.h - what libvirt's API does not tell and its configuration for QEMU (/etc/libvirt/qemu.conf) does.
 */
#ifndef VMFERRY_MIGRATOR_QEMU_CONF_H
#define VMFERRY_MIGRATOR_QEMU_CONF_H

/* The string that KEY is set to; heap. NULL: it is not set, or the file is not there or not ours to read. */
char *qemu_conf_string(const char *path, const char *key);

#define QEMU_CONF "/etc/libvirt/qemu.conf"

#endif
