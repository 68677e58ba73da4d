/*
 * pace.h - when the next checkpoint is due, and what the last ones were like. Pure: time comes in as a number, no threads.
 *
 * The RPO that is measured grows until a point is committed: just before, it is interval + the time from that point's instant to its commit.
 * So the interval is what is left of the target after the time that commits take (the worst of late) and a margin. A pause over its budget
 * stretches the interval; if that does not help, the caller may change the way of capture.
 */
#ifndef VMFERRY_REPLICATOR_PACE_H
#define VMFERRY_REPLICATOR_PACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACE_MIN_INTERVAL_NS (INT64_C(100) * 1000000)
#define PACE_WINDOW 512u   /* pauses of which percentiles are told */
#define PACE_COMMITS 16u   /* of which the worst counts */
#define PACE_MAX_STRETCH 8u

struct pace {
	int64_t rpo_ns;
	int64_t every_ns;     /* a schedule's interval; 0: as the RPO asks */
	int64_t max_pause_ns; /* 0: no budget */
	int64_t commit_ns[PACE_COMMITS];
	unsigned n_commits;
	int64_t pause_ns[PACE_WINDOW];
	uint64_t n_pauses;
	unsigned stretch;      /* 1: none */
	unsigned over, within; /* checkpoints in a row over and within the pause budget */
	int64_t worst_rpo_ns;  /* just before the last commit, or before the latest of those since it was late */
	unsigned late, on_time; /* points in a row that came later or earlier than the target asks */
};

void pace_init(struct pace *p, int64_t rpo_ns, int64_t every_ns, int64_t max_pause_ns);
/* A point: how long the guest stood still, how long from its instant to the commit, how old the last committed one was then (0: first). */
void pace_note(struct pace *p, int64_t pause_ns, int64_t commit_ns, int64_t rpo_ns);
/* From one instant to the next. */
int64_t pace_interval_ns(const struct pace *p);
/* The worst commit of late. */
int64_t pace_commit_ns(const struct pace *p);
/* q: 0..1. 0 if there was none yet. */
int64_t pace_pause_ns(const struct pace *p, double q);
/* The target is not held: two points in a row were late; until three in a row were not. */
bool pace_behind(const struct pace *p);
/* Stretching has not brought the pause within its budget. */
bool pace_gave_up(const struct pace *p);

#endif
