/* What can be done with a configuration once it is loaded (config_load.c). */
#include "config/config.h"

#include "base/buf.h"
#include "base/mem.h"
#include "config/config_kafka.h"
#include "config/config_replicate.h"
#include "config/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	unsigned bit;
} roles_table[] = {
#define X(id, bit, name) { name, bit },
	ROLES(X)
#undef X
};
#define N_ROLES (sizeof(roles_table) / sizeof(roles_table[0]))

void config_free(struct config *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < schema_n_keys; i++)
		schema_drop(&schema_keys[i], c);
	for (size_t i = 0; i < c->n_peers; i++) {
		free(c->peers[i].name);
		free(c->peers[i].address);
	}
	free(c->peers);
	config_replicate_free(c);
	config_kafka_free(c);
	free(c);
}

const struct config_peer *config_peer_find(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_peers; i++)
		if (strcmp(c->peers[i].name, name) == 0)
			return &c->peers[i];
	return NULL;
}

unsigned config_role_from_name(const char *name)
{
	for (size_t i = 0; i < N_ROLES; i++)
		if (strcmp(roles_table[i].name, name) == 0)
			return roles_table[i].bit;
	return 0;
}

const char *config_roles_format(unsigned roles, char *buf, size_t size)
{
	size_t len = 0;
	snprintf(buf, size, "none");
	for (size_t i = 0; i < N_ROLES; i++) {
		if (!(roles & roles_table[i].bit) || len >= size)
			continue;
		int n = snprintf(buf + len, size - len, "%s%s", len ? "," : "", roles_table[i].name);
		len += (size_t)n;
	}
	return buf;
}

static bool peers_equal(const struct config *a, const struct config *b)
{
	if (a->n_peers != b->n_peers)
		return false;
	for (size_t i = 0; i < a->n_peers; i++) {
		const struct config_peer *p = &a->peers[i], *q = config_peer_find(b, p->name);
		if (!q || strcmp(p->address, q->address) != 0 || p->port != q->port || p->roles != q->roles)
			return false;
	}
	return true;
}

struct diff {
	struct config_change *out;
	size_t n, max;
};

static void add_change(struct diff *d, const char *key, bool needs_restart)
{
	if (d->n < d->max)
		d->out[d->n] = (struct config_change){ .key = key, .needs_restart = needs_restart };
	d->n++;
}

static void list_differs(void *ctx, const char *key)
{
	add_change(ctx, key, false);
}

size_t config_reload_diff(const struct config *running, const struct config *loaded, struct config_change *out,
			  size_t max)
{
	struct diff d = { .out = out, .max = max };
	for (size_t i = 0; i < schema_n_keys; i++)
		if (!schema_equal(&schema_keys[i], running, loaded))
			add_change(&d, schema_keys[i].full, !schema_keys[i].live);
	if (!peers_equal(running, loaded))
		add_change(&d, "peers", false);
	config_replicate_diff(running, loaded, list_differs, &d);
	config_kafka_diff(running, loaded, list_differs, &d);
	return d.n;
}

void config_keep_fixed(struct config *loaded, const struct config *running)
{
	for (size_t i = 0; i < schema_n_keys; i++)
		if (!schema_keys[i].live)
			schema_copy(&schema_keys[i], loaded, running);
}

char *config_describe(const struct config *c)
{
	struct buf b = BUF_INIT;
	for (size_t i = 0; i < schema_n_keys; i++) {
		MEM_AUTO char *value = schema_format(&schema_keys[i], c);
		buf_printf(&b, "%s = %s\n", schema_keys[i].full, value);
	}
	for (size_t i = 0; i < c->n_peers; i++) {
		char roles[64];
		buf_printf(&b, "peer %s = %s port %u, may: %s\n", c->peers[i].name, c->peers[i].address,
			   c->peers[i].port, config_roles_format(c->peers[i].roles, roles, sizeof(roles)));
	}
	config_replicate_describe(c, &b);
	config_kafka_describe(c, &b);
	return (char *)b.data; /* at least one line, so never NULL */
}
