#include "replicator/may_start.h"

#include "replicator/epoch.h"

#include <jansson.h>
#include <string.h>

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static int judge(const json_t *record, const json_t *replica, const char *boot_id, struct err *e)
{
	const char *vm = text_of(record, "vm"), *host = text_of(record, "host"), *state = text_of(record, "state");
	const char *asked = text_of(record, "owner_boot");

	if (epoch_check_readable(record, e) < 0)
		return -1;
	if (epoch_came_home((uint64_t)json_integer_value(json_object_get(record, "epoch")), replica))
		return 0;
	if (strcmp(state, "fenced") == 0 || strcmp(state, "handed-over") == 0) {
		err_set(e, ERR_REFUSED, "VM %.80s %s %.80s, and must not run here as well", vm,
			strcmp(state, "fenced") == 0 ? "was taken over by" : "was handed over to", host);
		return err_remedy(
			e,
			"'vmferry failback %.80s' at %.80s brings it home; 'vmferry unprotect %.80s' here gives up "
			"what is left here",
			vm, host, vm);
	}
	if (boot_id && asked[0] && strcmp(asked, boot_id) != 0) {
		err_set(e, ERR_REFUSED,
			"nobody has asked %.80s since this host booted whether it has taken VM %.80s over", host, vm);
		return err_remedy(
			e,
			"vmferryd does as soon as it runs and %.80s answers; if that host is lost for good: 'vmferry "
			"unprotect %.80s', and start it then",
			host, vm);
	}
	return 0;
}

int may_start(const char *state_dir, const char *replica_dir, const char *uuid, const char *boot_id, struct err *e)
{
	json_t *record = epoch_find_protection(state_dir, uuid);

	if (!record)
		return 0;
	json_t *replica = epoch_find_replica(replica_dir, uuid);
	const int rc = judge(record, replica, boot_id, e);
	json_decref(replica);
	json_decref(record);
	return rc;
}
