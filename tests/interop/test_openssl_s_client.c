/* Another TLS program against our server: `openssl s_client`, as anybody may run it from the network. */
#include "tests/unit/transport_fixture.h"

#include "base/child.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static struct tls_ctx *host1, *host2;

static void setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	fixture_fleet(&host1, &host2);
}

static void teardown(void)
{
	tls_ctx_free(host1);
	tls_ctx_free(host2);
	fixture_clean();
}

struct served {
	int lfd;
	struct link *link;
	struct err e;
	char hello[64]; /* what its HELLO said under "purpose" */
};

static void *serve_one(void *arg)
{
	struct served *s = arg;
	const int fd = accept4(s->lfd, NULL, NULL, SOCK_CLOEXEC);

	s->link = link_accept(host2, fd, soon(), &s->e);
	if (!s->link)
		return NULL;
	snprintf(s->hello, sizeof(s->hello), "%s", json_string_value(json_object_get(link_hello(s->link), "purpose")));
	link_welcome(s->link, NULL, soon(), &s->e);
	return NULL;
}

/* Runs s_client with the arguments (NULL at the end) and a HELLO to send; what it printed goes to `out`. Returns its
 * exit code. */
static int s_client(struct served *s, const char *const extra[], char *out, size_t size)
{
	static const char hello[] = "{\"version\":[1,1],\"purpose\":\"by s_client\"}";
	const struct frame_header h = { .length = sizeof(hello) - 1, .type = FRAME_HELLO };
	uint8_t frame[FRAME_HEADER_SIZE + sizeof(hello) - 1];
	const char *argv[40] = { "openssl", "s_client", "-quiet", "-connect" };
	char where[32];
	uint16_t port;
	size_t n = 4;
	pthread_t t;
	int in[2], from[2];
	posix_spawn_file_actions_t fa;
	pid_t pid;

	*s = (struct served){ .lfd = fixture_listen(&port) };
	snprintf(where, sizeof(where), "127.0.0.1:%u", port);
	argv[n++] = where;
	while (*extra)
		argv[n++] = *extra++;
	pthread_create(&t, NULL, serve_one, s);
	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(from, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], 0);
	posix_spawn_file_actions_adddup2(&fa, from[1], 1);
	posix_spawn_file_actions_adddup2(&fa, from[1], 2);
	ck_assert_int_eq(posix_spawnp(&pid, argv[0], &fa, NULL, (char *const *)(const void *)argv, environ), 0);
	posix_spawn_file_actions_destroy(&fa);
	close(in[0]);
	close(from[1]);
	frame_encode_header(&h, frame);
	memcpy(frame + FRAME_HEADER_SIZE, hello, sizeof(hello) - 1);
	ck_assert_int_eq(write(in[1], frame, sizeof(frame)), (ssize_t)sizeof(frame));
	pthread_join(t, NULL);
	/* Input stays open until the server has answered: s_client hangs up at its end. */
	link_free(s->link);
	size_t got = 0;
	for (ssize_t r; got + 1 < size && (r = read(from[0], out + got, size - got - 1)) > 0;)
		got += (size_t)r;
	/* HELLO's header has zeros in it. */
	for (size_t i = 0; i < got; i++)
		if (out[i] == '\0')
			out[i] = '.';
	out[got] = '\0';
	close(in[1]);
	close(from[0]);
	int status;
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	close(s->lfd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

START_TEST(with_a_certificate)
{
	struct served s;
	char out[8192];
	const char *const args[] = { "-CAfile",
				     fixture_path("h1", "ca.pem"),
				     "-cert",
				     fixture_path("h1", "host.pem"),
				     "-key",
				     fixture_path("h1", "host.key"),
				     "-verify_return_error",
				     "-verify_hostname",
				     "host2",
				     NULL };

	s_client(&s, args, out, sizeof(out));
	ck_assert_msg(!err_is_set(&s.e), "%s", s.e.text);
	ck_assert_str_eq(s.hello, "by s_client");
	HAS(out, "\"version\":[1,1]");
	HAS(out, "CN = vmferry fleet ca");
}
END_TEST

START_TEST(without_a_certificate)
{
	struct served s;
	char out[8192];
	const char *const args[] = { "-CAfile", fixture_path("h1", "ca.pem"), NULL };

	ck_assert_int_ne(s_client(&s, args, out, sizeof(out)), 0);
	ck_assert_int_eq(s.e.cls, ERR_REFUSED);
	HAS(s.e.text, "127.0.0.1:");
	HAS(s.e.text, "the peer has no client certificate");
	HAS(out, "certificate required");
}
END_TEST

START_TEST(with_tls_1_2)
{
	struct served s;
	char out[8192];
	const char *const args[] = {
		"-tls1_2", "-cert", fixture_path("h1", "host.pem"), "-key", fixture_path("h1", "host.key"), NULL
	};

	ck_assert_int_ne(s_client(&s, args, out, sizeof(out)), 0);
	ck_assert_int_eq(s.e.cls, ERR_REFUSED);
	HAS(s.e.text, "the peer speaks no TLS 1.3");
	HAS(out, "protocol version");
}
END_TEST

START_TEST(with_another_fleets_certificate)
{
	struct served s;
	char out[8192];

	fixture_ca("ca2");
	fixture_issue("ca2", "host1", "stranger", 0, 0);
	const char *const args[] = { "-cert", fixture_path("stranger", "host.pem"), "-key",
				     fixture_path("stranger", "host.key"), NULL };
	ck_assert_int_ne(s_client(&s, args, out, sizeof(out)), 0);
	ck_assert_int_eq(s.e.cls, ERR_REFUSED);
	HAS(s.e.text, "the certificate of host1 was issued by \"vmferry fleet ca2\", which is not this fleet's CA");
	HAS(out, "unknown ca");
}
END_TEST

START_TEST(no_secret_survives_a_connection)
{
	struct served s;
	char out[8192];
	char session[256];
	const char *const args[] = { "-cert",     fixture_path("h1", "host.pem"),
				     "-key",      fixture_path("h1", "host.key"),
				     "-sess_out", session,
				     NULL };

	snprintf(session, sizeof(session), "%s", fixture_path("session", NULL));
	s_client(&s, args, out, sizeof(out));
	ck_assert_str_eq(s.hello, "by s_client");
	/* s_client writes the file when it is given a ticket. */
	ck_assert_int_ne(access(session, F_OK), 0);
}
END_TEST

int main(void)
{
	const char *const argv[] = { "openssl", "version", NULL };
	struct err e = ERR_INIT;

	if (child_run(argv, clock_mono_ns() + 10 * NS_PER_S, NULL, NULL, &e) != 0) {
		printf("skipped: there is no openssl program here: %s\n", e.text);
		return 77;
	}
	Suite *s = suite_create("openssl s_client");
	TCase *t = tcase_create("s_client");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, with_a_certificate);
	tcase_add_test(t, without_a_certificate);
	tcase_add_test(t, with_tls_1_2);
	tcase_add_test(t, with_another_fleets_certificate);
	tcase_add_test(t, no_secret_survives_a_connection);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
