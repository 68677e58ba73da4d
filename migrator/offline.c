#include "migrator/offline.h"

#include "base/child.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "migrator/virt.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPORT_NS (20 * NS_PER_S)
#define DEFINE_NS (30 * NS_PER_S)
#define TICK_NS (200 * NS_PER_MS)

struct copy {
	struct migrator *m;
	struct job *job;
	const struct job_ctl *ctl;
	struct outgoing *session;
	uint64_t before, size, all; /* bytes of the disks done, of this one, of all */
};

static bool stopped(const struct copy *c, struct err *e)
{
	if (outgoing_broken(c->session, e))
		return true;
	if (!c->job->cancel && !(c->ctl && c->ctl->cancelled && c->ctl->cancelled(c->ctl->ctx)))
		return false;
	err_set(e, ERR_CANCELLED, "cancelled");
	return true;
}

static void tell(const struct copy *c, unsigned percent)
{
	struct relay_stats r;
	double done = (double)c->before + (double)c->size * percent / 100.0;

	outgoing_stats(c->session, &r);
	job_note(c->m, c->job, c->ctl,
		 json_pack("{s:s, s:f, s:I, s:I, s:f}", "phase", "disks", "percent",
			   c->all ? 100.0 * done / (double)c->all : 100.0, "rate", (json_int_t)r.rate, "wire_bytes",
			   (json_int_t)r.wire_bytes, "ratio", r.wire_bytes ? done / (double)r.wire_bytes : 1.0));
}

/* nbdcopy writes "NN/100" lines. The last complete one counts. */
static void take_progress(int fd, char *line, size_t size, unsigned *percent)
{
	char chunk[256];
	ssize_t n = read(fd, chunk, sizeof chunk);

	for (ssize_t i = 0; i < n; i++) {
		size_t have = strlen(line);
		if (chunk[i] == '\n') {
			unsigned p;
			if (sscanf(line, "%u/", &p) == 1 && p <= 100)
				*percent = p;
			line[0] = 0;
		} else if (have + 1 < size) {
			line[have] = chunk[i];
			line[have + 1] = 0;
		}
	}
}

static int run_nbdcopy(const struct copy *c, const char *from, const char *to, struct err *e)
{
	MEM_AUTO char *source = mem_printf("nbd+unix:///?socket=%s", from);
	MEM_AUTO char *target = mem_printf("nbd+unix:///?socket=%s", to);
	const char *const argv[] = { "nbdcopy", "--progress=1", "--flush", "--destination-is-zero", source, target, NULL };
	FD_AUTO int out = -1;
	char line[64] = "";
	unsigned percent = 0;
	pid_t pid;
	int status = 0;

	if (child_start(argv, &pid, &out, e) != 0)
		return -1;
	for (;;) {
		struct pollfd p = { .fd = out, .events = POLLIN };
		if (poll(&p, 1, clock_poll_ms(clock_mono_ns() + TICK_NS)) > 0)
			take_progress(out, line, sizeof line, &percent);
		int rc = child_wait(pid, clock_mono_ns(), &status, e);
		if (rc < 0)
			return -1;
		if (rc == 0)
			break;
		tell(c, percent);
		if (stopped(c, e)) {
			child_stop(pid);
			return -1;
		}
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (!stopped(c, e))
		err_set(e, ERR_SYS, "nbdcopy failed; the agents' logs say why");
	return -1;
}

/* Until the server listens; it is our own child. */
static int wait_socket(pid_t pid, const char *path, struct err *e)
{
	int64_t until = clock_mono_ns() + 10 * NS_PER_S;
	int status;

	while (access(path, F_OK) != 0) {
		int rc = child_wait(pid, clock_mono_ns() + 20 * NS_PER_MS, &status, e);
		if (rc == 0)
			return err_set(e, ERR_SYS, "qemu-nbd ended; the agent's log says why");
		if (rc < 0)
			return -1;
		if (clock_mono_ns() > until)
			return err_set(e, ERR_SYS, "qemu-nbd does not listen on %s", path);
	}
	return 0;
}

/* answer may be NULL. */
static int call(struct outgoing *o, const char *method, json_t *args, int64_t ns, json_t **answer, struct err *e)
{
	json_t *unread = NULL;

	json_object_set_new(args, "session", json_string(outgoing_session(o)));
	int rc = rpc_call(outgoing_rpc(o), method, args, clock_mono_ns() + ns, NULL, NULL, NULL,
			  answer ? answer : &unread, e);
	json_decref(unread);
	return rc;
}

static int copy_one(struct copy *c, const struct offline_disk *d, struct err *e)
{
	const char *nbd = outgoing_nbd_path(c->session), *slash = strrchr(nbd, '/');
	MEM_AUTO char *source = mem_printf("%.*s/source.sock", (int)(slash - nbd), nbd);
	MEM_AUTO char *format = mem_printf("--format=%s", d->format);
	MEM_AUTO char *socket = mem_printf("--socket=%s", source);
	/* The image's lock keeps the VM from being started while it is copied. */
	const char *const argv[] = { "qemu-nbd", "--read-only", "--persistent", "--shared=8",
				     format,     socket,        d->path,        NULL };
	struct err ignored = ERR_INIT;
	pid_t pid = -1;
	int rc = -1;

	if (call(c->session, "migrate.export", json_pack("{s:s, s:s}", "path", d->path, "format", d->format), EXPORT_NS,
		 NULL, e) != 0)
		return -1;
	if (child_start(argv, &pid, NULL, e) == 0 && wait_socket(pid, source, e) == 0)
		rc = run_nbdcopy(c, source, nbd, e);
	child_stop(pid);
	unlink(source);
	/* The target's server flushes and ends; its error counts, for it is what makes the copy last. */
	if (call(c->session, "migrate.unexport", json_object(), EXPORT_NS, NULL, rc == 0 ? e : &ignored) != 0)
		rc = -1;
	return rc;
}

int offline_copy(struct migrator *m, struct job *job, const struct job_ctl *ctl, struct outgoing *session,
		 const struct offline_disk *disks, size_t n, struct err *e)
{
	struct copy c = { .m = m, .job = job, .ctl = ctl, .session = session };

	for (size_t i = 0; i < n; i++)
		c.all += disks[i].virtual_size;
	for (size_t i = 0; i < n; i++) {
		c.size = disks[i].virtual_size;
		if (copy_one(&c, &disks[i], e) != 0)
			return err_wrap(e, "copy %s", disks[i].path);
		c.before += c.size;
	}
	return 0;
}

int offline_define(struct outgoing *session, const char *xml, const json_t *files, bool written[STATE_FILE_KINDS],
		   struct err *e)
{
	json_t *args = json_pack("{s:s, s:O}", "xml", xml, "files", files), *answer = NULL, *name;
	size_t i;

	int rc = call(session, "migrate.define", args, DEFINE_NS, &answer, e);
	memset(written, 0, STATE_FILE_KINDS * sizeof(*written));
	json_array_foreach (json_object_get(answer, "written"), i, name) {
		enum state_file kind;
		if (state_file_by_name(json_string_value(name), &kind))
			written[kind] = true;
	}
	json_decref(answer);
	return rc;
}

/* There is no way to ask libvirt for "undefine, unless it runs": it may have been started just before, and what is undefined then is
 * only its definition. So nothing is ended or removed here before it is sure that it did not. */
int offline_forget(virConnectPtr conn, const char *uuid, const char *xml, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = virDomainLookupByUUIDString(conn, uuid);

	if (!dom)
		return virt_err(e, "look up VM %s", uuid);
	if (virDomainIsActive(dom) == 0) {
		if (fault_point(FAULT_OFFLINE_FORGET, e) != 0)
			return -1;
		/* Preflight has refused snapshots and said that checkpoints do not follow. */
		if (virDomainUndefineFlags(dom, VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA |
							VIR_DOMAIN_UNDEFINE_KEEP_NVRAM |
							VIR_DOMAIN_UNDEFINE_KEEP_TPM) != 0)
			return virt_err(e, "undefine VM %s here", uuid);
		if (virDomainIsActive(dom) != 1)
			return 0;
		VIRT_DOM_AUTO virDomainPtr again = virDomainDefineXML(conn, xml);
		if (!again)
			log_error("offline_define_again", "vm=%s msg=%s", uuid, LOG_Q(virGetLastErrorMessage()));
	}
	return err_set(e, ERR_REFUSED, "it was started here while it was moved");
}
