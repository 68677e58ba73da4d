#include "migrator/preflight_internal.h"

#include "base/mem.h"
#include "base/units.h"
#include "migrator/guests.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- findings ---- */

void preflight_findings_init(struct preflight_findings *f)
{
	f->list = json_array();
	f->errors = 0;
}

void preflight_findings_fini(struct preflight_findings *f)
{
	json_decref(f->list);
	f->list = NULL;
}

void preflight_add(struct preflight_findings *f, enum preflight_severity severity, const char *code, const char *remedy,
		   const char *fmt, ...)
{
	static const char *const names[] = {
		[PREFLIGHT_INFO] = "info",
		[PREFLIGHT_WARNING] = "warning",
		[PREFLIGHT_ERROR] = "error",
	};
	char text[1000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* A peer's text may be cut in the middle of a character: jansson then gives NULL, and the finding must not be
	 * lost. */
	json_t *item = json_pack("{s:s,s:s,s:s,s:s}", "code", code, "severity", names[severity], "text", text, "remedy",
				 remedy);
	if (!item)
		item = json_pack("{s:s,s:s,s:s,s:s}", "code", code, "severity", names[severity], "text", code, "remedy",
				 "");
	json_array_append_new(f->list, item);
	f->errors += severity == PREFLIGHT_ERROR;
}

void preflight_add_err(struct preflight_findings *f, const char *host, const struct err *why)
{
	char remedy[sizeof(why->remedy) + 300] = "";

	if (why->cls == ERR_REFUSED)
		preflight_add(f, PREFLIGHT_ERROR, "peer-refused", why->remedy, "%s refuses: %s", host, why->text);
	else if (why->cls == ERR_LIBVIRT) {
		if (why->remedy[0])
			snprintf(remedy, sizeof(remedy), "on %.250s: %s", host, why->remedy);
		preflight_add(f, PREFLIGHT_ERROR, "target-libvirt", remedy, "the agent of %s can't use its libvirt: %s",
			      host, why->text);
	} else
		preflight_add(f, PREFLIGHT_ERROR, "peer-unreachable", why->remedy, "%s can't be asked: %s", host,
			      why->text);
}

const json_t *preflight_find(const struct preflight_findings *f, const char *code)
{
	size_t i;
	json_t *item;
	json_array_foreach (f->list, i, item)
		if (strcmp(json_string_value(json_object_get(item, "code")), code) == 0)
			return item;
	return NULL;
}

int preflight_refuse(const struct preflight_findings *f, const char *what, struct err *e)
{
	char text[sizeof(e->text)] = "";
	const char *remedy = "";
	size_t len = 0;
	size_t i;
	json_t *item;

	if (f->errors == 0)
		return 0;
	json_array_foreach (f->list, i, item) {
		const char *t = json_string_value(json_object_get(item, "text"));
		const char *r = json_string_value(json_object_get(item, "remedy"));
		if (strcmp(json_string_value(json_object_get(item, "severity")), "error") != 0)
			continue;
		if (len < sizeof(text) - 1)
			len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", len ? "; " : "", t);
		if (!remedy[0])
			remedy = r;
	}
	err_set(e, ERR_REFUSED, "%s: %s", what, text);
	if (remedy[0])
		err_remedy(e, "%s", remedy);
	return -1;
}

/* ---- the VM itself ---- */

static void judge_state(const struct judge *j)
{
	switch (j->s->where) {
	case WHERE_RUNNING:
	case WHERE_PAUSED:
		if (j->s->paused_reason && strcmp(j->s->paused_reason, GUESTS_CRASHED) == 0)
			preflight_add(
				j->f, PREFLIGHT_ERROR, "vm-crashed",
				"look at it (virsh dump), then 'virsh destroy' it, or 'virsh reset' and 'virsh resume'",
				"%s has crashed, and is kept as it is (on_crash): elsewhere it would go on",
				j->dom->name);
		else if (j->offline)
			preflight_add(j->f, PREFLIGHT_ERROR, "vm-running",
				      "leave out --offline, or shut the VM down first",
				      "%s is running, and an offline move is for VMs that are shut off", j->dom->name);
		else if (j->s->where == WHERE_PAUSED)
			preflight_add(j->f, PREFLIGHT_INFO, "vm-paused", "", "%s is paused%s%s and will be paused at %s",
				      j->dom->name, j->s->paused_reason ? ", reason: " : "",
				      j->s->paused_reason ? j->s->paused_reason : "", j->host);
		return;
	case WHERE_SHUTOFF:
		if (!j->offline)
			preflight_add(j->f, PREFLIGHT_ERROR, "vm-shut-off",
				      "use --offline to move its definition and disks, or start it", "%s is shut off",
				      j->dom->name);
		return;
	case WHERE_LEFT:
	case WHERE_INCOMING:
		preflight_add(j->f, PREFLIGHT_ERROR, "vm-state",
			      "vmferry vms shows where it runs; vmferry events tells what happened",
			      "%s is in the middle of another migration (%s)", j->dom->name, where_name(j->s->where));
		return;
	case WHERE_ABSENT:
		preflight_add(j->f, PREFLIGHT_ERROR, "vm-state", "vmferry vms shows what runs where",
			      "%s is no longer on this host", j->dom->name);
		return;
	}
}

static const char *job_text(int operation)
{
	switch (operation) {
	case VIR_DOMAIN_JOB_OPERATION_START:
		return "it is being started";
	case VIR_DOMAIN_JOB_OPERATION_SAVE:
		return "it is being saved";
	case VIR_DOMAIN_JOB_OPERATION_RESTORE:
		return "it is being restored";
	case VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN:
		return "it is still being migrated to this host";
	case VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
		return "it is being migrated already";
	case VIR_DOMAIN_JOB_OPERATION_SNAPSHOT:
	case VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT:
	case VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE:
		return "a snapshot is being worked on";
	case VIR_DOMAIN_JOB_OPERATION_DUMP:
		return "its memory is being dumped";
	case VIR_DOMAIN_JOB_OPERATION_BACKUP:
		return "a backup is running";
	default:
		return "libvirt runs a job on it";
	}
}

static void judge_work(const struct judge *j)
{
	const struct preflight_source *s = j->s;

	if (s->job >= 0)
		preflight_add(j->f, PREFLIGHT_ERROR, "job-active",
			      "wait for it (virsh domjobinfo shows it), or end it: virsh domjobabort",
			      "%s can't be migrated now: %s", j->dom->name, job_text(s->job));
	for (size_t i = 0; i < j->dom->n_disks; i++)
		if (j->dom->disks[i].mirror)
			preflight_add(j->f, PREFLIGHT_ERROR, "block-job-active",
				      "wait for it, or end it: virsh blockjob VM DISK --abort",
				      "a block job (copy or commit) runs on disk %s", j->dom->disks[i].target);
	if (s->snapshots > 0)
		preflight_add(j->f, PREFLIGHT_ERROR, "snapshots",
			      "delete them (virsh snapshot-delete VM NAME), or only their records (--metadata) if the "
			      "files shall stay",
			      "%s has %u snapshot%s, which libvirt does not migrate", j->dom->name, s->snapshots,
			      s->snapshots == 1 ? "" : "s");
	if (s->checkpoints > 0)
		preflight_add(j->f, PREFLIGHT_WARNING, "checkpoints", "make a full backup after the move",
			      "%u backup checkpoint%s of %s stay%s behind", s->checkpoints,
			      s->checkpoints == 1 ? "" : "s", j->dom->name, s->checkpoints == 1 ? "s" : "");
	if (s->managed_save && j->offline)
		preflight_add(j->f, PREFLIGHT_ERROR, "managed-save",
			      "start it and migrate it live, or virsh managedsave-remove",
			      "%s has saved memory on this host, which an offline move would leave behind",
			      j->dom->name);
	if (!s->persistent && j->offline)
		preflight_add(j->f, PREFLIGHT_ERROR, "vm-transient", "migrate it live",
			      "%s is transient: nothing of it is there to move offline", j->dom->name);
	if (!s->persistent && !j->offline)
		preflight_add(j->f, PREFLIGHT_INFO, "vm-transient", "", "%s is transient and stays so", j->dom->name);
}

/* ---- the two hosts ---- */

static void judge_one_host(const struct judge *j, const char *host, uint64_t libvirt, uint64_t qemu)
{
	char text[32];

	if (libvirt > 0 && libvirt < PREFLIGHT_MIN_LIBVIRT)
		preflight_add(j->f, PREFLIGHT_ERROR, "libvirt-too-old", "upgrade it: 6.8 or newer is needed",
			      "libvirt of %s is %s, too old to migrate over UNIX sockets", host,
			      virt_format_version((unsigned long)libvirt, text, sizeof(text)));
	if (qemu > 0 && qemu < PREFLIGHT_MIN_QEMU)
		preflight_add(j->f, PREFLIGHT_ERROR, "qemu-too-old", "upgrade it: 4.2 or newer is needed",
			      "QEMU of %s is %s, too old", host,
			      virt_format_version((unsigned long)qemu, text, sizeof(text)));
}

static void judge_versions(const struct judge *j)
{
	uint64_t theirs = number(j->t, "qemu_version");
	char a[32], b[32];

	judge_one_host(j, "this host", j->s->libvirt_version, j->s->qemu_version);
	judge_one_host(j, j->host, number(j->t, "libvirt_version"), theirs);
	/* Patch levels come and go; releases are what machine types and devices hang on. */
	if (!j->offline && theirs > 0 && theirs / 1000 < j->s->qemu_version / 1000)
		preflight_add(j->f, PREFLIGHT_WARNING, "qemu-older", "",
			      "QEMU is %s here and %s at %s: moving to an older QEMU works where the machine type is "
			      "known there, but "
			      "distributions test it least",
			      virt_format_version(j->s->qemu_version, a, sizeof(a)),
			      virt_format_version((unsigned long)theirs, b, sizeof(b)), j->host);
}

static void judge_clock(const struct judge *j, int64_t skew_ns)
{
	char text[48];
	int64_t off = skew_ns < 0 ? -skew_ns : skew_ns;

	if (off <= PREFLIGHT_MAX_SKEW_NS)
		return;
	preflight_add(j->f, PREFLIGHT_WARNING, "clock-skew",
		      "let both hosts keep time by NTP (chrony, systemd-timesyncd)",
		      "the clock of %s is %s %s: a guest that takes its time from the host will jump", j->host,
		      units_format_duration(off, text, sizeof(text)), skew_ns < 0 ? "behind" : "ahead");
}

static void judge_busy(const struct judge *j)
{
	uint64_t max = number(j->t, "max_jobs");

	if (is_true(j->t, "incoming"))
		preflight_add(j->f, PREFLIGHT_ERROR, "target-busy", "wait for it; vmferry vms shows what moves",
			      "%s is already receiving %s", j->host, j->dom->name);
	else if (max > 0 && number(j->t, "jobs") >= max)
		preflight_add(j->f, PREFLIGHT_ERROR, "target-busy",
			      "wait until one has ended, or raise max_jobs in the configuration of the target",
			      "%s is receiving %llu VMs already, as many as it may at a time", j->host,
			      (unsigned long long)number(j->t, "jobs"));
}

static void judge_names(const struct judge *j)
{
	const json_t *uuid = json_object_get(j->t, "same_uuid");
	const json_t *name = json_object_get(j->t, "same_name");

	if (json_is_object(uuid)) {
		const char *state = str(uuid, "state");
		const char *other = str(uuid, "name");
		bool off = state && strcmp(state, "shutoff") == 0;
		bool same_name = other && strcmp(other, j->dom->name) == 0;
		if (off && same_name)
			preflight_add(j->f, PREFLIGHT_INFO, "definition-replaced", "",
				      "%s has a definition of %s that is shut off, probably from an earlier move: it "
				      "will be replaced",
				      j->host, j->dom->name);
		else if (off)
			preflight_add(j->f, PREFLIGHT_ERROR, "uuid-taken",
				      "undefine it there, or give one of the two another UUID",
				      "%s has a VM '%s' of the same UUID, shut off", j->host, other ? other : "?");
		else
			preflight_add(j->f, PREFLIGHT_ERROR, "uuid-taken",
				      "if it is the same VM it must not run twice: look at both before anything else",
				      "%s has a VM '%s' of the same UUID, and it is %s", j->host, other ? other : "?",
				      state ? state : "not shut off");
		if (same_name)
			return;
	}
	if (json_is_object(name)) {
		const char *theirs = str(name, "uuid");
		if (theirs && j->dom->uuid && strcmp(theirs, j->dom->uuid) == 0)
			return;
		preflight_add(j->f, PREFLIGHT_ERROR, "name-taken", "rename or undefine one of them: virsh domrename",
			      "%s has another VM named '%s' (UUID %s, %s)", j->host, j->dom->name,
			      theirs ? theirs : "?", str(name, "state") ? str(name, "state") : "?");
	}
}

static struct judge begin(const struct preflight_source *s, const json_t *target, const struct migration_args *args,
			  struct preflight_verdict *out)
{
	const char *host = str(target, "host");

	*out = (struct preflight_verdict){ .n_disks = s->dom->n_disks };
	out->actions = mem_alloc_array(s->dom->n_disks ? s->dom->n_disks : 1, sizeof(*out->actions));
	preflight_findings_init(&out->findings);
	return (struct judge){
		.s = s,
		.dom = s->dom,
		.t = target,
		.host = host         ? host
			: args->host ? args->host
				     : "the target",
		.args = args,
		.offline = args->offline,
		.f = &out->findings,
		.v = out,
	};
}

void preflight_judge_alone(const struct preflight_source *s, const struct migration_args *args,
			   struct preflight_verdict *out)
{
	const struct judge j = begin(s, NULL, args, out);

	judge_state(&j);
	judge_work(&j);
	judge_one_host(&j, "this host", s->libvirt_version, s->qemu_version);
}

void preflight_judge(const struct preflight_source *s, const json_t *target, const struct migration_args *args,
		     int64_t skew_ns, struct preflight_verdict *out)
{
	const struct judge j = begin(s, target, args, out);

	if (!json_is_array(json_object_get(target, "disks")) || !json_is_object(json_object_get(target, "machine")))
		preflight_add(j.f, PREFLIGHT_ERROR, "target-answer",
			      "see that both hosts run the same version of vmferryd",
			      "the agent of %s did not answer what was asked", j.host);
	judge_state(&j);
	judge_work(&j);
	judge_versions(&j);
	preflight_judge_machine(&j);
	preflight_judge_disks(&j);
	preflight_judge_devices(&j);
	judge_names(&j);
	judge_busy(&j);
	judge_clock(&j, skew_ns);
}

void preflight_verdict_fini(struct preflight_verdict *v)
{
	preflight_findings_fini(&v->findings);
	free(v->actions);
	v->actions = NULL;
}

int64_t preflight_skew(int64_t before_ns, int64_t after_ns, int64_t theirs_ns)
{
	if (theirs_ns < before_ns)
		return theirs_ns - before_ns;
	return theirs_ns > after_ns ? theirs_ns - after_ns : 0;
}
