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

/* Its file of UEFI variables may be another VM's: a name in its definition must not be enough to replace it. */
static int check_nvram(virConnectPtr conn, const struct domain *d, struct err *e)
{
	virDomainPtr *all = NULL;
	const int n = d->nvram ? virConnectListAllDomains(conn, &all, 0) : 0;
	int rc = 0;

	for (int i = 0; i < n; i++) {
		struct err ignored = ERR_INIT;
		VIRT_STR_AUTO char *xml = virDomainGetXMLDesc(all[i], 0);
		DOMAIN_AUTO struct domain *other = xml ? domain_parse(xml, &ignored) : NULL;
		if (rc == 0 && other && other->nvram && strcmp(other->nvram, d->nvram) == 0 &&
		    strcmp(other->uuid ? other->uuid : "", d->uuid) != 0)
			rc = err_set(e, ERR_REFUSED, "%s, with the UEFI variables of %s, is of VM %s here", d->nvram,
				     d->name, other->name);
		virDomainFree(all[i]);
	}
	free(all);
	return n < 0 ? virt_err(e, "list VMs") : rc;
}

static json_t *names_of(const bool written[STATE_FILE_KINDS])
{
	json_t *names = json_array();

	for (enum state_file kind = 0; kind < STATE_FILE_KINDS; kind++)
		if (written[kind])
			json_array_append_new(names, json_string(state_file_name(kind)));
	return names;
}

int incoming_define(const struct incoming_view *v, const json_t *args, json_t **result, struct err *e)
{
	const char *xml = json_string_value(json_object_get(args, "xml"));
	DOMAIN_AUTO struct domain *d = xml ? domain_parse(xml, e) : NULL;
	struct state_files_done done;

	*result = NULL;
	if (!xml)
		return err_set(e, ERR_PROTOCOL, "migrate.define: no XML");
	if (!d)
		return -1;
	if (!d->uuid || strcmp(d->uuid, v->uuid) != 0)
		return err_set(e, ERR_PROTOCOL, "migrate.define: the definition is of another VM");
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(v->m->virt, e);
	if (!conn || check_nvram(conn, d, e) != 0 ||
	    state_files_write(STATE_FILES_ROOT, d, json_object_get(args, "files"), &done, e) != 0)
		return -1;
	VIRT_DOM_AUTO virDomainPtr dom = virDomainDefineXMLFlags(conn, xml, VIR_DOMAIN_DEFINE_VALIDATE);
	if (!dom) {
		virt_err(e, "define %s", d->name);
		state_files_undo(STATE_FILES_ROOT, d, &done);
		return -1;
	}
	*result = json_pack("{s:o}", "written", names_of(done.written));
	return 0;
}
