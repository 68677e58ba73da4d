#include "migrator/cpu.h"

#include "base/mem.h"
#include "migrator/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CPU_XML_MAX (256u << 10)
#define CAPS_XML_MAX (4u << 20)
#define BASELINE_MAX_HOSTS 256

static const char *const verdict_names[] = {
	[CPU_IDENTICAL] = "identical",
	[CPU_SUPERSET] = "superset",
	[CPU_MISSING] = "missing",
	[CPU_UNKNOWN] = "unknown",
};

const char *cpu_verdict_name(enum cpu_verdict v)
{
	return verdict_names[v];
}

enum cpu_verdict cpu_verdict_from_name(const char *name)
{
	for (size_t i = 0; name && i < sizeof(verdict_names) / sizeof(verdict_names[0]); i++)
		if (strcmp(name, verdict_names[i]) == 0)
			return (enum cpu_verdict)i;
	return CPU_UNKNOWN;
}

void cpu_result_fini(struct cpu_result *r)
{
	json_decref(r->missing);
	r->missing = NULL;
}

/* Keeps the array sorted and without doubles. */
static void add_feature(json_t *list, const char *name)
{
	size_t at = 0;
	for (; at < json_array_size(list); at++) {
		int order = strcmp(name, json_string_value(json_array_get(list, at)));
		if (order == 0)
			return;
		if (order < 0)
			break;
	}
	json_array_insert_new(list, at, json_string(name));
}

json_t *cpu_missing_from_message(const char *message)
{
	static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	json_t *list = json_array();
	const char *colon = strrchr(message, ':');

	/* "...: Host CPU does not provide required features: hle, rtm". Translated or not, the list stands behind the
	 * last colon. */
	for (const char *p = colon ? colon + 1 : ""; *p;) {
		char name[64];
		p += strspn(p, " ,");
		size_t len = strspn(p, ok);
		size_t end = strcspn(p, ",");
		if (len == 0 || len != end || len >= sizeof(name)) { /* prose, not a list */
			json_array_clear(list);
			return list;
		}
		snprintf(name, sizeof(name), "%.*s", (int)len, p);
		add_feature(list, name);
		p += len;
	}
	return list;
}

json_t *cpu_features(const char *cpu_xml, struct err *e)
{
	XML_DOC_AUTO xmlDocPtr doc = xml_parse(cpu_xml, CPU_XML_MAX, "CPU XML", e);
	xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;

	if (!doc)
		return NULL;
	if (!xml_is(root, "cpu")) {
		err_set(e, ERR_CORRUPT, "CPU XML does not begin with <cpu>");
		return NULL;
	}
	json_t *list = json_array();
	for (xmlNodePtr f = xml_child(root, "feature"); f; f = xml_next(f, "feature")) {
		MEM_AUTO char *name = xml_attr(f, "name");
		MEM_AUTO char *policy = xml_attr(f, "policy");
		if (name && (!policy || strcmp(policy, "require") == 0 || strcmp(policy, "force") == 0))
			add_feature(list, name);
	}
	return list;
}

json_t *cpu_difference(const json_t *a, const json_t *b)
{
	json_t *out = json_array();
	size_t i, j;
	json_t *x, *y;

	json_array_foreach (a, i, x) {
		bool found = false;
		json_array_foreach (b, j, y)
			found = found || json_equal(x, y);
		if (!found)
			json_array_append(out, x);
	}
	return out;
}

char *cpu_model(const char *cpu_xml)
{
	struct err ignored = ERR_INIT;
	XML_DOC_AUTO xmlDocPtr doc = xml_parse(cpu_xml, CPU_XML_MAX, "CPU XML", &ignored);
	return doc ? xml_text(xml_child(xmlDocGetRootElement(doc), "model")) : NULL;
}

char *cpu_host_model_from_caps(const char *domain_caps_xml)
{
	struct err ignored = ERR_INIT;
	XML_DOC_AUTO xmlDocPtr doc = xml_parse(domain_caps_xml, CAPS_XML_MAX, "domain capabilities", &ignored);
	xmlNodePtr cpu = doc ? xml_child(xmlDocGetRootElement(doc), "cpu") : NULL;

	for (xmlNodePtr mode = xml_child(cpu, "mode"); mode; mode = xml_next(mode, "mode")) {
		if (!xml_attr_is(mode, "name", "host-model") || !xml_attr_is(mode, "supported", "yes"))
			continue;
		/* Its children are those of a custom <cpu>. */
		xmlNodeSetName(mode, (const xmlChar *)"cpu");
		xmlUnsetProp(mode, (const xmlChar *)"name");
		xmlUnsetProp(mode, (const xmlChar *)"supported");
		xmlSetProp(mode, (const xmlChar *)"mode", (const xmlChar *)"custom");
		xmlSetProp(mode, (const xmlChar *)"match", (const xmlChar *)"exact");
		return xml_dump(mode);
	}
	return NULL;
}

char *cpu_host_model(virConnectPtr conn, const struct cpu_scope *scope, struct err *e)
{
	VIRT_STR_AUTO char *caps = virConnectGetDomainCapabilities(conn, scope->emulator, scope->arch, scope->machine,
								   scope->virt_type, 0);
	if (!caps) {
		virt_err(e, "ask libvirt what %s guests can have", scope->virt_type ? scope->virt_type : "its");
		return NULL;
	}
	char *xml = cpu_host_model_from_caps(caps);
	if (!xml)
		err_set(e, ERR_REFUSED, "libvirt has no host-model CPU for %s guests here",
			scope->virt_type ? scope->virt_type : "default");
	return xml;
}

/* All features of a CPU, its model spelled out; NULL with the error when libvirt can't. */
static json_t *expand(virConnectPtr conn, const struct cpu_scope *scope, const char *cpu_xml, struct err *e)
{
	VIRT_STR_AUTO char *full = virConnectBaselineHypervisorCPU(conn, scope->emulator, scope->arch, scope->machine,
								   scope->virt_type, &cpu_xml, 1,
								   VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES |
									   VIR_CONNECT_BASELINE_CPU_MIGRATABLE);
	if (!full) {
		virt_err(e, "spell out the features of a CPU");
		return NULL;
	}
	return cpu_features(full, e);
}

/* libvirt said no without naming features: found by spelling out both CPUs. */
static json_t *missing_by_features(virConnectPtr conn, const struct cpu_scope *scope, const char *cpu_xml)
{
	struct err ignored = ERR_INIT;
	MEM_AUTO char *host_xml = cpu_host_model(conn, scope, &ignored);
	json_t *wanted = host_xml ? expand(conn, scope, cpu_xml, &ignored) : NULL;
	json_t *have = wanted ? expand(conn, scope, host_xml, &ignored) : NULL;
	json_t *missing = have ? cpu_difference(wanted, have) : json_array();
	json_decref(wanted);
	json_decref(have);
	return missing;
}

int cpu_compare(virConnectPtr conn, const struct cpu_scope *scope, const char *cpu_xml, struct cpu_result *out,
		struct err *e)
{
	int rc = virConnectCompareHypervisorCPU(conn, scope->emulator, scope->arch, scope->machine, scope->virt_type,
						cpu_xml, VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE);
	struct cpu_result r = { .verdict = CPU_UNKNOWN };

	if (rc < 0) {
		struct err got = ERR_INIT;
		virt_err(&got, "compare CPUs");
		if (virt_err_is(&got, VIR_ERR_CPU_INCOMPATIBLE)) {
			r.verdict = CPU_MISSING;
			r.missing = cpu_missing_from_message(got.text);
			if (json_array_size(r.missing) == 0) {
				json_decref(r.missing);
				r.missing = missing_by_features(conn, scope, cpu_xml);
			}
		} else if (virConnectIsAlive(conn) != 1) {
			*e = got;
			return -1;
		}
		snprintf(r.message, sizeof(r.message), "%.*s", (int)sizeof(r.message) - 1, got.text);
	} else if (rc == VIR_CPU_COMPARE_IDENTICAL) {
		r.verdict = CPU_IDENTICAL;
	} else if (rc == VIR_CPU_COMPARE_SUPERSET) {
		r.verdict = CPU_SUPERSET;
	} else {
		r.verdict = CPU_MISSING;
		r.missing = missing_by_features(conn, scope, cpu_xml);
	}
	if (!r.missing)
		r.missing = json_array();
	*out = r;
	return 0;
}

json_t *cpu_facts(virConnectPtr conn)
{
	static const char *const types[] = { "kvm", "qemu" };
	const char *type = NULL;
	json_t *features = NULL;
	MEM_AUTO char *xml = NULL;
	MEM_AUTO char *vendor = NULL;

	for (size_t i = 0; !xml && i < sizeof(types) / sizeof(types[0]); i++) {
		struct err ignored = ERR_INIT;
		if (strcmp(types[i], "kvm") == 0 && access("/dev/kvm", R_OK | W_OK) != 0)
			continue;
		xml = cpu_host_model(conn, &(struct cpu_scope){ .virt_type = types[i] }, &ignored);
		type = types[i];
	}
	MEM_AUTO char *model = xml ? cpu_model(xml) : NULL;
	if (xml) {
		struct err ignored = ERR_INIT;
		XML_DOC_AUTO xmlDocPtr doc = xml_parse(xml, CPU_XML_MAX, "CPU XML", &ignored);
		vendor = doc ? xml_text(xml_child(xmlDocGetRootElement(doc), "vendor")) : NULL;
		features = expand(conn, &(struct cpu_scope){ .virt_type = type }, xml, &ignored);
	}
	return json_pack("{s:s?,s:s?,s:s?,s:s?,s:o}", "virt_type", xml ? type : NULL, "model", model, "vendor", vendor,
			 "xml", xml, "features", features ? features : json_null());
}

struct baseline_hosts {
	size_t n;
	const char *xmls[BASELINE_MAX_HOSTS]; /* borrowed from the arguments */
	const char *virt_type;
};

static int baseline_args(const json_t *args, struct baseline_hosts *h, struct err *e)
{
	const json_t *hosts = json_object_get(args, "hosts");
	size_t i;
	json_t *host;

	if (!json_is_array(hosts) || json_array_size(hosts) == 0 || json_array_size(hosts) > BASELINE_MAX_HOSTS)
		return err_set(e, ERR_CONFIG, "a CPU baseline needs 1 to %d hosts", BASELINE_MAX_HOSTS);
	json_array_foreach (hosts, i, host) {
		const char *name = json_string_value(json_object_get(host, "name"));
		const char *xml = json_string_value(json_object_get(host, "cpu_xml"));
		const char *type = json_string_value(json_object_get(host, "virt_type"));
		if (!name || !xml)
			return err_set(e, ERR_REFUSED, "host %s does not say which CPU its guests can have",
				       name ? name : "?");
		struct err bad = ERR_INIT;
		json_t *features = cpu_features(xml, &bad);
		if (!features) {
			err_wrap(&bad, "host %s", name);
			*e = bad;
			return -1;
		}
		json_decref(features);
		if (h->virt_type && type && strcmp(type, h->virt_type) != 0) {
			err_set(e, ERR_REFUSED, "host %s runs guests by %s, others by %s: their CPUs can't be compared",
				name, type, h->virt_type);
			return err_remedy(e, "leave out the hosts without KVM");
		}
		if (!h->virt_type)
			h->virt_type = type;
		h->xmls[h->n++] = xml;
	}
	return 0;
}

/* What each host has and the baseline has not. */
static json_t *losses(virConnectPtr conn, const struct cpu_scope *scope, const json_t *hosts, const json_t *common)
{
	json_t *out = json_array();
	size_t i;
	json_t *host;

	json_array_foreach (hosts, i, host) {
		struct err ignored = ERR_INIT;
		/* As the host itself spelled them out: here libvirt would leave out what this host does not know. */
		json_t *have = json_incref(json_object_get(host, "features"));
		if (!json_is_array(have)) {
			json_decref(have);
			have = expand(conn, scope, json_string_value(json_object_get(host, "cpu_xml")), &ignored);
		}
		json_t *loses = have ? cpu_difference(have, common) : json_null();
		json_array_append_new(out,
				      json_pack("{s:O,s:o}", "name", json_object_get(host, "name"), "loses", loses));
		json_decref(have);
	}
	return out;
}

/* As an operator pastes it: libvirt is to check it at each start. */
static char *for_guests(const char *cpu_xml, struct err *e)
{
	XML_DOC_AUTO xmlDocPtr doc = xml_parse(cpu_xml, CPU_XML_MAX, "CPU XML", e);
	if (!doc)
		return NULL;
	xmlSetProp(xmlDocGetRootElement(doc), (const xmlChar *)"check", (const xmlChar *)"partial");
	return xml_dump(xmlDocGetRootElement(doc));
}

int cpu_baseline(virConnectPtr conn, const json_t *args, json_t **result, struct err *e)
{
	struct baseline_hosts h = { 0 };
	if (baseline_args(args, &h, e) < 0)
		return -1;
	struct cpu_scope scope = { .virt_type = h.virt_type };
	VIRT_STR_AUTO char *xml = virConnectBaselineHypervisorCPU(conn, NULL, NULL, NULL, h.virt_type, h.xmls,
								  (unsigned)h.n, VIR_CONNECT_BASELINE_CPU_MIGRATABLE);
	if (!xml) {
		struct err got = ERR_INIT;
		virt_err(&got, "find a CPU that %zu hosts can run", h.n);
		got.cls = got.errnum == VIR_ERR_OPERATION_FAILED || got.errnum == VIR_ERR_CPU_INCOMPATIBLE ? ERR_REFUSED
													   : got.cls;
		err_remedy(&got, "between CPUs of different vendors only a generic model such as qemu64 or kvm64 runs "
				 "everywhere; "
				 "leave hosts out to see which one stands in the way");
		*e = got;
		return -1;
	}
	json_t *common = expand(conn, &scope, xml, e);
	if (!common)
		return -1;
	MEM_AUTO char *paste = for_guests(xml, e);
	MEM_AUTO char *model = cpu_model(xml);
	if (paste)
		*result = json_pack("{s:s,s:s?,s:s?,s:o}", "xml", paste, "model", model, "virt_type", h.virt_type,
				    "hosts", losses(conn, &scope, json_object_get(args, "hosts"), common));
	json_decref(common);
	return paste ? 0 : -1;
}
