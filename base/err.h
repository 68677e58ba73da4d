/*
 * err.h - the one error type.
 *
 * The caller owns a struct err and passes it last. A function that can fail returns 0 or -1 (or a pointer or NULL)
 * and, on failure, has filled the error; on success it has left it alone. Libraries return errors and never log them;
 * thread tops and tools log or print them once.
 */
#ifndef VMFERRY_BASE_ERR_H
#define VMFERRY_BASE_ERR_H

#include <stdbool.h>

/* The class drives policy and exit codes; the name is stable (JSON, logs). */
#define ERR_CLASSES(X)                                                                            \
	X(ERR_NONE, "none")           /* no error */                                              \
	X(ERR_SYS, "sys")             /* a system call; errnum says which error */                \
	X(ERR_CONFIG, "config")       /* configuration or command line */                         \
	X(ERR_PROTOCOL, "protocol")   /* the peer broke the protocol */                           \
	X(ERR_CORRUPT, "corrupt")     /* bytes do not verify */                                   \
	X(ERR_PEER, "peer")           /* the peer is unreachable, dead, or said no */             \
	X(ERR_REFUSED, "refused")     /* we will not do it: preflight, roles, policy */           \
	X(ERR_LIBVIRT, "libvirt")     /* libvirt or QEMU reported it; errnum is libvirt's code */ \
	X(ERR_CANCELLED, "cancelled") /* someone asked us to stop */

enum err_class {
#define X(id, name) id,
	ERR_CLASSES(X)
#undef X
};

struct err {
	enum err_class cls;
	int errnum;
	char text[1200];  /* "outer: inner: cause", no newline */
	char remedy[600]; /* what to do about it, or empty */
};

/* clang-format off */
#define ERR_INIT { 0 }
/* clang-format on */

/* Set the error, replacing what was there. Always returns -1, so that `return err_set(...)` reads well. */
int err_set(struct err *e, enum err_class cls, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Same with class SYS and errnum = errno; appends ": strerror". */
int err_sys(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Same of a call that opens a file. What may pass (EMFILE, ENFILE, ENOMEM, EINTR, EAGAIN) all has errnum EMFILE, which comes from no write and no
 * sync: nothing was touched, and it may be tried again. */
int err_open(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A file could not be opened, for a reason that may pass. */
bool err_passes(const struct err *e);
/* A disk, or a quota, is full. */
bool err_is_full(const struct err *e);

/* Put "text: " in front of what is there. Returns -1. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Say what to do; kept if one was given already, further inside. Returns -1. */
int err_remedy(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static inline bool err_is_set(const struct err *e)
{
	return e->cls != ERR_NONE;
}

void err_clear(struct err *e);
const char *err_class_name(enum err_class cls);
/* The class of that name; ERR_PROTOCOL if there is none (the name came from a peer). */
enum err_class err_class_from_name(const char *name);

#endif
