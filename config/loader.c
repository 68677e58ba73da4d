#include "config/loader.h"

#include "base/mem.h"
#include "config/nearest.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 64

void loader_problem(struct loader *l, const config_setting_t *s, const char *fmt, ...)
{
	char what[900], line[1100];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	unsigned at = s ? config_setting_source_line(s) : 0;
	if (at)
		snprintf(line, sizeof(line), "%s:%u: %s", l->label, at, what);
	else
		snprintf(line, sizeof(line), "%s: %s", l->label, what);
	if (l->report)
		l->report(l->ctx, line);
	if (l->problems++ == 0)
		err_set(l->e, ERR_CONFIG, "%s", line);
}

const char *loader_type_name(const config_setting_t *s)
{
	switch (config_setting_type(s)) {
	case CONFIG_TYPE_GROUP:
		return "a group { ... }";
	case CONFIG_TYPE_LIST:
		return "a list ( ... )";
	case CONFIG_TYPE_ARRAY:
		return "an array [ ... ]";
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		return "an integer";
	case CONFIG_TYPE_FLOAT:
		return "a floating-point number";
	case CONFIG_TYPE_STRING:
		return "a string in quotes";
	case CONFIG_TYPE_BOOL:
		return "true or false";
	default:
		return "empty";
	}
}

bool loader_is_integer(const config_setting_t *s)
{
	int type = config_setting_type(s);
	return type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64;
}

void loader_unknown_key(struct loader *l, const config_setting_t *s, const char *full, const char *const *known,
			size_t n)
{
	const char *name = config_setting_name(s);
	const char *near = nearest_of(name ? name : "", known, n);
	if (near)
		loader_problem(l, s, "%s: unknown key; did you mean \"%s\"?", full, near);
	else
		loader_problem(l, s, "%s: unknown key", full);
}

void loader_value(struct loader *l, const struct schema_key *k, void *base, const char *full, const config_setting_t *s)
{
	struct err inner = ERR_INIT;
	int rc, type = config_setting_type(s);
	if (k->kind == SCHEMA_UINT) {
		if (!loader_is_integer(s)) {
			loader_problem(l, s, "%s: is %s, must be an integer (allowed: %s)", full, loader_type_name(s),
				       k->allowed);
			return;
		}
		rc = schema_set_number(k, base, config_setting_get_int64(s), &inner);
	} else if (k->kind == SCHEMA_BOOL) {
		if (type != CONFIG_TYPE_BOOL) {
			loader_problem(l, s, "%s: is %s (allowed: %s)", full, loader_type_name(s), k->allowed);
			return;
		}
		rc = schema_set_number(k, base, config_setting_get_bool(s), &inner);
	} else {
		if (type != CONFIG_TYPE_STRING) {
			loader_problem(l, s, "%s: is %s, must be a string in quotes (allowed: %s)", full,
				       loader_type_name(s), k->allowed);
			return;
		}
		rc = schema_set_text(k, base, config_setting_get_string(s), &inner);
	}
	if (rc < 0)
		loader_problem(l, s, "%s: %s (allowed: %s)", full, inner.text, k->allowed);
}

static const struct schema_key *find_key(const struct loader_group *g, const char *name, size_t *index)
{
	for (*index = 0; *index < g->n; ++*index)
		if (strcmp(g->keys[*index].name, name) == 0)
			return &g->keys[*index];
	return NULL;
}

static void unknown_member(struct loader *l, const struct loader_group *g, const char *full, const config_setting_t *s)
{
	const char *known[NAMES_MAX];
	size_t n = 0;
	for (size_t i = 0; i < g->n && n < NAMES_MAX; i++)
		known[n++] = g->keys[i].name;
	for (size_t i = 0; g->other_names && g->other_names[i] && n < NAMES_MAX; i++)
		known[n++] = g->other_names[i];
	loader_unknown_key(l, s, full, known, n);
}

bool loader_group(struct loader *l, const struct loader_group *g, void *base, const char *where,
		  const config_setting_t *s, bool *given)
{
	struct err never = ERR_INIT;
	/* Presets first: what the file says replaces them. */
	for (size_t i = 0; i < g->n; i++)
		if (g->keys[i].preset && schema_set_text(&g->keys[i], base, g->keys[i].preset, &never) < 0)
			abort(); /* the table contradicts itself */
	if (config_setting_type(s) != CONFIG_TYPE_GROUP) {
		loader_problem(l, s, "%s: is %s, must be a group { ... }", where, loader_type_name(s));
		return false;
	}
	int n = config_setting_length(s);
	for (int i = 0; i < n; i++) {
		const config_setting_t *member = config_setting_get_elem(s, (unsigned)i);
		MEM_AUTO char *full = mem_printf("%s.%s", where, config_setting_name(member));
		size_t index;
		const struct schema_key *k = find_key(g, config_setting_name(member), &index);
		if (k) {
			loader_value(l, k, base, full, member);
			if (given)
				given[index] = true;
		} else if (!g->other || !g->other(l, base, where, member)) {
			unknown_member(l, g, full, member);
		}
	}
	return true;
}

size_t loader_list(struct loader *l, const char *where, const config_setting_t *s, size_t max)
{
	if (config_setting_type(s) != CONFIG_TYPE_LIST) {
		loader_problem(l, s, "%s: is %s, must be a list ( { ... }, { ... } )", where, loader_type_name(s));
		return 0;
	}
	int n = config_setting_length(s);
	if (n > 0 && (size_t)n > max) {
		loader_problem(l, s, "%s: %d entries are too many (allowed: at most %zu)", where, n, max);
		return 0;
	}
	return n > 0 ? (size_t)n : 0;
}
