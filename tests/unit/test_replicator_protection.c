/* A protected VM from its record to the points at the peer, over TLS, with all that may come in between. */
#include "replica_hosts.h"
#include "tests/unit/event_log.h"

#include "base/file.h"

#include <assert.h>

#include "replicator/epoch.h"
#include "replicator/pace.h"
#include "replicator/protect.h"

static struct protection *prot;

static void on_event(void *ctx, const char *type, const char *uuid, json_t *data)
{
	(void)ctx;
	assert(strcmp(uuid, GUEST_UUID) == 0); /* Check's own is for one thread */
	event_log_add(type);
	json_decref(data);
}

/* ---- the guardian, as far as a protection sees it ---- */

static bool no_guardian;
static unsigned watches, unwatches;

static int on_watch(void *ctx, const char *uuid, bool suspends, struct err *e)
{
	(void)ctx;
	(void)suspends;
	ck_assert_str_eq(uuid, GUEST_UUID);
	if (no_guardian)
		return err_set(e, ERR_REFUSED, "no guardian");
	ck_assert_uint_eq(watches, unwatches);
	__atomic_add_fetch(&watches, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static void on_unwatch(void *ctx, const char *uuid)
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

static int on_part(void *ctx, const char *uuid, struct err *e)
{
	on_unwatch(ctx, uuid);
	if (parting != PART_GOOD)
		fake.paused = false;
	if (parting == PART_RESCUED)
		protection_rescued(prot, GUARDIAN_END_FREED);
	return parting == PART_REFUSED ? err_set(e, ERR_CANCELLED, "the guardian has let it run") : 0;
}

static _Atomic int64_t armed_ns;

static void on_arm(void *ctx, const char *uuid, int64_t deadline_ns)
{
	(void)ctx, (void)uuid;
	armed_ns = deadline_ns;
}

/* ---- a host that starts VMs when it boots ---- */

static atomic_bool host_autostart, host_settled; /* was the boot durable before the VM was started? */
static atomic_bool host_answers_late, host_asked_late;
static struct protections *_Atomic table;
static atomic_uint host_boots, host_starts, host_asked, host_failing;

static int on_autostart(void *ctx, const char *uuid, const bool *want, bool *was, struct err *e)
{
	(void)ctx, (void)e;
	host_asked_late = host_answers_late && !want;
	/* An answer that comes when it is being unprotected already. */
	for (int64_t until = soon();
	     host_answers_late && !want && (!table || protections_have(table, uuid, NULL)) && clock_mono_ns() < until;)
		usleep(2000);
	const bool before = want ? atomic_exchange(&host_autostart, *want) : host_autostart;
	if (was)
		*was = before;
	return 0;
}

static int on_id(void *ctx, char out[BOOT_ID_SIZE], struct err *e)
{
	(void)ctx, (void)e;
	snprintf(out, BOOT_ID_SIZE, "boot-%u", host_boots);
	return 0;
}

static bool settled_on_disk(void)
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

static int on_start(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx, (void)uuid;
	host_asked++;
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

static struct protection_opts opts(void)
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

static json_t *record_of(int rpo_ms, const char *mode)
{
	return json_pack("{s:s, s:s, s:s, s:i, s:s, s:i, s:s, s:s, s:{s:i}}", "uuid", GUEST_UUID, "vm", "web1", "host",
			 "host2", "rpo_ms", rpo_ms, "mode", mode, "epoch", 1, "role", "source", "state", "active",
			 "keep", "last", 5);
}

static void protect_as(json_t *record)
{
	const struct protection_opts o = opts();
	struct err e = ERR_INIT;

	OK(epoch_save_protection(o.state_dir, record, &e), e);
	prot = protection_start(&o, record, &e);
	ck_assert_msg(prot != NULL, "%s", e.text);
	json_decref(record);
}

static void restart_source(void)
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

static bool is_state(const char *state, const char *reason)
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

#define EVENTUALLY(cond)                                                                              \
	do {                                                                                          \
		const int64_t until = soon();                                                         \
		while (!(cond) && clock_mono_ns() < until)                                            \
			usleep(2000);                                                                 \
		ck_assert_msg(cond, "%s never came; status: %s", #cond, (is_state("", NULL), shown)); \
	} while (0)

static unsigned taken(void)
{
	THREAD_LOCKED(&fake.lock);
	return fake.taken;
}

static json_int_t number(const char *key)
{
	json_t *s = protection_status(prot);
	const json_int_t n = json_integer_value(json_object_get(s, key));

	json_decref(s);
	return n;
}

static bool is_owned(const char *state)
{
	json_t *r = protection_record(prot);
	const bool is = strcmp(json_string_value(json_object_get(r, "state")), state) == 0;

	json_decref(r);
	return is;
}

/* Two more points, so that all that is written now is in the last. */
static void settle(void)
{
	const json_int_t n = number("points");

	EVENTUALLY(number("points") >= n + 2);
}

static void check_replica(void)
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
static void check_disk(void)
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

static void write_some(uint64_t version)
{
	THREAD_LOCKED(&fake.lock);
	for (uint64_t i = 0; i < 40; i++)
		machine_write(fake.m, i % 2, (version * 31 + i * 7) % 256, version);
}

static void setup(void)
{
	hosts_start();
	prot = NULL;
	event_log_clear();
	no_guardian = false;
	watches = unwatches = 0;
	parting = PART_GOOD;
	host_autostart = host_settled = host_answers_late = host_asked_late = false;
	host_boots = host_starts = host_asked = host_failing = 0;
}

static void teardown(void)
{
	protection_stop(prot);
	protections_free(table);
	table = NULL;
	replicas_free(own);
	own = NULL;
	hosts_end();
}

/* ---- tests ---- */

START_TEST(points_come_in_time)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	for (uint64_t v = 2; v < 6; v++) {
		write_some(v);
		settle();
		check_replica();
	}
	ck_assert_int_ge(number("points"), 8);
	ck_assert_int_gt(number("wire_bytes"), 0);
	ck_assert_int_eq(number("pause_p50_ms"), 2);
	ck_assert_int_ge(number("rpo_ms"), 0);
	HAS(event_log(), "protection.seeded ");
	ck_assert_uint_eq(fake.made, 1);
	ck_assert_uint_eq(fake.cleaned, 1);
	/* Retention follows. */
	json_t *r = NULL, *args = json_pack("{s:s}", "vm", "web1");
	struct err e = ERR_INIT;
	for (int64_t until = soon();; usleep(10000)) {
		OK(replicas_points(target.replicas, args, &r, &e), e);
		if (json_array_size(json_object_get(r, "points")) <= 7 || clock_mono_ns() > until)
			break;
		json_decref(r);
	}
	json_decref(args);
	ck_assert_uint_ge(json_array_size(json_object_get(r, "points")), 5);
	ck_assert_uint_le(json_array_size(json_object_get(r, "points")), 7);
	const json_t *one = json_array_get(json_object_get(r, "points"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(one, "kind")), "memory");
	ck_assert_str_eq(json_string_value(json_object_get(one, "capture")), "colo");
	ck_assert_str_eq(json_string_value(json_object_get(one, "from")), "host1");
	json_decref(r);
}
END_TEST

START_TEST(the_peer_goes_and_comes_back)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	target_stop();
	EVENTUALLY(is_state("degraded", NULL));
	EVENTUALLY(is_state("degraded", "cannot be reached"));
	ck_assert(!fake.in_vm); /* the guest runs at its full speed meanwhile */
	write_some(7);
	usleep(100000);
	ck_assert_int_ge(number("rpo_ms"), 100); /* it is the age of the last committed point */
	target_start();
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
	HAS(event_log(), "protection.degraded protection.recovered ");
	/* Hardly more than what was written. */
	ck_assert_int_lt(number("sent_bytes"), (1024 + 256 + 100) * 4096);
}
END_TEST

START_TEST(a_capture_that_fails_is_begun_anew)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	for (unsigned k = 0; k < 3; k++) {
		const unsigned made = fake.made;
		write_some(10 + k);
		{
			THREAD_LOCKED(&fake.lock);
			fake.fail_take = true;
		}
		EVENTUALLY(fake.made > made);
		EVENTUALLY(is_state("protected", ""));
		settle();
		check_replica();
	}
}
END_TEST

START_TEST(a_vm_that_was_let_go_is_protected_again)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	for (unsigned k = 1; k < 3; k++) {
		const unsigned before = __atomic_load_n(&watches, __ATOMIC_SEQ_CST);
		protection_rescued(prot, GUARDIAN_END_FREED);
		ck_assert(strstr(event_log(), "protection.rescued"));
		EVENTUALLY(is_state("degraded", "the guardian let the VM run") ||
			   __atomic_load_n(&watches, __ATOMIC_SEQ_CST) > before);
		EVENTUALLY(__atomic_load_n(&watches, __ATOMIC_SEQ_CST) > before);
		EVENTUALLY(is_state("protected", ""));
		ck_assert_int_eq(number("rescues"), k);
		settle();
		check_replica();
	}
}
END_TEST

START_TEST(nothing_is_paused_without_a_guardian)
{
	no_guardian = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	ck_assert_int_eq(fake.mode, CAPTURE_DISK);
	is_state("", NULL);
	ck_assert(strstr(shown, "no guardian"));
}
END_TEST

START_TEST(memory_alone_is_refused_without_a_guardian)
{
	no_guardian = true;
	protect_as(record_of(400, "colo"));
	EVENTUALLY(is_state("failed", "no guardian"));
	ck_assert_uint_eq(taken(), 0);
}
END_TEST

START_TEST(not_now_is_said_and_waited_for)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	{
		THREAD_LOCKED(&fake.lock);
		fake.not_now = true;
	}
	EVENTUALLY(is_state("waiting", "paused by its user"));
	{
		THREAD_LOCKED(&fake.lock);
		fake.not_now = false;
	}
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(fake.made, 1);
}
END_TEST

START_TEST(a_vm_that_is_shut_off_is_waited_for)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	{
		THREAD_LOCKED(&fake.lock);
		fake.gone = true;
	}
	EVENTUALLY(is_state("waiting", "shut off"));
	/* Started again: everything in it may be different. */
	{
		THREAD_LOCKED(&fake.lock);
		fake.gone = false;
		for (uint64_t b = 0; b < 300; b++)
			machine_write(fake.m, false, b, 99);
	}
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

START_TEST(paused_resumed_and_over_restarts)
{
	struct err e = ERR_INIT;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(protection_pause(prot, &e), e);
	EVENTUALLY(is_state("paused", NULL));
	EVENTUALLY(!fake.in_vm);
	ck_assert_uint_eq(fake.paused, false);
	restart_source();
	EVENTUALLY(is_state("paused", NULL));
	const unsigned n = taken();
	usleep(50000);
	ck_assert_uint_eq(taken(), n);
	OK(protection_resume(prot, &e), e);
	EVENTUALLY(is_state("protected", ""));
	/* An agent that ends leaves the protection as it is. */
	write_some(20);
	restart_source();
	ck_assert(number("last_point") == 0); /* an object */
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

START_TEST(held_while_something_else_needs_the_vm)
{
	struct err e = ERR_INIT;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(protection_hold(prot, "it is being migrated to host3", soon(), &e), e);
	ck_assert(!fake.in_vm);
	EVENTUALLY(is_state("waiting", "being migrated"));
	const unsigned n = taken();
	usleep(30000);
	ck_assert_uint_eq(taken(), n);
	protection_release(prot);
	EVENTUALLY(is_state("protected", ""));
}
END_TEST

START_TEST(a_source_whose_vm_was_taken_over_is_fenced)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	if (_i == 1) /* it was away meanwhile */
		protection_stop(prot);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	ck_assert_uint_eq(epoch, 2);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "promoted", &e), e);
	if (_i == 1) {
		prot = NULL;
		json_t *all = epoch_load_protections(opts().state_dir, &e);
		const struct protection_opts o = opts();
		prot = protection_start(&o, json_array_get(all, 0), &e);
		json_decref(all);
	}
	EVENTUALLY(is_state("fenced", "paused here"));
	ck_assert(fake.paused);
	ck_assert(!fake.in_vm);
	HAS(event_log(), "protection.fenced ");
	/* It stays so. */
	ck_assert_int_eq(protection_resume(prot, &e), -1);
	HAS(e.text, "taken the VM over");
	fake.paused = false; /* started by someone */
	restart_source();
	EVENTUALLY(is_state("fenced", NULL));
	EVENTUALLY(fake.paused);
	ck_assert(fake.paused);
	/* And the replica is what it was. */
	json_t *r = NULL, *args = json_pack("{s:s}", "uuid", GUEST_UUID);
	OK(replicas_status(target.replicas, args, &r, &e), e);
	json_decref(args);
	ck_assert_str_eq(json_string_value(json_object_get(r, "state")), "promoted");
	json_decref(r);
}
END_TEST

START_TEST(a_promotion_that_came_to_nothing_lets_no_old_epoch_in)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(protection_pause(prot, &e), e);
	EVENTUALLY(is_state("paused", NULL));
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "replica", &e), e);
	OK(protection_resume(prot, &e), e);
	EVENTUALLY(is_state("degraded", "epoch 2, ours is 1"));
	ck_assert(!fake.paused); /* nobody runs it elsewhere */
}
END_TEST

/* Durable before the VM is paused: whatever happens then, it is paused in the end. */
START_TEST(a_fence_that_was_cut_short_is_repeated)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(fault_arm("replica.fence=fail", &e), e);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "promoted", &e), e);
	EVENTUALLY(is_owned("fenced"));
	EVENTUALLY(fake.paused);
	EVENTUALLY(is_state("fenced", NULL));
	ck_assert(!fake.in_vm);
}
END_TEST

/* ---- targets that lie ---- */

START_TEST(an_acknowledgement_of_what_was_there_before_is_none)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	target.lie_from = 1;
	EVENTUALLY(is_state("degraded", "acknowledges"));
	const json_int_t n = number("points");
	write_some(5);
	EVENTUALLY(target.commits >= 3);
	/* No point counts, and the age shown is that of the last one that does. */
	ck_assert_int_eq(number("points"), n);
	target.lie_from = 0;
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

/* What it had acknowledged is not there any more: nothing is shown that does not exist, and all of it travels again. */
START_TEST(a_target_that_has_lost_its_points)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	settle();
	fake.not_now = true; /* nothing is taken, so that what is shown is what the peer says */
	target_stop();
	EVENTUALLY(is_state("degraded", NULL));
	MEM_AUTO char *rm = mem_printf("rm -rf %s", fixture_path("target/replicas/" GUEST_UUID, NULL));
	ck_assert_int_eq(system(rm), 0);
	target_start();
	EVENTUALLY(is_state("", NULL) || !strstr(shown, "\"last_point\":{"));
	ck_assert_msg(strstr(shown, "\"rpo_ms\":null"), "%s", shown);
	HAS(event_log(), "points.lost ");
	fake.not_now = false;
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

/* ---- hand-over ---- */

struct asked {
	pthread_t thread;
	uint64_t epoch;
	int rc;
	char *point;
	struct err e;
};

static void *ask_main(void *arg)
{
	struct asked *a = arg;

	a->rc = protection_hand_over(prot, a->epoch, soon(), &a->point, &a->e);
	return NULL;
}

static void ask(struct asked *a)
{
	*a = (struct asked){ .epoch = 2 };
	ck_assert_int_eq(pthread_create(&a->thread, NULL, ask_main, a), 0);
}

static void check_owned(const char *state, json_int_t epoch)
{
	json_t *r = protection_record(prot);

	ck_assert_str_eq(json_string_value(json_object_get(r, "state")), state);
	ck_assert_int_eq(json_integer_value(json_object_get(r, "epoch")), epoch);
	json_decref(r);
}

/* A hold is refused from then on. */
static bool is_being_asked(void)
{
	struct err e = ERR_INIT;

	if (protection_hold(prot, "a look", 0, &e) == 0)
		protection_release(prot);
	return strstr(e.text, "is being handed over") != NULL;
}

START_TEST(handed_over_without_loss)
{
	struct err e = ERR_INIT;
	char *point = NULL;

	protect_as(record_of(5000, "auto"));
	EVENTUALLY(is_state("protected", ""));
	write_some(50);
	OK(protection_hand_over(prot, 2, soon(), &point, &e), e);
	ck_assert(fake.paused);
	/* As long as the last point may take: no usual pause's measure. */
	ck_assert_int_gt(armed_ns, clock_mono_ns() + 200 * NS_PER_S);
	EVENTUALLY(is_state("fenced", "handed over"));
	ck_assert(fake.left && fake.paused);
	check_replica();
	json_t *r = protection_record(prot);
	ck_assert_str_eq(json_string_value(json_object_get(r, "state")), "handed-over");
	ck_assert_int_eq(json_integer_value(json_object_get(r, "epoch")), 2);
	/* With the point at which it stands still, however short a time it is since another was written down. */
	const json_t *last = json_object_get(r, "last_point");
	ck_assert_str_eq(json_string_value(json_object_get(last, "id")), point);
	ck_assert(json_is_true(json_object_get(last, "final")));
	ck_assert_int_gt(json_integer_value(json_object_get(last, "instant_ns")), 0);
	json_decref(r);
	/* Over a restart, too. */
	restart_source();
	EVENTUALLY(is_state("fenced", "handed over"));
	ck_assert(fake.paused);
	/* Asked again: for the same epoch, or the one after, and no other. */
	static const struct {
		uint64_t epoch;
		bool good;
	} asked[] = { { 4, false }, { EPOCH_MAX, false }, { 1, false }, { 0, false },
		      { 2, true },  { 3, true },          { 2, false }, { 3, true } };
	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		char *again = NULL;
		err_clear(&e);
		ck_assert_msg((protection_hand_over_again(prot, asked[i].epoch, &again, &e) == 0) == asked[i].good,
			      "%zu: %s", i, e.text);
		if (asked[i].good)
			ck_assert_str_eq(again, point);
		else
			ck_assert_int_eq(e.cls, ERR_REFUSED);
		free(again);
	}
	check_owned("handed-over", 3);
	free(point);
}
END_TEST

/* ---- of a VM that only background snapshots can be taken of: read as it stands ---- */

static void by_background(int rpo_ms)
{
	fake.no_colo = true;
	protect_as(record_of(rpo_ms, "auto"));
	EVENTUALLY(is_state("protected", ""));
	ck_assert_int_eq(fake.mode, CAPTURE_BACKGROUND);
}

START_TEST(handed_over_without_a_capture)
{
	struct err e = ERR_INIT;
	char *point = NULL;

	by_background(60000);
	const json_int_t points = number("points");
	write_some(70);
	OK(protection_hand_over(prot, 2, soon(), &point, &e), e);
	/* A checkpoint first, so that what it did in the last minute does not travel while it stands still. */
	ck_assert_int_eq(number("points"), points + 2);
	ck_assert(fake.paused);
	ck_assert_uint_eq(fake.stills, 1);
	ck_assert_uint_eq(fake.lasts, 0);
	EVENTUALLY(is_state("fenced", "handed over"));
	check_owned("handed-over", 2);
	check_replica();
	free(point);
}
END_TEST

/* What was read does not become a point. */
static void fail_commit(void)
{
	struct err e = ERR_INIT;

	(void)fault_arm("replica.commit.target=fail", &e);
}

static void cut_it(void)
{
	THREAD_LOCKED(&source.lock);
	const struct err why = { .cls = ERR_CANCELLED, .text = "cut" };
	rpc_close(source.rpc, &why);
}

/* Whatever becomes of it while the VM stands still and is read: it runs on here, and nowhere else. */
START_TEST(a_hand_over_without_a_capture_that_fails_lets_it_run)
{
	static void (*const meanwhile[])(void) = { NULL, fail_commit, cut_it };
	struct err e = ERR_INIT;
	char *point = NULL;

	by_background(400);
	fake.in_still = meanwhile[_i];
	fake.fail_still = _i == 0;
	ck_assert_int_eq(protection_hand_over(prot, 2, soon(), &point, &e), -1);
	ck_assert(err_is_set(&e));
	ck_assert_ptr_null(point);
	fake.fail_still = false;
	fake.in_still = NULL;
	EVENTUALLY(!fake.paused);
	EVENTUALLY(is_owned("active"));
	check_owned("active", 1);
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
	/* On disk, too. */
	json_t *all = epoch_load_protections(opts().state_dir, &e);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(all, 0), "state")), "active");
	json_decref(all);
	json_t *theirs = replicas_record(target.replicas, GUEST_UUID);
	ck_assert_str_eq(json_string_value(json_object_get(theirs, "state")), "replica");
	json_decref(theirs);
}
END_TEST

/* The session ends, with nothing wrong, between the last point's being asked for and its being taken. */
START_TEST(a_session_that_ends_during_the_hand_over)
{
	struct err e = ERR_INIT;
	struct asked a;

	fake.no_colo = _i == 1;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	fake.take_ms = 300;
	EVENTUALLY(fake.taking);
	ask(&a);
	EVENTUALLY(is_being_asked());
	OK(protection_pause(prot, &e), e);
	fake.take_ms = 0;
	pthread_join(a.thread, NULL);
	ck_assert_int_eq(a.rc, -1);
	ck_assert(err_is_set(&a.e));
	ck_assert_ptr_null(a.point);
	EVENTUALLY(is_state("paused", NULL));
	ck_assert(!fake.paused);
	check_owned("paused", 1);
	ck_assert_uint_eq(fake.lasts + fake.stills, 0);
}
END_TEST

START_TEST(a_hand_over_that_fails_lets_it_run)
{
	struct err e = ERR_INIT;
	char *point = NULL;

	protect_as(record_of(5000, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(fault_arm(_i ? "replica.commit.target=fail@2" : "replica.take=fail@2", &e), e);
	ck_assert_int_eq(protection_hand_over(prot, 2, soon(), &point, &e), -1);
	EVENTUALLY(is_state("protected", ""));
	EVENTUALLY(!fake.paused || fake.made > 1);
	EVENTUALLY(is_owned("active"));
	json_t *r = protection_record(prot);
	ck_assert_str_eq(json_string_value(json_object_get(r, "state")), "active");
	json_decref(r);
}
END_TEST

START_TEST(a_session_that_ends_before_the_hand_over_owes_no_last_point)
{
	struct err e = ERR_INIT;
	struct asked a;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	fake.take_ms = 400;
	EVENTUALLY(fake.taking);
	ask(&a);
	usleep(50000);
	fake.take_ms = 0;
	if (_i == 0) {
		fake.fail_take = true;
	} else if (_i == 1) {
		ck_assert_int_eq(protection_hold(prot, "a test", soon(), &e), -1);
		HAS(e.text, "handed over");
		err_clear(&e);
		OK(protection_pause(prot, &e), e);
	}
	pthread_join(a.thread, NULL);
	ck_assert_int_eq(a.rc, _i == 2 ? 0 : -1);
	ck_assert(err_is_set(&a.e) == (_i != 2));
	free(a.point);
	if (_i == 2)
		return;
	if (_i == 1) {
		EVENTUALLY(is_state("paused", NULL));
		OK(protection_resume(prot, &e), e);
	}
	EVENTUALLY(is_state("protected", ""));
	settle();
	ck_assert_uint_eq(fake.lasts, 0);
	ck_assert(!fake.paused);
	check_owned("active", 1);
}
END_TEST

START_TEST(a_vm_that_was_let_go_is_not_handed_over)
{
	struct err e = ERR_INIT;
	char *point = NULL;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	parting = (enum parting)_i;
	ck_assert_int_eq(protection_hand_over(prot, 2, soon(), &point, &e), -1);
	ck_assert(err_is_set(&e));
	ck_assert_ptr_null(point);
	EVENTUALLY(is_owned("active"));
	check_owned("active", 1);
	/* On disk, too. */
	json_t *all = epoch_load_protections(opts().state_dir, &e);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(all, 0), "state")), "active");
	json_decref(all);
	ck_assert(!fake.left);
	parting = PART_GOOD;
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!fake.paused);
	settle();
	check_replica();
}
END_TEST

START_TEST(a_vm_that_is_fenced_and_started_again_is_paused)
{
	json_t *record = record_of(400, "auto");

	json_object_set_new(record, "state", json_string(_i ? "handed-over" : "fenced"));
	fake.paused = true;
	protect_as(record);
	EVENTUALLY(is_state("fenced", _i ? "handed over" : "taken this VM over"));
	for (unsigned k = 0; k < 2; k++) {
		fake.autostart = true;
		fake.paused = false;
		EVENTUALLY(fake.paused);
		EVENTUALLY(!fake.autostart);
	}
}
END_TEST

START_TEST(a_paused_protection_is_fenced_too)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(protection_pause(prot, &e), e);
	EVENTUALLY(is_state("paused", NULL));
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	EVENTUALLY(is_state("fenced", "paused here"));
	ck_assert(fake.paused);
	check_owned("fenced", 1);
}
END_TEST

/* The VM came home: what this host keeps is of a later epoch than its old record. */
START_TEST(an_old_fence_leaves_a_later_promotion_alone)
{
	struct err e = ERR_INIT;
	json_t *record = record_of(400, "auto");
	const struct replicas_opts ro = { .host_name = "host1",
					  .replica_dir = fixture_path("source/replicas", NULL),
					  .delta_cache = 1 << 20,
					  .min_free = 1,
					  .pool = target.pool };
	json_t *kept = json_pack("{s:s, s:s, s:s, s:i, s:s, s:s}", "uuid", GUEST_UUID, "vm", "web1", "from", "host2",
				 "epoch", _i ? 1 : 3, "role", "target", "state", "promoted");

	OK(epoch_save_replica(ro.replica_dir, kept, &e), e);
	json_decref(kept);
	own = replicas_new(&ro, &e);
	ck_assert_msg(own != NULL, "%s", e.text);
	json_object_set_new(record, "state", json_string("fenced"));
	json_object_set_new(record, "epoch", json_integer(2));
	protect_as(record);
	EVENTUALLY(is_state("fenced", NULL));
	if (_i == 1) {
		EVENTUALLY(fake.paused);
		return;
	}
	usleep(300000);
	ck_assert(!fake.paused);
}
END_TEST

/* Somebody else's wish between the look at the record and its change. */
START_TEST(no_change_of_the_record_is_lost)
{
	struct err e = ERR_INIT;
	struct asked a;

	host_autostart = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	json_t *old = protection_record(prot), *record = json_deep_copy(old);
	if (_i == 0) {
		OK(protection_pause(prot, &e), e);
		ck_assert_int_eq(protection_replace(prot, old, record, &e), -1);
		HAS(e.text, "has just changed");
		check_owned("paused", 1);
		EVENTUALLY(is_state("paused", NULL));
	} else if (_i == 1) {
		json_object_set_new(record, "rpo_ms", json_integer(700));
		/* What its thread has written since the record was read. */
		json_object_del(record, "last_point");
		json_object_del(record, "autostart");
		json_object_del(record, "boot_id");
		OK(protection_replace(prot, old, record, &e), e);
		ck_assert_int_eq(protection_pause(prot, &e), -1);
		restart_source();
		json_t *now = protection_record(prot);
		ck_assert_int_eq(json_integer_value(json_object_get(now, "rpo_ms")), 700);
		ck_assert_ptr_nonnull(json_object_get(now, "last_point"));
		ck_assert(json_is_true(json_object_get(now, "autostart")));
		ck_assert_ptr_nonnull(json_object_get(now, "boot_id"));
		json_decref(now);
		check_owned("active", 1);
	} else {
		/* Whichever of the two is first, there is one answer, and the record says the same. */
		fake.take_ms = 30;
		ask(&a);
		usleep((useconds_t)(_i - 2) * 13000);
		const int paused = protection_pause(prot, &e);
		pthread_join(a.thread, NULL);
		ck_assert_int_ne(paused, a.rc);
		EVENTUALLY(is_state(paused == 0 ? "paused" : "fenced", NULL));
		check_owned(paused == 0 ? "paused" : "handed-over", paused == 0 ? 1 : 2);
		ck_assert_int_eq(fake.paused, paused != 0);
		free(a.point);
	}
	json_decref(old);
	json_decref(record);
}
END_TEST

/* The agent died with the VM paused and the last point on its way. */
START_TEST(a_hand_over_that_an_agent_left_is_taken_back)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;
	json_t *record = record_of(400, "auto");

	if (_i == 1) {
		protect_as(json_incref(record));
		EVENTUALLY(is_state("protected", ""));
		protection_stop(prot);
		OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	}
	json_object_set_new(record, "state", json_string("handing-over"));
	fake.paused = true;
	protect_as(record);
	if (_i == 1) {
		EVENTUALLY(is_state("fenced", NULL));
		ck_assert(fake.paused);
		return;
	}
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!fake.paused);
	check_owned("active", 1);
}
END_TEST

START_TEST(a_failover_that_came_to_nothing_can_be_taken_back)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;
	char *point = NULL;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	if (_i == 0)
		OK(protection_hand_over(prot, 2, soon(), &point, &e), e);
	free(point);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	EVENTUALLY(is_state("fenced", NULL));
	EVENTUALLY(fake.paused);
	ck_assert_int_eq(protection_resume(prot, &e), -1);
	HAS(e.text, "taken the VM over");
	ck_assert(fake.paused);
	err_clear(&e);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "replica", &e), e);
	const unsigned cleaned = fake.cleaned;
	OK(protection_resume(prot, &e), e);
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!fake.paused);
	ck_assert_uint_eq(fake.cleaned, cleaned + 1);
	check_owned("active", 2);
	settle();
	check_replica();
}
END_TEST

/* The peer is at it, and may start the VM at any moment. */
START_TEST(no_taking_back_while_it_is_taken_over)
{
	struct err e = ERR_INIT;
	char *point = NULL;
	json_t *asked = json_pack("{s:{s:i, s:b}}", "handover", "epoch", 2, "paused", 0),
	       *over = json_pack("{s:n}", "handover");

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(replicas_change(target.replicas, GUEST_UUID, "replica", asked, &e), e);
	OK(protection_hand_over(prot, 2, soon(), &point, &e), e);
	free(point);
	EVENTUALLY(is_state("fenced", "handed over"));
	ck_assert_int_eq(protection_resume(prot, &e), -1);
	HAS(e.text, "host2 is taking web1 over at this moment");
	ck_assert(fake.paused);
	check_owned("handed-over", 2);
	err_clear(&e);
	OK(replicas_change(target.replicas, GUEST_UUID, "replica", over, &e), e);
	OK(protection_resume(prot, &e), e);
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!fake.paused);
	json_decref(asked);
	json_decref(over);
}
END_TEST

/* Not to be waited for: somebody must look at it, and is told why and what to do. */
START_TEST(an_unreadable_record_is_said)
{
	struct err e = ERR_INIT;
	const struct protection_opts o = opts();
	MEM_AUTO char *folder = mem_strdup(fixture_path("source/protections", NULL));
	MEM_AUTO char *path = mem_strdup(fixture_path("source/protections/" GUEST_UUID ".json", NULL));
	static const char *const contents[] = { "{\"uuid\":", "{\"uuid\":\"" GUEST_UUID
							      "\",\"state\":\"active\",\"epoch\":1,\"vm\":\"web1\"}" };

	mkdir(folder, 0700);
	for (size_t i = 0; i < 2; i++) {
		event_log_clear();
		OK(file_write_durable(path, contents[i], strlen(contents[i]), 0600, &e), e);
		json_t *all = epoch_load_protections(o.state_dir, &e);
		ck_assert_uint_eq(json_array_size(all), 1);
		prot = protection_start(&o, json_array_get(all, 0), &e);
		ck_assert_msg(prot != NULL, "%s", e.text);
		json_decref(all);
		EVENTUALLY(is_state("failed", i ? "not a whole record of this VM" : "no JSON"));
		EVENTUALLY(is_state("failed", "the agent reads it anew when it starts"));
		HAS(event_log(), "protection.failed ");
		protection_stop(prot);
		prot = NULL;
	}
	ck_assert_uint_eq(fake.made, 0);
}
END_TEST

static bool remembers_autostart(void)
{
	json_t *r = protection_record(prot);
	const bool yes = json_is_true(json_object_get(r, "autostart"));

	json_decref(r);
	return yes;
}

static bool point_autostarts(void)
{
	json_t *r = NULL, *args = json_pack("{s:s}", "vm", "web1");
	struct err e = ERR_INIT;

	OK(replicas_points(target.replicas, args, &r, &e), e);
	const json_t *points = json_object_get(r, "points");
	const bool yes =
		json_is_true(json_object_get(json_array_get(points, json_array_size(points) - 1), "autostart"));
	json_decref(args);
	json_decref(r);
	return yes;
}

/* A host that boots: its agent finds the VM off, unless libvirt has started it. */
static void reboot_source(void)
{
	protection_stop(prot);
	prot = NULL;
	host_boots++;
	{
		THREAD_LOCKED(&fake.lock);
		fake.gone = !host_autostart;
	}
	restart_source();
}

START_TEST(it_starts_with_its_host_when_it_is_ours)
{
	host_autostart = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!host_autostart && remembers_autostart() && settled_on_disk());
	ck_assert_uint_eq(host_starts, 0);
	ck_assert(point_autostarts());
	/* Nobody starts it before the peer has said whose it is. */
	target_stop();
	reboot_source();
	EVENTUALLY(is_state("degraded", "cannot be reached"));
	ck_assert_uint_eq(host_starts, 0);
	target_start();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(host_starts, 1);
	/* Once: who shuts it off then, means it. */
	fake.gone = true;
	EVENTUALLY(is_state("waiting", "shut off"));
	restart_source();
	EVENTUALLY(is_state("waiting", "shut off"));
	ck_assert_uint_eq(host_starts, 1);
	/* The setting that somebody makes meanwhile. */
	host_autostart = true;
	fake.gone = false;
	EVENTUALLY(is_state("protected", ""));
	EVENTUALLY(!host_autostart);
}
END_TEST

/* The record of an agent that did not keep the boot: the next one must not take a VM that was shut off for one that has not been started. */
START_TEST(an_agent_that_is_new_starts_nothing)
{
	json_t *record = record_of(400, "auto");

	json_object_set_new(record, "autostart", json_true());
	fake.gone = true;
	protect_as(record);
	EVENTUALLY(is_state("waiting", "shut off"));
	EVENTUALLY(settled_on_disk());
	ck_assert_uint_eq(host_asked, 0);
	reboot_source();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(host_starts, 1);
}
END_TEST

/* i: so often libvirt does not start it. */
START_TEST(a_start_that_fails_is_tried_again)
{
	host_autostart = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	host_failing = (unsigned)_i;
	reboot_source();
	EVENTUALLY(settled_on_disk());
	ck_assert(!host_settled); /* an agent that dies before that starts it when it is back */
	ck_assert_uint_eq(host_starts, _i < 3);
	ck_assert_uint_eq(host_asked, _i < 3 ? (unsigned)_i + 1 : 3);
	EVENTUALLY(is_state(_i < 3 ? "protected" : "waiting", NULL));
	ck_assert_int_eq(strstr(event_log(), "autostart.failed ") != NULL, _i >= 3);
	restart_source();
	EVENTUALLY(is_state(_i < 3 ? "protected" : "waiting", NULL));
	ck_assert_uint_eq(host_asked, _i < 3 ? (unsigned)_i + 1 : 3);
}
END_TEST

START_TEST(it_does_not_start_with_a_host_that_has_lost_it)
{
	struct err e = ERR_INIT;
	uint64_t epoch;

	host_autostart = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	protection_stop(prot);
	prot = NULL;
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "promoted", &e), e);
	reboot_source();
	EVENTUALLY(is_state("fenced", ""));
	ck_assert_uint_eq(host_starts, 0);
	ck_assert(!host_autostart);
}
END_TEST

static atomic_bool autostart_at_removal, cannot_remove;

static int remove_record(const char *path)
{
	if (!strstr(path, "source/protections/" GUEST_UUID ".json"))
		return unlink(path);
	autostart_at_removal = host_autostart;
	errno = EIO;
	return cannot_remove ? -1 : unlink(path);
}

/* i == 1: although it was taken over only then. */
START_TEST(who_unprotects_has_autostart_back)
{
	const struct protection_opts o = opts();
	json_t *record = record_of(400, "auto"), *args = json_pack("{s:s}", "vm", "web1"), *now = NULL;
	struct err e = ERR_INIT;

	host_autostart = true;
	host_answers_late = _i == 1;
	sys.unlink = remove_record;
	OK(epoch_save_protection(o.state_dir, record, &e), e);
	table = protections_new(&o, &e);
	ck_assert_msg(table != NULL, "%s", e.text);
	if (_i == 0) {
		for (int64_t until = soon(); host_autostart && clock_mono_ns() < until;)
			usleep(2000);
		ck_assert(!host_autostart);
		/* It goes on being protected. */
		cannot_remove = true;
		ck_assert_int_eq(protect_end(table, args, &e), -1);
		ck_assert(autostart_at_removal && !host_autostart);
		ck_assert(protections_have(table, GUEST_UUID, &now));
		ck_assert(json_is_true(json_object_get(now, "autostart")));
		json_decref(now);
		cannot_remove = false;
		err_clear(&e);
	}
	for (int64_t until = soon(); _i == 1 && !host_asked_late && clock_mono_ns() < until;)
		usleep(2000);
	OK(protect_end(table, args, &e), e);
	sys.unlink = unlink;
	/* Before the record goes: an agent that dies between is to know of it. */
	ck_assert(autostart_at_removal && host_autostart);
	ck_assert(!protections_have(table, GUEST_UUID, NULL));
	json_decref(args);
	json_decref(record);
}
END_TEST

START_TEST(one_that_does_not_start_with_its_host)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!remembers_autostart() && !point_autostarts());
	reboot_source();
	EVENTUALLY(is_state("waiting", "shut off"));
	ck_assert_uint_eq(host_starts, 0);
}
END_TEST

/* ---- a first copy that starts from what is at hand at the peer ---- */

#define RAM_SENT (682 * STORE_BLOCK) /* of hosts_start: no seed has any of it */

/* An older copy of the disk, of which so many blocks have changed since. */
static void old_copy(uint64_t changed)
{
	at_hand.m = machine_new(1, 256);
	memcpy(at_hand.m->disk, fake.m->disk, (size_t)256 * STORE_BLOCK);
	for (uint64_t b = 0; b < changed; b++)
		machine_write(at_hand.m, true, b * 3 + 1, 77);
}

static json_t *seeded_record(void)
{
	json_t *record = record_of(400, "disk");

	json_object_set_new(record, "seed",
			    json_pack("[{s:s, s:s, s:i}]", "disk", "vda", "path", "/old", "size", 256 * 4096));
	return record;
}

static bool has_seed(void)
{
	json_t *r = protection_record(prot);
	const bool has = json_array_size(json_object_get(r, "seed")) > 0;

	json_decref(r);
	return has;
}

START_TEST(it_starts_from_an_older_copy)
{
	old_copy(12);
	protect_as(seeded_record());
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	ck_assert_uint_eq(at_hand.freed, 1);
	ck_assert(!has_seed());
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	/* Nothing of it is read again. */
	restart_source();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	check_disk();
}
END_TEST

/* A cut takes nothing from the reading, and the same is not begun twice. */
START_TEST(a_seed_outlives_the_connection)
{
	old_copy(12);
	at_hand.hold = true;
	protect_as(seeded_record());
	EVENTUALLY(is_state("seeding", "host2 reads the image that the first copy starts from: vda, 25 %"));
	target_cut(ERR_PEER, "cut");
	EVENTUALLY(is_state("seeding", "cut"));
	EVENTUALLY(is_state("seeding", "host2 reads the image"));
	ck_assert_uint_eq(at_hand.fills, 1);
	ck_assert(has_seed());
	/* And its source's agent, too. */
	restart_source();
	EVENTUALLY(is_state("seeding", "host2 reads the image"));
	at_hand.hold = false;
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	check_disk();
}
END_TEST

/* The agent that reads ends: the next reads again. */
START_TEST(a_seed_is_read_again_by_the_next_agent)
{
	old_copy(12);
	at_hand.hold = true;
	protect_as(seeded_record());
	EVENTUALLY(at_hand.fills == 1);
	target_stop();
	ck_assert_uint_eq(at_hand.freed, 1);
	at_hand.hold = false;
	target_start();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 2);
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	check_disk();
}
END_TEST

/* What the peer will not read does not keep a VM from being protected; it is said. */
START_TEST(without_the_seed_if_it_cannot_be)
{
	old_copy(12);
	at_hand.refuse = true;
	protect_as(seeded_record());
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	HAS(event_log(), "seed.failed ");
	ck_assert(!has_seed());
	ck_assert_int_gt(number("sent_bytes"), RAM_SENT + 150 * STORE_BLOCK);
	check_disk();
}
END_TEST

/* Nor is it given up for a peer that lets nothing begin. */
START_TEST(a_seed_waits_for_room_at_the_peer)
{
	target_stop();
	target.min_free = UINT64_MAX;
	target_start();
	old_copy(12);
	protect_as(seeded_record());
	EVENTUALLY(is_state("failed", "disk of host2 is full"));
	ck_assert(has_seed());
	target_stop();
	target.min_free = 0;
	target_start();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	ck_assert(!has_seed());
	ck_assert_ptr_null(strstr(event_log(), "seed.failed "));
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	check_disk();
}
END_TEST

START_TEST(a_seed_that_fails_is_tried_again)
{
	struct err e = ERR_INIT;

	old_copy(12);
	OK(fault_arm("replica.seeded=fail", &e), e);
	protect_as(seeded_record());
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 2);
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	check_disk();
}
END_TEST

/* A wrong image costs what it brought; nothing is taken from it unseen. */
START_TEST(a_wrong_seed_only_costs)
{
	at_hand.m = machine_new(1, 256);
	for (uint64_t b = 0; b < 256; b++)
		machine_write(at_hand.m, true, b, 9);
	protect_as(seeded_record());
	EVENTUALLY(is_state("protected", ""));
	ck_assert_int_gt(number("sent_bytes"), RAM_SENT + 150 * STORE_BLOCK);
	check_disk();
}
END_TEST

/* An operator at the source sees what its replica takes, and what it may. */
START_TEST(what_the_replica_takes)
{
	json_t *record = record_of(400, "auto");

	json_object_set_new(json_object_get(record, "keep"), "max_bytes", json_integer(1 << 30));
	protect_as(record);
	EVENTUALLY(is_state("protected", ""));
	EVENTUALLY(number("space_bytes") > 1024 * 4096 / 2);
	ck_assert_int_eq(number("space_limit_bytes"), 1 << 30);
	const json_int_t before = number("space_bytes");
	for (uint64_t i = 0; i < 8; i++)
		write_some(100 + i);
	EVENTUALLY(number("space_bytes") != before);
}
END_TEST

START_TEST(disks_alone_where_memory_cannot_be)
{
	fake.refuse_memory = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	json_t *s = protection_status(prot);
	ck_assert_str_eq(json_string_value(json_object_get(s, "capture")), "disk");
	HAS(json_string_value(json_object_get(s, "capture_reason")), "lock manager");
	json_decref(s);
}
END_TEST

START_TEST(a_full_disk_at_the_target)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	target_stop();
	target.min_free = UINT64_MAX;
	target_start();
	EVENTUALLY(is_state("degraded", "disk of host2 is full"));
	target_stop();
	target.min_free = 0;
	target_start();
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

START_TEST(commits_that_take_too_long_are_said)
{
	fake.take_ms = 0;
	protect_as(record_of(100, "auto"));
	EVENTUALLY(is_state("protected", ""));
	fake.take_ms = 150;
	EVENTUALLY(is_state("degraded", "target of"));
	ck_assert_int_ge(number("worst_rpo_ms"), 100);
}
END_TEST

/* Whatever breaks at whatever step, it heals by itself. */
static const char *const breaks[] = { "replica.begin.source=fail@2",
				      "replica.begin.target=fail@2",
				      "replica.begun.target=fail@2",
				      "replica.hashes=fail@1",
				      "replica.take=fail@3",
				      "replica.commit.source=fail@3",
				      "replica.commit.target=fail@3",
				      "replica.committed.target=fail@3",
				      "replica.committed.source=fail@3",
				      "replica.receive=fail@5",
				      "replica.ship=fail@4",
				      "channel.send=fail@7",
				      "channel.recv=fail@7",
				      "channel.connect=fail@4",
				      "channel.accept=fail@4",
				      "replica.prune=fail@1" };

START_TEST(it_heals)
{
	struct err e = ERR_INIT;

	OK(fault_arm(breaks[_i], &e), e);
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	write_some(3);
	settle();
	if (strstr(breaks[_i], "begin") || strstr(breaks[_i], "begun") || strstr(breaks[_i], "hashes") ||
	    strstr(breaks[_i], "connect")) {
		target_stop(); /* so that there is a second session */
		EVENTUALLY(is_state("degraded", NULL));
		target_start();
	}
	EVENTUALLY(is_state("protected", ""));
	write_some(4);
	settle();
	check_replica();
}
END_TEST

/* ---- pace ---- */

START_TEST(interval_leaves_time_for_the_commit)
{
	struct pace p;

	pace_init(&p, 1000 * NS_PER_MS, 0, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 750 * NS_PER_MS);
	pace_note(&p, NS_PER_MS, 400 * NS_PER_MS, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 475 * NS_PER_MS); /* 1000 - 400 - 125 */
	/* The worst of late counts, and is forgotten. */
	for (unsigned i = 0; i < PACE_COMMITS; i++)
		pace_note(&p, NS_PER_MS, 10 * NS_PER_MS, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 750 * NS_PER_MS);
	pace_note(&p, NS_PER_MS, 5000 * NS_PER_MS, 0);
	ck_assert_int_eq(pace_interval_ns(&p), PACE_MIN_INTERVAL_NS);
	pace_init(&p, 1000 * NS_PER_MS, 60 * NS_PER_S, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 60 * NS_PER_S);
}
END_TEST

START_TEST(behind_is_said_and_taken_back)
{
	struct pace p;

	pace_init(&p, 1000 * NS_PER_MS, 0, 0);
	pace_note(&p, 0, 0, 1500 * NS_PER_MS);
	ck_assert(!pace_behind(&p)); /* once is chance */
	pace_note(&p, 0, 0, 1500 * NS_PER_MS);
	ck_assert(pace_behind(&p));
	pace_note(&p, 0, 0, 900 * NS_PER_MS);
	pace_note(&p, 0, 0, 900 * NS_PER_MS);
	ck_assert(pace_behind(&p));
	pace_note(&p, 0, 0, 900 * NS_PER_MS);
	ck_assert(!pace_behind(&p));
}
END_TEST

START_TEST(pauses_over_the_budget_stretch_the_interval)
{
	struct pace p;

	pace_init(&p, 1000 * NS_PER_MS, 0, 10 * NS_PER_MS);
	for (unsigned i = 0; i < 3; i++)
		pace_note(&p, 20 * NS_PER_MS, 0, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 1500 * NS_PER_MS);
	for (unsigned i = 0; i < 20; i++)
		pace_note(&p, 5 * NS_PER_MS, 0, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 750 * NS_PER_MS);
	ck_assert(!pace_gave_up(&p));
	for (unsigned i = 0; i < 12; i++)
		pace_note(&p, 20 * NS_PER_MS, 0, 0);
	ck_assert(pace_gave_up(&p));
	ck_assert_int_eq(pace_pause_ns(&p, 0.5), 5 * NS_PER_MS);
	ck_assert_int_eq(pace_pause_ns(&p, 0.99), 20 * NS_PER_MS);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("replicator/protection");
	TCase *t = tcase_create("protection");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60); /* every wait has its own limit */
	tcase_add_test(t, points_come_in_time);
	tcase_add_test(t, the_peer_goes_and_comes_back);
	tcase_add_test(t, a_capture_that_fails_is_begun_anew);
	tcase_add_test(t, a_vm_that_was_let_go_is_protected_again);
	tcase_add_test(t, nothing_is_paused_without_a_guardian);
	tcase_add_test(t, memory_alone_is_refused_without_a_guardian);
	tcase_add_test(t, not_now_is_said_and_waited_for);
	tcase_add_test(t, a_vm_that_is_shut_off_is_waited_for);
	tcase_add_test(t, paused_resumed_and_over_restarts);
	tcase_add_test(t, held_while_something_else_needs_the_vm);
	tcase_add_loop_test(t, a_source_whose_vm_was_taken_over_is_fenced, 0, 2);
	tcase_add_test(t, a_promotion_that_came_to_nothing_lets_no_old_epoch_in);
	tcase_add_test(t, a_fence_that_was_cut_short_is_repeated);
	tcase_add_test(t, an_acknowledgement_of_what_was_there_before_is_none);
	tcase_add_test(t, a_target_that_has_lost_its_points);
	tcase_add_test(t, handed_over_without_loss);
	tcase_add_test(t, handed_over_without_a_capture);
	tcase_add_loop_test(t, a_hand_over_without_a_capture_that_fails_lets_it_run, 0, 3);
	tcase_add_loop_test(t, a_session_that_ends_during_the_hand_over, 0, 2);
	tcase_add_test(t, an_unreadable_record_is_said);
	tcase_add_test(t, it_starts_with_its_host_when_it_is_ours);
	tcase_add_test(t, an_agent_that_is_new_starts_nothing);
	tcase_add_loop_test(t, a_start_that_fails_is_tried_again, 0, 5);
	tcase_add_test(t, it_does_not_start_with_a_host_that_has_lost_it);
	tcase_add_loop_test(t, who_unprotects_has_autostart_back, 0, 2);
	tcase_add_test(t, one_that_does_not_start_with_its_host);
	tcase_add_test(t, it_starts_from_an_older_copy);
	tcase_add_test(t, a_seed_outlives_the_connection);
	tcase_add_test(t, a_seed_is_read_again_by_the_next_agent);
	tcase_add_test(t, without_the_seed_if_it_cannot_be);
	tcase_add_test(t, a_seed_waits_for_room_at_the_peer);
	tcase_add_test(t, a_seed_that_fails_is_tried_again);
	tcase_add_test(t, a_wrong_seed_only_costs);
	tcase_add_test(t, what_the_replica_takes);
	tcase_add_test(t, no_taking_back_while_it_is_taken_over);
	tcase_add_loop_test(t, a_hand_over_that_fails_lets_it_run, 0, 2);
	tcase_add_loop_test(t, a_session_that_ends_before_the_hand_over_owes_no_last_point, 0, 3);
	tcase_add_loop_test(t, a_vm_that_was_let_go_is_not_handed_over, PART_RESCUED, PART_RUNS + 1);
	tcase_add_loop_test(t, a_vm_that_is_fenced_and_started_again_is_paused, 0, 2);
	tcase_add_test(t, a_paused_protection_is_fenced_too);
	tcase_add_loop_test(t, an_old_fence_leaves_a_later_promotion_alone, 0, 2);
	tcase_add_loop_test(t, no_change_of_the_record_is_lost, 0, 12);
	tcase_add_loop_test(t, a_hand_over_that_an_agent_left_is_taken_back, 0, 2);
	tcase_add_loop_test(t, a_failover_that_came_to_nothing_can_be_taken_back, 0, 2);
	tcase_add_test(t, disks_alone_where_memory_cannot_be);
	tcase_add_test(t, a_full_disk_at_the_target);
	tcase_add_test(t, commits_that_take_too_long_are_said);
	tcase_add_loop_test(t, it_heals, 0, sizeof(breaks) / sizeof(breaks[0]));
	suite_add_tcase(s, t);
	t = tcase_create("pace");
	tcase_add_test(t, interval_leaves_time_for_the_commit);
	tcase_add_test(t, behind_is_said_and_taken_back);
	tcase_add_test(t, pauses_over_the_budget_stretch_the_interval);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return fixture_run(suite());
}
