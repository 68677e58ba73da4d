/* The disks' instant against a QEMU that is made up: in what state its NBD server is stopped. A real one stands still for good, and its VM with
 * it, if it has a client then that it is still greeting. */
#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"
#include "snapshot/disk_points.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OK(x, e) ck_assert_msg((x) == 0, "%s", (e).text)

static char folder[64];
static atomic_int listener = -1;
static int client = -1;
static bool serving;
static unsigned stops;
static json_t *jobs;  /* what QEMU says is under way */
static bool seen_end; /* a command has come since the client closed its end */

/* -1: none, 0: it has closed its end, 1: it is there */
static int look_at_client(void)
{
	char byte;

	if (client < 0)
		client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (client < 0)
		return -1;
	return recv(client, &byte, 1, MSG_DONTWAIT) == 0 ? 0 : 1;
}

static int fake_qmp(void *ctx, const char *command, json_t *args, int fd, json_t **result, struct err *e)
{
	(void)ctx, (void)e;
	if (result)
		*result = strcmp(command, "query-block-jobs") == 0 && jobs ? json_incref(jobs)
			  : strncmp(command, "query-", 6) == 0             ? json_array()
									   : json_pack("{s:i}", "fdset-id", 1);
	if (strcmp(command, "getfd") == 0) {
		listener = dup(fd);
		ck_assert_int_eq(fd_set_nonblock(listener, true, e), 0);
	} else if (strcmp(command, "nbd-server-start") == 0) {
		serving = true;
	} else if (strcmp(command, "nbd-server-stop") == 0) {
		ck_assert(serving);
		ck_assert_msg(look_at_client() == 0, "a client is connected: QEMU would wait for it for ever");
		ck_assert_msg(seen_end, "QEMU has not been given the time to see that its client is gone");
		serving = false;
		stops++;
	} else if (serving && listener >= 0) {
		seen_end = look_at_client() == 0;
	}
	json_decref(args);
	return 0;
}

static const struct guest_ops ops = { .qmp = fake_qmp };
static struct guest guest = { .ops = &ops };

static int no_volumes(void *ctx, const struct capture_volume *v, size_t n, struct err *e)
{
	(void)ctx, (void)v, (void)n, (void)e;
	return 0;
}

static int no_page(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	(void)ctx, (void)volume, (void)block, (void)data, (void)e;
	return 0;
}

static struct disk_points *points_of_one_disk(void);

/* QEMU makes no point of a disk that another's job has: said before the VM is stopped for it. */
START_TEST(a_job_of_somebody_else_is_waited_for)
{
	struct err e = ERR_INIT;
	struct disk_points *d = points_of_one_disk();

	OK(disk_points_check_jobs(d, &e), e);
	jobs = json_pack("[{s:s, s:s}]", "device", "vmferry-j0", "type", "backup");
	OK(disk_points_check_jobs(d, &e), e);
	json_array_append_new(jobs, json_pack("{s:s, s:s}", "device", "pull-vdb-libvirt-2-format", "type", "stream"));
	ck_assert_int_eq(disk_points_check_jobs(d, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_int_eq(e.errnum, EBUSY);
	ck_assert_msg(strstr(e.text, "(stream, pull-vdb-libvirt-2-format)") != NULL, "%s", e.text);
	json_decref(jobs);
	jobs = NULL;
	disk_points_free(d);
	/* It keeps nothing from a VM without disks. */
	const struct guest_info none = { 0 };
	d = disk_points_new(&guest, &none, folder);
	jobs = json_pack("[{s:s}]", "device", "x");
	err_clear(&e);
	OK(disk_points_check_jobs(d, &e), e);
	json_decref(jobs);
	jobs = NULL;
	disk_points_free(d);
}
END_TEST

static struct disk_points *points_of_one_disk(void)
{
	char node[] = "libvirt-1-format";
	struct guest_disk disk = { .target = "vda", .node = node, .size_bytes = 1 << 20 };
	const struct guest_info info = { .disks = &disk, .n_disks = 1 };
	struct err e = ERR_INIT;
	struct disk_points *d = disk_points_new(&guest, &info, folder);

	OK(disk_points_prepare(d, &e), e);
	OK(disk_points_instant(d, &e), e);
	return d;
}

struct reading {
	struct disk_points *d;
	int rc;
	struct err e;
};

static void *read_main(void *arg)
{
	const struct capture_sink sink = { .volumes = no_volumes, .page = no_page };
	struct reading *r = arg;
	uint64_t dirty = 0;

	r->rc = disk_points_read(r->d, &sink, 1, &dirty, &r->e);
	return NULL;
}

static void setup(void)
{
	strcpy(folder, "/tmp/test-disk-points-XXXXXX");
	ck_assert(mkdtemp(folder) != NULL);
}

static void teardown(void)
{
	MEM_AUTO char *rm = mem_printf("rm -rf %s", folder);

	fd_close(&client);
	close(listener);
	ck_assert_int_eq(system(rm), 0);
}

/* Ended before it begins to read, and while it waits for QEMU's greeting. */
START_TEST(no_client_is_left_when_the_server_stops)
{
	struct reading r = { .d = points_of_one_disk(), .e = ERR_INIT };
	pthread_t t;

	if (_i == 0)
		disk_points_abort(r.d);
	ck_assert_int_eq(pthread_create(&t, NULL, read_main, &r), 0);
	if (_i == 1) {
		for (const int64_t until = clock_mono_ns() + 20 * NS_PER_S; listener < 0 && clock_mono_ns() < until;
		     usleep(1000))
			;
		struct pollfd p = { .fd = listener, .events = POLLIN };
		ck_assert_int_eq(poll(&p, 1, 20000), 1);
		disk_points_abort(r.d);
	}
	pthread_join(t, NULL);
	ck_assert_int_eq(r.rc, -1);
	ck_assert_int_eq(r.e.cls, ERR_CANCELLED);
	disk_points_release(r.d);
	ck_assert_uint_eq(stops, 1);
	disk_points_free(r.d);
	ck_assert_uint_eq(stops, 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("snapshot/disk_points");
	TCase *t = tcase_create("server");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, a_job_of_somebody_else_is_waited_for);
	tcase_add_loop_test(t, no_client_is_left_when_the_server_stops, 0, 2);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	const int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
