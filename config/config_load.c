/* From a libconfig file to a checked struct config. */
#include "config/config.h"

#include "base/file.h"
#include "base/mem.h"
#include "config/config_kafka.h"
#include "config/config_replicate.h"
#include "config/loader.h"
#include "config/nearest.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_MAX_BYTES (1u << 20)

static const char *const peer_keys[] = { "name", "address", "port", "roles" };

static void load_roles(struct loader *l, struct config_peer *p, const char *where, const config_setting_t *s)
{
	int type = config_setting_type(s);
	if (type != CONFIG_TYPE_ARRAY && type != CONFIG_TYPE_LIST) {
		loader_problem(l, s,
			       "%s.roles: is %s, must be an array [ ... ] (allowed: any of \"migrate-in\", "
			       "\"replicate-in\", \"operate\")",
			       where, loader_type_name(s));
		return;
	}
	int n = config_setting_length(s);
	for (int i = 0; i < n; i++) {
		const config_setting_t *item = config_setting_get_elem(s, (unsigned)i);
		const char *name = config_setting_get_string(item);
		unsigned bit = name ? config_role_from_name(name) : 0;
		if (!bit) {
			loader_problem(l, item,
				       "%s.roles: %s%s%s is not a role (allowed: \"migrate-in\", \"replicate-in\", "
				       "\"operate\")",
				       where, name ? "\"" : "", name ? name : loader_type_name(item), name ? "\"" : "");
			continue;
		}
		p->roles |= bit;
	}
}

static void load_peer_port(struct loader *l, struct config_peer *p, const char *where, const config_setting_t *s)
{
	if (!loader_is_integer(s)) {
		loader_problem(l, s, "%s.port: is %s, must be an integer (allowed: 1 to 65535)", where,
			       loader_type_name(s));
		return;
	}
	long long port = config_setting_get_int64(s);
	if (port < 1 || port > 65535)
		loader_problem(l, s, "%s.port: %lld is out of range (allowed: 1 to 65535)", where, port);
	else
		p->port = (unsigned)port;
}

static void load_peer_text(struct loader *l, char **to, const char *where, const config_setting_t *s,
			   int (*check)(const char *text, struct err *e), const char *allowed)
{
	const char *name = config_setting_name(s), *text = config_setting_get_string(s);
	struct err inner = ERR_INIT;
	if (!text)
		loader_problem(l, s, "%s.%s: is %s, must be a string in quotes (allowed: %s)", where, name,
			       loader_type_name(s), allowed);
	else if (check(text, &inner) < 0)
		loader_problem(l, s, "%s.%s: %s (allowed: %s)", where, name, inner.text, allowed);
	else {
		free(*to);
		*to = mem_strdup(text);
	}
}

static void load_peer_member(struct loader *l, struct config_peer *p, const char *where, const config_setting_t *s)
{
	const char *name = config_setting_name(s);
	if (strcmp(name, "name") == 0) {
		load_peer_text(l, &p->name, where, s, schema_check_host,
			       "a DNS name in lower case, as in the peer's certificate");
	} else if (strcmp(name, "address") == 0) {
		load_peer_text(l, &p->address, where, s, schema_check_address, "an IP address or a host name");
	} else if (strcmp(name, "port") == 0) {
		load_peer_port(l, p, where, s);
	} else if (strcmp(name, "roles") == 0) {
		load_roles(l, p, where, s);
	} else {
		MEM_AUTO char *full = mem_printf("%s.%s", where, name);
		loader_unknown_key(l, s, full, peer_keys, sizeof(peer_keys) / sizeof(peer_keys[0]));
	}
}

static void load_peer(struct loader *l, unsigned index, const config_setting_t *s)
{
	char where[32];
	snprintf(where, sizeof(where), "peers[%u]", index);
	if (config_setting_type(s) != CONFIG_TYPE_GROUP) {
		loader_problem(l, s, "%s: is %s, must be a group { name = ...; }", where, loader_type_name(s));
		return;
	}
	struct config_peer *p = &l->c->peers[l->c->n_peers++];
	p->port = CONFIG_DEFAULT_PORT;
	unsigned before = l->problems;
	int n = config_setting_length(s);
	for (int i = 0; i < n; i++)
		load_peer_member(l, p, where, config_setting_get_elem(s, (unsigned)i));
	if (!p->name) {
		if (l->problems == before)
			loader_problem(l, s, "%s: has no name (allowed: the DNS name in the peer's certificate)", where);
		p->name = mem_strdup("");
	}
	if (!p->address)
		p->address = mem_strdup(p->name);
}

static void load_peers(struct loader *l, const config_setting_t *s)
{
	if (config_setting_type(s) != CONFIG_TYPE_LIST) {
		loader_problem(l, s, "peers: is %s, must be a list ( { ... }, { ... } )", loader_type_name(s));
		return;
	}
	int n = config_setting_length(s);
	if (n > CONFIG_MAX_PEERS) {
		loader_problem(l, s, "peers: %d entries are too many (allowed: at most %d)", n, CONFIG_MAX_PEERS);
		return;
	}
	if (n <= 0)
		return;
	l->c->peers = mem_alloc_array((size_t)n, sizeof(*l->c->peers));
	for (int i = 0; i < n; i++)
		load_peer(l, (unsigned)i, config_setting_get_elem(s, (unsigned)i));
	for (size_t i = 0; i < l->c->n_peers; i++) {
		const char *name = l->c->peers[i].name;
		const config_setting_t *at = config_setting_get_elem(s, (unsigned)i);
		if (*name && config_peer_find(l->c, name) != &l->c->peers[i])
			loader_problem(l, at, "peers[%zu].name: \"%s\" is there twice (allowed: one entry per peer)", i,
				       name);
		if (*name && l->c->name && strcmp(name, l->c->name) == 0)
			loader_problem(l, at, "peers[%zu].name: \"%s\" is this host itself (allowed: other hosts)", i,
				       name);
	}
}

/* Settings that are no single value; loaded after all others, in this order. */
static const struct {
	const char *group, *name;
	void (*load)(struct loader *l, const config_setting_t *s);
} lists[] = {
	{ NULL, "peers", load_peers },
	{ "replication", "fencing_command", config_replicate_fencing },
	{ "replication", "seed_folders", config_replicate_seeds },
	{ NULL, "protections", config_replicate_protections },
	{ NULL, "restore", config_replicate_restore },
	{ "kafka", "properties", config_kafka_properties },
};

static bool is_list(const char *group, const char *name)
{
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		if (strcmp(lists[i].name, name) == 0 &&
		    (group ? lists[i].group && strcmp(lists[i].group, group) == 0 : !lists[i].group))
			return true;
	return false;
}

/* The names that are known at this level: keys of the group, or top-level keys and groups. */
static size_t known_names(const char *group, const char **out, size_t max)
{
	size_t n = 0;
	for (size_t i = 0; i < schema_n_keys && n < max; i++) {
		const struct schema_key *k = &schema_keys[i];
		if (group ? k->group && strcmp(k->group, group) == 0 : !k->group)
			out[n++] = k->name;
		else if (!group && (n == 0 || strcmp(out[n - 1], k->group) != 0))
			out[n++] = k->group;
	}
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		if (n < max && (group ? lists[i].group && strcmp(lists[i].group, group) == 0 : !lists[i].group))
			out[n++] = lists[i].name;
	return n;
}

static void load_group(struct loader *l, const char *group, const config_setting_t *s);

static void load_member(struct loader *l, const char *group, const config_setting_t *s)
{
	const char *name = config_setting_name(s);
	const struct schema_key *k = schema_find(group, name);
	if (k) {
		l->seen[k - schema_keys] = true;
		loader_value(l, k, l->c, k->full, s);
		return;
	}
	if (!group && schema_has_group(name)) {
		if (config_setting_type(s) != CONFIG_TYPE_GROUP)
			loader_problem(l, s, "%s: is %s, must be a group { ... }", name, loader_type_name(s));
		else
			load_group(l, name, s);
		return;
	}
	const char *known[64];
	size_t n = known_names(group, known, sizeof(known) / sizeof(known[0]));
	MEM_AUTO char *full = group ? mem_printf("%s.%s", group, name) : mem_strdup(name);
	loader_unknown_key(l, s, full, known, n);
}

static void load_group(struct loader *l, const char *group, const config_setting_t *s)
{
	int n = config_setting_length(s);
	for (int i = 0; i < n; i++) {
		const config_setting_t *member = config_setting_get_elem(s, (unsigned)i);
		if (!is_list(group, config_setting_name(member)))
			load_member(l, group, member);
	}
}

/* The host name, which must serve as a DNS name. */
static void default_name(struct loader *l)
{
	char host[256] = "";
	struct err inner = ERR_INIT;
	if (gethostname(host, sizeof(host) - 1) < 0 || schema_check_host(host, &inner) < 0)
		loader_problem(l, NULL,
			       "name: is not set, and this host's own name \"%s\" cannot stand in for it (allowed: %s)",
			       host, schema_find(NULL, "name")->allowed);
	else
		l->c->name = mem_strdup(host);
}

static void apply_presets(struct loader *l)
{
	for (size_t i = 0; i < schema_n_keys; i++) {
		struct err inner = ERR_INIT;
		const struct schema_key *k = &schema_keys[i];
		if (!l->seen[i] && k->preset && schema_set_text(k, l->c, k->preset, &inner) < 0)
			abort(); /* the table contradicts itself */
	}
	if (!l->seen[schema_find(NULL, "name") - schema_keys])
		default_name(l);
	if (!l->seen[schema_find("control", "socket") - schema_keys])
		l->c->control.socket = mem_printf("%s/control.sock", l->c->run_dir ? l->c->run_dir : "/run/vmferry");
	if (!l->seen[schema_find("replication", "replica_dir") - schema_keys])
		l->c->replication.replica_dir = mem_printf("%s/replicas",
							   l->c->state_dir ? l->c->state_dir : "/var/lib/vmferry");
}

static struct config *load_tree(const config_t *tree, const char *label, config_report report, void *ctx, struct err *e)
{
	struct loader l = { .label = label, .report = report, .ctx = ctx, .e = e };
	if (schema_n_keys > sizeof(l.seen))
		abort();
	l.c = mem_alloc(sizeof(*l.c));
	const config_setting_t *root = config_root_setting(tree);
	load_group(&l, NULL, root);
	apply_presets(&l);
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		const config_setting_t *in = lists[i].group ? config_setting_get_member(root, lists[i].group) : root;
		bool is_group = in && config_setting_type(in) == CONFIG_TYPE_GROUP;
		const config_setting_t *s = is_group ? config_setting_get_member(in, lists[i].name) : NULL;
		if (s)
			lists[i].load(&l, s);
	}
	if (l.problems == 0)
		return l.c;
	if (l.problems > 1 && !report)
		err_wrap(e, "%u problems, the first", l.problems);
	config_free(l.c);
	return NULL;
}

/* libconfig cuts integers that do not fit an int to their low 32 bits without a word, and its scanner calls exit()
 * when an included file cannot be read. So the text is looked through before libconfig sees it. p stands at a digit;
 * returns what follows the number. */
static const char *skip_number(const char *p, bool *too_large)
{
	unsigned base = 10;
	uint64_t value = 0;
	bool overflow = false;
	if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
		base = 16;
		p += 2;
	}
	for (;; p++) {
		unsigned digit;
		if (*p >= '0' && *p <= '9')
			digit = (unsigned)(*p - '0');
		else if (base == 16 && isxdigit((unsigned char)*p))
			digit = (unsigned)(tolower((unsigned char)*p) - 'a') + 10;
		else
			break;
		overflow |= __builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, digit, &value);
	}
	bool is_long = *p == 'L';
	bool is_float = *p == '.' || (base == 10 && (*p == 'e' || *p == 'E'));
	*too_large = !is_float && (overflow || value > (is_long ? (uint64_t)INT64_MAX : (uint64_t)INT32_MAX));
	while (isalnum((unsigned char)*p) || *p == '.')
		p++;
	return p;
}

static const char *skip_string(const char *p, unsigned *line)
{
	for (p++; *p && *p != '"'; p++) {
		if (*p == '\\' && p[1])
			p++;
		*line += *p == '\n';
	}
	return *p ? p + 1 : p;
}

static const char *skip_comment(const char *p, unsigned *line)
{
	if (p[0] == '/' && p[1] == '*') {
		for (p += 2; *p && !(p[0] == '*' && p[1] == '/'); p++)
			*line += *p == '\n';
		return *p ? p + 2 : p;
	}
	while (*p && *p != '\n')
		p++;
	return p;
}

/* What libconfig would get wrong: NULL, or what it is, and on which line. */
static const char *check_text(const char *text, unsigned *line)
{
	const char *p = text;
	*line = 1;
	while (*p) {
		bool too_large = false;
		if (*p == '"') {
			p = skip_string(p, line);
		} else if (*p == '#' || (p[0] == '/' && (p[1] == '/' || p[1] == '*'))) {
			p = skip_comment(p, line);
		} else if (isdigit((unsigned char)*p)) {
			p = skip_number(p, &too_large);
			if (too_large)
				return "this integer is too large for any setting";
		} else if (isalpha((unsigned char)*p) || *p == '*') {
			while (isalnum((unsigned char)*p) || *p == '_' || *p == '-' || *p == '*')
				p++;
		} else if (*p == '@') {
			return "\"@\" directives are not supported: everything goes into this one file";
		} else {
			*line += *p == '\n';
			p++;
		}
	}
	return NULL;
}

static struct config *refuse(const char *label, unsigned line, const char *what, config_report report, void *ctx,
			     struct err *e)
{
	char text[1000];
	snprintf(text, sizeof(text), "%s:%u: %s", label, line, what);
	if (report)
		report(ctx, text);
	err_set(e, ERR_CONFIG, "%s", text);
	return NULL;
}

struct config *config_load_text(const char *text, const char *label, config_report report, void *ctx, struct err *e)
{
	unsigned line = 0;
	const char *wrong = check_text(text, &line);
	if (wrong)
		return refuse(label, line, wrong, report, ctx, e);
	config_t tree;
	config_init(&tree);
	struct config *c = NULL;
	if (config_read_string(&tree, text))
		c = load_tree(&tree, label, report, ctx, e);
	else
		refuse(label, (unsigned)config_error_line(&tree), config_error_text(&tree), report, ctx, e);
	config_destroy(&tree);
	return c;
}

struct config *config_load(const char *path, config_report report, void *ctx, struct err *e)
{
	size_t len = 0;
	MEM_AUTO char *text = file_read_all(path, CONFIG_MAX_BYTES, &len, e);
	if (!text) {
		err_wrap(e, "cannot read the configuration");
		return NULL;
	}
	if (strlen(text) != len)
		return refuse(path, 1, "is not a text file: it has a NUL byte in it", report, ctx, e);
	return config_load_text(text, path, report, ctx, e);
}
