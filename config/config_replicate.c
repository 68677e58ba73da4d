#include "config/config_replicate.h"

#include "base/mem.h"
#include "base/units.h"
#include "config/nearest.h"

#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)
#define SEC (1000 * MS)
#define DAY (86400 * SEC)
#define MBIT UINT64_C(125000)
#define GiB (UINT64_C(1) << 30)
#define TEXT_MAX 1024

#define RATES "\"unlimited\", or a rate of at least \"1Mbit\""
#define TIMES "\"00:00\" to \"23:59\""

static const char *const modes[] = { "auto", "memory", "colo", "background", "disk", NULL };

#define AT(member) offsetof(struct config_protection, member)
enum { VM, TO, RPO, MODE, QUIESCE, MAX_PAUSE, BANDWIDTH, PROTECTION_KEYS };
static const struct schema_key protection_keys[PROTECTION_KEYS] = {
	[VM] = { NULL, "vm", "vm", SCHEMA_NAME, AT(vm), NULL, 1, 200, "the name or UUID of a VM of this host", true,
		 NULL },
	[TO] = { NULL, "to", "to", SCHEMA_HOST, AT(to), NULL, 1, 253, "the name of a host in peers", true, NULL },
	[RPO] = { NULL, "rpo", "rpo", SCHEMA_DURATION, AT(rpo), "5s", 100 * MS, DAY, "100ms to 1d", true, NULL },
	[MODE] = { NULL, "mode", "mode", SCHEMA_CHOICE, AT(mode), "auto", 1, 20,
		   "\"auto\", \"memory\", \"colo\", \"background\" or \"disk\"", true, modes },
	[QUIESCE] = { NULL, "quiesce", "quiesce", SCHEMA_BOOL, AT(quiesce), "false", 0, 1, "true or false", true, NULL },
	[MAX_PAUSE] = { NULL, "max_pause", "max_pause", SCHEMA_DURATION, AT(max_pause), NULL, MS, 10 * SEC,
			"1ms to 10s", true, NULL },
	[BANDWIDTH] = { NULL, "bandwidth", "bandwidth", SCHEMA_RATE, AT(bandwidth), NULL, MBIT, 8000000 * MBIT, RATES,
			true, NULL },
};

static const struct schema_key keep_keys[] = {
	{ NULL, "last", "last", SCHEMA_UINT, AT(keep.last), "10", 1, 10000, "1 to 10000", true, NULL },
	{ NULL, "hourly", "hourly", SCHEMA_UINT, AT(keep.hourly), "24", 0, 10000, "0 to 10000", true, NULL },
	{ NULL, "daily", "daily", SCHEMA_UINT, AT(keep.daily), "7", 0, 10000, "0 to 10000", true, NULL },
	{ NULL, "size", "size", SCHEMA_SIZE, AT(keep.size), "0", 0, UINT64_C(1) << 50, "0 (no limit) to 1PiB", true,
	  NULL },
};

static const struct schema_key schedule_keys[] = {
	{ NULL, "every", "every", SCHEMA_DURATION, AT(every), NULL, 100 * MS, DAY, "100ms to 1d", true, NULL },
};
#undef AT

#define AT(member) offsetof(struct config_window, member)
enum { FROM, UNTIL, EVERY, RATE, WINDOW_KEYS };
static const struct schema_key window_keys[WINDOW_KEYS] = {
	[FROM] = { NULL, "from", "from", SCHEMA_TIME, AT(from), NULL, 0, 0, TIMES, true, NULL },
	[UNTIL] = { NULL, "to", "to", SCHEMA_TIME, AT(to), NULL, 0, 0, TIMES, true, NULL },
	[EVERY] = { NULL, "every", "every", SCHEMA_DURATION, AT(every), NULL, 100 * MS, DAY, "100ms to 1d", true, NULL },
	[RATE] = { NULL, "bandwidth", "bandwidth", SCHEMA_RATE, AT(bandwidth), NULL, MBIT, 8000000 * MBIT, RATES, true,
		   NULL },
};
#undef AT

#define AT(member) offsetof(struct config_rule, member)
static const struct schema_key network_keys[] = {
	{ NULL, "from", "from", SCHEMA_NAME, AT(from), NULL, 1, 200, "the name of a bridge or network at the source",
	  true, NULL },
	{ NULL, "to", "to", SCHEMA_NAME, AT(to), NULL, 1, 200, "the name of a bridge or network here", true, NULL },
};
static const struct schema_key disk_keys[] = {
	{ NULL, "from", "from", SCHEMA_PATH, AT(from), NULL, 2, TEXT_MAX, "the absolute path of a folder at the source",
	  true, NULL },
	{ NULL, "to", "to", SCHEMA_PATH, AT(to), NULL, 2, TEXT_MAX, "the absolute path of a folder here", true, NULL },
};
#undef AT

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static const struct loader_group keep_group = { .keys = keep_keys, .n = COUNT(keep_keys) };
static const struct loader_group window_group = { .keys = window_keys, .n = WINDOW_KEYS };

/* ---- protections ---- */

static void load_window(struct loader *l, struct config_window *w, const char *where, const config_setting_t *s)
{
	bool given[WINDOW_KEYS] = { false };
	unsigned before = l->problems;
	w->bandwidth = CONFIG_AS_OUTSIDE;
	if (!loader_group(l, &window_group, w, where, s, given) || l->problems > before)
		return;
	if (!given[FROM] || !given[UNTIL])
		loader_problem(l, s, "%s: has no \"%s\" (allowed: " TIMES ")", where, given[FROM] ? "to" : "from");
	else if (w->from == w->to)
		loader_problem(
			l, s,
			"%s: from and to are the same time (allowed: two different ones; to may be the next day's)",
			where);
	else if (!given[EVERY] && !given[RATE])
		loader_problem(
			l, s, "%s: says neither every nor bandwidth, so that it changes nothing (allowed: one or both)",
			where);
}

static bool other_of_schedule(struct loader *l, void *base, const char *where, const config_setting_t *s)
{
	struct config_protection *p = base;
	if (strcmp(config_setting_name(s), "windows") != 0)
		return false;
	MEM_AUTO char *full = mem_printf("%s.windows", where);
	size_t n = loader_list(l, full, s, CONFIG_MAX_WINDOWS);
	p->windows = n ? mem_alloc_array(n, sizeof(*p->windows)) : NULL;
	p->n_windows = n;
	for (size_t i = 0; i < n; i++) {
		MEM_AUTO char *at = mem_printf("%s[%zu]", full, i);
		load_window(l, &p->windows[i], at, config_setting_get_elem(s, (unsigned)i));
	}
	return true;
}

static const char *const names_of_schedule[] = { "windows", NULL };
static const struct loader_group schedule_group = {
	.keys = schedule_keys, .n = COUNT(schedule_keys), .other_names = names_of_schedule, .other = other_of_schedule
};

static bool other_of_protection(struct loader *l, void *base, const char *where, const config_setting_t *s)
{
	const char *name = config_setting_name(s);
	MEM_AUTO char *full = mem_printf("%s.%s", where, name);
	if (strcmp(name, "keep") == 0)
		loader_group(l, &keep_group, base, full, s, NULL);
	else if (strcmp(name, "schedule") == 0)
		loader_group(l, &schedule_group, base, full, s, NULL);
	else
		return false;
	return true;
}

static const char *const names_of_protection[] = { "keep", "schedule", NULL };
static const struct loader_group protection_group = {
	.keys = protection_keys, .n = PROTECTION_KEYS, .other_names = names_of_protection, .other = other_of_protection
};

static void check_target(struct loader *l, const struct config_protection *p, const char *where,
			 const config_setting_t *s)
{
	const char *names[CONFIG_MAX_PEERS];
	const config_setting_t *at = config_setting_get_member(s, "to");
	if (config_peer_find(l->c, p->to))
		return;
	if (l->c->name && strcmp(p->to, l->c->name) == 0) {
		loader_problem(l, at, "%s.to: \"%s\" is this host itself (allowed: %s)", where, p->to,
			       protection_keys[TO].allowed);
		return;
	}
	for (size_t i = 0; i < l->c->n_peers; i++)
		names[i] = l->c->peers[i].name;
	const char *near = nearest_of(p->to, names, l->c->n_peers);
	if (near)
		loader_problem(l, at, "%s.to: \"%s\" is not in peers; did you mean \"%s\"? (allowed: %s)", where, p->to,
			       near, protection_keys[TO].allowed);
	else
		loader_problem(l, at, "%s.to: \"%s\" is not in peers (allowed: %s)", where, p->to,
			       protection_keys[TO].allowed);
}

static void check_every(struct loader *l, const struct config_protection *p, const char *where,
			const config_setting_t *s)
{
	const config_setting_t *at = config_setting_lookup((config_setting_t *)(uintptr_t)s, "schedule.every");
	char every[32], rpo[32];
	if (at && p->every > p->rpo)
		loader_problem(l, at,
			       "%s.schedule.every: %s is longer than the rpo of %s, which cannot be held then "
			       "(allowed: at most the rpo)",
			       where, units_format_duration(p->every, every, sizeof(every)),
			       units_format_duration(p->rpo, rpo, sizeof(rpo)));
}

static void preset_keep(struct config_protection *p)
{
	struct err never = ERR_INIT;
	for (size_t i = 0; i < COUNT(keep_keys); i++)
		if (schema_set_text(&keep_keys[i], p, keep_keys[i].preset, &never) < 0)
			abort(); /* the table contradicts itself */
}

static void load_protection(struct loader *l, struct config_protection *p, const char *where, const config_setting_t *s)
{
	unsigned before = l->problems;
	p->bandwidth = CONFIG_AS_OUTSIDE;
	preset_keep(p);
	bool is_group = loader_group(l, &protection_group, p, where, s, NULL);
	bool clean = is_group && l->problems == before;
	if (clean && !p->vm)
		loader_problem(l, s, "%s: has no vm (allowed: %s)", where, protection_keys[VM].allowed);
	if (clean && !p->to)
		loader_problem(l, s, "%s: has no to (allowed: %s)", where, protection_keys[TO].allowed);
	if (clean && p->to)
		check_target(l, p, where, s);
	if (clean)
		check_every(l, p, where, s);
	p->vm = p->vm ? p->vm : mem_strdup("");
	p->to = p->to ? p->to : mem_strdup("");
}

void config_replicate_protections(struct loader *l, const config_setting_t *s)
{
	struct config *c = l->c;
	size_t n = loader_list(l, "protections", s, CONFIG_MAX_PROTECTIONS);
	c->protections = n ? mem_alloc_array(n, sizeof(*c->protections)) : NULL;
	for (size_t i = 0; i < n; i++) {
		const config_setting_t *at = config_setting_get_elem(s, (unsigned)i);
		MEM_AUTO char *where = mem_printf("protections[%zu]", i);
		c->n_protections = i + 1;
		load_protection(l, &c->protections[i], where, at);
		const char *vm = c->protections[i].vm;
		if (*vm && config_protection_find(c, vm) != &c->protections[i])
			loader_problem(l, at, "%s.vm: \"%s\" is there twice (allowed: one entry per VM)", where, vm);
	}
}

const struct config_protection *config_protection_find(const struct config *c, const char *vm)
{
	for (size_t i = 0; i < c->n_protections; i++)
		if (strcmp(c->protections[i].vm, vm) == 0)
			return &c->protections[i];
	return NULL;
}

/* ---- restore ---- */

static struct config_rule *load_rules(struct loader *l, const struct schema_key keys[2], const char *where,
				      const config_setting_t *s, size_t *n_out)
{
	size_t n = loader_list(l, where, s, CONFIG_MAX_RULES);
	struct config_rule *rules = n ? mem_alloc_array(n, sizeof(*rules)) : NULL;
	const struct loader_group group = { .keys = keys, .n = 2 };
	for (size_t i = 0; i < n; i++) {
		const config_setting_t *at = config_setting_get_elem(s, (unsigned)i);
		MEM_AUTO char *full = mem_printf("%s[%zu]", where, i);
		unsigned before = l->problems;
		bool is_group = loader_group(l, &group, &rules[i], full, at, NULL);
		for (size_t k = 0; is_group && k < 2 && l->problems == before; k++)
			if (!(k ? rules[i].to : rules[i].from))
				loader_problem(l, at, "%s: has no %s (allowed: %s)", full, keys[k].name,
					       keys[k].allowed);
		rules[i].from = rules[i].from ? rules[i].from : mem_strdup("");
		rules[i].to = rules[i].to ? rules[i].to : mem_strdup("");
		for (size_t k = 0; k < i; k++)
			if (*rules[i].from && strcmp(rules[k].from, rules[i].from) == 0)
				loader_problem(l, at, "%s.from: \"%s\" is there twice (allowed: one rule for each)",
					       full, rules[i].from);
	}
	*n_out = n;
	return rules;
}

static bool other_of_restore(struct loader *l, void *base, const char *where, const config_setting_t *s)
{
	struct config *c = base;
	const char *name = config_setting_name(s);
	(void)where;
	if (strcmp(name, "networks") == 0)
		c->restore.networks = load_rules(l, network_keys, "restore.networks", s, &c->restore.n_networks);
	else if (strcmp(name, "disks") == 0)
		c->restore.disks = load_rules(l, disk_keys, "restore.disks", s, &c->restore.n_disks);
	else
		return false;
	return true;
}

void config_replicate_restore(struct loader *l, const config_setting_t *s)
{
	static const char *const names[] = { "networks", "disks", NULL };
	const struct loader_group group = { .other_names = names, .other = other_of_restore };
	loader_group(l, &group, l->c, "restore", s, NULL);
}

/* ---- lists of texts ---- */

/* A text or an array of them. */
struct texts {
	const char *key, *allowed;
	int max;
	bool all_paths; /* else the first is */
	char ***list;
	size_t *n;
};

static bool load_text(struct loader *l, const config_setting_t *s, const struct texts *t)
{
	const char *text = config_setting_get_string(s);
	if (!text || strlen(text) > TEXT_MAX || ((t->all_paths || *t->n == 0) && text[0] != '/')) {
		loader_problem(l, s, "%s: %s%s%s (allowed: %s)", t->key, text ? "\"" : "is ",
			       text ? text : loader_type_name(s),
			       !text                     ? ""
			       : strlen(text) > TEXT_MAX ? "\" is too long"
							 : "\" is not an absolute path",
			       t->allowed);
		return false;
	}
	(*t->list)[(*t->n)++] = mem_strdup(text);
	return true;
}

static void load_texts(struct loader *l, const config_setting_t *s, const struct texts *t)
{
	int type = config_setting_type(s);
	const char *only = config_setting_get_string(s);
	int n = type == CONFIG_TYPE_STRING ? (*only ? 1 : 0) : config_setting_length(s);
	if (type != CONFIG_TYPE_STRING && type != CONFIG_TYPE_ARRAY && type != CONFIG_TYPE_LIST) {
		loader_problem(l, s, "%s: is %s (allowed: %s)", t->key, loader_type_name(s), t->allowed);
		return;
	}
	if (n > t->max) {
		loader_problem(l, s, "%s: has %d elements (allowed: at most %d)", t->key, n, t->max);
		return;
	}
	if (n == 0)
		return;
	/* One more: a NULL ends it, as execv likes it. */
	*t->list = mem_alloc_array((size_t)n + 1, sizeof(char *));
	for (int i = 0; i < n; i++)
		if (!load_text(l, type == CONFIG_TYPE_STRING ? s : config_setting_get_elem(s, (unsigned)i), t))
			return;
}

void config_replicate_fencing(struct loader *l, const config_setting_t *s)
{
	const struct texts t = { .key = "replication.fencing_command",
				 .allowed = "an absolute path, or an array [ \"/path\", \"argument\", ... ]; \"\" or "
					    "[ ] for none",
				 .max = CONFIG_MAX_COMMAND,
				 .list = &l->c->replication.fencing_command,
				 .n = &l->c->replication.n_fencing_command };
	load_texts(l, s, &t);
}

void config_replicate_seeds(struct loader *l, const config_setting_t *s)
{
	const struct texts t = { .key = "replication.seed_folders",
				 .allowed = "an absolute path, or an array [ \"/path\", \"/path\", ... ]; \"\" or [ ] "
					    "for none",
				 .max = CONFIG_MAX_SEED_FOLDERS,
				 .all_paths = true,
				 .list = &l->c->replication.seed_folders,
				 .n = &l->c->replication.n_seed_folders };
	load_texts(l, s, &t);
}

static void free_texts(char **list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i]);
	free(list);
}

static bool texts_equal(char *const *a, size_t n, char *const *b, size_t m)
{
	if (n != m)
		return false;
	for (size_t i = 0; i < n; i++)
		if (strcmp(a[i], b[i]) != 0)
			return false;
	return true;
}

static void describe_texts(const char *key, char *const *list, size_t n, struct buf *out)
{
	buf_printf(out, "%s = [", key);
	for (size_t i = 0; i < n; i++)
		buf_printf(out, "%s \"%s\"", i ? "," : "", list[i]);
	buf_printf(out, " ]\n");
}

/* ---- what can be done with them ---- */

static void free_rules(struct config_rule *rules, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(rules[i].from);
		free(rules[i].to);
	}
	free(rules);
}

void config_replicate_free(struct config *c)
{
	for (size_t i = 0; i < c->n_protections; i++) {
		free(c->protections[i].vm);
		free(c->protections[i].to);
		free(c->protections[i].mode);
		free(c->protections[i].windows);
	}
	free(c->protections);
	free_rules(c->restore.networks, c->restore.n_networks);
	free_rules(c->restore.disks, c->restore.n_disks);
	free_texts(c->replication.fencing_command, c->replication.n_fencing_command);
	free_texts(c->replication.seed_folders, c->replication.n_seed_folders);
}

static bool keys_equal(const struct schema_key *keys, size_t n, const void *a, const void *b)
{
	for (size_t i = 0; i < n; i++)
		if (!schema_equal(&keys[i], a, b))
			return false;
	return true;
}

static bool protection_equal(const struct config_protection *a, const struct config_protection *b)
{
	if (!keys_equal(protection_keys, PROTECTION_KEYS, a, b) || !keys_equal(keep_keys, COUNT(keep_keys), a, b) ||
	    !keys_equal(schedule_keys, COUNT(schedule_keys), a, b) || a->n_windows != b->n_windows)
		return false;
	for (size_t i = 0; i < a->n_windows; i++)
		if (!keys_equal(window_keys, WINDOW_KEYS, &a->windows[i], &b->windows[i]))
			return false;
	return true;
}

static bool protections_equal(const struct config *a, const struct config *b)
{
	if (a->n_protections != b->n_protections)
		return false;
	for (size_t i = 0; i < a->n_protections; i++) {
		const struct config_protection *p = config_protection_find(b, a->protections[i].vm);
		if (!p || !protection_equal(&a->protections[i], p))
			return false;
	}
	return true;
}

static bool rules_equal(const struct config_rule *a, size_t n, const struct config_rule *b, size_t m)
{
	if (n != m)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!keys_equal(disk_keys, 2, &a[i], &b[i]))
			return false;
	return true;
}

void config_replicate_diff(const struct config *a, const struct config *b, void (*differs)(void *ctx, const char *key),
			   void *ctx)
{
	if (!texts_equal(a->replication.fencing_command, a->replication.n_fencing_command,
			 b->replication.fencing_command, b->replication.n_fencing_command))
		differs(ctx, "replication.fencing_command");
	if (!texts_equal(a->replication.seed_folders, a->replication.n_seed_folders, b->replication.seed_folders,
			 b->replication.n_seed_folders))
		differs(ctx, "replication.seed_folders");
	if (!protections_equal(a, b))
		differs(ctx, "protections");
	if (!rules_equal(a->restore.networks, a->restore.n_networks, b->restore.networks, b->restore.n_networks) ||
	    !rules_equal(a->restore.disks, a->restore.n_disks, b->restore.disks, b->restore.n_disks))
		differs(ctx, "restore");
}

static void describe_key(const struct schema_key *k, const void *base, struct buf *out)
{
	MEM_AUTO char *value = schema_format(k, base);
	buf_printf(out, " %s %s", k->full, value);
}

static void describe_protection(const struct config_protection *p, struct buf *out)
{
	buf_printf(out, "protection %s =", p->vm);
	for (size_t i = TO; i < PROTECTION_KEYS; i++) {
		bool elsewhere = (i == MAX_PAUSE && !p->max_pause) ||
				 (i == BANDWIDTH && p->bandwidth == CONFIG_AS_OUTSIDE);
		if (!elsewhere)
			describe_key(&protection_keys[i], p, out);
	}
	buf_printf(out, ", keep:");
	for (size_t i = 0; i < COUNT(keep_keys); i++)
		describe_key(&keep_keys[i], p, out);
	if (p->every) {
		buf_printf(out, ",");
		describe_key(&schedule_keys[0], p, out);
	}
	for (size_t i = 0; i < p->n_windows; i++) {
		const struct config_window *w = &p->windows[i];
		buf_printf(out, ", window:");
		for (size_t k = 0; k < WINDOW_KEYS; k++)
			if ((k != EVERY || w->every) && (k != RATE || w->bandwidth != CONFIG_AS_OUTSIDE))
				describe_key(&window_keys[k], w, out);
	}
	buf_printf(out, "\n");
}

static void describe_rules(const char *what, const struct config_rule *rules, size_t n, struct buf *out)
{
	for (size_t i = 0; i < n; i++)
		buf_printf(out, "restore %s %s = %s\n", what, rules[i].from, rules[i].to);
}

void config_replicate_describe(const struct config *c, struct buf *out)
{
	describe_texts("replication.fencing_command", c->replication.fencing_command, c->replication.n_fencing_command,
		       out);
	describe_texts("replication.seed_folders", c->replication.seed_folders, c->replication.n_seed_folders, out);
	for (size_t i = 0; i < c->n_protections; i++)
		describe_protection(&c->protections[i], out);
	describe_rules("network", c->restore.networks, c->restore.n_networks, out);
	describe_rules("disks below", c->restore.disks, c->restore.n_disks, out);
}
