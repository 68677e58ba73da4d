/*
 * migrator.h - the migrator of one agent: what it needs from the agent, and what the agent's calls (tools/vmferryd) run.
 *
 * JSON in and out is the wire and the --json format alike; the keys are listed in PROTOCOL.md section "Calls".
 */
#ifndef VMFERRY_MIGRATOR_MIGRATOR_H
#define VMFERRY_MIGRATOR_MIGRATOR_H

#include "base/err.h"
#include "transport/link.h"
#include "transport/rpc.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* What may change while it runs (migrator_tune), for migrations that begin afterwards. */
struct migrator_tuning {
	const char *image_dir; /* where missing target images may be created besides libvirt's pools; NULL: any folder that exists */
	uint64_t delta_cache;  /* bytes per migration */
	unsigned channels;     /* data links per migration and direction source to target */
	unsigned workers;      /* codec threads, 0 = automatic */
	unsigned max_jobs;     /* migrations at a time, each direction; at least 1 */
};

struct migrator_opts {
	const char *host_name;      /* as in the certificate */
	const char *libvirt_uri;    /* "qemu:///system" */
	const char *libvirt_socket; /* the daemon's rw socket, reached by incoming migrations */
	const char *run_dir;        /* sessions' sockets live below, e.g. /run/vmferry */
	const char *state_dir;      /* sessions' journal, e.g. /var/lib/vmferry */
	const char *qemu_group;     /* group that may create sockets in a session's folder; NULL: none */
	uint64_t rate_limit;        /* bytes per second, default for migrations, 0 = none */
	struct migrator_tuning tuning;

	/* Control connection to a peer of the configuration. New reference. */
	struct rpc *(*connect_peer)(void *ctx, const char *host, struct err *e);
	/* One more link to the same peer with that HELLO ("purpose":"data"); steals hello. */
	struct link *(*connect_data)(void *ctx, const char *host, json_t *hello, struct err *e);
	/* State change worth remembering (events, replicator/outbox): type "migration.started" etc. Steals data. */
	void (*event)(void *ctx, const char *type, const char *vm_uuid, json_t *data);
	/* Around each migration away: whoever else works in that VM's QEMU lets go of it, or -1; then it may go on. May be NULL. */
	int (*hold)(void *ctx, const char *vm, struct err *e);
	void (*let_go)(void *ctx, const char *vm);
	void *ctx;
};

struct migrator;

/* Starts libvirt's event loop, looks at the journal of sessions that an earlier agent left behind (recover.c), and has libvirt find out
 * what its QEMUs can do before that is wanted (prime.h), none of which it waits for. libvirtd may be down:
 * calls then fail with a remedy until it is back. */
struct migrator *migrator_new(const struct migrator_opts *opts, struct err *e);
/* Aborts what runs, waits for it. */
void migrator_free(struct migrator *m);

/* Copies what it is given. */
void migrator_tune(struct migrator *m, const struct migrator_tuning *t);

/* A running VM of this host as snapshot/guest.h sees it (guest_virt.h); must be freed before the migrator. */
struct guest;
struct guest *migrator_open_guest(struct migrator *m, const char *vm, struct err *e);

/* Reports progress of long calls; steals note. May be NULL. */
struct job_ctl {
	void (*note)(void *ctx, json_t *note);
	bool (*cancelled)(void *ctx);
	void *ctx;
};

/* ---- what this host answers (rpc handlers of the agent call these) ---- */
/* host.facts: {} -> name, versions, CPU, memory, free, arch, machines, pools, networks, time, jobs. */
int migrator_host_facts(struct migrator *m, const json_t *args, json_t **result, struct err *e);
/* vms: {} -> {"vms":[{name,uuid,state,vcpus,memory_bytes,disks:[...],persistent,autostart,host}]}. */
int migrator_vms(struct migrator *m, const json_t *args, json_t **result, struct err *e);
/* vm.where: {uuid} -> {"state":"running|paused|shutoff|incoming|absent"}. */
int migrator_vm_where(struct migrator *m, const json_t *args, json_t **result, struct err *e);
/* preflight.target: {xml, options, cpu...} -> what only the target can know about this VM (preflight.h). */
int migrator_preflight_target(struct migrator *m, const json_t *args, json_t **result, struct err *e);
/* cpu.baseline: {"hosts":[{"name","cpu_xml"}...]} -> {"xml", "hosts":[{"name","loses":[...]}]}. */
int migrator_cpu_baseline(struct migrator *m, const json_t *args, json_t **result, struct err *e);

/* ---- what this host does as the source ---- */
/* plan: {vm, host, options} -> {"possible":bool,"findings":[{code,severity,text,remedy}],"forecast":{...}}. */
int migrator_plan(struct migrator *m, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e);
/* migrate: {vm, host, copy_storage, offline, max_downtime_ms, deadline_ms, bandwidth, on_stall, ...} -> the report. */
int migrator_migrate(struct migrator *m, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e);
/* cancel: {vm} */
int migrator_cancel(struct migrator *m, const json_t *args, json_t **result, struct err *e);
/* jobs: {} -> {"jobs":[{vm,uuid,direction,peer,phase,percent,...}]} */
int migrator_jobs(struct migrator *m, const json_t *args, json_t **result, struct err *e);
/* drain: {to:[...], parallel, dry_run, options} -> {"moved":[...],"stayed":[{vm,reasons}]} */
int migrator_drain(struct migrator *m, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e);

/* ---- what this host does as the target ---- */
/* migrate.begin {uuid,name,xml,disks,slots,channels} -> {session,dir,slots}; the session dies with the connection `rpc`. */
int migrator_incoming_begin(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
/* migrate.end {session,outcome} -> {state} */
int migrator_incoming_end(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
/* migrate.export {session,path,format}, migrate.unexport {session}, migrate.define {session,xml}: offline.h. */
int migrator_incoming_export(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
int migrator_incoming_unexport(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
int migrator_incoming_define(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
/* A data link came in (HELLO: session, index, direction). Takes the link; refuses it by itself. */
void migrator_incoming_attach(struct migrator *m, struct link *l);
/* A link of HELLO purpose "probe" came in: measures the way here. Takes the link; returns when it is over (seconds at most). */
void migrator_incoming_probe(struct migrator *m, struct link *l);
/* A control connection ended: its sessions end too. */
void migrator_incoming_closed(struct migrator *m, struct rpc *rpc);

#endif
