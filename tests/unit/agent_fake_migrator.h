/*
 * agent_fake_migrator.h - the calls of migrator.h without libvirt, for tests of the agent and of the command.
 * Included by exactly one file of a test program, whose agents then run with it: VMs are named after what their
 * migration does.
 *
 *	"instant"   succeeds at once          "slow"     notes until cancelled
 *	"refused"   preflight finds something "stall"    does not converge
 *	"deaf"      ignores being cancelled, until fake_listen is set
 *	"begin"     calls migrate.begin at the target, waits until cancelled
 */
#ifndef VMFERRY_TESTS_AGENT_FAKE_MIGRATOR_H
#define VMFERRY_TESTS_AGENT_FAKE_MIGRATOR_H

#include "base/clock.h"
#include "base/mem.h"
#include "migrator/migrator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct migrator {
	struct migrator_opts opts;
	char name[64];
};

/* What the tests look at; atomically. */
static int fake_begun, fake_closed, fake_attached, fake_freed;
static unsigned fake_max_jobs;
static bool fake_no_libvirt, fake_listen;

#define FAKE_COUNT(x) __atomic_add_fetch(&(x), 1, __ATOMIC_SEQ_CST)
#define FAKE_GET(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)

struct migrator *migrator_new(const struct migrator_opts *opts, struct err *e)
{
	(void)e;
	struct migrator *m = mem_alloc(sizeof(*m));
	m->opts = *opts;
	snprintf(m->name, sizeof(m->name), "%s", opts->host_name);
	return m;
}

void migrator_tune(struct migrator *m, const struct migrator_tuning *t)
{
	m->opts.tuning = *t;
	m->opts.tuning.image_dir = NULL;
	__atomic_store_n(&fake_max_jobs, t->max_jobs, __ATOMIC_SEQ_CST);
}

void migrator_free(struct migrator *m)
{
	if (m)
		FAKE_COUNT(fake_freed);
	free(m);
}

static int no_libvirt(struct err *e)
{
	if (!__atomic_load_n(&fake_no_libvirt, __ATOMIC_SEQ_CST))
		return 0;
	err_set(e, ERR_LIBVIRT, "libvirtd does not answer");
	return err_remedy(e, "systemctl start libvirtd");
}

int migrator_host_facts(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	(void)args;
	if (no_libvirt(e) < 0)
		return -1;
	*result = json_pack("{s:s, s:s, s:s, s:I, s:I, s:b, s:{s:s, s:s, s:s, s:[s]}, s:{s:I, s:I}, s:[]}", "name",
			    m->name, "libvirt", "9.0.0", "qemu", "7.2.0", "libvirt_version", (json_int_t)9000000,
			    "qemu_version", (json_int_t)7002000, "kvm", true, "cpu", "model", "Test-CPU", "xml",
			    "<cpu/>", "virt_type", "kvm", "features", "sse2", "memory", "total_bytes",
			    (json_int_t)1 << 34, "spare_bytes", (json_int_t)1 << 33, "vms");
	return 0;
}

int migrator_vms(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	char name[80];
	(void)args;
	if (no_libvirt(e) < 0)
		return -1;
	snprintf(name, sizeof(name), "vm-of-%s", m->name);
	*result = json_pack("{s:[{s:s, s:s, s:s, s:i, s:I, s:[], s:s}]}", "vms", "name", name, "uuid",
			    "6b0e4a2c-0000-4000-8000-000000000001", "state", "running", "vcpus", 2, "memory_bytes",
			    (json_int_t)1 << 30, "disks", "host", m->name);
	return 0;
}

int migrator_vm_where(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	(void)m;
	(void)args;
	(void)e;
	*result = json_pack("{s:s}", "state", "absent");
	return 0;
}

int migrator_preflight_target(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	(void)m;
	(void)args;
	(void)e;
	*result = json_object();
	return 0;
}

int migrator_cpu_baseline(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	(void)m;
	(void)e;
	size_t i;
	const json_t *host;
	json_t *hosts = json_array();
	json_array_foreach (json_object_get(args, "hosts"), i, host)
		json_array_append_new(hosts, json_pack("{s:O, s:[]}", "name", json_object_get(host, "name"), "loses"));
	*result = json_pack("{s:s, s:o}", "xml", "<cpu mode='custom'/>", "hosts", hosts);
	return 0;
}

int migrator_plan(struct migrator *m, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e)
{
	(void)m;
	(void)ctl;
	(void)e;
	bool possible = strcmp(json_string_value(json_object_get(args, "vm")), "refused") != 0;
	*result = json_pack("{s:b, s:[], s:{s:I, s:I}, s:O}", "possible", possible, "findings", "forecast", "total_ms",
			    (json_int_t)8000, "downtime_ms", (json_int_t)100, "args", args);
	return 0;
}

static json_t *fake_report(const struct migrator *m, const char *vm, const char *host)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:i}", "vm", vm, "from", m->name, "to",
			 host, "runs_on", host, "state", "running", "total_ms", (json_int_t)6100, "downtime_ms",
			 (json_int_t)45, "qemu_bytes", (json_int_t)1 << 30, "wire_bytes", (json_int_t)1 << 28, "ratio",
			 4.0, "iterations", 2);
}

static void fake_note(const struct job_ctl *ctl, const char *phase, double percent)
{
	ctl->note(ctl->ctx,
		  json_pack("{s:s, s:f, s:I}", "phase", phase, "percent", percent, "rate", (json_int_t)118500000));
}

static int fake_until_cancelled(const struct job_ctl *ctl, const char *vm, const char *here, struct err *e)
{
	int64_t end = clock_mono_ns() + 30 * NS_PER_S;
	for (int i = 0; clock_mono_ns() < end; i++) {
		fake_note(ctl, "memory", i % 100);
		if (ctl->cancelled(ctl->ctx))
			return err_set(e, ERR_CANCELLED, "cancelled; %s is running on %s as before", vm, here);
		usleep(5000);
	}
	return err_set(e, ERR_SYS, "nobody cancelled");
}

static int fake_begin_at(struct migrator *m, const char *host, const struct job_ctl *ctl, struct err *e)
{
	struct rpc *rpc = m->opts.connect_peer(m->opts.ctx, host, e);
	if (!rpc)
		return -1;
	int rc = rpc_call(rpc, "migrate.begin", json_object(), clock_mono_ns() + 5 * NS_PER_S, NULL, NULL, NULL, NULL,
			  e);
	if (rc == 0) {
		struct link *l = m->opts.connect_data(m->opts.ctx, host, json_pack("{s:s}", "purpose", "data"), e);
		rc = l ? fake_until_cancelled(ctl, "begin", m->name, e) : -1;
		link_free(l);
	}
	rpc_unref(rpc);
	return rc;
}

int migrator_migrate(struct migrator *m, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e)
{
	const char *vm = json_string_value(json_object_get(args, "vm"));
	const char *host = json_string_value(json_object_get(args, "host"));
	m->opts.event(m->opts.ctx, "migration.started", "6b0e4a2c-0000-4000-8000-000000000001",
		      json_pack("{s:s, s:s}", "vm", vm, "to", host));
	if (strcmp(vm, "refused") == 0) {
		ctl->note(ctl->ctx,
			  json_pack("{s:s, s:[{s:s, s:s, s:s, s:s}, {s:s, s:s}]}", "phase", "preflight", "findings",
				    "code", "cpu", "severity", "error", "text", "the CPU of node2 lacks avx2", "remedy",
				    "baseline", "severity", "warning", "text", "clocks differ"));
		return err_set(e, ERR_REFUSED, "%s cannot move to %s: the CPU of node2 lacks avx2", vm, host);
	}
	if (strcmp(vm, "begin") == 0)
		return fake_begin_at(m, host, ctl, e);
	fake_note(ctl, "memory", 10);
	if (strcmp(vm, "slow") == 0)
		return fake_until_cancelled(ctl, vm, m->name, e);
	if (strcmp(vm, "deaf") == 0) {
		for (int64_t end = clock_mono_ns() + 30 * NS_PER_S; !FAKE_GET(fake_listen) && clock_mono_ns() < end;)
			usleep(5000);
		return err_set(e, ERR_CANCELLED, "cancelled late");
	}
	if (strcmp(vm, "stall") == 0)
		return err_set(e, ERR_REFUSED, "%s writes 90 MiB/s, the link carries 20; it is running on %s as before",
			       vm, m->name);
	*result = fake_report(m, vm, host);
	json_object_set_new(*result, "args", json_deep_copy(args));
	return 0;
}

int migrator_cancel(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	(void)m;
	(void)result;
	return err_set(e, ERR_REFUSED, "no migration of %s is under way",
		       json_string_value(json_object_get(args, "vm")));
}

int migrator_jobs(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	(void)m;
	(void)args;
	(void)e;
	*result = json_pack("{s:[]}", "jobs");
	return 0;
}

int migrator_drain(struct migrator *m, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e)
{
	(void)m;
	(void)ctl;
	(void)e;
	*result = json_pack("{s:[{s:s, s:O}], s:[{s:s, s:[s]}], s:O}", "moved", "vm", "a", "to",
			    json_array_get(json_object_get(args, "to"), 0), "stayed", "vm", "b", "reasons", "too big",
			    "args", args);
	return 0;
}

int migrator_incoming_begin(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	(void)m;
	(void)rpc;
	(void)args;
	(void)e;
	FAKE_COUNT(fake_begun);
	*result = json_object();
	return 0;
}

#define FAKE_INCOMING(name)                                                                                    \
	int migrator_incoming_##name(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, \
				     struct err *e)                                                            \
	{                                                                                                      \
		(void)m;                                                                                       \
		(void)rpc;                                                                                     \
		(void)args;                                                                                    \
		(void)e;                                                                                       \
		*result = json_object();                                                                       \
		return 0;                                                                                      \
	}
FAKE_INCOMING(end)
FAKE_INCOMING(export)
FAKE_INCOMING(unexport)
FAKE_INCOMING(define)

struct guest *migrator_open_guest(struct migrator *m, const char *vm, struct err *e)
{
	(void)m;
	err_set(e, ERR_REFUSED, "VM '%s' is shut off", vm);
	return NULL;
}

void migrator_incoming_probe(struct migrator *m, struct link *l)
{
	(void)m;
	link_free(l);
}

void migrator_incoming_attach(struct migrator *m, struct link *l)
{
	struct err e = ERR_INIT;
	(void)m;
	if (link_welcome(l, json_object(), clock_mono_ns() + 5 * NS_PER_S, &e) == 0)
		FAKE_COUNT(fake_attached);
	link_free(l);
}

void migrator_incoming_closed(struct migrator *m, struct rpc *rpc)
{
	(void)m;
	(void)rpc;
	FAKE_COUNT(fake_closed);
}

#endif
