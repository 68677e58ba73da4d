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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER_SIZE 16
#define FRAME_MAY_IGNORE 0x8000u

enum frame_type {
	FRAME_HELLO = 1,     /* first frame of a link, both ways: JSON */
	FRAME_MSG = 2,       /* JSON, rpc.h */
	FRAME_PING = 3,      /* empty */
	FRAME_PONG = 4,      /* empty */
	FRAME_BATCH = 5,     /* u32 stream, u64 number, then a batch of codec.h */
	FRAME_ACK = 6,       /* u32 stream, u64 number: every batch below it was delivered */
	FRAME_STREAM = 7,    /* stream control: open, opened, failed, end, reset (flow.h) */
	FRAME_END = 8,       /* u64 frames, u64 payload bytes, u64 XXH3 of payloads: nothing follows */
	FRAME_END_ACK = 9,   /* same contents, as received */
};

struct frame_header {
	uint32_t length;
	uint16_t type;
	uint64_t seq;
};

/* 0 for types that are not known. */
size_t frame_max_payload(uint16_t type);
void frame_encode_header(const struct frame_header *h, uint8_t out[FRAME_HEADER_SIZE]);
/* Checks limits, the reserved field, and that the type is known or may be ignored. */
int frame_decode_header(const uint8_t in[FRAME_HEADER_SIZE], struct frame_header *h, struct err *e);

#endif
