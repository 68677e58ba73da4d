/*
 * listener.h - where peers connect to: TLS handshake, who is it, what is the link for.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_LISTENER_H
#define VMFERRY_TOOLS_VMFERRYD_LISTENER_H

#include "base/err.h"

struct agent;
struct listener;

/* Binds listen.address and listen.port of the settings in force and serves them. */
struct listener *listener_start(struct agent *a, struct err *e);
/* Accepts no more; connections that were handed over go on. NULL is fine. */
void listener_stop(struct listener *l);

#endif
