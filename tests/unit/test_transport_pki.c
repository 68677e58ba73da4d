#include "transport/pki.h"

#include "tests/unit/transport_fixture.h"
#include "transport/cert.h"

#include "base/file.h"

#include <errno.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

static void setup(void)
{
	fixture_start();
	fixture_ca("ca");
}

static unsigned mode_of(const char *path)
{
	struct stat st;

	ck_assert_int_eq(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static int issue(const char *host, const char *const *addresses, size_t n, const char *out, struct err *e)
{
	const struct pki_issue_opts o = {
		.ca_dir = fixture_path("ca", NULL), .host = host, .addresses = addresses, .n_addresses = n, .out_dir = out
	};

	err_clear(e);
	return pki_issue(&o, e);
}

/* ---- the CA ---- */

START_TEST(ca_is_made_once)
{
	struct err e = ERR_INIT;
	struct pki_cert c;

	ck_assert_uint_eq(mode_of(fixture_path("ca", NULL)), 0700);
	ck_assert_uint_eq(mode_of(fixture_path("ca", "ca.key")), 0600);
	ck_assert_uint_eq(mode_of(fixture_path("ca", "ca.pem")), 0644);
	OK(pki_show(fixture_path("ca", "ca.pem"), &c, &e), e);
	ck_assert(c.is_ca);
	ck_assert_str_eq(c.name, "");
	ck_assert_str_eq(c.subject, "vmferry fleet ca");
	ck_assert_str_eq(c.issuer, "vmferry fleet ca");
	ck_assert_int_eq(pki_days_left(&c, (int64_t)time(NULL) + 10), PKI_CA_DAYS - 1);
	ck_assert(!c.may_serve && !c.may_call);

	MEM_AUTO char *before = file_read_all(fixture_path("ca", "ca.key"), 10000, NULL, &e);
	ck_assert_int_eq(pki_init(fixture_path("ca", NULL), "again", &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "ca.key is there already and is not overwritten");
	HAS(e.remedy, "vmferry pki issue");
	MEM_AUTO char *after = file_read_all(fixture_path("ca", "ca.key"), 10000, NULL, &e);
	ck_assert_str_eq(before, after);

	/* Half of one is not overwritten either. */
	ck_assert_int_eq(unlink(fixture_path("ca", "ca.key")), 0);
	err_clear(&e);
	ck_assert_int_eq(pki_init(fixture_path("ca", NULL), "again", &e), -1);
	HAS(e.text, "ca.pem is there already");
}
END_TEST

START_TEST(bad_fleet_names)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(pki_init(fixture_path("x", NULL), "", &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	ck_assert_int_eq(pki_init(fixture_path("x", NULL), "a\nb", &e), -1);
	ck_assert_int_eq(pki_init(fixture_path("x", NULL), "12345678901234567890123456789012345678901", &e), -1);
	ck_assert_int_eq(access(fixture_path("x", NULL), F_OK), -1);
	OK(pki_init(fixture_path("x", NULL), "1234567890123456789012345678901234567890", &e), e);
}
END_TEST

START_TEST(unwritable_folder)
{
	struct err e = ERR_INIT;

	FILE *f = fopen(fixture_path("file", NULL), "w");
	fclose(f);
	ck_assert_int_eq(pki_init(fixture_path("file", "ca"), "x", &e), -1);
	ck_assert_int_eq(e.cls, ERR_SYS);
	ck_assert_int_eq(e.errnum, ENOTDIR);
}
END_TEST

/* ---- hosts ---- */

START_TEST(host_certificate)
{
	static const char *const addresses[] = { "192.0.2.1", "2001:db8::7" };
	struct err e = ERR_INIT;
	struct pki_cert c;

	OK(issue("Node1.Example.NET", addresses, 2, fixture_path("h", NULL), &e), e);
	ck_assert_uint_eq(mode_of(fixture_path("h", NULL)), 0700);
	ck_assert_uint_eq(mode_of(fixture_path("h", "host.key")), 0600);
	OK(pki_show(fixture_path("h", "host.pem"), &c, &e), e);
	ck_assert_str_eq(c.name, "node1.example.net");
	ck_assert_str_eq(c.issuer, "vmferry fleet ca");
	ck_assert_uint_eq(c.n_addresses, 2);
	ck_assert_str_eq(c.addresses[0], "192.0.2.1");
	ck_assert_str_eq(c.addresses[1], "2001:db8::7");
	ck_assert(!c.is_ca && c.may_serve && c.may_call);
	ck_assert_int_eq(pki_days_left(&c, (int64_t)time(NULL) + 10), PKI_HOST_DAYS - 1);
	ck_assert_int_lt(c.not_before, (int64_t)time(NULL) - 3000);
	ck_assert_uint_eq(strlen(c.fingerprint), 95);

	/* The CA came along, and it all loads. */
	struct tls_ctx *ctx = fixture_ctx("h", NULL);
	ck_assert_str_eq(tls_ctx_name(ctx), "node1.example.net");
	ck_assert_int_eq(tls_ctx_not_after(ctx), c.not_after);
	tls_ctx_free(ctx);
}
END_TEST

START_TEST(longest_name)
{
	struct err e = ERR_INIT;
	struct pki_cert c;
	char name[254];

	memset(name, 'a', sizeof(name));
	name[63] = name[127] = name[191] = '.';
	name[253] = '\0';
	OK(issue(name, NULL, 0, fixture_path("h", NULL), &e), e);
	OK(pki_show(fixture_path("h", "host.pem"), &c, &e), e);
	ck_assert_str_eq(c.name, name);
}
END_TEST

START_TEST(nothing_is_overwritten_silently)
{
	struct err e = ERR_INIT;
	struct pki_cert old, new;

	OK(issue("host1", NULL, 0, fixture_path("h", NULL), &e), e);
	OK(pki_show(fixture_path("h", "host.pem"), &old, &e), e);
	ck_assert_int_eq(issue("host1", NULL, 0, fixture_path("h", NULL), &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "host.key is there already");
	OK(pki_show(fixture_path("h", "host.pem"), &new, &e), e);
	ck_assert_str_eq(old.fingerprint, new.fingerprint);

	const struct pki_issue_opts renew = {
		.ca_dir = fixture_path("ca", NULL), .host = "host1", .out_dir = fixture_path("h", NULL), .replace = true
	};
	err_clear(&e);
	OK(pki_issue(&renew, &e), e);
	OK(pki_show(fixture_path("h", "host.pem"), &new, &e), e);
	ck_assert_str_ne(old.fingerprint, new.fingerprint);
	tls_ctx_free(fixture_ctx("h", NULL));

	/* Another fleet's ca.pem in the folder is someone's. */
	fixture_ca("ca2");
	ck_assert_int_eq(mkdir(fixture_path("h2", NULL), 0700), 0);
	ck_assert_int_eq(rename(fixture_path("ca2", "ca.pem"), fixture_path("h2", "ca.pem")), 0);
	ck_assert_int_eq(issue("host2", NULL, 0, fixture_path("h2", NULL), &e), -1);
	HAS(e.text, "ca.pem is there already");
	ck_assert_int_eq(access(fixture_path("h2", "host.key"), F_OK), -1);
}
END_TEST

START_TEST(into_the_folder_of_the_ca)
{
	struct err e = ERR_INIT;

	OK(issue("host1", NULL, 0, fixture_path("ca", NULL), &e), e);
	tls_ctx_free(fixture_ctx("ca", NULL));
}
END_TEST

static const struct {
	const char *name;
	const char *why;
} bad_names[] = {
	{ "", "empty" },
	{ "-a", "begins with a hyphen" },
	{ "a-", "ends with a hyphen" },
	{ "a-.b", "ends with a hyphen" },
	{ "a..b", "empty label" },
	{ ".a", "empty label" },
	{ "a.", "ends with a dot" },
	{ "a_b", "only letters" },
	{ "a b", "only letters" },
	{ "*.example.net", "only letters" },
	{ "../etc", "empty label" },
	{ "a/b", "only letters" },
	{ "a,DNS:b", "only letters" },
	{ "h\xc3\xb6st", "only letters" },
	{ "192.0.2.1", "IP address" },
	{ "::1", "IP address" },
	{ "local", "this host itself" },
	{ "LocalHost", "this host itself" },
	{ "a123456789012345678901234567890123456789012345678901234567890123", "longer than 63" },
};

START_TEST(bad_host_name)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(issue(bad_names[_i].name, NULL, 0, fixture_path("h", NULL), &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	HAS(e.text, bad_names[_i].why);
	ck_assert_int_eq(access(fixture_path("h", NULL), F_OK), -1);
}
END_TEST

START_TEST(name_too_long)
{
	struct err e = ERR_INIT;
	char name[255];

	memset(name, 'a', sizeof(name));
	for (size_t i = 50; i < sizeof(name); i += 51)
		name[i] = '.';
	name[254] = '\0';
	ck_assert_int_eq(cert_check_name(name, &e), -1);
	HAS(e.text, "longer than 253");
}
END_TEST

START_TEST(bad_addresses)
{
	static const char *const bad[] = { "192.0.2.1", "host1.example.net" };
	static const char *const many[PKI_MAX_ADDRESSES + 1] = { "192.0.2.1" };
	struct err e = ERR_INIT;

	ck_assert_int_eq(issue("host1", bad, 2, fixture_path("h", NULL), &e), -1);
	HAS(e.text, "\"host1.example.net\" is not an IPv4 or IPv6 address");
	ck_assert_int_eq(issue("host1", many, PKI_MAX_ADDRESSES + 1, fixture_path("h", NULL), &e), -1);
	HAS(e.text, "17 addresses; 16 are allowed");
}
END_TEST

START_TEST(missing_ca)
{
	struct err e = ERR_INIT;
	struct pki_issue_opts o = { .ca_dir = fixture_path("none", NULL),
				    .host = "host1",
				    .out_dir = fixture_path("h", NULL) };

	ck_assert_int_eq(pki_issue(&o, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	HAS(e.text, "there is no CA in");
	HAS(e.remedy, "vmferry pki init");

	ck_assert_int_eq(chmod(fixture_path("ca", "ca.key"), 0640), 0);
	ck_assert_int_eq(issue("host1", NULL, 0, fixture_path("h", NULL), &e), -1);
	HAS(e.text, "mode is 0640");
	ck_assert_int_eq(chmod(fixture_path("ca", "ca.key"), 0600), 0);

	fixture_ca("ca2");
	ck_assert_int_eq(rename(fixture_path("ca2", "ca.pem"), fixture_path("ca", "ca.pem")), 0);
	ck_assert_int_eq(issue("host1", NULL, 0, fixture_path("h", NULL), &e), -1);
	HAS(e.text, "is not the key of");
}
END_TEST

START_TEST(not_beyond_the_ca)
{
	struct pki_issue_opts o = { .ca_dir = fixture_path("ca", NULL),
				    .host = "host1",
				    .out_dir = fixture_path("h", NULL),
				    .days = PKI_MAX_DAYS };
	struct err e = ERR_INIT;
	struct pki_cert ca, c;

	OK(pki_issue(&o, &e), e);
	OK(pki_show(fixture_path("h", "host.pem"), &c, &e), e);
	OK(pki_show(fixture_path("ca", "ca.pem"), &ca, &e), e);
	ck_assert_int_eq(c.not_after, ca.not_after);
	o.days = PKI_MAX_DAYS + 1;
	o.replace = true;
	ck_assert_int_eq(pki_issue(&o, &e), -1);
	HAS(e.text, "1 to 36500 are allowed");
	o.days = -1;
	ck_assert_int_eq(pki_issue(&o, &e), -1);
}
END_TEST

START_TEST(days_left)
{
	const struct pki_cert c = { .not_after = 1000000 };

	ck_assert_int_eq(pki_days_left(&c, 1000000 - 86400), 1);
	ck_assert_int_eq(pki_days_left(&c, 1000000 - 86399), 0);
	ck_assert_int_eq(pki_days_left(&c, 1000000), 0);
	ck_assert_int_eq(pki_days_left(&c, 1000001), -1);
	ck_assert_int_eq(pki_days_left(&c, 1000000 + 86400), -1);
	ck_assert_int_eq(pki_days_left(&c, 1000001 + 86400), -2);
}
END_TEST

START_TEST(not_a_certificate)
{
	struct pki_cert c;
	struct err e = ERR_INIT;

	ck_assert_int_eq(pki_show(fixture_path("ca", "ca.key"), &c, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	HAS(e.text, "there is no PEM certificate in it");
	ck_assert_int_eq(pki_show(fixture_path("nowhere", NULL), &c, &e), -1);
	ck_assert_int_eq(e.cls, ERR_SYS);
	ck_assert_int_eq(e.errnum, ENOENT);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("transport pki");
	TCase *t = tcase_create("pki");

	tcase_add_checked_fixture(t, setup, fixture_clean);
	tcase_add_test(t, ca_is_made_once);
	tcase_add_test(t, bad_fleet_names);
	tcase_add_test(t, unwritable_folder);
	tcase_add_test(t, host_certificate);
	tcase_add_test(t, longest_name);
	tcase_add_test(t, nothing_is_overwritten_silently);
	tcase_add_test(t, into_the_folder_of_the_ca);
	tcase_add_loop_test(t, bad_host_name, 0, (int)(sizeof(bad_names) / sizeof(bad_names[0])));
	tcase_add_test(t, name_too_long);
	tcase_add_test(t, bad_addresses);
	tcase_add_test(t, missing_ca);
	tcase_add_test(t, not_beyond_the_ca);
	tcase_add_test(t, days_left);
	tcase_add_test(t, not_a_certificate);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
