/*
 * failover-try COMMAND ... - the parts of a failover by hand, on the host where it runs:
 *
 *	take VM DIR [MODE]        DIR/replica.json and DIR/store from a VM that runs here: a first pass and a point (MODE as capture_mode_name)
 *	adopt VM DIR              the same from a VM that is paused here
 *	seed DIR TARGET IMAGE     the image's contents as a part of the replica in DIR
 *	again VM DIR [MODE]       another point
 *	failover DIR [paused] [seq=N] [fence=PROGRAM]
 *	recover DIR               what an agent does about it at its start
 *	export DIR FOLDER
 *	same DIR TARGET IMAGE     is the newest point's disk equal to that image (raw)?
 *
 * Prints the report as JSON. VMFERRY_FAULT works as in the agent.
 */
#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "migrator/guest_virt.h"
#include "replicator/adoption_fill.h"
#include "replicator/export.h"
#include "replicator/failover.h"
#include "replicator/store_sink.h"
#include "tools/vmferryd/promote_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN_DIR "/run/vmferry"

static int complain(const struct err *e)
{
	fprintf(stderr, "failover-try: %s%s%s\n", e->text, *e->remedy ? "; " : "", e->remedy);
	return 1;
}

static int show(json_t *report)
{
	char *text = json_dumps(report, JSON_INDENT(1));
	puts(text ? text : "{}");
	free(text);
	json_decref(report);
	return 0;
}

static struct store *open_store(const char *dir, struct err *e)
{
	MEM_AUTO char *store = mem_printf("%s/store", dir);
	return store_open(store, NULL, e);
}

static struct store *make_store(const char *dir, struct guest *g, struct err *e)
{
	struct guest_info info = { 0 };
	MEM_AUTO char *store = mem_printf("%s/store", dir), *record = mem_printf("%s/replica.json", dir);

	if (file_mkdirs(dir, 0700, e) < 0 || g->ops->info(g->ctx, &info, e) < 0)
		return NULL;
	json_t *r = json_pack("{s:s, s:s, s:s, s:i, s:s, s:s}", "uuid", info.uuid, "vm", info.name, "from", "host1",
			      "epoch", 1, "role", "target", "state", "replica");
	json_t *vm = json_pack("{s:s, s:s}", "uuid", info.uuid, "name", info.name);
	char *text = json_dumps(r, 0);
	struct store *s = file_write_durable(record, text, strlen(text), 0600, e) == 0 ? store_create(store, NULL, vm, e)
										       : NULL;
	free(text);
	json_decref(r);
	json_decref(vm);
	guest_info_fini(&info);
	return s;
}

/* A first pass as a part, then one point. */
static int take_running(struct guest *g, struct store *s, const struct capture_opts *o, uint64_t *seq, struct err *e)
{
	struct capture *c = capture_new(g, o, e);
	struct store_sink in = { 0 };
	const struct capture_sink sink = store_sink_of(&in);
	struct capture_point p = { 0 };
	int rc = -1;

	if (c && store_sink_begin(&in, s, STORE_TXN_PART, e) == 0 && capture_start(c, &sink, e) == 0 &&
	    store_sink_commit(&in, json_object(), NULL, e) == 0 && store_sink_begin(&in, s, STORE_TXN_POINT, e) == 0 &&
	    capture_take(c, &sink, &p, e) == 0)
		rc = store_sink_commit(&in, store_sink_meta(NULL, p.has_memory ? "memory" : "disk", capture_mode_name(capture_chosen(c)), &p),
				       seq, e);
	store_sink_abort(&in);
	capture_free(c);
	return rc;
}

static int take(const char *what, const char *vm, const char *dir, const char *mode, struct err *e)
{
	struct virt *virt = virt_init(e) == 0 ? virt_new("qemu:///system", e) : NULL;
	struct guest *g = virt ? guest_virt_open(virt, vm, e) : NULL;
	struct store *s = !g ? NULL : strcmp(what, "again") == 0 ? open_store(dir, e) : make_store(dir, g, e);
	struct capture_opts o = { .mode = CAPTURE_AUTO };
	uint64_t seq = 0;
	int rc = -1;

	if (mode && capture_mode_from_name(mode, &o.mode) < 0)
		err_set(e, ERR_CONFIG, "no mode %s", mode);
	else if (s)
		rc = strcmp(what, "adopt") == 0 ? adoption_fill_paused(g, s, RUN_DIR, NULL, &seq, e)
						: take_running(g, s, &o, &seq, e);
	store_close(s);
	guest_free(g);
	virt_free(virt);
	if (rc == 0)
		printf("seq=%llu\n", (unsigned long long)seq);
	return rc;
}

static int failover(const char *dir, char **options, struct err *e)
{
	struct promote_host_opts host = { .libvirt_uri = "qemu:///system", .run_dir = RUN_DIR };
	struct promote_host *p = promote_host_new(&host, e);
	struct store *s = p ? open_store(dir, e) : NULL;
	struct failover_records records = failover_record_files(dir);
	const char *fence[2] = { NULL, NULL };
	struct failover_opts o = { .records = &records,
				   .host = "host2",
				   .ops = &promote_host_ops,
				   .ops_ctx = p,
				   .fence_within_ns = 10000000000,
				   .thaw_within_ns = FAILOVER_THAW_NS };
	json_t *report = NULL;

	for (; *options; options++) {
		if (strcmp(*options, "paused") == 0)
			o.paused = true;
		else if (strncmp(*options, "seq=", 4) == 0)
			o.seq = strtoull(*options + 4, NULL, 10);
		else if (strncmp(*options, "fence=", 6) == 0)
			fence[0] = *options + 6, o.fence = fence;
	}
	int rc = s ? failover_run(s, &o, &report, e) : -1;
	store_close(s);
	promote_host_free(p);
	return rc == 0 ? show(report) : -1;
}

static int recover(const char *dir, struct err *e)
{
	static const char *const names[] = { "nothing", "promoted", "undone", "off", "handing" };
	struct promote_host_opts host = { .libvirt_uri = "qemu:///system", .run_dir = RUN_DIR };
	struct promote_host *p = promote_host_new(&host, e);
	struct failover_records records = failover_record_files(dir);
	enum failover_found found;
	int rc = p ? failover_recover(&records, &promote_host_ops, p, &found, e) : -1;

	promote_host_free(p);
	if (rc == 0)
		printf("found=%s\n", names[found]);
	return rc;
}

static int export(const char *dir, const char *folder, struct err *e)
{
	struct promote_host_opts host = { .libvirt_uri = "qemu:///system", .run_dir = RUN_DIR };
	struct promote_host *p = promote_host_new(&host, e);
	struct store *s = p ? open_store(dir, e) : NULL;
	struct export_opts o = { .dir = folder, .run_dir = RUN_DIR, .ops = &promote_host_ops, .ops_ctx = p };
	json_t *report = NULL;
	int rc = s ? export_point(s, &o, &report, e) : -1;

	store_close(s);
	promote_host_free(p);
	return rc == 0 ? show(report) : -1;
}

static int seed(const char *dir, const char *target, const char *image, struct err *e)
{
	struct store *s = open_store(dir, e);
	int rc = s ? adoption_fill_image(s, &(struct adoption_image){ .target = target, .path = image }, RUN_DIR, e) : -1;
	store_close(s);
	return rc;
}

/* Every block of the newest contents against the image. */
static int same(const char *dir, const char *target, const char *image, struct err *e)
{
	struct store_volume v[STORE_MAX_VOLUMES];
	struct store *s = open_store(dir, e);
	struct store_view *view = s ? store_view_newest(s, e) : NULL;
	FILE *f = fopen(image, "re");
	size_t n = view ? store_view_volumes(view, v, STORE_MAX_VOLUMES) : 0, at = 0;
	uint64_t differ = 0;
	int rc = -1;

	while (at < n && strcmp(v[at].name, target) != 0)
		at++;
	if (at < n && f) {
		rc = 0;
		for (uint64_t b = 0; rc == 0 && b < v[at].size_bytes / STORE_BLOCK; b++) {
			uint8_t have[STORE_BLOCK], want[STORE_BLOCK] = { 0 };
			if (fread(want, 1, sizeof(want), f) == 0)
				rc = err_set(e, ERR_SYS, "%s is too short", image);
			else
				rc = store_view_read(view, (uint32_t)at, b, 1, have, NULL, e);
			differ += rc == 0 && memcmp(have, want, sizeof(have)) != 0;
		}
	} else if (!err_is_set(e)) {
		err_set(e, ERR_CONFIG, "no disk %s, or no file %s", target, image);
	}
	if (f)
		fclose(f);
	store_view_close(view);
	store_close(s);
	if (rc == 0)
		printf("differ=%llu\n", (unsigned long long)differ);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	const char *what = argc > 1 ? argv[1] : "";
	int rc = -1;

	if (file_mkdirs(RUN_DIR, 0755, &e) < 0 || fault_arm_env(&e) < 0)
		return complain(&e);
	if ((strcmp(what, "take") == 0 || strcmp(what, "adopt") == 0 || strcmp(what, "again") == 0) && argc >= 4)
		rc = take(what, argv[2], argv[3], argv[4], &e);
	else if (strcmp(what, "failover") == 0 && argc >= 3)
		rc = failover(argv[2], argv + 3, &e);
	else if (strcmp(what, "recover") == 0 && argc == 3)
		rc = recover(argv[2], &e);
	else if (strcmp(what, "export") == 0 && argc == 4)
		rc = export(argv[2], argv[3], &e);
	else if (strcmp(what, "seed") == 0 && argc == 5)
		rc = seed(argv[2], argv[3], argv[4], &e);
	else if (strcmp(what, "same") == 0 && argc == 5)
		rc = same(argv[2], argv[3], argv[4], &e);
	else
		err_set(&e, ERR_CONFIG, "see the head of failover-try.c");
	return rc == 0 ? 0 : complain(&e);
}
