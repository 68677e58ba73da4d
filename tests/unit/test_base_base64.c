/* Bytes as text. */
#include "base/base64.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

START_TEST(base64_there_and_back)
{
	uint8_t data[64], back[64];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 37 + 11);
	for (size_t n = 0; n <= sizeof(data); n++) {
		char *text = base64_encode(data, n);
		ck_assert_int_eq(base64_decode(text, back, n), 0);
		ck_assert_int_eq(memcmp(data, back, n), 0);
		ck_assert_int_eq(base64_decode(text, back, n + 3), -1);
		if (n) {
			text[0] = '*';
			ck_assert_int_eq(base64_decode(text, back, n), -1);
		}
		free(text);
	}
	char *known = base64_encode((const uint8_t *)"foobar", 5);
	ck_assert_str_eq(known, "Zm9vYmE=");
	free(known);
	ck_assert_int_eq(base64_decode("Zm9vYmF=", back, 5), -1); /* bits that belong to nothing */
}
END_TEST

int main(void)
{
	Suite *s = suite_create("base64");
	TCase *t = tcase_create("all");
	tcase_add_test(t, base64_there_and_back);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
