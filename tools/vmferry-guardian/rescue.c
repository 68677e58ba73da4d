#include "tools/vmferry-guardian/rescue.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <assert.h>
#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* QEMU or libvirtd may be stuck for a while, and be mended by someone; it costs nothing to be there then. */
#define GIVE_UP_NS (600 * NS_PER_S)
/* How long QEMU may take to leave COLO by itself before `cont'. */
#define CONT_AFTER_NS (100 * NS_PER_MS)
#define FIRST_PAUSE_NS (2 * NS_PER_MS)
#define LONGEST_PAUSE_NS (500 * NS_PER_MS)

struct vm {
	virConnectPtr conn;
	virDomainPtr dom;
};

/* One letting go, from begin to end. */
struct rescue {
	const struct guard_order *order;
	virDomainPtr dom;
	int64_t since_ns;
	bool known;        /* the next two are */
	bool by_user;      /* a user had paused it before: so it shall be afterwards */
	bool cancelled;    /* the first pass, which has no COLO yet, was cancelled */
	bool colo_said_go; /* x-colo-lost-heartbeat was accepted */
	int64_t colo_go_ns;
};

static void sleep_ns(int64_t ns)
{
	const struct timespec t = { .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S };
	nanosleep(&t, NULL);
}

static int virt_error(struct err *e, const char *what)
{
	const virError *last = virGetLastError();
	err_set(e, ERR_LIBVIRT, "%s: %s", what, last && last->message ? last->message : "libvirt gave no reason");
	e->errnum = last ? last->code : VIR_ERR_INTERNAL_ERROR;
	return -1;
}

static void ignore_error(void *ctx, virErrorPtr error)
{
	(void)ctx;
	(void)error;
}

/* ---- the connection ---- */

static void vm_close(void *arg)
{
	struct vm *vm = arg;

	if (!vm)
		return;
	if (vm->dom)
		(void)virDomainFree(vm->dom);
	if (vm->conn)
		(void)virConnectClose(vm->conn);
	free(vm);
}

/* No keepalive, and so no event loop: the socket is local, and libvirtd's end is seen by the next call. */
static void *vm_open(void *ctx, const uint8_t uuid[16], struct err *e)
{
	const char *uri = ctx;
	struct vm *vm = mem_alloc(sizeof *vm);

	vm->conn = virConnectOpen(uri);
	if (!vm->conn) {
		(void)virt_error(e, "connect to libvirt");
		vm_close(vm);
		return NULL;
	}
	vm->dom = virDomainLookupByUUID(vm->conn, uuid);
	if (!vm->dom) {
		(void)virt_error(e, "find the VM");
		vm_close(vm);
		return NULL;
	}
	return vm;
}

static int vm_check(void *arg, struct err *e)
{
	struct vm *vm = arg;
	unsigned long version;

	return virConnectGetLibVersion(vm->conn, &version) == 0 ? 0 : virt_error(e, "libvirt");
}

/* ---- QEMU ---- */

/* *answer: to be freed. QEMU's own errors are answers too: libvirt passes them on as they are. */
static int ask(virDomainPtr dom, const char *command, char **answer, struct err *e)
{
	*answer = NULL;
	if (virDomainQemuMonitorCommand(dom, command, answer, 0) != 0)
		return virt_error(e, command);
	return *answer ? 0 : err_set(e, ERR_LIBVIRT, "%s: no answer", command);
}

static bool has(const char *answer, const char *words)
{
	return strstr(answer, words) != NULL;
}

static bool is_error(const char *answer)
{
	return has(answer, "\"error\":{");
}

static int order(virDomainPtr dom, const char *command, bool *accepted, struct err *e)
{
	MEM_AUTO char *answer = NULL;

	if (ask(dom, command, &answer, e) != 0)
		return -1;
	*accepted = !is_error(answer);
	return 0;
}

/* *off: QEMU has taken it; it does not while a migration is on. */
static int capability_off(virDomainPtr dom, const char *name, bool *off, struct err *e)
{
	MEM_AUTO char *command =
		mem_printf("{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":["
			   "{\"capability\":\"%s\",\"state\":false}]}}",
			   name);

	return order(dom, command, off, e);
}

/* ---- letting go ---- */

/* Before anything is changed: had a user paused it? COLO's own stops have no such reason. */
static int learn(struct rescue *r, struct err *e)
{
	int state = 0, reason = 0;

	if (r->known)
		return 0;
	if (virDomainGetState(r->dom, &state, &reason, 0) != 0)
		return virt_error(e, "state of the VM");
	r->by_user = state == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_USER &&
		     !(r->order->armed && r->order->background);
	r->known = true;
	return 0;
}

/* A migration, a save or a dump that libvirt itself is at: the user's, and never ours to end. A VM that stands still at the end of one may be running
 * on another host already. */
static int libvirt_job(virDomainPtr dom, bool *on, struct err *e)
{
	virDomainJobInfo info;

	if (virDomainGetJobInfo(dom, &info) != 0)
		return virt_error(e, "job of the VM");
	*on = info.type != VIR_DOMAIN_JOB_NONE;
	return 0;
}

/* A migration that is neither in COLO nor over: the first pass, whose reader is gone or does not read. It is ours when x-colo is set and
 * libvirt knows nothing of it: one that the user began meanwhile is left alone. So is a background snapshot, which is never cancelled
 * (snapshot/capture_internal.h): its stream is being read to its end. */
static int cancel_first_pass(struct rescue *r, struct err *e)
{
	static const char *const ours[] = {
		"\"state\":true,\"capability\":\"x-colo\"",
		"\"capability\":\"x-colo\",\"state\":true",
	};
	MEM_AUTO char *capabilities = NULL;
	bool mine = false, theirs = false;

	if (r->cancelled)
		return 0;
	if (libvirt_job(r->dom, &theirs, e) != 0)
		return -1;
	if (theirs)
		return 0;
	if (ask(r->dom, "{\"execute\":\"query-migrate-capabilities\"}", &capabilities, e) != 0)
		return -1;
	for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
		mine = mine || has(capabilities, ours[i]);
	return mine ? order(r->dom, "{\"execute\":\"migrate_cancel\"}", &r->cancelled, e) : 0;
}

/* The states in which only we can have left it, or in which nobody is going to let it go on. */
static bool held_by_capture(const struct rescue *r, const char *status)
{
	if (has(status, "\"status\":\"colo\"") || has(status, "\"status\":\"finish-migrate\"") ||
	    has(status, "\"status\":\"postmigrate\"") || has(status, "\"status\":\"save-vm\""))
		return true;
	return has(status, "\"status\":\"paused\"") && !r->by_user && r->order->armed;
}

/* What is there to be done, once. *runs: nothing of ours holds it any more; *over: no migration is on. */
static int step(struct rescue *r, bool *runs, bool *over, struct err *e)
{
	MEM_AUTO char *migration = NULL;
	MEM_AUTO char *status = NULL;
	bool accepted = false;

	if (order(r->dom, "{\"execute\":\"x-colo-lost-heartbeat\"}", &accepted, e) != 0)
		return -1;
	if (accepted && !r->colo_said_go) {
		r->colo_said_go = true;
		r->colo_go_ns = clock_mono_ns();
	}
	if (ask(r->dom, "{\"execute\":\"query-migrate\"}", &migration, e) != 0)
		return -1;
	const bool colo = has(migration, "\"status\":\"colo\"");
	*over = !has(migration, "\"status\":") || has(migration, "\"status\":\"completed\"") ||
		has(migration, "\"status\":\"failed\"") || has(migration, "\"status\":\"cancelled\"");
	if (!colo && !*over && !r->colo_said_go && cancel_first_pass(r, e) != 0)
		return -1;
	if (ask(r->dom, "{\"execute\":\"query-status\"}", &status, e) != 0)
		return -1;
	const bool patience = colo && clock_mono_ns() - (r->colo_said_go ? r->colo_go_ns : r->since_ns) < CONT_AFTER_NS;
	*runs = !held_by_capture(r, status);
	if (*runs || !(*over || (colo && !patience)))
		return 0;
	bool theirs = false;
	if (libvirt_job(r->dom, &theirs, e) != 0)
		return -1;
	return theirs ? 0 : order(r->dom, "{\"execute\":\"cont\"}", runs, e);
}

/* x-colo would make a migration, or a save, of the VM's user into COLO; background-snapshot likewise. */
static int take_back(struct rescue *r, bool *off, struct err *e)
{
	bool ignored = false; /* not every QEMU has it */
	int state = 0, reason = 0;

	if (capability_off(r->dom, "x-colo", off, e) != 0 ||
	    capability_off(r->dom, "background-snapshot", &ignored, e) != 0)
		return -1;
	if (!*off || !r->by_user)
		return 0;
	/* QEMU starts the VM at the end of COLO whatever a user had wished. */
	if (virDomainGetState(r->dom, &state, &reason, 0) == 0 && state == VIR_DOMAIN_RUNNING &&
	    virDomainSuspend(r->dom) != 0)
		return virt_error(e, "pause the VM again, as its user had");
	return 0;
}

static bool vm_is_gone(const struct vm *vm, const struct err *e)
{
	if (e->cls == ERR_LIBVIRT && e->errnum == VIR_ERR_NO_DOMAIN)
		return true;
	return vm && e->cls == ERR_LIBVIRT && e->errnum == VIR_ERR_OPERATION_INVALID && virDomainIsActive(vm->dom) == 0;
}

/* One try with a connection that is there. 1: done; 0: not yet; -1: libvirt failed. */
static int attempt(struct rescue *r, bool *runs, struct err *e)
{
	bool over = false, off = false, free_now = false;

	if (learn(r, e) != 0 || step(r, &free_now, &over, e) != 0)
		return -1;
	if (!*runs && free_now)
		log_info("guardian_runs", "ms=%lld", (long long)((clock_mono_ns() - r->since_ns) / NS_PER_MS));
	*runs = free_now;
	if (!over || !free_now)
		return 0;
	if (take_back(r, &off, e) != 0)
		return -1;
	return off ? 1 : 0;
}

static int free_guest(void *ctx, void **arg, const uint8_t uuid[16], const struct guard_order *why, bool *runs,
		      struct err *e)
{
	struct rescue r = { .order = why, .since_ns = clock_mono_ns() };
	int64_t pause_ns = FIRST_PAUSE_NS;
	bool said = false;

	*runs = false;
	for (;;) {
		struct err last = ERR_INIT;
		struct vm *vm = *arg ? *arg : (*arg = vm_open(ctx, uuid, &last));
		r.dom = vm ? vm->dom : NULL;
		const int rc = vm ? attempt(&r, runs, &last) : -1;
		if (rc == 1)
			return 0;
		if (rc < 0 && vm_is_gone(vm, &last))
			return 0;
		if (rc < 0 && !said) {
			said = true;
			log_warn("guardian_retries", "msg=%s", LOG_Q(last.text));
		}
		if (rc < 0) {
			vm_close(*arg);
			*arg = NULL;
		}
		if (clock_mono_ns() - r.since_ns >= GIVE_UP_NS) {
			if (rc < 0)
				*e = last;
			else
				err_set(e, ERR_LIBVIRT, "QEMU does not leave the migration");
			return err_remedy(e, "look at `virsh qemu-monitor-command VM --hmp info migrate'; `virsh "
					     "resume VM' may help");
		}
		sleep_ns(pause_ns);
		if (pause_ns < LONGEST_PAUSE_NS && clock_mono_ns() - r.since_ns > 50 * pause_ns)
			pause_ns *= 2;
	}
}

int rescue_init(const char *uri, struct guard_ops *out, struct err *e)
{
	union {
		const char *in;
		char *out;
	} u = { .in = uri }; /* never written to; a context has no const */

	virSetErrorFunc(NULL, ignore_error);
	if (virInitialize() < 0)
		return virt_error(e, "initialise libvirt's client library");
	*out = (struct guard_ops){
		.open = vm_open, .check = vm_check, .free_guest = free_guest, .close = vm_close, .ctx = u.out
	};
	return 0;
}
