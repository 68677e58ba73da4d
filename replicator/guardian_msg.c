#include "replicator/guardian_msg.h"

#include "base/cursor.h"
#include "base/fd.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define MAGIC 0x766d4731u /* "vmG1" */

static bool known(uint32_t kind)
{
	return (kind >= GUARDIAN_WATCH && kind <= GUARDIAN_HOLD) || (kind >= GUARDIAN_ACK && kind <= GUARDIAN_UNWATCHED);
}

int guardian_msg_decode(const void *packet, size_t len, struct guardian_msg *out)
{
	struct cursor c = cursor_over(packet, len);
	const uint32_t magic = cursor_be32(&c);
	const uint32_t kind = cursor_be32(&c);
	const uint8_t *uuid = cursor_bytes(&c, sizeof out->uuid);
	const uint64_t value = cursor_be64(&c);

	if (!cursor_ok(&c) || !uuid || cursor_left(&c) != 0 || magic != MAGIC || !known(kind))
		return -1;
	if (kind == GUARDIAN_WATCH && value != 0)
		return -1;
	if (kind == GUARDIAN_UNWATCH && (value & ~GUARDIAN_UNWATCH_ANSWER))
		return -1;
	out->kind = (enum guardian_kind)kind;
	memcpy(out->uuid, uuid, sizeof out->uuid);
	out->value = value;
	return 0;
}

static void put_be(uint8_t *p, size_t n, uint64_t v)
{
	while (n > 0) {
		p[--n] = (uint8_t)v;
		v >>= 8;
	}
}

static int send_packet(int fd, enum guardian_kind kind, const uint8_t uuid[16], uint64_t value, int held)
{
	uint8_t packet[GUARDIAN_MSG_LEN] = { 0 };
	struct iovec iov = { .iov_base = packet, .iov_len = sizeof packet };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { .room = { 0 } };

	put_be(packet, 4, MAGIC);
	put_be(packet + 4, 4, (uint64_t)kind);
	if (uuid)
		memcpy(packet + 8, uuid, 16);
	put_be(packet + 24, 8, value);
	if (held >= 0) {
		m.msg_control = control.room;
		m.msg_controllen = sizeof control.room;
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof held);
		memcpy(CMSG_DATA(c), &held, sizeof held);
	}
	for (;;) {
		const ssize_t n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			assert(n == (ssize_t)sizeof packet); /* a packet goes whole */
			return 0;
		}
		if (errno != EINTR)
			return -1;
	}
}

int guardian_msg_send(int fd, enum guardian_kind kind, const uint8_t uuid[16], uint64_t value)
{
	return send_packet(fd, kind, uuid, value, -1);
}

int guardian_msg_send_hold(int fd, const uint8_t uuid[16], int held, bool read_on)
{
	assert(held >= 0);
	return send_packet(fd, GUARDIAN_HOLD, uuid, read_on ? GUARDIAN_HOLD_READ_ON : 0, held);
}

/* The first descriptor that came; the others are closed. */
static int take_descriptor(struct msghdr *m)
{
	int held = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int)) {
			int one;
			memcpy(&one, CMSG_DATA(c) + at, sizeof one);
			if (held < 0)
				held = one;
			else
				fd_close(&one);
		}
	}
	return held;
}

int guardian_msg_recv(int fd, struct guardian_msg *out, int *held)
{
	uint8_t packet[GUARDIAN_MSG_LEN + 1]; /* one more, so that a longer packet is seen to be longer */
	union {
		char room[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control;

	*held = -1;
	for (;;) {
		struct iovec iov = { .iov_base = packet, .iov_len = sizeof packet };
		struct msghdr m = { .msg_iov = &iov,
				    .msg_iovlen = 1,
				    .msg_control = control.room,
				    .msg_controllen = sizeof control.room };
		const ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		/* ECONNRESET: the other side is gone and had not read all of ours. What it had said before is still there. */
		if (n < 0 && (errno == EINTR || errno == ECONNRESET))
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		int came = take_descriptor(&m);
		if (n == 0) {
			fd_close(&came);
			return -1; /* an empty packet looks the same; neither side sends one */
		}
		if (guardian_msg_decode(packet, (size_t)n, out) != 0 || (out->kind == GUARDIAN_HOLD) != (came >= 0)) {
			fd_close(&came);
			return -2;
		}
		*held = came;
		return 1;
	}
}
