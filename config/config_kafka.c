#include "config/config_kafka.h"

#include "base/mem.h"

#include <stdlib.h>

#define AT(member) offsetof(struct config_property, member)
enum { NAME, VALUE, PROPERTY_KEYS };
static const struct schema_key property_keys[PROPERTY_KEYS] = {
	[NAME] = { NULL, "name", "name", SCHEMA_TEXT, AT(name), NULL, 1, 200, "the name of a property of librdkafka",
		   true, NULL },
	/* A certificate may stand here as a whole. */
	[VALUE] = { NULL, "value", "value", SCHEMA_TEXT, AT(value), NULL, 0, 65535, "at most 65535 characters", true,
		    NULL },
};
#undef AT

static const struct loader_group property_group = { .keys = property_keys, .n = PROPERTY_KEYS };

static void load_property(struct loader *l, struct config_property *p, const char *where, const config_setting_t *s)
{
	bool given[PROPERTY_KEYS] = { false };
	unsigned before = l->problems;
	if (!loader_group(l, &property_group, p, where, s, given) || l->problems > before)
		return;
	for (size_t i = 0; i < PROPERTY_KEYS; i++)
		if (!given[i])
			loader_problem(l, s, "%s: has no %s (allowed: %s)", where, property_keys[i].name,
				       property_keys[i].allowed);
}

void config_kafka_properties(struct loader *l, const config_setting_t *s)
{
	struct config *c = l->c;
	size_t n = loader_list(l, "kafka.properties", s, CONFIG_MAX_PROPERTIES);
	c->kafka.properties = n ? mem_alloc_array(n, sizeof(*c->kafka.properties)) : NULL;
	c->kafka.n_properties = n;
	for (size_t i = 0; i < n; i++) {
		MEM_AUTO char *where = mem_printf("kafka.properties[%zu]", i);
		load_property(l, &c->kafka.properties[i], where, config_setting_get_elem(s, (unsigned)i));
	}
}

void config_kafka_free(struct config *c)
{
	for (size_t i = 0; i < c->kafka.n_properties; i++)
		for (size_t k = 0; k < PROPERTY_KEYS; k++)
			schema_drop(&property_keys[k], &c->kafka.properties[i]);
	free(c->kafka.properties);
}

/* The order counts too: librdkafka goes by it. */
static bool properties_equal(const struct config *a, const struct config *b)
{
	if (a->kafka.n_properties != b->kafka.n_properties)
		return false;
	for (size_t i = 0; i < a->kafka.n_properties; i++)
		for (size_t k = 0; k < PROPERTY_KEYS; k++)
			if (!schema_equal(&property_keys[k], &a->kafka.properties[i], &b->kafka.properties[i]))
				return false;
	return true;
}

void config_kafka_diff(const struct config *a, const struct config *b, void (*differs)(void *ctx, const char *key),
		       void *ctx)
{
	if (!properties_equal(a, b))
		differs(ctx, "kafka.properties");
}

void config_kafka_describe(const struct config *c, struct buf *out)
{
	for (size_t i = 0; i < c->kafka.n_properties; i++)
		buf_printf(out, "kafka.properties: %s\n", c->kafka.properties[i].name);
}
