/*
 * protect_options.h - the options that say how a VM is to be protected: the arguments of the agent's call.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_PROTECT_OPTIONS_H
#define VMFERRY_TOOLS_VMFERRY_PROTECT_OPTIONS_H

#include <argp.h>
#include <jansson.h>

/* An argp child whose input is a json_t object, which gets the keys of "protect". */
extern const struct argp protect_options_argp;

#endif
