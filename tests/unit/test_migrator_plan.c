/*
 * plan and drain against libvirt's test driver (all in this process) and targets that answer over real RPC
 * connections: the real preflight_target, with what the test driver can't say filled in.
 */
#include "transport_fixture.h"

#include "migrator/migrator_internal.h"
#include "migrator/plan.h"
#include "migrator/preflight.h"
#include "migrator/virt.h"

#include <fcntl.h>
#include <sys/stat.h>

#define MAX_CONNECTIONS 64
#define GIB (UINT64_C(1) << 30)

struct host {
	const char *name;
	const char *patch; /* JSON that replaces members of its preflight answers; NULL: none */
	uint64_t spare;    /* bytes, told in host.facts and preflight */
	bool down;         /* can't be connected */
	unsigned asked;
	struct rpc_service service;
};

static struct host hosts[3];
static struct migrator m;
static struct rpc *servers[MAX_CONNECTIONS];
static size_t n_servers;
static virConnectPtr conn;
static char image_dir[200];

/* ---- the targets ---- */

static struct host *host_by_name(const char *name)
{
	for (size_t i = 0; i < 3; i++)
		if (hosts[i].name && strcmp(hosts[i].name, name) == 0)
			return &hosts[i];
	return NULL;
}

static int h_facts(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	const struct host *h = ctx;
	(void)c, (void)args, (void)e;
	*result = json_pack("{s:{s:I}}", "memory", "spare_bytes", (json_int_t)h->spare);
	return 0;
}

static int h_preflight(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	struct host *h = ctx;
	const struct preflight_target_opts opts = { .host_name = h->name, .max_jobs = 2, .image_dir = image_dir };
	(void)c;
	h->asked++;
	if (preflight_target(conn, &opts, args, result, e) < 0)
		return -1;
	/* It is the same libvirt: the VM is there, of course. */
	json_t *fill = json_pack("{s:b,s:{s:b},s:{s:b},s:n,s:n,s:{s:I}}", "domain_type", 1, "emulator", "usable", 1,
				 "machine", "known", 1, "same_uuid", "same_name", "memory", "spare_bytes",
				 (json_int_t)h->spare);
	json_object_update(*result, fill);
	json_decref(fill);
	if (h->patch) {
		json_t *patch = json_loads(h->patch, 0, NULL);
		ck_assert_ptr_nonnull(patch);
		json_object_update(*result, patch);
		json_decref(patch);
	}
	return 0;
}

static const struct rpc_method methods[] = { { "host.facts", h_facts, 0 },
					     { "preflight.target", h_preflight, 0 },
					     { 0 } };

static unsigned all_roles(void *ctx, const char *peer)
{
	(void)ctx, (void)peer;
	return ~0u;
}

static struct rpc *connect_peer(void *ctx, const char *name, struct err *e)
{
	struct link *l[2];
	struct host *h = host_by_name(name);
	(void)ctx;
	if (!h && strcmp(name, "c") == 0) { /* as the agent says of hosts that it does not know */
		err_set(e, ERR_REFUSED, "c is not a peer of here");
		return NULL;
	}
	if (!h || h->down) {
		err_set(e, ERR_PEER, "%s does not answer", name);
		return NULL;
	}
	fixture_local_links(l);
	struct rpc *client = rpc_start(l[0], NULL, e);
	ck_assert_uint_lt(n_servers, MAX_CONNECTIONS);
	servers[n_servers++] = rpc_start(l[1], &h->service, e);
	ck_assert_ptr_nonnull(client);
	return client;
}

static struct link *connect_data(void *ctx, const char *name, json_t *hello, struct err *e)
{
	(void)ctx;
	json_decref(hello);
	err_set(e, ERR_PEER, "no data link to %s here", name);
	return NULL;
}

/* ---- this host ---- */

static void define(const char *name, uint64_t mib, const char *devices)
{
	char xml[2000];
	snprintf(xml, sizeof(xml),
		 "<domain type='test'><name>%s</name><memory "
		 "unit='MiB'>%llu</memory><os><type>hvm</type></os><devices>%s</devices></domain>",
		 name, (unsigned long long)mib, devices);
	virDomainPtr dom = virDomainCreateXML(conn, xml, 0);
	ck_assert_msg(dom != NULL, "%s", virGetLastErrorMessage());
	virDomainFree(dom);
}

static void setup(void)
{
	struct err e = ERR_INIT;
	fixture_start();
	snprintf(image_dir, sizeof(image_dir), "%s/images", fixture_dir);
	ck_assert_int_eq(mkdir(image_dir, 0700), 0);
	m.opts = (struct migrator_opts){
		.host_name = "here", .connect_peer = connect_peer, .connect_data = connect_data
	};
	m.tuning.max_jobs = 4;
	m.virt = virt_new("test:///default", &e);
	ck_assert_msg(m.virt != NULL, "%s", e.text);
	conn = virt_get(m.virt, &e);
	ck_assert_ptr_nonnull(conn);
	VIRT_DOM_AUTO virDomainPtr stock = virDomainLookupByName(conn, "test");
	virDomainDestroy(stock);
	for (size_t i = 0; i < 2; i++) {
		hosts[i] = (struct host){ .name = i ? "b" : "a", .spare = 64 * GIB };
		hosts[i].service = (struct rpc_service){ .methods = methods, .ctx = &hosts[i], .roles_of = all_roles };
	}
}

static void teardown(void)
{
	for (size_t i = 0; i < n_servers; i++)
		rpc_unref(servers[i]);
	virConnectClose(conn);
	virt_free(m.virt);
	fixture_clean();
}

static json_t *args_of(const char *vm, const char *host, const char *more)
{
	json_t *args = more ? json_loads(more, 0, NULL) : json_object();
	ck_assert_ptr_nonnull(args);
	json_object_set_new(args, "vm", json_string(vm));
	json_object_set_new(args, "host", json_string(host));
	return args;
}

static json_t *plan(const char *vm, const char *host, const char *more)
{
	struct err e = ERR_INIT;
	json_t *args = args_of(vm, host, more);
	json_t *result = NULL;
	ck_assert_msg(plan_make(&m, args, PLAN_QUICK, NULL, &result, &e) == 0, "%s", e.text);
	json_decref(args);
	return result;
}

static bool possible(const json_t *result)
{
	return json_is_true(json_object_get(result, "possible"));
}

static const char *disk_devices(char *buf, size_t size, bool make)
{
	char path[300];
	snprintf(path, sizeof(path), "%s/web1.raw", image_dir);
	if (make) {
		int fd = open(path, O_CREAT | O_WRONLY, 0600);
		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
		close(fd);
	}
	snprintf(buf, size,
		 "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source "
		 "file='%s'/><target dev='vda'/></disk>",
		 path);
	return buf;
}

/* ---- plan ---- */

START_TEST(a_vm_without_disks)
{
	define("web1", 512, "");
	json_t *r = plan("web1", "a", NULL);
	ck_assert_msg(possible(r), "%s", json_dumps(r, 0));
	ck_assert_str_eq(json_string_value(json_object_get(r, "vm")), "web1");
	ck_assert_str_eq(json_string_value(json_object_get(r, "host")), "a");
	ck_assert_uint_eq(hosts[0].asked, 1);
	ck_assert_uint_eq(hosts[1].asked, 0);
	json_t *target = json_object_get(r, "target");
	ck_assert_int_eq(json_integer_value(json_object_get(target, "max_jobs")), 2);
	ck_assert(json_is_false(json_object_get(json_object_get(r, "forecast"), "known")));
	json_decref(r);
}
END_TEST

START_TEST(a_shared_disk)
{
	char devices[600];
	define("web1", 512, disk_devices(devices, sizeof(devices), true));
	/* The "other host" sees the same folder: the probe finds that out, and leaves nothing behind. */
	json_t *r = plan("web1", "a", NULL);
	ck_assert_msg(possible(r), "%s", json_dumps(r, 0));
	json_t *disks = json_object_get(r, "disks");
	ck_assert_uint_eq(json_array_size(json_object_get(disks, "copy")), 0);
	json_decref(r);
	/* Asked to copy: not onto itself. */
	r = plan("web1", "a", "{\"copy_storage\":true}");
	ck_assert(possible(r));
	ck_assert_uint_eq(json_array_size(json_object_get(json_object_get(r, "disks"), "copy")), 0);
	json_decref(r);
	char cmd[300];
	snprintf(cmd, sizeof(cmd), "test \"$(ls -A %s)\" = web1.raw", image_dir);
	ck_assert_int_eq(system(cmd), 0);
}
END_TEST

START_TEST(a_disk_to_copy)
{
	char devices[600];
	define("web1", 512, disk_devices(devices, sizeof(devices), true));
	hosts[0].patch = "{\"disks\":[{\"target\":\"vda\",\"exists\":false,\"folder\":true,\"shared\":false,\"fs_id\":"
			 "\"1\",\"fs_free_bytes\":1000000000}]}";
	json_t *r = plan("web1", "a", NULL);
	ck_assert(!possible(r));
	json_decref(r);
	r = plan("web1", "a", "{\"copy_storage\":true}");
	ck_assert_msg(possible(r), "%s", json_dumps(r, 0));
	json_t *disks = json_object_get(r, "disks");
	ck_assert_str_eq(json_string_value(json_array_get(json_object_get(disks, "copy"), 0)), "vda");
	json_t *create = json_array_get(json_object_get(disks, "create"), 0);
	ck_assert_int_eq(json_integer_value(json_object_get(create, "virtual_size")), 1 << 20);
	ck_assert_str_eq(json_string_value(json_object_get(create, "format")), "raw");
	ck_assert_uint_eq(json_array_size(json_object_get(disks, "leftover")), 1);
	json_decref(r);
}
END_TEST

START_TEST(a_target_that_does_not_answer)
{
	define("web1", 512, "");
	hosts[0].down = true;
	json_t *r = plan("web1", "a", NULL);
	ck_assert(!possible(r));
	json_t *f = json_array_get(json_object_get(r, "findings"), 1); /* behind vm-transient */
	ck_assert_str_eq(json_string_value(json_object_get(f, "code")), "peer-unreachable");
	ck_assert(json_is_null(json_object_get(r, "target")));
	json_decref(r);
}
END_TEST

START_TEST(a_host_that_is_no_peer)
{
	define("web1", 512, "");
	json_t *r = plan("web1", "c", NULL);
	ck_assert(!possible(r));
	json_t *f = json_array_get(json_object_get(r, "findings"), 1); /* behind vm-transient */
	ck_assert_str_eq(json_string_value(json_object_get(f, "code")), "peer-refused");
	ck_assert_str_eq(json_string_value(json_object_get(f, "text")), "c is not a peer of here");
	json_decref(r);
}
END_TEST

START_TEST(wrong_names)
{
	struct err e = ERR_INIT;
	json_t *result = NULL;
	define("web1", 512, "");
	static const struct {
		const char *vm, *host, *text;
		enum err_class cls;
	} cases[] = {
		{ "wbe1", "a", "no VM 'wbe1'", ERR_CONFIG },
		{ "web1", "here", "already", ERR_REFUSED },
		{ "", "a", "which VM", ERR_CONFIG },
		{ "web1", "", "which host", ERR_CONFIG },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *args = args_of(cases[i].vm, cases[i].host, NULL);
		err_clear(&e);
		ck_assert_int_eq(plan_make(&m, args, PLAN_QUICK, NULL, &result, &e), -1);
		ck_assert_int_eq(e.cls, cases[i].cls);
		ck_assert_msg(strstr(e.text, cases[i].text) != NULL, "%s", e.text);
		json_decref(args);
	}
	json_t *args = args_of("wbe1", "a", NULL);
	ck_assert_int_eq(plan_make(&m, args, PLAN_QUICK, NULL, &result, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.remedy, "did you mean: web1?"));
	json_decref(args);
}
END_TEST

START_TEST(a_forecast_by_bandwidth)
{
	struct err e = ERR_INIT;
	json_t *result = NULL;
	define("web1", 512, "");
	json_t *args = args_of("web1", "a", "{\"bandwidth\":10000000}");
	ck_assert_int_eq(migrator_plan(&m, args, NULL, &result, &e), 0);
	json_t *f = json_object_get(result, "forecast");
	ck_assert(json_is_true(json_object_get(f, "known")));
	ck_assert_int_eq(json_integer_value(json_object_get(f, "link_bytes_s")), 10000000);
	/* 512 MiB by 2.5 at 10 MB/s. */
	ck_assert_int_gt(json_integer_value(json_object_get(f, "total_ms")), 20000);
	ck_assert_int_lt(json_integer_value(json_object_get(f, "total_ms")), 24000);
	json_decref(args);
	json_decref(result);
}
END_TEST

static bool yes(void *ctx)
{
	(void)ctx;
	return true;
}

START_TEST(cancelled_plan)
{
	struct err e = ERR_INIT;
	json_t *result = NULL;
	define("web1", 512, "");
	json_t *args = args_of("web1", "a", NULL);
	ck_assert_int_eq(plan_make(&m, args, PLAN_QUICK, &(struct job_ctl){ .cancelled = yes }, &result, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CANCELLED);
	json_decref(args);
}
END_TEST

/* ---- drain ---- */

static pthread_mutex_t moves_lock = PTHREAD_MUTEX_INITIALIZER;
static char moves[500];       /* "vm>host " in the order of their beginning */
static const char *refuse_at; /* a host at which every migration is refused */
static enum err_class fail_with;
static unsigned now_moving, most_moving;

/* Stands in for migration.c. */
int migrator_migrate(struct migrator *mm, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e)
{
	const char *vm = json_string_value(json_object_get(args, "vm"));
	const char *host = json_string_value(json_object_get(args, "host"));
	const struct timespec pause = { .tv_nsec = 20 * NS_PER_MS };
	size_t len;

	(void)mm;
	pthread_mutex_lock(&moves_lock);
	len = strlen(moves);
	snprintf(moves + len, sizeof(moves) - len, "%s>%s ", vm, host);
	now_moving++;
	most_moving = now_moving > most_moving ? now_moving : most_moving;
	pthread_mutex_unlock(&moves_lock);
	ctl->note(ctl->ctx, json_pack("{s:s}", "phase", "memory"));
	nanosleep(&pause, NULL);
	pthread_mutex_lock(&moves_lock);
	now_moving--;
	pthread_mutex_unlock(&moves_lock);
	if (refuse_at && strcmp(host, refuse_at) == 0)
		return err_set(e, fail_with, "not at %s", host);
	*result = json_pack("{s:s,s:i}", "vm", vm, "total_ms", 7);
	return 0;
}

static json_t *notes;
static void keep_note(void *ctx, json_t *item)
{
	(void)ctx;
	json_array_append_new(notes, item);
}

static json_t *drain(const char *args_text, bool (*cancelled)(void *))
{
	struct err e = ERR_INIT;
	json_t *result = NULL;
	json_t *args = json_loads(args_text, 0, NULL);
	notes = json_array();
	ck_assert_msg(migrator_drain(&m, args, &(struct job_ctl){ .note = keep_note, .cancelled = cancelled }, &result,
				     &e) == 0,
		      "%s", e.text);
	json_decref(args);
	return result;
}

static void done(json_t *result)
{
	json_decref(result);
	json_decref(notes);
	notes = NULL;
}

START_TEST(drain_moves_all)
{
	define("small", 512, "");
	define("large", 4096, "");
	json_t *r = drain("{\"to\":[\"a\",\"b\"],\"parallel\":1}", NULL);
	ck_assert_uint_eq(json_array_size(json_object_get(r, "moved")), 2);
	ck_assert_uint_eq(json_array_size(json_object_get(r, "stayed")), 0);
	ck_assert_str_eq(moves, "large>a small>b ");
	json_t *first = json_array_get(json_object_get(r, "moved"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(first, "to")), "a");
	ck_assert_int_eq(json_integer_value(json_object_get(first, "total_ms")), 7);
	ck_assert_uint_eq(most_moving, 1);
	bool named = false;
	size_t i;
	json_t *n;
	json_array_foreach (notes, i, n)
		named = named || (json_object_get(n, "host") &&
				  strcmp(json_string_value(json_object_get(n, "vm")), "large") == 0);
	ck_assert(named);
	done(r);
}
END_TEST

START_TEST(drain_dry_run)
{
	define("small", 512, "");
	json_t *r = drain("{\"to\":[\"a\"],\"dry_run\":true}", NULL);
	ck_assert_uint_eq(json_array_size(json_object_get(r, "moved")), 1);
	ck_assert_str_eq(moves, "");
	ck_assert_uint_eq(hosts[0].asked, 1);
	done(r);
}
END_TEST

START_TEST(drain_leaves_what_does_not_fit)
{
	define("small", 512, "");
	define("large", 4096, "");
	hosts[0].spare = 1 * GIB;
	json_t *r = drain("{\"to\":[\"a\"]}", NULL);
	ck_assert_str_eq(moves, "small>a ");
	json_t *stayed = json_array_get(json_object_get(r, "stayed"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(stayed, "vm")), "large");
	json_t *reason = json_array_get(json_object_get(stayed, "reasons"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(reason, "code")), "memory-short");
	ck_assert_str_eq(json_string_value(json_object_get(reason, "host")), "a");
	done(r);
}
END_TEST

START_TEST(drain_tries_another_host)
{
	static const struct {
		enum err_class cls;
		const char *moves;
		size_t moved;
	} cases[] = {
		{ ERR_REFUSED, "vm>a vm>b ", 1 },
		{ ERR_PEER, "vm>a vm>b ", 1 },
		{ ERR_LIBVIRT, "vm>a ", 0 }, /* the VM's own trouble: not tried again */
		{ ERR_CANCELLED, "vm>a ", 0 },
	};
	define("vm", 512, "");
	hosts[0].spare = 65 * GIB;
	refuse_at = "a";
	fail_with = cases[_i].cls;
	json_t *r = drain("{\"to\":[\"a\",\"b\"],\"parallel\":3}", NULL);
	ck_assert_str_eq(moves, cases[_i].moves);
	ck_assert_uint_eq(json_array_size(json_object_get(r, "moved")), cases[_i].moved);
	if (!cases[_i].moved) {
		json_t *reasons = json_object_get(json_array_get(json_object_get(r, "stayed"), 0), "reasons");
		ck_assert_str_eq(json_string_value(json_object_get(json_array_get(reasons, 0), "text")), "not at a");
	}
	done(r);
}
END_TEST

START_TEST(drain_in_parallel)
{
	char name[16];
	for (int i = 0; i < 6; i++) {
		snprintf(name, sizeof(name), "vm%d", i);
		define(name, 512, "");
	}
	json_t *r = drain("{\"to\":[\"a\"],\"parallel\":16}", NULL);
	ck_assert_uint_eq(json_array_size(json_object_get(r, "moved")), 6);
	/* This host does 4 at a time, the target takes 2. */
	ck_assert_uint_eq(most_moving, 2);
	done(r);
}
END_TEST

START_TEST(drain_with_a_silent_host)
{
	define("vm", 512, "");
	hosts[0].down = true;
	json_t *r = drain("{\"to\":[\"a\",\"b\"]}", NULL);
	ck_assert_str_eq(moves, "vm>b ");
	done(r);
	moves[0] = 0;
	r = drain("{\"to\":[\"a\"]}", NULL);
	ck_assert_str_eq(moves, "");
	json_t *reasons = json_object_get(json_array_get(json_object_get(r, "stayed"), 0), "reasons");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(reasons, 0), "code")), "peer-unreachable");
	done(r);
}
END_TEST

START_TEST(drain_cancelled)
{
	define("vm", 512, "");
	json_t *r = drain("{\"to\":[\"a\"]}", yes);
	ck_assert_str_eq(moves, "");
	json_t *reasons = json_object_get(json_array_get(json_object_get(r, "stayed"), 0), "reasons");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(reasons, 0), "code")), "cancelled");
	done(r);
}
END_TEST

START_TEST(drain_of_nothing)
{
	struct err e = ERR_INIT;
	json_t *result = NULL;
	json_t *r = drain("{\"to\":[\"a\"]}", NULL);
	ck_assert_uint_eq(json_array_size(json_object_get(r, "moved")), 0);
	ck_assert_uint_eq(json_array_size(json_object_get(r, "stayed")), 0);
	done(r);
	static const char *const bad[] = { "{}", "{\"to\":[]}", "{\"to\":[7]}", "{\"to\":[\"here\"]}" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *args = json_loads(bad[i], 0, NULL);
		err_clear(&e);
		ck_assert_int_eq(migrator_drain(&m, args, NULL, &result, &e), -1);
		ck_assert_int_eq(e.cls, ERR_CONFIG);
		json_decref(args);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("plan");
	TCase *tc = tcase_create("plan");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 20);
	tcase_add_test(tc, a_vm_without_disks);
	tcase_add_test(tc, a_shared_disk);
	tcase_add_test(tc, a_disk_to_copy);
	tcase_add_test(tc, a_target_that_does_not_answer);
	tcase_add_test(tc, a_host_that_is_no_peer);
	tcase_add_test(tc, wrong_names);
	tcase_add_test(tc, a_forecast_by_bandwidth);
	tcase_add_test(tc, cancelled_plan);
	tcase_add_test(tc, drain_moves_all);
	tcase_add_test(tc, drain_dry_run);
	tcase_add_test(tc, drain_leaves_what_does_not_fit);
	tcase_add_loop_test(tc, drain_tries_another_host, 0, 4);
	tcase_add_test(tc, drain_in_parallel);
	tcase_add_test(tc, drain_with_a_silent_host);
	tcase_add_test(tc, drain_cancelled);
	tcase_add_test(tc, drain_of_nothing);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
