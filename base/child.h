/*
 * child.h - helper programs (qemu-img, qemu-nbd, nbdcopy): posix_spawn, no shell, signals reset, only descriptors 0-2.
 */
#ifndef VMFERRY_BASE_CHILD_H
#define VMFERRY_BASE_CHILD_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Runs argv (searched in PATH) to its end and captures up to about 64 KiB of stdout, the rest is dropped. A non-zero exit
 * is ERR_SYS with the last line of stderr in the text. Killed at the deadline or when *cancel (may be NULL) becomes true.
 * *out (may be NULL): heap, NUL-terminated. */
int child_run(const char *const argv[], int64_t deadline_ns, const volatile bool *cancel, char **out, struct err *e);

/* Starts argv and returns at once; stdout and stderr go to the agent's own stderr. *out_fd, if not NULL, becomes the
 * reading end of a pipe that is the child's descriptor 1. */
int child_start(const char *const argv[], pid_t *pid, int *out_fd, struct err *e);
/* Waits until the deadline; 0 with *status set (as by waitpid), 1 if it still runs, -1 error. */
int child_wait(pid_t pid, int64_t deadline_ns, int *status, struct err *e);
/* SIGTERM, a second's grace, SIGKILL, reaped. pid <= 0 is fine. */
void child_stop(pid_t pid);

#endif
