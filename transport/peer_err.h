/*
 * peer_err.h - errors that travel: {"class":"refused","text":"...","remedy":"..."} of PROTOCOL.md section "Errors".
 */
#ifndef VMFERRY_TRANSPORT_PEER_ERR_H
#define VMFERRY_TRANSPORT_PEER_ERR_H

#include "base/err.h"

#include <jansson.h>
#include <stddef.h>

/* A new reference. */
json_t *peer_err_to_json(const struct err *e);
/* Takes over what a peer said: class, text and remedy, cut to size and with control characters replaced, since it is
 * going to be printed on terminals. Anything that is not such an object becomes ERR_PROTOCOL. Always sets the error;
 * returns -1. */
int peer_err_from_json(const json_t *j, struct err *e);
/* Copies a peer's text for messages: one line, printable, cut to size. Returns out. */
const char *peer_err_printable(const char *text, char *out, size_t size);

#endif
