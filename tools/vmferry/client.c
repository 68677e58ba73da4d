#include "tools/vmferry/client.h"

#include "base/clock.h"
#include "base/mem.h"
#include "config/config.h"
#include "transport/link.h"
#include "transport/rpc.h"

#include <stdlib.h>

#define CONNECT_WITHIN_NS (5 * NS_PER_S)

struct client {
	struct rpc *rpc;
	const char *host; /* --host */
};

/* To be freed. */
static char *socket_path(const struct cli *cli)
{
	if (cli->socket)
		return mem_strdup(cli->socket);
	const char *env = getenv("VMFERRY_SOCKET");
	if (env && *env)
		return mem_strdup(env);
	struct err ignored = ERR_INIT;
	struct config *config = config_load(CONFIG_DEFAULT_PATH, NULL, NULL, &ignored);
	char *path = mem_strdup(config ? config->control.socket : CONFIG_DEFAULT_SOCKET);
	config_free(config);
	return path;
}

struct client *client_open(const struct cli *cli, struct err *e)
{
	MEM_AUTO char *path = socket_path(cli);
	struct link *l = link_connect_local(path, json_pack("{s:s}", "purpose", "control"),
					    clock_mono_ns() + CONNECT_WITHIN_NS, e);
	if (!l) {
		err_wrap(e, "cannot reach the agent");
		err_remedy(e, "see whether it runs (systemctl status vmferryd), or say where its socket is (--socket)");
		return NULL;
	}
	struct rpc *rpc = rpc_start(l, NULL, e);
	if (!rpc)
		return NULL;
	struct client *c = mem_alloc(sizeof(*c));
	c->rpc = rpc;
	c->host = cli->host;
	return c;
}

void client_close(struct client *c)
{
	if (!c)
		return;
	rpc_close(c->rpc, NULL);
	rpc_unref(c->rpc);
	free(c);
}

int client_call(struct client *c, const char *method, json_t *args, int64_t within_ns,
		void (*on_note)(void *ctx, const json_t *note), void *ctx, const volatile bool *cancel, json_t **result,
		struct err *e)
{
	if (!args)
		args = json_object();
	if (c->host)
		json_object_set_new(args, "at", json_string(c->host));
	int64_t deadline = within_ns ? clock_mono_ns() + within_ns : INT64_MAX;
	if (rpc_call(c->rpc, method, args, deadline, on_note, ctx, cancel, result, e) == 0)
		return 0;
	if (e->cls == ERR_PEER && !rpc_alive(c->rpc)) {
		err_wrap(e, "the agent of this host ended or was lost while it was at work");
		err_remedy(e, "a VM that was on its way stays where it is, or is settled when the agent is back: see "
			      "'systemctl status "
			      "vmferryd', then 'vmferry vms' on both hosts");
	}
	return -1;
}

json_t *client_ask(const struct cli *cli, const char *method, json_t *args, struct err *e)
{
	json_t *result = NULL;
	struct client *c = client_open(cli, e);
	if (!c) {
		json_decref(args);
		return NULL;
	}
	int rc = client_call(c, method, args, CLIENT_SHORT_NS, NULL, NULL, NULL, &result, e);
	client_close(c);
	return rc == 0 ? result : NULL;
}
