/*
 * pki.h - the fleet's certificate authority and the hosts' certificates: what `vmferry pki` does, and what `vmferry
 * check` looks at.
 *
 * The authority is a folder with ca.key (ECDSA P-256, mode 0600) and ca.pem. It belongs on a machine of the operator's,
 * not on every host; a host needs ca.pem, host.pem and host.key, as pki_issue writes them. Files are written durably,
 * and never over others unless `replace` says so.
 */
#ifndef VMFERRY_TRANSPORT_PKI_H
#define VMFERRY_TRANSPORT_PKI_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PKI_CA_DAYS 3650
#define PKI_HOST_DAYS 730
#define PKI_MAX_DAYS 36500

#define PKI_CA_CERT "ca.pem"
#define PKI_CA_KEY "ca.key"
#define PKI_HOST_CERT "host.pem"
#define PKI_HOST_KEY "host.key"

/* Makes dir (mode 0700) if need be, and the authority in it. fleet_name stands in the CA's subject, for people: 1 to 40
 * printable characters. Refused if there is one already. */
int pki_init(const char *dir, const char *fleet_name, struct err *e);

struct pki_issue_opts {
	const char *ca_dir;
	const char *host;             /* its name: RFC 1123, cert.h; kept in lower case */
	const char *const *addresses; /* IPv4 or IPv6, as further subjectAltNames; may be NULL */
	size_t n_addresses;
	int days;            /* 0: PKI_HOST_DAYS; cut at the end of the CA */
	int64_t start;       /* seconds since 1970; 0: an hour ago, for clocks that differ a little */
	const char *out_dir; /* made (mode 0700) if need be; gets host.pem, host.key and ca.pem */
	bool replace;        /* renewal: host.pem and host.key may be there */
};
/* A new key and a certificate for server and client use with one DNS name. */
int pki_issue(const struct pki_issue_opts *o, struct err *e);

#define PKI_MAX_ADDRESSES 16

struct pki_cert {
	char name[254];    /* the identity; empty if it has none (a CA, or not one of ours) */
	char subject[128]; /* common names, printable */
	char issuer[128];
	char addresses[PKI_MAX_ADDRESSES][46];
	size_t n_addresses;
	int64_t not_before, not_after; /* seconds since 1970 */
	bool is_ca;
	bool may_serve, may_call; /* extended key usage */
	char fingerprint[96];     /* SHA-256, "AB:CD:..." */
};
/* What the first certificate of a PEM file says. */
int pki_show(const char *file, struct pki_cert *out, struct err *e);
/* Whole days from now to the end; negative once it is over (-1: on the first day). */
int64_t pki_days_left(const struct pki_cert *c, int64_t now_unix_s);

#endif
