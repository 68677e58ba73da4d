#include "migrator/migration_args.h"

#include "migrator/relay.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PARALLEL 16

static int take_u64(const json_t *json, const char *key, uint64_t max, uint64_t *out, struct err *e)
{
	const json_t *v = json_object_get(json, key);

	if (!v || json_is_null(v))
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
		return err_set(e, ERR_CONFIG, "%s: expected a number from 0 to %llu", key, (unsigned long long)max);
	*out = (uint64_t)json_integer_value(v);
	return 0;
}

static int take_bool(const json_t *json, const char *key, bool *out, struct err *e)
{
	const json_t *v = json_object_get(json, key);

	if (!v || json_is_null(v))
		return 0;
	if (!json_is_boolean(v))
		return err_set(e, ERR_CONFIG, "%s: expected true or false", key);
	*out = json_is_true(v);
	return 0;
}

static int take_level(const json_t *json, int *out, struct err *e)
{
	const char *s = json_string_value(json_object_get(json, "compression"));
	char *end;

	if (!s || strcmp(s, "auto") == 0)
		return 0;
	if (strcmp(s, "raw") == 0) {
		*out = CODEC_RAW;
		return 0;
	}
	long level = strtol(s, &end, 10);
	if (end == s || *end || level < -5 || level > 9)
		return err_set(e, ERR_CONFIG, "compression: expected auto, raw or a level from -5 to 9, not %s", s);
	*out = (int)level;
	return 0;
}

int migration_args_parse(const json_t *json, struct migration_args *out, struct err *e)
{
	struct migration_args a = {
		.vm = json_string_value(json_object_get(json, "vm")),
		.host = json_string_value(json_object_get(json, "host")),
		.auto_converge = true,
		.level = RELAY_LEVEL_AUTO,
	};
	const char *on_stall = json_string_value(json_object_get(json, "on_stall"));
	uint64_t parallel = 0;

	if (!a.vm || !a.vm[0])
		return err_set(e, ERR_CONFIG, "which VM?");
	if (!a.host || !a.host[0])
		return err_set(e, ERR_CONFIG, "to which host?");
	if (take_bool(json, "copy_storage", &a.copy_storage, e) != 0 || take_bool(json, "offline", &a.offline, e) != 0 ||
	    take_bool(json, "auto_converge", &a.auto_converge, e) != 0 ||
	    take_u64(json, "max_downtime_ms", 2000000, &a.max_downtime_ms, e) != 0 ||
	    take_u64(json, "deadline_ms", UINT64_C(1) << 40, &a.deadline_ms, e) != 0 ||
	    take_u64(json, "bandwidth", UINT64_C(1) << 50, &a.bandwidth, e) != 0 ||
	    take_u64(json, "parallel", MAX_PARALLEL, &parallel, e) != 0 || take_level(json, &a.level, e) != 0)
		return -1;
	if (on_stall && converge_parse_on_stall(on_stall, &a.on_stall, e) != 0)
		return -1;
	a.parallel = (unsigned)parallel;
	if (a.max_downtime_ms == 0)
		a.max_downtime_ms = CONVERGE_DEFAULT_MAX_DOWNTIME_MS;
	*out = a;
	return 0;
}
