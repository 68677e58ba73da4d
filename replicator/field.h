/*
 * field.h - members of records and of calls' arguments, which may be missing or of any type.
 */
#ifndef VMFERRY_REPLICATOR_FIELD_H
#define VMFERRY_REPLICATOR_FIELD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Borrowed; "" if it is no string. */
static inline const char *field_text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static inline bool field_is(const json_t *o, const char *key, const char *text)
{
	return strcmp(field_text(o, key), text) == 0;
}

static inline int64_t field_int(const json_t *o, const char *key, int64_t otherwise)
{
	const json_t *v = json_object_get(o, key);

	return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

/* 0 if it is no number. */
static inline uint64_t field_u64(const json_t *o, const char *key)
{
	return (uint64_t)field_int(o, key, 0);
}

#endif
