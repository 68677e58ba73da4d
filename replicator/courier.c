#include "replicator/courier.h"

#include "base/base64.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "replicator/block_hash.h"
#include "transport/codec.h"
#include "transport/peer_err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAX_CHANNELS 16u
#define ASK_NS (5 * NS_PER_S)
#define BEGIN_NS (60 * NS_PER_S) /* opening a store recovers it */
#define HASHES_NS (60 * NS_PER_S)
#define COMMIT_NS (90 * NS_PER_S)
#define END_NS (5 * NS_PER_S)
#define RELEASE_NS (60 * NS_PER_S)
#define ADOPT_NS (3600 * NS_PER_S)
#define PART_NS (10 * NS_PER_S)   /* what a link that breaks can cost a first copy */
#define SEED_NS (3600 * NS_PER_S) /* asked again, it goes on */

struct courier {
	struct courier_opts opts;
	char *host;
	struct rpc *rpc;
	struct ship *ship;
	char session[40];
	uint64_t epoch;
	uint64_t acked; /* the number of the last transaction that the peer says it has */
	uint32_t slots;
	uint8_t secret[BLOCK_HASH_SECRET];
	struct store_volume volumes[STORE_MAX_VOLUMES];
	size_t n_volumes;
	json_t *last;
	int64_t space_bytes, points; /* atomic */
};

static int call_noted(const struct courier_opts *o, const char *method, json_t *args, int64_t within_ns,
		      void (*note)(void *ctx, const json_t *note), void *ctx, json_t **result, struct err *e)
{
	struct rpc *rpc = o->ways.connect_peer(o->ways.ctx, o->host, e);

	if (!rpc) {
		json_decref(args);
		return -1;
	}
	const int rc = rpc_call(rpc, method, args, clock_mono_ns() + within_ns, note, ctx, o->cancel, result, e);
	rpc_unref(rpc);
	return rc;
}

static int call_at(const struct courier_opts *o, const char *method, json_t *args, int64_t within_ns, json_t **result,
		   struct err *e)
{
	return call_noted(o, method, args, within_ns, NULL, NULL, result, e);
}

int courier_ask(const struct courier_opts *o, json_t **theirs, struct err *e)
{
	return call_at(o, "replica.status", json_pack("{s:s}", "uuid", o->uuid), ASK_NS, theirs, e);
}

int courier_release(const struct courier_opts *o, struct err *e)
{
	return call_at(o, "replica.release", json_pack("{s:s, s:I}", "uuid", o->uuid, "epoch", (json_int_t)o->epoch),
		       RELEASE_NS, NULL, e);
}

int courier_adopt(const struct courier_opts *o, struct err *e)
{
	json_t *args = json_pack("{s:s, s:s, s:I}", "uuid", o->uuid, "vm", o->vm, "epoch", (json_int_t)o->epoch);

	return call_at(o, "replica.adopt", args, ADOPT_NS, NULL, e);
}

int courier_fits(const struct courier_opts *o, const char *xml, const json_t *disks, json_t **findings, struct err *e)
{
	json_t *args = json_pack("{s:s, s:s, s:s, s:o}", "uuid", o->uuid, "name", o->vm, "xml", xml, "disks",
				 json_deep_copy(disks));
	json_t *answer = NULL;

	if (call_at(o, "replica.fits", args, BEGIN_NS, &answer, e) < 0) {
		if (e->cls != ERR_REFUSED || !strstr(e->text, "there is no call"))
			return -1;
		err_clear(e);
	}
	json_t *list = json_object_get(answer, "findings");
	*findings = json_is_array(list) ? json_incref(list) : json_array();
	json_decref(answer);
	return 0;
}

int courier_seed(const struct courier_opts *o, const json_t *disks, bool check,
		 void (*note)(void *ctx, const json_t *note), void *ctx, struct err *e)
{
	json_t *args = json_pack("{s:s, s:s, s:I, s:o, s:b}", "uuid", o->uuid, "name", o->vm, "epoch",
				 (json_int_t)o->epoch, "disks", json_deep_copy(disks), "check", (int)check);

	return call_noted(o, "replica.seed", args, check ? BEGIN_NS : SEED_NS, note, ctx, NULL, e);
}

/* ---- what ship asks for ---- */

static int ask_hashes(void *ctx, const struct store_volume *v, const struct ship_range *ranges, size_t n, uint8_t *out,
		      struct err *e)
{
	struct courier *c = ctx;
	json_t *list = json_array(), *answer = NULL;
	size_t blocks = 0;

	for (size_t i = 0; i < n; i++) {
		json_array_append_new(list,
				      json_pack("[I, I]", (json_int_t)ranges[i].first, (json_int_t)ranges[i].count));
		blocks += (size_t)ranges[i].count;
	}
	json_t *args = json_pack("{s:s, s:s, s:s, s:o}", "session", c->session, "kind",
				 v->kind == STORE_RAM ? "ram" : "disk", "name", v->name, "ranges", list);
	if (rpc_call(c->rpc, "replica.hashes", args, clock_mono_ns() + HASHES_NS, NULL, NULL, c->opts.cancel, &answer,
		     e) < 0)
		return -1;
	const char *text = json_string_value(json_object_get(answer, "hashes"));
	int rc = 0;
	if (json_is_true(json_object_get(answer, "zero")))
		memset(out, 0, blocks * BLOCK_HASH_SIZE);
	else if (!text || base64_decode(text, out, blocks * BLOCK_HASH_SIZE) < 0)
		rc = err_set(e, ERR_PROTOCOL, "%s gave hashes that are none", c->host);
	json_decref(answer);
	return rc;
}

static void note_number(const json_t *answer, const char *key, int64_t *out)
{
	const json_t *n = json_object_get(answer, key);

	if (json_is_integer(n) && json_integer_value(n) >= 0)
		__atomic_store_n(out, json_integer_value(n), __ATOMIC_SEQ_CST);
}

/* Of an answer; older agents do not say. */
static void note_space(struct courier *c, const json_t *answer)
{
	note_number(answer, "space_bytes", &c->space_bytes);
	note_number(answer, "points", &c->points);
}

static int ask_commit(void *ctx, const char *id, bool point, const json_t *meta, uint64_t *seq, struct err *e)
{
	struct courier *c = ctx;
	json_t *answer = NULL;
	json_t *args = json_pack("{s:s, s:s, s:s, s:I}", "session", c->session, "id", id, "kind",
				 point ? "point" : "part", "epoch", (json_int_t)c->epoch);

	if (meta)
		json_object_set_new(args, "meta", json_deep_copy(meta));
	if (rpc_call(c->rpc, "replica.commit", args, clock_mono_ns() + COMMIT_NS, NULL, NULL, c->opts.cancel, &answer,
		     e) < 0)
		return -1;
	const json_int_t n = json_integer_value(json_object_get(answer, "seq"));
	note_space(c, answer);
	json_decref(answer);
	/* Each transaction has a number above all before it. */
	if (n <= 0 || (uint64_t)n <= c->acked)
		return err_set(e, ERR_PROTOCOL, "%s acknowledges %s as number %lld, after %llu", c->host, id,
			       (long long)n, (unsigned long long)c->acked);
	c->acked = (uint64_t)n;
	if (seq)
		*seq = (uint64_t)n;
	return 0;
}

/* ---- begin ---- */

static int take_volumes(struct courier *c, const json_t *list, struct err *e)
{
	size_t i;
	json_t *o;

	json_array_foreach (list, i, o) {
		const char *kind = json_string_value(json_object_get(o, "kind"));
		const char *name = json_string_value(json_object_get(o, "name"));
		const json_int_t size = json_integer_value(json_object_get(o, "size"));
		if (i >= STORE_MAX_VOLUMES || !kind || !name || strlen(name) > STORE_NAME_MAX || size <= 0)
			return err_set(e, ERR_PROTOCOL, "%s has volumes that cannot be", c->host);
		struct store_volume *v = &c->volumes[c->n_volumes++];
		*v = (struct store_volume){ .kind = strcmp(kind, "ram") == 0 ? STORE_RAM : STORE_DISK,
					    .size_bytes = (uint64_t)size };
		snprintf(v->name, sizeof(v->name), "%s", name);
	}
	return 0;
}

static int take_answer(struct courier *c, const json_t *answer, uint32_t slots, struct err *e)
{
	const char *session = json_string_value(json_object_get(answer, "session"));
	const json_int_t agreed = json_integer_value(json_object_get(answer, "slots"));

	if (!session || strlen(session) >= sizeof(c->session) || agreed < 0 || (uint64_t)agreed > slots)
		return err_set(e, ERR_PROTOCOL, "%s answers replica.begin with what cannot be", c->host);
	snprintf(c->session, sizeof(c->session), "%s", session);
	c->slots = (uint32_t)agreed;
	note_space(c, answer);
	if (json_is_object(json_object_get(answer, "last")))
		c->last = json_incref(json_object_get(answer, "last"));
	const json_int_t seq = json_integer_value(json_object_get(c->last, "seq"));
	c->acked = seq > 0 ? (uint64_t)seq : 0;
	return take_volumes(c, json_object_get(answer, "volumes"), e);
}

static int ask_begin(struct courier *c, unsigned channels, struct err *e)
{
	const struct courier_opts *o = &c->opts;
	const uint64_t most = o->delta_cache / CODEC_PAGE_SIZE;
	const uint32_t slots = most < (UINT32_C(1) << 30) ? (uint32_t)most : UINT32_C(1) << 30;
	char hex[2 * BLOCK_HASH_SECRET + 1];
	json_t *answer = NULL;

	if (fault_point(FAULT_REPLICA_BEGIN_SOURCE, e) < 0)
		return -1;
	if (getrandom(c->secret, sizeof(c->secret), 0) != (ssize_t)sizeof(c->secret))
		return err_sys(e, "random bytes for a session");
	for (size_t i = 0; i < sizeof(c->secret); i++)
		snprintf(hex + 2 * i, 3, "%02x", c->secret[i]);
	json_t *args = json_pack("{s:s, s:s, s:I, s:s, s:I, s:I, s:i, s:I, s:s}", "uuid", o->uuid, "name", o->vm,
				 "epoch", (json_int_t)o->epoch, "mode", o->mode, "memory_bytes",
				 (json_int_t)o->memory_bytes, "rpo_ms", (json_int_t)o->rpo_ms, "channels",
				 (int)channels, "slots", (json_int_t)slots, "secret", hex);
	if (o->keep)
		json_object_set_new(args, "keep", json_deep_copy(o->keep));
	if (rpc_call(c->rpc, "replica.begin", args, clock_mono_ns() + BEGIN_NS, NULL, NULL, o->cancel, &answer, e) < 0)
		return -1;
	const int rc = take_answer(c, answer, slots, e);
	json_decref(answer);
	return rc;
}

static struct link *connect_one(struct courier *c, const char *direction, unsigned index, struct err *e)
{
	if (fault_point(FAULT_CHANNEL_CONNECT, e) < 0)
		return NULL;
	json_t *hello = json_pack("{s:s, s:s, s:s, s:i}", "purpose", "replica", "session", c->session, "direction",
				  direction, "index", (int)index);
	return c->opts.ways.connect_data(c->opts.ways.ctx, c->host, hello, e);
}

static int start_ship(struct courier *c, unsigned channels, struct err *e)
{
	struct link *out[MAX_CHANNELS] = { NULL }, *in = NULL;
	unsigned n = 0;

	while (n < channels && (out[n] = connect_one(c, "forward", n, e)) != NULL)
		n++;
	if (n == channels)
		in = connect_one(c, "backward", 0, e);
	if (!in) {
		for (unsigned i = 0; i < n; i++)
			link_free(out[i]);
		return -1;
	}
	struct ship_opts so = { .pool = c->opts.pool,
				.slots = c->slots,
				.rate_limit = c->opts.rate_limit,
				.level = c->opts.level,
				.peer = c->volumes,
				.n_peer = c->n_volumes,
				.part_bytes = c->opts.part_bytes,
				.part_ns = c->last ? 0 : PART_NS,
				.hashes = ask_hashes,
				.commit = ask_commit,
				.ctx = c };
	memcpy(so.secret, c->secret, sizeof(so.secret));
	c->ship = ship_new(&so, out, channels, &in, 1, e);
	return c->ship ? 0 : -1;
}

struct courier *courier_open(const struct courier_opts *o, struct err *e)
{
	struct courier *c = mem_alloc(sizeof(*c));
	const unsigned channels = o->channels < 1 ? 1 : o->channels > MAX_CHANNELS ? MAX_CHANNELS : o->channels;

	c->opts = *o;
	c->epoch = o->epoch;
	c->space_bytes = c->points = -1;
	c->host = mem_strdup(o->host);
	c->rpc = o->ways.connect_peer(o->ways.ctx, o->host, e);
	if (!c->rpc || ask_begin(c, channels, e) < 0 || start_ship(c, channels, e) < 0) {
		courier_close(c, NULL);
		return NULL;
	}
	/* What the caller owns is not looked at any more. */
	c->opts.uuid = c->opts.vm = c->opts.mode = c->opts.host = c->opts.xml = NULL;
	c->opts.keep = NULL;
	return c;
}

/* ---- end ---- */

static void learn_why(const json_t *answer, const char *host, struct err *why)
{
	const json_t *error = json_object_get(answer, "error");

	if (!error)
		return;
	err_clear(why);
	(void)peer_err_from_json(error, why);
	err_wrap(why, "%s", host);
}

void courier_close(struct courier *c, struct err *why)
{
	struct err e = ERR_INIT;
	json_t *answer = NULL;

	if (!c)
		return;
	/* First told, then cut: so that the other side does not take it for a loss. */
	if (c->rpc && c->session[0] && rpc_alive(c->rpc)) {
		json_t *args = json_pack("{s:s, s:s}", "session", c->session, "outcome",
					 why && err_is_set(why) ? "failed" : "done");
		if (rpc_call(c->rpc, "replica.end", args, clock_mono_ns() + END_NS, NULL, NULL, NULL, &answer, &e) == 0 &&
		    why && (why->cls == ERR_PEER || why->cls == ERR_CANCELLED))
			learn_why(answer, c->host, why);
	}
	json_decref(answer);
	if (c->ship)
		ship_abort(c->ship);
	ship_free(c->ship);
	rpc_unref(c->rpc);
	json_decref(c->last);
	free(c->host);
	free(c);
}

void courier_abort(struct courier *c)
{
	ship_abort(c->ship);
}

struct ship *courier_ship(struct courier *c)
{
	return c->ship;
}

const json_t *courier_last(const struct courier *c)
{
	return c->last;
}

int64_t courier_points(const struct courier *c)
{
	return __atomic_load_n(&c->points, __ATOMIC_SEQ_CST);
}

int64_t courier_space_bytes(const struct courier *c)
{
	return __atomic_load_n(&c->space_bytes, __ATOMIC_SEQ_CST);
}
