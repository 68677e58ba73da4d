/*
 * host_files.h - what a VM's definition from another host may name of this one. Whoever writes a definition makes libvirt, which is root, open, create
 * and run what it names; so a definition that came from a peer names nothing of the sort, but for what rules and the caller place.
 *
 * Mapped, where the guest sees no difference: back ends of serial ports, consoles and channels that are files, devices, pipes or sockets (to a pty; an
 * agent's channel to a socket of libvirt's own), their logs, sockets of graphics, sound to a file, another source of randomness, scripts of network cards,
 * labels of security drivers. A file /var/log/libvirt/ANY.console stays, of a port and as a log. Refused, where it would: QEMU's command line, shared folders, memory in a file, passed-through TPM, input and smart card.
 * Sockets by address (TCP, UDP) stay.
 */
#ifndef VMFERRY_MIGRATOR_HOST_FILES_H
#define VMFERRY_MIGRATOR_HOST_FILES_H

#include "base/err.h"

#include <jansson.h>
#include <libxml/tree.h>

/* Edits `root` (<domain>). Findings are appended as map_xml.h says. ERR_REFUSED, with a remedy, leaves it half edited. */
int host_files_map(xmlNodePtr root, json_t *findings, struct err *e);

#endif
