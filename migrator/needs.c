#include "migrator/needs.h"

#include "migrator/facts.h"
#include "migrator/preflight_internal.h"

static int usage_type(const char *name)
{
	static const struct {
		const char *name;
		int type;
	} types[] = {
		{ "ceph", VIR_SECRET_USAGE_TYPE_CEPH },     { "iscsi", VIR_SECRET_USAGE_TYPE_ISCSI },
		{ "volume", VIR_SECRET_USAGE_TYPE_VOLUME }, { "vtpm", VIR_SECRET_USAGE_TYPE_VTPM },
		{ "tls", VIR_SECRET_USAGE_TYPE_TLS },
	};
	for (size_t i = 0; name && i < sizeof(types) / sizeof(types[0]); i++)
		if (strcmp(types[i].name, name) == 0)
			return types[i].type;
	return VIR_SECRET_USAGE_TYPE_NONE;
}

/* Does libvirt have that secret? True, false, or null when it can't be told. */
static json_t *know_secret(virConnectPtr conn, const struct domain_secret *s)
{
	struct err e = ERR_INIT;
	virSecretPtr secret = NULL;

	if (s->uuid)
		secret = virSecretLookupByUUIDString(conn, s->uuid);
	else if (s->usage)
		secret = virSecretLookupByUsage(conn, usage_type(s->type), s->usage);
	else
		return json_null();
	if (secret) {
		virSecretFree(secret);
		return json_true();
	}
	(void)virt_err(&e, "look up a secret");
	return virt_err_is(&e, VIR_ERR_NO_SECRET) ? json_false() : json_null();
}

static const char *secret_name(const struct domain_secret *s)
{
	return s->uuid ? s->uuid : s->usage;
}

static json_t *secrets_of(virConnectPtr conn, const struct domain *d)
{
	json_t *list = json_array();

	for (size_t i = 0; i < d->n_secrets; i++)
		if (secret_name(&d->secrets[i]))
			json_array_append_new(list, json_pack("{s:s,s:o}", "secret", secret_name(&d->secrets[i]),
							      "known", know_secret(conn, &d->secrets[i])));
	return list;
}

json_t *needs_facts(virConnectPtr conn, const struct domain *d)
{
	return json_pack("{s:o,s:o,s:o,s:o,s:o}", "networks", facts_networks(conn), "filters", facts_filters(conn),
			 "bridges", facts_bridges(), "interfaces", facts_interfaces(), "secrets", secrets_of(conn, d));
}

void needs_judge_network(const char *name, const json_t *facts, const char *host, enum preflight_severity severity,
			 struct preflight_findings *f)
{
	const json_t *net = named(json_object_get(facts, "networks"), "name", name);

	if (!net)
		preflight_add(f, severity, "network-missing",
			      "define and start it there: virsh net-define, virsh net-start", "%s has no network '%s'",
			      host, name);
	else if (!is_true(net, "active"))
		preflight_add(f, severity, "network-inactive", "virsh net-start, and net-autostart so that it stays",
			      "network '%s' of %s is not started", name, host);
}

static void judge_iface(const struct domain *d, const struct domain_iface *iface, const json_t *facts, const char *host,
			enum preflight_severity severity, struct preflight_findings *f)
{
	const json_t *filters = json_object_get(facts, "filters");

	if (iface->filter && json_is_array(filters) && !has_string(filters, iface->filter))
		preflight_add(f, severity, "filter-missing",
			      "define it there: virsh nwfilter-dumpxml here, virsh nwfilter-define there",
			      "%s has no network filter '%s'", host, iface->filter);
	if (iface->network) {
		needs_judge_network(iface->network, facts, host, severity, f);
	} else if (strcmp(iface->type, "bridge") == 0 && iface->bridge) {
		/* Open vSwitch's bridges are no kernel bridges, but they have an interface of their name. */
		bool there = has_string(json_object_get(facts, iface->openvswitch ? "interfaces" : "bridges"),
					iface->bridge);
		if (!there)
			preflight_add(f, severity, "bridge-missing",
				      "create it there, on the network that the guest is in", "%s has no bridge '%s'",
				      host, iface->bridge);
	} else if (iface->dev && !has_string(json_object_get(facts, "interfaces"), iface->dev)) {
		preflight_add(f, severity, "interface-missing",
			      "use a libvirt network (forward mode='bridge') that names the right device on each host",
			      "%s has no network device '%s', on which an interface of %s sits", host, iface->dev,
			      d->name);
	}
}

void needs_judge(const struct domain *d, const json_t *facts, const char *host, enum preflight_severity severity,
		 struct preflight_findings *f)
{
	for (size_t i = 0; i < d->n_ifaces; i++)
		judge_iface(d, &d->ifaces[i], facts, host, severity, f);
	for (size_t i = 0; i < d->n_secrets; i++) {
		const char *name = secret_name(&d->secrets[i]);
		if (name && is_false(named(json_object_get(facts, "secrets"), "secret", name), "known"))
			preflight_add(f, severity, "secret-missing",
				      "define it there too: virsh secret-define, virsh secret-set-value",
				      "libvirt of %s does not have secret %s, which %s of %s needs", host, name,
				      d->secrets[i].what, d->name);
	}
}
