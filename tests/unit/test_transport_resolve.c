/* Names to addresses, with a resolver that answers when the test lets it. */
#include "base/clock.h"
#include "transport/resolve.h"
#include "transport/sock.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
/* under lock */
static bool open_now;
static unsigned asked;

/* In place of libc's: "slow" answers once open_now is set, "nobody" does not exist, numbers are themselves. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **list)
{
	const bool numeric = strspn(name, "0123456789.") == strlen(name);
	(void)service;

	if (!numeric && (hints->ai_flags & AI_NUMERICHOST))
		return EAI_NONAME;
	if (!numeric) {
		pthread_mutex_lock(&lock);
		asked++;
		pthread_cond_broadcast(&moved);
		while (strcmp(name, "slow") == 0 && !open_now)
			pthread_cond_wait(&moved, &lock);
		pthread_mutex_unlock(&lock);
		if (strcmp(name, "nobody") == 0)
			return EAI_NONAME;
	}
	*list = calloc(1, sizeof(**list));
	(*list)->ai_family = AF_INET;
	return 0;
}

void freeaddrinfo(struct addrinfo *list)
{
	free(list);
}

static void wait_until_asked(void)
{
	pthread_mutex_lock(&lock);
	while (asked == 0)
		pthread_cond_wait(&moved, &lock);
	pthread_mutex_unlock(&lock);
}

START_TEST(numbers_do_not_wait)
{
	struct err e = ERR_INIT;
	struct resolve *r = resolve_name("192.0.2.1", 7350, 0, &e);
	ck_assert_msg(r != NULL, "%s", e.text);
	ck_assert(resolve_addresses(r) != NULL);
	ck_assert_uint_eq(asked, 0);
	resolve_free(r);
	resolve_free(NULL);
}
END_TEST

START_TEST(a_name_that_is_not_there)
{
	struct err e = ERR_INIT;
	ck_assert(!resolve_name("nobody", 1, INT64_MAX, &e));
	ck_assert_int_eq(e.cls, ERR_PEER);
	ck_assert_int_eq(e.errnum, EHOSTUNREACH);
	ck_assert(strstr(e.text, "look up nobody: ") != NULL);
	ck_assert(strstr(e.remedy, "/etc/hosts") != NULL);
}
END_TEST

/* Who asks gets its time-out; the question stays one, and its answer reaches who still waits. */
START_TEST(a_resolver_that_hangs)
{
	for (int i = 0; i < 3; i++) {
		struct err e = ERR_INIT;
		ck_assert_int_eq(sock_connect_tcp("slow", 7350, clock_mono_ns() + 20 * NS_PER_MS, &e), -1);
		ck_assert_int_eq(e.cls, ERR_PEER);
		ck_assert(strstr(e.text, "look up slow: the resolver has not answered in time") != NULL);
		ck_assert(strstr(e.remedy, "IP address") != NULL);
	}
	wait_until_asked();
	ck_assert_uint_eq(asked, 1);
	pthread_mutex_lock(&lock);
	open_now = true;
	pthread_cond_broadcast(&moved);
	pthread_mutex_unlock(&lock);
	struct err e = ERR_INIT;
	struct resolve *r = resolve_name("slow", 7350, INT64_MAX, &e);
	ck_assert_msg(r != NULL, "%s", e.text);
	ck_assert(resolve_addresses(r) != NULL);
	resolve_free(r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("resolve");
	TCase *tc = tcase_create("resolve");
	tcase_add_test(tc, numbers_do_not_wait);
	tcase_add_test(tc, a_name_that_is_not_there);
	tcase_add_test(tc, a_resolver_that_hangs);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	const int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
