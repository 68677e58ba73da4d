#include "replicator/failover.h"

#include "base/child.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "replicator/failover_disks.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SETTLE_NS (60 * NS_PER_S)
#define START_BASE_NS (60 * NS_PER_S)
/* A gigabyte of memory in ten seconds is a host in trouble, and still no reason to give up. */
#define START_BYTES_PER_S (UINT64_C(100) << 20)
#define RECORD_TRIES 5u

struct failover {
	const struct failover_opts *o;
	struct store *store;
	int64_t start_ns, phase_ns, done_ns; /* monotonic */
	json_t *record;                      /* as it was at first */
	const char *uuid, *vm, *from;
	uint64_t epoch; /* the raised one */
	struct store_view *view;
	char *xml;
	bool memory;
	struct failover_disks disks;
	json_t *findings;
	json_t *phases;
	json_t *made;   /* paths of all that may be there */
	json_t *images; /* what they were when they had been made */
	bool handed, raised, unknown, made_room;
};

static void note(struct failover *f, const char *phase)
{
	log_info("failover_phase", "vm=%s phase=%s", f->vm ? f->vm : "-", phase);
	if (f->o->note)
		f->o->note(f->o->ctx, json_pack("{s:s}", "phase", phase));
}

/* The phase that ends here took so long. */
static void timed(struct failover *f, const char *phase)
{
	char key[32];
	int64_t now = clock_mono_ns();

	snprintf(key, sizeof(key), "%s_ms", phase);
	json_object_set_new(f->phases, key, json_real((double)(now - f->phase_ns) / (double)NS_PER_MS));
	f->phase_ns = now;
}

static int stopped(const struct failover *f, struct err *e)
{
	return f->o->cancel && *f->o->cancel ? err_set(e, ERR_CANCELLED, "cancelled") : 0;
}

static int feed(void *ctx, image_write write, void *wctx, struct err *e)
{
	return image_write_stream(ctx, write, wctx, e);
}

static struct promote_spec spec_of(struct failover *f)
{
	struct promote_spec s = { .uuid = f->uuid,
				  .name = f->vm,
				  .xml = f->xml,
				  .disks = f->disks.disk,
				  .n_disks = f->disks.n,
				  .paused = f->o->paused,
				  .feed = f->memory ? feed : NULL,
				  .feed_ctx = f->view,
				  .cancel = f->o->cancel };
	return s;
}

/* ---- look ---- */

/* The latest point is in the heads. On a full disk there is, once, what was kept back for this. */
static int settle(struct failover *f, struct err *e)
{
	const int64_t until = clock_mono_ns() + SETTLE_NS;

	for (;;) {
		const struct timespec moment = { .tv_nsec = 100 * NS_PER_MS };
		struct err why = ERR_INIT;
		if (store_settle(f->store, until, &why) == 0)
			return 0;
		if (err_is_full(&why) && f->o->make_room && !f->made_room) {
			f->made_room = true;
			f->o->make_room(f->o->ctx);
			continue;
		}
		if (err_passes(&why) && clock_mono_ns() < until && stopped(f, &why) == 0) {
			nanosleep(&moment, NULL);
			continue;
		}
		*e = why;
		return !err_is_full(e)
			       ? -1
			       : err_remedy(e, "make room on the disk of the replicas: the latest point is there, "
					       "and goes into the images then");
	}
}

static int open_point(struct failover *f, struct err *e)
{
	store_view_close(f->view);
	free(f->xml);
	failover_disks_fini(&f->disks);
	f->xml = NULL;
	/* The head is only the point's once all is applied. */
	f->view = NULL;
	if (settle(f, e) < 0)
		return -1;
	f->view = store_view_open(f->store, f->o->seq, e);
	if (!f->view)
		return -1;
	f->xml = store_view_file(f->view, "xml", NULL, e);
	if (!f->xml)
		return err_wrap(e, "the point has no definition of the VM");
	const char *kind = json_string_value(json_object_get(store_view_meta(f->view), "kind"));
	f->memory = kind && strcmp(kind, "memory") == 0;
	return failover_disks_plan(&f->disks, f->view, f->vm, f->epoch, f->xml, f->o->ops, f->o->ops_ctx, e);
}

static int check_record(struct failover *f, struct err *e)
{
	const char *state = json_string_value(json_object_get(f->record, "state"));
	json_int_t epoch = json_integer_value(json_object_get(f->record, "epoch"));

	f->uuid = json_string_value(json_object_get(f->record, "uuid"));
	f->vm = json_string_value(json_object_get(f->record, "vm"));
	f->from = json_string_value(json_object_get(f->record, "from"));
	if (!f->vm || !f->uuid || !state || epoch < 0)
		return err_set(e, ERR_CORRUPT, "replica.json: no name, UUID or state, or an impossible epoch");
	f->epoch = (uint64_t)epoch + 1;
	if (strcmp(state, "replica") == 0)
		return 0;
	err_set(e, ERR_REFUSED, "the replica of %s is %s", f->vm,
		strcmp(state, "promoting") == 0 ? "being promoted" : state);
	return err_remedy(
		e, strcmp(state, "promoted") == 0
			   ? "the VM is this host's now: see 'virsh list --all'; 'vmferry failback' takes it home"
			   : "wait until that is settled: see 'vmferry status' and the agent's log");
}

static int look(struct failover *f, struct err *e)
{
	const struct promote_ops *ops = f->o->ops;
	enum promote_where where;

	f->record = f->o->records->load(f->o->records->ctx, e);
	if (!f->record || check_record(f, e) < 0 || ops->where(f->o->ops_ctx, f->uuid, &where, e) < 0)
		return -1;
	if (where != PROMOTE_ABSENT && where != PROMOTE_OFF) {
		err_set(e, ERR_REFUSED, "VM %s is on this host already", f->vm);
		return err_remedy(e, "see 'virsh list'");
	}
	if (open_point(f, e) < 0)
		return -1;
	struct promote_spec s = spec_of(f);
	MEM_AUTO char *mapped = ops->map(f->o->ops_ctx, &s, NULL, e);
	return mapped ? ops->needs(f->o->ops_ctx, mapped, e) : -1;
}

/* ---- epoch ---- */

static int raise_epoch(struct failover *f, struct err *e)
{
	json_t *changes = json_pack("{s:s, s:I, s:n}", "state", "promoting", "epoch", (json_int_t)f->epoch, "handover");

	f->raised = true; /* also when saving fails: it may be on disk all the same */
	if (failover_record_change(f->o->records, "replica", changes, e) < 0) {
		/* Another failover of this VM was faster. */
		f->raised = e->cls != ERR_REFUSED;
		return -1;
	}
	log_info("failover_epoch", "vm=%s epoch=%llu", f->vm, (unsigned long long)f->epoch);
	return fault_point(FAULT_FAILOVER_EPOCH, e);
}

/* ---- fence ---- */

static int fence(struct failover *f, struct err *e)
{
	const char *argv[64] = { "env" };
	size_t n = 1, given = 0;
	MEM_AUTO char *vm = mem_printf("VMFERRY_VM=%s", f->vm), *uuid = mem_printf("VMFERRY_UUID=%s", f->uuid);
	MEM_AUTO char *from = mem_printf("VMFERRY_FROM=%s", f->from ? f->from : "");
	MEM_AUTO char *to = mem_printf("VMFERRY_TO=%s", f->o->host ? f->o->host : "");
	MEM_AUTO char *out = NULL;

	if (fault_point(FAULT_FAILOVER_FENCE, e) < 0)
		return -1;
	if (!f->o->fence || !f->o->fence[0])
		return 0;
	argv[n++] = vm;
	argv[n++] = uuid;
	argv[n++] = from;
	argv[n++] = to;
	while (f->o->fence[given] && n < 63)
		argv[n++] = f->o->fence[given++];
	if (f->o->fence[given])
		return err_set(e, ERR_CONFIG, "the fencing command has too many arguments");
	int rc = child_run(argv, clock_mono_ns() + f->o->fence_within_ns, f->o->cancel, &out, e);
	log_info("failover_fence", "vm=%s from=%s command=%s ok=%s output=%s", f->vm, f->from ? f->from : "-",
		 f->o->fence[0], rc == 0 ? "yes" : "no", LOG_Q(out ? out : ""));
	if (rc == 0)
		return 0;
	err_wrap(e, "fencing command %s", f->o->fence[0]);
	return err_remedy(e, "nothing was started: the command must exit with 0 once the other host is sure to be off");
}

/* ---- start ---- */

static int write_files(struct failover *f, struct err *e)
{
	static const char *const kinds[] = { "nvram", "tpm" };
	struct promote_spec s = spec_of(f);

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct err why = ERR_INIT;
		size_t len;
		MEM_AUTO char *data = store_view_file(f->view, kinds[i], &len, &why);
		if (!data && why.cls == ERR_CONFIG)
			continue;
		if (!data) {
			*e = why;
			return -1;
		}
		MEM_AUTO char *path = f->o->ops->file_path(f->o->ops_ctx, &s, kinds[i], &why);
		if (!path && err_is_set(&why)) {
			*e = why;
			return -1;
		}
		if (!path)
			continue;
		if (f->o->ops->file_put(f->o->ops_ctx, kinds[i], path, data, len, e) < 0)
			return -1;
	}
	return 0;
}

static uint64_t memory_bytes(struct store_view *v)
{
	struct store_volume *vol = mem_alloc_array(STORE_MAX_VOLUMES, sizeof(*vol));
	size_t n = store_view_volumes(v, vol, STORE_MAX_VOLUMES);
	uint64_t sum = 0;

	for (size_t i = 0; i < n && i < STORE_MAX_VOLUMES; i++)
		sum += vol[i].kind == STORE_RAM ? vol[i].size_bytes : 0;
	free(vol);
	return sum;
}

/* After a start that is said to have failed: only what certainly does not run, and has not run, is undone. */
static bool may_run(const struct failover *f, const struct err *failure)
{
	enum promote_where where;
	struct err e = ERR_INIT;

	if (failure->cls == ERR_SYS && failure->errnum == ETIMEDOUT)
		return true;
	if (f->o->ops->where(f->o->ops_ctx, f->uuid, &where, &e) < 0) {
		log_error("failover_unknown", "vm=%s msg=%s", f->vm, LOG_Q(e.text));
		return true;
	}
	return (where != PROMOTE_ABSENT && where != PROMOTE_OFF) || failover_disks_changed(f->images);
}

static int start(struct failover *f, struct err *e)
{
	struct promote_spec s = spec_of(f);
	uint64_t seconds = memory_bytes(f->view) / START_BYTES_PER_S;

	s.deadline_ns = clock_mono_ns() + START_BASE_NS + (int64_t)(seconds < 86400 ? seconds : 86400) * NS_PER_S;
	if (fault_point(FAULT_FAILOVER_START, e) < 0)
		return -1;
	MEM_AUTO char *mapped = f->o->ops->map(f->o->ops_ctx, &s, f->findings, e);
	if (!mapped)
		return -1;
	if (f->o->ops->start(f->o->ops_ctx, &s, e) < 0) {
		f->unknown = may_run(f, e);
		return -1;
	}
	return 0;
}

static json_t *disks_json(const struct failover *f)
{
	json_t *disks = json_array();

	for (size_t i = 0; i < f->disks.n; i++)
		json_array_append_new(disks, json_pack("{s:s, s:s, s:s, s:s*}", "target", f->disks.disk[i].target,
						       "path", f->disks.disk[i].path, "format", f->disks.disk[i].format,
						       "base", f->disks.base[i]));
	return disks;
}

/* A point for which the guest's file systems were frozen has them frozen in its memory. */
static bool is_frozen(const struct failover *f)
{
	return f->memory && json_is_true(json_object_get(store_view_meta(f->view), "quiesced"));
}

static bool starts_with_host(const struct failover *f)
{
	return json_is_true(json_object_get(store_view_meta(f->view), "autostart"));
}

/* What is about to be made, on disk before it is; and once it is, with what it is. */
static json_t *promotion_json(const struct failover *f)
{
	const char *id = json_string_value(json_object_get(store_view_meta(f->view), "id"));

	return json_pack("{s:{s:I, s:s*, s:b, s:b, s:b, s:I, s:o, s:O, s:O*}}", "promotion", "seq",
			 (json_int_t)store_view_seq(f->view), "id", id, "paused", f->o->paused, "autostart",
			 (int)starts_with_host(f), "frozen", (int)is_frozen(f), "started_ns",
			 (json_int_t)clock_wall_ns(), "disks", disks_json(f), "made", f->made, "images", f->images);
}

/* It runs: from here on nothing is undone, and what cannot be written now, tried several times, is found by failover_recover. */
static void record_done(struct failover *f)
{
	struct err e = ERR_INIT;
	int rc = fault_point(FAULT_FAILOVER_DONE, &e);

	for (unsigned n = 0; rc == 0 && n < RECORD_TRIES; n++) {
		const struct timespec moment = { .tv_nsec = 200 * NS_PER_MS };
		if (failover_record_promoted(f->o->records, &e) == 0)
			return;
		log_warn("failover_record", "vm=%s msg=%s", f->vm, LOG_Q(e.text));
		nanosleep(&moment, NULL);
	}
	log_error("failover_record", "vm=%s msg=%s", f->vm, LOG_Q(e.text));
	json_array_append_new(f->findings, json_pack("{s:s, s:s}", "what", "record", "text",
						     "the VM runs, and that could not be written down: see to this "
						     "host's disk; it is tried again"));
}

static void set_autostart(struct failover *f)
{
	struct err e = ERR_INIT;

	if (!starts_with_host(f) || f->o->ops->autostart(f->o->ops_ctx, f->uuid, &e) == 0)
		return;
	log_warn("failover_autostart", "vm=%s msg=%s", f->vm, LOG_Q(e.text));
	json_array_append_new(f->findings,
			      json_pack("{s:s, s:s+}", "what", "autostart", "text",
					"it does not start with this host yet as it did with the other: ", e.text));
}

/* What fails here is tried again by failover_thaw. */
static void thaw(struct failover *f)
{
	struct err e = ERR_INIT;
	char text[400];

	if (!is_frozen(f) || fault_point(FAULT_FAILOVER_THAW, &e) < 0)
		return;
	if (!f->o->paused && failover_thaw_ask(f->o->ops, f->o->ops_ctx, f->uuid, f->o->thaw_within_ns, &e) == 0) {
		if (failover_note_thawed(f->o->records, &e) < 0)
			log_warn("failover_record", "vm=%s msg=%s", f->vm, LOG_Q(e.text));
		return;
	}
	log_warn("failover_frozen", "vm=%s msg=%s", f->vm, LOG_Q(e.text));
	snprintf(text, sizeof(text),
		 "the guest's file systems may be frozen, as they were at the point; its agent is asked again once it "
		 "runs, or 'virsh domfsthaw %.200s'",
		 f->vm);
	json_array_append_new(f->findings, json_pack("{s:s, s:s}", "what", "frozen", "text", text));
}

/* ---- the whole ---- */

static int step(struct failover *f, const char *name, int (*fn)(struct failover *f, struct err *e), struct err *e)
{
	if (stopped(f, e) < 0)
		return -1;
	note(f, name);
	int rc = fn(f, e);
	timed(f, name);
	return rc;
}

/* Written down first: once the source has given the VM up, somebody must go on with it, also if this agent dies. A refusal of the source's means that it has
 * not; any other failure leaves that open, as the answer may have been lost. */
static int hand_over(struct failover *f, struct err *e)
{
	struct err late = ERR_INIT;
	json_t *asked = json_pack("{s:{s:I, s:b}}", "handover", "epoch", (json_int_t)f->epoch, "paused",
				  (int)f->o->paused);

	if (failover_record_change(f->o->records, "replica", asked, e) < 0)
		return -1;
	f->handed = true;
	if (f->o->hand_over(f->o->ctx, f->epoch, e) < 0) {
		f->handed = e->cls != ERR_REFUSED;
		if (!f->handed &&
		    failover_record_change(f->o->records, "replica", json_pack("{s:n}", "handover"), &late) < 0)
			log_warn("failover_record", "vm=%s msg=%s", f->vm, LOG_Q(late.text));
		return err_wrap(e, "the source's last checkpoint");
	}
	return fault_point(FAULT_FAILOVER_HANDED, e) < 0 ? -1 : open_point(f, e);
}

static int make_disks(struct failover *f, struct err *e)
{
	/* Points may have come until the epoch was raised; none does now. */
	if (open_point(f, e) < 0)
		return -1;
	f->made = failover_disks_paths(&f->disks);
	if (failover_record_change(f->o->records, "promoting", promotion_json(f), e) < 0)
		return -1;
	if (failover_disks_make(&f->disks, f->view, f->o->cancel, e) < 0 || write_files(f, e) < 0)
		return -1;
	f->images = failover_disks_images(&f->disks, e);
	if (!f->images || failover_record_change(f->o->records, "promoting", promotion_json(f), e) < 0)
		return -1;
	return fault_point(FAULT_FAILOVER_DISKS, e);
}

static int run(struct failover *f, struct err *e)
{
	if (step(f, "look", look, e) < 0)
		return -1;
	if (f->o->hand_over && step(f, "hand", hand_over, e) < 0)
		return -1;
	if (step(f, "epoch", raise_epoch, e) < 0 || step(f, "fence", fence, e) < 0 ||
	    step(f, "disks", make_disks, e) < 0 || step(f, "start", start, e) < 0)
		return -1;
	record_done(f);
	set_autostart(f);
	timed(f, "done");
	f->done_ns = clock_mono_ns();
	thaw(f);
	return 0;
}

static void give_up(struct failover *f, struct err *e)
{
	struct err late = ERR_INIT;

	if (f->unknown) {
		err_remedy(e, "whether it runs is found out by asking libvirt again: see 'virsh list' and 'vmferry "
			      "status'");
		return;
	}
	if (failover_record_undo(f->o->records, &late) < 0) {
		log_error("failover_undo", "vm=%s msg=%s", f->vm, LOG_Q(late.text));
		err_remedy(e,
			   "nothing runs here, but that could not be written down: see to this host's disk; 'vmferry "
			   "failover %s' settles it "
			   "and tries again",
			   f->vm);
	} else if (f->handed) {
		err_remedy(e,
			   "nothing runs here, and the VM is paused at %s, which has given it up: 'vmferry failover "
			   "%s' tries again here, "
			   "'vmferry resume %s' at %s lets it go on there",
			   f->from, f->vm, f->vm, f->from);
	} else {
		err_remedy(e,
			   "nothing runs here, and all points are kept: 'vmferry failover %s' tries again; if %s is "
			   "back, 'vmferry protect %s --to %s' "
			   "there goes on with replicating",
			   f->vm, f->from, f->vm, f->o->host);
	}
}

static json_t *report_of(struct failover *f)
{
	json_t *point = json_deep_copy(store_view_meta(f->view));

	if (!point)
		point = json_object();
	json_object_set_new(point, "seq", json_integer((json_int_t)store_view_seq(f->view)));
	return json_pack("{s:s, s:s, s:o, s:I, s:s, s:s, s:o, s:O, s:O, s:f}", "vm", f->vm, "uuid", f->uuid, "point",
			 point, "epoch", (json_int_t)f->epoch, "state", f->o->paused ? "paused" : "running",
			 "started_from", f->memory ? "memory" : "disks", "disks", disks_json(f), "findings", f->findings,
			 "phases", f->phases, "rto_ms", (double)(f->done_ns - f->start_ns) / (double)NS_PER_MS);
}

int failover_run(struct store *s, const struct failover_opts *o, json_t **report, struct err *e)
{
	struct failover f = { .o = o, .store = s, .findings = json_array(), .phases = json_object() };

	f.start_ns = f.phase_ns = clock_mono_ns();
	int rc = run(&f, e);
	if (rc < 0 && f.raised)
		give_up(&f, e);
	else if (rc < 0 && f.handed)
		err_remedy(e,
			   "if %s has given the VM up, this agent goes on with it as soon as it can; 'vmferry failover "
			   "%s' tries at once",
			   f.from, f.vm);
	if (rc == 0 && report)
		*report = report_of(&f);
	if (rc == 0)
		log_info("failover_done", "vm=%s epoch=%llu from=%s rto_ms=%.0f", f.vm, (unsigned long long)f.epoch,
			 f.memory ? "memory" : "disks", (double)(f.done_ns - f.start_ns) / (double)NS_PER_MS);
	store_view_close(f.view);
	failover_disks_fini(&f.disks);
	free(f.xml);
	json_decref(f.record);
	json_decref(f.findings);
	json_decref(f.phases);
	json_decref(f.made);
	json_decref(f.images);
	return rc;
}
