/* What a process that died has left in a VM. */
#include "snapshot/capture_internal.h"

#include "base/clock.h"

#include <string.h>
#include <time.h>

#define SETTLE_NS (4 * NS_PER_S)

static bool ours_is_on(struct guest *g)
{
	struct err ignored = ERR_INIT;
	json_t *all = NULL, *one;
	size_t at;
	bool on = false;
	if (guest_watch_qmp(g, "query-migrate-capabilities", NULL, &all, &ignored))
		return false;
	json_array_foreach (all, at, one) {
		const char *name = json_string_value(json_object_get(one, "capability"));
		if (name && (!strcmp(name, "x-colo") || !strcmp(name, "background-snapshot")))
			on |= json_is_true(json_object_get(one, "state"));
	}
	json_decref(all);
	return on;
}

/* Neither libvirt nor anybody else sets these capabilities, and with them a migration would not be one. QEMU lets go of
 * them once the migration, whose stream broke when its reader died, has failed. The parameters' values of before are not
 * known any more: QEMU's defaults. */
static int turn_off(struct guest *g, struct err *e)
{
	const struct timespec nap = { .tv_nsec = 10 * NS_PER_MS };
	int64_t deadline = clock_mono_ns() + SETTLE_NS;
	if (!ours_is_on(g))
		return 0;
	for (;;) {
		struct err again = ERR_INIT;
		json_t *off = json_pack("{s:[{s:s,s:b},{s:s,s:b}]}", "capabilities", "capability", "x-colo", "state", 0,
					"capability", "background-snapshot", "state", 0);
		if (guest_watch_qmp(g, "migrate-set-capabilities", off, NULL, &again) == 0)
			break;
		if (clock_mono_ns() >= deadline) {
			if (capture_migration_stuck(g)) /* nothing can be set any more, and nothing will migrate */
				return 0;
			*e = again;
			return -1;
		}
		(void)nanosleep(&nap, NULL);
	}
	guest_watch_try(g, "migrate-set-parameters",
			json_pack("{s:i,s:i,s:i}", "x-checkpoint-delay", 20000, "downtime-limit", 300, "max-bandwidth",
				  128 << 20));
	return 0;
}

int capture_clean_up(struct guest *g, struct err *e)
{
	char status[32];
	enum guest_run run;
	if (guest_watch_migration(g, status, sizeof(status), e))
		return -1;
	if (strcmp(status, "colo") == 0) {
		const struct timespec nap = { .tv_nsec = 10 * NS_PER_MS };
		int64_t deadline = clock_mono_ns() + SETTLE_NS;
		guest_watch_try(g, "x-colo-lost-heartbeat", NULL);
		while (guest_watch_migration(g, status, sizeof(status), e) == 0 && strcmp(status, "colo") == 0) {
			if (clock_mono_ns() >= deadline)
				return err_set(e, ERR_LIBVIRT, "QEMU does not end COLO");
			(void)nanosleep(&nap, NULL);
		}
		if (g->ops->state(g->ctx, &run, e))
			return -1;
	}
	return turn_off(g, e) || disk_points_clean_up(g, e) ? -1 : 0;
}
