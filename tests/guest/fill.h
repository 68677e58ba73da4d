/* fill.h - memory filled from outside with contents as real machines have them, and checked by a hash per page. */
#ifndef GUEST_FILL_H
#define GUEST_FILL_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Reads `bytes` of contents. May be called again: fills add up. 0, or -1 with the reason. */
int fill_read(FILE *in, uint64_t bytes, char *why, size_t why_size);
uint64_t fill_verify(uint64_t *checked);

#endif
