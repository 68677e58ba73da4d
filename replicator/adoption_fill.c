#include "replicator/adoption_fill.h"

#include "base/clock.h"
#include "base/mem.h"
#include "replicator/still.h"
#include "replicator/store_sink.h"

#include <stdlib.h>
#include <string.h>

/* The store's volumes with that disk among them; its index. */
static int place_disk(struct store *s, struct store_volume *v, size_t *n, const char *target, uint64_t size,
		      uint32_t *index, struct err *e)
{
	size_t i = 0;

	*n = store_volumes(s, v, STORE_MAX_VOLUMES);
	while (i < *n && !(v[i].kind == STORE_DISK && strcmp(v[i].name, target) == 0))
		i++;
	if (i == STORE_MAX_VOLUMES || strlen(target) > STORE_NAME_MAX)
		return err_set(e, ERR_REFUSED, "no room for disk %s", target);
	if (i == *n)
		(*n)++;
	v[i].kind = STORE_DISK;
	memcpy(v[i].name, target, strlen(target) + 1);
	v[i].size_bytes = size;
	*index = (uint32_t)i;
	return 0;
}

int adoption_fill_image(struct store *s, const char *target, const char *path, const char *format, const char *run_dir,
			struct err *e)
{
	struct store_volume *v = mem_alloc_array(STORE_MAX_VOLUMES, sizeof(*v));
	struct store_sink in = { 0 };
	const struct capture_sink sink = store_sink_of(&in);
	size_t n;
	uint64_t size = 0;
	uint32_t index = 0;
	int rc = -1;

	if (still_image_size(path, format, &size, e) < 0 || place_disk(s, v, &n, target, size, &index, e) < 0)
		goto end;
	if (store_sink_begin(&in, s, STORE_TXN_PART, e) < 0 || store_txn_volumes(in.txn, v, n, e) < 0 ||
	    still_image(&sink, index, path, format, size, run_dir, e) < 0)
		goto end;
	rc = store_sink_commit(&in, json_pack("{s:s, s:s}", "seed", path, "disk", target), NULL, e);
end:
	store_sink_abort(&in);
	free(v);
	return rc;
}

int adoption_fill_paused(struct guest *g, struct store *s, const char *run_dir, const json_t *meta, uint64_t *seq,
			 struct err *e)
{
	const struct capture_point point = { .instant_ns = clock_wall_ns(), .has_memory = true };
	struct store_sink in = { 0 };
	const struct capture_sink sink = store_sink_of(&in);
	int rc = store_sink_begin(&in, s, STORE_TXN_POINT, e);

	if (rc == 0)
		rc = still_capture(g, &sink, run_dir, e);
	if (rc == 0)
		rc = store_sink_commit(&in, store_sink_meta(meta, "memory", "paused", &point), seq, e);
	store_sink_abort(&in);
	return rc;
}
