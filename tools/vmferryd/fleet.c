/* Calls about this host and its peers: agent.status, hosts, vms, cpu.baseline. */
#include "base/clock.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/calls.h"
#include "tools/vmferryd/gather.h"

#include <string.h>

#define WITHIN_NS (10 * NS_PER_S)

static json_t *role_names(unsigned roles)
{
	json_t *names = json_array();
#define X(id, bit, name)   \
	if (roles & (bit)) \
		json_array_append_new(names, json_string(name));
	ROLES(X)
#undef X
	return names;
}

/* {} -> {"name","version","time_ns","uptime_ms","roles": what the caller may do here}. Every peer may ask. */
int fleet_status(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)args;
	(void)e;
	const struct settings_view *view = settings_get(a->settings);
	const struct config_peer *peer = config_peer_find(view->config, rpc_caller(call));
	*result = json_pack("{s:s, s:s, s:I, s:I, s:o}", "name", view->config->name, "version", VMFERRY_VERSION,
			    "uptime_ms", (json_int_t)((clock_mono_ns() - a->started_ns) / NS_PER_MS), "time_ns",
			    (json_int_t)clock_wall_ns(), "roles", role_names(peer ? peer->roles : 0));
	settings_put(a->settings, view);
	return 0;
}

static json_t *host_json(struct agent *a, const struct gather_item *item)
{
	json_t *o = json_pack("{s:s, s:b, s:b}", "name", item->host, "self", item->self, "reachable",
			      item->status != NULL);
	if (!item->self) {
		json_object_set_new(o, "may_here", role_names(settings_roles(a->settings, item->host)));
		if (item->status) {
			json_t *roles = json_object_get(item->status, "roles");
			json_object_set(o, "may_there", roles ? roles : json_null());
			json_object_set_new(o, "rtt_us", json_integer(item->rtt_ns / 1000));
			json_object_set_new(o, "clock_skew_ms", json_integer(item->skew_ns / NS_PER_MS));
		}
	}
	if (item->result)
		json_object_set(o, "facts", item->result);
	if (err_is_set(&item->error)) {
		json_object_set_new(o, "error", json_string(item->error.text));
		json_object_set_new(o, "remedy", json_string(item->error.remedy));
	}
	return o;
}

/* {} ->
 * {"hosts":[{"name","self","reachable","may_here":[],"may_there":[],"rtt_us","clock_skew_ms","facts":{},"error","remedy"}]} */
int fleet_hosts(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)call;
	(void)args;
	(void)e;
	size_t n = 0;
	json_t *none = json_object(), *hosts = json_array();
	struct gather_item *items = gather_ask(a, NULL, "host.facts", none, WITHIN_NS, &n);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(hosts, host_json(a, &items[i]));
	gather_free(items, n);
	json_decref(none);
	*result = json_pack("{s:o}", "hosts", hosts);
	return 0;
}

/* {} -> {"vms":[...]}, of this host. */
int fleet_own_vms(struct agent *a, const json_t *args, json_t **result, struct err *e)
{
	const int64_t since_ns = clock_mono_ns();
	if (migrator_vms(a->migrator, args, result, e) < 0)
		return -1;
	replicator_see_through(a->replicator, json_object_get(*result, "vms"), since_ns);
	return 0;
}

/* {} -> {"vms":[...], "unreachable":[{"host","text"}]}, of this host and all its peers. */
int fleet_vms(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)call;
	(void)args;
	(void)e;
	size_t n = 0;
	json_t *none = json_object(), *vms = json_array(), *bad = json_array();
	struct gather_item *items = gather_ask(a, NULL, "vms", none, WITHIN_NS, &n);
	for (size_t i = 0; i < n; i++) {
		json_t *list = json_object_get(items[i].result, "vms");
		if (json_is_array(list))
			json_array_extend(vms, list);
		else
			json_array_append_new(bad, json_pack("{s:s, s:s}", "host", items[i].host, "text",
							     items[i].error.text));
	}
	gather_free(items, n);
	json_decref(none);
	*result = json_pack("{s:o, s:o}", "vms", vms, "unreachable", bad);
	return 0;
}

/* The members of cpu.baseline's argument, out of one host's facts; NULL if it has told nothing of its CPU. */
static json_t *baseline_host(const struct gather_item *item)
{
	json_t *cpu = json_object_get(item->result, "cpu"), *xml = json_object_get(cpu, "xml");
	if (!json_is_string(xml))
		return NULL;
	json_t *host = json_pack("{s:s, s:O}", "name", item->host, "cpu_xml", xml);
	static const char *const also[] = { "virt_type", "features" };
	for (size_t i = 0; i < 2; i++) {
		json_t *v = json_object_get(cpu, also[i]);
		if (v && !json_is_null(v))
			json_object_set(host, also[i], v);
	}
	return host;
}

static int collect_cpus(const struct gather_item *items, size_t n, json_t *hosts, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		json_t *host = baseline_host(&items[i]);
		if (host) {
			json_array_append_new(hosts, host);
		} else if (err_is_set(&items[i].error)) {
			*e = items[i].error;
			return err_wrap(e, "ask %s for its CPU", items[i].host);
		} else {
			return err_set(e, ERR_LIBVIRT, "the libvirt of %s does not say what its CPU can do",
				       items[i].host);
		}
	}
	return 0;
}

static bool names_self(struct agent *a, const json_t *hosts)
{
	size_t i;
	const json_t *name;
	bool found = false;
	const struct settings_view *view = settings_get(a->settings);
	json_array_foreach (hosts, i, name)
		found |= json_is_string(name) && strcmp(json_string_value(name), view->config->name) == 0;
	settings_put(a->settings, view);
	return found;
}

/* {"hosts":[names]} (empty: all; this host is always in) -> migrator_cpu_baseline's result. */
int fleet_baseline(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)call;
	size_t n = 0;
	json_t *none = json_object(), *hosts = json_array();
	json_t *names = json_array_size(json_object_get(args, "hosts")) ? json_deep_copy(json_object_get(args, "hosts"))
									: NULL;
	if (names && !names_self(a, names)) {
		const struct settings_view *view = settings_get(a->settings);
		json_array_insert_new(names, 0, json_string(view->config->name));
		settings_put(a->settings, view);
	}
	struct gather_item *items = gather_ask(a, names, "host.facts", none, WITHIN_NS, &n);
	int rc = collect_cpus(items, n, hosts, e);
	gather_free(items, n);
	json_t *question = json_pack("{s:o}", "hosts", hosts);
	if (rc == 0)
		rc = migrator_cpu_baseline(a->migrator, question, result, e);
	json_decref(question);
	json_decref(names);
	json_decref(none);
	return rc;
}
