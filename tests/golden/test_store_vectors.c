/* FORMAT.md: its example is what the store writes and reads; cut at every byte and with a bit flipped in every byte it is
 * refused or ends at the last good commit, and never gives wrong data. The same for every file of a small store. */
#include "hexdoc.h"

#include "snapshot/store_impl.h"
#include "tests/unit/store_model.h"

#include <dirent.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define DOCUMENT TESTS_DIR "/../snapshot/FORMAT.md"
#define ID UINT64_C(0x0102030405060708)
#define SALT UINT64_C(0x1112131415161718)
#define SEGMENT_SALT UINT64_C(0x2122232425262728)

static char base[64], dir[96];
static char *doc;

static void set_up(void)
{
	model_no_sync();
	doc = hexdoc_load(DOCUMENT);
	model_folder(base);
	snprintf(dir, sizeof(dir), "%s/web1", base);
}

static void tear_down(void)
{
	model_remove_folder(base);
	free(doc);
}

/* The segment of the example, as the document has it. */
static void example(struct buf *b)
{
	static const char *const before[] = { "segment-header", "begin", "volumes", "zeros", "blocks-header" };

	for (size_t i = 0; i < 5; i++)
		hexdoc_block(doc, before[i], b);
	memset(buf_reserve(b, STORE_BLOCK), 0x5a, STORE_BLOCK);
	b->len += STORE_BLOCK;
	hexdoc_block(doc, "blocks-sums", b);
	hexdoc_block(doc, "file", b);
	hexdoc_block(doc, "commit", b);
}

static void write_file(const char *name, const void *data, size_t len)
{
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	FILE *f = fopen(path, "wb");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(data, 1, len, f), len);
	fclose(f);
}

static void write_sealed(const char *name, const char *json)
{
	MEM_AUTO char *text = mem_printf("%s\n#xxh3 %016" PRIx64 "\n", json, (uint64_t)XXH3_64bits(json, strlen(json)));
	write_file(name, text, strlen(text));
}

#define EMPTY_STATE                                                                                              \
	"\"store\":\"0102030405060708\",\"applied\":0,\"redo\":{\"segment\":1,\"offset\":64},\"next_volume\":1," \
	"\"volumes\":[],\"files\":[],"                                                                           \
	"\"points\":[]"

/* A store in which only the journal says something. */
static void write_store(unsigned format, const uint8_t *journal, size_t len)
{
	static const char first[] = "{\"format\":2,\"salt\":\"3132333435363738\"," EMPTY_STATE "}";
	MEM_AUTO char *vm =
		mem_printf("{\"format\":%u,\"store\":\"0102030405060708\",\"salt\":\"1112131415161718\",\"vm\":{}}",
			   format);
	MEM_AUTO char *line = mem_printf("%016" PRIx64 " %s\n", (uint64_t)XXH3_64bits(first, strlen(first)), first);

	model_clear(dir);
	write_sealed("vm.json", vm);
	if (format == 1)
		write_sealed("catalogue.json", "{\"format\":1," EMPTY_STATE "}");
	else
		write_file("catalogue.log", line, strlen(line));
	write_file("journal/00000001.wal", journal, len);
}

static void check_example(struct store *s)
{
	struct err e = ERR_INIT;
	struct store_volume list[4];
	uint8_t got[STORE_BLOCK], want[STORE_BLOCK];
	struct store_view *v = store_view_open(s, 1, &e);

	ck_assert_msg(v != NULL, "%s", e.text);
	ck_assert_uint_eq(store_view_volumes(v, list, 4), 2);
	ck_assert_str_eq(list[0].name, "pc.ram");
	ck_assert_uint_eq(list[0].size_bytes, 1 << 20);
	ck_assert_int_eq(list[1].kind, STORE_DISK);
	ck_assert_str_eq(list[1].name, "vda");
	for (uint64_t b = 0; b < store_blocks_of(list[1].size_bytes); b++) {
		OK(store_view_read(v, 1, b, 1, got, NULL, &e), e);
		memset(want, b == 7 ? 0x5a : 0, sizeof(want));
		ck_assert_mem_eq(got, want, STORE_BLOCK);
	}
	ck_assert_str_eq(json_string_value(json_object_get(store_view_meta(v), "id")), "p-1");
	MEM_AUTO char *file = store_view_file(v, "device", NULL, &e);
	ck_assert_str_eq(file, "state");
	store_view_close(v);
}

START_TEST(the_example_is_read)
{
	struct err e = ERR_INIT;
	BUF_AUTO struct buf b = BUF_INIT;

	example(&b);
	write_store(_i ? 2 : 1, b.data, b.len);
	struct store *s = store_open(dir, NULL, &e);
	ck_assert_msg(s != NULL, "%s", e.text);
	check_example(s);
	OK(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e), e);
	check_example(s);
	ck_assert_uint_eq(store_dropped_bytes(s), 0);
	OK(store_verify(s, NULL, NULL, &e), e);
	store_close(s);
}
END_TEST

/* Each record of the document comes out of the encoder as it is there. */
START_TEST(records_are_written_so)
{
	static const char *const blocks[] = { "begin", "volumes", "zeros", "blocks-header", "file", "commit" };
	BUF_AUTO struct buf head = BUF_INIT;
	uint8_t out[STORE_SEG_HEAD];
	uint64_t at = STORE_SEG_HEAD;

	hexdoc_block(doc, "segment-header", &head);
	store_seg_encode(ID, 1, SEGMENT_SALT, out);
	ck_assert_uint_eq(head.len, STORE_SEG_HEAD);
	ck_assert_mem_eq(out, head.data, STORE_SEG_HEAD);
	for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
		BUF_AUTO struct buf b = BUF_INIT;
		struct store_rec r;
		uint8_t again[STORE_REC_HEAD];
		const uint64_t seed = store_rec_seed(SEGMENT_SALT, at);
		hexdoc_block(doc, blocks[i], &b);
		ck_assert_msg(store_rec_decode(&r, seed, b.data), "%s does not verify", blocks[i]);
		ck_assert(!store_rec_decode(&r, seed + 1, b.data));
		ck_assert(store_rec_decode(&r, seed, b.data));
		store_rec_encode(&r, seed, again);
		ck_assert_mem_eq(again, b.data, STORE_REC_HEAD);
		if (r.type != STORE_REC_BLOCKS)
			ck_assert_uint_eq(store_rec_payload_sum(seed, b.data + STORE_REC_HEAD, r.length), r.payload_sum);
		at += STORE_REC_HEAD + r.length;
	}
	uint8_t data[STORE_BLOCK];
	BUF_AUTO struct buf sums = BUF_INIT, want = BUF_INIT;
	memset(data, 0x5a, sizeof(data));
	hexdoc_block(doc, "blocks-sums", &sums);
	buf_put_be64(&want, store_sum_block(SALT, 2, 7, data));
	ck_assert_mem_eq(sums.data, want.data, 8);
}
END_TEST

static char *text_block(const char *name)
{
	MEM_AUTO char *open = mem_printf("\n```text %s\n", name);
	const char *p = strstr(doc, open);

	ck_assert_ptr_nonnull(p);
	p += strlen(open);
	const char *end = strstr(p, "\n```");
	ck_assert_ptr_nonnull(end);
	return mem_printf("%.*s\n", (int)(end - p), p);
}

/* The document's two lines: each verifies at its place and nowhere else, and they say what is applied and kept. */
START_TEST(the_catalogue_is_written_so)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *text = text_block("catalogue");
	const char *second = strchr(text, '\n') + 1, *json = NULL;
	const size_t first_len = (size_t)(second - text), second_len = strlen(second);
	const uint64_t salt = UINT64_C(0x3132333435363738);
	struct store_point *p = NULL;
	size_t len = 0, n = 0;

	ck_assert(store_catalogue_verify(0, text, first_len - 1, &json, &len));
	ck_assert_int_eq(json[0], '{');
	ck_assert_uint_eq(len, first_len - 1 - 17);
	ck_assert(!store_catalogue_verify(1, text, first_len - 1, &json, &len));
	ck_assert(store_catalogue_verify(salt + first_len, second, second_len - 1, &json, &len));
	ck_assert(!store_catalogue_verify(salt, second, second_len - 1, &json, &len));
	/* Cut anywhere, the second has never been. */
	for (size_t cut = 0; cut <= second_len; cut++) {
		model_clear(dir);
		write_sealed("vm.json",
			     "{\"format\":2,\"store\":\"0102030405060708\",\"salt\":\"1112131415161718\",\"vm\":{}}");
		write_file("catalogue.log", text, first_len + cut);
		struct store *s = store_open(dir, NULL, &e);
		ck_assert_msg(s != NULL, "cut at %zu: %s", cut, e.text);
		OK(store_points(s, &p, &n, &e), e);
		ck_assert_uint_eq(n, 1);
		ck_assert_uint_eq(p[0].seq, cut == second_len ? 3 : 1);
		ck_assert_str_eq(json_string_value(json_object_get(p[0].meta, "id")), cut == second_len ? "p-3" : "p-1");
		store_points_free(p, n);
		store_close(s);
	}
}
END_TEST

/* No point, or the right one. */
static void check_damaged(const char *what, size_t at)
{
	struct err e = ERR_INIT;
	struct store_point *p = NULL;
	size_t n = 0;
	struct store *s = store_open(dir, NULL, &e);

	if (!s) {
		ck_assert_msg(e.cls == ERR_CORRUPT || e.cls == ERR_REFUSED, "%s at %zu: %s", what, at, e.text);
		return;
	}
	OK(store_points(s, &p, &n, &e), e);
	ck_assert_msg(n == 0, "%s at %zu: the point is still there", what, at);
	store_points_free(p, n);
	/* It goes on from there. */
	struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);
	ck_assert_msg(t != NULL, "%s at %zu: %s", what, at, e.text);
	OK(store_commit(t, NULL, NULL, &e), e);
	store_close(s);
	s = store_open(dir, NULL, &e);
	ck_assert_msg(s != NULL, "%s at %zu: %s", what, at, e.text);
	OK(store_points(s, &p, &n, &e), e);
	ck_assert_msg(n == 1, "%s at %zu: %zu points", what, at, n);
	store_points_free(p, n);
	store_close(s);
}

/* Not every byte of 4096 equal ones. */
static size_t step_from(size_t at)
{
	return at > 320 && at < 4300 ? 61 : 1;
}

START_TEST(cut_at_every_byte)
{
	BUF_AUTO struct buf b = BUF_INIT;

	example(&b);
	for (size_t len = (size_t)_i; len < b.len; len += 2 * step_from(len)) {
		write_store(2, b.data, len);
		check_damaged("cut", len);
	}
}
END_TEST

START_TEST(a_bit_flipped_in_every_byte)
{
	BUF_AUTO struct buf b = BUF_INIT;

	example(&b);
	for (size_t at = (size_t)_i; at < b.len; at += 2 * step_from(at)) {
		b.data[at] ^= (uint8_t)(1u << at % 8);
		write_store(2, b.data, b.len);
		check_damaged("flipped", at);
		b.data[at] ^= (uint8_t)(1u << at % 8);
	}
}
END_TEST

/* Every file of a store with points, before-images and files. */
struct kept {
	char *name;
	uint8_t *data;
	size_t len;
};
static struct kept kept[64];
static size_t n_kept;

static void keep_folder(const char *folder)
{
	MEM_AUTO char *path = mem_printf("%s/%s", dir, folder);
	DIR *d = opendir(path);

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
		MEM_AUTO char *file = mem_printf("%s/%s", path, entry->d_name);
		struct stat st;
		struct err e = ERR_INIT;
		if (stat(file, &st) < 0 || !S_ISREG(st.st_mode))
			continue;
		ck_assert_uint_lt(n_kept, 64);
		struct kept *k = &kept[n_kept++];
		k->name = folder[0] ? mem_printf("%s/%s", folder, entry->d_name) : mem_strdup(entry->d_name);
		k->data = (uint8_t *)file_read_all(file, 64 << 20, &k->len, &e);
		ck_assert_msg(k->data != NULL, "%s", e.text);
	}
	closedir(d);
}

static void put_back(void)
{
	model_clear(dir);
	for (size_t i = 0; i < n_kept; i++)
		write_file(kept[i].name, kept[i].data, kept[i].len);
}

/* Whether it was noticed. What can be read is right. */
static bool damage_is_noticed(const struct model *m)
{
	struct err e = ERR_INIT;
	struct store *s = store_open(dir, NULL, &e);
	MEM_AUTO uint8_t *got = mem_alloc_array(MODEL_BLOCKS, STORE_BLOCK);
	uint8_t want[STORE_BLOCK];

	if (!s)
		return true;
	for (size_t i = 0; i < m->n_points; i++) {
		struct store_view *v = store_view_open(s, m->points[i]->seq, &e);
		for (uint32_t k = 0; v && k < m->points[i]->n; k++) {
			const struct model_volume *mv = &m->points[i]->vol[k];
			if (store_view_read(v, k, 0, model_blocks(mv), got, NULL, &e) < 0)
				continue;
			for (size_t b = 0; b < model_blocks(mv); b++) {
				model_fill(mv->tag[b], want, model_len(mv, b));
				ck_assert_msg(memcmp(want, got + b * STORE_BLOCK, STORE_BLOCK) == 0, "wrong data");
			}
		}
		store_view_close(v);
	}
	const bool noticed = store_verify(s, NULL, NULL, &e) < 0;
	store_close(s);
	return noticed;
}

START_TEST(a_bit_flipped_in_every_file)
{
	static const char *const folders[] = { "", "heads", "files", "undo" };
	struct err e = ERR_INIT;
	struct model m;
	struct store *s = store_create(dir, NULL, NULL, &e);
	size_t flips = 0;

	model_init(&m, 5);
	for (int i = 0; i < 4; i++)
		OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
	store_close(s);
	for (size_t i = 0; i < 4; i++)
		keep_folder(folders[i]);
	put_back();
	ck_assert(!damage_is_noticed(&m));
	for (size_t i = 0; i < n_kept; i++) {
		const struct kept *k = &kept[i];
		const bool undo = strncmp(k->name, "undo", 4) == 0;
		/* Data in steps; what has structure byte by byte, divided among the runs of this test. */
		const size_t step = k->len > 8192 ? k->len / 40 : 16;
		for (size_t at = (size_t)_i * step / 4 % (k->len + 1); at < k->len; at += step) {
			if (undo && at >= 48 && at < 4096)
				continue; /* fills up the first block */
			put_back();
			k->data[at] ^= (uint8_t)(1u << at % 8);
			write_file(k->name, k->data, k->len);
			ck_assert_msg(damage_is_noticed(&m), "%s: byte %zu", k->name, at);
			k->data[at] ^= (uint8_t)(1u << at % 8);
			flips++;
		}
	}
	ck_assert_uint_gt(flips, 100);
	model_fini(&m);
}
END_TEST

/* A catalogue of several lines, of a store that was not closed. What is offered is right whatever is damaged, and damage in front of what is
 * whole is noticed. */
START_TEST(a_bit_flipped_in_every_line)
{
	static const char *const folders[] = { "", "heads", "files", "undo", "journal" };
	const struct store_opts opts = { .segment_bytes = 200000 };
	struct err e = ERR_INIT;
	struct model m;
	struct store *s = store_create(dir, &opts, NULL, &e);

	model_init(&m, 9);
	for (int i = 0; i < 6; i++) {
		OK(model_txn(&m, s, i == 2 ? STORE_TXN_PART : STORE_TXN_POINT, &e), e);
		OK(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e), e);
		if (i == 3) {
			model_forget(&m, 2);
			OK(store_prune(s, model_keep, &m, &e), e);
		}
	}
	for (size_t i = 0; i < 5; i++)
		keep_folder(folders[i]);
	store_close(s);
	put_back();
	ck_assert(!damage_is_noticed(&m));
	for (size_t i = 0; i < n_kept; i++) {
		const struct kept *k = &kept[i];
		if (strcmp(k->name, "catalogue.log") != 0)
			continue;
		ck_assert_uint_gt(k->len, 1000);
		const char *last = memrchr(k->data, '\n', k->len - 1);
		ck_assert_ptr_nonnull(last);
		for (size_t at = (size_t)_i * 3; at < k->len; at += 12) {
			put_back();
			k->data[at] ^= (uint8_t)(1u << at % 8);
			write_file(k->name, k->data, k->len);
			k->data[at] ^= (uint8_t)(1u << at % 8);
			const bool noticed = damage_is_noticed(&m);
			ck_assert_msg(noticed || (const char *)k->data + at > last, "byte %zu of %zu", at, k->len);
		}
	}
	model_fini(&m);
}
END_TEST

/* What a line said was done, and then it is lost, without any behind it. */
START_TEST(a_lost_last_line_is_noticed)
{
	static const char *const folders[] = { "", "heads", "files", "undo", "journal" };
	struct err e = ERR_INIT;
	struct model m;
	struct store *s = store_create(dir, NULL, NULL, &e);

	model_init(&m, 11);
	for (int i = 0; i < 6; i++)
		OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
	OK(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e), e);
	for (size_t i = 0; i < 4; i++)
		free(m.points[i]);
	memmove(m.points, m.points + 4, 2 * sizeof(m.points[0]));
	m.n_points = 2;
	OK(store_prune(s, model_keep, &m, &e), e);
	for (size_t i = 0; i < 5; i++)
		keep_folder(folders[i]);
	store_close(s);
	put_back();
	ck_assert(!damage_is_noticed(&m));
	for (size_t i = 0; i < n_kept; i++) {
		const struct kept *k = &kept[i];
		if (strcmp(k->name, "catalogue.log") != 0)
			continue;
		const uint8_t *last = memrchr(k->data, '\n', k->len - 1);
		ck_assert_ptr_nonnull(last);
		for (size_t at = (size_t)(last - k->data) + 1; at < k->len; at += 7) {
			put_back();
			k->data[at] ^= (uint8_t)(1u << at % 8);
			write_file(k->name, k->data, k->len);
			k->data[at] ^= (uint8_t)(1u << at % 8);
			/* Points that were given up would be back, without their before-images. */
			s = store_open(dir, NULL, &e);
			ck_assert_msg(s == NULL && e.cls == ERR_CORRUPT, "byte %zu of %zu", at, k->len);
			err_clear(&e);
		}
	}
	model_fini(&m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store vectors");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_loop_test(t, the_example_is_read, 0, 2);
	tcase_add_test(t, the_catalogue_is_written_so);
	tcase_add_loop_test(t, a_bit_flipped_in_every_line, 0, 4);
	tcase_add_test(t, a_lost_last_line_is_noticed);
	tcase_add_test(t, records_are_written_so);
	tcase_add_loop_test(t, cut_at_every_byte, 0, 2);
	tcase_add_loop_test(t, a_bit_flipped_in_every_byte, 0, 2);
	tcase_add_loop_test(t, a_bit_flipped_in_every_file, 0, 2);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
