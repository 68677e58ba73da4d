/*
 * promote_host.h - how this host starts a VM from a replica: replicator/promote.h done with migrator/restore_virt.h and the configured rules.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_PROMOTE_HOST_H
#define VMFERRY_TOOLS_VMFERRYD_PROMOTE_HOST_H

#include "base/err.h"
#include "migrator/map_xml.h"
#include "replicator/promote.h"

struct promote_host_opts { /* all copied */
	const char *libvirt_uri;
	const char *run_dir;
	const char *qemu_group;          /* NULL: none */
	const char *image_dir;           /* where images go that no rule places; NULL: libvirt's default folder */
	const struct map_rule *networks; /* restore.networks */
	size_t n_networks;
	const struct map_rule *folders; /* restore.disks */
	size_t n_folders;
};

struct promote_host;
struct promote_host *promote_host_new(const struct promote_host_opts *o, struct err *e);
/* NULL is fine. A question to a guest's agent that is not answered yet keeps it until it is. */
void promote_host_free(struct promote_host *p);
/* What a definition, mapped for this host, names that is not here: findings of needs.h. libvirt that does not answer finds nothing. */
void promote_host_needs(const struct promote_host *p, const char *xml, json_t *findings);
/* Their ctx is the struct promote_host. */
extern const struct promote_ops promote_host_ops;

#endif
