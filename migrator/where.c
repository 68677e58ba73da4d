#include "migrator/where.h"

#include <string.h>

static const char *const names[] = {
	[WHERE_ABSENT] = "absent", [WHERE_SHUTOFF] = "shutoff", [WHERE_INCOMING] = "incoming",
	[WHERE_PAUSED] = "paused", [WHERE_LEFT] = "left",       [WHERE_RUNNING] = "running",
};

const char *where_name(enum where w)
{
	return names[w];
}

enum where where_from_name(const char *name)
{
	for (size_t i = 0; name && i < sizeof names / sizeof names[0]; i++)
		if (strcmp(names[i], name) == 0)
			return (enum where)i;
	return WHERE_INCOMING;
}

static enum where paused_because(int reason)
{
	switch ((virDomainPausedReason)reason) {
	case VIR_DOMAIN_PAUSED_MIGRATION:
	case VIR_DOMAIN_PAUSED_POSTCOPY:
	case VIR_DOMAIN_PAUSED_POSTCOPY_FAILED:
		return WHERE_LEFT;
	case VIR_DOMAIN_PAUSED_STARTING_UP:
		return WHERE_INCOMING;
	case VIR_DOMAIN_PAUSED_UNKNOWN:
	case VIR_DOMAIN_PAUSED_USER:
	case VIR_DOMAIN_PAUSED_SAVE:
	case VIR_DOMAIN_PAUSED_DUMP:
	case VIR_DOMAIN_PAUSED_IOERROR:
	case VIR_DOMAIN_PAUSED_WATCHDOG:
	case VIR_DOMAIN_PAUSED_FROM_SNAPSHOT:
	case VIR_DOMAIN_PAUSED_SHUTTING_DOWN:
	case VIR_DOMAIN_PAUSED_SNAPSHOT:
	case VIR_DOMAIN_PAUSED_CRASHED:
#if LIBVIR_CHECK_VERSION(9, 2, 0)
	case VIR_DOMAIN_PAUSED_API_ERROR:
#endif
		return WHERE_PAUSED;
	}
	return WHERE_PAUSED;
}

int where_is(virConnectPtr conn, const char *uuid, enum where *out, bool *persistent, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = virDomainLookupByUUIDString(conn, uuid);
	int state, reason;

	if (!dom) {
		virt_err(e, "look up VM %s", uuid);
		if (!virt_err_is(e, VIR_ERR_NO_DOMAIN))
			return -1;
		err_clear(e);
		*out = WHERE_ABSENT;
		if (persistent)
			*persistent = false;
		return 0;
	}
	if (virDomainGetState(dom, &state, &reason, 0) != 0) {
		virt_err(e, "state of VM %s", uuid);
		/* It can go between two calls. */
		if (!virt_err_is(e, VIR_ERR_NO_DOMAIN))
			return -1;
		err_clear(e);
		*out = WHERE_ABSENT;
		if (persistent)
			*persistent = false;
		return 0;
	}
	if (persistent)
		*persistent = virDomainIsPersistent(dom) == 1;
	switch ((virDomainState)state) {
	case VIR_DOMAIN_RUNNING:
	case VIR_DOMAIN_BLOCKED:
	case VIR_DOMAIN_SHUTDOWN:
	case VIR_DOMAIN_PMSUSPENDED:
		*out = WHERE_RUNNING;
		break;
	case VIR_DOMAIN_PAUSED:
		*out = paused_because(reason);
		break;
	case VIR_DOMAIN_CRASHED: /* on_crash=preserve: QEMU is there, with its images open, and can be resumed */
		*out = virDomainIsActive(dom) == 1 ? WHERE_PAUSED : WHERE_SHUTOFF;
		break;
	case VIR_DOMAIN_NOSTATE:
	case VIR_DOMAIN_SHUTOFF:
		*out = WHERE_SHUTOFF;
		break;
	}
	return 0;
}
