#include "transport/tls_internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <time.h>

/* OpenSSL reports an alert that came in as reason 1000 + the alert's number. */
#define ALERT_BASE SSL_AD_REASON_OFFSET

static int why_dates(X509 *cert, int x509_error, const char *who, const char *reissue, struct err *e)
{
	const bool late = x509_error == X509_V_ERR_CERT_HAS_EXPIRED;
	char when[64];
	char now[64];

	cert_format_time(late ? cert_not_after(cert) : cert_not_before(cert), when, sizeof(when));
	cert_format_time((int64_t)time(NULL), now, sizeof(now));
	err_set(e, ERR_REFUSED,
		late ? "%s expired on %s (the clock here says %s)"
		     : "%s is not valid before %s (the clock here says %s)",
		who, when, now);
	return err_remedy(e, "%s If the date is right, check the clocks of both hosts.", reissue);
}

void tls_why_refused(struct tls *t, X509 *cert, int x509_error, int depth, struct err *e)
{
	char name[CERT_MAX_NAME + 1] = "the peer";
	char issuer[128] = "?";
	char who[CERT_MAX_NAME + 64];

	if (cert) {
		cert_label(cert, name, sizeof(name));
		cert_issuer_label(cert, issuer, sizeof(issuer));
	}
	snprintf(who, sizeof(who), depth == 0 ? "the certificate of %s" : "the CA certificate \"%s\"", name);
	switch (x509_error) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		why_dates(cert, x509_error, who,
			  depth == 0 ? "Issue a new one (`vmferry pki issue`), copy it there and reload vmferryd there."
				     : "Make a new fleet CA (`vmferry pki init`) and issue all certificates anew.",
			  e);
		return;
	case X509_V_ERR_HOSTNAME_MISMATCH:
		err_set(e, ERR_REFUSED, "the certificate is for %s, expected %s", name, t->expect_name);
		err_remedy(e, "Check the peer's name and address in the configuration: another host answers there.");
		return;
	case X509_V_ERR_INVALID_PURPOSE:
		err_set(e, ERR_REFUSED, "%s is not meant for a TLS %s (extended key usage)", who,
			t->server ? "client" : "server");
		err_remedy(e, "Issue it with `vmferry pki issue HOST`.");
		return;
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_CERT_SIGNATURE_FAILURE:
	case X509_V_ERR_CERT_UNTRUSTED:
		err_set(e, ERR_REFUSED, "%s was issued by \"%s\", which is not this fleet's CA", who, issuer);
		err_remedy(e, "Both hosts need certificates of the same CA: compare ca.pem of both, or issue a new one "
			      "(`vmferry pki issue`).");
		return;
	default:
		err_set(e, ERR_REFUSED, "%s does not verify: %s", who, X509_verify_cert_error_string(x509_error));
	}
}

/* What the peer told us before it hung up. */
static int why_alert(struct tls *t, int alert, struct err *e)
{
	const char *text = NULL;
	const char *remedy = "See the log of vmferryd there for the reason.";

	switch (alert) {
	case SSL_AD_CERTIFICATE_EXPIRED:
		text = "it refused our certificate: by its clock it has expired or is not valid yet";
		remedy = "Issue a new certificate for this host (`vmferry pki issue`), and check the clocks of both "
			 "hosts.";
		break;
	case SSL_AD_UNKNOWN_CA:
		text = "it refused our certificate: another CA issued it";
		remedy = "Both hosts need certificates of the same CA: compare ca.pem of both.";
		break;
	case SSL_AD_UNSUPPORTED_CERTIFICATE:
		text = "it refused our certificate: it is not meant for this use (extended key usage)";
		remedy = "Issue it with `vmferry pki issue HOST`.";
		break;
	case SSL_AD_CERTIFICATE_REVOKED:
	case SSL_AD_BAD_CERTIFICATE:
	case SSL_AD_CERTIFICATE_UNKNOWN:
	case SSL_AD_DECRYPT_ERROR:
		text = "it refused our certificate";
		break;
	case SSL_AD_CERTIFICATE_REQUIRED:
		text = "it wants a client certificate and got none";
		remedy = "Configure `tls.cert` and `tls.key`.";
		break;
	case SSL_AD_PROTOCOL_VERSION:
		text = "it does not speak TLS 1.3";
		remedy = "Check that a vmferryd is at that address and port.";
		break;
	default:
		break;
	}
	if (text)
		err_set(e, ERR_PEER, "%s", text);
	else
		err_set(e, ERR_PEER, "the peer ended TLS: %s (alert %d)", SSL_alert_desc_string_long(alert), alert);
	e->errnum = ECONNABORTED;
	(void)t;
	return err_remedy(e, "%s", remedy);
}

static int why_reason(struct tls *t, int reason, const char *doing, struct err *e)
{
	switch (reason) {
	case SSL_R_CERTIFICATE_VERIFY_FAILED:
		if (err_is_set(&t->refusal)) {
			*e = t->refusal;
			return -1;
		}
		return err_set(e, ERR_REFUSED, "the peer's certificate does not verify: %s",
			       X509_verify_cert_error_string(SSL_get_verify_result(t->ssl)));
	case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
		err_set(e, ERR_REFUSED, "the peer has no client certificate");
		return err_remedy(e, "Only hosts with a certificate of the fleet's CA may connect.");
	case SSL_R_UNSUPPORTED_PROTOCOL:
	case SSL_R_NO_PROTOCOLS_AVAILABLE:
	case SSL_R_VERSION_TOO_LOW:
	case SSL_R_LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED:
		err_set(e, ERR_REFUSED, "the peer speaks no TLS 1.3, which is required");
		return err_remedy(e, "Check that it is a vmferryd.");
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_HTTP_REQUEST:
	case SSL_R_HTTPS_PROXY_REQUEST:
	case SSL_R_PACKET_LENGTH_TOO_LONG:
	case SSL_R_ENCRYPTED_LENGTH_TOO_LONG:
	case SSL_R_BAD_RECORD_TYPE:
		err_set(e, ERR_PROTOCOL, "the peer does not speak TLS");
		return err_remedy(e, "Check that a vmferryd is at that address and port.");
	case SSL_R_UNEXPECTED_EOF_WHILE_READING:
		err_set(e, ERR_PEER, "%s: connection cut off by the peer", doing);
		e->errnum = ECONNRESET;
		return -1;
	case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
		return err_set(e, ERR_CORRUPT, "%s: a TLS record does not verify: it was changed on its way", doing);
	default:
		return 1;
	}
}

int tls_why(struct tls *t, int ssl_error, const char *doing, struct err *e)
{
	const unsigned long code = ERR_peek_error();
	const int reason = ERR_GET_REASON(code);
	char text[256];

	/* The socket's own error comes first: what OpenSSL makes of it says less. */
	if (err_is_set(&t->io)) {
		*e = t->io;
		err_clear(&t->io);
		ERR_clear_error();
		return -1;
	}
	if (ssl_error == SSL_ERROR_SSL && ERR_GET_LIB(code) == ERR_LIB_SSL) {
		const int rc = reason >= ALERT_BASE ? why_alert(t, reason - ALERT_BASE, e)
						    : why_reason(t, reason, doing, e);
		if (rc < 0) {
			ERR_clear_error();
			return -1;
		}
	}
	if (code == 0) {
		err_set(e, ERR_PEER, "%s: connection cut off by the peer", doing);
		e->errnum = ECONNRESET;
		return -1;
	}
	return err_set(e, ERR_PROTOCOL, "%s: TLS: %s", doing, cert_openssl_error(text, sizeof(text)));
}
