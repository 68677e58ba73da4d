/*
 * stub_agent.h - the agent as far as the commands about protections see it: a local socket that answers their calls from
 * a table. What was asked is in the answer, below "asked".
 *
 * VMs are named after how they are: "web1" is well, "late" is over its RPO, "none" has no point yet, "gone" is a replica
 * whose source is away, "fenced" was failed over, "bad" has a replica that does not verify, "slow" takes until cancelled.
 */
#ifndef VMFERRY_TESTS_STUB_AGENT_H
#define VMFERRY_TESTS_STUB_AGENT_H

#include "base/clock.h"
#include "base/thread.h"
#include "transport/link.h"
#include "transport/rpc.h"

#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define STUB_CONNECTIONS 64

static struct {
	char dir[64], socket[100];
	int listener;
	pthread_t thread;
	bool running;
	struct rpc *connections[STUB_CONNECTIONS];
	int n;
	int polls; /* of the status of "seeding", atomically */
} stub;

static const char *stub_vm(const json_t *args)
{
	const char *vm = json_string_value(json_object_get(args, "vm"));
	return vm ? vm : "";
}

static json_t *stub_protection(const char *vm)
{
	const int64_t ago = clock_wall_ns() - 800 * NS_PER_MS;
	bool late = strcmp(vm, "late") == 0;
	json_t *p = json_pack(
		"{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:{s:s, s:I}, s:i, s:f, s:f, s:i, s:i, s:f, s:I, s:I, "
		"s:i, s:I, s:i}",
		"vm", vm, "uuid", vm, "host", "dr1", "role", "source", "state", late ? "degraded" : "protected",
		"capture", "colo", "capture_reason", "KVM has a dirty log", "rpo_target_ms", 1000, "rpo_ms",
		late ? 3200 : 800, "last_point", "id", "20261126T001502.123Z-ab12", "instant_ns", (json_int_t)ago,
		"lag_bytes", late ? 5242880 : 0, "pause_p50_ms", 4.0, "pause_p99_ms", 12.5, "interval_ms", 1000,
		"throughput", 1500000, "ratio", 31.0, "wire_bytes", (json_int_t)41943040, "dirty_bytes",
		(json_int_t)1300234240, "points", 34, "space_bytes", (json_int_t)1288490189, "epoch", 3);
	if (late)
		json_object_set_new(p, "reason", json_string("the link carries 4 MB/s, the guest writes 20 MB/s"));
	return p;
}

static json_t *stub_state(const char *vm)
{
	json_t *p = stub_protection(vm);
	if (strcmp(vm, "none") == 0) {
		json_object_set_new(p, "state", json_string("seeding"));
		json_object_del(p, "rpo_ms");
		json_object_del(p, "last_point");
	} else if (strcmp(vm, "gone") == 0) {
		json_object_set_new(p, "role", json_string("target"));
		json_object_set_new(p, "state", json_string("waiting"));
		json_object_set_new(p, "rpo_ms", json_integer(65000));
		json_object_set_new(p, "reason", json_string("dr1 has not been heard for 1 min"));
	} else if (strcmp(vm, "fenced") == 0) {
		json_object_set_new(p, "state", json_string("fenced"));
		json_object_set_new(p, "reason", json_string("failed over to dr1 at 00:14"));
		json_object_set_new(p, "remedy", json_string("vmferry failback fenced, at dr1"));
	} else if (strcmp(vm, "seeding") == 0 && __atomic_add_fetch(&stub.polls, 1, __ATOMIC_SEQ_CST) < 4) {
		json_object_set_new(p, "state", json_string("seeding"));
		json_object_set_new(p, "percent", json_integer(42));
		json_object_del(p, "last_point");
	} else if (strcmp(vm, "failing") == 0) {
		json_object_set_new(p, "state", json_string("failed"));
		json_object_set_new(p, "reason", json_string("no space at dr1"));
	}
	return p;
}

static bool stub_knows(const char *vm)
{
	static const char *const names[] = { "web1", "late", "none",    "gone",   "fenced",
					     "bad",  "slow", "seeding", "failing" };
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i], vm) == 0)
			return true;
	return false;
}

static int stub_check(const json_t *args, struct err *e)
{
	if (stub_knows(stub_vm(args)))
		return 0;
	return err_set(e, ERR_REFUSED, "there is no protection of %s here", stub_vm(args));
}

static json_t *stub_answer(const json_t *args, json_t *answer)
{
	json_object_set_new(answer, "asked", json_deep_copy(args));
	json_object_set_new(answer, "vm", json_string(stub_vm(args)));
	return answer;
}

#define STUB_CALL(name) \
	static int stub_##name(void *ctx, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
#define STUB_UNUSED (void)ctx, (void)call, (void)args, (void)result, (void)e

STUB_CALL(status)
{
	STUB_UNUSED;
	if (!*stub_vm(args)) {
		*result = json_pack("{s:[o, o, o, o, o]}", "protections", stub_state("web1"), stub_state("late"),
				    stub_state("none"), stub_state("gone"), stub_state("fenced"));
		return 0;
	}
	if (stub_check(args, e) < 0)
		return -1;
	*result = json_pack("{s:[o]}", "protections", stub_state(stub_vm(args)));
	return 0;
}

STUB_CALL(vms)
{
	STUB_UNUSED;
	*result = json_pack("{s:[{s:s, s:s}]}", "vms", "name", "web1", "uuid", "u");
	return 0;
}

STUB_CALL(protect)
{
	STUB_UNUSED;
	if (stub_check(args, e) < 0)
		return err_remedy(e, "virsh list --all");
	*result = stub_answer(args, stub_protection(stub_vm(args)));
	json_object_set_new(*result, "state", json_string("seeding"));
	return 0;
}

STUB_CALL(simple)
{
	STUB_UNUSED;
	if (stub_check(args, e) < 0)
		return -1;
	*result = stub_answer(args, json_object());
	return 0;
}

STUB_CALL(points)
{
	STUB_UNUSED;
	int64_t now = clock_wall_ns();
	if (stub_check(args, e) < 0)
		return -1;
	*result = json_pack(
		"{s:[{s:s, s:i, s:I, s:s, s:I, s:b}, {s:s, s:i, s:I, s:s, s:s, s:I, s:I}], s:{s:I, s:I, s:I}}",
		"points", "id", "old", "seq", 1, "instant_ns", (json_int_t)(now - 90000 * NS_PER_S), "kind", "disk",
		"bytes", (json_int_t)1048576, "verified", 0, "id", "new", "seq", 2, "instant_ns",
		(json_int_t)(now - 2 * NS_PER_S), "kind", "memory", "capture", "colo", "bytes", (json_int_t)4096,
		"undo_bytes", (json_int_t)8192, "usage", "head_bytes", (json_int_t)1073741824, "undo_bytes",
		(json_int_t)8192, "journal_bytes", (json_int_t)65536);
	if (strcmp(stub_vm(args), "none") == 0)
		json_object_set_new(*result, "points", json_array());
	return 0;
}

/* Notes of some progress; "slow": until cancelled. */
static int stub_work(struct rpc_call *call, const json_t *args, const char *phase, struct err *e)
{
	if (stub_check(args, e) < 0)
		return -1;
	for (int i = 1; i <= 3; i++)
		rpc_note(call, json_pack("{s:s, s:i}", "phase", phase, "percent", i * 30));
	int64_t end = clock_mono_ns() + 10 * NS_PER_S;
	while (strcmp(stub_vm(args), "slow") == 0 && !rpc_cancelled(call) && clock_mono_ns() < end)
		usleep(2000);
	return rpc_cancelled(call) ? err_set(e, ERR_CANCELLED, "%s: cancelled", stub_vm(args)) : 0;
}

STUB_CALL(verify)
{
	STUB_UNUSED;
	if (stub_work(call, args, "verify", e) < 0)
		return -1;
	*result = stub_answer(args, json_pack("{s:I, s:i, s:i, s:[]}", "bytes", (json_int_t)1073741824, "points", 34,
					      "total_ms", 2100, "problems"));
	if (strcmp(stub_vm(args), "bad") == 0)
		json_array_append_new(json_object_get(*result, "problems"),
				      json_string("journal segment 3, byte 4096"));
	return 0;
}

STUB_CALL(failover)
{
	STUB_UNUSED;
	if (stub_work(call, args, "restore", e) < 0)
		return -1;
	*result = stub_answer(args,
			      json_pack("{s:s, s:s, s:b, s:i, s:i, s:i, s:{s:s, s:I, s:s}}", "runs_on", "dr1", "state",
					"running", "planned", strcmp(stub_vm(args), "web1") == 0, "rpo_ms", 812,
					"rto_ms", 640, "epoch", 4, "point", "id", "20261126T001502.123Z-ab12",
					"instant_ns", (json_int_t)INT64_C(1795651000000000000), "kind", "memory"));
	return 0;
}

STUB_CALL(failback)
{
	STUB_UNUSED;
	if (stub_work(call, args, "compare", e) < 0)
		return -1;
	*result = stub_answer(args, json_pack("{s:s, s:s, s:i, s:i, s:I, s:I, s:f}", "runs_on", "node1", "state",
					      "running", "total_ms", 5200, "downtime_ms", 40, "dirty_bytes",
					      (json_int_t)10485760, "wire_bytes", (json_int_t)1048576, "ratio", 10.0));
	return 0;
}

STUB_CALL(export)
{
	STUB_UNUSED;
	if (stub_work(call, args, "export", e) < 0)
		return -1;
	*result = stub_answer(args, json_pack("{s:s, s:[s, s]}", "dir", json_string_value(json_object_get(args, "dir")),
					      "files", "vda.qcow2", "domain.xml"));
	return 0;
}

static const struct rpc_method stub_methods[] = {
	{ "status", stub_status, 0 },           { "vms", stub_vms, 0 },
	{ "protect", stub_protect, 0 },         { "unprotect", stub_simple, 0 },
	{ "protection.pause", stub_simple, 0 }, { "protection.resume", stub_simple, 0 },
	{ "points", stub_points, 0 },           { "verify", stub_verify, 0 },
	{ "failover", stub_failover, 0 },       { "failback", stub_failback, 0 },
	{ "export", stub_export, 0 },           { NULL, NULL, 0 },
};

static unsigned stub_roles(void *ctx, const char *peer)
{
	(void)ctx, (void)peer;
	return ~0u;
}

static const struct rpc_service stub_service = { .methods = stub_methods, .roles_of = stub_roles };

static void *stub_serve(void *arg)
{
	(void)arg;
	for (;;) {
		struct err e = ERR_INIT;
		int fd = accept4(stub.listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return NULL; /* shut down */
		int64_t soon = clock_mono_ns() + 5 * NS_PER_S;
		struct link *l = link_accept_local(fd, soon, &e);
		if (!l)
			continue;
		if (link_welcome(l, json_pack("{s:s}", "purpose", "control"), soon, &e) < 0 ||
		    stub.n == STUB_CONNECTIONS) {
			link_free(l);
			continue;
		}
		struct rpc *r = rpc_start(l, &stub_service, &e);
		if (r)
			stub.connections[stub.n++] = r;
	}
}

static void stub_start(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct err e = ERR_INIT;
	strcpy(stub.dir, "/tmp/test_stub_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(stub.dir));
	snprintf(stub.socket, sizeof(stub.socket), "%s/control.sock", stub.dir);
	memcpy(a.sun_path, stub.socket, strlen(stub.socket) + 1);
	stub.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(stub.listener, (struct sockaddr *)&a, sizeof(a)), 0);
	ck_assert_int_eq(listen(stub.listener, 16), 0);
	ck_assert_int_eq(thread_start(&stub.thread, "stub", stub_serve, NULL, &e), 0);
	stub.running = true;
}

/* Away, as an agent that ended; the folder stays. */
static void stub_end(void)
{
	if (!stub.running)
		return;
	shutdown(stub.listener, SHUT_RDWR);
	pthread_join(stub.thread, NULL);
	close(stub.listener);
	for (int i = 0; i < stub.n; i++) {
		rpc_close(stub.connections[i], NULL);
		rpc_unref(stub.connections[i]);
	}
	stub.n = 0;
	stub.running = false;
}

static void stub_stop(void)
{
	stub_end();
	unlink(stub.socket);
	rmdir(stub.dir);
}

#endif
