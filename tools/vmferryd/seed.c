#include "tools/vmferryd/seed.h"

#include "base/mem.h"
#include "replicator/adoption_fill.h"
#include "replicator/replicator.h"
#include "replicator/seed_image.h"
#include "tools/vmferryd/agent.h"

#include <stdlib.h>
#include <string.h>

struct seeder {
	char **folders;
	size_t n_folders;
	char *run_dir;
	json_t *disks;
};

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

static void seeder_free(void *ctx)
{
	struct seeder *s = ctx;

	for (size_t i = 0; i < s->n_folders; i++)
		free(s->folders[i]);
	free(s->folders);
	free(s->run_dir);
	json_decref(s->disks);
	free(s);
}

/* With all that it needs: the agent's settings may change while it reads. */
static struct seeder *seeder_new(struct agent *a, const json_t *args)
{
	struct seeder *s = mem_alloc(sizeof(*s));
	const struct settings_view *view = settings_get(a->settings);
	const struct config *c = view->config;

	s->folders = mem_alloc_array(c->replication.n_seed_folders, sizeof(char *));
	for (; s->n_folders < c->replication.n_seed_folders; s->n_folders++)
		s->folders[s->n_folders] = mem_strdup(c->replication.seed_folders[s->n_folders]);
	s->run_dir = mem_strdup(c->run_dir);
	settings_put(a->settings, view);
	s->disks = json_deep_copy(json_object_get(args, "disks"));
	return s;
}

static int open_image(const struct seeder *s, const json_t *disk, struct seed_image *image, struct err *e)
{
	return seed_image_open(text_of(disk, "path"), s->folders, s->n_folders,
			       (uint64_t)json_integer_value(json_object_get(disk, "size")), image, e);
}

static int check_args(const json_t *disks, struct err *e)
{
	size_t i;
	json_t *disk;

	json_array_foreach (disks, i, disk) {
		const char *target = text_of(disk, "disk");
		if (!*target || strlen(target) > 31 ||
		    strspn(target, "abcdefghijklmnopqrstuvwxyz0123456789") != strlen(target) ||
		    !*text_of(disk, "path") || json_integer_value(json_object_get(disk, "size")) <= 0)
			return err_set(e, ERR_PROTOCOL, "replica.seed: a disk without name, path or size");
	}
	if (i == 0 || i > STORE_MAX_VOLUMES)
		return err_set(e, ERR_PROTOCOL, "replica.seed: not 1 to %u disks", STORE_MAX_VOLUMES);
	return 0;
}

static int check_images(const struct seeder *s, struct err *e)
{
	size_t i;
	json_t *disk;

	json_array_foreach (s->disks, i, disk) {
		struct seed_image image = { 0 };
		if (open_image(s, disk, &image, e) < 0)
			return -1;
		seed_image_close(&image);
	}
	return 0;
}

/* ---- filling ---- */

struct progress {
	bool (*go_on)(void *arg, const char *disk, uint64_t done, uint64_t total);
	void *arg;
	const char *disk;
};

static bool on_progress(void *ctx, uint64_t done, uint64_t total)
{
	const struct progress *p = ctx;
	return p->go_on(p->arg, p->disk, done, total);
}

static int fill(void *ctx, struct store *store,
		bool (*go_on)(void *arg, const char *disk, uint64_t done, uint64_t total), void *arg, struct err *e)
{
	const struct seeder *s = ctx;
	size_t i;
	json_t *disk;

	json_array_foreach (s->disks, i, disk) {
		struct seed_image image = { 0 };
		struct progress p = { .go_on = go_on, .arg = arg, .disk = text_of(disk, "disk") };
		if (open_image(s, disk, &image, e) < 0)
			return -1;
		const struct adoption_image what = { .target = p.disk,
						     .path = image.path,
						     .format = image.format,
						     .name = text_of(disk, "path"),
						     .progress = on_progress,
						     .ctx = &p };
		const int rc = adoption_fill_image(store, &what, s->run_dir, e);
		seed_image_close(&image);
		if (rc < 0)
			return err_wrap(e, "%s", text_of(disk, "path"));
	}
	return 0;
}

/* ---- the call ---- */

struct caller {
	struct agent *agent;
	struct rpc_call *call;
};

static bool on_wait(void *ctx, const char *disk, uint64_t done, uint64_t total)
{
	const struct caller *c = ctx;

	if (*disk)
		rpc_note(c->call, json_pack("{s:s, s:s, s:I, s:I}", "phase", "seed", "disk", disk, "done",
					    (json_int_t)done, "total", (json_int_t)total));
	return !rpc_cancelled(c->call) && !agent_stopping(c->agent);
}

int seed_call(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	struct caller caller = { .agent = a, .call = call };

	if (check_args(json_object_get(args, "disks"), e) < 0)
		return -1;
	struct seeder *s = seeder_new(a, args);
	if (!json_is_true(json_object_get(args, "check"))) {
		struct replica_seeder by = { .fill = fill, .free = seeder_free, .ctx = s };
		return replicator_replica_seed(a->replicator, rpc_caller(call), args, &by, on_wait, &caller, result, e);
	}
	int rc = replicator_replica_seed_check(a->replicator, rpc_caller(call), args, e);
	if (rc == 0)
		rc = check_images(s, e);
	seeder_free(s);
	return rc;
}
