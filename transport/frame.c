#include "transport/frame.h"

#include "base/cursor.h"

#include <stdio.h>

static const struct {
	const char *name;
	size_t max;
} types[] = {
	[FRAME_HELLO] = { "HELLO", FRAME_MAX_HELLO },
	[FRAME_MSG] = { "MSG", FRAME_MAX_MSG },
	[FRAME_PING] = { "PING", 0 },
	[FRAME_PONG] = { "PONG", 0 },
	[FRAME_BATCH] = { "BATCH", FRAME_MAX_BATCH },
	[FRAME_ACK] = { "ACK", FRAME_ACK_SIZE },
	[FRAME_STREAM] = { "STREAM", FRAME_MAX_STREAM },
	[FRAME_END] = { "END", FRAME_END_SIZE },
	[FRAME_END_ACK] = { "END_ACK", FRAME_END_SIZE },
};

#define TYPE_COUNT (sizeof(types) / sizeof(types[0]))

static bool known(uint16_t type)
{
	return type < TYPE_COUNT && types[type].name;
}

size_t frame_max_payload(uint16_t type)
{
	if (known(type))
		return types[type].max;
	return type & FRAME_MAY_IGNORE ? FRAME_MAX_IGNORED : 0;
}

const char *frame_type_name(uint16_t type, char *buf, size_t size)
{
	if (known(type))
		snprintf(buf, size, "%s", types[type].name);
	else
		snprintf(buf, size, "type %u", type);
	return buf;
}

static void put_be(uint8_t *p, uint64_t v, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--, v >>= 8)
		p[i] = (uint8_t)v;
}

void frame_encode_header(const struct frame_header *h, uint8_t out[FRAME_HEADER_SIZE])
{
	put_be(out, h->length, 4);
	put_be(out + 4, h->type, 2);
	put_be(out + 6, 0, 2);
	put_be(out + 8, h->seq, 8);
}

int frame_decode_header(const uint8_t in[FRAME_HEADER_SIZE], struct frame_header *h, struct err *e)
{
	struct cursor c = cursor_over(in, FRAME_HEADER_SIZE);
	const uint32_t length = cursor_be32(&c);
	const uint16_t type = cursor_be16(&c);
	const uint16_t reserved = cursor_be16(&c);
	const uint64_t seq = cursor_be64(&c);
	char name[16];

	if (reserved != 0)
		return err_set(e, ERR_PROTOCOL, "the reserved field of a frame header is 0x%04x, not zero", reserved);
	if (!known(type) && !(type & FRAME_MAY_IGNORE)) {
		err_set(e, ERR_PROTOCOL, "a frame of unknown type %u came that may not be ignored", type);
		return err_remedy(e, "Run the same version of vmferry on both hosts.");
	}
	if (length > frame_max_payload(type))
		return err_set(e, ERR_PROTOCOL, "a %s frame claims %u bytes of payload; %zu are allowed",
			       frame_type_name(type, name, sizeof(name)), length, frame_max_payload(type));
	h->length = length;
	h->type = type;
	h->seq = seq;
	return 0;
}

void frame_encode_end(const struct frame_end *end, uint8_t out[FRAME_END_SIZE])
{
	put_be(out, end->frames, 8);
	put_be(out + 8, end->bytes, 8);
	put_be(out + 16, end->hash, 8);
}

int frame_decode_end(const uint8_t *p, size_t len, struct frame_end *end, struct err *e)
{
	struct cursor c = cursor_over(p, len);
	const uint64_t frames = cursor_be64(&c);
	const uint64_t bytes = cursor_be64(&c);
	const uint64_t hash = cursor_be64(&c);

	if (!cursor_ok(&c) || len != FRAME_END_SIZE)
		return err_set(e, ERR_PROTOCOL, "an END frame has %zu bytes of payload, not %d", len, FRAME_END_SIZE);
	*end = (struct frame_end){ .frames = frames, .bytes = bytes, .hash = hash };
	return 0;
}
