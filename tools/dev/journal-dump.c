/* journal-dump FILE...: prints the records of a segment of a replica's journal, or the lines of its catalogue.log (snapshot/FORMAT.md), and where they stop
 * to verify. */
#include "base/cursor.h"
#include "base/file.h"
#include "base/mem.h"
#include "snapshot/store_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char *const type_names[] = { "?", "BEGIN", "VOLUMES", "BLOCKS", "ZEROS", "FILE", "COMMIT" };

static void print_volumes(struct cursor *c)
{
	const uint32_t next = cursor_be32(c), n = cursor_be32(c);

	printf(" next=%u", next);
	for (uint32_t i = 0; i < n && cursor_ok(c); i++) {
		const uint32_t id = cursor_be32(c), kind = cursor_be32(c);
		const uint64_t bytes = cursor_be64(c);
		const uint8_t len = cursor_u8(c);
		const uint8_t *name = cursor_bytes(c, len);
		printf(" %u:%s:%.*s:%" PRIu64, id, kind == STORE_RAM ? "ram" : "disk", name ? (int)len : 0,
		       (const char *)name, bytes);
	}
}

static void print_record(const struct store_rec *r, uint64_t at, const uint8_t *payload)
{
	const bool known = r->type < sizeof(type_names) / sizeof(type_names[0]);
	struct cursor c = cursor_over(payload, r->length);

	printf("%10" PRIu64 " txn=%" PRIu64 " %s", at, r->txn, known ? type_names[r->type] : "unknown");
	if (r->type == STORE_REC_BEGIN) {
		printf(" %s", r->a == STORE_TXN_POINT ? "point" : "part");
	} else if (r->type == STORE_REC_VOLUMES) {
		print_volumes(&c);
	} else if (r->type == STORE_REC_BLOCKS || r->type == STORE_REC_ZEROS) {
		printf(" volume=%u block=%" PRIu64 " count=%" PRIu64, r->volume, r->a, r->b);
	} else if (r->type == STORE_REC_FILE) {
		const uint8_t len = cursor_u8(&c);
		const uint8_t *name = cursor_bytes(&c, len);
		printf(" name=%.*s bytes=%zu", name ? (int)len : 0, (const char *)name, cursor_left(&c));
	} else if (r->type == STORE_REC_COMMIT) {
		const uint64_t when = cursor_be64(&c), records = cursor_be64(&c), bytes = cursor_be64(&c),
			       chain = cursor_be64(&c);
		printf(" time_ns=%" PRIu64 " records=%" PRIu64 " bytes=%" PRIu64 " chain=%016" PRIx64 " meta=%.*s",
		       when, records, bytes, chain, (int)cursor_left(&c), (const char *)c.p);
	}
	printf("%s\n", r->type & STORE_REC_OPTIONAL ? " (may be ignored)" : "");
}

static int dump_catalogue(const char *path, const char *text, size_t len)
{
	uint64_t salt = 0;
	size_t at = 0, json_len = 0;
	const char *json = NULL, *end;

	printf("%s: catalogue\n", path);
	for (; at < len && (end = memchr(text + at, '\n', len - at)) != NULL; at = (size_t)(end - text) + 1) {
		if (!store_catalogue_verify(at ? salt + at : 0, text + at, (size_t)(end - text) - at, &json, &json_len))
			break;
		json_t *j = json_loadb(json, json_len, 0, NULL);
		if (at == 0 && !store_meta_hex(j, "salt", &salt))
			salt = 0;
		json_decref(j);
		printf("%10zu %.*s\n", at, (int)json_len, json);
	}
	printf("%10zu %s\n", at, at == len ? "end" : "WHAT FOLLOWS DOES NOT VERIFY");
	return 0;
}

static int dump(const char *path)
{
	struct err e = ERR_INIT;
	size_t len = 0;
	MEM_AUTO char *text = file_read_all(path, (size_t)4 << 30, &len, &e);
	const uint8_t *data = (const uint8_t *)text;
	const char *name = strrchr(path, '/');

	if (text && strcmp(name ? name + 1 : path, "catalogue.log") == 0)
		return dump_catalogue(path, text, len);
	if (!data || len < STORE_SEG_HEAD) {
		fprintf(stderr, "journal-dump: %s\n", data ? "too short for a segment" : e.text);
		return 1;
	}
	struct cursor c = cursor_over(data + 8, STORE_SEG_HEAD - 8);
	const uint32_t format = cursor_be32(&c);
	cursor_be32(&c);
	const uint64_t id = cursor_be64(&c), number = cursor_be64(&c), salt = cursor_be64(&c);
	uint8_t want[STORE_SEG_HEAD];
	store_seg_encode(id, number, salt, want);
	printf("%s: segment %" PRIu64 " of store %016" PRIx64 ", format %u%s\n", path, number, id, format,
	       memcmp(want, data, sizeof(want)) == 0 ? "" : ": ITS HEADER DOES NOT VERIFY");
	size_t at = STORE_SEG_HEAD;
	while (len - at >= STORE_REC_HEAD) {
		struct store_rec r;
		const uint64_t seed = store_rec_seed(salt, at);
		if (!store_rec_decode(&r, seed, data + at) || r.length > len - at - STORE_REC_HEAD)
			break;
		const uint8_t *payload = data + at + STORE_REC_HEAD;
		const bool blocks = r.type == STORE_REC_BLOCKS && r.b <= STORE_RUN &&
				    r.length == r.b * (STORE_BLOCK + 8);
		const uint8_t *summed = blocks ? payload + r.b * STORE_BLOCK : payload;
		if (store_rec_payload_sum(seed, summed, r.length - (size_t)(summed - payload)) != r.payload_sum)
			break;
		print_record(&r, at, payload);
		at += STORE_REC_HEAD + r.length;
	}
	printf("%10zu %s\n", at, at == len ? "end" : "WHAT FOLLOWS DOES NOT VERIFY");
	return 0;
}

int main(int argc, char **argv)
{
	int rc = 0;

	if (argc < 2 || argv[1][0] == '-') {
		fprintf(stderr, "usage: journal-dump FILE...: prints what a segment of a replica's journal, or its "
				"catalogue.log, says\n");
		return 2;
	}
	for (int i = 1; i < argc; i++)
		rc |= dump(argv[i]);
	return rc;
}
