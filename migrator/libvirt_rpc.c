#include "migrator/libvirt_rpc.h"

#include "base/cursor.h"

#include <string.h>

#define PROGRAM_REMOTE 0x20008086u
#define PROGRAM_KEEPALIVE 0x6b656570u

enum message_type {
	TYPE_CALL = 0,
	TYPE_REPLY = 1,
	TYPE_REPLY_WITH_FDS = 5,
};

enum procedure {
	PROC_CONNECT_OPEN = 1,
	PROC_CONNECT_CLOSE = 2,
	PROC_CONNECT_GET_TYPE = 3,
	PROC_CONNECT_GET_VERSION = 4,
	PROC_CONNECT_GET_HOSTNAME = 59,
	PROC_CONNECT_SUPPORTS_FEATURE = 60,
	PROC_AUTH_LIST = 66,
	PROC_CONNECT_GET_URI = 110,
	PROC_CONNECT_GET_LIB_VERSION = 157,
	PROC_DOMAIN_MIGRATE_PREPARE3 = 214,
	PROC_DOMAIN_MIGRATE_FINISH3 = 217,
	PROC_DOMAIN_MIGRATE_PREPARE3_PARAMS = 303,
	PROC_DOMAIN_MIGRATE_FINISH3_PARAMS = 306,
};

int libvirt_rpc_feed(struct libvirt_rpc *r, const uint8_t *p, size_t n, size_t *used, struct libvirt_rpc_header *h)
{
	*used = 0;
	if (r->broken) {
		*used = n;
		return -1;
	}
	if (r->skip > 0) {
		size_t take = n < r->skip ? n : r->skip;
		r->skip -= (uint32_t)take;
		*used = take;
		return 0;
	}
	size_t take = sizeof r->header - r->have < n ? sizeof r->header - r->have : n;
	memcpy(r->header + r->have, p, take);
	r->have += take;
	*used = take;
	if (r->have < sizeof r->header)
		return 0;
	r->have = 0;
	struct cursor c = cursor_over(r->header, sizeof r->header);
	h->length = cursor_be32(&c);
	h->program = cursor_be32(&c);
	h->version = cursor_be32(&c);
	h->procedure = cursor_be32(&c);
	h->type = cursor_be32(&c);
	h->serial = cursor_be32(&c);
	h->status = cursor_be32(&c);
	if (h->length < LIBVIRT_RPC_HEADER_SIZE || h->length > LIBVIRT_RPC_MAX_MESSAGE) {
		r->broken = true;
		return -1;
	}
	r->skip = h->length - LIBVIRT_RPC_HEADER_SIZE;
	return 1;
}

static bool is_finish_procedure(const struct libvirt_rpc_header *h)
{
	return h->program == PROGRAM_REMOTE && (h->procedure == PROC_DOMAIN_MIGRATE_FINISH3_PARAMS ||
						h->procedure == PROC_DOMAIN_MIGRATE_FINISH3);
}

bool libvirt_rpc_is_finish(const struct libvirt_rpc_header *h)
{
	return is_finish_procedure(h) && h->type == TYPE_CALL;
}

bool libvirt_rpc_is_finish_reply(const struct libvirt_rpc_header *h)
{
	return is_finish_procedure(h) && (h->type == TYPE_REPLY || h->type == TYPE_REPLY_WITH_FDS);
}

bool libvirt_rpc_is_for_migration(const struct libvirt_rpc_header *h)
{
	if (h->program == PROGRAM_KEEPALIVE)
		return true;
	if (h->program != PROGRAM_REMOTE || h->type != TYPE_CALL)
		return false;
	switch (h->procedure) {
	case PROC_CONNECT_OPEN:
	case PROC_CONNECT_CLOSE:
	case PROC_CONNECT_GET_TYPE:
	case PROC_CONNECT_GET_VERSION:
	case PROC_CONNECT_GET_HOSTNAME:
	case PROC_CONNECT_SUPPORTS_FEATURE:
	case PROC_AUTH_LIST:
	case PROC_CONNECT_GET_URI:
	case PROC_CONNECT_GET_LIB_VERSION:
	case PROC_DOMAIN_MIGRATE_PREPARE3:
	case PROC_DOMAIN_MIGRATE_FINISH3:
	case PROC_DOMAIN_MIGRATE_PREPARE3_PARAMS:
	case PROC_DOMAIN_MIGRATE_FINISH3_PARAMS:
		return true;
	default:
		return false;
	}
}
