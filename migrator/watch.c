#include "migrator/watch.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/recover.h"

#include <stdlib.h>

#define TICK_NS (100 * NS_PER_MS)
#define NOTE_NS (250 * NS_PER_MS)
#define ASK_INTERVAL_NS NS_PER_S
#define ABORT_AGAIN_NS (500 * NS_PER_MS)
#define ABORT_PATIENCE_NS (5 * NS_PER_S)

struct watch {
	/* fixed */
	struct watch_opts o;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stop; /* lock */

	/* the thread's, then watch_stop's */
	struct watch_result r;
	bool cut;
	int64_t next_note_ns, next_ask_ns, next_abort_ns;
	int64_t end_ns; /* since when there has been an r.end */
	bool downtime_set;
	struct converge converge;
};

static void end_for(struct watch *w, enum watch_end end, const struct err *why)
{
	if (w->r.end != WATCH_END_NONE)
		return;
	w->r.end = end;
	w->r.why = *why;
	w->end_ns = clock_mono_ns();
}

/* Again and again until virDomainMigrate3 returns: an abort that comes too early is refused. */
static void abort_job(struct watch *w)
{
	int64_t now = clock_mono_ns();
	struct err e = ERR_INIT;

	if (now < w->next_abort_ns)
		return;
	w->next_abort_ns = now + ABORT_AGAIN_NS;
	if (virDomainAbortJob(w->o.dom) != 0) {
		virt_err(&e, "abort");
		log_debug("abort_refused", "vm=%s msg=%s", w->o.job->name, LOG_Q(e.text));
	}
}

/* libvirt's client is being kept waiting: ask the target, and let libvirt go on only when the answer is certain. */
static void settle_handover(struct watch *w)
{
	const struct job *j = w->o.job;
	int64_t now = clock_mono_ns();
	struct err e = ERR_INIT;
	enum where there;

	if (now < w->next_ask_ns)
		return;
	w->next_ask_ns = now + ASK_INTERVAL_NS;
	job_note(w->o.m, w->o.job, w->o.ctl,
		 json_pack("{s:s, s:s}", "phase", "undecided", "text",
			   "the connection was lost while the target was starting the VM; it stays paused here until "
			   "the target "
			   "says whether it runs there"));
	/* The session's own end is the quicker answer, while its control link lives; else what the host says once it is reached again. */
	if (outgoing_settle_target(w->o.session, &there, &e) != 0 &&
	    outgoing_ask_where(w->o.m, j->host, j->uuid, &there, &e) != 0) {
		log_warn("handover_waiting", "vm=%s host=%s msg=%s", j->name, j->host, LOG_Q(e.text));
		return;
	}
	if (there == WHERE_INCOMING || there == WHERE_LEFT)
		return;
	if (there == WHERE_RUNNING || there == WHERE_PAUSED) {
		/* Before libvirt goes on: it would resume this copy. */
		VIRT_CONN_AUTO virConnectPtr conn = virt_get(w->o.m->virt, &e);
		if (!conn || recover_forget_vm(conn, j->uuid, &e) != 0) {
			log_error("handover_failed", "vm=%s msg=%s", j->name, LOG_Q(e.text));
			return;
		}
		w->r.moved = true;
	}
	log_info("handover_settled", "vm=%s runs_on=%s", j->name, w->r.moved ? j->host : w->o.m->opts.host_name);
	gate_release(outgoing_gate(w->o.session));
}

static void set_downtime(struct watch *w, int64_t ms)
{
	struct err e = ERR_INIT;

	if (virDomainMigrateSetMaxDowntime(w->o.dom, (unsigned long long)ms, 0) == 0)
		w->downtime_set = true;
	else
		virt_err(&e, "set the downtime limit");
}

static void carry_out(struct watch *w, const struct converge_advice *a)
{
	struct err e = ERR_INIT;

	switch (a->action) {
	case CONVERGE_WAIT:
		break;
	case CONVERGE_SET_DOWNTIME:
		set_downtime(w, a->downtime_ms);
		break;
	case CONVERGE_DO_ABORT:
		err_set(&e, ERR_REFUSED, "%s", a->verdict);
		err_remedy(&e, "allow a longer --max-downtime or more --bandwidth, or let the VM be paused or finish "
			       "after the switch: "
			       "--on-stall pause or --on-stall postcopy");
		end_for(w, WATCH_END_POLICY, &e);
		break;
	case CONVERGE_DO_PAUSE:
		w->r.paused = virDomainSuspend(w->o.dom) == 0;
		if (!w->r.paused)
			end_for(w, WATCH_END_POLICY, (virt_err(&e, "pause the guest"), &e));
		break;
	case CONVERGE_DO_POSTCOPY:
		w->r.postcopy = virDomainMigrateStartPostCopy(w->o.dom, 0) == 0;
		if (!w->r.postcopy)
			end_for(w, WATCH_END_POLICY, (virt_err(&e, "switch to post-copy"), &e));
		break;
	}
}

static const char *phase_of(const struct watch *w, const struct jobstats *s)
{
	if (outgoing_ram_end_ns(w->o.session))
		return "switchover";
	if (w->r.postcopy)
		return "post-copy";
	return w->o.disk_bytes && s->disk_remaining > 0 && s->memory_processed == 0 ? "disks" : "memory";
}

/* Work done of work known so far; later passes over memory raise what is known. */
static double percent_of(const struct jobstats *s)
{
	double done = (double)s->disk_processed + (double)(s->memory_total - s->memory_remaining);
	double all = (double)s->disk_total + (double)s->memory_total;
	return all > 0 ? 100.0 * done / all : 0;
}

static void tell(struct watch *w, const struct jobstats *s, const struct converge_advice *a)
{
	struct relay_stats r;
	int64_t now = clock_mono_ns();

	if (now < w->next_note_ns)
		return;
	w->next_note_ns = now + NOTE_NS;
	outgoing_stats(w->o.session, &r);
	uint64_t stream = 0;
	for (int k = 0; k < RELAY_KIND_COUNT; k++)
		stream += r.stream_bytes[k];
	json_t *n = json_pack("{s:s, s:f, s:I, s:I, s:I, s:I, s:I, s:f, s:I}", "phase", phase_of(w, s), "percent",
			      percent_of(s), "rate", (json_int_t)r.rate, "stream_rate",
			      (json_int_t)(s->memory_bps + s->disk_bps), "dirty_rate",
			      (json_int_t)(s->memory_dirty_rate * s->page_size), "remaining_bytes",
			      (json_int_t)(s->memory_remaining + s->disk_remaining), "wire_bytes",
			      (json_int_t)r.wire_bytes, "ratio",
			      r.wire_bytes ? (double)stream / (double)r.wire_bytes : 1.0, "iteration",
			      (json_int_t)s->iteration);
	if (a->eta_ns > 0)
		json_object_set_new(n, "eta_ms", json_integer(a->eta_ns / NS_PER_MS));
	if (r.level != CODEC_RAW)
		json_object_set_new(n, "level", json_integer(r.level));
	if (a->verdict[0])
		json_object_set_new(n, "text", json_string(a->verdict));
	job_note(w->o.m, w->o.job, w->o.ctl, n);
}

static void look(struct watch *w)
{
	struct err e = ERR_INIT;
	struct converge_advice a = { .eta_ns = -1 };
	struct jobstats s;

	/* There is nothing left to decide, and the guest waits for what libvirt has to say to this QEMU now. */
	if (outgoing_ram_end_ns(w->o.session) && !w->r.postcopy) {
		tell(w, &w->r.last, &a);
		return;
	}
	if (jobstats_get(w->o.dom, 0, &s, &e) != 0 || s.type == VIR_DOMAIN_JOB_NONE)
		return;
	w->r.last = s;
	if (!w->downtime_set)
		set_downtime(w, w->converge.limit_ms);
	converge_step(&w->converge, &s, clock_mono_ns(), &a);
	carry_out(w, &a);
	tell(w, &s, &a);
}

static void tick(struct watch *w)
{
	struct err e = ERR_INIT;

	if (!w->cut && outgoing_broken(w->o.session, &e)) {
		end_for(w, WATCH_END_BROKEN, &e);
		outgoing_cut(w->o.session);
		w->cut = true;
	}
	if (gate_holding(outgoing_gate(w->o.session))) {
		if (!w->cut)
			outgoing_cut(w->o.session);
		w->cut = true;
		if (w->r.end == WATCH_END_NONE) {
			err_set(&e, ERR_PEER, "the connection to libvirtd of %s was lost", w->o.job->host);
			end_for(w, WATCH_END_BROKEN, &e);
		}
		settle_handover(w);
		return;
	}
	bool cancelled = w->o.job->cancel || (w->o.ctl && w->o.ctl->cancelled && w->o.ctl->cancelled(w->o.ctl->ctx));
	if (cancelled && w->r.end == WATCH_END_NONE) {
		err_set(&e, ERR_CANCELLED, "cancelled");
		end_for(w, WATCH_END_CANCELLED, &e);
	}
	/* Once Finish has gone out the VM is starting there; there is nothing left to abort. */
	if (w->r.end != WATCH_END_NONE && gate_finish_state(outgoing_gate(w->o.session)) == GATE_FINISH_NOT_SENT) {
		abort_job(w);
		/* QEMU itself waits for its channels to take what they were given, which one that does not read never does. */
		if (!w->cut && !w->r.postcopy && clock_mono_ns() - w->end_ns > ABORT_PATIENCE_NS) {
			log_warn("abort_cuts", "vm=%s host=%s", w->o.job->name, w->o.job->host);
			outgoing_cut(w->o.session);
			w->cut = true;
		}
	} else if (w->r.end == WATCH_END_NONE)
		look(w);
}

static void *watch_thread(void *arg)
{
	struct watch *w = arg;

	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		pthread_mutex_unlock(&w->lock);
		tick(w);
		int64_t until = clock_mono_ns() + TICK_NS;
		pthread_mutex_lock(&w->lock);
		while (!w->stop && thread_cond_wait_until(&w->changed, &w->lock, until) == 0)
			;
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

struct watch *watch_start(const struct watch_opts *opts, struct err *e)
{
	struct watch *w = mem_alloc(sizeof *w);

	w->o = *opts;
	converge_init(&w->converge, &opts->converge, clock_mono_ns());
	pthread_mutex_init(&w->lock, NULL);
	thread_cond_init(&w->changed);
	if (thread_start(&w->thread, "watch", watch_thread, w, e) != 0) {
		free(w);
		return NULL;
	}
	return w;
}

void watch_stop(struct watch *w, struct watch_result *out)
{
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	*out = w->r;
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->changed);
	free(w);
}
