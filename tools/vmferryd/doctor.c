/* The call "check": everything that would stand in the way of a migration, each with its remedy.
 * {} -> {"checks":[{"name","status":"ok"|"warn"|"fail","text","remedy"}]} */
#include "base/clock.h"
#include "base/mem.h"
#include "base/units.h"
#include "migrator/preflight.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/calls.h"
#include "tools/vmferryd/gather.h"
#include "transport/pki.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define LIBVIRT_HOOK "/etc/libvirt/hooks/qemu.d/vmferry"
#define WITHIN_NS (10 * NS_PER_S)
#define CERT_WARN_DAYS 30
#define SKEW_WARN_NS (500 * NS_PER_MS)
#define STATE_SPACE_MIN (UINT64_C(64) << 20)
#define REPLICA_SPACE_MIN (UINT64_C(1) << 30) /* replication stops at 64 MiB */
#define IMAGE_SPACE_MIN (UINT64_C(1) << 30)

enum status { OK, WARN, FAIL };

static const char *const status_names[] = { "ok", "warn", "fail" };

static void __attribute__((format(printf, 5, 6)))
add(json_t *checks, enum status status, const char *name, const char *remedy, const char *fmt, ...)
{
	char text[1300];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_array_append_new(checks, json_pack("{s:s, s:s, s:s, s:s}", "name", name, "status", status_names[status],
						"text", text, "remedy", status == OK ? "" : remedy));
}

static void add_error(json_t *checks, const char *name, const struct err *e)
{
	add(checks, FAIL, name, e->remedy, "%s", e->text);
}

/* ---- this host ---- */

static void check_version(json_t *checks, const char *name, json_int_t have, json_int_t least, const char *shown)
{
	if (have >= least)
		add(checks, OK, name, "", "%s", shown);
	else
		add(checks, FAIL, name, "upgrade it", "%s is too old; %lld.%lld is needed", shown,
		    (long long)(least / 1000000), (long long)(least / 1000 % 1000));
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "?";
}

static void check_hypervisor(json_t *checks, const json_t *facts)
{
	check_version(checks, "libvirt", json_integer_value(json_object_get(facts, "libvirt_version")),
		      PREFLIGHT_MIN_LIBVIRT, text_of(facts, "libvirt"));
	json_int_t qemu = json_integer_value(json_object_get(facts, "qemu_version"));
	if (qemu)
		check_version(checks, "qemu", qemu, PREFLIGHT_MIN_QEMU, text_of(facts, "qemu"));
	else
		add(checks, FAIL, "qemu", "install qemu-system-x86 and restart libvirtd",
		    "libvirt knows no QEMU on this host");
	if (json_is_true(json_object_get(facts, "kvm")))
		add(checks, OK, "kvm", "", "/dev/kvm is there");
	else
		add(checks, WARN, "kvm",
		    "switch on virtualization in the firmware and load kvm_intel or kvm_amd; only emulated (TCG) "
		    "guests can move "
		    "here until then",
		    "/dev/kvm is not there or not accessible");
}

static void check_libvirt_socket(json_t *checks, const struct config *c)
{
	struct stat st;
	if (stat(c->libvirt.socket, &st) == 0 && S_ISSOCK(st.st_mode))
		return;
	add(checks, FAIL, "libvirt socket",
	    "set libvirt.socket to the read-write socket of libvirtd or virtqemud (ls /run/libvirt/*sock)",
	    "%s is not a socket: VMs cannot come to this host", c->libvirt.socket);
}

static void check_cert(json_t *checks, const char *name, const char *file, const char *expected)
{
	struct err e = ERR_INIT;
	struct pki_cert cert;
	if (pki_show(file, &cert, &e) < 0) {
		add_error(checks, name, &e);
		return;
	}
	int64_t left = pki_days_left(&cert, clock_wall_ns() / NS_PER_S);
	if (expected && strcmp(cert.name, expected) != 0)
		add(checks, FAIL, name,
		    "issue one for this host (vmferry pki issue NAME), or set `name' in vmferryd.conf to its name",
		    "%s is for \"%s\", but this host is \"%s\": peers will not accept it", file, cert.name, expected);
	else if (left < 0)
		add(checks, FAIL, name,
		    expected ? "renew it: vmferry pki issue NAME --renew, copy host.pem and host.key here, "
			       "systemctl reload vmferryd"
			     : "make a new authority and new host certificates",
		    "%s has expired", file);
	else
		add(checks, left < CERT_WARN_DAYS ? WARN : OK, name,
		    "renew it in time: vmferry pki issue NAME --renew, copy host.pem and host.key here, systemctl "
		    "reload vmferryd",
		    "%s is good for %" PRId64 " days", file, left);
}

static void check_space(json_t *checks, const char *name, const char *dir, uint64_t least, bool missing_is_fine)
{
	struct statvfs fs;
	char have[32];
	if (statvfs(dir, &fs) < 0) {
		if (errno == ENOENT && missing_is_fine)
			add(checks, WARN, name, "make the folder, or set migration.image_dir to where images are kept",
			    "%s is not there: images cannot be made in it", dir);
		else
			add(checks, FAIL, name, "make the folder accessible", "%s: %s", dir, strerror(errno));
		return;
	}
	uint64_t bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	units_format_size(bytes, have, sizeof(have));
	add(checks, bytes < least ? WARN : OK, name, "free space on that file system", "%s has %s free", dir, have);
}

static void check_group(json_t *checks, const char *key, const char *group)
{
	struct group entry, *found = NULL;
	char buf[4096];
	if (!*group)
		return;
	/* ERANGE is a group with many members: it is there. */
	if (getgrnam_r(group, &entry, buf, sizeof(buf), &found) != 0 || found)
		return;
	add(checks, FAIL, key,
	    "set it to the group that QEMU runs as (/etc/libvirt/qemu.conf), or \"\" if QEMU runs as root",
	    "there is no group \"%s\" on this host", group);
}

/* Never more than a warning while Kafka alone is at fault: nothing here depends on it. */
static void check_kafka(struct agent *a, const struct config *c, json_t *checks)
{
	struct err e = ERR_INIT;
	struct forwarder_status s;
	if (!kafka_status(a->kafka, &s, &e))
		return;
	if (err_is_set(&e)) {
		add_error(checks, "kafka", &e);
		return;
	}
	uint64_t waiting = s.waiting + s.waiting_states;
	if (!s.connected)
		add(checks, WARN, "kafka", err_is_set(&s.problem) ? s.problem.remedy : "look again in a minute",
		    "%s; %" PRIu64 " events wait",
		    err_is_set(&s.problem) ? s.problem.text : "no broker has answered yet", waiting);
	else if (s.dropped > 0)
		add(checks, WARN, "kafka", "the log says which (events_dropped, kafka_refused)",
		    "%s answers; %" PRIu64 " events wait, %" PRIu64 " were lost to it since this agent started",
		    c->kafka.brokers, waiting, s.dropped);
	else
		add(checks, OK, "kafka", "", "%s answers; %" PRIu64 " events wait", c->kafka.brokers, waiting);
}

static void check_guardian(struct agent *a, json_t *checks)
{
	struct err e = ERR_INIT;
	pid_t pid;
	unsigned restarts;
	if (guard_status(a->guard, &pid, &restarts, &e) < 0)
		add_error(checks, "guardian", &e);
	else if (pid < 0)
		add(checks, WARN, "guardian", "the agent's log says why (guardian_died, guardian_start_failed)",
		    "it is not there just now; it was started again %u times", restarts);
	else
		add(checks, OK, "guardian", "",
		    "it looks after VMs while they are captured (process %d, started again %u times)", (int)pid,
		    restarts);
}

/* By its times alone: libvirt says nowhere which hooks it has found. It looks when it starts and when it is reloaded; that it was
 * reloaded is seen by nothing. */
static bool libvirt_knows_hook(const struct config *c, const struct stat *hook)
{
	static const char *const started[] = { "/run/libvirtd.pid", "/run/virtqemud.pid" };
	MEM_AUTO char *stamp = mem_printf("%s/hook-asked", c->run_dir);
	struct stat asked, pid;

	for (size_t i = 0; i < sizeof(started) / sizeof(started[0]); i++) {
		if (stat(started[i], &pid) < 0)
			continue;
		if (hook->st_ctim.tv_sec >= pid.st_mtim.tv_sec &&
		    (stat(stamp, &asked) < 0 || asked.st_mtim.tv_sec < pid.st_mtim.tv_sec))
			return false;
	}
	return true;
}

static void check_hook(const struct config *c, json_t *checks)
{
	struct stat link, st;

	if (lstat(LIBVIRT_HOOK, &link) < 0 || stat(LIBVIRT_HOOK, &st) < 0)
		add(checks, WARN, "hook",
		    "ln -s /usr/sbin/vmferry-hook " LIBVIRT_HOOK ", then systemctl restart libvirtd (VMs run on)",
		    "%s: %s: libvirt starts VMs that have gone on elsewhere; the agent pauses them, within two "
		    "seconds, "
		    "if it runs",
		    LIBVIRT_HOOK, strerror(errno));
	else if (!S_ISREG(st.st_mode) || access(LIBVIRT_HOOK, X_OK) < 0)
		add(checks, WARN, "hook", "chmod 755 it, then systemctl restart libvirtd (VMs run on)",
		    "%s is not executable: libvirt does not ask it before it starts a VM", LIBVIRT_HOOK);
	else if (!libvirt_knows_hook(c, &link))
		add(checks, WARN, "hook", "systemctl restart libvirtd (or virtqemud; VMs run on)",
		    "%s came after libvirt was started, which has not asked it since", LIBVIRT_HOOK);
	else
		add(checks, OK, "hook", "", "libvirt asks before it starts a VM whose it is");
}

static void check_here(struct agent *a, const struct config *c, json_t *checks)
{
	struct err e = ERR_INIT;
	json_t *none = json_object(), *facts = NULL;
	char up[32];
	units_format_duration(clock_mono_ns() - a->started_ns, up, sizeof(up));
	add(checks, OK, "agent", "", "vmferryd %s on %s, up %s", VMFERRY_VERSION, c->name, up);
	if (migrator_host_facts(a->migrator, none, &facts, &e) == 0)
		check_hypervisor(checks, facts);
	else
		add_error(checks, "libvirt", &e);
	json_decref(facts);
	json_decref(none);
	check_libvirt_socket(checks, c);
	check_hook(c, checks);
	check_group(checks, "qemu_group", c->libvirt.qemu_group);
	check_cert(checks, "certificate", c->tls.cert, c->name);
	check_cert(checks, "CA", c->tls.ca, NULL);
	check_space(checks, "state_dir", c->state_dir, STATE_SPACE_MIN, false);
	check_space(checks, "replica_dir", c->replication.replica_dir, REPLICA_SPACE_MIN, false);
	if (c->migration.image_dir[0])
		check_space(checks, "image_dir", c->migration.image_dir, IMAGE_SPACE_MIN, true);
	check_kafka(a, c, checks);
	check_guardian(a, checks);
}

/* ---- peers ---- */

static void check_clock(json_t *checks, const struct gather_item *item)
{
	char shown[32];
	int64_t skew = item->skew_ns < 0 ? -item->skew_ns : item->skew_ns;
	int64_t certain = skew > item->rtt_ns / 2 ? skew - item->rtt_ns / 2 : 0; /* the answer may have been slow */
	units_format_duration(skew, shown, sizeof(shown));
	if (certain <= SKEW_WARN_NS)
		return;
	add(checks, certain > PREFLIGHT_MAX_SKEW_NS ? FAIL : WARN, "clock",
	    "synchronize both hosts (chrony or systemd-timesyncd)",
	    "the clock of %s is %s %s: a guest's time would jump when it moves", item->host, shown,
	    item->skew_ns > 0 ? "ahead" : "behind");
}

/* What the peer lets us do, as it says itself. */
static unsigned roles_there(const json_t *status)
{
	unsigned roles = 0;
	size_t i;
	const json_t *name;
	json_array_foreach (json_object_get(status, "roles"), i, name) {
		if (json_is_string(name))
			roles |= config_role_from_name(json_string_value(name));
	}
	return roles;
}

static void check_peer(json_t *checks, const struct config_peer *peer, const struct gather_item *item)
{
	char here[64], there[64];
	if (!item->status) {
		add(checks, FAIL, "peer", item->error.remedy, "%s: %s", item->host, item->error.text);
		return;
	}
	unsigned theirs = roles_there(item->status), ours = peer ? peer->roles : 0;
	bool useless = !(theirs & ROLE_MIGRATE_IN) && !(ours & ROLE_MIGRATE_IN);
	add(checks, useless ? WARN : OK, "peer",
	    "give the role \"migrate-in\" in vmferryd.conf of the host that VMs are to move to",
	    "%s answers in %.1f ms; it may here: %s; this host may there: %s", item->host, (double)item->rtt_ns / 1e6,
	    config_roles_format(ours, here, sizeof(here)), config_roles_format(theirs, there, sizeof(there)));
	const char *version = text_of(item->status, "version");
	if (strcmp(version, VMFERRY_VERSION) != 0)
		add(checks, WARN, "version", "upgrade the older one", "%s runs vmferryd %s, this host %s", item->host,
		    version, VMFERRY_VERSION);
	check_clock(checks, item);
}

int doctor_check(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)call;
	(void)args;
	(void)e;
	json_t *checks = json_array();
	const struct settings_view *view = settings_get(a->settings);
	check_here(a, view->config, checks);
	size_t n = 0;
	struct gather_item *items = gather_ask(a, NULL, NULL, NULL, WITHIN_NS, &n);
	for (size_t i = 0; i < n; i++)
		if (!items[i].self)
			check_peer(checks, config_peer_find(view->config, items[i].host), &items[i]);
	gather_free(items, n);
	if (view->config->n_peers == 0)
		add(checks, WARN, "peers", "add the other hosts to `peers' in vmferryd.conf, and this one to theirs",
		    "no peers are configured: VMs have nowhere to go");
	settings_put(a->settings, view);
	*result = json_pack("{s:o}", "checks", checks);
	return 0;
}
