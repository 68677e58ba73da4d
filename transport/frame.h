/*
 * frame.h - the 16-byte frame header of PROTOCOL.md section "Frames". All integers big-endian.
 *
 *	0  u32 length of the payload, at most frame_max_payload(type)
 *	4  u16 type; bit 15 set: a receiver that does not know the type skips the frame; clear: it ends the session
 *	6  u16 zero
 *	8  u64 sequence number on this link and direction, from 0, no gaps
 */
#ifndef VMFERRY_TRANSPORT_FRAME_H
#define VMFERRY_TRANSPORT_FRAME_H

#include "base/err.h"
#include "transport/codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER_SIZE 16
#define FRAME_MAY_IGNORE 0x8000u

enum frame_type {
	FRAME_HELLO = 1,  /* first frame of a link, both ways: JSON */
	FRAME_MSG = 2,    /* JSON, rpc.h */
	FRAME_PING = 3,   /* empty */
	FRAME_PONG = 4,   /* empty */
	FRAME_BATCH = 5,  /* u32 stream, u64 number, then a batch of codec.h */
	FRAME_ACK = 6,    /* u32 stream, u64 number: every batch below it was delivered */
	FRAME_STREAM = 7, /* stream control: open, opened, failed, end, reset (flow.h) */
	FRAME_END = 8, /* u64 frames, u64 payload bytes, u64 XXH3-64 of all frames before, headers too */
	FRAME_END_ACK = 9, /* the same three, as received */
};

struct frame_header {
	uint32_t length;
	uint16_t type;
	uint64_t seq;
};

#define FRAME_MAX_HELLO ((size_t)64 * 1024)
#define FRAME_MAX_MSG ((size_t)4 * 1024 * 1024) /* a domain's XML fits */
#define FRAME_BATCH_HEAD 12                     /* stream and number */
#define FRAME_MAX_BATCH ((size_t)CODEC_MAX_ENCODED + 64)
#define FRAME_ACK_SIZE 12
#define FRAME_MAX_STREAM ((size_t)1024)
#define FRAME_END_SIZE 24
#define FRAME_MAX_IGNORED ((size_t)64 * 1024) /* of a type that is skipped */

/* The largest payload of a type; 0 for types that may not be ignored and are not known. */
size_t frame_max_payload(uint16_t type);
/* "HELLO", or "type 12"; returns buf, which has to hold 16 bytes. */
const char *frame_type_name(uint16_t type, char *buf, size_t size);
void frame_encode_header(const struct frame_header *h, uint8_t out[FRAME_HEADER_SIZE]);
/* Checks limits, the reserved field, and that the type is known or may be ignored. ERR_PROTOCOL. */
int frame_decode_header(const uint8_t in[FRAME_HEADER_SIZE], struct frame_header *h, struct err *e);

struct frame_end {
	uint64_t frames;
	uint64_t bytes;
	uint64_t hash;
};
void frame_encode_end(const struct frame_end *end, uint8_t out[FRAME_END_SIZE]);
int frame_decode_end(const uint8_t *p, size_t len, struct frame_end *end, struct err *e);

#endif
