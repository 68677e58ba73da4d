#include "transport/cert.h"

#include "base/mem.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_LABEL 63

static bool label_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
}

/* What is wrong with the name, or NULL. */
static const char *name_fault(const char *name)
{
	struct in6_addr ignored;
	size_t len = strlen(name);
	size_t label = 0;

	if (len == 0)
		return "it is empty";
	if (len > CERT_MAX_NAME)
		return "it is longer than 253 characters";
	if (inet_pton(AF_INET, name, &ignored) == 1 || inet_pton(AF_INET6, name, &ignored) == 1)
		return "it is an IP address";
	if (strcasecmp(name, "local") == 0 || strcasecmp(name, "localhost") == 0)
		return "it stands for this host itself";
	for (size_t i = 0; i < len; i++) {
		if (name[i] == '.') {
			if (label == 0)
				return "it has an empty label";
			if (name[i - 1] == '-')
				return "a label ends with a hyphen";
			label = 0;
			continue;
		}
		if (!label_char(name[i]))
			return "only letters, digits, hyphens and dots are allowed";
		if (label == 0 && name[i] == '-')
			return "a label begins with a hyphen";
		if (++label > MAX_LABEL)
			return "a label is longer than 63 characters";
	}
	if (label == 0)
		return "it ends with a dot";
	return name[len - 1] == '-' ? "a label ends with a hyphen" : NULL;
}

/* Printable ASCII only: these go to terminals and logs. */
static void copy_printable(char *out, size_t size, const void *data, size_t len)
{
	const uint8_t *p = data;
	size_t n = 0;

	for (size_t i = 0; i < len && n + 1 < size; i++)
		out[n++] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
	out[n] = '\0';
}

int cert_check_name(const char *name, struct err *e)
{
	const char *fault = name_fault(name);
	char shown[CERT_MAX_NAME + 1];

	if (!fault)
		return 0;
	copy_printable(shown, sizeof(shown), name, strlen(name));
	err_set(e, ERR_CONFIG, "\"%s\" is not a usable host name: %s", shown, fault);
	return err_remedy(e, "Use the name by which peers know the host, like node1 or node1.example.net; addresses "
			     "are given with --address.");
}

int cert_identity(X509 *cert, char out[CERT_MAX_NAME + 1], struct err *e)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	const ASN1_IA5STRING *found = NULL;
	char name[CERT_MAX_NAME + 1];
	int count = 0;

	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
		if (n->type == GEN_DNS) {
			found = n->d.dNSName;
			count++;
		}
	}
	int rc = -1;
	if (count != 1) {
		err_set(e, ERR_REFUSED, "the certificate has %d DNS names; its identity is exactly one", count);
	} else {
		/* An embedded NUL becomes '?' and is then refused as a name. */
		const int len = ASN1_STRING_length(found);
		copy_printable(name, sizeof(name), ASN1_STRING_get0_data(found), len > 0 ? (size_t)len : 0);
		rc = len > CERT_MAX_NAME ? err_set(e, ERR_CONFIG, "its name is too long") : cert_check_name(name, e);
		if (rc < 0) {
			err_wrap(e, "the certificate's name");
			e->cls = ERR_REFUSED;
			e->remedy[0] = '\0'; /* of another situation */
		}
	}
	if (rc < 0)
		err_remedy(e, "Issue it with `vmferry pki issue HOST`.");
	GENERAL_NAMES_free(names);
	if (rc < 0)
		return -1;
	for (char *p = name; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	memcpy(out, name, sizeof(name));
	return 0;
}

/* OpenSSL takes a certificate without extended key usage as good for everything; here it has to say so. */
static bool has_usage(X509 *cert, uint32_t usage)
{
	return (X509_get_extension_flags(cert) & EXFLAG_XKUSAGE) && (X509_get_extended_key_usage(cert) & usage);
}

bool cert_may_serve(X509 *cert)
{
	return has_usage(cert, XKU_SSL_SERVER);
}

bool cert_may_call(X509 *cert)
{
	return has_usage(cert, XKU_SSL_CLIENT);
}

static const char *common_name(const X509_NAME *name, char *out, size_t size)
{
	const int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
	const ASN1_STRING *s = at < 0 ? NULL : X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));

	if (s && ASN1_STRING_length(s) > 0)
		copy_printable(out, size, ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s));
	else
		snprintf(out, size, "(no name)");
	return out;
}

const char *cert_label(X509 *cert, char *out, size_t size)
{
	struct err ignored = ERR_INIT;
	char name[CERT_MAX_NAME + 1];

	if (cert_identity(cert, name, &ignored) < 0)
		return common_name(X509_get_subject_name(cert), out, size);
	snprintf(out, size, "%s", name);
	return out;
}

const char *cert_subject_label(X509 *cert, char *out, size_t size)
{
	return common_name(X509_get_subject_name(cert), out, size);
}

const char *cert_issuer_label(X509 *cert, char *out, size_t size)
{
	return common_name(X509_get_issuer_name(cert), out, size);
}

static int64_t to_unix(const ASN1_TIME *t)
{
	struct tm tm;

	if (!ASN1_TIME_to_tm(t, &tm))
		return INT64_MIN;
	return (int64_t)timegm(&tm);
}

int64_t cert_not_before(X509 *cert)
{
	return to_unix(X509_get0_notBefore(cert));
}

int64_t cert_not_after(X509 *cert)
{
	return to_unix(X509_get0_notAfter(cert));
}

const char *cert_format_time(int64_t unix_s, char *out, size_t size)
{
	const time_t t = (time_t)unix_s;
	struct tm tm;

	if (unix_s == INT64_MIN || !gmtime_r(&t, &tm) || strftime(out, size, "%Y-%m-%d %H:%M UTC", &tm) == 0)
		snprintf(out, size, "an unknown date");
	return out;
}

const char *cert_openssl_error(char *out, size_t size)
{
	const unsigned long code = ERR_get_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	snprintf(out, size, "%s", reason ? reason : "unknown OpenSSL error");
	ERR_clear_error();
	return out;
}

static BIO *open_pem(const char *path, struct err *e)
{
	ERR_clear_error();
	BIO *bio = BIO_new_file(path, "re"); /* e: close on exec */
	if (!bio) {
		err_sys(e, "open %s", path);
		ERR_clear_error();
	}
	return bio;
}

X509 *cert_load(const char *path, struct err *e)
{
	BIO *bio = open_pem(path, e);

	if (!bio)
		return NULL;
	X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	BIO_free(bio);
	ERR_clear_error();
	if (!cert)
		err_set(e, ERR_CONFIG, "%s: there is no PEM certificate in it", path);
	return cert;
}

/* An agent has no one to ask for a passphrase. */
static int no_passphrase(char *buf, int size, int writing, void *ctx)
{
	(void)buf, (void)size, (void)writing, (void)ctx;
	return -1;
}

EVP_PKEY *cert_load_key(const char *path, struct err *e)
{
	struct stat st;
	BIO *bio = open_pem(path, e);

	if (!bio)
		return NULL;
	if (stat(path, &st) == 0 && (st.st_mode & (S_IRWXG | S_IRWXO))) {
		err_set(e, ERR_CONFIG, "%s: mode is %04o: a private key that others can read is not private", path,
			st.st_mode & 07777);
		err_remedy(e, "chmod 0600 %s; if others may have read it, issue a new one.", path);
		BIO_free(bio);
		return NULL;
	}
	EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	ERR_clear_error();
	if (!key)
		err_set(e, ERR_CONFIG, "%s: there is no PEM private key in it, or it has a passphrase", path);
	return key;
}
