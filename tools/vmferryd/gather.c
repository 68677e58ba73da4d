#include "tools/vmferryd/gather.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/pool.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/calls.h"

#include <stdlib.h>
#include <string.h>

#define AT_ONCE 16

struct task {
	struct agent *agent;
	struct gather_item *item;
	const char *method; /* NULL: agent.status alone */
	const json_t *args;
	int64_t within_ns;
};

static void ask_self(const struct task *t)
{
	struct gather_item *item = t->item;
	item->status = json_object();
	item->rtt_ns = 0;
	if (!t->method)
		return;
	if (strcmp(t->method, "host.facts") == 0)
		migrator_host_facts(t->agent->migrator, t->args, &item->result, &item->error);
	else if (strcmp(t->method, "vms") == 0)
		fleet_own_vms(t->agent, t->args, &item->result, &item->error);
	else
		err_set(&item->error, ERR_PROTOCOL, "%s is not asked of oneself", t->method);
}

static void ask_peer(const struct task *t)
{
	struct gather_item *item = t->item;
	struct rpc *rpc = peers_connect(t->agent->peers, item->host, &item->error);
	if (!rpc)
		return;
	int64_t start = clock_mono_ns(), wall = clock_wall_ns();
	int64_t deadline = start + t->within_ns;
	if (rpc_call(rpc, "agent.status", json_object(), deadline, NULL, NULL, NULL, &item->status, &item->error) == 0) {
		item->rtt_ns = clock_mono_ns() - start;
		const json_t *there = json_object_get(item->status, "time_ns");
		if (json_is_integer(there))
			item->skew_ns = json_integer_value(there) - (wall + item->rtt_ns / 2);
		if (t->method)
			rpc_call(rpc, t->method, json_deep_copy(t->args), deadline, NULL, NULL, NULL, &item->result,
				 &item->error);
	}
	rpc_unref(rpc);
}

static void ask(void *arg)
{
	const struct task *t = arg;
	if (t->item->self)
		ask_self(t);
	else
		ask_peer(t);
}

/* This host first, then its peers as they stand in the file. */
static json_t *everyone(const struct config *c)
{
	json_t *names = json_array();
	json_array_append_new(names, json_string(c->name));
	for (size_t i = 0; i < c->n_peers; i++)
		json_array_append_new(names, json_string(c->peers[i].name));
	return names;
}

struct gather_item *gather_ask(struct agent *a, const json_t *hosts, const char *method, const json_t *args,
			       int64_t within_ns, size_t *n)
{
	const struct settings_view *view = settings_get(a->settings);
	json_t *names = json_array_size(hosts) ? json_deep_copy(hosts) : everyone(view->config);
	*n = json_array_size(names);
	if (*n > CONFIG_MAX_PEERS + 1)
		*n = CONFIG_MAX_PEERS + 1;
	struct gather_item *items = mem_alloc_array(*n, sizeof(*items));
	struct task *tasks = mem_alloc_array(*n, sizeof(*tasks));
	struct err e = ERR_INIT;
	struct pool *pool = pool_new(*n < AT_ONCE ? (unsigned)*n : AT_ONCE, "gather", *n, &e);
	for (size_t i = 0; i < *n; i++) {
		const char *name = json_string_value(json_array_get(names, i));
		items[i].host = mem_strdup(name ? name : "");
		items[i].self = strcmp(items[i].host, view->config->name) == 0;
		items[i].rtt_ns = -1;
		tasks[i] = (struct task){
			.agent = a, .item = &items[i], .method = method, .args = args, .within_ns = within_ns
		};
		if (pool)
			pool_submit(pool, ask, &tasks[i]);
		else
			items[i].error = e;
	}
	settings_put(a->settings, view);
	pool_free(pool);
	free(tasks);
	json_decref(names);
	return items;
}

void gather_free(struct gather_item *items, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(items[i].host);
		json_decref(items[i].status);
		json_decref(items[i].result);
	}
	free(items);
}
