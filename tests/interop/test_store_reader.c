/* The second reader, tests/interop/store_reader.py, written from FORMAT.md alone, sees in a store what the program sees. */
#include "tests/unit/store_model.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#define READER TESTS_DIR "/interop/store_reader.py"

static char base[64], dir[96];
static atomic_bool full;
static struct sys_calls kernel;

static int rename_or_full(const char *from, const char *to)
{
	if (full) {
		errno = ENOSPC;
		return -1;
	}
	return kernel.rename(from, to);
}

static void set_up(void)
{
	kernel = sys;
	model_no_sync();
	sys.rename = rename_or_full;
	model_folder(base);
	snprintf(dir, sizeof(dir), "%s/web1", base);
}

static void tear_down(void)
{
	model_remove_folder(base);
}

/* What it prints; the caller frees. */
static uint8_t *reader(const char *verb, uint64_t seq, const char *name, size_t max, size_t *len)
{
	MEM_AUTO char *command = mem_printf("python3 -B %s %s %s %llu '%s'", READER, dir, verb, (unsigned long long)seq,
					    name);
	uint8_t *out = mem_alloc(max + 1);
	FILE *f = popen(command, "r");

	ck_assert_ptr_nonnull(f);
	*len = fread(out, 1, max, f);
	ck_assert_int_eq(pclose(f), 0);
	return out;
}

static void compare_point(const struct model_state *want)
{
	uint8_t block[STORE_BLOCK];
	size_t len = 0, at = 0;
	MEM_AUTO uint8_t *all = reader("extract", want->seq, "ALL", (MODEL_VOLUMES * MODEL_BLOCKS + 1) * STORE_BLOCK,
				       &len);

	for (uint32_t i = 0; i < want->n; i++) {
		const struct model_volume *mv = &want->vol[i];
		ck_assert_uint_le(at + mv->v.size_bytes, len);
		for (size_t b = 0; b < model_blocks(mv); b++) {
			model_fill(mv->tag[b], block, model_len(mv, b));
			ck_assert_msg(memcmp(block, all + at + b * STORE_BLOCK, model_len(mv, b)) == 0,
				      "point %d: block %zu of %s", (int)want->seq, b, mv->v.name);
		}
		at += mv->v.size_bytes;
	}
	ck_assert_uint_eq(at, len);
	if (want->file) {
		char text[64];
		snprintf(text, sizeof(text), "device state %u", want->file);
		MEM_AUTO uint8_t *file = reader("file", want->seq, "device", 100, &len);
		ck_assert_str_eq((const char *)file, text);
	}
}

static void compare_list(const struct model *m)
{
	size_t len = 0;
	MEM_AUTO uint8_t *text = reader("list", 0, "", 65536, &len);
	const char *p = (const char *)text;

	for (size_t i = 0; i < m->n_points; i++) {
		ck_assert_uint_eq(strtoull(p, NULL, 10), m->points[i]->seq);
		p = strchr(p, '\n');
		ck_assert_ptr_nonnull(p);
		p++;
	}
	ck_assert_str_eq(p, "");
}

START_TEST(both_read_the_same)
{
	const struct store_opts opts = { .segment_bytes = 200000 };
	struct err e = ERR_INIT;
	struct model m;
	struct store *s = store_create(dir, &opts, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	model_init(&m, (uint64_t)_i + 1);
	for (int i = 0; i < 8; i++)
		OK(model_txn(&m, s, i % 3 == 1 ? STORE_TXN_PART : STORE_TXN_POINT, &e), e);
	OK(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e), e);
	model_forget(&m, 3);
	OK(store_prune(s, model_keep, &m, &e), e);
	/* From here on nothing can be applied: transactions stay in the journal. */
	full = true;
	for (int i = 0; i < 3; i++)
		OK(model_txn(&m, s, i == 1 ? STORE_TXN_PART : STORE_TXN_POINT, &e), e);
	compare_list(&m);
	for (size_t i = 0; i < m.n_points; i++)
		compare_point(m.points[i]);
	full = false;
	OK(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e), e);
	/* And of these the heads know, but not the catalogue. */
	for (int i = 0; i < 3; i++)
		OK(model_txn(&m, s, i == 1 ? STORE_TXN_PART : STORE_TXN_POINT, &e), e);
	struct store_usage u = { .pending_txns = 1 };
	for (const int64_t until = clock_mono_ns() + 10 * NS_PER_S; u.pending_txns > 0 && clock_mono_ns() < until;)
		OK(store_usage(s, &u, &e), e);
	compare_list(&m);
	for (size_t i = 0; i < m.n_points; i++)
		compare_point(m.points[i]);
	store_close(s);
	compare_list(&m);
	for (size_t i = 0; i < m.n_points; i++)
		compare_point(m.points[i]);
	model_fini(&m);
}
END_TEST

int main(void)
{
	/* 77 of the reader: there is no libxxhash for it. 2: it runs, and wants arguments. */
	const int status = system("python3 -B " READER " >/dev/null 2>&1");
	const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

	if (code == 127 || code == 77) {
		printf("skipped: %s\n",
		       code == 127 ? "there is no python3 here" : "there is no libxxhash for python here");
		return 77;
	}
	Suite *s = suite_create("store reader");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_loop_test(t, both_read_the_same, 0, 2);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
