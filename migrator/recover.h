/*
 * recover.h - puts in order what an agent that died left behind: the records in the journal, one by one, as often as it takes.
 *
 * Outgoing: when libvirt left the VM paused because the migration's end was not known, the target is asked. It runs there: the copy here is
 * destroyed and undefined. It is not there: it is resumed here. Cannot be asked: it stays paused, and says so. Nothing is guessed.
 */
#ifndef VMFERRY_MIGRATOR_RECOVER_H
#define VMFERRY_MIGRATOR_RECOVER_H

#include "migrator/migrator_internal.h"
#include "migrator/where.h"

/* One pass over the records that belong to no live session. Returns how many are still open. */
size_t recover_pass(struct migrator *m);

/* The VM left this host: makes sure that nothing of it runs or is defined here. Disks stay, and so do the files of UEFI
 * variables and TPM state. */
int recover_forget_vm(virConnectPtr conn, const char *uuid, struct err *e);
/* The VM did not leave: resumes it if it was running before. */
int recover_resume_vm(virConnectPtr conn, const char *uuid, struct err *e);

#endif
