/* How a session's data links come to be: together, but not too many at a time, and all or none. */
#include "transport_fixture.h"

#include "base/thread.h"
#include "migrator/migrator_internal.h"
#include "migrator/outgoing.h"
#include "migrator/sessions.h"

#include <sys/stat.h>

#define UUID "31217df1-11eb-4773-8e17-587cc83827d3"
#define LIMIT 8u /* of outgoing.c */

static struct migrator m;
static char run_dir[100], state_dir[100], session[SESSION_ID_LEN];
static struct rpc *server;

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned wait_for; /* so many have to be under way at the same time before the first is answered */
	unsigned now, most, total;
	bool fail;
	struct link *peer[32];
} dials = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int h_begin(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx, (void)c, (void)args;
	if (session_new_id(session, e) != 0)
		return -1;
	MEM_AUTO char *dir = mem_printf("%s/%s", run_dir, session);
	*result = json_pack("{s:s, s:s, s:i}", "session", session, "dir", dir, "slots", 0);
	return 0;
}

static int h_end(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx, (void)c, (void)e;
	ck_assert_str_eq(json_string_value(json_object_get(args, "session")), session);
	*result = json_pack("{s:s}", "state", "absent");
	return 0;
}

static unsigned all_roles(void *ctx, const char *peer)
{
	(void)ctx, (void)peer;
	return ~0u;
}

static const struct rpc_method methods[] = { { "migrate.begin", h_begin, 0 }, { "migrate.end", h_end, 0 }, { 0 } };
static const struct rpc_service service = { .methods = methods, .roles_of = all_roles };

static struct rpc *connect_peer(void *ctx, const char *name, struct err *e)
{
	struct link *l[2];

	(void)ctx, (void)name;
	fixture_local_links(l);
	server = rpc_start(l[1], &service, e);
	return rpc_start(l[0], NULL, e);
}

static struct link *connect_data(void *ctx, const char *name, json_t *hello, struct err *e)
{
	const bool backward = strcmp(json_string_value(json_object_get(hello, "direction")), "backward") == 0;
	struct link *l[2] = { NULL };

	(void)ctx, (void)name;
	json_decref(hello);
	THREAD_LOCKED(&dials.lock);
	if (!dials.fail || !backward)
		fixture_local_links(l);
	else
		err_set(e, ERR_PEER, "no way back");
	dials.peer[dials.total++] = l[1];
	if (++dials.now > dials.most)
		dials.most = dials.now;
	pthread_cond_broadcast(&dials.changed);
	const int64_t until = soon();
	while (dials.most < dials.wait_for)
		ck_assert_msg(thread_cond_wait_until(&dials.changed, &dials.lock, until) == 0,
			      "only %u links are made at the same time", dials.most);
	dials.now--;
	return l[0];
}

static void setup(void)
{
	fixture_start();
	snprintf(run_dir, sizeof run_dir, "%s/run", fixture_dir);
	snprintf(state_dir, sizeof state_dir, "%s/state", fixture_dir);
	thread_cond_init(&dials.changed);
	pthread_mutex_init(&m.lock, NULL);
	thread_cond_init(&m.changed);
	m.opts = (struct migrator_opts){ .host_name = "here",
					 .libvirt_uri = "test:///default",
					 .run_dir = run_dir,
					 .state_dir = state_dir,
					 .connect_peer = connect_peer,
					 .connect_data = connect_data };
}

static void teardown(void)
{
	rpc_unref(server);
	for (unsigned i = 0; i < dials.total; i++)
		link_free(dials.peer[i]);
	fixture_clean();
}

static struct outgoing *begin(unsigned channels, struct err *e)
{
	const struct outgoing_spec spec = {
		.uuid = UUID, .name = "web1", .host = "there", .was = WHERE_RUNNING, .level = -1
	};

	m.tuning.channels = channels;
	return outgoing_begin(&m, &spec, e);
}

START_TEST(links_are_made_together)
{
	struct err e = ERR_INIT;

	dials.wait_for = 5;
	struct outgoing *o = begin(4, &e);
	ck_assert_msg(o != NULL, "%s", e.text);
	ck_assert_uint_eq(dials.total, 5);
	ck_assert_str_eq(outgoing_session(o), session);
	outgoing_end(o, false, false, NULL);
}
END_TEST

/* Many links, or many migrations at a time: a target's door counts its newcomers. */
START_TEST(not_too_many_at_a_time)
{
	struct err e = ERR_INIT;

	dials.wait_for = LIMIT;
	struct outgoing *o = begin(16, &e);
	ck_assert_msg(o != NULL, "%s", e.text);
	ck_assert_uint_eq(dials.total, 17);
	ck_assert_uint_eq(dials.most, LIMIT);
	ck_assert_uint_eq(m.dialing, 0);
	outgoing_end(o, false, false, NULL);
}
END_TEST

START_TEST(one_that_fails_ends_all)
{
	struct err e = ERR_INIT;
	struct stat st;

	dials.fail = true;
	ck_assert_ptr_null(begin(4, &e));
	ck_assert_int_eq(e.cls, ERR_PEER);
	HAS(e.text, "no way back");
	ck_assert_uint_eq(dials.total, 5);
	/* Nothing is left here: neither its folder nor its record. */
	MEM_AUTO char *dir = mem_printf("%s/%s", run_dir, session);
	ck_assert_int_ne(stat(dir, &st), 0);
	json_t *left = sessions_load(state_dir, &e);
	ck_assert_uint_eq(json_array_size(left), 0);
	json_decref(left);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("outgoing");
	TCase *tc = tcase_create("outgoing");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, links_are_made_together);
	tcase_add_test(tc, not_too_many_at_a_time);
	tcase_add_test(tc, one_that_fails_ends_all);
	suite_add_tcase(s, tc);
	return fixture_run(s);
}
