/*
 * failover_host.h - for tests of failover.h: a replica, and a host to promote it on, which can be made to fail at every step.
 */
#ifndef VMFERRY_TESTS_FAILOVER_HOST_H
#define VMFERRY_TESTS_FAILOVER_HOST_H

#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "replicator/failover.h"
#include "replicator/failover_record.h"
#include "tests/unit/vm_store.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

/* A folder with the replica (dir/replica), images (dir/images), and a libvirt: the file dir/runs says what runs. */
static char dir[64];
static struct store *store;

static char *in_dir(const char *name)
{
	return mem_printf("%s/%s", dir, name);
}

static bool there(const char *name)
{
	MEM_AUTO char *p = in_dir(name);
	return access(p, F_OK) == 0;
}

static void put_file(const char *name, const char *text)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *p = in_dir(name);
	ck_assert_msg(file_write_durable(p, text, strlen(text), 0600, &e) == 0, "%s", e.text);
}

/* ---- a libvirt ---- */
static int start_fails; /* 1: fails, 2: does not come back, 3: fails, and it runs, 4: fails after the guest wrote */
static bool where_fails;
static uint64_t fed;
static bool was_paused, had_memory;
static unsigned cleared, settled, thawed;
static bool no_agent, paused;
static struct {
	pthread_mutex_t lock;
	bool hangs; /* the guest's agent; under lock */
	unsigned asked, kept;
} agent = { .lock = PTHREAD_MUTEX_INITIALIZER };

static char *fake_disk_dir(void *ctx, const char *xml, const char *target, struct err *e)
{
	(void)ctx, (void)xml, (void)target, (void)e;
	return in_dir("images");
}

static char *fake_file_path(void *ctx, const struct promote_spec *s, const char *kind, struct err *e)
{
	(void)ctx, (void)s, (void)e;
	return strcmp(kind, "nvram") == 0 ? in_dir("images/web1_VARS.fd") : NULL;
}

static int fake_file_put(void *ctx, const char *kind, const char *path, const void *data, size_t len, struct err *e)
{
	(void)ctx, (void)kind;
	return file_write_durable(path, data, len, 0600, e);
}

static bool map_refuses;
static char *fake_map(void *ctx, const struct promote_spec *s, json_t *findings, struct err *e)
{
	(void)ctx, (void)findings;
	if (map_refuses) {
		err_set(e, ERR_REFUSED, "a host device");
		return NULL;
	}
	return mem_strdup(s->xml);
}

static int count(void *ctx, const void *p, size_t n, struct err *e)
{
	(void)ctx, (void)p, (void)e;
	fed += n;
	return 0;
}
/* As QEMU would: a cluster at the end of the image. */
static void guest_writes(void)
{
	MEM_AUTO char *p = in_dir("images/web1-vda.qcow2");
	char cluster[65536] = "what a guest wrote";
	FILE *f = fopen(p, "ab");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(cluster, sizeof(cluster), 1, f), 1);
	ck_assert_int_eq(fclose(f), 0);
}

static int fake_start(void *ctx, const struct promote_spec *s, struct err *e)
{
	(void)ctx;
	for (size_t i = 0; i < s->n_disks; i++)
		if (access(s->disks[i].path, R_OK) != 0)
			return err_sys(e, "%s", s->disks[i].path);
	if (s->feed && s->feed(s->feed_ctx, count, NULL, e) < 0)
		return -1;
	if (start_fails == 1)
		return err_set(e, ERR_LIBVIRT, "no");
	if (start_fails == 4) {
		put_file("off", "");
		guest_writes();
		return err_set(e, ERR_LIBVIRT, "the connection is gone");
	}
	put_file("runs", s->paused ? "paused" : "running");
	if (start_fails == 3)
		return err_set(e, ERR_LIBVIRT, "the connection is gone");
	was_paused = s->paused;
	had_memory = s->feed != NULL;
	if (start_fails == 2) {
		err_set(e, ERR_SYS, "no answer");
		e->errnum = ETIMEDOUT;
		return -1;
	}
	return 0;
}

static int fake_where(void *ctx, const char *uuid, enum promote_where *out, struct err *e)
{
	(void)ctx, (void)uuid;
	if (where_fails)
		return err_set(e, ERR_LIBVIRT, "no connection");
	*out = there("runs")       ? (paused ? PROMOTE_PAUSED : PROMOTE_RUNNING)
	       : there("incoming") ? PROMOTE_INCOMING
	       : there("off")      ? PROMOTE_OFF
				   : PROMOTE_ABSENT;
	return 0;
}

static int fake_settle(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx, (void)uuid, (void)e;
	settled++;
	return 0;
}

static int fake_thaw(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx, (void)uuid;
	ck_assert(there("runs") && !paused);
	if (no_agent)
		return err_set(e, ERR_LIBVIRT, "no agent");
	for (bool hangs = true, first = true; hangs; first = false) {
		const struct timespec moment = { .tv_nsec = 1000000 };
		pthread_mutex_lock(&agent.lock);
		agent.asked += first;
		hangs = agent.hangs;
		pthread_mutex_unlock(&agent.lock);
		if (hangs)
			nanosleep(&moment, NULL);
	}
	thawed++;
	return 0;
}

static void fake_keep(void *ctx)
{
	(void)ctx;
	THREAD_LOCKED(&agent.lock);
	agent.kept++;
}

static void fake_let_go(void *ctx)
{
	(void)ctx;
	THREAD_LOCKED(&agent.lock);
	agent.kept--;
}

static int fake_clear(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx, (void)uuid, (void)e;
	ck_assert(!there("runs"));
	MEM_AUTO char *p = in_dir("incoming");
	(void)unlink(p);
	cleared++;
	return 0;
}

static unsigned autostarts;
static bool autostart_fails;
static int fake_autostart(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx, (void)uuid;
	autostarts++;
	return autostart_fails ? err_set(e, ERR_LIBVIRT, "it is transient") : 0;
}

static bool lacks;
static int fake_needs(void *ctx, const char *mapped, struct err *e)
{
	(void)ctx;
	ck_assert_ptr_nonnull(mapped);
	return lacks ? err_set(e, ERR_REFUSED, "no network") : 0;
}

static const struct promote_ops ops = { .disk_dir = fake_disk_dir,
					.file_path = fake_file_path,
					.file_put = fake_file_put,
					.map = fake_map,
					.needs = fake_needs,
					.start = fake_start,
					.where = fake_where,
					.settle = fake_settle,
					.thaw = fake_thaw,
					.keep = fake_keep,
					.let_go = fake_let_go,
					.clear = fake_clear,
					.autostart = fake_autostart };

static char replica_dir[128], store_dir[160];
static uint64_t latest;
static struct failover_records records;
static struct failover_opts plain(void)
{
	return (struct failover_opts){
		.records = &records,
		.host = "dr1",
		.ops = &ops,
		.fence_within_ns = 5 * NS_PER_S,
		.thaw_within_ns = FAILOVER_THAW_NS,
	};
}

static void setup(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	snprintf(dir, sizeof(dir), "/var/tmp/vmferry-failover-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(replica_dir, sizeof(replica_dir), "%s/replica", dir);
	records = failover_record_files(replica_dir);
	snprintf(store_dir, sizeof(store_dir), "%s/store", replica_dir);
	MEM_AUTO char *images = in_dir("images");
	mkdir(replica_dir, 0700);
	mkdir(images, 0700);
	put_file("replica/replica.json",
		 "{\"uuid\":\"11111111-2222-3333-4444-555555555555\",\"vm\":\"web1\",\"from\":\"src1\",\"epoch\":3,"
		 "\"role\":\"target\",\"state\":\"replica\"}");
	store = vm_store_new(store_dir);
	vm_store_autostart = false;
	latest = vm_store_put(store, "p2", "memory", NULL, NULL, 0);
	autostarts = 0;
	autostart_fails = false;
	start_fails = 0;
	where_fails = false;
	fed = 0;
	map_refuses = false;
	cleared = settled = thawed = 0;
	no_agent = paused = false;
	agent.hangs = false;
	agent.asked = agent.kept = 0;
}

static void teardown(void)
{
	char command[128];
	store_close(store);
	fault_arm(NULL, &(struct err)ERR_INIT);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static void assert_state(const char *state, json_int_t epoch)
{
	struct err e = ERR_INIT;
	json_t *r = records.load(records.ctx, &e);
	ck_assert_msg(r != NULL, "%s", e.text);
	ck_assert_str_eq(json_string_value(json_object_get(r, "state")), state);
	ck_assert_int_eq(json_integer_value(json_object_get(r, "epoch")), epoch);
	json_decref(r);
}

/* As an agent that is killed: what it had opened is opened anew. */
UNUSED static void run_and_die(const char *spec, const struct failover_opts *o)
{
	int status;

	store_close(store);
	const pid_t pid = fork();
	if (pid == 0) {
		struct err e = ERR_INIT;
		if (fault_arm(spec, &e) < 0 || !(store = store_open(store_dir, NULL, &e)))
			_exit(3);
		(void)failover_run(store, o, NULL, &e);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	struct err e = ERR_INIT;
	store = store_open(store_dir, NULL, &e);
	ck_assert_msg(store != NULL, "%s", e.text);
}

#endif
