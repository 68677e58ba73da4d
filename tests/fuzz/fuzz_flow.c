/* The frames of data links: what STREAM, ACK and BATCH begin with. What is taken in means the same when it is sent again. */
#include "transport/flow.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void stream_message(const uint8_t *data, size_t size)
{
	struct flow_stream_msg m, again;
	uint8_t out[FLOW_MSG_MAX];
	struct err e = ERR_INIT;

	if (flow_msg_decode(data, size, &m, &e) < 0) {
		assert(e.cls == ERR_PROTOCOL);
		return;
	}
	assert(strlen(m.text) < sizeof(m.text));
	const size_t n = flow_msg_encode(&m, out);
	/* A NUL in the text ends it. */
	assert(n <= size && memcmp(out, data, FLOW_MSG_HEAD) == 0);
	assert(flow_msg_decode(out, n, &again, &e) == 0);
	assert(again.op == m.op && again.stream == m.stream && again.a == m.a && again.number == m.number);
	assert(strcmp(again.text, m.text) == 0);
}

static void head(const uint8_t *data, size_t size)
{
	uint8_t out[FLOW_BATCH_HEAD];
	uint32_t stream;
	uint64_t number;
	struct err e = ERR_INIT;

	if (flow_head_decode(data, size, &stream, &number, &e) < 0) {
		assert(e.cls == ERR_PROTOCOL);
		return;
	}
	flow_head_encode(stream, number, out);
	assert(stream != 0 && memcmp(out, data, sizeof(out)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	stream_message(data, size);
	head(data, size);
	return 0;
}
