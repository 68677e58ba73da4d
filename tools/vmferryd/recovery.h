/*
 * recovery.h - failovers that were under way when an agent died, or that lost sight of their source: gone on with, or taken back.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_RECOVERY_H
#define VMFERRY_TOOLS_VMFERRYD_RECOVERY_H

struct agent;

/* At agent start, before anyone can connect: promotions are settled, as far as libvirt answers. Those that are not, and those whose source may have given
 * the VM up without their having heard of it, are looked at every few seconds, and by the next failover of that VM. */
void recovery_start(struct agent *a);
/* There is another one of the latter. */
void recovery_again(struct agent *a);

#endif
