#include "tools/vmferryd/peers.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "config/nearest.h"

#include <stdlib.h>
#include <string.h>

#define CONNECT_WITHIN_NS (5 * NS_PER_S)

struct peer {
	struct peer *next; /* fixed once it is in the list */
	char *name;        /* fixed */

	pthread_mutex_t connecting; /* held while connecting: others wait for the outcome; taken before peers.lock */
	struct rpc *rpc;            /* peers.lock; may be dead */
};

struct peers {
	struct settings *settings; /* fixed */

	pthread_mutex_t lock;
	struct peer *list; /* under lock; entries are never removed */
};

struct peers *peers_new(struct settings *settings)
{
	struct peers *p = mem_alloc(sizeof(*p));
	p->settings = settings;
	pthread_mutex_init(&p->lock, NULL);
	return p;
}

void peers_forget(struct peers *p)
{
	pthread_mutex_lock(&p->lock);
	struct peer *first = p->list;
	pthread_mutex_unlock(&p->lock);
	for (struct peer *peer = first; peer; peer = peer->next) {
		pthread_mutex_lock(&p->lock);
		struct rpc *rpc = peer->rpc;
		peer->rpc = NULL;
		pthread_mutex_unlock(&p->lock);
		rpc_unref(rpc);
	}
}

void peers_free(struct peers *p)
{
	if (!p)
		return;
	peers_forget(p);
	while (p->list) {
		struct peer *peer = p->list;
		p->list = peer->next;
		pthread_mutex_destroy(&peer->connecting);
		free(peer->name);
		free(peer);
	}
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static int unknown_peer(const struct config *c, const char *host, struct err *e)
{
	const char *names[CONFIG_MAX_PEERS];
	for (size_t i = 0; i < c->n_peers; i++)
		names[i] = c->peers[i].name;
	if (strcmp(host, c->name) == 0) {
		err_set(e, ERR_REFUSED, "%s is this host itself", host);
		return err_remedy(e, "name another host; `vmferry hosts' lists them");
	}
	const char *near = nearest_of(host, names, c->n_peers);
	if (near)
		err_set(e, ERR_REFUSED, "%s is not a peer of %s; did you mean %s?", host, c->name, near);
	else
		err_set(e, ERR_REFUSED, "%s is not a peer of %s", host, c->name);
	return err_remedy(
		e, "`vmferry hosts' lists the peers; new ones are added to `peers' in vmferryd.conf of both hosts");
}

int peers_check(struct peers *p, const char *host, struct err *e)
{
	const struct settings_view *view = settings_get(p->settings);
	const int rc = config_peer_find(view->config, host) ? 0 : unknown_peer(view->config, host, e);
	settings_put(p->settings, view);
	return rc;
}

static struct link *open_link(struct peers *p, const char *host, json_t *hello, struct err *e)
{
	const struct settings_view *view = settings_get(p->settings);
	const struct config_peer *peer = config_peer_find(view->config, host);
	struct link *l = NULL;
	if (peer) {
		const struct link_peer to = { .name = peer->name,
					      .address = peer->address,
					      .port = (uint16_t)peer->port };
		struct tls_ctx *ctx = settings_tls(p->settings);
		l = link_connect(ctx, &to, hello, clock_mono_ns() + CONNECT_WITHIN_NS, e);
		tls_ctx_free(ctx);
	} else {
		json_decref(hello);
		unknown_peer(view->config, host, e);
	}
	settings_put(p->settings, view);
	return l;
}

struct link *peers_connect_data(struct peers *p, const char *host, json_t *hello, struct err *e)
{
	return open_link(p, host, hello, e);
}

static struct peer *find_or_add(struct peers *p, const char *host)
{
	THREAD_LOCKED(&p->lock);
	for (struct peer *peer = p->list; peer; peer = peer->next)
		if (strcmp(peer->name, host) == 0)
			return peer;
	struct peer *peer = mem_alloc(sizeof(*peer));
	peer->name = mem_strdup(host);
	pthread_mutex_init(&peer->connecting, NULL);
	peer->next = p->list;
	p->list = peer;
	return peer;
}

/* New reference if there is a live one; *dead is a dead one that was there. */
static struct rpc *take_cached(struct peers *p, struct peer *peer, struct rpc **dead)
{
	THREAD_LOCKED(&p->lock);
	if (peer->rpc && rpc_alive(peer->rpc))
		return rpc_ref(peer->rpc);
	*dead = peer->rpc;
	peer->rpc = NULL;
	return NULL;
}

static void on_close(void *ctx, struct rpc *rpc, const struct err *why)
{
	(void)ctx;
	if (err_is_set(why))
		log_warn("peer_lost", "peer=%s addr=%s msg=%s", rpc_peer_name(rpc), rpc_peer_addr(rpc),
			 LOG_Q(why->text));
	else
		log_debug("peer_closed", "peer=%s addr=%s", rpc_peer_name(rpc), rpc_peer_addr(rpc));
}

/* What we open is for our own calls; the other side opens its own connection for its. */
static const struct rpc_method no_methods[] = { { NULL, NULL, 0 } };
static const struct rpc_service callers_only = { .methods = no_methods, .on_close = on_close };

struct rpc *peers_connect(struct peers *p, const char *host, struct err *e)
{
	if (!settings_knows(p->settings, host)) {
		const struct settings_view *view = settings_get(p->settings);
		unknown_peer(view->config, host, e);
		settings_put(p->settings, view);
		return NULL;
	}
	struct peer *peer = find_or_add(p, host);
	struct rpc *dead = NULL;
	pthread_mutex_lock(&peer->connecting);
	struct rpc *rpc = take_cached(p, peer, &dead);
	if (!rpc) {
		rpc_unref(dead);
		struct link *l = open_link(p, host, json_pack("{s:s}", "purpose", "control"), e);
		rpc = l ? rpc_start(l, &callers_only, e) : NULL;
		if (rpc) {
			log_debug("peer_connected", "peer=%s addr=%s", host, rpc_peer_addr(rpc));
			THREAD_LOCKED(&p->lock);
			peer->rpc = rpc_ref(rpc);
		}
	}
	pthread_mutex_unlock(&peer->connecting);
	return rpc;
}
