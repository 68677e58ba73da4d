#include "tools/vmferryd/listener.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/door.h"
#include "transport/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct listener {
	struct agent *agent;
	struct door *doors[2]; /* IPv4, IPv6; NULL where there is none */
};

static void refuse(struct link *l, struct err *why)
{
	log_warn("peer_refused", "peer=%s addr=%s class=%s msg=%s", link_peer_name(l), link_peer_addr(l),
		 err_class_name(why->cls), LOG_Q(why->text));
	link_refuse(l, why);
}

static int check_peer(struct agent *a, const struct link *l, const char *purpose, struct err *e)
{
	const char *name = link_peer_name(l);
	const struct settings_view *view = settings_get(a->settings);
	const char *self = view->config->name;
	const struct config_peer *peer = config_peer_find(view->config, name);
	/* A probe fills the link like a migration's data. */
	bool data = strcmp(purpose, "data") == 0 || strcmp(purpose, "probe") == 0;
	bool replica = strcmp(purpose, "replica") == 0;
	int rc = 0;
	if (!peer) {
		rc = err_set(e, ERR_REFUSED, "%s is not a peer of %s", name, self);
		err_remedy(e, "add it to `peers' in vmferryd.conf of %s, then systemctl reload vmferryd there", self);
	} else if (data && !(peer->roles & ROLE_MIGRATE_IN)) {
		rc = err_set(e, ERR_REFUSED, "%s may not migrate VMs to %s", name, self);
		err_remedy(e, "give it the role \"migrate-in\" in vmferryd.conf of %s, then systemctl reload vmferryd there",
			   self);
	} else if (replica && !(peer->roles & ROLE_REPLICATE_IN)) {
		rc = err_set(e, ERR_REFUSED, "%s may not keep replicas of VMs at %s", name, self);
		err_remedy(e, "give it the role \"replicate-in\" in vmferryd.conf of %s, then systemctl reload vmferryd there",
			   self);
	} else if (!data && !replica && strcmp(purpose, "control") != 0) {
		char clean[40];
		/* Comes from the peer: shown in logs, so only a little of it, and no control characters. */
		snprintf(clean, sizeof(clean), "%s", purpose);
		for (char *p = clean; *p; p++)
			if ((unsigned char)*p < 32 || *p == 127)
				*p = '?';
		rc = err_set(e, ERR_PROTOCOL, "a link for \"%s\" is not known here", clean);
	}
	settings_put(a->settings, view);
	return rc;
}

static void greet(void *ctx, int fd, const char *addr)
{
	struct listener *l = ctx;
	struct agent *a = l->agent;
	struct err e = ERR_INIT;
	struct tls_ctx *tls = settings_tls(a->settings);
	struct link *link = link_accept(tls, fd, clock_mono_ns() + DOOR_WITHIN_NS, &e);
	tls_ctx_free(tls);
	if (!link) {
		log_warn("connection_refused", "addr=%s class=%s msg=%s", addr, err_class_name(e.cls), LOG_Q(e.text));
		return;
	}
	const char *purpose = json_string_value(json_object_get(link_hello(link), "purpose"));
	if (!purpose)
		purpose = "";
	if (agent_stopping(a) && err_set(&e, ERR_REFUSED, "the agent is stopping") < 0) {
		refuse(link, &e);
	} else if (check_peer(a, link, purpose, &e) < 0) {
		refuse(link, &e);
	} else if (strcmp(purpose, "data") == 0) {
		migrator_incoming_attach(a->migrator, link);
	} else if (strcmp(purpose, "probe") == 0) {
		migrator_incoming_probe(a->migrator, link);
	} else if (strcmp(purpose, "replica") == 0) {
		replicator_attach(a->replicator, link);
	} else {
		char who[400];
		snprintf(who, sizeof(who), "peer=%s addr=%s", link_peer_name(link), link_peer_addr(link));
		clients_serve(a->clients, link, false, who);
	}
}

/* A socket per family: an IPv6 socket for both would show IPv4 peers by odd addresses. */
static int bind_to(const char *address, unsigned port, int family, struct err *e)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	const bool six = family == AF_INET6;
	const int one = 1;
	FD_AUTO int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(e, "socket");
	if (address && inet_pton(family, address, six ? (void *)&in6.sin6_addr : (void *)&in.sin_addr) != 1)
		return err_set(e, ERR_CONFIG, "not an IP address");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    (six && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0))
		return err_sys(e, "setsockopt");
	if (bind(fd, six ? (const struct sockaddr *)&in6 : (const struct sockaddr *)&in,
		 six ? sizeof(in6) : sizeof(in)) < 0)
		return err_sys(e, "bind");
	if (listen(fd, 128) < 0)
		return err_sys(e, "listen");
	int out = fd;
	fd = -1;
	return out;
}

static int explain(struct err *e, const char *address, unsigned port)
{
	int errnum = e->errnum;
	err_wrap(e, "cannot listen on %s port %u", address, port);
	if (errnum == EADDRINUSE)
		err_remedy(e, "find out who has the port (ss -ltnp 'sport = :%u'), or set another in listen.port", port);
	else if (errnum == EADDRNOTAVAIL)
		err_remedy(e, "listen.address must be an address of this host; \"*\" takes all");
	return -1;
}

/* fds: IPv4, IPv6; -1 for one that is not wanted, or, for "*", that this kernel does not have. */
static int open_sockets(const char *address, unsigned port, int fds[2], struct err *e)
{
	static const int families[2] = { AF_INET, AF_INET6 };
	const bool any = strcmp(address, "*") == 0;
	for (int i = 0; i < 2; i++) {
		struct err why = ERR_INIT;
		if (!any && (strchr(address, ':') != NULL) != (families[i] == AF_INET6))
			continue;
		fds[i] = bind_to(any ? NULL : address, port, families[i], &why);
		if (fds[i] >= 0 || (any && (why.errnum == EAFNOSUPPORT || why.errnum == EADDRNOTAVAIL)))
			continue;
		*e = why;
		return explain(e, address, port);
	}
	if (fds[0] < 0 && fds[1] < 0)
		return err_set(e, ERR_SYS, "cannot listen on %s port %u: no addresses", address, port);
	return 0;
}

struct listener *listener_start(struct agent *a, struct err *e)
{
	int fds[2] = { -1, -1 };
	const struct settings_view *view = settings_get(a->settings);
	const char *address = view->config->listen.address;
	int rc = open_sockets(address, view->config->listen.port, fds, e);
	if (rc == 0)
		log_info("listening", "address=%s port=%u", address, view->config->listen.port);
	settings_put(a->settings, view);
	struct listener *l = mem_alloc(sizeof(*l));
	l->agent = a;
	for (int i = 0; i < 2 && rc == 0; i++) {
		if (fds[i] < 0)
			continue;
		const struct door_opts opts = { .name = "greet-peer", .fd = fds[i], .greet = greet, .ctx = l };
		fds[i] = -1; /* the door's now */
		l->doors[i] = door_open(&opts, e);
		rc = l->doors[i] ? 0 : -1;
	}
	if (rc == 0)
		return l;
	fd_close(&fds[0]);
	fd_close(&fds[1]);
	listener_stop(l);
	return NULL;
}

void listener_stop(struct listener *l)
{
	if (!l)
		return;
	door_close(l->doors[0]);
	door_close(l->doors[1]);
	free(l);
}
