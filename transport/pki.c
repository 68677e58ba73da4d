#include "transport/pki.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "transport/cert.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DAY_S INT64_C(86400)
#define BACKDATE_S INT64_C(3600)
#define MAX_CERT_FILE ((size_t)256 * 1024)

static int fail_openssl(struct err *e, const char *what)
{
	char why[256];

	return err_set(e, ERR_SYS, "%s: %s", what, cert_openssl_error(why, sizeof(why)));
}

/* ---- files ---- */

static bool exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

static int must_not_exist(const char *path, const char *remedy, struct err *e)
{
	if (!exists(path))
		return 0;
	err_set(e, ERR_REFUSED, "%s is there already and is not overwritten", path);
	return err_remedy(e, "%s", remedy);
}

static int write_pem(const char *path, BIO *pem, mode_t mode, struct err *e)
{
	char *data = NULL;
	const long len = BIO_get_mem_data(pem, &data);

	return len > 0 ? file_write_durable(path, data, (size_t)len, mode, e) : fail_openssl(e, path);
}

static int write_key(const char *path, EVP_PKEY *key, struct err *e)
{
	BIO *pem = BIO_new(BIO_s_secmem()); /* wiped when freed */
	int rc = -1;

	if (!pem || PEM_write_bio_PrivateKey(pem, key, NULL, NULL, 0, NULL, NULL) != 1)
		fail_openssl(e, path);
	else
		rc = write_pem(path, pem, 0600, e);
	BIO_free(pem);
	return rc;
}

static int write_cert(const char *path, X509 *cert, struct err *e)
{
	BIO *pem = BIO_new(BIO_s_mem());
	int rc = -1;

	if (!pem || PEM_write_bio_X509(pem, cert) != 1)
		fail_openssl(e, path);
	else
		rc = write_pem(path, pem, 0644, e);
	BIO_free(pem);
	return rc;
}

/* Key first: a certificate without its key is of no use, a key without certificate hurts no one. A renewal that is
 * cut between the two leaves a pair that does not fit, which tls_ctx_new refuses with the remedy; issuing again
 * mends it. */
static int write_pair(const char *key_path, EVP_PKEY *key, const char *cert_path, X509 *cert, bool was_there,
		      struct err *e)
{
	struct err ignored = ERR_INIT;

	if (write_key(key_path, key, e) == 0 && write_cert(cert_path, cert, e) == 0)
		return 0;
	/* What failed may be the last sync, with the file in its place already. */
	if (!was_there) {
		file_remove_durable(cert_path, &ignored);
		file_remove_durable(key_path, &ignored);
	}
	return -1;
}

/* ---- certificates ---- */

static int add_ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	const int ok = ext && X509_add_ext(cert, ext, -1);
	X509_EXTENSION_free(ext);
	return ok ? 0 : -1;
}

static int set_serial(X509 *cert)
{
	uint8_t bytes[16];

	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return -1;
	bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40); /* positive, and as long as it looks */
	BIGNUM *n = BN_bin2bn(bytes, sizeof(bytes), NULL);
	const int ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));
	BN_free(n);
	return ok ? 0 : -1;
}

static int set_name(X509_NAME *name, const char *cn)
{
	const unsigned char *text = (const unsigned char *)cn;

	return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, text, -1, -1, 0) == 1 ? 0 : -1;
}

/* Version, serial, dates, subject and public key; extensions and signature are still missing. */
static X509 *draft(EVP_PKEY *key, const char *cn, int64_t from, int64_t to)
{
	X509 *cert = X509_new();
	const bool ok = cert && X509_set_version(cert, X509_VERSION_3) && set_serial(cert) == 0 &&
			ASN1_TIME_set(X509_getm_notBefore(cert), (time_t)from) &&
			ASN1_TIME_set(X509_getm_notAfter(cert), (time_t)to) && X509_set_pubkey(cert, key) &&
			set_name(X509_get_subject_name(cert), cn) == 0;

	if (ok)
		return cert;
	X509_free(cert);
	return NULL;
}

static X509 *make_ca(EVP_PKEY *key, const char *cn, struct err *e)
{
	const int64_t now = (int64_t)time(NULL);
	X509 *cert = draft(key, cn, now - BACKDATE_S, now + PKI_CA_DAYS * DAY_S);

	if (cert && X509_set_issuer_name(cert, X509_get_subject_name(cert)) &&
	    add_ext(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") == 0 &&
	    add_ext(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") == 0 &&
	    add_ext(cert, cert, NID_subject_key_identifier, "hash") == 0 &&
	    add_ext(cert, cert, NID_authority_key_identifier, "keyid:always") == 0 &&
	    X509_sign(cert, key, EVP_sha256()) > 0)
		return cert;
	fail_openssl(e, "make the CA certificate");
	X509_free(cert);
	return NULL;
}

static int check_fleet_name(const char *name, struct err *e)
{
	const size_t len = strlen(name);
	bool ok = len >= 1 && len <= 40; /* with "vmferry fleet " in front it has to fit into a common name, 64 */

	for (size_t i = 0; i < len; i++)
		ok = ok && (unsigned char)name[i] >= 0x20 && (unsigned char)name[i] < 0x7f;
	if (ok)
		return 0;
	err_set(e, ERR_CONFIG, "the name of a fleet has 1 to 40 printable ASCII characters");
	return err_remedy(e, "It is for people only: a company, a site.");
}

int pki_init(const char *dir, const char *fleet_name, struct err *e)
{
	MEM_AUTO char *key_path = mem_printf("%s/%s", dir, PKI_CA_KEY);
	MEM_AUTO char *cert_path = mem_printf("%s/%s", dir, PKI_CA_CERT);
	static const char remedy[] =
		"A fleet has one CA: go on with `vmferry pki issue HOST`. To start over, move both files away; all "
		"certificates then have to be issued anew.";

	if (check_fleet_name(fleet_name, e) < 0 || file_mkdirs(dir, 0700, e) < 0 ||
	    must_not_exist(key_path, remedy, e) < 0 || must_not_exist(cert_path, remedy, e) < 0)
		return -1;
	ERR_clear_error();
	MEM_AUTO char *cn = mem_printf("vmferry fleet %s", fleet_name);
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = NULL;
	int rc = -1;
	if (!key)
		fail_openssl(e, "make a key");
	else
		cert = make_ca(key, cn, e);
	if (cert)
		rc = write_pair(key_path, key, cert_path, cert, false, e);
	X509_free(cert);
	EVP_PKEY_free(key);
	return rc;
}

/* ---- issuing ---- */

struct authority {
	X509 *cert;
	EVP_PKEY *key;
};

static void authority_fini(struct authority *a)
{
	X509_free(a->cert);
	EVP_PKEY_free(a->key);
}

static int authority_load(const char *dir, struct authority *a, struct err *e)
{
	MEM_AUTO char *key_path = mem_printf("%s/%s", dir, PKI_CA_KEY);
	MEM_AUTO char *cert_path = mem_printf("%s/%s", dir, PKI_CA_CERT);

	*a = (struct authority){ 0 };
	if (!exists(key_path) || !exists(cert_path)) {
		err_set(e, ERR_CONFIG, "there is no CA in %s: %s is missing", dir,
			exists(key_path) ? PKI_CA_CERT : PKI_CA_KEY);
		return err_remedy(e, "Make one with `vmferry pki init`, or name the folder that has it with --ca.");
	}
	a->cert = cert_load(cert_path, e);
	a->key = a->cert ? cert_load_key(key_path, e) : NULL;
	if (!a->key)
		goto fail;
	if (X509_check_private_key(a->cert, a->key) != 1) {
		ERR_clear_error();
		err_set(e, ERR_CONFIG, "%s is not the key of %s", key_path, cert_path);
		goto fail;
	}
	if (X509_check_ca(a->cert) != 1) {
		err_set(e, ERR_CONFIG, "%s is not a CA's certificate", cert_path);
		goto fail;
	}
	return 0;
fail:
	authority_fini(a);
	return -1;
}

static int format_names(const struct pki_issue_opts *o, char *host, size_t host_size, struct buf *san, struct err *e)
{
	if (cert_check_name(o->host, e) < 0)
		return -1;
	snprintf(host, host_size, "%s", o->host);
	for (char *p = host; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	buf_printf(san, "DNS:%s", host);
	if (o->n_addresses > PKI_MAX_ADDRESSES)
		return err_set(e, ERR_CONFIG, "%zu addresses; %d are allowed", o->n_addresses, PKI_MAX_ADDRESSES);
	for (size_t i = 0; i < o->n_addresses; i++) {
		struct in6_addr a;
		if (inet_pton(AF_INET, o->addresses[i], &a) != 1 && inet_pton(AF_INET6, o->addresses[i], &a) != 1)
			return err_set(e, ERR_CONFIG, "\"%.60s\" is not an IPv4 or IPv6 address", o->addresses[i]);
		buf_printf(san, ",IP:%s", o->addresses[i]);
	}
	return 0;
}

static int choose_dates(const struct pki_issue_opts *o, X509 *ca, int64_t *from, int64_t *to, struct err *e)
{
	const int64_t ca_end = cert_not_after(ca);
	const int64_t now = (int64_t)time(NULL);
	char when[64];

	if (o->days < 0 || o->days > PKI_MAX_DAYS)
		return err_set(e, ERR_CONFIG, "%d days of validity; 1 to %d are allowed", o->days, PKI_MAX_DAYS);
	*from = o->start ? o->start : now - BACKDATE_S;
	*to = (o->start ? o->start : now) + (o->days ? o->days : PKI_HOST_DAYS) * DAY_S;
	if (ca_end <= now) {
		err_set(e, ERR_REFUSED, "the CA expired on %s", cert_format_time(ca_end, when, sizeof(when)));
		return err_remedy(e, "Make a new one with `vmferry pki init` in another folder, and issue all "
				     "certificates anew.");
	}
	*to = *to < ca_end ? *to : ca_end;
	return 0;
}

static X509 *make_host(EVP_PKEY *key, const struct authority *ca, const char *host, const char *san, int64_t from,
		       int64_t to, struct err *e)
{
	/* The common name is for people and has 64 characters at most; identity is the subjectAltName. */
	char cn[65];

	snprintf(cn, sizeof(cn), "%.64s", host);
	X509 *cert = draft(key, cn, from, to);
	if (cert && X509_set_issuer_name(cert, X509_get_subject_name(ca->cert)) &&
	    add_ext(cert, ca->cert, NID_basic_constraints, "critical,CA:FALSE") == 0 &&
	    add_ext(cert, ca->cert, NID_key_usage, "critical,digitalSignature") == 0 &&
	    add_ext(cert, ca->cert, NID_ext_key_usage, "serverAuth,clientAuth") == 0 &&
	    add_ext(cert, ca->cert, NID_subject_alt_name, san) == 0 &&
	    add_ext(cert, ca->cert, NID_subject_key_identifier, "hash") == 0 &&
	    add_ext(cert, ca->cert, NID_authority_key_identifier, "keyid:always") == 0 &&
	    X509_sign(cert, ca->key, EVP_sha256()) > 0)
		return cert;
	fail_openssl(e, "make the certificate");
	X509_free(cert);
	return NULL;
}

/* The CA's certificate goes along; one that is there has to be the same. */
static int copy_ca(const char *from, const char *to, bool replace, struct err *e)
{
	size_t len = 0;
	size_t old_len = 0;
	MEM_AUTO char *data = file_read_all(from, MAX_CERT_FILE, &len, e);

	if (!data)
		return -1;
	if (exists(to)) {
		MEM_AUTO char *old = file_read_all(to, MAX_CERT_FILE, &old_len, e);
		if (!old)
			return -1;
		if (old_len == len && memcmp(old, data, len) == 0)
			return 0;
		if (!replace)
			return must_not_exist(
				to, "It is another CA's. Choose another folder, or say that it may be replaced.", e);
	}
	return file_write_durable(to, data, len, 0644, e);
}

static int issue_into(const struct pki_issue_opts *o, EVP_PKEY *key, X509 *cert, struct err *e)
{
	MEM_AUTO char *key_path = mem_printf("%s/%s", o->out_dir, PKI_HOST_KEY);
	MEM_AUTO char *cert_path = mem_printf("%s/%s", o->out_dir, PKI_HOST_CERT);
	MEM_AUTO char *ca_from = mem_printf("%s/%s", o->ca_dir, PKI_CA_CERT);
	MEM_AUTO char *ca_path = mem_printf("%s/%s", o->out_dir, PKI_CA_CERT);
	static const char remedy[] = "Choose another folder with --out, or let --renew replace them; the old certificate "
				     "stays valid until it ends.";

	if (file_mkdirs(o->out_dir, 0700, e) < 0)
		return -1;
	if (!o->replace && (must_not_exist(key_path, remedy, e) < 0 || must_not_exist(cert_path, remedy, e) < 0))
		return -1;
	if (copy_ca(ca_from, ca_path, o->replace, e) < 0)
		return -1;
	return write_pair(key_path, key, cert_path, cert, exists(key_path), e);
}

int pki_issue(const struct pki_issue_opts *o, struct err *e)
{
	struct authority ca;
	char host[CERT_MAX_NAME + 1];
	BUF_AUTO struct buf san = BUF_INIT;
	int64_t from = 0;
	int64_t to = 0;
	EVP_PKEY *key = NULL;
	X509 *cert = NULL;
	int rc = -1;

	if (format_names(o, host, sizeof(host), &san, e) < 0 || authority_load(o->ca_dir, &ca, e) < 0)
		return -1;
	ERR_clear_error();
	if (choose_dates(o, ca.cert, &from, &to, e) < 0)
		goto out;
	key = EVP_EC_gen("P-256");
	if (!key) {
		fail_openssl(e, "make a key");
		goto out;
	}
	cert = make_host(key, &ca, host, (const char *)san.data, from, to, e);
	if (cert)
		rc = issue_into(o, key, cert, e);
out:
	X509_free(cert);
	EVP_PKEY_free(key);
	authority_fini(&ca);
	return rc;
}

/* ---- looking ---- */

static void show_addresses(X509 *cert, struct pki_cert *out)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);

	for (int i = 0; i < sk_GENERAL_NAME_num(names) && out->n_addresses < PKI_MAX_ADDRESSES; i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
		char *to = out->addresses[out->n_addresses];
		if (n->type != GEN_IPADD)
			continue;
		const int len = ASN1_STRING_length(n->d.iPAddress);
		const int family = len == 4 ? AF_INET : len == 16 ? AF_INET6 : AF_UNSPEC;
		if (inet_ntop(family, ASN1_STRING_get0_data(n->d.iPAddress), to, sizeof(out->addresses[0])))
			out->n_addresses++;
	}
	GENERAL_NAMES_free(names);
}

static void show_fingerprint(X509 *cert, struct pki_cert *out)
{
	unsigned char md[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	size_t at = 0;

	if (X509_digest(cert, EVP_sha256(), md, &len) != 1)
		return;
	for (unsigned i = 0; i < len && at + 4 <= sizeof(out->fingerprint); i++)
		at += (size_t)snprintf(out->fingerprint + at, sizeof(out->fingerprint) - at, i ? ":%02X" : "%02X",
				       md[i]);
}

int pki_show(const char *file, struct pki_cert *out, struct err *e)
{
	X509 *cert = cert_load(file, e);
	struct pki_cert c = { 0 };
	struct err ignored = ERR_INIT;

	if (!cert)
		return -1;
	c.is_ca = X509_check_ca(cert) == 1;
	if (!c.is_ca && cert_identity(cert, c.name, &ignored) < 0)
		c.name[0] = '\0';
	cert_subject_label(cert, c.subject, sizeof(c.subject));
	cert_issuer_label(cert, c.issuer, sizeof(c.issuer));
	c.not_before = cert_not_before(cert);
	c.not_after = cert_not_after(cert);
	c.may_serve = cert_may_serve(cert);
	c.may_call = cert_may_call(cert);
	show_addresses(cert, &c);
	show_fingerprint(cert, &c);
	X509_free(cert);
	ERR_clear_error();
	*out = c;
	return 0;
}

int64_t pki_days_left(const struct pki_cert *c, int64_t now_unix_s)
{
	const int64_t left = c->not_after - now_unix_s;

	return left >= 0 ? left / DAY_S : -1 - (-left - 1) / DAY_S;
}
