/*
 * base64.h - bytes in JSON (RFC 4648, with padding, no line breaks).
 */
#ifndef VMFERRY_BASE_BASE64_H
#define VMFERRY_BASE_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* NUL-terminated, to be freed. */
char *base64_encode(const uint8_t *p, size_t n);
/* Exactly n bytes; -1 if the text is anything else. */
int base64_decode(const char *text, uint8_t *out, size_t n);

#endif
