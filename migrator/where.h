/*
 * where.h - where a VM is, as this host's libvirt sees it. Everything that must not run a VM twice asks here.
 */
#ifndef VMFERRY_MIGRATOR_WHERE_H
#define VMFERRY_MIGRATOR_WHERE_H

#include "base/err.h"
#include "migrator/virt.h"

#include <stdbool.h>

enum where {
	WHERE_ABSENT,   /* libvirt has no domain of that UUID */
	WHERE_SHUTOFF,  /* defined, no QEMU */
	WHERE_INCOMING, /* QEMU is there, its state is still coming in */
	WHERE_PAUSED,   /* paused on purpose: by a user, an I/O error, ...; or it has crashed, and is kept */
	WHERE_LEFT, /* paused because a migration away from here ended (or was about to): the VM may run elsewhere */
	WHERE_RUNNING,
};

const char *where_name(enum where w);
enum where where_from_name(const char *name); /* WHERE_INCOMING, the careful answer, for a name it does not know */

/* What libvirt says now; *persistent (may be NULL) is false for a transient or absent domain. */
int where_is(virConnectPtr conn, const char *uuid, enum where *out, bool *persistent, struct err *e);

#endif
