/* Sessions of sources: their data links, commits, and their end. */
#include "replicator/replica_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/field.h"
#include "replicator/records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define COMMIT_NS (60 * NS_PER_S)
#define LINKS_NS (5 * NS_PER_S)

/* ---- its life ---- */

static int new_id(char out[REPLICA_SESSION_LEN], struct err *e)
{
	uint8_t raw[(REPLICA_SESSION_LEN - 1) / 2];

	if (getrandom(raw, sizeof(raw), 0) != (ssize_t)sizeof(raw))
		return err_sys(e, "random bytes for a session");
	for (size_t i = 0; i < sizeof(raw); i++)
		snprintf(out + 2 * i, 3, "%02x", raw[i]);
	return 0;
}

struct replica_session *replica_session_new(const struct rpc *owner, struct err *e)
{
	struct replica_session *s = mem_alloc(sizeof(*s));

	s->owner = owner;
	s->begun_ns = clock_mono_ns();
	snprintf(s->peer, sizeof(s->peer), "%s", rpc_peer_name(owner));
	if (new_id(s->id, e) == 0)
		return s;
	free(s);
	return NULL;
}

static void free_links(struct replica_links *l)
{
	for (size_t i = 0; i < l->want; i++)
		link_free(l->link[i]);
}

void replica_session_free(struct replica_session *s)
{
	receive_free(s->receive);
	free_links(&s->forward);
	free_links(&s->backward);
	free(s);
}

/* s->ending was set by us. Waits for the calls under way. */
static void wind_up(struct replica_session *s, const char *why)
{
	struct replica *p = s->replica;
	struct replicas *r = p->all;
	struct err broken = ERR_INIT;

	pthread_mutex_lock(&r->lock);
	struct receive *receive = s->receive;
	pthread_mutex_unlock(&r->lock);
	if (receive)
		receive_abort(receive);
	pthread_mutex_lock(&r->lock);
	while (s->busy)
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_mutex_unlock(&r->lock);
	const bool failed = receive && receive_broken(receive, &broken);
	/* An error of this side's disk: the store is opened afresh for the next session. */
	const bool local = failed && broken.cls != ERR_PEER && broken.cls != ERR_PROTOCOL && broken.cls != ERR_CANCELLED;
	log_info("replica_session_end", "session=%s uuid=%s from=%s points=%llu why=%s msg=%s", s->id, p->uuid, s->peer,
		 (unsigned long long)s->points, LOG_Q(why), LOG_Q(failed ? broken.text : ""));
	receive_free(receive);
	s->receive = NULL;
	replica_close(p);
	pthread_mutex_lock(&r->lock);
	if (local)
		p->reopen = true;
	snprintf(p->trouble, sizeof(p->trouble), "%.399s", local ? broken.text : "");
	p->session = NULL;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	replica_session_free(s);
}

void replica_session_end(struct replica *p, const char *why)
{
	struct replicas *r = p->all;

	pthread_mutex_lock(&r->lock);
	struct replica_session *s = p->session;
	const bool ours = s && !s->ending;
	if (ours)
		s->ending = true;
	while (!ours && p->session == s && s)
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_mutex_unlock(&r->lock);
	if (ours)
		wind_up(s, why);
}

static struct replica_session *find_locked(struct replicas *r, const char *id)
{
	for (struct replica *p = r->first; p; p = p->next)
		if (p->session && strcmp(p->session->id, id) == 0)
			return p->session;
	return NULL;
}

/* For one call of the session's owner. That has been told that its last data link is welcome a moment before it is taken in here. */
static struct replica_session *borrow(struct replicas *r, const struct rpc *rpc, const json_t *args, struct err *e)
{
	const int64_t deadline = clock_mono_ns() + LINKS_NS;
	struct replica_session *s;

	THREAD_LOCKED(&r->lock);
	for (;;) {
		s = find_locked(r, field_text(args, "session"));
		if (!s || s->ending || s->owner != rpc) {
			err_set(e, ERR_REFUSED, "no such session");
			return NULL;
		}
		if (s->receive)
			break;
		if (thread_cond_wait_until(&r->changed, &r->lock, deadline) < 0) {
			err_set(e, ERR_PROTOCOL, "not all data links of the session have come");
			return NULL;
		}
	}
	s->busy++;
	return s;
}

static void give_back(struct replica_session *s)
{
	struct replicas *r = s->replica->all;

	THREAD_LOCKED(&r->lock);
	s->busy--;
	pthread_cond_broadcast(&r->changed);
}

int replicas_end(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	struct err broken = ERR_INIT;
	struct replica_session *s;
	bool failed = false;

	{
		THREAD_LOCKED(&r->lock);
		s = find_locked(r, field_text(args, "session"));
		if (!s || s->ending || s->owner != rpc)
			return err_set(e, ERR_REFUSED, "no such session");
		s->ending = true;
		if (s->receive)
			failed = receive_broken(s->receive, &broken);
	}
	wind_up(s, "ended by its source");
	*result = json_object();
	/* That the other side went away is no news to it. */
	if (failed && broken.cls != ERR_PEER && broken.cls != ERR_CANCELLED)
		json_object_set_new(*result, "error",
				    json_pack("{s:s, s:s, s:s}", "class", err_class_name(broken.cls), "text",
					      broken.text, "remedy", broken.remedy));
	return 0;
}

struct orphan {
	struct replica_session *s;
	struct replicas *r;
};

static void *wind_up_thread(void *arg)
{
	struct orphan o = *(struct orphan *)arg;

	free(arg);
	wind_up(o.s, "its connection is gone");
	THREAD_LOCKED(&o.r->lock);
	o.r->winding_up--;
	pthread_cond_broadcast(&o.r->changed);
	return NULL;
}

void replicas_closed(struct replicas *r, const struct rpc *rpc)
{
	for (;;) {
		struct replica_session *s = NULL;
		struct err e = ERR_INIT;
		{
			THREAD_LOCKED(&r->lock);
			for (struct replica *p = r->first; p && !s; p = p->next)
				if (p->session && p->session->owner == rpc && !p->session->ending)
					s = p->session;
			if (!s)
				return;
			s->ending = true;
			r->winding_up++;
		}
		struct orphan *o = mem_alloc(sizeof(*o));
		*o = (struct orphan){ .s = s, .r = r };
		if (thread_start_detached("replica-end", wind_up_thread, o, &e) < 0)
			wind_up_thread(o);
	}
}

/* ---- data links ---- */

static void receive_failed(void *ctx, const struct err *e)
{
	const struct replica_session *s = ctx;

	log_warn("replica_session_failed", "session=%s uuid=%s from=%s class=%s msg=%s", s->id, s->replica->uuid,
		 s->peer, err_class_name(e->cls), LOG_Q(e->text));
}

static struct link **place_locked(struct replicas *r, const struct link *l, struct replica_session **out,
				  struct replica_links **set, struct err *e)
{
	const json_t *hello = link_hello(l);
	const char *direction = field_text(hello, "direction");
	const json_int_t index = json_integer_value(json_object_get(hello, "index"));
	struct replica_session *s = find_locked(r, field_text(hello, "session"));

	if (!s || s->ending || strcmp(s->peer, link_peer_name(l)) != 0) {
		err_set(e, ERR_REFUSED, "no such session of %s", link_peer_name(l));
		return NULL;
	}
	*set = strcmp(direction, "forward") == 0    ? &s->forward
	       : strcmp(direction, "backward") == 0 ? &s->backward
						    : NULL;
	if (!*set || s->receive || index < 0 || (size_t)index >= (*set)->want || (*set)->link[index]) {
		err_set(e, ERR_PROTOCOL, "data link %lld is not expected", (long long)index);
		return NULL;
	}
	*out = s;
	return &(*set)->link[index];
}

static int start_locked(struct replica_session *s, struct err *e)
{
	struct replica *p = s->replica;
	const struct receive_opts o = {
		.pool = p->all->opts.pool, .slots = s->slots, .store = p->store, .on_error = receive_failed, .ctx = s
	};

	s->receive = receive_new(&o, s->forward.link, s->forward.want, s->backward.link, s->backward.want, e);
	pthread_cond_broadcast(&p->all->changed);
	return s->receive ? 0 : -1;
}

void replicas_attach(struct replicas *r, struct link *l)
{
	struct replica_session *s = NULL;
	struct replica_links *set = NULL;
	struct err e = ERR_INIT;

	if (fault_point(FAULT_CHANNEL_ACCEPT, &e) < 0) {
		link_refuse(l, &e);
		return;
	}
	pthread_mutex_lock(&r->lock);
	struct link **place = place_locked(r, l, &s, &set, &e);
	pthread_mutex_unlock(&r->lock);
	if (!place) {
		log_warn("data_link_refused", "peer=%s addr=%s msg=%s", link_peer_name(l), link_peer_addr(l),
			 LOG_Q(e.text));
		link_refuse(l, &e);
		return;
	}
	if (link_welcome(l, json_object(), clock_mono_ns() + LINKS_NS, &e) < 0 ||
	    fault_point(FAULT_REPLICA_LINK, &e) < 0) {
		log_warn("data_link_lost", "peer=%s msg=%s", link_peer_name(l), LOG_Q(e.text));
		link_free(l);
		return;
	}
	THREAD_LOCKED(&r->lock);
	/* The session may be gone by now. */
	place = place_locked(r, l, &s, &set, &e);
	if (!place) {
		link_free(l);
		return;
	}
	*place = l;
	set->have++;
	if (s->forward.have == s->forward.want && s->backward.have == s->backward.want && start_locked(s, &e) < 0)
		log_error("replica_session", "session=%s uuid=%s msg=%s", s->id, s->replica->uuid, LOG_Q(e.text));
}

/* ---- what it is asked ---- */

int replicas_hashes(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	const size_t n = replica_hash_count(args, e);
	struct replica_session *s = n ? borrow(r, rpc, args, e) : NULL;

	if (!s)
		return -1;
	int rc = fault_point(FAULT_REPLICA_HASHES, e);
	if (rc == 0)
		rc = replica_hash_blocks(s->replica->store, &s->hasher, args, n, result, e);
	give_back(s);
	return rc;
}

static int check_commit(const struct replica_session *s, const json_t *args, bool *point, struct err *e)
{
	const char *kind = field_text(args, "kind");
	const json_t *meta = json_object_get(args, "meta");

	*point = strcmp(kind, "point") == 0;
	if (!records_id_ok(field_text(args, "id")) || (!*point && strcmp(kind, "part") != 0) ||
	    field_u64(args, "epoch") != s->epoch)
		return err_set(e, ERR_PROTOCOL, "replica.commit: a value is missing, or of another epoch");
	if (*point && (!json_is_object(meta) || strcmp(field_text(meta, "id"), field_text(args, "id")) != 0))
		return err_set(e, ERR_PROTOCOL, "replica.commit: a point without its description");
	return 0;
}

static void note_commit(struct replica_session *s, const json_t *meta, uint64_t seq)
{
	struct replica *p = s->replica;
	json_t *last = json_pack("{s:I, s:s, s:I}", "seq", (json_int_t)seq, "id", field_text(meta, "id"), "instant_ns",
				 json_integer_value(json_object_get(meta, "instant_ns")));

	THREAD_LOCKED(&p->all->lock);
	json_decref(p->last);
	p->last = last;
	p->points++;
	p->prune_due = true;
	p->trouble[0] = '\0';
	s->points++;
	pthread_cond_broadcast(&p->all->changed);
}

int replicas_commit(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	struct replica_session *s = borrow(r, rpc, args, e);
	const json_t *meta = json_object_get(args, "meta");
	bool point = false;
	uint64_t seq = 0;

	if (!s)
		return -1;
	int rc = check_commit(s, args, &point, e);
	if (rc == 0)
		rc = receive_commit(s->receive, field_text(args, "id"), point, meta, clock_mono_ns() + COMMIT_NS, &seq,
				    e);
	if (rc == 0) {
		if (point)
			note_commit(s, meta, seq);
		THREAD_LOCKED(&r->lock);
		*result = json_pack("{s:I, s:I, s:I, s:I}", "seq", (json_int_t)seq, "committed_ns",
				    (json_int_t)clock_wall_ns(), "space_bytes", (json_int_t)s->replica->space_bytes,
				    "points", (json_int_t)s->replica->points);
	}
	give_back(s);
	return rc;
}
