#include "migrator/probe.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>

#define CHUNK ((size_t)256 * 1024)
#define FINISH_NS (5 * NS_PER_S)

int probe_link_speed(struct migrator *m, const char *host, uint64_t *bytes_per_s, struct err *e)
{
	struct link *l = m->opts.connect_data(m->opts.ctx, host, json_pack("{s:s}", "purpose", "probe"), e);
	MEM_AUTO uint8_t *chunk = mem_alloc(CHUNK);
	struct iovec iov = { .iov_base = chunk, .iov_len = CHUNK };
	int64_t began = clock_mono_ns(), until = began + PROBE_TIME_NS;
	uint64_t sent = 0;
	int rc = 0;

	if (!l)
		return -1;
	while (rc == 0 && sent < PROBE_BYTES && clock_mono_ns() < until) {
		rc = link_send(l, FRAME_BATCH, &iov, 1, began + FINISH_NS, e);
		sent += CHUNK;
	}
	/* The acknowledgement makes the figure honest: it counts what arrived, not what the kernel took. */
	if (rc == 0)
		rc = link_finish(l, clock_mono_ns() + FINISH_NS, e);
	int64_t took = clock_mono_ns() - began;
	link_free(l);
	if (rc != 0)
		return err_wrap(e, "measure the link to %s", host);
	*bytes_per_s = (uint64_t)((double)sent * (double)NS_PER_S / (double)(took > 0 ? took : 1));
	return 0;
}

void probe_serve(struct link *l)
{
	struct err e = ERR_INIT;
	struct link_frame f;
	uint64_t received = 0;
	int64_t deadline = clock_mono_ns() + PROBE_TIME_NS + 2 * FINISH_NS;
	int rc = link_welcome(l, json_object(), deadline, &e) == 0 ? 1 : -1;

	while (rc == 1 && received <= PROBE_BYTES + CHUNK) {
		rc = link_recv(l, &f, deadline, &e);
		received += rc == 1 ? f.len : 0;
	}
	if (rc < 0)
		log_info("probe_ended", "peer=%s msg=%s", link_peer_name(l), LOG_Q(e.text));
	link_free(l);
}
