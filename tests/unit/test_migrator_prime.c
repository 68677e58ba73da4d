/* That libvirt's QEMUs are asked after the start, when libvirt comes back, and again; counted, not timed. */
#include "base/clock.h"
#include "base/thread.h"
#include "migrator/prime.h"

#include <check.h>

#define NEVER_NS (3600 * NS_PER_S)

/* libvirt as the thread finds it, and what it does about that. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool away;
	uint64_t restarts;
	unsigned looks, asked;
} world = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct virt *v;

virConnectPtr __real_virt_get_opened(struct virt *virt, uint64_t *opened, struct err *e);
virConnectPtr __wrap_virt_get_opened(struct virt *virt, uint64_t *opened, struct err *e);

virConnectPtr __wrap_virt_get_opened(struct virt *virt, uint64_t *opened, struct err *e)
{
	THREAD_LOCKED(&world.lock);
	world.looks++;
	pthread_cond_broadcast(&world.changed);
	if (world.away) {
		err_set(e, ERR_LIBVIRT, "libvirt is away");
		return NULL;
	}
	virConnectPtr conn = __real_virt_get_opened(virt, opened, e);
	*opened += world.restarts;
	return conn;
}

static void ask(void *ctx, virConnectPtr conn)
{
	ck_assert_ptr_eq(ctx, &world);
	ck_assert_int_eq(virConnectIsAlive(conn), 1);
	THREAD_LOCKED(&world.lock);
	world.asked++;
	pthread_cond_broadcast(&world.changed);
}

/* Check ends the test if it never comes. */
static void wait_for(const unsigned *count, unsigned times)
{
	THREAD_LOCKED(&world.lock);
	while (*count < times)
		thread_cond_wait_until(&world.changed, &world.lock, INT64_MAX);
}

/* Looks that begin from now on, the first of them over. */
static void wait_looks(unsigned n)
{
	unsigned from;
	{
		THREAD_LOCKED(&world.lock);
		from = world.looks;
	}
	wait_for(&world.looks, from + n + 1);
}

static unsigned times_asked(void)
{
	THREAD_LOCKED(&world.lock);
	return world.asked;
}

static void set_world(bool away, uint64_t restarts)
{
	THREAD_LOCKED(&world.lock);
	world.away = away;
	world.restarts = restarts;
}

static void setup(void)
{
	struct err e = ERR_INIT;
	thread_cond_init(&world.changed);
	v = virt_new("test:///default", &e);
	ck_assert_msg(v != NULL, "%s", e.text);
}

static void teardown(void)
{
	virt_free(v);
}

static struct prime *start(int64_t look_ns, int64_t again_ns)
{
	const struct prime_opts o = { .look_ns = look_ns, .again_ns = again_ns, .ask = ask, .ctx = &world };
	struct err e = ERR_INIT;
	struct prime *w = prime_start(v, &o, &e);
	ck_assert_msg(w != NULL, "%s", e.text);
	return w;
}

START_TEST(asks_after_the_start)
{
	struct prime *w = start(NEVER_NS, NEVER_NS);
	wait_for(&world.asked, 1);
	prime_stop(w);
	ck_assert_uint_eq(times_asked(), 1);
	prime_stop(NULL);
}
END_TEST

START_TEST(asks_a_connection_once)
{
	struct prime *w = start(NS_PER_MS, NEVER_NS);
	wait_for(&world.asked, 1);
	wait_looks(20);
	prime_stop(w);
	ck_assert_uint_eq(times_asked(), 1);
}
END_TEST

START_TEST(asks_now_and_then)
{
	struct prime *w = start(NS_PER_MS, 2 * NS_PER_MS);
	wait_for(&world.asked, 3);
	prime_stop(w);
}
END_TEST

/* A libvirt that is not there yet, that goes, and that was restarted without anyone noticing. */
START_TEST(asks_when_libvirt_comes)
{
	set_world(true, 0);
	struct prime *w = start(NS_PER_MS, NEVER_NS);
	wait_looks(5);
	ck_assert_uint_eq(times_asked(), 0);
	set_world(false, 0);
	wait_for(&world.asked, 1);
	set_world(true, 0);
	wait_looks(5);
	set_world(false, 1);
	wait_for(&world.asked, 2);
	set_world(false, 2);
	wait_for(&world.asked, 3);
	wait_looks(5);
	prime_stop(w);
	ck_assert_uint_eq(times_asked(), 3);
}
END_TEST

/* What is really asked, of a driver that knows little of it: nothing comes of that. */
START_TEST(failure_is_silent)
{
	struct err e = ERR_INIT;
	VIRT_CONN_AUTO virConnectPtr conn = virt_open("test:///default", &e);
	ck_assert_ptr_nonnull(conn);
	prime_ask(NULL, conn);
	ck_assert_int_eq(virConnectIsAlive(conn), 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("prime");
	TCase *tc = tcase_create("prime");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, asks_after_the_start);
	tcase_add_test(tc, asks_a_connection_once);
	tcase_add_test(tc, asks_now_and_then);
	tcase_add_test(tc, asks_when_libvirt_comes);
	tcase_add_test(tc, failure_is_silent);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
