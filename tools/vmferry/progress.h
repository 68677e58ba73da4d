/*
 * progress.h - what is known of a running migration, from the agent's notes, and how it reads in one line. Pure: no
 * terminal, no clock.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_PROGRESS_H
#define VMFERRY_TOOLS_VMFERRY_PROGRESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct progress {
	char vm[80];
	char to[80];
	char phase[24]; /* as in the note; "" before the first */
	char text[200];
	double percent;     /* below 0: not known, as everywhere below */
	double ratio;       /* bytes that QEMU produced per byte on the wire */
	int64_t rate;       /* bytes per second on the wire */
	int64_t dirty_rate; /* bytes per second that the guest writes */
	int64_t remaining;  /* bytes */
	int64_t eta_ms;
	int64_t iteration; /* pass over memory */
};

void progress_init(struct progress *p, const char *vm, const char *to);
/* Takes over what the note says; figures that it does not name stay, but for those of a
 * phase that has ended; a text holds for one note. True if the phase
 * changed. */
bool progress_note(struct progress *p, const json_t *note);
/* "web1 -> node2  memory  42 %  948 Mbit/s  dirty 12 MB/s  3.1x  pass 2  12 s left", in at most `width` columns: what
 * matters least is left out first. Returns buf. */
const char *progress_line(const struct progress *p, unsigned width, char *buf, size_t size);
/* True while the source still owns the guest for certain: before the switch-over. */
bool progress_at_source(const struct progress *p);

#endif
