#include "replicator/epoch.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#define RECORD_MAX ((size_t)1024 * 1024)
#define UUID_LEN 36u
#define ROOM 1024u /* failovers, at least, whatever a peer says */

bool epoch_uuid_ok(const char *uuid)
{
	if (!uuid || strlen(uuid) != UUID_LEN)
		return false;
	for (size_t i = 0; i < UUID_LEN; i++) {
		const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		if (dash ? uuid[i] != '-' : !strchr("0123456789abcdef", uuid[i]))
			return false;
	}
	return true;
}

bool epoch_ok(int64_t epoch)
{
	return epoch >= 1 && epoch <= EPOCH_MAX;
}

int epoch_check_room(uint64_t epoch, struct err *e)
{
	if (epoch >= 1 && epoch <= (uint64_t)EPOCH_MAX - ROOM)
		return 0;
	return err_set(e, ERR_PROTOCOL, "an epoch of %llu is none, or leaves none for a failover",
		       (unsigned long long)epoch);
}

int epoch_check_next(uint64_t ours, uint64_t asked, struct err *e)
{
	if (epoch_ok((int64_t)asked) && asked == ours + 1)
		return 0;
	return err_set(e, ERR_REFUSED, "epoch %llu does not follow ours, %llu", (unsigned long long)asked,
		       (unsigned long long)ours);
}

int epoch_check_readable(const json_t *record, struct err *e)
{
	const json_t *why = json_object_get(record, "unreadable");

	if (!why)
		return 0;
	err_set(e, ERR_REFUSED, "whose VM %s is cannot be told: %.300s",
		json_string_value(json_object_get(record, "uuid")), json_string_value(why));
	return err_remedy(e, "the agent reads it anew when it starts; if it stays so, look at both hosts before that "
			     "file is moved away");
}

/* ---- files ---- */

/* What a record must have besides: strings, NULL at the end. */
static const char *const of_protection[] = { "vm", "host", NULL };
static const char *const of_replica[] = { NULL };

static bool whole(const json_t *record, const char *uuid, const char *const members[])
{
	const char *its = json_string_value(json_object_get(record, "uuid"));
	const json_t *epoch = json_object_get(record, "epoch");

	for (size_t i = 0; members[i]; i++)
		if (json_string_length(json_object_get(record, members[i])) == 0)
			return false;
	return its && strcmp(its, uuid) == 0 && json_is_string(json_object_get(record, "state")) &&
	       json_is_integer(epoch) && epoch_ok(json_integer_value(epoch));
}

static int save(const char *folder, const char *path, const json_t *record, const char *const members[], struct err *e)
{
	MEM_AUTO char *text = json_dumps(record, JSON_INDENT(1) | JSON_SORT_KEYS);
	const char *uuid = json_string_value(json_object_get(record, "uuid"));

	if (!text || !epoch_uuid_ok(uuid))
		return err_set(e, ERR_CONFIG, "a record of a VM without a UUID");
	if (epoch_check_readable(record, e) < 0)
		return -1;
	/* Nothing is written that would not be read again. */
	if (!whole(record, uuid, members) || strlen(text) > RECORD_MAX)
		return err_set(e, ERR_REFUSED,
			       "record of VM %s: no name, no host, no state, no epoch from 1 to 2^53, or too long",
			       uuid);
	if (file_mkdirs(folder, 0700, e) < 0 || file_write_durable(path, text, strlen(text), 0600, e) < 0)
		return err_wrap(e, "record of VM %s", uuid);
	return 0;
}

static json_t *unreadable(const char *uuid, const char *path, const char *why)
{
	MEM_AUTO char *text = mem_printf("%s: %s", path, why);
	json_t *reason = json_string(text);
	return json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:o}", "uuid", uuid, "vm", uuid, "host", "(unknown)", "from",
			 "(unknown)", "epoch", 0, "state", "unreadable", "unreadable",
			 reason ? reason : json_string("it cannot be read"));
}

static json_t *load(const char *path, const char *uuid, const char *const members[])
{
	struct err e = ERR_INIT;
	MEM_AUTO char *text = file_read_all(path, RECORD_MAX, NULL, &e);
	json_error_t je = { 0 };
	json_t *record = text ? json_loads(text, 0, &je) : NULL;

	if (whole(record, uuid, members))
		return record;
	/* A folder whose record was never written: something that was interrupted, and begins anew. */
	if (!text && e.errnum == ENOENT)
		return NULL;
	MEM_AUTO char *why = !text     ? mem_strdup(e.text)
			     : !record ? mem_printf("no JSON, in line %d", je.line)
				       : mem_strdup("not a whole record of this VM");
	json_decref(record);
	return unreadable(uuid, path, why);
}

/* Every entry of the folder, as a path with `suffix` behind. */
static json_t *load_all(const char *folder, const char *ending, const char *below, const char *const members[],
			struct err *e)
{
	json_t *all = json_array();
	DIR *d = opendir(folder);
	const struct dirent *entry;

	if (!d) {
		if (errno == ENOENT)
			return all;
		err_sys(e, "open %s", folder);
		json_decref(all);
		return NULL;
	}
	while ((errno = 0, entry = readdir(d)) != NULL) {
		char uuid[UUID_LEN + 1] = "";
		if (strlen(entry->d_name) != UUID_LEN + strlen(ending) || strcmp(entry->d_name + UUID_LEN, ending) != 0)
			continue;
		memcpy(uuid, entry->d_name, UUID_LEN);
		if (!epoch_uuid_ok(uuid))
			continue;
		MEM_AUTO char *path = mem_printf("%s/%s%s", folder, entry->d_name, below);
		json_t *record = load(path, uuid, members);
		if (!record)
			continue;
		if (json_object_get(record, "unreadable"))
			log_error("record_unreadable", "msg=%s",
				  LOG_Q(json_string_value(json_object_get(record, "unreadable"))));
		json_array_append_new(all, record);
	}
	if (errno != 0) {
		err_sys(e, "read %s", folder);
		json_decref(all);
		all = NULL;
	}
	closedir(d);
	return all;
}

int epoch_save_protection(const char *state_dir, const json_t *record, struct err *e)
{
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	MEM_AUTO char *folder = mem_printf("%s/protections", state_dir);
	MEM_AUTO char *path = mem_printf("%s/%s.json", folder, uuid ? uuid : "");

	return save(folder, path, record, of_protection, e);
}

int epoch_remove_protection(const char *state_dir, const char *uuid, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/protections/%s.json", state_dir, uuid);

	return file_remove_durable(path, e);
}

json_t *epoch_load_protections(const char *state_dir, struct err *e)
{
	MEM_AUTO char *folder = mem_printf("%s/protections", state_dir);

	return load_all(folder, ".json", "", of_protection, e);
}

json_t *epoch_find_protection(const char *state_dir, const char *uuid)
{
	MEM_AUTO char *path = mem_printf("%s/protections/%s.json", state_dir, uuid);

	return load(path, uuid, of_protection);
}

char *epoch_replica_dir(const char *replica_dir, const char *uuid)
{
	return mem_printf("%s/%s", replica_dir, uuid);
}

int epoch_save_replica(const char *replica_dir, const json_t *record, struct err *e)
{
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	MEM_AUTO char *folder = epoch_replica_dir(replica_dir, uuid ? uuid : "");
	MEM_AUTO char *path = mem_printf("%s/replica.json", folder);

	return save(folder, path, record, of_replica, e);
}

json_t *epoch_load_replicas(const char *replica_dir, struct err *e)
{
	return load_all(replica_dir, "", "/replica.json", of_replica, e);
}

json_t *epoch_find_replica(const char *replica_dir, const char *uuid)
{
	MEM_AUTO char *path = mem_printf("%s/%s/replica.json", replica_dir, uuid);

	return load(path, uuid, of_replica);
}

/* ---- the rule ---- */

int epoch_admit(const json_t *record, const char *host, const char *from, uint64_t epoch, struct err *e)
{
	if (epoch_check_room(epoch, e) < 0)
		return -1;
	if (!record)
		return 0;
	if (epoch_check_readable(record, e) < 0)
		return -1;
	const char *vm = json_string_value(json_object_get(record, "vm"));
	const char *owner = json_string_value(json_object_get(record, "from"));
	const char *state = json_string_value(json_object_get(record, "state"));
	const uint64_t ours = (uint64_t)json_integer_value(json_object_get(record, "epoch"));
	if (!vm || !owner || !state)
		return err_set(e, ERR_CORRUPT, "the record of the replica is not complete");
	if (strcmp(state, "promoting") == 0 || strcmp(state, "promoted") == 0) {
		err_set(e, ERR_REFUSED, "epoch %llu is over: VM %s was failed over to %s (epoch %llu)",
			(unsigned long long)epoch, vm, host, (unsigned long long)ours);
		return err_remedy(e,
				  "it must not run at %s as well; 'vmferry failback %s' brings it home, 'vmferry "
				  "unprotect %s' at %s gives up the old one",
				  from, vm, vm, from);
	}
	if (epoch < ours) {
		err_set(e, ERR_REFUSED, "epoch %llu of VM %s is over; it is in epoch %llu", (unsigned long long)epoch,
			vm, (unsigned long long)ours);
		return err_remedy(e, "look at both hosts with 'vmferry status %s' before anything else", vm);
	}
	if (strcmp(state, "released") != 0 && strcmp(owner, from) != 0) {
		err_set(e, ERR_REFUSED, "the replica of VM %s at %s is kept for %s, not for %s", vm, host, owner, from);
		return err_remedy(e, "if the VM has moved there: 'vmferry unprotect %s --forget' at %s first", vm,
				  owner);
	}
	return 0;
}

bool epoch_came_home(uint64_t ours, const json_t *replica)
{
	const char *state = json_string_value(json_object_get(replica, "state"));
	const uint64_t epoch = (uint64_t)json_integer_value(json_object_get(replica, "epoch"));

	return state && (strcmp(state, "promoting") == 0 || strcmp(state, "promoted") == 0) && epoch > ours;
}

enum epoch_verdict epoch_judge(uint64_t ours, const char *host, const json_t *theirs, struct err *why)
{
	const char *state = json_string_value(json_object_get(theirs, "state"));
	const uint64_t epoch = (uint64_t)json_integer_value(json_object_get(theirs, "epoch"));

	if (!json_is_object(theirs) || !state)
		return EPOCH_OURS;
	const bool taken = strcmp(state, "promoting") == 0 || strcmp(state, "promoted") == 0;
	if (taken && epoch > ours && epoch_ok((int64_t)epoch)) {
		err_set(why, ERR_REFUSED, "%s has taken this VM over (epoch %llu, ours is %llu)", host,
			(unsigned long long)epoch, (unsigned long long)ours);
		err_remedy(why,
			   "it runs at %s now; look at both before anything else, then 'vmferry failback' or 'vmferry "
			   "unprotect'",
			   host);
		return EPOCH_LOST;
	}
	if (epoch > ours || taken) {
		err_set(why, ERR_REFUSED, "%s says that its %s of this VM is of epoch %llu, ours is %llu", host, state,
			(unsigned long long)epoch, (unsigned long long)ours);
		err_remedy(why, "nobody raised the epoch here: look at both hosts with 'vmferry status'");
		return EPOCH_REFUSED;
	}
	return EPOCH_OURS;
}
