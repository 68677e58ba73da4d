/* What STREAM, ACK and BATCH frames begin with: PROTOCOL.md section "Streams and flow". */
#include "transport/flow.h"

#include "base/cursor.h"

#include <string.h>

static void put_be(uint8_t *p, uint64_t v, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--, v >>= 8)
		p[i] = (uint8_t)v;
}

size_t flow_msg_encode(const struct flow_stream_msg *m, uint8_t *out)
{
	const size_t text = strnlen(m->text, sizeof(m->text) - 1);

	put_be(out, (uint64_t)m->op << 24, 4);
	put_be(out + 4, m->stream, 4);
	put_be(out + 8, m->a, 4);
	put_be(out + 12, m->number, 8);
	memcpy(out + FLOW_MSG_HEAD, m->text, text);
	return FLOW_MSG_HEAD + text;
}

int flow_msg_decode(const uint8_t *p, size_t n, struct flow_stream_msg *m, struct err *e)
{
	struct cursor c = cursor_over(p, n);
	struct flow_stream_msg got = { 0 };
	const uint32_t op = cursor_be32(&c);

	got.stream = cursor_be32(&c);
	got.a = cursor_be32(&c);
	got.number = cursor_be64(&c);
	if (!cursor_ok(&c))
		return err_set(e, ERR_PROTOCOL, "a STREAM frame has %zu bytes of payload; at least %d belong there", n,
			       FLOW_MSG_HEAD);
	got.op = (uint8_t)(op >> 24);
	if ((op & 0xffffff) != 0 || got.op < FLOW_OPEN || got.op > FLOW_RESET)
		return err_set(e, ERR_PROTOCOL, "a STREAM frame with unknown operation 0x%08x", op);
	if (got.stream == 0)
		return err_set(e, ERR_PROTOCOL, "a STREAM frame for stream 0");
	const size_t text = cursor_left(&c);
	if (text >= sizeof(got.text))
		return err_set(e, ERR_PROTOCOL, "a STREAM frame with %zu bytes of text", text);
	for (size_t i = 0; i < text; i++) {
		const uint8_t byte = p[FLOW_MSG_HEAD + i];
		got.text[i] = byte < 0x20 || byte == 0x7f ? '?' : (char)byte;
	}
	*m = got;
	return 0;
}

void flow_head_encode(uint32_t stream, uint64_t number, uint8_t out[FLOW_BATCH_HEAD])
{
	put_be(out, stream, 4);
	put_be(out + 4, number, 8);
}

int flow_head_decode(const uint8_t *p, size_t n, uint32_t *stream, uint64_t *number, struct err *e)
{
	struct cursor c = cursor_over(p, n);
	const uint32_t s = cursor_be32(&c);
	const uint64_t num = cursor_be64(&c);

	if (!cursor_ok(&c))
		return err_set(e, ERR_PROTOCOL, "a frame of a stream has %zu bytes of payload; at least %d belong there",
			       n, FLOW_BATCH_HEAD);
	if (s == 0)
		return err_set(e, ERR_PROTOCOL, "a frame for stream 0");
	*stream = s;
	*number = num;
	return 0;
}
