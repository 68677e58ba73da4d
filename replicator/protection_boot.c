/* A VM that starts with its host (boot.h): not before it is known whose it is. */
#include "replicator/protection_internal.h"

#include "base/log.h"
#include "base/thread.h"

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

void protection_boot_look(struct protection *p)
{
	struct err e = ERR_INIT;

	if (!p->opts.boot)
		return;
	if (take_over(p, &e) < 0)
		log_warn("autostart", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid, LOG_Q(e.text));
	if (p->seen)
		return;
	p->seen = true;
	if (!p->opts.boot->first_seen(p->opts.boot_ctx, p->uuid) || !remembered(p))
		return;
	err_clear(&e);
	if (p->opts.boot->start(p->opts.boot_ctx, p->uuid, &e) < 0) {
		log_error("autostart_failed", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid, LOG_Q(e.text));
		protection_event(p, "autostart.failed", e.text);
	}
}

bool protection_boot_starts(struct protection *p)
{
	return remembered(p);
}
