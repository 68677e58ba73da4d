#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const class_names[] = {
#define X(id, name) [id] = name,
	ERR_CLASSES(X)
#undef X
};

#define CLASS_COUNT (sizeof(class_names) / sizeof(class_names[0]))

/* Formats beside the target first: the arguments may point into the very text that is replaced. */
static void text_format(char *dst, size_t size, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));
static void text_format(char *dst, size_t size, const char *fmt, va_list ap)
{
	char tmp[sizeof(((struct err *)NULL)->text)];

	assert(size <= sizeof(tmp));
	if (vsnprintf(tmp, size, fmt, ap) < 0)
		tmp[0] = '\0';
	/* One line, whatever a library put into its message. */
	for (char *p = tmp; *p; p++)
		if (*p == '\n' || *p == '\r')
			*p = ' ';
	size_t len = strlen(tmp);
	while (len > 0 && tmp[len - 1] == ' ')
		len--;
	memcpy(dst, tmp, len);
	dst[len] = '\0';
}

int err_set(struct err *e, enum err_class cls, const char *fmt, ...)
{
	va_list ap;

	assert(cls != ERR_NONE);
	va_start(ap, fmt);
	text_format(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	e->cls = cls;
	e->errnum = 0;
	e->remedy[0] = '\0';
	return -1;
}

static int set_sys(struct err *e, int saved, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));
static int set_sys(struct err *e, int saved, const char *fmt, va_list ap)
{
	char name[128];

	text_format(e->text, sizeof(e->text), fmt, ap);
	size_t used = strlen(e->text);
	snprintf(e->text + used, sizeof(e->text) - used, ": %s", strerror_r(saved, name, sizeof(name)));
	e->cls = ERR_SYS;
	e->errnum = saved;
	e->remedy[0] = '\0';
	return -1;
}

int err_sys(struct err *e, const char *fmt, ...)
{
	const int saved = errno;
	va_list ap;

	va_start(ap, fmt);
	set_sys(e, saved, fmt, ap);
	va_end(ap);
	return -1;
}

int err_open(struct err *e, const char *fmt, ...)
{
	const int saved = errno;
	va_list ap;

	va_start(ap, fmt);
	set_sys(e, saved, fmt, ap);
	va_end(ap);
	if (saved == ENFILE || saved == ENOMEM || saved == EINTR || saved == EAGAIN)
		e->errnum = EMFILE;
	return -1;
}

bool err_passes(const struct err *e)
{
	return e->cls == ERR_SYS && e->errnum == EMFILE;
}

bool err_is_full(const struct err *e)
{
	return e->cls == ERR_SYS && (e->errnum == ENOSPC || e->errnum == EDQUOT);
}

int err_wrap(struct err *e, const char *fmt, ...)
{
	char inner[sizeof(e->text)];
	va_list ap;

	assert(e->cls != ERR_NONE);
	memcpy(inner, e->text, sizeof(inner));
	va_start(ap, fmt);
	text_format(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	size_t used = strlen(e->text);
	snprintf(e->text + used, sizeof(e->text) - used, ": %s", inner);
	return -1;
}

int err_remedy(struct err *e, const char *fmt, ...)
{
	va_list ap;

	if (e->remedy[0])
		return -1;
	va_start(ap, fmt);
	text_format(e->remedy, sizeof(e->remedy), fmt, ap);
	va_end(ap);
	return -1;
}

void err_clear(struct err *e)
{
	*e = (struct err)ERR_INIT;
}

const char *err_class_name(enum err_class cls)
{
	assert((size_t)cls < CLASS_COUNT);
	return class_names[cls];
}

enum err_class err_class_from_name(const char *name)
{
	/* "none" is no class of an error: a peer that fails without a class has broken the protocol. */
	for (size_t i = ERR_NONE + 1; i < CLASS_COUNT; i++)
		if (strcmp(class_names[i], name) == 0)
			return (enum err_class)i;
	return ERR_PROTOCOL;
}
