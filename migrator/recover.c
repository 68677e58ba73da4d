#include "migrator/recover.h"

#include "base/log.h"
#include "base/thread.h"
#include "migrator/incoming.h"
#include "migrator/outgoing.h"
#include "migrator/sessions.h"

#include <string.h>

#define UNDEFINE                                                                       \
	(VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | \
	 VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | VIR_DOMAIN_UNDEFINE_KEEP_TPM)

int recover_forget_vm(virConnectPtr conn, const char *uuid, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = virDomainLookupByUUIDString(conn, uuid);

	if (!dom) {
		virt_err(e, "look up VM %s", uuid);
		if (!virt_err_is(e, VIR_ERR_NO_DOMAIN))
			return -1;
		err_clear(e);
		return 0;
	}
	bool persistent = virDomainIsPersistent(dom) == 1;
	if (virDomainIsActive(dom) == 1 && virDomainDestroy(dom) != 0) {
		virt_err(e, "end the old QEMU of VM %s", uuid);
		if (!virt_err_is(e, VIR_ERR_NO_DOMAIN) && !virt_err_is(e, VIR_ERR_OPERATION_INVALID))
			return -1;
		err_clear(e);
	}
	if (persistent && virDomainUndefineFlags(dom, UNDEFINE) != 0) {
		virt_err(e, "undefine VM %s here", uuid);
		if (!virt_err_is(e, VIR_ERR_NO_DOMAIN))
			return -1;
		err_clear(e);
	}
	return 0;
}

int recover_resume_vm(virConnectPtr conn, const char *uuid, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = virDomainLookupByUUIDString(conn, uuid);

	if (!dom)
		return virt_err(e, "look up VM %s", uuid);
	return virDomainResume(dom) == 0 ? 0 : virt_err(e, "resume VM %s", uuid);
}

/* The VM is here, paused by a migration whose end this host does not know. 0: settled, 1: not yet, -1: failed. */
static int settle_left(struct migrator *m, virConnectPtr conn, const json_t *record, struct err *e)
{
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	const char *name = json_string_value(json_object_get(record, "name"));
	const char *peer = json_string_value(json_object_get(record, "peer"));
	enum where was = where_from_name(json_string_value(json_object_get(record, "was")));
	enum where there;

	if (outgoing_ask_where(m, peer, uuid, &there, e) != 0) {
		log_warn("recover_waiting", "vm=%s peer=%s msg=%s", name, peer,
			 LOG_Q("the VM is paused here until the peer can say whether it runs there"));
		return -1;
	}
	switch (there) {
	case WHERE_INCOMING:
	case WHERE_LEFT:
		return 1;
	case WHERE_RUNNING:
	case WHERE_PAUSED:
		log_info("recover_moved", "vm=%s runs_on=%s", name, peer);
		return recover_forget_vm(conn, uuid, e);
	case WHERE_ABSENT:
	case WHERE_SHUTOFF:
		log_info("recover_stayed", "vm=%s was=%s", name, where_name(was));
		return was == WHERE_RUNNING ? recover_resume_vm(conn, uuid, e) : 0;
	}
	return 1;
}

static int recover_outgoing(struct migrator *m, const json_t *record)
{
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	const char *name = json_string_value(json_object_get(record, "name"));
	const char *dir = json_string_value(json_object_get(record, "dir"));
	struct err e = ERR_INIT;
	enum where here;
	int rc = 0;

	VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, &e);
	if (!conn || where_is(conn, uuid, &here, NULL, &e) != 0) {
		log_warn("recover_failed", "vm=%s msg=%s", name, LOG_Q(e.text));
		return 1;
	}
	if (here == WHERE_LEFT)
		rc = settle_left(m, conn, record, &e);
	if (rc < 0)
		log_warn("recover_failed", "vm=%s msg=%s", name, LOG_Q(e.text));
	if (rc != 0)
		return 1;
	if (dir)
		session_remove_dir(dir);
	if (sessions_remove(m->opts.state_dir, json_string_value(json_object_get(record, "session")), &e) != 0) {
		log_warn("recover_failed", "vm=%s msg=%s", name, LOG_Q(e.text));
		return 1;
	}
	log_info("recovered", "vm=%s direction=out found=%s", name, where_name(here));
	return 0;
}

static bool has_job(struct migrator *m, const char *uuid)
{
	THREAD_LOCKED(&m->lock);
	for (const struct job *j = m->jobs; j; j = j->next)
		if (strcmp(j->uuid, uuid) == 0)
			return true;
	return false;
}

size_t recover_pass(struct migrator *m)
{
	struct err e = ERR_INIT;
	json_t *records = sessions_load(m->opts.state_dir, &e), *record;
	size_t i, open = 0;

	if (!records) {
		log_warn("recover_failed", "msg=%s", LOG_Q(e.text));
		return 1;
	}
	json_array_foreach (records, i, record) {
		const char *uuid = json_string_value(json_object_get(record, "uuid"));
		const char *direction = json_string_value(json_object_get(record, "direction"));
		if (!uuid || !direction || has_job(m, uuid) || incoming_has(m, uuid))
			continue;
		open += strcmp(direction, "in") == 0 ? (size_t)incoming_recover(m, record)
						     : (size_t)recover_outgoing(m, record);
	}
	json_decref(records);
	return open;
}
