/*
 * nearest.h - "did you mean": the nearest of a set of names to one that does not exist.
 */
#ifndef VMFERRY_CONFIG_NEAREST_H
#define VMFERRY_CONFIG_NEAREST_H

#include <stddef.h>

/* Edits (insert, delete, replace, swap of neighbours) from a to b; names over 64 characters count as far away. */
unsigned nearest_distance(const char *a, const char *b);
/* The candidate with the fewest edits, if it is near enough to be a slip of the hand; else NULL. The first wins a
 * tie. */
const char *nearest_of(const char *name, const char *const *candidates, size_t n);

#endif
