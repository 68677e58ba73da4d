/*
 * loader.h - what is shared by the files that walk the tree of a configuration: problems with file and line, values by
 * a table of keys. Private to config/.
 */
#ifndef VMFERRY_CONFIG_LOADER_H
#define VMFERRY_CONFIG_LOADER_H

#include "config/config.h"
#include "config/schema.h"

#include <libconfig.h>

struct loader {
	const char *label; /* file name said in messages */
	struct config *c;
	config_report report;
	void *ctx;
	struct err *e; /* the first problem */
	unsigned problems;
	bool seen[64]; /* by index of schema_keys */
};

/* "FILE:LINE: what"; s says the line, NULL: none. */
void loader_problem(struct loader *l, const config_setting_t *s, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* "a string in quotes", for people. */
const char *loader_type_name(const config_setting_t *s);
bool loader_is_integer(const config_setting_t *s);
/* Says that `full` is no key, and which of `known` was probably meant. */
void loader_unknown_key(struct loader *l, const config_setting_t *s, const char *full, const char *const *known,
			size_t n);
/* Checks and stores one value of the struct at `base`. `full` is the key as said to people. */
void loader_value(struct loader *l, const struct schema_key *k, void *base, const char *full, const config_setting_t *s);

/* A group whose members are all in a table of n keys, into the struct at `base`; keys that are not given get their
 * presets (one without a preset stays as it is). Members for which `other` (may be NULL) says true are its business.
 * `where` is said before the key's name. given (may be NULL): n flags, true for what the file names. */
struct loader_group {
	const struct schema_key *keys;
	size_t n;
	const char *const *other_names; /* of members that `other` takes, for "did you mean"; ends with NULL */
	bool (*other)(struct loader *l, void *base, const char *where, const config_setting_t *s);
};
/* False if s is not a group at all, which is then said. */
bool loader_group(struct loader *l, const struct loader_group *g, void *base, const char *where,
		  const config_setting_t *s, bool *given);
/* How many elements the list has; 0, and said, if it is no list or has more than max. */
size_t loader_list(struct loader *l, const char *where, const config_setting_t *s, size_t max);

#endif
