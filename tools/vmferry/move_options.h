/*
 * move_options.h - the options that say how a VM is to move, shared by plan, migrate and drain.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_MOVE_OPTIONS_H
#define VMFERRY_TOOLS_VMFERRY_MOVE_OPTIONS_H

#include <argp.h>
#include <jansson.h>

struct move_options {
	json_t *args; /* keys of the agent's call; made by move_options_init */
};

/* An argp child whose input is a struct move_options. */
extern const struct argp move_options_argp;

void move_options_init(struct move_options *o);
/* Gives the object away. */
json_t *move_options_take(struct move_options *o);
void move_options_fini(struct move_options *o);

#endif
