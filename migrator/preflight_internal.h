/*
 * preflight_internal.h - what the parts of preflight's judgement share. The target's answer is a peer's JSON: nothing
 * in it is taken for granted, and what is missing reads as NULL, 0 or neither true nor false.
 */
#ifndef VMFERRY_MIGRATOR_PREFLIGHT_INTERNAL_H
#define VMFERRY_MIGRATOR_PREFLIGHT_INTERNAL_H

#include "migrator/preflight.h"

#include <string.h>

struct judge {
	const struct preflight_source *s;
	const struct domain *dom; /* s->dom */
	const json_t *t;          /* the target's answer */
	const char *host;         /* its name */
	const struct migration_args *args;
	bool offline;
	struct preflight_findings *f; /* v->findings */
	struct preflight_verdict *v;
};

static inline const char *str(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static inline uint64_t number(const json_t *object, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(object, key));
	return v > 0 ? (uint64_t)v : 0;
}

static inline bool is_true(const json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}

static inline bool is_false(const json_t *object, const char *key)
{
	return json_is_false(json_object_get(object, key));
}

static inline bool has_string(const json_t *array, const char *wanted)
{
	size_t i;
	json_t *s;
	json_array_foreach (array, i, s)
		if (json_is_string(s) && strcmp(json_string_value(s), wanted) == 0)
			return true;
	return false;
}

/* The object in the array whose member `key` is that string, or NULL. */
static inline const json_t *named(const json_t *array, const char *key, const char *value)
{
	size_t i;
	json_t *item;
	json_array_foreach (array, i, item) {
		const char *have = str(item, key);
		if (have && strcmp(have, value) == 0)
			return item;
	}
	return NULL;
}

void preflight_judge_machine(const struct judge *j); /* preflight_machine.c */
/* preflight_disks.c: also the verdict's actions, copy_bytes and unsafe */
void preflight_judge_disks(const struct judge *j);
void preflight_judge_devices(const struct judge *j); /* preflight_devices.c */

#endif
