/* A VM that starts with its host (boot.h): not before it is known whose it is. */
#include "replicator/protection_internal.h"

#include "base/log.h"
#include "base/thread.h"
#include "replicator/field.h"

#include <stdio.h>
#include <string.h>

static bool remembered(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	return json_is_true(json_object_get(p->record, "autostart"));
}

/* Remembered before it is off: an agent that dies between finds it on and does the same. */
static int take_over(struct protection *p, struct err *e)
{
	const struct boot_calls *boot = p->opts.boot;
	const bool off = false;
	bool on = false;

	if (boot->autostart(p->opts.boot_ctx, p->uuid, NULL, &on, e) < 0)
		return -1;
	if (!on)
		return 0;
	json_t *changes = json_pack("{s:b}", "autostart", 1);
	const int rc = remembered(p) ? 0 : protection_update(p, changes, e);
	json_decref(changes);
	if (rc < 0 || boot->autostart(p->opts.boot_ctx, p->uuid, &off, NULL, e) < 0)
		return -1;
	log_info("autostart_taken", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid,
		 LOG_Q("it starts with this host all the same, once the peer has said that it is not there"));
	return 0;
}

/* Where libvirt or a disk comes up later than we do. */
#define START_TRIES 3

/* 0: it runs, or cannot be started. */
static int start(struct protection *p)
{
	struct err e = ERR_INIT;

	if (p->opts.boot->start(p->opts.boot_ctx, p->uuid, &e) == 0)
		return 0;
	if (++p->boot_tries < START_TRIES) {
		log_warn("autostart_failed", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid, LOG_Q(e.text));
		return -1;
	}
	log_error("autostart_failed", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid, LOG_Q(e.text));
	protection_event(p, "autostart.failed", e.text);
	return 0;
}

/* Before it is started: libvirt's hook (may_start.h) lets nobody start it until then. */
static int note_ours(struct protection *p, const char *boot_id, struct err *e)
{
	bool noted;

	{
		THREAD_LOCKED(&p->lock);
		noted = field_is(p->record, "owner_boot", boot_id);
	}
	if (noted)
		return 0;
	json_t *changes = json_pack("{s:s}", "owner_boot", boot_id);
	const int rc = protection_update(p, changes, e);
	json_decref(changes);
	return rc;
}

/* Saved after the start has been answered: an agent that dies between starts it. A record without a boot is of a protection
 * that has just begun, or of an agent that did not save it: then nobody knows whether the VM was shut off on purpose. */
static int settle_boot(struct protection *p, const char *id, struct err *e)
{
	char last[BOOT_ID_SIZE];

	{
		THREAD_LOCKED(&p->lock);
		snprintf(last, sizeof(last), "%s", field_text(p->record, "boot_id"));
	}
	if (strcmp(last, id) != 0) {
		if (last[0] && remembered(p) && !p->boot_started && start(p) < 0)
			return 0;
		p->boot_started = true;
		json_t *changes = json_pack("{s:s}", "boot_id", id);
		const int rc = protection_update(p, changes, e);
		json_decref(changes);
		if (rc < 0)
			return -1;
	}
	p->boot_settled = true;
	return 0;
}

/* That it is ours does not depend on libvirt, which may not know the VM just now. libvirt's answer comes before a start: without one nothing is
 * started, and all is tried again. */
void protection_boot_look(struct protection *p)
{
	char id[BOOT_ID_SIZE];
	struct err e = ERR_INIT;

	if (!p->opts.boot)
		return;
	if (p->opts.boot->id(p->opts.boot_ctx, id, &e) < 0 || note_ours(p, id, &e) < 0 || take_over(p, &e) < 0 ||
	    (!p->boot_settled && settle_boot(p, id, &e) < 0))
		log_warn("autostart", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid, LOG_Q(e.text));
}

bool protection_boot_starts(struct protection *p)
{
	return remembered(p);
}
