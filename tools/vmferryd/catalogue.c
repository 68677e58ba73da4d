#include "tools/vmferryd/catalogue.h"

#include "base/log.h"
#include "base/mem.h"

#include <string.h>

static void put(struct outbox *o, const char *key, const json_t *value)
{
	struct err e = ERR_INIT;

	if (outbox_put_state(o, key, value, &e) < 0)
		log_warn("state_not_kept", "key=%s msg=%s", key, LOG_Q(e.text));
}

void catalogue_event(struct outbox *o, const char *host, const char *type, const char *uuid, const json_t *data)
{
	static const char prefix[] = "protection.";

	if (!uuid || strncmp(type, prefix, sizeof(prefix) - 1) != 0)
		return;
	const char *what = type + sizeof(prefix) - 1;
	MEM_AUTO char *key = mem_printf("protection/%s", uuid);
	if (strcmp(what, "stopped") == 0) {
		put(o, key, NULL);
		return;
	}
	json_t *value = json_pack("{s:s, s:s, s:s, s:o?}", "uuid", uuid, "source", host, "state", what, "data",
				  data ? json_deep_copy(data) : NULL);
	put(o, key, value);
	json_decref(value);
}

void catalogue_points(struct outbox *o, const char *uuid, const struct replica_news *news, size_t n)
{
	struct outbox_put *all = mem_alloc_array(n, sizeof(*all));
	struct err e = ERR_INIT;

	for (size_t i = 0; i < n; i++)
		all[i] = (struct outbox_put){ .key = mem_printf("point/%s/%s", uuid, news[i].id), .data = news[i].data };
	/* One that cannot be kept takes no other with it. */
	if (outbox_put_states(o, all, n, &e) < 0)
		for (size_t i = 0; i < n; i++)
			put(o, all[i].key, all[i].data);
	for (size_t i = 0; i < n; i++)
		free((char *)(uintptr_t)all[i].key);
	free(all);
}
