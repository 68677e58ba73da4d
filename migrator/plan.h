/*
 * plan.h - can a VM move to a host, and what will it take: preflight with that host's agent, and the forecast. What
 * migrator_plan answers, and what every migration begins with.
 */
#ifndef VMFERRY_MIGRATOR_PLAN_H
#define VMFERRY_MIGRATOR_PLAN_H

#include "migrator/migrator_internal.h"

enum plan_depth {
	/* preflight alone, some tens of milliseconds: before a migration, whose own figures come soon enough */
	PLAN_QUICK,
	PLAN_MEASURED, /* also a second of the guest's dirty rate and a moment of the link's speed, for the forecast */
};

/* `args` as in migration_args.h. The answer:
 *	{"vm","uuid","host","possible": bool, "findings":[...] (preflight.h), "forecast":{...} (forecast.h),
 *	 "disks": {"all":[{"target","action","path","format","virtual_bytes","allocated_bytes"}],
 *	           "copy":[targets that are copied],
 *	           "create":[{"path","format","virtual_size"}] (of those, images for the target to make),
 *	           "leftover":[files here that the VM no longer uses afterwards], "copy_bytes": about,
 *	           "unsafe": bool (VIR_MIGRATE_UNSAFE is needed and justified)},
 *	 "target": {"spare_bytes","jobs","max_jobs"} | null}
 * A target that can't be asked is a finding. Fails when the VM is not found, libvirt here can't be asked, or the
 * arguments are wrong. */
int plan_make(struct migrator *m, const json_t *args, enum plan_depth depth, const struct job_ctl *ctl, json_t **result,
	      struct err *e);

#endif
