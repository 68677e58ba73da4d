/*
 * replica_peers.h - for tests of a replica's calls: the target of replica_hosts.h, a connection to it as its source has one, and a replicator of that source.
 */
#ifndef VMFERRY_TESTS_REPLICA_PEERS_H
#define VMFERRY_TESTS_REPLICA_PEERS_H

#include "replica_hosts.h"
#include "tests/unit/event_log.h"

#include "base/file.h"
#include "replicator/epoch.h"
#include "replicator/replicator.h"

static struct replicator *repl;

static struct rpc *peer_rpc;

UNUSED static struct rpc *connect_as(struct tls_ctx *ctx)
{
	const struct link_peer peer = { .name = "host2", .address = "127.0.0.1", .port = target.port };
	struct err e = ERR_INIT;
	struct link *l = link_connect(ctx, &peer, json_pack("{s:s}", "purpose", "control"), soon(), &e);

	ck_assert_msg(l != NULL, "%s", e.text);
	struct rpc *r = rpc_start(l, NULL, &e);
	ck_assert_msg(r != NULL, "%s", e.text);
	return r;
}

UNUSED static json_t *begin_args(int epoch)
{
	return json_pack("{s:s, s:s, s:i, s:s, s:i, s:i, s:s}", "uuid", GUEST_UUID, "name", "web1", "epoch", epoch,
			 "mode", "auto", "channels", 1, "slots", 16, "secret",
			 "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f");
}

UNUSED static int call(struct rpc *r, const char *method, json_t *args, json_t **result, struct err *e)
{
	err_clear(e);
	return rpc_call(r, method, args, soon(), NULL, NULL, NULL, result, e);
}

static void setup(void)
{
	hosts_start();
	repl = NULL;
	peer_rpc = connect_as(source.ctx);
}

static void teardown(void)
{
	replicator_free(repl);
	rpc_unref(peer_rpc);
	hosts_end();
}

UNUSED static uint64_t epoch_of(void)
{
	json_t *args = json_pack("{s:s}", "uuid", GUEST_UUID), *r = NULL;
	struct err e = ERR_INIT;

	OK(replicas_status(target.replicas, args, &r, &e), e);
	const uint64_t epoch = (uint64_t)json_integer_value(json_object_get(r, "epoch"));
	json_decref(args);
	json_decref(r);
	return epoch;
}

/* ---- operators ---- */

UNUSED static void on_event(void *ctx, const char *type, const char *uuid, json_t *data)
{
	(void)ctx, (void)uuid;
	event_log_add(type);
	json_decref(data);
}

typedef struct guest *(*open_guest_call)(void *ctx, const char *vm, struct err *e);

/* The replicator's ctx is the source's. */
UNUSED static void start_replicator_with(open_guest_call open_guest)
{
	const struct replicator_opts o = { .host_name = "host1",
					   .state_dir = fixture_path("source", NULL),
					   .delta_cache = 1 << 20,
					   .channels = 1,
					   .workers = 1,
					   .retry_ns = 50 * NS_PER_MS,
					   .capture = &fake_calls,
					   .connect_peer = connect_peer,
					   .connect_data = connect_data,
					   .event = on_event,
					   .open_guest = open_guest,
					   .ctx = &source };
	struct err e = ERR_INIT;

	repl = replicator_new(&o, &e);
	ck_assert_msg(repl != NULL, "%s", e.text);
}

UNUSED static void start_replicator(void)
{
	start_replicator_with(fake_open);
}

typedef int (*operator_call)(struct replicator *r, const json_t *args, json_t **result, struct err *e);

UNUSED static int ask(operator_call fn, const char *args, json_t **result, struct err *e)
{
	json_t *a = json_loads(args, 0, NULL);
	json_t *r = NULL;

	ck_assert_ptr_nonnull(a);
	err_clear(e);
	const int rc = fn(repl, a, &r, e);
	json_decref(a);
	if (result)
		*result = r;
	else
		json_decref(r);
	return rc;
}

UNUSED static void wait_state(const char *state)
{
	struct err e = ERR_INIT;
	char now[32] = "";

	for (const int64_t until = soon(); strcmp(now, state) != 0 && clock_mono_ns() < until; usleep(2000)) {
		json_t *r;
		OK(ask(replicator_status, "{\"vm\":\"web1\"}", &r, &e), e);
		snprintf(now, sizeof(now), "%s",
			 json_string_value(
				 json_object_get(json_array_get(json_object_get(r, "protections"), 0), "state")));
		json_decref(r);
	}
	ck_assert_str_eq(now, state);
}

#endif
