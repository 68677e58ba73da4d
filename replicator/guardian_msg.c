#include "replicator/guardian_msg.h"

#include "base/cursor.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define MAGIC 0x766d4731u /* "vmG1" */

static bool known(uint32_t kind)
{
	return (kind >= GUARDIAN_WATCH && kind <= GUARDIAN_BEAT) || (kind >= GUARDIAN_ACK && kind <= GUARDIAN_FREED);
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
	if (kind == GUARDIAN_WATCH && (value & ~GUARDIAN_WATCH_SUSPENDS))
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

int guardian_msg_send(int fd, enum guardian_kind kind, const uint8_t uuid[16], uint64_t value)
{
	uint8_t packet[GUARDIAN_MSG_LEN] = { 0 };

	put_be(packet, 4, MAGIC);
	put_be(packet + 4, 4, (uint64_t)kind);
	if (uuid)
		memcpy(packet + 8, uuid, 16);
	put_be(packet + 24, 8, value);
	for (;;) {
		const ssize_t n = send(fd, packet, sizeof packet, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			assert(n == (ssize_t)sizeof packet); /* a packet goes whole */
			return 0;
		}
		if (errno != EINTR)
			return -1;
	}
}

int guardian_msg_recv(int fd, struct guardian_msg *out)
{
	uint8_t packet[GUARDIAN_MSG_LEN + 1]; /* one more, so that a longer packet is seen to be longer */

	for (;;) {
		const ssize_t n = recv(fd, packet, sizeof packet, MSG_DONTWAIT);
		/* ECONNRESET: the other side is gone and had not read all of ours. What it had said before is still there. */
		if (n < 0 && (errno == EINTR || errno == ECONNRESET))
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		if (n == 0)
			return -1; /* an empty packet looks the same; neither side sends one */
		return guardian_msg_decode(packet, (size_t)n, out) == 0 ? 1 : -2;
	}
}
