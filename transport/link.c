#include "transport/link.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "transport/peer_err.h"
#include "transport/sock.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define SMALL_FRAME 4096 /* below this a copy is cheaper than another record or system call */
#define MAX_IOV 8
#define REFUSAL_WAIT_NS NS_PER_S
#define END_ACK_WAIT_NS (2 * NS_PER_S)
#define PAYLOAD_STEP ((size_t)64 * 1024)

/* What END counts, per direction. */
struct tally {
	uint64_t seq;
	uint64_t bytes;
	XXH3_state_t *hash;
};

struct link {
	/* fixed after the start */
	struct tls *tls; /* one of these two */
	struct sock *sock;
	char label[360]; /* "host2 (10.77.0.12:7350)", in front of errors */
	json_t *hello;
	/* the thread that uses it */
	struct tally tx, rx;
	uint8_t head[FRAME_HEADER_SIZE];
	size_t head_got;
	struct frame_header h; /* valid when head_got == FRAME_HEADER_SIZE */
	uint8_t *payload;
	size_t payload_cap, payload_got;
	bool ended;  /* END has come and was acknowledged */
	bool broken; /* an error that is not a deadline */
};

/* ---- bytes ---- */

static ssize_t take(struct link *l, void *buf, size_t len, int64_t deadline_ns, struct err *e)
{
	if (l->tls)
		return tls_read(l->tls, buf, len, deadline_ns, e);
	return sock_recv(l->sock, buf, len, deadline_ns, e);
}

static int put(struct link *l, const struct iovec *iov, size_t n, size_t total, int64_t deadline_ns, struct err *e)
{
	uint8_t small[SMALL_FRAME];
	size_t len = 0;

	if (l->tls)
		return tls_writev(l->tls, iov, n, deadline_ns, e);
	if (total > sizeof(small)) {
		for (size_t i = 0; i < n; i++)
			if (sock_send(l->sock, iov[i].iov_base, iov[i].iov_len, deadline_ns, e) < 0)
				return -1;
		return 0;
	}
	for (size_t i = 0; i < n; i++) {
		if (iov[i].iov_len > 0)
			memcpy(small + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	return sock_send(l->sock, small, len, deadline_ns, e);
}

static bool is_timeout(const struct err *e)
{
	return e->cls == ERR_PEER && e->errnum == ETIMEDOUT;
}

static int fail(struct link *l, struct err *e)
{
	l->broken = true;
	return err_wrap(e, "%s", l->label);
}

static int not_usable(struct link *l, struct err *e)
{
	return err_set(e, ERR_PEER, "%s: the link has %s", l->label, l->ended ? "ended" : "failed before");
}

/* ---- one frame in ---- */

/* A frame's header begins it; its payload may come in pieces. END and END_ACK are not counted: they carry the count. What is in a BATCH has a
 * hash of its own, and is too much to be read once more. */
static void count_head(struct tally *t, const uint8_t head[FRAME_HEADER_SIZE])
{
	XXH3_64bits_update(t->hash, head, FRAME_HEADER_SIZE);
}

static void count_payload(struct tally *t, uint16_t type, const void *p, size_t n)
{
	t->bytes += n;
	if (type != FRAME_BATCH)
		XXH3_64bits_update(t->hash, p, n);
}

static bool counted(uint16_t type)
{
	return type != FRAME_END && type != FRAME_END_ACK;
}

static int check_seq(const struct link *l, struct err *e)
{
	if (l->h.seq == l->rx.seq)
		return 0;
	return err_set(e, ERR_PROTOCOL, "frame number %llu came where %llu was expected: %s",
		       (unsigned long long)l->h.seq, (unsigned long long)l->rx.seq,
		       l->h.seq < l->rx.seq ? "a frame was replayed" : "frames are missing");
}

static int room_for_payload(struct link *l, struct err *e)
{
	const size_t need = (l->h.length + PAYLOAD_STEP - 1) / PAYLOAD_STEP * PAYLOAD_STEP;

	if (need <= l->payload_cap)
		return 0;
	free(l->payload);
	l->payload_cap = 0;
	l->payload = mem_try(need, 1, "a frame", e);
	if (!l->payload)
		return -1;
	l->payload_cap = need;
	return 0;
}

static int take_head(struct link *l, int64_t deadline_ns, struct err *e)
{
	while (l->head_got < FRAME_HEADER_SIZE) {
		const ssize_t n = take(l, l->head + l->head_got, FRAME_HEADER_SIZE - l->head_got, deadline_ns, e);
		if (n < 0)
			return -1;
		if (n == 0) {
			err_set(e, ERR_PEER,
				l->head_got ? "the peer closed the connection in the middle of a frame"
					    : "the peer closed the connection without END");
			e->errnum = ECONNRESET;
			return -1;
		}
		l->head_got += (size_t)n;
		if (l->head_got < FRAME_HEADER_SIZE)
			continue;
		if (frame_decode_header(l->head, &l->h, e) < 0 || check_seq(l, e) < 0 || room_for_payload(l, e) < 0)
			return -1;
		l->payload_got = 0;
		if (counted(l->h.type))
			count_head(&l->rx, l->head);
	}
	return 0;
}

/* Continues where an earlier call met its deadline. */
static int take_frame(struct link *l, int64_t deadline_ns, struct err *e)
{
	if (take_head(l, deadline_ns, e) < 0)
		return -1;
	while (l->payload_got < l->h.length) {
		uint8_t *at = l->payload + l->payload_got;
		const ssize_t n = take(l, at, l->h.length - l->payload_got, deadline_ns, e);
		if (n < 0)
			return -1;
		if (n == 0) {
			err_set(e, ERR_PEER, "the peer closed the connection in the middle of a frame");
			e->errnum = ECONNRESET;
			return -1;
		}
		if (counted(l->h.type))
			count_payload(&l->rx, l->h.type, at, (size_t)n);
		l->payload_got += (size_t)n;
	}
	l->head_got = 0;
	l->rx.seq++;
	return 0;
}

/* ---- one frame out ---- */

static int send_frame(struct link *l, uint16_t type, const struct iovec *iov, size_t n, int64_t deadline_ns,
		      struct err *e)
{
	uint8_t head[FRAME_HEADER_SIZE];
	struct iovec all[MAX_IOV + 1];
	size_t len = 0;

	assert(n <= MAX_IOV);
	for (size_t i = 0; i < n; i++) {
		all[i + 1] = iov[i];
		len += iov[i].iov_len;
	}
	assert(len <= frame_max_payload(type));
	const struct frame_header h = { .length = (uint32_t)len, .type = type, .seq = l->tx.seq };
	frame_encode_header(&h, head);
	all[0] = (struct iovec){ .iov_base = head, .iov_len = sizeof(head) };
	if (put(l, all, n + 1, sizeof(head) + len, deadline_ns, e) < 0)
		return -1;
	l->tx.seq++;
	if (!counted(type))
		return 0;
	count_head(&l->tx, head);
	for (size_t i = 0; i < n; i++)
		count_payload(&l->tx, type, iov[i].iov_base, iov[i].iov_len);
	return 0;
}

int link_send(struct link *l, uint16_t type, const struct iovec *iov, size_t n, int64_t deadline_ns, struct err *e)
{
	if (l->broken || l->ended)
		return not_usable(l, e);
	return send_frame(l, type, iov, n, deadline_ns, e) < 0 ? fail(l, e) : 0;
}

static struct frame_end tally_end(const struct tally *t)
{
	return (struct frame_end){ .frames = t->seq, .bytes = t->bytes, .hash = XXH3_64bits_digest(t->hash) };
}

static int send_end(struct link *l, uint16_t type, const struct frame_end *end, int64_t deadline_ns, struct err *e)
{
	uint8_t bytes[FRAME_END_SIZE];
	const struct iovec iov = { .iov_base = bytes, .iov_len = sizeof(bytes) };

	frame_encode_end(end, bytes);
	return send_frame(l, type, &iov, 1, deadline_ns, e);
}

/* END or END_ACK is in the payload: it has to say what we counted ourselves. */
static int check_end(const struct link *l, const struct frame_end *ours, struct err *e)
{
	struct frame_end theirs;

	if (frame_decode_end(l->payload, l->h.length, &theirs, e) < 0)
		return -1;
	if (theirs.frames == ours->frames && theirs.bytes == ours->bytes && theirs.hash == ours->hash)
		return 0;
	return err_set(
		e, ERR_CORRUPT,
		"the ends do not agree on what was sent: the peer counts %llu frames and %llu bytes, we count %llu "
		"and %llu, contents %s",
		(unsigned long long)theirs.frames, (unsigned long long)theirs.bytes, (unsigned long long)ours->frames,
		(unsigned long long)ours->bytes, theirs.hash == ours->hash ? "agree" : "differ");
}

static int answer_end(struct link *l, int64_t deadline_ns, struct err *e)
{
	struct frame_end seen = tally_end(&l->rx);

	seen.frames--; /* END itself, which check_seq has let in */
	if (check_end(l, &seen, e) < 0)
		return -1;
	return send_end(l, FRAME_END_ACK, &seen, deadline_ns, e);
}

/* ---- receiving ---- */

static int recv_frame(struct link *l, struct link_frame *f, int64_t deadline_ns, struct err *e)
{
	char name[16];

	for (;;) {
		if (take_frame(l, deadline_ns, e) < 0)
			return -1;
		switch ((enum frame_type)l->h.type) {
		case FRAME_MSG:
		case FRAME_PING:
		case FRAME_PONG:
		case FRAME_BATCH:
		case FRAME_ACK:
		case FRAME_STREAM:
			*f = (struct link_frame){ .type = l->h.type, .len = l->h.length, .payload = l->payload };
			return 1;
		case FRAME_END:
			/* The caller's deadline is for what comes; the answer may take a moment. */
			if (answer_end(l, clock_mono_ns() + END_ACK_WAIT_NS, e) < 0)
				return -1;
			l->ended = true;
			return 0;
		case FRAME_HELLO:
		case FRAME_END_ACK:
			return err_set(e, ERR_PROTOCOL, "%s frame where none belongs",
				       frame_type_name(l->h.type, name, sizeof(name)));
		default: /* may be ignored */
			break;
		}
	}
}

int link_recv(struct link *l, struct link_frame *f, int64_t deadline_ns, struct err *e)
{
	if (l->broken || l->ended)
		return not_usable(l, e);
	const int rc = recv_frame(l, f, deadline_ns, e);
	if (rc < 0 && is_timeout(e))
		return -1;
	return rc < 0 ? fail(l, e) : rc;
}

void link_take_payload(struct link *l, struct buf *b)
{
	const struct buf was = *b;

	assert(l->head_got == 0);
	*b = (struct buf){ .data = l->payload, .len = l->payload_got, .cap = l->payload_cap };
	l->payload = was.data;
	l->payload_cap = was.cap;
	l->payload_got = 0;
}

/* Everything that is still on its way to us is dropped, but still has to be right. */
static int await_end_ack(struct link *l, const struct frame_end *sent, int64_t deadline_ns, struct err *e)
{
	for (;;) {
		if (clock_mono_ns() >= deadline_ns) {
			err_set(e, ERR_PEER, "the end was not acknowledged in time");
			return -1;
		}
		if (take_frame(l, deadline_ns, e) < 0)
			return -1;
		if (l->h.type == FRAME_END_ACK)
			return check_end(l, sent, e);
		if (l->h.type == FRAME_END && answer_end(l, deadline_ns, e) < 0)
			return -1;
	}
}

int link_finish(struct link *l, int64_t deadline_ns, struct err *e)
{
	if (l->broken || l->ended)
		return not_usable(l, e);
	const struct frame_end end = tally_end(&l->tx);
	if (send_end(l, FRAME_END, &end, deadline_ns, e) < 0 || await_end_ack(l, &end, deadline_ns, e) < 0)
		return fail(l, e);
	l->ended = true;
	return 0;
}

/* ---- the rest of a link's life ---- */

static struct link *link_make(struct tls *tls, struct sock *sock)
{
	struct link *l = mem_alloc(sizeof(*l));

	l->tls = tls;
	l->sock = sock;
	l->tx.hash = XXH3_createState();
	l->rx.hash = XXH3_createState();
	assert(l->tx.hash && l->rx.hash);
	XXH3_64bits_reset(l->tx.hash);
	XXH3_64bits_reset(l->rx.hash);
	if (tls)
		snprintf(l->label, sizeof(l->label), "%s (%s)", tls_peer_name(tls), tls_peer_addr(tls));
	else
		snprintf(l->label, sizeof(l->label), "local connection");
	return l;
}

void link_free(struct link *l)
{
	if (!l)
		return;
	/* Only an orderly end gets a close_notify; for anything else the peer is to see a cut. */
	if (l->ended && l->tls)
		tls_close_notify(l->tls);
	tls_free(l->tls);
	sock_free(l->sock);
	XXH3_freeState(l->tx.hash);
	XXH3_freeState(l->rx.hash);
	json_decref(l->hello);
	free(l->payload);
	free(l);
}

const char *link_peer_name(const struct link *l)
{
	return l->tls ? tls_peer_name(l->tls) : "local";
}

const char *link_own_name(const struct link *l)
{
	return l->tls ? tls_own_name(l->tls) : "local";
}

const char *link_peer_addr(const struct link *l)
{
	return l->tls ? tls_peer_addr(l->tls) : sock_addr(l->sock);
}

const json_t *link_hello(const struct link *l)
{
	return l->hello;
}

int link_fd(const struct link *l)
{
	return l->tls ? tls_fd(l->tls) : sock_fd(l->sock);
}

bool link_has_buffered(const struct link *l)
{
	return l->tls ? tls_has_buffered(l->tls) : sock_has_held(l->sock);
}

void link_wire_bytes(const struct link *l, uint64_t *sent, uint64_t *received)
{
	if (l->tls)
		tls_wire_bytes(l->tls, sent, received);
	else
		sock_bytes(l->sock, sent, received);
}

void link_shutdown(struct link *l)
{
	if (l->tls)
		tls_shutdown(l->tls);
	else
		sock_shutdown(l->sock);
}

/* ---- HELLO ---- */

static int send_hello(struct link *l, json_t *hello, int64_t deadline_ns, struct err *e)
{
	json_object_set_new(hello, "version", json_pack("[i,i]", LINK_PROTOCOL_VERSION, LINK_PROTOCOL_VERSION));
	json_object_set_new(hello, "agent", json_string(VMFERRY_VERSION));
	char *text = json_dumps(hello, JSON_COMPACT);
	if (!text)
		return err_set(e, ERR_PROTOCOL, "HELLO cannot be written as JSON");
	const size_t len = strlen(text);
	int rc;
	if (len > FRAME_MAX_HELLO) {
		rc = err_set(e, ERR_PROTOCOL, "HELLO would have %zu bytes; %zu are allowed", len, FRAME_MAX_HELLO);
	} else {
		const struct iovec iov = { .iov_base = text, .iov_len = len };
		rc = send_frame(l, FRAME_HELLO, &iov, 1, deadline_ns, e);
	}
	free(text);
	return rc;
}

static int check_version(const json_t *hello, struct err *e)
{
	const json_t *range = json_object_get(hello, "version");
	const json_t *min = json_array_get(range, 0);
	const json_t *max = json_array_get(range, 1);
	const char *agent = json_string_value(json_object_get(hello, "agent"));
	char shown[64];

	if (!json_is_integer(min) || !json_is_integer(max) || json_integer_value(min) > json_integer_value(max))
		return err_set(e, ERR_PROTOCOL, "HELLO does not say which protocol versions the peer speaks");
	if (json_integer_value(min) <= LINK_PROTOCOL_VERSION && json_integer_value(max) >= LINK_PROTOCOL_VERSION)
		return 0;
	err_set(e, ERR_PROTOCOL,
		"no protocol version in common: the peer speaks %lld to %lld (vmferry %s), this side %d to %d (vmferry "
		"%s)",
		(long long)json_integer_value(min), (long long)json_integer_value(max),
		agent ? peer_err_printable(agent, shown, sizeof(shown)) : "of unknown version", LINK_PROTOCOL_VERSION,
		LINK_PROTOCOL_VERSION, VMFERRY_VERSION);
	return err_remedy(e, "Run the same version of vmferry on both hosts.");
}

static int recv_hello(struct link *l, int64_t deadline_ns, struct err *e)
{
	char name[16];
	json_error_t why;

	if (take_frame(l, deadline_ns, e) < 0)
		return -1;
	if (l->h.type != FRAME_HELLO)
		return err_set(e, ERR_PROTOCOL, "the first frame is %s, not HELLO",
			       frame_type_name(l->h.type, name, sizeof(name)));
	json_t *hello = json_loadb((const char *)l->payload, l->h.length, JSON_REJECT_DUPLICATES, &why);
	if (!json_is_object(hello)) {
		json_decref(hello);
		return err_set(e, ERR_PROTOCOL, "HELLO is not a JSON object");
	}
	l->hello = hello;
	const json_t *refusal = json_object_get(hello, "error");
	if (refusal) {
		peer_err_from_json(refusal, e);
		return err_wrap(e, "refused");
	}
	return check_version(hello, e);
}

/* Our HELLO could not be sent because the peer has hung up: what it said before that is worth more. */
static int why_hung_up(struct link *l, int64_t deadline_ns, struct err *e)
{
	struct err said = ERR_INIT;

	if (recv_hello(l, deadline_ns, &said) < 0 && said.errnum != ECONNRESET && said.errnum != EPIPE &&
	    !is_timeout(&said))
		*e = said;
	return -1;
}

static struct link *open_client(struct link *l, json_t *hello, int64_t deadline_ns, struct err *e)
{
	int rc = send_hello(l, hello, deadline_ns, e);

	if (rc < 0 && e->cls == ERR_PEER && !is_timeout(e))
		rc = why_hung_up(l, deadline_ns, e);
	else if (rc == 0)
		rc = recv_hello(l, deadline_ns, e);
	json_decref(hello);
	if (rc == 0)
		return l;
	link_free(l);
	return NULL;
}

struct link *link_connect(struct tls_ctx *ctx, const struct link_peer *peer, json_t *hello, int64_t deadline_ns,
			  struct err *e)
{
	struct tls *tls = NULL;
	struct link *l = NULL;
	const int fd = sock_connect_tcp(peer->address, peer->port, deadline_ns, e);

	hello = hello ? hello : json_object();
	if (fd >= 0)
		tls = tls_connect(ctx, fd, peer->name, deadline_ns, e);
	if (tls)
		l = open_client(link_make(tls, NULL), hello, deadline_ns, e);
	else
		json_decref(hello);
	if (!l)
		err_wrap(e, "%s (%s port %u)", peer->name, peer->address, peer->port);
	return l;
}

static void why_not_local(struct err *e)
{
	const int err = e->errnum;

	e->cls = ERR_PEER;
	if (err == EACCES || err == EPERM)
		err_remedy(e, "Run it as root, or as a member of the group in `control.group` of vmferryd.conf.");
	else if (err == ENOENT || err == ECONNREFUSED)
		err_remedy(e, "Start the agent: systemctl start vmferryd.");
}

struct link *link_connect_local(const char *socket_path, json_t *hello, int64_t deadline_ns, struct err *e)
{
	struct sock *sock = NULL;
	const int fd = fd_unix_connect(socket_path, e);

	hello = hello ? hello : json_object();
	if (fd < 0)
		why_not_local(e);
	else
		sock = sock_new(fd, e);
	if (!sock) {
		json_decref(hello);
		return NULL;
	}
	return open_client(link_make(NULL, sock), hello, deadline_ns, e);
}

static struct link *open_server(struct link *l, int64_t deadline_ns, struct err *e)
{
	if (recv_hello(l, deadline_ns, e) == 0)
		return l;
	struct err why = *e;
	err_wrap(e, "%s", l->label);
	/* A peer that spoke, but wrongly, is told. */
	if (why.cls == ERR_PROTOCOL)
		link_refuse(l, &why);
	else
		link_free(l);
	return NULL;
}

struct link *link_accept(struct tls_ctx *ctx, int fd, int64_t deadline_ns, struct err *e)
{
	char addr[SOCK_ADDR_SIZE];

	sock_format_peer(fd, addr, sizeof(addr)); /* for errors: the descriptor is gone by then */
	struct tls *tls = tls_accept(ctx, fd, deadline_ns, e);
	if (!tls) {
		err_wrap(e, "%s", addr);
		return NULL;
	}
	return open_server(link_make(tls, NULL), deadline_ns, e);
}

struct link *link_accept_local(int fd, int64_t deadline_ns, struct err *e)
{
	struct sock *sock = sock_new(fd, e);

	return sock ? open_server(link_make(NULL, sock), deadline_ns, e) : NULL;
}

int link_welcome(struct link *l, json_t *hello, int64_t deadline_ns, struct err *e)
{
	hello = hello ? hello : json_object();
	const int rc = send_hello(l, hello, deadline_ns, e);
	json_decref(hello);
	return rc < 0 ? fail(l, e) : 0;
}

void link_refuse(struct link *l, const struct err *why)
{
	const int64_t deadline_ns = clock_mono_ns() + REFUSAL_WAIT_NS;
	struct err ignored = ERR_INIT;
	json_t *hello = json_object();

	json_object_set_new(hello, "error", peer_err_to_json(why));
	if (send_hello(l, hello, deadline_ns, &ignored) == 0) {
		if (l->tls)
			tls_linger(l->tls, deadline_ns);
		else
			sock_linger(l->sock, deadline_ns);
	}
	json_decref(hello);
	link_free(l);
}
