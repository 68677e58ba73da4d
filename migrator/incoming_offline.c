/*
 * incoming_offline.c - the target's side of offline.h: an image of the session served by qemu-nbd, and the definition.
 */
#include "base/child.h"
#include "base/clock.h"
#include "base/mem.h"
#include "migrator/domain.h"
#include "migrator/incoming.h"
#include "migrator/state_files.h"
#include "migrator/virt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LISTEN_NS (10 * NS_PER_S)

static bool made_by(const json_t *images, const char *path)
{
	const json_t *image;
	size_t i;

	json_array_foreach (images, i, image)
		if (strcmp(json_string_value(image), path) == 0)
			return true;
	return false;
}

int incoming_export_start(const struct incoming_view *v, const json_t *args, pid_t *pid, struct err *e)
{
	const char *path = json_string_value(json_object_get(args, "path"));
	const char *format = json_string_value(json_object_get(args, "format"));
	int64_t until = clock_mono_ns() + LISTEN_NS;
	int status;

	if (!path || !format || !made_by(v->images, path))
		return err_set(e, ERR_REFUSED, "%s is not an image of this migration", path ? path : "(nothing)");
	if (strcmp(format, "qcow2") != 0 && strcmp(format, "raw") != 0)
		return err_set(e, ERR_PROTOCOL, "format %s", format);
	MEM_AUTO char *nbd = mem_printf("%s/nbd.sock", v->dir);
	MEM_AUTO char *format_arg = mem_printf("--format=%s", format);
	MEM_AUTO char *socket_arg = mem_printf("--socket=%s", nbd);
	const char *const argv[] = {
		"qemu-nbd", "--persistent", "--shared=8", "--discard=unmap", "--detect-zeroes=unmap", format_arg,
		socket_arg, path,           NULL
	};
	if (child_start(argv, pid, NULL, e) != 0)
		return -1;
	while (access(nbd, F_OK) != 0) {
		int rc = child_wait(*pid, clock_mono_ns() + 20 * NS_PER_MS, &status, e);
		if (rc == 1 && clock_mono_ns() < until)
			continue;
		if (rc == 1)
			child_stop(*pid);
		*pid = -1;
		return err_set(e, ERR_SYS, "qemu-nbd cannot serve %s; the log of vmferryd says why", path);
	}
	return 0;
}

void incoming_export_stop(const struct incoming_view *v, pid_t *pid)
{
	MEM_AUTO char *nbd = mem_printf("%s/nbd.sock", v->dir);

	/* SIGTERM makes qemu-nbd flush and close the image. */
	child_stop(*pid);
	*pid = -1;
	unlink(nbd);
}

int incoming_define(const struct incoming_view *v, const json_t *args, json_t **result, struct err *e)
{
	const char *xml = json_string_value(json_object_get(args, "xml"));
	const json_t *files = json_object_get(args, "files");
	DOMAIN_AUTO struct domain *d = xml ? domain_parse(xml, e) : NULL;
	bool all_there;

	*result = NULL;
	if (!xml)
		return err_set(e, ERR_PROTOCOL, "migrate.define: no XML");
	if (!d)
		return -1;
	if (!d->uuid || strcmp(d->uuid, v->uuid) != 0)
		return err_set(e, ERR_PROTOCOL, "migrate.define: the definition is of another VM");
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(v->m->virt, e);
	if (!conn || state_files_write(STATE_FILES_ROOT, d, files, &all_there, e) != 0)
		return -1;
	VIRT_DOM_AUTO virDomainPtr dom = virDomainDefineXMLFlags(conn, xml, VIR_DOMAIN_DEFINE_VALIDATE);
	if (!dom) {
		virt_err(e, "define %s", d->name);
		if (!all_there)
			state_files_remove(STATE_FILES_ROOT, d, files);
		return -1;
	}
	*result = json_pack("{s:b}", "files_were_there", all_there);
	return 0;
}
