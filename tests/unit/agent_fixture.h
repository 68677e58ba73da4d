/*
 * agent_fixture.h - agents in this process, over loopback with real certificates, in a folder that is gone afterwards.
 */
#ifndef VMFERRY_TESTS_AGENT_FIXTURE_H
#define VMFERRY_TESTS_AGENT_FIXTURE_H

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "tools/vmferryd/agent.h"
#include "transport/pki.h"

#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIXTURE __attribute__((unused)) static
#define FIXTURE_NODES 3
#define SOON (clock_mono_ns() + 10 * NS_PER_S)

static char fixture_dir[64];
static unsigned fixture_ports[FIXTURE_NODES];
static struct agent *fixture_agents[FIXTURE_NODES];

/* "DIR/what" in a ring of buffers. */
FIXTURE const char *fixture_path(const char *what)
{
	static char paths[16][160];
	static unsigned next;
	char *p = paths[next++ % 16];
	snprintf(p, sizeof(paths[0]), "%s/%s", fixture_dir, what);
	return p;
}

/* A port that nobody listens on now. */
FIXTURE unsigned fixture_free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	close(fd);
	return ntohs(a.sin_port);
}

FIXTURE void fixture_issue(const char *ca, const char *host, const char *out)
{
	struct err e = ERR_INIT;
	const struct pki_issue_opts o = { .ca_dir = ca, .host = host, .out_dir = out };
	ck_assert_msg(pki_issue(&o, &e) == 0, "%s", e.text);
}

FIXTURE void fixture_set_up(void)
{
	struct err e = ERR_INIT;
	strcpy(fixture_dir, "/tmp/test_agent_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(fixture_dir));
	ck_assert_msg(pki_init(fixture_path("ca"), "test", &e) == 0, "%s", e.text);
	for (unsigned i = 0; i < FIXTURE_NODES; i++) {
		char name[16];
		snprintf(name, sizeof(name), "node%u", i + 1);
		fixture_issue(fixture_path("ca"), name, fixture_path(name));
		fixture_ports[i] = fixture_free_port();
		fixture_agents[i] = NULL;
	}
}

FIXTURE void fixture_tear_down(void)
{
	char command[128];
	for (unsigned i = 0; i < FIXTURE_NODES; i++)
		agent_stop(fixture_agents[i]);
	snprintf(command, sizeof(command), "rm -rf %s", fixture_dir);
	ck_assert_int_eq(system(command), 0);
}

/* node N (1-based); roles[i]: what node i+1 may do there ("" for none, NULL: not a peer). */
FIXTURE void fixture_write_config(unsigned node, const char *const roles[FIXTURE_NODES], const char *more)
{
	char path[160], text[4000];
	int n = snprintf(
		text, sizeof(text),
		"name = \"node%u\"; state_dir = \"%s/state%u\"; run_dir = \"%s/run%u\";\n"
		"listen: { address = \"127.0.0.1\"; port = %u; };\n"
		"tls: { ca = \"%s/node%u/ca.pem\"; cert = \"%s/node%u/host.pem\"; key = \"%s/node%u/host.key\"; };\n"
		"libvirt: { qemu_group = \"\"; };\n"
		"log: { level = \"error\"; };\n%s\npeers = (",
		node, fixture_dir, node, fixture_dir, node, fixture_ports[node - 1], fixture_dir, node, fixture_dir,
		node, fixture_dir, node, more ? more : "");
	bool first = true;
	for (unsigned i = 0; i < FIXTURE_NODES; i++) {
		if (i + 1 == node || !roles[i])
			continue;
		n += snprintf(text + n, sizeof(text) - (size_t)n,
			      "%s { name = \"node%u\"; address = \"127.0.0.1\"; port = %u; roles = [ %s ]; }",
			      first ? "" : ",", i + 1, fixture_ports[i], roles[i]);
		first = false;
	}
	snprintf(text + n, sizeof(text) - (size_t)n, " );\n");
	snprintf(path, sizeof(path), "%s/node%u.conf", fixture_dir, node);
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
}

FIXTURE struct agent *fixture_try_start(unsigned node, struct err *e)
{
	char name[32];
	snprintf(name, sizeof(name), "node%u.conf", node);
	struct settings *s = settings_new(fixture_path(name), NULL, NULL, e);
	if (!s)
		return NULL;
	const struct settings_view *view = settings_get(s);
	log_set_level(view->config->log.level);
	settings_put(s, view);
	return agent_start(s, e);
}

FIXTURE void fixture_start(unsigned node)
{
	struct err e = ERR_INIT;
	fixture_agents[node - 1] = fixture_try_start(node, &e);
	ck_assert_msg(fixture_agents[node - 1] != NULL, "%s", e.text);
}

FIXTURE void fixture_stop(unsigned node)
{
	agent_stop(fixture_agents[node - 1]);
	fixture_agents[node - 1] = NULL;
}

/* node1 and node2 know each other and node3; node1 may migrate to and operate node2, node2 may nothing at node1;
 * node3 is node2's peer for migrations. */
FIXTURE void fixture_start_two(void)
{
	fixture_write_config(1, (const char *const[]){ NULL, "", "" }, NULL);
	fixture_write_config(2, (const char *const[]){ "\"migrate-in\", \"operate\"", NULL, "\"migrate-in\"" }, NULL);
	fixture_start(1);
	fixture_start(2);
}

/* As the command does. */
FIXTURE struct rpc *fixture_local(unsigned node)
{
	struct err e = ERR_INIT;
	char name[32];
	snprintf(name, sizeof(name), "run%u/control.sock", node);
	struct link *l = link_connect_local(fixture_path(name), json_pack("{s:s}", "purpose", "control"), SOON, &e);
	ck_assert_msg(l != NULL, "%s", e.text);
	struct rpc *r = rpc_start(l, NULL, &e);
	ck_assert_ptr_nonnull(r);
	return r;
}

/* As a host with the certificate in DIR/cert does, to `node`. NULL with the error set. */
FIXTURE struct link *fixture_link(const char *cert, unsigned node, const char *purpose, struct err *e)
{
	char ca[200], pem[200], key[200], name[16];
	snprintf(ca, sizeof(ca), "%s/%s/ca.pem", fixture_dir, cert);
	snprintf(pem, sizeof(pem), "%s/%s/host.pem", fixture_dir, cert);
	snprintf(key, sizeof(key), "%s/%s/host.key", fixture_dir, cert);
	snprintf(name, sizeof(name), "node%u", node);
	struct tls_ctx *ctx = tls_ctx_new(&(struct tls_files){ .ca = ca, .cert = pem, .key = key }, e);
	ck_assert_msg(ctx != NULL, "%s", e->text);
	const struct link_peer to = { .name = name, .address = "127.0.0.1", .port = (uint16_t)fixture_ports[node - 1] };
	struct link *l = link_connect(ctx, &to, json_pack("{s:s}", "purpose", purpose), SOON, e);
	tls_ctx_free(ctx);
	return l;
}

FIXTURE struct rpc *fixture_peer(const char *cert, unsigned node)
{
	struct err e = ERR_INIT;
	struct link *l = fixture_link(cert, node, "control", &e);
	ck_assert_msg(l != NULL, "%s", e.text);
	struct rpc *r = rpc_start(l, NULL, &e);
	ck_assert_ptr_nonnull(r);
	return r;
}

FIXTURE json_t *fixture_call(struct rpc *r, const char *method, json_t *args, struct err *e)
{
	json_t *result = NULL;
	return rpc_call(r, method, args, SOON, NULL, NULL, NULL, &result, e) == 0 ? result : NULL;
}

FIXTURE json_t *fixture_must(struct rpc *r, const char *method, json_t *args)
{
	struct err e = ERR_INIT;
	json_t *result = fixture_call(r, method, args, &e);
	ck_assert_msg(result != NULL, "%s: %s", method, e.text);
	return result;
}

/* Polls until the counter is at least n, bounded; fails the test otherwise. */
#define FIXTURE_WAIT(condition)                                       \
	do {                                                          \
		int64_t fixture_end = SOON;                           \
		while (!(condition) && clock_mono_ns() < fixture_end) \
			usleep(2000);                                 \
		ck_assert_msg(condition, "in time: %s", #condition);  \
	} while (0)

#endif
