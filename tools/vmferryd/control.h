/*
 * control.h - the local socket: mode 0660, and every caller's credentials checked by the kernel's word (SO_PEERCRED):
 * root, the agent's own user, or a member of control.group.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_CONTROL_H
#define VMFERRY_TOOLS_VMFERRYD_CONTROL_H

#include "base/err.h"

struct agent;
struct control;

struct control *control_start(struct agent *a, struct err *e);
/* Accepts no more and removes the socket. NULL is fine. */
void control_stop(struct control *c);

#endif
