/*
 * cert.h - what vmferry reads out of an X.509 certificate. Shared by pki.c (which writes them) and tls.c (which judges
 * a peer's); nothing else needs it.
 */
#ifndef VMFERRY_TRANSPORT_CERT_H
#define VMFERRY_TRANSPORT_CERT_H

#include "base/err.h"

#include <openssl/x509.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CERT_MAX_NAME 253

/* A host name by RFC 1123: labels of 1 to 63 letters, digits and hyphens, no hyphen at either end, at most 253 in
 * all, not an IP address. "local" and "localhost" are refused: they stand for the local socket, and may never come
 * in from elsewhere. ERR_CONFIG. */
int cert_check_name(const char *name, struct err *e);

/* The identity in a certificate: its one DNS subjectAltName, in lower case. A certificate with none or several has no
 * identity here, since roles are given to one name. ERR_REFUSED. */
int cert_identity(X509 *cert, char out[CERT_MAX_NAME + 1], struct err *e);

/* Extended key usage is present and has serverAuth or clientAuth. */
bool cert_may_serve(X509 *cert);
bool cert_may_call(X509 *cert);

/* For messages, made of printable characters only whatever the certificate says: identity or else the subject's common
 * name; the subject's and the issuer's common name. All return out. */
const char *cert_label(X509 *cert, char *out, size_t size);
const char *cert_subject_label(X509 *cert, char *out, size_t size);
const char *cert_issuer_label(X509 *cert, char *out, size_t size);

/* Seconds since 1970; INT64_MIN if the field makes no sense. */
int64_t cert_not_before(X509 *cert);
int64_t cert_not_after(X509 *cert);
/* "2026-01-02 03:04 UTC"; returns out. */
const char *cert_format_time(int64_t unix_s, char *out, size_t size);

/* The first certificate of a PEM file. */
X509 *cert_load(const char *path, struct err *e);
EVP_PKEY *cert_load_key(const char *path, struct err *e); /* also checks that only its owner can read it */

/* "reason (routine)" of the oldest error in OpenSSL's thread-local queue, which is emptied. Returns out. */
const char *cert_openssl_error(char *out, size_t size);

#endif
