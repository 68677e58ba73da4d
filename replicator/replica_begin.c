/* replica.begin: whether a source may write, what it wants kept, and its session. */
#include "replicator/replica_internal.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/field.h"
#include "transport/codec.h"

#include <string.h>
#include <sys/statvfs.h>

#define MIN_FREE (UINT64_C(64) << 20)
#define MAX_COUNT 1000000
#define MAX_RPO_MS (INT64_C(366) * 24 * 3600 * 1000)

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

static bool number_ok(const json_t *o, const char *key, int64_t most)
{
	const json_t *v = json_object_get(o, key);

	return !v || json_is_null(v) ||
	       (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= most);
}

/* What goes into the record: little, so that the record can always be read again. Other keys of "keep" stay out of it. */
static int check_kept(const json_t *args, struct err *e)
{
	const json_t *keep = json_object_get(args, "keep"), *mode = json_object_get(args, "mode");

	if ((keep && !json_is_null(keep) && !json_is_object(keep)) || !number_ok(keep, "last", MAX_COUNT) ||
	    !number_ok(keep, "hourly", MAX_COUNT) || !number_ok(keep, "daily", MAX_COUNT) ||
	    !number_ok(keep, "max_bytes", INT64_MAX) || !number_ok(args, "rpo_ms", MAX_RPO_MS))
		return err_set(e, ERR_PROTOCOL, "replica.begin: keep or rpo_ms is out of range");
	if (mode && (!json_is_string(mode) ||
		     strspn(field_text(args, "mode"), "abcdefghijklmnopqrstuvwxyz-") != json_string_length(mode) ||
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

int replica_begin_args(const json_t *args, uint64_t *epoch, struct err *e)
{
	const json_int_t n = json_integer_value(json_object_get(args, "epoch"));

	if (!epoch_uuid_ok(field_text(args, "uuid")) || !name_ok(field_text(args, "name")) || !epoch_ok(n))
		return err_set(e, ERR_PROTOCOL, "UUID, name or epoch of a replica is missing or out of range");
	*epoch = (uint64_t)n;
	return 0;
}

static int parse_begin(struct replicas *r, struct replica_session *s, const json_t *args, struct err *e)
{
	uint8_t secret[BLOCK_HASH_SECRET];
	const json_int_t channels = json_integer_value(json_object_get(args, "channels"));
	const json_int_t slots = json_integer_value(json_object_get(args, "slots"));
	const uint64_t ours = r->opts.delta_cache / CODEC_PAGE_SIZE;

	if (replica_begin_args(args, &s->epoch, e) < 0)
		return -1;
	if (channels < 1 || channels > REPLICA_MAX_LINKS || slots < 0 ||
	    parse_secret(field_text(args, "secret"), secret) < 0)
		return err_set(e, ERR_PROTOCOL, "replica.begin: a value is missing or out of range");
	if (check_kept(args, e) < 0)
		return -1;
	s->slots = (uint64_t)slots < ours ? (uint32_t)slots : (uint32_t)ours;
	s->forward.want = (size_t)channels;
	s->backward.want = 1;
	block_hash_init(&s->hasher, secret);
	return 0;
}

int replica_begin_space(struct replicas *r, struct err *e)
{
	const uint64_t least = r->opts.min_free ? r->opts.min_free : MIN_FREE;
	struct statvfs v;

	if (statvfs(r->replica_dir, &v) < 0)
		return err_sys(e, "%s", r->replica_dir);
	if ((uint64_t)v.f_bavail * v.f_frsize >= least) {
		replica_reserve_make(r);
		return 0;
	}
	err_set(e, ERR_REFUSED, "the disk of %s is full: %llu MiB are free, %llu MiB are needed", r->host_name,
		(unsigned long long)((uint64_t)v.f_bavail * v.f_frsize >> 20), (unsigned long long)(least >> 20));
	return err_remedy(e, "make room in %s on %s, or keep fewer points; replication goes on by itself then",
			  r->replica_dir, r->host_name);
}

int replica_begin_record(struct replica *p, const char *peer, uint64_t epoch, const json_t *args, struct err *e)
{
	json_t *changes = json_pack("{s:s, s:s, s:I, s:s}", "vm", field_text(args, "name"), "from", peer, "epoch",
				    (json_int_t)epoch, "state", "replica");
	bool same = true;
	const char *key;
	json_t *v, *kept = kept_of(args);

	json_object_update(changes, kept);
	json_decref(kept);
	{
		THREAD_LOCKED(&p->all->lock);
		if (p->record && epoch > field_u64(p->record, "epoch"))
			log_warn("replica_epoch", "uuid=%s from=%s was=%llu is=%llu", p->uuid, peer,
				 (unsigned long long)field_u64(p->record, "epoch"), (unsigned long long)epoch);
		if (json_is_true(json_object_get(p->record, "left")))
			json_object_set_new(changes, "left", json_false());
		json_object_foreach (changes, key, v)
			same &= p->record && json_equal(json_object_get(p->record, key), v);
	}
	const int rc = same ? 0 : replica_update(p, changes, e);
	json_decref(changes);
	return rc;
}

json_t *replica_begin_vm(const struct replica *p, const char *peer, const json_t *args)
{
	return json_pack("{s:s, s:s, s:s}", "uuid", p->uuid, "name", field_text(args, "name"), "from", peer);
}

static json_t *volumes_json(struct store *s)
{
	struct store_volume v[STORE_MAX_VOLUMES];
	const size_t n = store_volumes(s, v, STORE_MAX_VOLUMES);
	json_t *list = json_array();

	for (size_t i = 0; i < n && i < STORE_MAX_VOLUMES; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:I}", "kind", v[i].kind == STORE_RAM ? "ram" : "disk",
						      "name", v[i].name, "size", (json_int_t)v[i].size_bytes));
	return list;
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
	if (replica_begin_space(r, e) < 0 || fault_point(FAULT_REPLICA_BEGIN_TARGET, e) < 0 ||
	    replica_begin_record(p, s->peer, s->epoch, args, e) < 0)
		return -1;
	json_t *vm = replica_begin_vm(p, s->peer, args);
	struct store *store = replica_open(p, vm, e); /* given back by wind_up */
	json_decref(vm);
	if (!store)
		return -1;
	if (fault_point(FAULT_REPLICA_BEGUN_TARGET, e) < 0) {
		replica_close(p);
		return -1;
	}
	replica_note_last(p, store);
	replica_note_space(p, store);
	json_t *volumes = volumes_json(store);
	THREAD_LOCKED(&r->lock);
	p->session = s;
	*result = json_pack("{s:s, s:I, s:b, s:I, s:o?, s:o, s:I}", "session", s->id, "slots", (json_int_t)s->slots,
			    "seeded", json_array_size(volumes) > 0, "points", (json_int_t)p->points, "last",
			    json_deep_copy(p->last), "volumes", volumes, "space_bytes", (json_int_t)p->space_bytes);
	return 0;
}

int replicas_begin(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	struct replica_session *s = replica_session_new(rpc, e);
	struct replica *p = NULL;

	if (!s)
		return -1;
	if (parse_begin(r, s, args, e) < 0 || !(p = replica_enter(r, field_text(args, "uuid"), s->peer, s->epoch, e))) {
		replica_session_free(s);
		return -1;
	}
	s->replica = p;
	const int rc = begin(p, s, args, result, e);
	if (rc == 0)
		log_info("replica_begin", "session=%s vm=%s uuid=%s from=%s epoch=%llu", s->id,
			 field_text(args, "name"), p->uuid, s->peer, (unsigned long long)s->epoch);
	else
		replica_session_free(s);
	replica_moved(p);
	return rc;
}
