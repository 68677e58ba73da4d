/*
 * A protected VM from its record to the points at the peer, over TLS: the source's side, for the tests of protections. replica_hosts.h has the machine and
 * the peer.
 */
#ifndef VMFERRY_TESTS_PROTECTION_SOURCE_H
#define VMFERRY_TESTS_PROTECTION_SOURCE_H

#include "replica_hosts.h"
#include "tests/unit/event_log.h"

#include "base/file.h"
#include "replicator/epoch.h"
#include "replicator/may_start.h"
#include "replicator/protect.h"

#include <assert.h>

static struct protection *prot;

UNUSED static void on_event(void *ctx, const char *type, const char *uuid, json_t *data)
{
	(void)ctx;
	assert(strcmp(uuid, GUEST_UUID) == 0); /* Check's own is for one thread */
	event_log_add(type);
	json_decref(data);
}

/* ---- the guardian, as far as a protection sees it ---- */

static bool no_guardian;
static unsigned watches, unwatches;

UNUSED static int on_watch(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx;
	ck_assert_str_eq(uuid, GUEST_UUID);
	if (no_guardian)
		return err_set(e, ERR_REFUSED, "no guardian");
	ck_assert_uint_eq(watches, unwatches);
	__atomic_add_fetch(&watches, 1, __ATOMIC_SEQ_CST);
	return 0;
}

UNUSED static void on_unwatch(void *ctx, const char *uuid)
{
	(void)ctx;
	ck_assert_str_eq(uuid, GUEST_UUID);
	/* Once more where the VM was handed over: it stands still then, and nobody here lets it go. */
	ck_assert(!fake.in_vm || fake.paused);
	if (__atomic_load_n(&unwatches, __ATOMIC_SEQ_CST) < __atomic_load_n(&watches, __ATOMIC_SEQ_CST))
		__atomic_add_fetch(&unwatches, 1, __ATOMIC_SEQ_CST);
}

/* What this host keeps itself, where a test has it keep something. */
static struct replicas *own;

/* What the guardian did while it was asked: nothing; let the VM run, and said so, or did not. */
enum parting { PART_GOOD, PART_RESCUED, PART_REFUSED, PART_RUNS };
static enum parting parting;

UNUSED static int on_part(void *ctx, const char *uuid, struct err *e)
{
	on_unwatch(ctx, uuid);
	if (parting != PART_GOOD)
		fake.paused = false;
	if (parting == PART_RESCUED)
		protection_rescued(prot, GUARDIAN_END_FREED);
	return parting == PART_REFUSED ? err_set(e, ERR_CANCELLED, "the guardian has let it run") : 0;
}

static _Atomic int64_t armed_ns;

UNUSED static void on_arm(void *ctx, const char *uuid, int64_t deadline_ns)
{
	(void)ctx, (void)uuid;
	armed_ns = deadline_ns;
}

/* ---- a host that starts VMs when it boots ---- */

static atomic_bool host_autostart, host_settled; /* was the boot durable before the VM was started? */
static atomic_bool host_hook_refused;            /* the agent's own start, since the record did not allow it yet */
static atomic_bool host_unknown;                 /* libvirt has no such VM */
static atomic_bool host_answers_late, host_asked_late;
static struct protections *_Atomic table;
static atomic_int host_refuses; /* to have it start with the host: errno; 0 */
static atomic_uint host_boots, host_starts, host_asked, host_failing;

UNUSED static int on_autostart(void *ctx, const char *uuid, const bool *want, bool *was, struct err *e)
{
	(void)ctx, (void)e;
	host_asked_late = host_answers_late && !want;
	/* An answer that comes when it is being unprotected already. */
	for (int64_t until = soon();
	     host_answers_late && !want && (!table || protections_have(table, uuid, NULL)) && clock_mono_ns() < until;)
		usleep(2000);
	if (host_unknown) {
		err_set(e, ERR_REFUSED, "look up the VM: no domain");
		e->errnum = ENOENT;
		return -1;
	}
	if (host_refuses && want && *want) {
		err_set(e, host_refuses == ENOENT ? ERR_REFUSED : ERR_LIBVIRT, "libvirt has no VM, or no time");
		e->errnum = host_refuses;
		return -1;
	}
	const bool before = want ? atomic_exchange(&host_autostart, *want) : host_autostart;
	if (was)
		*was = before;
	return 0;
}

UNUSED static int on_id(void *ctx, char out[BOOT_ID_SIZE], struct err *e)
{
	(void)ctx, (void)e;
	snprintf(out, BOOT_ID_SIZE, "boot-%u", host_boots);
	return 0;
}

/* What libvirt's hook would be told by this boot. */
UNUSED static bool may_start_now(void)
{
	struct err e = ERR_INIT;
	char id[BOOT_ID_SIZE];

	(void)on_id(NULL, id, &e);
	return may_start(fixture_path("source", NULL), "/nonexistent", GUEST_UUID, id, &e) == 0;
}

UNUSED static bool settled_on_disk(void)
{
	struct err e = ERR_INIT;
	char id[BOOT_ID_SIZE];
	json_t *all = epoch_load_protections(fixture_path("source", NULL), &e);
	const char *saved = json_string_value(json_object_get(json_array_get(all, 0), "boot_id"));

	(void)on_id(NULL, id, &e);
	const bool yes = saved && strcmp(saved, id) == 0;
	json_decref(all);
	return yes;
}

UNUSED static int on_start(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx, (void)uuid;
	host_asked++;
	host_hook_refused = host_hook_refused || !may_start_now();
	host_settled = host_settled || settled_on_disk();
	if (host_failing) {
		host_failing--;
		return err_set(e, ERR_LIBVIRT, "libvirt has gone");
	}
	THREAD_LOCKED(&fake.lock);
	if (fake.gone)
		host_starts++;
	fake.gone = false;
	return 0;
}

static const struct boot_calls boot = { on_autostart, on_id, on_start };

static int64_t colo_again_ns, say_again_ns;

UNUSED static struct protection_opts opts(void)
{
	static char state_dir[200];

	snprintf(state_dir, sizeof(state_dir), "%s", fixture_path("source", NULL));
	return (struct protection_opts){
		.host_name = "host1",
		.state_dir = state_dir,
		.ways = { .connect_peer = connect_peer, .connect_data = connect_data, .ctx = &source },
		.pool = target.pool,
		.delta_cache = 16 << 20,
		.channels = 2,
		.capture = &fake_calls,
		.retry_ns = 50 * NS_PER_MS,
		.watch_owner_ns = 100 * NS_PER_MS,
		.colo_again_ns = colo_again_ns,
		.say_again_ns = say_again_ns,
		.open_guest = fake_open,
		.watch = on_watch,
		.unwatch = on_unwatch,
		.part = on_part,
		.arm = on_arm,
		.replicas = own,
		.boot = &boot,
		.event = on_event
	};
}

UNUSED static json_t *record_of(int rpo_ms, const char *mode)
{
	return json_pack("{s:s, s:s, s:s, s:i, s:s, s:i, s:s, s:s, s:{s:i}}", "uuid", GUEST_UUID, "vm", "web1", "host",
			 "host2", "rpo_ms", rpo_ms, "mode", mode, "epoch", 1, "role", "source", "state", "active",
			 "keep", "last", 5);
}

UNUSED static void protect_as(json_t *record)
{
	const struct protection_opts o = opts();
	struct err e = ERR_INIT;

	OK(epoch_save_protection(o.state_dir, record, &e), e);
	prot = protection_start(&o, record, &e);
	ck_assert_msg(prot != NULL, "%s", e.text);
	json_decref(record);
}

UNUSED static void restart_source(void)
{
	const struct protection_opts o = opts();
	struct err e = ERR_INIT;

	protection_stop(prot);
	json_t *all = epoch_load_protections(o.state_dir, &e);
	ck_assert_uint_eq(json_array_size(all), 1);
	prot = protection_start(&o, json_array_get(all, 0), &e);
	json_decref(all);
	ck_assert_msg(prot != NULL, "%s", e.text);
}

static char shown[2000];

UNUSED static bool is_state(const char *state, const char *reason)
{
	json_t *s = protection_status(prot);
	char *text = json_dumps(s, JSON_COMPACT);
	const bool is = strcmp(json_string_value(json_object_get(s, "state")), state) == 0 &&
			(!reason || strstr(json_string_value(json_object_get(s, "reason")), reason));

	snprintf(shown, sizeof(shown), "%s", text);
	free(text);
	json_decref(s);
	return is;
}

/* What was true once may not be so a moment later: it is looked at once in each round, and never again. */
#define EVENTUALLY(cond)                                                                              \
	do {                                                                                          \
		const int64_t until = soon();                                                         \
		bool came;                                                                            \
		while (!(came = (cond)) && clock_mono_ns() < until)                                   \
			usleep(2000);                                                                 \
		ck_assert_msg(came, "%s never came; status: %s", #cond, (is_state("", NULL), shown)); \
	} while (0)

UNUSED static unsigned taken(void)
{
	THREAD_LOCKED(&fake.lock);
	return fake.taken;
}

UNUSED static json_int_t number(const char *key)
{
	json_t *s = protection_status(prot);
	const json_int_t n = json_integer_value(json_object_get(s, key));

	json_decref(s);
	return n;
}

UNUSED static bool is_owned(const char *state)
{
	json_t *r = protection_record(prot);
	const bool is = strcmp(json_string_value(json_object_get(r, "state")), state) == 0;

	json_decref(r);
	return is;
}

/* Two more points, so that all that is written now is in the last. */
UNUSED static void settle(void)
{
	const json_int_t n = number("points");

	EVENTUALLY(number("points") >= n + 2);
}

UNUSED static void check_replica(void)
{
	struct err e = ERR_INIT;
	struct store *s = replicas_get(target.replicas, "web1", NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	struct store_view *v = store_view_open(s, 0, &e);
	ck_assert_msg(v != NULL, "%s", e.text);
	{
		THREAD_LOCKED(&fake.lock);
		machine_check(fake.m, v);
	}
	store_view_close(v);
	replicas_put(target.replicas, s);
}

/* Of a protection of disks alone. */
UNUSED static void check_disk(void)
{
	struct err e = ERR_INIT;
	struct store *s = replicas_get(target.replicas, "web1", NULL, &e);
	uint8_t *have = mem_alloc_array(256, STORE_BLOCK);
	struct store_volume v[2];

	ck_assert_msg(s != NULL, "%s", e.text);
	struct store_view *view = store_view_open(s, 0, &e);
	ck_assert_msg(view != NULL, "%s", e.text);
	ck_assert_uint_eq(store_view_volumes(view, v, 2), 2);
	OK(store_view_read(view, v[0].kind == STORE_DISK ? 0 : 1, 0, 256, have, NULL, &e), e);
	{
		THREAD_LOCKED(&fake.lock);
		for (size_t b = 0; b < 256; b++)
			ck_assert_msg(memcmp(have + b * STORE_BLOCK, fake.m->disk + b * STORE_BLOCK, STORE_BLOCK) == 0,
				      "block %zu differs", b);
	}
	free(have);
	store_view_close(view);
	replicas_put(target.replicas, s);
}

UNUSED static void write_some(uint64_t version)
{
	THREAD_LOCKED(&fake.lock);
	for (uint64_t i = 0; i < 40; i++)
		machine_write(fake.m, i % 2, (version * 31 + i * 7) % 256, version);
}

UNUSED static void setup(void)
{
	hosts_start();
	prot = NULL;
	event_log_clear();
	no_guardian = false;
	watches = unwatches = 0;
	parting = PART_GOOD;
	host_hook_refused = false;
	host_refuses = 0;
	colo_again_ns = say_again_ns = 0;
	host_autostart = host_unknown = host_settled = host_answers_late = host_asked_late = false;
	host_boots = host_starts = host_asked = host_failing = 0;
}

UNUSED static void teardown(void)
{
	protection_stop(prot);
	protections_free(table);
	table = NULL;
	replicas_free(own);
	own = NULL;
	hosts_end();
}

#endif
