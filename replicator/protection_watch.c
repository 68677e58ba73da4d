/*
 * What a protection tells the guardian, and hears from it; and the look at a capture that gets nowhere.
 *
 * Two things can go wrong with a capture without its own noticing. The VM stands still for too long: the guardian's business, which lets it run and
 * says so. The VM runs, and nothing comes: nobody suffers but the RPO, so that is found here, by whoever calls protection_look now and then.
 */
#include "replicator/protection_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"

#include <stdio.h>

#define LEAST_PAUSE_NS (100 * NS_PER_MS) /* no pause is so long that it would be less than this */
#define FIRST_PAUSE_NS (500 * NS_PER_MS) /* before there were any */
#define MOST_PAUSE_NS (8 * NS_PER_S)
#define SEEN_NS (500 * NS_PER_MS) /* by then libvirt has heard from QEMU that a VM runs again */
#define TOLD_NS (2 * NS_PER_S)
#define HANG_NS (90 * NS_PER_S) /* more than capture's own patience in any one place */

/* ---- the guardian ---- */

/* A pause that nobody need worry about. lock is held. */
static int64_t pause_locked(const struct protection *p, int64_t expect_ns)
{
	const int64_t recent = p->pace.n_pauses ? 2 * pace_pause_ns(&p->pace, 0.99) : FIRST_PAUSE_NS;
	int64_t most = LEAST_PAUSE_NS;

	if (expect_ns == CAPTURE_HELD_NS)
		return expect_ns;
	if (recent > most)
		most = recent;
	if (expect_ns > most)
		most = expect_ns;
	if (p->patience_ns > most)
		most = p->patience_ns;
	return most < MOST_PAUSE_NS ? most : MOST_PAUSE_NS;
}

void protection_watch_arm(void *ctx, bool on, int64_t expect_ns)
{
	struct protection *p = ctx;
	int64_t deadline_ns = 0;

	{
		THREAD_LOCKED(&p->lock);
		const int64_t now = clock_mono_ns();
		if (on) {
			if (expect_ns != CAPTURE_HELD_NS)
				p->late = false;
			else
				p->let_go_ns = 0;
			p->expected_ns = pause_locked(p, expect_ns);
			deadline_ns = now + p->expected_ns + GUARDIAN_GRACE_NS;
		} else if (p->armed_ns && now >= p->armed_ns) {
			p->late = true;
		}
		if (!on && p->armed_ns && p->expected_ns != CAPTURE_HELD_NS)
			p->let_go_ns = now;
		p->armed_ns = deadline_ns;
	}
	if (p->opts.arm && p->watched)
		p->opts.arm(p->opts.ctx, p->uuid, deadline_ns);
}

bool protection_pauses(struct protection *p, int64_t since_ns)
{
	THREAD_LOCKED(&p->lock);
	return p->armed_ns ? p->expected_ns != CAPTURE_HELD_NS : p->let_go_ns && p->let_go_ns + SEEN_NS >= since_ns;
}

int protection_watch_hold(void *ctx, int fd, bool read_on, struct err *e)
{
	const struct protection *p = ctx;

	return p->opts.hold && p->watched ? p->opts.hold(p->opts.ctx, p->uuid, fd, read_on, e) : 0;
}

int protection_watch_begin(struct protection *p, bool pauses, struct err *e)
{
	{
		THREAD_LOCKED(&p->lock);
		p->late = p->rescued = p->hung = false;
		p->armed_ns = 0;
	}
	if (!pauses || !p->opts.watch)
		return 0;
	if (p->opts.watch(p->opts.ctx, p->uuid, e) < 0)
		return -1;
	p->watched = true;
	return 0;
}

void protection_watch_end(struct protection *p)
{
	if (!p->watched)
		return;
	{
		/* It was late: the guardian has done its work, or is at it, and is going to say so. */
		THREAD_LOCKED(&p->lock);
		const int64_t until = clock_mono_ns() + TOLD_NS;
		while (p->late && !p->rescued && !p->stopping)
			if (thread_cond_wait_until(&p->changed, &p->lock, until) < 0)
				break;
	}
	if (p->opts.unwatch)
		p->opts.unwatch(p->opts.ctx, p->uuid);
	p->watched = false;
}

void protection_rescued(struct protection *p, enum guardian_end how)
{
	char text[300];

	{
		THREAD_LOCKED(&p->lock);
		if (p->rescued)
			return;
		p->rescued = true;
		p->rescues++;
		/* Perhaps this VM's pauses are as long: the next ones are given more time. */
		p->patience_ns = p->expected_ns < MOST_PAUSE_NS / 2 ? 2 * p->expected_ns : MOST_PAUSE_NS;
		p->rescued_points = p->points;
		snprintf(text, sizeof(text), "the guardian let the VM run: this agent was stopped, hung or late%s",
			 how == GUARDIAN_END_FREED    ? ""
			 : how == GUARDIAN_END_UNTIDY ? "; QEMU's settings are put back at the next try"
						      : "; it could not make sure that it does: look at the VM");
		snprintf(p->rescue_text, sizeof(p->rescue_text), "%s", text);
		if (p->capture)
			p->opts.capture->abort(p->capture);
		pthread_cond_broadcast(&p->changed);
	}
	log_warn("protection_rescued", "vm=%s uuid=%s how=%d", LOG_Q(p->vm), p->uuid, (int)how);
	protection_event(p, "protection.rescued", text);
}

bool protection_watch_said(struct protection *p, char *out, size_t size)
{
	THREAD_LOCKED(&p->lock);
	if (!p->rescued && !p->hung)
		return false;
	snprintf(out, size, "%s", p->rescued ? p->rescue_text : "the capture got nowhere for 90 s and was ended");
	p->rescued = p->hung = false;
	return true;
}

/* ---- a capture that gets nowhere ---- */

/* A sink that blocks waits for the network, which has its own limits: that is not the capture's fault. */
static void leave(struct protection *p)
{
	__atomic_store_n(&p->progress_ns, INT64_MAX, __ATOMIC_SEQ_CST);
}

static void come_back(struct protection *p)
{
	__atomic_store_n(&p->progress_ns, clock_mono_ns(), __ATOMIC_SEQ_CST);
}

static int on_volumes(void *ctx, const struct capture_volume *v, size_t n, struct err *e)
{
	struct protection *p = ctx;

	leave(p);
	const int rc = p->sink->volumes(p->sink->ctx, v, n, e);
	come_back(p);
	return rc;
}

static int on_page(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	struct protection *p = ctx;

	leave(p);
	const int rc = p->sink->page(p->sink->ctx, volume, block, data, e);
	come_back(p);
	return rc;
}

static int on_zero(void *ctx, uint32_t volume, uint64_t block, uint64_t n_blocks, struct err *e)
{
	struct protection *p = ctx;

	leave(p);
	const int rc = p->sink->zero(p->sink->ctx, volume, block, n_blocks, e);
	come_back(p);
	return rc;
}

static int on_file(void *ctx, const char *name, const void *data, size_t len, struct err *e)
{
	struct protection *p = ctx;

	leave(p);
	const int rc = p->sink->file(p->sink->ctx, name, data, len, e);
	come_back(p);
	return rc;
}

int protection_watch_capture(struct protection *p, struct capture *c, take_call call, const struct capture_sink *sink,
			     struct capture_point *out, struct err *e)
{
	const struct capture_sink watched = { on_volumes, on_page, on_zero, on_file, p };

	p->sink = sink;
	come_back(p);
	const int rc = call ? call(c, &watched, out, e) : p->opts.capture->start(c, &watched, e);
	leave(p);
	p->sink = NULL;
	return rc;
}

void protection_look(struct protection *p, int64_t now_ns)
{
	const int64_t since = __atomic_load_n(&p->progress_ns, __ATOMIC_SEQ_CST);
	char reason[200];

	{
		THREAD_LOCKED(&p->lock);
		if (!p->capture || p->hung || since > now_ns || now_ns - since < HANG_NS)
			return;
		p->hung = true;
		p->opts.capture->abort(p->capture);
	}
	snprintf(reason, sizeof(reason), "the capture gets nowhere since %d s, and is being ended",
		 (int)((now_ns - since) / NS_PER_S));
	log_warn("protection_hangs", "vm=%s uuid=%s", LOG_Q(p->vm), p->uuid);
	protection_set_state(p, "degraded", reason);
}
