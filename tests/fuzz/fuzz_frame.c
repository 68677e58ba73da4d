/* What a peer, or someone who pretends to be one, can send over a link.
 *
 * The first byte says how the rest is taken: 0 bytes of a link from its first; 1 bytes after a good HELLO; 2 frames
 * after it, headers made here (u8 type, u16 length, payload), so that what lies behind the header is reached; 3 the
 * same to a connection that serves calls. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "transport/frame.h"
#include "transport/link.h"
#include "transport/peer_err.h"
#include "transport/rpc.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_INPUT 32768
#define HELLO "{\"version\":[1,1],\"agent\":\"0.1.0\"}"

static void put_frame(struct buf *b, uint16_t type, uint64_t seq, const void *payload, size_t len)
{
	uint8_t head[FRAME_HEADER_SIZE];
	const struct frame_header h = { .length = (uint32_t)len, .type = type, .seq = seq };

	frame_encode_header(&h, head);
	buf_append(b, head, sizeof(head));
	buf_append(b, payload, len);
}

static void put_frames(struct buf *b, const uint8_t *p, size_t left)
{
	uint64_t seq = 1;

	while (left >= 3) {
		const uint16_t type = (uint16_t)((p[0] & 0x7f) | (p[0] & 0x80) << 8);
		size_t len = (size_t)p[1] << 8 | p[2];
		p += 3;
		left -= 3;
		len = len < left ? len : left;
		put_frame(b, type, seq++, p, len);
		p += len;
		left -= len;
	}
}

static int64_t soon(void)
{
	return clock_mono_ns() + 10 * NS_PER_S;
}

static int h_echo(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx;
	rpc_note(c, json_pack("{s:b}", "cancelled", rpc_cancelled(c)));
	if (json_object_get(args, "fail"))
		return peer_err_from_json(json_object_get(args, "fail"), e);
	*result = json_deep_copy(args);
	return 0;
}

static unsigned roles_of(void *ctx, const char *peer)
{
	(void)ctx, (void)peer;
	return 1;
}

static const struct rpc_method methods[] = { { "echo", h_echo, 0 }, { "in", h_echo, 1 }, { "order", h_echo, 4 }, { 0 } };
static const struct rpc_service service = { .methods = methods, .roles_of = roles_of };

static void serve(struct link *l)
{
	struct err e = ERR_INIT;
	struct rpc *r = rpc_start(l, &service, &e);

	if (!r)
		abort();
	/* The input ends with the sending side shut, so the thread comes to an end by itself. */
	for (int i = 0; rpc_alive(r) && i < 10000; i++) {
		json_t *got = NULL;
		struct err why = ERR_INIT;
		if (rpc_call(r, "anything", NULL, clock_mono_ns() + NS_PER_MS, NULL, NULL, NULL, &got, &why) == 0)
			json_decref(got);
	}
	rpc_unref(r);
}

static void receive(struct link *l)
{
	struct link_frame f;
	struct err e = ERR_INIT;
	int rc;

	while ((rc = link_recv(l, &f, soon(), &e)) == 1)
		if (f.len > frame_max_payload(f.type) || (f.type & FRAME_MAY_IGNORE))
			abort();
	/* A reason exactly when there was an error, and none of waiting: everything is there already. */
	if ((rc < 0) != err_is_set(&e) || e.errnum == ETIMEDOUT)
		abort();
	link_free(l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct err e = ERR_INIT;
	int fd[2];

	if (size < 1 || size > MAX_INPUT)
		return 0;
	const unsigned mode = data[0] & 3;
	if (mode > 0)
		put_frame(&b, FRAME_HELLO, 0, HELLO, strlen(HELLO));
	if (mode < 2)
		buf_append(&b, data + 1, size - 1);
	else
		put_frames(&b, data + 1, size - 1);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0)
		abort();
	/* More than the kernel takes at once is cut, like any input may be. */
	if (send(fd[0], b.data, b.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && b.len > 0)
		abort();
	shutdown(fd[0], SHUT_WR);
	struct link *l = link_accept_local(fd[1], soon(), &e);
	if ((l == NULL) != err_is_set(&e))
		abort();
	if (l && mode == 3)
		serve(l);
	else if (l)
		receive(l);
	fd_close(&fd[0]);
	return 0;
}
