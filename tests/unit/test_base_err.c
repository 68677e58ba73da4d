/* Errors: what they say, in which order, and what survives. */
#include "base/err.h"

#include <check.h>
#include <errno.h>
#include <string.h>

START_TEST(context_grows_in_front)
{
	struct err e = ERR_INIT;

	ck_assert(!err_is_set(&e));
	errno = ENOSPC;
	ck_assert_int_eq(err_sys(&e, "write"), -1);
	ck_assert_int_eq(err_wrap(&e, "segment %d", 12), -1);
	err_wrap(&e, "journal");
	ck_assert_str_eq(e.text, "journal: segment 12: write: No space left on device");
	ck_assert_int_eq(e.cls, ERR_SYS);
	ck_assert_int_eq(e.errnum, ENOSPC);
	ck_assert(err_is_set(&e));
}
END_TEST

START_TEST(set_replaces_everything)
{
	struct err e = ERR_INIT;

	errno = EIO;
	err_sys(&e, "read");
	err_remedy(&e, "Try again.");
	ck_assert_int_eq(err_set(&e, ERR_REFUSED, "no"), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_int_eq(e.errnum, 0);
	ck_assert_str_eq(e.text, "no");
	ck_assert_str_eq(e.remedy, "");
	err_clear(&e);
	ck_assert(!err_is_set(&e));
	ck_assert_str_eq(e.text, "");
}
END_TEST

START_TEST(what_could_not_be_opened_may_pass)
{
	static const int passing[] = { EMFILE, ENFILE, ENOMEM, EINTR, EAGAIN },
			 lasting[] = { ENOENT, EACCES, EIO, ENOSPC };
	struct err e = ERR_INIT;

	for (size_t i = 0; i < sizeof(passing) / sizeof(passing[0]); i++) {
		errno = passing[i];
		ck_assert_int_eq(err_open(&e, "open %s", "x"), -1);
		ck_assert(err_passes(&e));
		ck_assert_str_eq(e.text + strlen("open x: "), strerror(passing[i]));
	}
	for (size_t i = 0; i < sizeof(lasting) / sizeof(lasting[0]); i++) {
		errno = lasting[i];
		err_open(&e, "open x");
		ck_assert(!err_passes(&e));
		ck_assert_int_eq(e.errnum, lasting[i]);
	}
	/* Of a write it says nothing of the kind. */
	errno = ENOMEM;
	err_sys(&e, "write");
	ck_assert(!err_passes(&e));
}
END_TEST

START_TEST(what_is_full_is_told_apart)
{
	struct err e = ERR_INIT;

	errno = ENOSPC;
	err_sys(&e, "write");
	ck_assert(err_is_full(&e));
	errno = EDQUOT;
	err_sys(&e, "write");
	ck_assert(err_is_full(&e));
	errno = EIO;
	err_sys(&e, "write");
	ck_assert(!err_is_full(&e));
	/* What a peer says of its own disk is not ours. */
	err_set(&e, ERR_PEER, "there");
	e.errnum = ENOSPC;
	ck_assert(!err_is_full(&e));
}
END_TEST

START_TEST(the_innermost_remedy_stays)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_PEER, "unreachable");
	ck_assert_int_eq(err_remedy(&e, "Start %s.", "vmferryd"), -1);
	err_remedy(&e, "Do something.");
	err_wrap(&e, "peer b");
	ck_assert_str_eq(e.remedy, "Start vmferryd.");
}
END_TEST

START_TEST(the_text_may_be_its_own_argument)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_SYS, "inner");
	err_set(&e, ERR_PEER, "peer says: %s", e.text);
	ck_assert_str_eq(e.text, "peer says: inner");
	err_wrap(&e, "again (%s)", e.text);
	ck_assert_str_eq(e.text, "again (peer says: inner): peer says: inner");
}
END_TEST

START_TEST(text_is_one_line)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_LIBVIRT, "internal error:\nqemu said\r\nno\n");
	ck_assert_str_eq(e.text, "internal error: qemu said  no");
}
END_TEST

START_TEST(long_text_is_cut_and_terminated)
{
	struct err e = ERR_INIT;
	char big[4000];

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_set(&e, ERR_SYS, "%s", big);
	ck_assert_uint_eq(strlen(e.text), sizeof(e.text) - 1);
	err_wrap(&e, "outer");
	ck_assert_int_eq(strncmp(e.text, "outer: xxx", 10), 0);
	ck_assert_uint_eq(strlen(e.text), sizeof(e.text) - 1);
	errno = EPERM;
	err_sys(&e, "%s", big);
	ck_assert_uint_eq(strlen(e.text), sizeof(e.text) - 1);
	err_remedy(&e, "%s", big);
	ck_assert_uint_eq(strlen(e.remedy), sizeof(e.remedy) - 1);
}
END_TEST

START_TEST(class_names_round_trip)
{
#define X(id, name)                                 \
	ck_assert_str_eq(err_class_name(id), name); \
	if (id != ERR_NONE)                         \
		ck_assert_int_eq(err_class_from_name(name), id);
	ERR_CLASSES(X)
#undef X
	/* A peer that says "failed, and the class is none" must not make a failure look like success. */
	ck_assert_int_eq(err_class_from_name("none"), ERR_PROTOCOL);
	ck_assert_int_eq(err_class_from_name("zebra"), ERR_PROTOCOL);
	ck_assert_int_eq(err_class_from_name(""), ERR_PROTOCOL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("err");
	TCase *t = tcase_create("all");
	tcase_add_test(t, context_grows_in_front);
	tcase_add_test(t, set_replaces_everything);
	tcase_add_test(t, what_could_not_be_opened_may_pass);
	tcase_add_test(t, what_is_full_is_told_apart);
	tcase_add_test(t, the_innermost_remedy_stays);
	tcase_add_test(t, the_text_may_be_its_own_argument);
	tcase_add_test(t, text_is_one_line);
	tcase_add_test(t, long_text_is_cut_and_terminated);
	tcase_add_test(t, class_names_round_trip);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
