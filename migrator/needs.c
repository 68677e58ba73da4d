#include "migrator/needs.h"

#include "migrator/facts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void found(json_t *findings, const char *what, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void found(json_t *findings, const char *what, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_array_append_new(findings, json_pack("{s:s, s:s}", "what", what, "text", text));
}

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

json_t *needs_secret(virConnectPtr conn, const struct domain_secret *s)
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

static bool has(const json_t *list, const char *name)
{
	size_t i;
	json_t *item;

	json_array_foreach (list, i, item)
		if (strcmp(json_string_value(item), name) == 0)
			return true;
	return false;
}

static void look_for_network(const char *name, const json_t *networks, json_t *findings)
{
	size_t i;
	json_t *net;

	json_array_foreach (networks, i, net) {
		if (strcmp(json_string_value(json_object_get(net, "name")), name) != 0)
			continue;
		if (!json_is_true(json_object_get(net, "active")))
			found(findings, "network-inactive", "network '%s' is not started here: the VM would not start",
			      name);
		return;
	}
	found(findings, "network-missing", "there is no network '%s' here: the VM would not start", name);
}

static void look_below(const struct domain_iface *iface, const json_t *bridges, const json_t *devices, json_t *findings)
{
	const char *bridge = strcmp(iface->type, "bridge") == 0 ? iface->bridge : NULL;

	if (bridge && !has(iface->openvswitch ? devices : bridges, bridge))
		found(findings, "bridge-missing", "there is no bridge '%s' here: the VM would not start", bridge);
	else if (iface->dev && !has(devices, iface->dev))
		found(findings, "interface-missing", "there is no network device '%s' here: the VM would not start",
		      iface->dev);
}

static void look_at_networks(virConnectPtr conn, const struct domain *d, json_t *findings)
{
	json_t *networks = facts_networks(conn), *bridges = facts_bridges(), *devices = facts_interfaces();
	json_t *filters = facts_filters(conn);

	for (size_t i = 0; i < d->n_ifaces; i++) {
		const struct domain_iface *iface = &d->ifaces[i];
		if (iface->network)
			look_for_network(iface->network, networks, findings);
		else
			look_below(iface, bridges, devices, findings);
		if (iface->filter && json_is_array(filters) && !has(filters, iface->filter))
			found(findings, "filter-missing",
			      "there is no network filter '%s' here: the VM would not start", iface->filter);
	}
	json_decref(networks);
	json_decref(bridges);
	json_decref(devices);
	json_decref(filters);
}

void needs_find(virConnectPtr conn, const char *xml, json_t *findings)
{
	struct err ignored = ERR_INIT;
	DOMAIN_AUTO struct domain *d = domain_parse(xml, &ignored);

	if (!d)
		return;
	look_at_networks(conn, d, findings);
	for (size_t i = 0; i < d->n_secrets; i++) {
		const struct domain_secret *s = &d->secrets[i];
		json_t *known = needs_secret(conn, s);
		if (json_is_false(known))
			found(findings, "secret-missing",
			      "%s needs secret %s, which libvirt does not have here: the VM would not start", s->what,
			      s->uuid ? s->uuid : s->usage);
		json_decref(known);
	}
}
