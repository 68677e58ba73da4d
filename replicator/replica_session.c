/* Sessions of sources: begin, data links, hashes, commit, end. */
#include "replicator/replica_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/base64.h"
#include "replicator/epoch.h"
#include "replicator/records.h"
#include "transport/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/statvfs.h>

#define MIN_FREE (UINT64_C(64) << 20)
#define MAX_HASHES 131072u
#define MAX_RANGES 4096u
#define COMMIT_NS (60 * NS_PER_S)
#define CHUNK_BLOCKS 256u

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* ---- the end ---- */

static void free_links(struct replica_links *l)
{
	for (size_t i = 0; i < l->want; i++)
		link_free(l->link[i]);
}

/* Nobody else sees it any more. */
static void session_free(struct replica_session *s)
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
	session_free(s);
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

/* For one call of the session's owner. */
static struct replica_session *borrow(struct replicas *r, const struct rpc *rpc, const json_t *args, struct err *e)
{
	THREAD_LOCKED(&r->lock);
	struct replica_session *s = find_locked(r, text_of(args, "session"));
	if (!s || s->ending || s->owner != rpc || !s->receive) {
		err_set(e, ERR_REFUSED, "no such session");
		return NULL;
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
		s = find_locked(r, text_of(args, "session"));
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
				    json_pack("{s:s, s:s, s:s}", "class", err_class_name(broken.cls), "text", broken.text, "remedy",
					      broken.remedy));
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

/* ---- begin ---- */

static int new_id(char out[REPLICA_SESSION_LEN], struct err *e)
{
	uint8_t raw[(REPLICA_SESSION_LEN - 1) / 2];

	if (getrandom(raw, sizeof(raw), 0) != (ssize_t)sizeof(raw))
		return err_sys(e, "random bytes for a session");
	for (size_t i = 0; i < sizeof(raw); i++)
		snprintf(out + 2 * i, 3, "%02x", raw[i]);
	return 0;
}

static int parse_secret(const char *hex, uint8_t out[BLOCK_HASH_SECRET])
{
	if (strlen(hex) != 2 * BLOCK_HASH_SECRET || strspn(hex, "0123456789abcdef") != 2 * BLOCK_HASH_SECRET)
		return -1;
	for (size_t i = 0; i < BLOCK_HASH_SECRET; i++) {
		unsigned v;
		if (sscanf(hex + 2 * i, "%2x", &v) != 1)
			return -1;
		out[i] = (uint8_t)v;
	}
	return 0;
}

#define MAX_COUNT 1000000
#define MAX_RPO_MS (INT64_C(366) * 24 * 3600 * 1000)

static bool number_ok(const json_t *o, const char *key, int64_t most)
{
	const json_t *v = json_object_get(o, key);

	return !v || json_is_null(v) || (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= most);
}

/* What goes into the record: little, so that the record can always be read again. Other keys of "keep" stay out of it. */
static int check_kept(const json_t *args, struct err *e)
{
	const json_t *keep = json_object_get(args, "keep"), *mode = json_object_get(args, "mode");

	if ((keep && !json_is_null(keep) && !json_is_object(keep)) || !number_ok(keep, "last", MAX_COUNT) || !number_ok(keep, "hourly", MAX_COUNT) ||
	    !number_ok(keep, "daily", MAX_COUNT) || !number_ok(keep, "max_bytes", INT64_MAX) || !number_ok(args, "rpo_ms", MAX_RPO_MS))
		return err_set(e, ERR_PROTOCOL, "replica.begin: keep or rpo_ms is out of range");
	if (mode && (!json_is_string(mode) || strspn(text_of(args, "mode"), "abcdefghijklmnopqrstuvwxyz-") != json_string_length(mode) ||
		     json_string_length(mode) > 31))
		return err_set(e, ERR_PROTOCOL, "replica.begin: mode is no name");
	return 0;
}

static json_t *kept_of(const json_t *args)
{
	static const char *const numbers[] = { "last", "hourly", "daily", "max_bytes" };
	const json_t *keep = json_object_get(args, "keep");
	json_t *out = json_object();

	if (json_is_integer(json_object_get(args, "rpo_ms")))
		json_object_set(out, "rpo_ms", json_object_get(args, "rpo_ms"));
	if (json_object_get(args, "mode"))
		json_object_set(out, "mode", json_object_get(args, "mode"));
	if (!json_is_object(keep))
		return out;
	json_t *few = json_object();
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (json_is_integer(json_object_get(keep, numbers[i])))
			json_object_set(few, numbers[i], json_object_get(keep, numbers[i]));
	json_object_set_new(out, "keep", few);
	return out;
}

/* What operators type and paths are made of: no other VM's UUID, nor a way out of a folder. */
static bool name_ok(const char *name)
{
	size_t n = 0;
	bool uuid = true;

	for (; name[n]; n++) {
		if (name[n] == '/' || (unsigned char)name[n] < ' ' || name[n] == 0x7f)
			return false;
		const bool dash = n == 8 || n == 13 || n == 18 || n == 23;
		uuid &= dash ? name[n] == '-' : strchr("0123456789abcdefABCDEF", name[n]) != NULL;
	}
	return n > 0 && n <= 255 && !(uuid && n == 36) && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int parse_begin(struct replicas *r, struct replica_session *s, const json_t *args, struct err *e)
{
	uint8_t secret[BLOCK_HASH_SECRET];
	const char *name = text_of(args, "name");
	const json_int_t channels = json_integer_value(json_object_get(args, "channels"));
	const json_int_t slots = json_integer_value(json_object_get(args, "slots"));
	const json_int_t epoch = json_integer_value(json_object_get(args, "epoch"));
	const uint64_t ours = r->opts.delta_cache / CODEC_PAGE_SIZE;

	if (!epoch_uuid_ok(text_of(args, "uuid")) || !name_ok(name) || channels < 1 || channels > REPLICA_MAX_LINKS ||
	    slots < 0 || !epoch_ok(epoch) || parse_secret(text_of(args, "secret"), secret) < 0)
		return err_set(e, ERR_PROTOCOL, "replica.begin: a value is missing or out of range");
	if (check_kept(args, e) < 0)
		return -1;
	s->epoch = (uint64_t)epoch;
	s->slots = (uint64_t)slots < ours ? (uint32_t)slots : (uint32_t)ours;
	s->forward.want = (size_t)channels;
	s->backward.want = 1;
	block_hash_init(&s->hasher, secret);
	return 0;
}

static int check_space(struct replicas *r, struct err *e)
{
	const uint64_t least = r->opts.min_free ? r->opts.min_free : MIN_FREE;
	struct statvfs v;

	if (statvfs(r->replica_dir, &v) < 0)
		return err_sys(e, "%s", r->replica_dir);
	if ((uint64_t)v.f_bavail * v.f_frsize >= least)
		return 0;
	err_set(e, ERR_REFUSED, "the disk of %s is full: %llu MiB are free, %llu MiB are needed", r->host_name,
		(unsigned long long)((uint64_t)v.f_bavail * v.f_frsize >> 20), (unsigned long long)(least >> 20));
	return err_remedy(e, "make room in %s on %s, or keep fewer points; replication goes on by itself then", r->replica_dir,
			  r->host_name);
}

static int save_begin(struct replica *p, const struct replica_session *s, const json_t *args, struct err *e)
{
	json_t *changes = json_pack("{s:s, s:s, s:I, s:s}", "vm", text_of(args, "name"), "from", s->peer, "epoch",
				    (json_int_t)s->epoch, "state", "replica");
	bool same = true;
	const char *key;
	json_t *v, *kept = kept_of(args);

	json_object_update(changes, kept);
	json_decref(kept);
	{
		THREAD_LOCKED(&p->all->lock);
		json_object_foreach(changes, key, v)
			same &= p->record && json_equal(json_object_get(p->record, key), v);
	}
	const int rc = same ? 0 : replica_update(p, changes, e);
	json_decref(changes);
	return rc;
}

static json_t *volumes_json(struct store *s)
{
	struct store_volume v[STORE_MAX_VOLUMES];
	const size_t n = store_volumes(s, v, STORE_MAX_VOLUMES);
	json_t *list = json_array();

	for (size_t i = 0; i < n && i < STORE_MAX_VOLUMES; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:I}", "kind", v[i].kind == STORE_RAM ? "ram" : "disk", "name",
						      v[i].name, "size", (json_int_t)v[i].size_bytes));
	return list;
}

struct replica *replica_enter(struct replicas *r, const char *uuid, struct err *e)
{
	THREAD_LOCKED(&r->lock);
	struct replica *p = replica_by_uuid_locked(r, uuid);
	if (!p) {
		p = mem_alloc(sizeof(*p));
		p->all = r;
		snprintf(p->uuid, sizeof(p->uuid), "%s", uuid);
		p->next = r->first;
		r->first = p;
	}
	if (replica_move_locked(p))
		return p;
	err_set(e, ERR_REFUSED, "%s is shutting down", r->host_name);
	return NULL;
}

static int begin(struct replica *p, struct replica_session *s, const json_t *args, json_t **result, struct err *e)
{
	struct replicas *r = p->all;

	{
		THREAD_LOCKED(&r->lock);
		if (epoch_admit(p->record, r->host_name, s->peer, s->epoch, e) < 0)
			return -1;
	}
	/* The same source is back: what is left of its last session would only be in the way. */
	replica_session_end(p, "its source has come back");
	if (check_space(r, e) < 0 || fault_point(FAULT_REPLICA_BEGIN_TARGET, e) < 0 || save_begin(p, s, args, e) < 0)
		return -1;
	json_t *vm = json_pack("{s:s, s:s, s:s}", "uuid", p->uuid, "name", text_of(args, "name"), "from", s->peer);
	struct store *store = replica_open(p, vm, e); /* given back by wind_up */
	json_decref(vm);
	if (!store)
		return -1;
	if (fault_point(FAULT_REPLICA_BEGUN_TARGET, e) < 0) {
		replica_close(p);
		return -1;
	}
	replica_note_last(p, store);
	json_t *volumes = volumes_json(store);
	THREAD_LOCKED(&r->lock);
	p->session = s;
	*result = json_pack("{s:s, s:I, s:b, s:I, s:O?, s:o}", "session", s->id, "slots", (json_int_t)s->slots, "seeded",
			    json_array_size(volumes) > 0, "points", (json_int_t)p->points, "last", p->last, "volumes", volumes);
	return 0;
}

int replicas_begin(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	struct replica_session *s = mem_alloc(sizeof(*s));
	struct replica *p = NULL;

	s->owner = rpc;
	s->begun_ns = clock_mono_ns();
	snprintf(s->peer, sizeof(s->peer), "%s", rpc_peer_name(rpc));
	if (new_id(s->id, e) < 0 || parse_begin(r, s, args, e) < 0 || !(p = replica_enter(r, text_of(args, "uuid"), e))) {
		session_free(s);
		return -1;
	}
	s->replica = p;
	const int rc = begin(p, s, args, result, e);
	if (rc == 0)
		log_info("replica_begin", "session=%s vm=%s uuid=%s from=%s epoch=%llu", s->id, text_of(args, "name"), p->uuid, s->peer,
			 (unsigned long long)s->epoch);
	else
		session_free(s);
	replica_moved(p);
	return rc;
}

/* ---- data links ---- */

static void receive_failed(void *ctx, const struct err *e)
{
	const struct replica_session *s = ctx;

	log_warn("replica_session_failed", "session=%s uuid=%s from=%s class=%s msg=%s", s->id, s->replica->uuid, s->peer,
		 err_class_name(e->cls), LOG_Q(e->text));
}

static struct link **place_locked(struct replicas *r, const struct link *l, struct replica_session **out, struct replica_links **set,
				  struct err *e)
{
	const json_t *hello = link_hello(l);
	const char *direction = text_of(hello, "direction");
	const json_int_t index = json_integer_value(json_object_get(hello, "index"));
	struct replica_session *s = find_locked(r, text_of(hello, "session"));

	if (!s || s->ending || strcmp(s->peer, link_peer_name(l)) != 0) {
		err_set(e, ERR_REFUSED, "no such session of %s", link_peer_name(l));
		return NULL;
	}
	*set = strcmp(direction, "forward") == 0 ? &s->forward : strcmp(direction, "backward") == 0 ? &s->backward : NULL;
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
		log_warn("data_link_refused", "peer=%s addr=%s msg=%s", link_peer_name(l), link_peer_addr(l), LOG_Q(e.text));
		link_refuse(l, &e);
		return;
	}
	if (link_welcome(l, json_object(), clock_mono_ns() + 5 * NS_PER_S, &e) < 0) {
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

/* ---- hashes ---- */

struct asked {
	struct store_view *view;
	uint32_t volume;
	uint64_t blocks; /* that the volume has here; beyond them: zeros */
	const struct block_hash *hasher;
	uint8_t *buf; /* CHUNK_BLOCKS * 4096 */
};

static int hash_range(const struct asked *a, uint64_t first, uint64_t count, uint8_t *out, struct err *e)
{
	bool zero[CHUNK_BLOCKS];

	if (first >= a->blocks)
		return 0;
	if (count > a->blocks - first)
		count = a->blocks - first;
	while (count > 0) {
		const size_t n = count < CHUNK_BLOCKS ? (size_t)count : CHUNK_BLOCKS;
		if (store_view_read(a->view, a->volume, first, n, a->buf, zero, e) < 0)
			return -1;
		for (size_t i = 0; i < n; i++)
			if (!zero[i])
				block_hash_of(a->hasher, a->buf + i * STORE_BLOCK, out + i * BLOCK_HASH_SIZE);
		out += n * BLOCK_HASH_SIZE;
		first += n;
		count -= n;
	}
	return 0;
}

/* Sum of the counts, or 0 with the error set. */
static size_t check_ranges(const json_t *ranges, struct err *e)
{
	uint64_t total = 0;
	size_t i;
	json_t *one;

	json_array_foreach(ranges, i, one) {
		const json_int_t first = json_integer_value(json_array_get(one, 0));
		const json_int_t count = json_integer_value(json_array_get(one, 1));
		if (json_array_size(one) != 2 || first < 0 || count < 1 || count > MAX_HASHES || (total += (uint64_t)count) > MAX_HASHES) {
			total = 0;
			break;
		}
	}
	if (total == 0 || json_array_size(ranges) > MAX_RANGES) {
		err_set(e, ERR_PROTOCOL, "replica.hashes: not 1 to %u blocks in at most %u ranges", MAX_HASHES, MAX_RANGES);
		return 0;
	}
	return (size_t)total;
}

static bool find_volume(struct store_view *view, const json_t *args, struct asked *a)
{
	struct store_volume v[STORE_MAX_VOLUMES];
	const size_t n = store_view_volumes(view, v, STORE_MAX_VOLUMES);
	const enum store_volume_kind kind = strcmp(text_of(args, "kind"), "ram") == 0 ? STORE_RAM : STORE_DISK;

	for (size_t i = 0; i < n && i < STORE_MAX_VOLUMES; i++) {
		if (v[i].kind != kind || strcmp(v[i].name, text_of(args, "name")) != 0)
			continue;
		a->volume = (uint32_t)i;
		a->blocks = (v[i].size_bytes + STORE_BLOCK - 1) / STORE_BLOCK;
		return true;
	}
	return false;
}

static int hash_all(struct replica_session *s, struct store *store, const json_t *args, uint8_t *out, struct err *e)
{
	const json_t *ranges = json_object_get(args, "ranges");
	struct asked a = { .hasher = &s->hasher };
	size_t i;
	json_t *one;
	int rc = 0;

	a.view = store_view_newest(store, e);
	if (!a.view)
		return -1;
	a.buf = mem_alloc_array(CHUNK_BLOCKS, STORE_BLOCK);
	if (find_volume(a.view, args, &a)) {
		json_array_foreach(ranges, i, one) {
			const uint64_t first = (uint64_t)json_integer_value(json_array_get(one, 0));
			const uint64_t count = (uint64_t)json_integer_value(json_array_get(one, 1));
			if ((rc = hash_range(&a, first, count, out, e)) < 0)
				break;
			out += count * BLOCK_HASH_SIZE;
		}
	}
	free(a.buf);
	store_view_close(a.view);
	return rc;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

int replicas_hashes(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	const size_t n = check_ranges(json_object_get(args, "ranges"), e);
	struct replica_session *s = n ? borrow(r, rpc, args, e) : NULL;

	if (!s)
		return -1;
	uint8_t *out = mem_alloc_array(n, BLOCK_HASH_SIZE);
	int rc = fault_point(FAULT_REPLICA_HASHES, e);
	if (rc == 0)
		rc = hash_all(s, s->replica->store, args, out, e);
	give_back(s);
	if (rc == 0 && all_zero(out, n * BLOCK_HASH_SIZE)) {
		*result = json_pack("{s:b}", "zero", 1);
	} else if (rc == 0) {
		char *text = base64_encode(out, n * BLOCK_HASH_SIZE);
		*result = json_pack("{s:s}", "hashes", text);
		free(text);
	}
	free(out);
	return rc;
}

/* ---- commit ---- */

static int check_commit(const struct replica_session *s, const json_t *args, bool *point, struct err *e)
{
	const char *kind = text_of(args, "kind");
	const json_t *meta = json_object_get(args, "meta");

	*point = strcmp(kind, "point") == 0;
	if (!records_id_ok(text_of(args, "id")) || (!*point && strcmp(kind, "part") != 0) ||
	    (uint64_t)json_integer_value(json_object_get(args, "epoch")) != s->epoch)
		return err_set(e, ERR_PROTOCOL, "replica.commit: a value is missing, or of another epoch");
	if (*point && (!json_is_object(meta) || strcmp(text_of(meta, "id"), text_of(args, "id")) != 0))
		return err_set(e, ERR_PROTOCOL, "replica.commit: a point without its description");
	return 0;
}

static void note_commit(struct replica_session *s, const json_t *meta, uint64_t seq)
{
	struct replica *p = s->replica;
	json_t *last = json_pack("{s:I, s:s, s:I}", "seq", (json_int_t)seq, "id", text_of(meta, "id"), "instant_ns",
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
		rc = receive_commit(s->receive, text_of(args, "id"), point, meta, clock_mono_ns() + COMMIT_NS, &seq, e);
	if (rc == 0) {
		if (point)
			note_commit(s, meta, seq);
		*result = json_pack("{s:I, s:I}", "seq", (json_int_t)seq, "committed_ns", (json_int_t)clock_wall_ns());
	}
	give_back(s);
	return rc;
}
