#include "tools/vmferryd/clients.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WELCOME_WITHIN_NS (5 * NS_PER_S)

struct client {
	struct client *next; /* clients.lock */
	struct rpc *rpc;     /* fixed; one reference */
	bool local;          /* fixed */
	char *who;           /* fixed */
	bool closed;         /* clients.lock */
};

struct clients {
	/* fixed */
	struct agent *agent;
	struct clients_endpoint endpoints[2]; /* peers, local */
	struct rpc_service services[2];
	pthread_t reaper;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	struct client *list;
	size_t count;
	bool stopping; /* no new ones */
	bool end;      /* the reaper ends once the list is empty */
};

static struct client *find_locked(struct clients *c, const struct rpc *rpc)
{
	for (struct client *client = c->list; client; client = client->next)
		if (client->rpc == rpc)
			return client;
	return NULL;
}

static void on_close(void *ctx, struct rpc *rpc, const struct err *why)
{
	const struct clients_endpoint *endpoint = ctx;
	struct clients *c = endpoint->agent->clients;
	char who[300];
	clients_who(c, rpc, who, sizeof(who));
	if (err_is_set(why) && !endpoint->local)
		log_warn("client_lost", "%s msg=%s", who, LOG_Q(why->text));
	else
		log_debug("client_closed", "%s", who);
	if (!endpoint->local) {
		migrator_incoming_closed(endpoint->agent->migrator, rpc);
		replicator_closed(endpoint->agent->replicator, rpc);
	}
	THREAD_LOCKED(&c->lock);
	struct client *client = find_locked(c, rpc);
	if (client) {
		client->closed = true;
		pthread_cond_broadcast(&c->changed);
	}
}

static unsigned roles_of(void *ctx, const char *peer_name)
{
	const struct clients_endpoint *endpoint = ctx;
	return endpoint->local ? ~0u : settings_roles(endpoint->agent->settings, peer_name);
}

static struct client *take_closed_locked(struct clients *c)
{
	for (struct client **p = &c->list; *p; p = &(*p)->next) {
		struct client *client = *p;
		if (!client->closed)
			continue;
		*p = client->next;
		c->count--;
		return client;
	}
	return NULL;
}

/* The last reference joins the connection's thread, which nobody may do from within it. */
static void *reap(void *arg)
{
	struct clients *c = arg;
	pthread_mutex_lock(&c->lock);
	while (!(c->end && !c->list)) {
		struct client *client = take_closed_locked(c);
		if (!client) {
			pthread_cond_wait(&c->changed, &c->lock);
			continue;
		}
		pthread_mutex_unlock(&c->lock);
		rpc_unref(client->rpc);
		free(client->who);
		free(client);
		pthread_mutex_lock(&c->lock);
		pthread_cond_broadcast(&c->changed);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

struct clients *clients_new(struct agent *agent, struct err *e)
{
	struct clients *c = mem_alloc(sizeof(*c));
	c->agent = agent;
	for (int local = 0; local < 2; local++) {
		c->endpoints[local] = (struct clients_endpoint){ .agent = agent, .local = local != 0 };
		c->services[local] = (struct rpc_service){
			.methods = calls_methods, .ctx = &c->endpoints[local], .roles_of = roles_of, .on_close = on_close
		};
	}
	pthread_mutex_init(&c->lock, NULL);
	thread_cond_init(&c->changed);
	if (thread_start(&c->reaper, "reaper", reap, c, e) < 0) {
		pthread_cond_destroy(&c->changed);
		pthread_mutex_destroy(&c->lock);
		free(c);
		return NULL;
	}
	return c;
}

static int check_room(struct clients *c, struct err *e)
{
	THREAD_LOCKED(&c->lock);
	if (c->stopping)
		return err_set(e, ERR_REFUSED, "the agent is stopping");
	if (c->count >= CLIENTS_MAX)
		return err_set(e, ERR_REFUSED, "the agent has %d connections already", CLIENTS_MAX);
	return 0;
}

void clients_serve(struct clients *c, struct link *l, bool local, const char *who)
{
	struct err e = ERR_INIT;
	if (check_room(c, &e) < 0) {
		log_warn("client_refused", "%s msg=%s", who, LOG_Q(e.text));
		link_refuse(l, &e);
		return;
	}
	if (link_welcome(l, json_object(), clock_mono_ns() + WELCOME_WITHIN_NS, &e) < 0) {
		log_warn("client_lost", "%s msg=%s", who, LOG_Q(e.text));
		link_free(l);
		return;
	}
	struct client *client = mem_alloc(sizeof(*client));
	client->local = local;
	client->who = mem_strdup(who);
	/* The connection may end before rpc_start has returned; on_close then waits here until it is in the list. */
	pthread_mutex_lock(&c->lock);
	client->rpc = rpc_start(l, &c->services[local], &e);
	if (client->rpc) {
		client->next = c->list;
		c->list = client;
		c->count++;
	}
	struct rpc *late = client->rpc && c->stopping ? rpc_ref(client->rpc) : NULL;
	bool failed = !client->rpc;
	pthread_mutex_unlock(&c->lock);
	if (failed) {
		log_error("client_failed", "%s msg=%s", who, LOG_Q(e.text));
		free(client->who);
		free(client);
		return;
	}
	if (late) { /* everything was being closed meanwhile */
		rpc_close(late, NULL);
		rpc_unref(late);
	}
	log_debug("client_connected", "%s", who);
}

const char *clients_who(struct clients *c, const struct rpc *rpc, char *buf, size_t size)
{
	THREAD_LOCKED(&c->lock);
	const struct client *client = find_locked(c, rpc);
	snprintf(buf, size, "%s", client ? client->who : "gone");
	return buf;
}

/* References to the connections for which `wanted` is true, to be closed without the lock. */
static size_t take_refs(struct clients *c, bool all, struct rpc **out, size_t max)
{
	size_t n = 0;
	THREAD_LOCKED(&c->lock);
	for (struct client *client = c->list; client && n < max; client = client->next) {
		if (client->closed)
			continue;
		if (all || (!client->local && !settings_knows(c->agent->settings, rpc_peer_name(client->rpc))))
			out[n++] = rpc_ref(client->rpc);
	}
	return n;
}

/* With why == NULL what is queued, such as the answers to calls just ended, still goes out. */
static void close_some(struct clients *c, bool all, const struct err *why)
{
	struct rpc *refs[CLIENTS_MAX];
	size_t n = take_refs(c, all, refs, CLIENTS_MAX);
	for (size_t i = 0; i < n; i++) {
		rpc_close(refs[i], why);
		rpc_unref(refs[i]);
	}
}

void clients_drop_unknown(struct clients *c)
{
	struct err why = ERR_INIT;
	err_set(&why, ERR_REFUSED, "no longer a peer of this host");
	close_some(c, false, &why);
}

void clients_stop(struct clients *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	bool first = !c->stopping;
	c->stopping = true;
	pthread_mutex_unlock(&c->lock);
	if (!first)
		return;
	close_some(c, true, NULL);
	pthread_mutex_lock(&c->lock);
	c->end = true;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	pthread_join(c->reaper, NULL);
}

void clients_free(struct clients *c)
{
	if (!c)
		return;
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
