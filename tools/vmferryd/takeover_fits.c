/* Could a VM of a peer start here? Asked before it is protected, and not found out when its host is lost. */
#include "base/mem.h"
#include "replicator/epoch.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/promote_host.h"
#include "tools/vmferryd/takeover.h"

#include <stdlib.h>
#include <string.h>

/* As failover_disks names them, but for what is taken. */
static int place(struct promote_host *host, const char *name, const char *xml, const char *target,
		 struct promote_disk *out, struct err *e)
{
	if (strlen(target) >= sizeof(out->target))
		return err_set(e, ERR_PROTOCOL, "replica.fits: a disk's name is too long");
	MEM_AUTO char *dir = promote_host_ops.disk_dir(host, xml, target, e);
	if (!dir)
		return -1;
	memcpy(out->target, target, strlen(target) + 1);
	out->path = mem_printf("%s/%s-%s.qcow2", dir, name, target);
	out->format = "qcow2";
	return 0;
}

static int judge(struct promote_host *host, const json_t *args, json_t *findings, struct err *e)
{
	struct promote_disk *disks = mem_alloc_array(STORE_MAX_VOLUMES, sizeof(*disks));
	struct promote_spec s = { .uuid = json_string_value(json_object_get(args, "uuid")),
				  .name = json_string_value(json_object_get(args, "name")),
				  .xml = json_string_value(json_object_get(args, "xml")),
				  .disks = disks };
	const json_t *list = json_object_get(args, "disks");
	int rc = 0;

	for (size_t i = 0; i < json_array_size(list) && rc == 0; i++) {
		const char *target = json_string_value(json_array_get(list, i));
		rc = target ? place(host, s.name, s.xml, target, &disks[i], e)
			    : err_set(e, ERR_PROTOCOL, "replica.fits: a disk without a name");
		s.n_disks += rc == 0;
	}
	MEM_AUTO char *mapped = rc == 0 ? promote_host_ops.map(host, &s, findings, e) : NULL;
	if (mapped)
		promote_host_needs(host, mapped, findings);
	for (size_t i = 0; i < s.n_disks; i++)
		free(disks[i].path);
	free(disks);
	return mapped ? 0 : -1;
}

int takeover_fits(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	const char *name = json_string_value(json_object_get(args, "name"));

	(void)call;
	if (!epoch_uuid_ok(json_string_value(json_object_get(args, "uuid"))) || !name || !*name || strchr(name, '/') ||
	    !json_is_string(json_object_get(args, "xml")) ||
	    json_array_size(json_object_get(args, "disks")) > STORE_MAX_VOLUMES)
		return err_set(e, ERR_PROTOCOL, "replica.fits: a value is missing or out of range");
	struct promote_host *host = takeover_host(a, e);
	if (!host)
		return -1;
	json_t *findings = json_array();
	const int rc = judge(host, args, findings, e);
	promote_host_free(host);
	if (rc == 0)
		*result = json_pack("{s:O}", "findings", findings);
	json_decref(findings);
	return rc;
}
