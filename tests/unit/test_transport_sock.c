#include "transport/sock.h"

#include "base/thread.h"

#include <check.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROUNDS = 20 };

/* A sender that the kernel puts aside as soon as its bytes are under way. Linked with --wrap=send. */
ssize_t __real_send(int fd, const void *buf, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *buf, size_t len, int flags);

ssize_t __wrap_send(int fd, const void *buf, size_t len, int flags)
{
	const ssize_t n = __real_send(fd, buf, len, flags);

	usleep(2000);
	return n;
}

static void *sender(void *arg)
{
	struct sock *s = arg;
	struct err e = ERR_INIT;

	for (int i = 0; i < ROUNDS; i++)
		ck_assert_msg(sock_send(s, "1000 pages", 10, INT64_MAX, &e) == 0, "%s", e.text);
	return NULL;
}

START_TEST(what_has_arrived_is_counted)
{
	struct err e = ERR_INIT;
	uint64_t arrived = 0, sent, received;
	char buf[100];
	pthread_t t;
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	struct sock *s = sock_new(fds[0], &e);
	ck_assert_msg(s != NULL, "%s", e.text);
	ck_assert_int_eq(thread_start(&t, "sender", sender, s, &e), 0);
	while (arrived < (uint64_t)ROUNDS * 10) {
		const ssize_t n = read(fds[1], buf, sizeof(buf));
		ck_assert_int_gt(n, 0);
		arrived += (uint64_t)n;
		sock_bytes(s, &sent, &received);
		ck_assert_uint_ge(sent, arrived);
	}
	pthread_join(t, NULL);
	sock_bytes(s, &sent, &received);
	ck_assert_uint_eq(sent, arrived);
	ck_assert_uint_eq(received, 0);
	sock_free(s);
	close(fds[1]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("transport/sock");
	TCase *tc = tcase_create("all");
	tcase_add_test(tc, what_has_arrived_is_counted);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
