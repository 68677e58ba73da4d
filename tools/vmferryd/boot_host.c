#include "tools/vmferryd/boot_host.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "migrator/virt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

struct boot_host {
	struct virt *virt;
};

struct boot_host *boot_host_new(const char *libvirt_uri, struct err *e)
{
	struct boot_host *b = mem_alloc(sizeof(*b));

	if (virt_init(e) == 0 && (b->virt = virt_new(libvirt_uri, e)) != NULL)
		return b;
	boot_host_free(b);
	return NULL;
}

void boot_host_free(struct boot_host *b)
{
	if (!b)
		return;
	virt_free(b->virt);
	free(b);
}

static int autostart(void *ctx, const char *uuid, const bool *want, bool *was, struct err *e)
{
	const struct boot_host *b = ctx;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(b->virt, e);
	VIRT_DOM_AUTO virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, uuid) : NULL;
	int on = 0;

	if (!conn)
		return -1;
	if (!dom) {
		virt_err(e, "look up VM %s", uuid);
		if (virt_err_is(e, VIR_ERR_NO_DOMAIN)) {
			e->cls = ERR_REFUSED;
			e->errnum = ENOENT;
		}
		return -1;
	}
	/* One that is not persistent does not start with the host. */
	if (virDomainIsPersistent(dom) == 1) {
		if (virDomainGetAutostart(dom, &on) != 0)
			return virt_err(e, "autostart of VM %s", uuid);
		if (want && (on != 0) != *want && virDomainSetAutostart(dom, *want) != 0)
			return virt_err(e, "autostart of VM %s", uuid);
	}
	if (was)
		*was = on != 0;
	return 0;
}

static int id(void *ctx, char out[BOOT_ID_SIZE], struct err *e)
{
	MEM_AUTO char *text = file_read_all(BOOT_ID, BOOT_ID_SIZE, NULL, e);

	(void)ctx;
	if (!text)
		return -1;
	text[strcspn(text, "\n")] = '\0';
	if (!text[0] || strlen(text) >= BOOT_ID_SIZE)
		return err_set(e, ERR_SYS, BOOT_ID " is no boot's id");
	memcpy(out, text, strlen(text) + 1);
	return 0;
}

static int start(void *ctx, const char *uuid, struct err *e)
{
	const struct boot_host *b = ctx;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(b->virt, e);
	VIRT_DOM_AUTO virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, uuid) : NULL;

	if (!conn)
		return -1;
	if (dom && virDomainIsActive(dom) == 1)
		return 0;
	if (!dom || virDomainCreate(dom) != 0)
		return virt_err(e, "start VM %s", uuid);
	log_info("autostarted", "uuid=%s", uuid);
	return 0;
}

const struct boot_calls boot_host_calls = { .autostart = autostart, .id = id, .start = start };
