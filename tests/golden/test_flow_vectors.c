/* PROTOCOL.md, section "Streams and flow": its examples are what flow_tx sends, and flow_rx takes them in. */
#include "hexdoc.h"

#include "tests/unit/transport_fixture.h"

#include "transport/flow.h"

#include <signal.h>

#define DOCUMENT TESTS_DIR "/../transport/PROTOCOL.md"

static char *doc;

static void setup(void)
{
	doc = hexdoc_load(DOCUMENT);
}

static void teardown(void)
{
	free(doc);
}

static const struct {
	const char *block;
	struct flow_stream_msg m;
} messages[] = {
	{ "stream-open", { .op = FLOW_OPEN, .stream = 2, .a = 3 } },
	{ "stream-opened", { .op = FLOW_OPENED, .stream = 2 } },
	{ "stream-failed", { .op = FLOW_FAILED, .stream = 2, .text = "Connection refused" } },
	{ "stream-end", { .op = FLOW_END, .stream = 2, .number = 42 } },
	{ "stream-reset", { .op = FLOW_RESET, .stream = 2, .number = 42, .text = "Broken pipe" } },
};

/* The frame in the document, its payload checked for length. */
static void frame_of(const char *name, uint16_t type, struct buf *b)
{
	struct frame_header h;
	struct err e = ERR_INIT;

	hexdoc_block(doc, name, b);
	ck_assert_uint_ge(b->len, FRAME_HEADER_SIZE);
	OK(frame_decode_header(b->data, &h, &e), e);
	ck_assert_uint_eq(h.type, type);
	ck_assert_uint_eq(h.length, b->len - FRAME_HEADER_SIZE);
}

START_TEST(stream_messages)
{
	BUF_AUTO struct buf b = BUF_INIT;
	uint8_t out[FLOW_MSG_MAX];
	struct flow_stream_msg m;
	struct err e = ERR_INIT;

	frame_of(messages[_i].block, FRAME_STREAM, &b);
	const size_t n = flow_msg_encode(&messages[_i].m, out);
	ck_assert_uint_eq(n, b.len - FRAME_HEADER_SIZE);
	ck_assert_mem_eq(out, b.data + FRAME_HEADER_SIZE, n);
	OK(flow_msg_decode(out, n, &m, &e), e);
	ck_assert_mem_eq(&m, &messages[_i].m, sizeof(m));
}
END_TEST

START_TEST(stream_messages_cut_or_flipped)
{
	BUF_AUTO struct buf b = BUF_INIT;
	uint8_t again[FLOW_MSG_MAX];
	struct flow_stream_msg m;
	struct err e = ERR_INIT;

	frame_of(messages[_i].block, FRAME_STREAM, &b);
	const uint8_t *p = b.data + FRAME_HEADER_SIZE;
	const size_t n = b.len - FRAME_HEADER_SIZE;
	/* The text may end anywhere; what comes before it may not. */
	for (size_t len = 0; len < FLOW_MSG_HEAD; len++)
		ck_assert_int_eq(flow_msg_decode(p, len, &m, &e), -1);
	/* A flipped bit is refused, or says something else: nothing is ignored. */
	for (size_t bit = 0; bit < 8 * n; bit++) {
		BUF_AUTO struct buf c = BUF_INIT;
		buf_append(&c, p, n);
		c.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (flow_msg_decode(c.data, n, &m, &e) < 0)
			continue;
		ck_assert_uint_eq(flow_msg_encode(&m, again), n);
		ck_assert_int_ne(memcmp(again, p, n), 0);
	}
}
END_TEST

START_TEST(heads)
{
	BUF_AUTO struct buf ack = BUF_INIT;
	BUF_AUTO struct buf batch = BUF_INIT;
	uint8_t out[FLOW_BATCH_HEAD];
	uint32_t stream;
	uint64_t number;
	struct err e = ERR_INIT;

	frame_of("ack", FRAME_ACK, &ack);
	ck_assert_uint_eq(ack.len, FRAME_HEADER_SIZE + FLOW_BATCH_HEAD);
	flow_head_encode(2, 42, out);
	ck_assert_mem_eq(out, ack.data + FRAME_HEADER_SIZE, sizeof(out));
	OK(flow_head_decode(out, sizeof(out), &stream, &number, &e), e);
	ck_assert_uint_eq(stream, 2);
	ck_assert_uint_eq(number, 42);
	frame_of("batch-head", FRAME_BATCH, &batch);
	flow_head_encode(1, 41, out);
	ck_assert_mem_eq(out, batch.data + FRAME_HEADER_SIZE, sizeof(out));
	for (size_t len = 0; len < sizeof(out); len++)
		ck_assert_int_eq(flow_head_decode(out, len, &stream, &number, &e), -1);
	memset(out, 0, 4);
	ck_assert_int_eq(flow_head_decode(out, sizeof(out), &stream, &number, &e), -1);
	HAS(e.text, "stream 0");
}
END_TEST

/* The constants that the text names. */
START_TEST(limits)
{
	ck_assert_uint_eq(FLOW_MAX_RAW, 32u << 20);
	ck_assert_uint_eq(FLOW_MAX_BATCHES, 1024);
	ck_assert_uint_eq(FLOW_MAX_STREAMS, 1024);
	HAS(doc, "at most 32 MiB are unacknowledged");
	HAS(doc, "at most 1024 batches of a stream");
	HAS(doc, "1 to 1024, never used twice");
	ck_assert_uint_le(FLOW_MSG_MAX, frame_max_payload(FRAME_STREAM));
	ck_assert_uint_ge(frame_max_payload(FRAME_BATCH), FLOW_BATCH_HEAD + CODEC_MAX_ENCODED);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("flow vectors");
	TCase *t = tcase_create("flow");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, stream_messages, 0, (int)(sizeof(messages) / sizeof(messages[0])));
	tcase_add_loop_test(t, stream_messages_cut_or_flipped, 0, (int)(sizeof(messages) / sizeof(messages[0])));
	tcase_add_test(t, heads);
	tcase_add_test(t, limits);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
