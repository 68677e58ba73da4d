#include "snapshot/capture_internal.h"

#include "base/clock.h"
#include "base/fd.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FD_NAME "vmferry-stream"
#define SOCKET_BYTES (4 << 20)
#define END_NS (10 * NS_PER_S)
#define STUCK_NS (3 * NS_PER_S) /* far longer than a migration takes to set up, or to be cancelled */

static bool over(const char *status)
{
	return !strcmp(status, "none") || !strcmp(status, "completed") || !strcmp(status, "failed") ||
	       !strcmp(status, "cancelled");
}

/* All capabilities that are on, other than events, change the stream or belong to somebody: they are turned off for as
 * long as it is ours. */
static int set_capabilities(struct capture *c, const char *capability, struct err *e)
{
	json_t *all = NULL, *one;
	size_t at;
	if (guest_watch_qmp(c->g, "query-migrate-capabilities", NULL, &all, e))
		return -1;
	json_t *want = json_array();
	bool known = false;
	json_array_foreach (all, at, one) {
		const char *name = json_string_value(json_object_get(one, "capability"));
		bool on = json_is_true(json_object_get(one, "state"));
		if (!name || !strcmp(name, "events"))
			continue;
		bool wanted = !strcmp(name, capability);
		known |= wanted;
		if (on != wanted)
			json_array_append_new(want, json_pack("{s:s,s:b}", "capability", name, "state", wanted));
		if (on || wanted) {
			if (!c->old_caps)
				c->old_caps = json_array();
			/* COLO must never be left on. */
			json_array_append_new(c->old_caps, json_pack("{s:s,s:b}", "capability", name, "state",
								     on && strcmp(name, "x-colo") != 0));
		}
	}
	json_decref(all);
	json_array_append_new(want, json_pack("{s:s,s:b}", "capability", "events", "state", 1));
	if (!known) {
		json_decref(want);
		return err_set(e, ERR_REFUSED, "this QEMU does not know the capability %s", capability);
	}
	return guest_watch_qmp(c->g, "migrate-set-capabilities", json_pack("{s:o}", "capabilities", want), NULL, e);
}

static int set_parameters(struct capture *c, json_t *params, struct err *e)
{
	json_t *now = NULL, *value;
	const char *key;
	if (guest_watch_qmp(c->g, "query-migrate-parameters", NULL, &now, e)) {
		json_decref(params);
		return -1;
	}
	json_decref(c->old_params);
	c->old_params = json_object();
	json_object_foreach (params, key, value) {
		json_t *old = json_object_get(now, key);
		if (old)
			json_object_set(c->old_params, key, old);
	}
	json_decref(now);
	return guest_watch_qmp(c->g, "migrate-set-parameters", params, NULL, e);
}

int capture_migration_set_up(struct capture *c, const char *capability, json_t *params, struct err *e)
{
	char status[32];
	if (guest_watch_migration(c->g, status, sizeof(status), e)) {
		json_decref(params);
		return -1;
	}
	if (!over(status)) {
		json_decref(params);
		return err_set(e, ERR_REFUSED, "the VM is being migrated or saved (%s)", status);
	}
	json_decref(c->old_caps);
	c->old_caps = NULL;
	if (set_capabilities(c, capability, e)) {
		json_decref(params);
		return -1;
	}
	return set_parameters(c, params, e);
}

int capture_migration_open(struct capture *c, struct err *e)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return err_sys(e, "a socket for QEMU's stream");
	FD_AUTO int theirs = pair[1];
	const int bytes = SOCKET_BYTES;
	/* As much as net.core.wmem_max allows: more would take CAP_NET_ADMIN and no pause shorter (5000 pages: 13 ms with 416 KiB and with 8 MiB), since a
	 * checkpoint lasts until all of it is read. */
	(void)setsockopt(theirs, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	pthread_mutex_lock(&c->lock);
	c->sock = pair[0];
	pthread_mutex_unlock(&c->lock);
	ram_reader_free(c->reader);
	c->reader = ram_reader_new(c->sock);
	if (capture_check(c, e) || (c->hold && c->hold(c->arm_ctx, c->sock, c->mode == CAPTURE_BACKGROUND, e)))
		return -1;
	return c->g->ops->qmp(c->g->ctx, "getfd", json_pack("{s:s}", "fdname", FD_NAME), theirs, NULL, e);
}

int capture_migration_begin(struct capture *c, struct err *e)
{
	guest_watch_forget(c->watch);
	c->migrating = true;
	if (guest_watch_qmp(c->g, "migrate", json_pack("{s:s}", "uri", "fd:" FD_NAME), NULL, e)) {
		guest_watch_try(c->g, "closefd", json_pack("{s:s}", "fdname", FD_NAME));
		return -1;
	}
	return 0;
}

int capture_migration_wait(struct capture *c, int64_t deadline_ns, char *out, size_t size, struct err *e)
{
	struct guest_seen seen;
	for (;;) {
		guest_watch_look(c->watch, &seen);
		if (guest_watch_migration(c->g, out, size, e))
			return -1;
		if (over(out))
			return 0;
		if (clock_mono_ns() >= deadline_ns)
			return err_set(e, ERR_LIBVIRT, "QEMU's migration does not end: it is %s", out);
		int64_t look_again = clock_mono_ns() + 20 * NS_PER_MS;
		guest_watch_wait(c->watch, seen.events, look_again < deadline_ns ? look_again : deadline_ns, &seen);
		if (seen.aborted) /* it no longer waits: do not spin */
			(void)usleep(5000);
	}
}

bool capture_migration_stuck(struct guest *g)
{
	const struct timespec nap = { .tv_nsec = 50 * NS_PER_MS };
	const int64_t deadline = clock_mono_ns() + STUCK_NS;
	struct err ignored = ERR_INIT;
	char status[32];
	while (guest_watch_migration(g, status, sizeof(status), &ignored) == 0 &&
	       (strcmp(status, "setup") == 0 || strcmp(status, "cancelling") == 0)) {
		if (clock_mono_ns() >= deadline)
			return true;
		(void)nanosleep(&nap, NULL);
	}
	return false;
}

/* The stream is closed. A heartbeat that is lost is the only thing that frees a VM which stands still in the middle of
 * a checkpoint, and what ends COLO while it runs; a migration that is not in COLO fails by itself. */
static void leave_migration(struct capture *c)
{
	const struct timespec nap = { .tv_nsec = 5 * NS_PER_MS };
	int64_t deadline = clock_mono_ns() + END_NS;
	char status[32] = "none";
	enum guest_run run;
	bool told = false;
	do {
		struct err ignored = ERR_INIT;
		if (guest_watch_migration(c->g, status, sizeof(status), &ignored) == 0) {
			/* After COLO "setup" is what somebody else's attempt has left: ours is no more, and nothing follows. */
			if (over(status) || (c->in_colo && !strcmp(status, "setup")))
				return;
			if (!told && !strcmp(status, "colo")) {
				guest_watch_try(c->g, "x-colo-lost-heartbeat", NULL);
				told = true;
				continue;
			}
		} else if (c->g->ops->state(c->g->ctx, &run, &ignored) == 0 && run == GUEST_GONE) {
			return;
		}
		(void)nanosleep(&nap, NULL);
	} while (clock_mono_ns() < deadline);
}

void capture_migration_end(struct capture *c)
{
	if (c->sock >= 0 && !c->migrating)
		guest_watch_try(c->g, "closefd", json_pack("{s:s}", "fdname", FD_NAME));
	if (c->sock >= 0 && c->migrating && c->mode == CAPTURE_BACKGROUND)
		capture_background_read_on(c);
	pthread_mutex_lock(&c->lock);
	if (c->sock >= 0) {
		/* Not closed alone: the guardian has a duplicate. */
		(void)shutdown(c->sock, SHUT_RDWR);
		fd_close(&c->sock);
	}
	pthread_mutex_unlock(&c->lock);
	if (c->migrating)
		leave_migration(c);
	c->migrating = c->in_colo = false;
	if (c->old_caps)
		guest_watch_try(c->g, "migrate-set-capabilities", json_pack("{s:o}", "capabilities", c->old_caps));
	if (c->old_params)
		guest_watch_try(c->g, "migrate-set-parameters", c->old_params);
	c->old_caps = c->old_params = NULL;
	c->requested = false;
}

int capture_migration_why(struct capture *c, struct err *e)
{
	struct err ignored = ERR_INIT, was = *e;
	json_t *r = NULL;
	/* QEMU may be writing to it under its big lock, and would answer no question then. */
	if (c->mode == CAPTURE_BACKGROUND)
		capture_background_read_on(c);
	else
		(void)shutdown(c->sock, SHUT_RDWR);
	if (guest_watch_check(c->watch, &ignored)) {
		*e = ignored;
		return -1;
	}
	if (guest_watch_qmp(c->g, "query-migrate", NULL, &r, &ignored))
		return -1;
	const char *why = json_string_value(json_object_get(r, "error-desc"));
	const char *status = json_string_value(json_object_get(r, "status"));
	if (why || (was.cls == ERR_PEER && status))
		err_set(e, was.cls, "%s (migration %s%s%s)", was.text, status ? status : "unknown", why ? ": " : "",
			why ? why : "");
	json_decref(r);
	return -1;
}
