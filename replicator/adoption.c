#include "replicator/adoption.h"

#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "replicator/epoch.h"

#include <inttypes.h>
#include <string.h>

struct adoption {
	const struct adoption_opts *o;
	enum adoption_vm vm;
	bool handed;     /* its last state is at the peer */
	bool done;       /* our replica is of this epoch already */
	json_t *record;  /* of our replica, or NULL */
	json_t *what;    /* ops.describe, or NULL */
	const char *how;
};

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static uint64_t epoch_of(const json_t *record)
{
	return (uint64_t)json_integer_value(json_object_get(record, "epoch"));
}

static int check_protection(struct adoption *a, struct err *e)
{
	const struct adoption_opts *o = a->o;
	const char *state = text_of(o->protection, "state");

	if (!o->protection)
		return 0;
	a->handed = strcmp(state, "handed-over") == 0;
	if (strcmp(text_of(o->protection, "host"), o->from) != 0) {
		err_set(e, ERR_REFUSED, "VM %s was protected from here to %s, not to %s", o->vm, text_of(o->protection, "host"), o->from);
		return err_remedy(e, "look at both hosts with 'vmferry status %s' before anything else", o->vm);
	}
	if (!a->handed && strcmp(state, "fenced") != 0) {
		err_set(e, ERR_REFUSED, "the protection of VM %s is %s here, and not fenced", o->vm, state);
		return err_remedy(e, "'vmferry status %s' here says why; one that was paused is fenced after 'vmferry resume %s'", o->vm, o->vm);
	}
	/* One that was handed over has the new epoch already. */
	if (epoch_of(o->protection) > o->epoch || (!a->handed && epoch_of(o->protection) == o->epoch))
		return err_set(e, ERR_REFUSED, "epoch %" PRIu64 " of VM %s is over; here it is in epoch %" PRIu64, o->epoch, o->vm,
			       epoch_of(o->protection));
	return 0;
}

/* A replica that a source may still write to is not replaced at a peer's word; one that was promoted or released here is what a
 * VM ran on before. Only our own record as the VM's source, to the caller, says that it has gone on there although it had come
 * here from another host. */
static int check_owner(const struct adoption *a, struct err *e)
{
	const struct adoption_opts *o = a->o;
	const char *state = text_of(a->record, "state"), *owner = text_of(a->record, "from");
	const bool ran = strcmp(state, "promoted") == 0 || strcmp(state, "released") == 0;

	if (strcmp(owner, o->from) != 0 && !(o->protection && ran)) {
		err_set(e, ERR_REFUSED, "the replica of VM %s here is kept for %s, not for %s", o->vm, owner, o->from);
		return err_remedy(e, "if the VM has moved there: 'vmferry unprotect %s --forget' at %s first", o->vm, owner);
	}
	if (!o->protection && !ran && !a->done) {
		err_set(e, ERR_REFUSED, "%s writes to a replica of VM %s here, and nothing says that it was failed over from here", owner, o->vm);
		return err_remedy(e, "look at both hosts with 'vmferry status %s' before anything else", o->vm);
	}
	return 0;
}

static int check_record(struct adoption *a, struct err *e)
{
	const struct adoption_opts *o = a->o;

	if (!a->record)
		return 0;
	if (strcmp(text_of(a->record, "state"), "promoting") == 0)
		return err_set(e, ERR_REFUSED, "a failover of VM %s is under way here", o->vm);
	/* A failover back that came to nothing has raised it: still theirs to write to, with this epoch. */
	a->done = strcmp(text_of(a->record, "state"), "replica") == 0 && strcmp(text_of(a->record, "from"), o->from) == 0 &&
		  epoch_of(a->record) == o->epoch;
	if (!a->done && epoch_of(a->record) >= o->epoch) {
		err_set(e, ERR_REFUSED, "epoch %" PRIu64 " of VM %s is over; the replica here is of epoch %" PRIu64, o->epoch, o->vm,
			epoch_of(a->record));
		return err_remedy(e, "look at both hosts with 'vmferry status %s' before anything else", o->vm);
	}
	return check_owner(a, e);
}

static int look(struct adoption *a, struct err *e)
{
	const struct adoption_opts *o = a->o;

	if (epoch_check_room(o->epoch, e) < 0)
		return -1;
	if (epoch_check_readable(o->protection, e) < 0 || epoch_check_readable(a->record, e) < 0)
		return -1;
	if (check_protection(a, e) < 0 || check_record(a, e) < 0 || o->ops->look(o->ctx, o->uuid, &a->vm, e) < 0)
		return -1;
	if (a->vm == ADOPTION_RUNNING) {
		err_set(e, ERR_REFUSED, "VM %s runs here as well as at %s", o->vm, o->from);
		return err_remedy(e, "a VM must run once only: find out which of the two is the right one; 'virsh suspend %s' stops it here", o->vm);
	}
	/* Whoever asks would have its disks. */
	if (!o->protection && a->vm != ADOPTION_ABSENT) {
		err_set(e, ERR_REFUSED, "VM %s is %s here, and nothing says that it was failed over from here", o->vm,
			a->vm == ADOPTION_PAUSED ? "paused" : "off");
		return err_remedy(e, "if it is of no use any more: %s%s%s'virsh undefine %s'",
				  a->vm == ADOPTION_PAUSED ? "'virsh destroy " : "", a->vm == ADOPTION_PAUSED ? o->vm : "",
				  a->vm == ADOPTION_PAUSED ? "' and " : "", o->vm);
	}
	if (a->vm != ADOPTION_ABSENT) {
		a->what = o->ops->describe(o->ctx, o->uuid, e);
		return a->what ? 0 : -1;
	}
	return 0;
}

static int fill(void *ctx, struct store *s, struct err *e)
{
	struct adoption *a = ctx;
	return a->o->ops->fill(a->o->ctx, a->o->uuid, a->vm, text_of(a->what, "xml"), a->handed, s, &a->how, e);
}

/* Before anything is taken away. One that was never ours is not ours to remove. */
static int keep_definition(struct adoption *a, json_t *report, struct err *e)
{
	const struct adoption_opts *o = a->o;
	MEM_AUTO char *path = mem_printf("%s/given-up-%s.xml", o->state_dir, o->uuid);
	const char *xml = text_of(a->what, "xml");

	if (a->vm == ADOPTION_ABSENT || !o->protection)
		return 0;
	if (file_write_durable(path, xml, strlen(xml), 0600, e) < 0)
		return err_wrap(e, "the definition of %s", o->vm);
	json_object_set_new(report, "definition", json_string(path));
	return 0;
}

static int remove_vm(struct adoption *a, struct err *e)
{
	const struct adoption_opts *o = a->o;

	if (a->vm == ADOPTION_ABSENT || !o->protection)
		return 0;
	if (o->ops->remove(o->ctx, o->uuid, e) < 0)
		return -1;
	log_info("old_vm_removed", "vm=%s uuid=%s", LOG_Q(o->vm), o->uuid);
	return 0;
}

/* Those that were there before, or are not sure to be at the peer. */
static json_t *images_that_stay(const struct adoption *a, const json_t *record)
{
	const json_t *made = json_object_get(json_object_get(record, "old"), "made"), *image, *one;
	json_t *stay = json_array();
	size_t i, k;

	json_array_foreach(json_object_get(a->what, "images"), i, image) {
		bool ours = false;
		if (a->handed)
			json_array_foreach(made, k, one)
				ours |= json_equal(one, image);
		if (!ours)
			json_array_append_new(stay, json_deep_copy(image));
	}
	return stay;
}

static int run(struct adoption *a, json_t *report, struct err *e)
{
	const struct adoption_opts *o = a->o;
	static const char *const kept[] = { "keep", "rpo_ms", "mode" };

	if (look(a, e) < 0 || keep_definition(a, report, e) < 0)
		return -1;
	a->how = a->done ? "before" : "nothing";
	if (!a->done && (a->vm != ADOPTION_ABSENT || a->record)) {
		json_t *extra = json_object();
		for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
			if (json_object_get(o->protection, kept[i]))
				json_object_set(extra, kept[i], json_object_get(o->protection, kept[i]));
		const int rc = replicas_adopt(o->replicas, o->uuid, o->vm, o->from, o->epoch, extra, fill, a, e);
		json_decref(extra);
		if (rc < 0)
			return err_wrap(e, "make a replica of what is left of %s", o->vm);
	}
	json_object_set_new(report, "adopted", json_string(a->how));
	if (fault_point(FAULT_FAILBACK_ADOPTED, e) < 0)
		return -1;
	json_t *record = replicas_record(o->replicas, o->uuid);
	json_object_set_new(report, "images", images_that_stay(a, record));
	json_decref(record);
	if (remove_vm(a, e) < 0 || fault_point(FAULT_FAILBACK_FORGET, e) < 0)
		return -1;
	return replicas_has(o->replicas, o->uuid) ? replicas_forget_old(o->replicas, o->uuid, a->handed, e) : 0;
}

int adoption_run(const struct adoption_opts *o, json_t **report, struct err *e)
{
	struct adoption a = { .o = o, .record = replicas_record(o->replicas, o->uuid) };

	*report = json_object();
	const int rc = run(&a, *report, e);
	json_decref(a.record);
	json_decref(a.what);
	if (rc < 0) {
		json_decref(*report);
		*report = NULL;
	}
	return rc;
}
