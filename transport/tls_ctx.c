#include "transport/tls_internal.h"

#include "base/mem.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* AES first: the hosts that run KVM have instructions for it. 128 bits are as good here and a fifth faster. */
#define CIPHERS "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
/* One recv(2) takes in many records. */
#define READ_BUFFER_BYTES ((size_t)256 * 1024)

static pthread_once_t ex_once = PTHREAD_ONCE_INIT;
static int ex_index = -1;

static void make_ex_index(void)
{
	ex_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

int tls_ex_index(void)
{
	pthread_once(&ex_once, make_ex_index);
	return ex_index;
}

struct tls *tls_of(const SSL *ssl)
{
	return SSL_get_ex_data(ssl, tls_ex_index());
}

/* What OpenSSL does not ask of the peer's own certificate. Returns an X509_V_ code. */
static int judge_leaf(struct tls *t, X509 *cert, struct err *e)
{
	char name[CERT_MAX_NAME + 1];

	if (cert_identity(cert, name, e) < 0)
		return X509_V_ERR_INVALID_EXTENSION;
	if (!(t->server ? cert_may_call(cert) : cert_may_serve(cert)))
		return X509_V_ERR_INVALID_PURPOSE;
	if (t->expect_name && strcasecmp(name, t->expect_name) != 0)
		return X509_V_ERR_HOSTNAME_MISMATCH;
	return X509_V_OK;
}

int tls_ctx_verify(int ok, X509_STORE_CTX *store)
{
	const SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls *t = tls_of(ssl);
	X509 *cert = X509_STORE_CTX_get_current_cert(store);
	int depth = X509_STORE_CTX_get_error_depth(store);
	int why = X509_STORE_CTX_get_error(store);

	err_clear(&t->refusal);
	if (ok && depth == 0 && cert) {
		why = judge_leaf(t, cert, &t->refusal);
		if (why != X509_V_OK) {
			X509_STORE_CTX_set_error(store, why);
			ok = 0;
		}
	}
	/* A chain to a stranger's CA is the fault of the certificate that it is for. */
	if (!ok && depth > 0 && why != X509_V_ERR_CERT_HAS_EXPIRED && why != X509_V_ERR_CERT_NOT_YET_VALID) {
		cert = X509_STORE_CTX_get0_cert(store);
		depth = 0;
	}
	if (!ok && !err_is_set(&t->refusal))
		tls_why_refused(t, cert, why, depth, &t->refusal);
	return ok;
}

static int load_ca(struct tls_ctx *ctx, const char *path, struct err *e)
{
	X509 *first = cert_load(path, e);
	char why[256];

	if (!first)
		return -1;
	X509_free(first);
	if (SSL_CTX_load_verify_file(ctx->ssl, path) != 1)
		return err_set(e, ERR_CONFIG, "%s: %s", path, cert_openssl_error(why, sizeof(why)));
	return 0;
}

static int load_own(struct tls_ctx *ctx, const struct tls_files *files, struct err *e)
{
	char why[256];
	EVP_PKEY *key = cert_load_key(files->key, e);

	if (!key)
		return -1;
	int rc = -1;
	if (SSL_CTX_use_certificate_chain_file(ctx->ssl, files->cert) != 1) {
		err_set(e, ERR_CONFIG, "%s: %s", files->cert, cert_openssl_error(why, sizeof(why)));
	} else if (SSL_CTX_use_PrivateKey(ctx->ssl, key) != 1 || SSL_CTX_check_private_key(ctx->ssl) != 1) {
		ERR_clear_error();
		err_set(e, ERR_CONFIG, "%s is not the key of the certificate %s", files->key, files->cert);
		err_remedy(e, "Copy key and certificate together, as `vmferry pki issue HOST` wrote them.");
	} else {
		rc = 0;
	}
	EVP_PKEY_free(key);
	return rc;
}

/* The CA issued our certificate: better to know when the agent starts than from every peer. */
static int check_issued(struct tls_ctx *ctx, X509 *own, const struct tls_files *files, struct err *e)
{
	X509_STORE_CTX *store = X509_STORE_CTX_new();
	STACK_OF(X509) *extra = NULL;
	char issuer[128];

	SSL_CTX_get0_chain_certs(ctx->ssl, &extra);
	int rc = -1;
	if (store && X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(ctx->ssl), own, extra) == 1) {
		X509_STORE_CTX_set_flags(store, X509_V_FLAG_NO_CHECK_TIME);
		rc = X509_verify_cert(store) == 1 ? 0 : -1;
	}
	if (rc < 0) {
		err_set(e, ERR_CONFIG, "%s was issued by \"%s\", not by the fleet's CA in %s (%s)", files->cert,
			cert_issuer_label(own, issuer, sizeof(issuer)), files->ca,
			store ? X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)) : "no memory");
		err_remedy(e, "Issue it anew with the fleet's CA (`vmferry pki issue HOST`), and copy ca.pem along "
			      "with it.");
	} else {
		const STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(store);
		for (int i = 0; i < sk_X509_num(chain); i++) {
			const int64_t end = cert_not_after(sk_X509_value(chain, i));
			ctx->not_after = end < ctx->not_after ? end : ctx->not_after;
		}
	}
	X509_STORE_CTX_free(store);
	ERR_clear_error();
	return rc;
}

static int check_own(struct tls_ctx *ctx, const struct tls_files *files, struct err *e)
{
	X509 *own = SSL_CTX_get0_certificate(ctx->ssl);

	if (cert_identity(own, ctx->name, e) < 0) {
		e->cls = ERR_CONFIG;
		return err_wrap(e, "%s", files->cert);
	}
	if (!cert_may_serve(own) || !cert_may_call(own)) {
		err_set(e, ERR_CONFIG, "%s: its extended key usage has to allow both TLS server and TLS client",
			files->cert);
		return err_remedy(e, "Issue it with `vmferry pki issue HOST`.");
	}
	ctx->not_after = INT64_MAX;
	return check_issued(ctx, own, files, e);
}

static void set_policy(SSL_CTX *ssl)
{
	SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION);
	SSL_CTX_set_max_proto_version(ssl, TLS1_3_VERSION);
	SSL_CTX_set_ciphersuites(ssl, CIPHERS);
	/* Every connection proves both identities anew. */
	SSL_CTX_set_num_tickets(ssl, 0);
	SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, tls_ctx_verify);
	SSL_CTX_set_read_ahead(ssl, 1);
	SSL_CTX_set_default_read_buffer_len(ssl, READ_BUFFER_BYTES);
	/* The peer has the CA; it need not travel. */
	SSL_CTX_set_mode(ssl, SSL_MODE_AUTO_RETRY | SSL_MODE_NO_AUTO_CHAIN);
}

struct tls_ctx *tls_ctx_new(const struct tls_files *files, struct err *e)
{
	struct tls_ctx *ctx = mem_alloc(sizeof(*ctx));

	atomic_init(&ctx->refs, 1);
	ERR_clear_error();
	ctx->ssl = SSL_CTX_new(TLS_method());
	if (!ctx->ssl) {
		char why[256];
		err_set(e, ERR_SYS, "start OpenSSL: %s", cert_openssl_error(why, sizeof(why)));
		goto fail;
	}
	set_policy(ctx->ssl);
	if (load_ca(ctx, files->ca, e) < 0 || load_own(ctx, files, e) < 0 || check_own(ctx, files, e) < 0)
		goto fail;
	return ctx;
fail:
	tls_ctx_free(ctx);
	return NULL;
}

struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx)
{
	atomic_fetch_add(&ctx->refs, 1);
	return ctx;
}

void tls_ctx_free(struct tls_ctx *ctx)
{
	if (!ctx || atomic_fetch_sub(&ctx->refs, 1) != 1)
		return;
	SSL_CTX_free(ctx->ssl);
	free(ctx);
}

const char *tls_ctx_name(const struct tls_ctx *ctx)
{
	return ctx->name;
}

int64_t tls_ctx_not_after(const struct tls_ctx *ctx)
{
	return ctx->not_after;
}
