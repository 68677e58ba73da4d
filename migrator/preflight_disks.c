/*
 * preflight_disks.c - preflight.h's judgement of disks: which are shared, which are copied and to where, and what
 * stands in the way.
 *
 * The two mistakes that would cost data are a copy onto itself (the image is on storage that both hosts see) and a
 * start without the disk's content; both are refused unless the facts are firm.
 */
#include "migrator/preflight_internal.h"

#include "base/units.h"

enum shared { SHARED_NO, SHARED_YES, SHARED_UNKNOWN };

struct disk_judge {
	const struct domain_disk *disk;
	const struct preflight_disk *here;
	const json_t *there; /* the target's facts, or NULL */
	const char *host;
	const struct migration_args *args;
	struct preflight_findings *f;
	enum preflight_action *action;
	char label[300];
};

static enum shared shared(const struct disk_judge *d)
{
	const json_t *s = json_object_get(d->there, "shared");
	if (json_is_boolean(s))
		return json_is_true(s) ? SHARED_YES : SHARED_NO;
	return SHARED_UNKNOWN;
}

/* Read-only media and drives: never copied, so they must be there. */
static void judge_media(const struct disk_judge *d)
{
	char a[32], b[32];
	uint64_t size = number(d->there, "virtual_bytes");

	if (!d->disk->path)
		return;
	if (!is_true(d->there, "exists") && d->disk->optional)
		preflight_add(d->f, PREFLIGHT_WARNING, "media-missing", "copy it there, if the guest still needs it",
			      "%s does not have read-only disk %s: the drive will be empty there, as its startupPolicy "
			      "says",
			      d->host, d->label);
	else if (!is_true(d->there, "exists"))
		preflight_add(d->f, d->args->offline ? PREFLIGHT_WARNING : PREFLIGHT_ERROR, "media-missing",
			      "copy it there, or take it out of the drive: virsh change-media VM DISK --eject",
			      "%s does not have read-only disk %s", d->host, d->label);
	else if (shared(d) != SHARED_YES && d->here->virtual_bytes && size && size != d->here->virtual_bytes)
		preflight_add(d->f, PREFLIGHT_WARNING, "media-differs", "copy the right one there",
			      "read-only disk %s is %s here and %s at %s: the guest would read something else",
			      d->label, units_format_size(d->here->virtual_bytes, a, sizeof(a)),
			      units_format_size(size, b, sizeof(b)), d->host);
}

/* libvirt lets a cached disk on shared storage pass only if QEMU can drop its cache at the switchover. */
static void judge_cache(const struct disk_judge *d, unsigned long qemu_version)
{
	const char *cache = d->disk->cache;
	if (d->args->offline || !cache || strcmp(cache, "none") == 0 || strcmp(cache, "directsync") == 0 ||
	    d->disk->shareable)
		return;
	if (qemu_version > 0 && qemu_version < 4000000)
		preflight_add(d->f, PREFLIGHT_ERROR, "cache-unsafe", "set cache='none' and restart the VM",
			      "disk %s is on shared storage with cache=%s: this QEMU can't be sure to hand over what "
			      "is in the cache",
			      d->label, cache);
}

/* The image is the same, but is what lies behind it? A base image of a cloud is often a copy on each host, which is well as long as it is the same. */
static void judge_backing(const struct disk_judge *d)
{
	const json_t *list = json_object_get(d->there, "backing");

	for (size_t i = 0; d->here->layers && json_is_array(list) && i < d->disk->n_backing; i++) {
		const char *path = d->disk->backing[i].path;
		const json_t *there = path ? named(list, "path", path) : NULL;
		const json_t *same = json_object_get(there, "shared");
		if (!there || json_is_true(same))
			continue;
		if (!is_true(there, "exists"))
			preflight_add(d->f, PREFLIGHT_ERROR, "backing-missing",
				      "put the backing file where both hosts see it, or copy it there",
				      "disk %s is an overlay over %s, which %s does not have", d->label, path, d->host);
		else if (number(there, "size") != d->here->layers[i].size)
			preflight_add(d->f, PREFLIGHT_ERROR, "backing-differs",
				      "put the right one there, or onto storage that both hosts see",
				      "disk %s is an overlay over %s, and %s has another image of that name", d->label,
				      path, d->host);
		else
			preflight_add(
				d->f, PREFLIGHT_WARNING, "backing-not-shared",
				"compare the two (sha256sum): if they differ, the guest's file systems break",
				"disk %s is an overlay over %s, of which %s has a file of its own, of the same size",
				d->label, path, d->host);
	}
}

static void judge_shared(const struct disk_judge *d, unsigned long qemu_version, bool *unsafe)
{
	uint64_t size = number(d->there, "virtual_bytes");
	char a[32], b[32];

	switch (shared(d)) {
	case SHARED_YES:
		judge_cache(d, qemu_version);
		judge_backing(d);
		/* libvirt goes by the kind of file system alone. */
		if (d->disk->source == DOMAIN_SOURCE_FILE && !d->here->network_fs)
			*unsafe = true;
		if (d->args->copy_storage)
			preflight_add(d->f, PREFLIGHT_INFO, "disk-shared", "",
				      "disk %s is on storage that %s sees too: not copied", d->label, d->host);
		return;
	case SHARED_NO:
		preflight_add(d->f, PREFLIGHT_ERROR, "disk-not-shared",
			      d->disk->shareable
				      ? "put it on storage that both hosts see: a shareable disk is not copied"
				      : "use --copy-storage, or put it on storage that both hosts see",
			      "disk %s is on this host alone: %s %s", d->label, d->host,
			      is_true(d->there, "exists") ? "has another image of that name" : "does not have it");
		return;
	case SHARED_UNKNOWN:
		break;
	}
	if (d->disk->source == DOMAIN_SOURCE_BLOCK && is_true(d->there, "exists") &&
	    (!size || !d->here->virtual_bytes || size == d->here->virtual_bytes))
		preflight_add(d->f, PREFLIGHT_WARNING, "device-assumed-shared",
			      "make sure that it is the same LUN or volume on both hosts",
			      "disk %s is a device that both hosts have, of the same size; whether it is the same one "
			      "can't be told",
			      d->label);
	else if (size && d->here->virtual_bytes && size != d->here->virtual_bytes)
		preflight_add(d->f, PREFLIGHT_ERROR, "image-size",
			      "use --copy-storage with an image of the right size, or shared storage",
			      "disk %s is %s here and %s at %s", d->label,
			      units_format_size(d->here->virtual_bytes, a, sizeof(a)),
			      units_format_size(size, b, sizeof(b)), d->host);
	else
		preflight_add(d->f, PREFLIGHT_ERROR, "disk-unknown",
			      "let vmferryd write to the folder of the image (it makes a small file there for a "
			      "moment), or use shared "
			      "storage that both mount",
			      "whether disk %s is on storage that %s sees too can't be told", d->label, d->host);
}

static void judge_create(const struct disk_judge *d)
{
	const char *refused = str(d->there, "refused");
	const char *remedy = str(d->there, "remedy");

	if (d->disk->source == DOMAIN_SOURCE_BLOCK) {
		preflight_add(d->f, PREFLIGHT_ERROR, "device-missing", "create a volume of that name and size there",
			      "disk %s is a device, and %s has none of that name to copy it to", d->label, d->host);
		return;
	}
	if (refused) {
		preflight_add(d->f, PREFLIGHT_ERROR, "image-refused", remedy ? remedy : "",
			      "%s can't make the image of disk %s: %s", d->host, d->label, refused);
		return;
	}
	/* A raw image that is shut off is copied as it is, with LUKS's header. */
	if (d->disk->encrypted && !(d->args->offline && strcmp(d->disk->format, "raw") == 0)) {
		preflight_add(
			d->f, PREFLIGHT_ERROR, "disk-encrypted",
			"make an encrypted image of that name and size there, with the same secret, or use shared "
			"storage",
			"disk %s is encrypted by QEMU, and an image made for its copy would not be", d->label);
		return;
	}
	if (!d->here->virtual_bytes) {
		preflight_add(d->f, PREFLIGHT_ERROR, "disk-unknown", "virsh domblkinfo says what is wrong",
			      "the size of disk %s is not known, so %s can't make an image for it", d->label, d->host);
		return;
	}
	*d->action = PREFLIGHT_CREATE;
}

static void judge_overwrite(const struct disk_judge *d)
{
	uint64_t size = number(d->there, "virtual_bytes");
	const char *used_by = str(d->there, "used_by");
	const char *format_error = str(d->there, "format_error");
	bool device = d->disk->source == DOMAIN_SOURCE_BLOCK;
	char a[32], b[32];

	if (used_by)
		preflight_add(d->f, PREFLIGHT_ERROR, "image-in-use", "rename that image or this one",
			      "disk %s can't be copied: at %s that image belongs to VM '%s'", d->label, d->host,
			      used_by);
	else if (format_error)
		preflight_add(d->f, PREFLIGHT_ERROR, "image-format", "remove or rename it there: it is then made anew",
			      "%s has an image of the name of disk %s, but not a usable one of format %s: %s", d->host,
			      d->label, d->disk->format, format_error);
	else if (d->here->virtual_bytes && size &&
		 (device ? size < d->here->virtual_bytes : size != d->here->virtual_bytes))
		preflight_add(d->f, PREFLIGHT_ERROR, "image-size",
			      device ? "make the device large enough"
				     : "remove or rename it there: it is then made anew",
			      "disk %s is %s, and what %s has under that name is %s", d->label,
			      units_format_size(d->here->virtual_bytes, a, sizeof(a)), d->host,
			      units_format_size(size, b, sizeof(b)));
	else if (d->args->offline)
		preflight_add(
			d->f, PREFLIGHT_ERROR, "image-exists",
			device ? "start the VM and move it live" : "remove or rename it there: it is then made anew",
			"%s has %s of the name of disk %s, and an offline move only fills images that it has made",
			d->host, device ? "a device" : "an image", d->label);
	else {
		*d->action = PREFLIGHT_OVERWRITE;
		preflight_add(d->f, PREFLIGHT_WARNING, "image-exists",
			      "if it holds anything of worth, move it away first",
			      "%s has %s of the name of disk %s: its content will be overwritten", d->host,
			      device ? "a device" : "an image", d->label);
	}
}

static void judge_copy(const struct disk_judge *d, unsigned long qemu_version, bool *unsafe)
{
	switch (shared(d)) {
	case SHARED_YES:
		judge_shared(d, qemu_version, unsafe);
		return;
	case SHARED_UNKNOWN:
		if (is_true(d->there, "exists")) {
			preflight_add(d->f, PREFLIGHT_ERROR, "disk-unknown",
				      "leave out --copy-storage if it is shared; remove it there if it is not",
				      "whether %s sees the very same %s as disk %s can't be told, and a copy onto "
				      "itself would destroy it",
				      d->host, d->disk->source == DOMAIN_SOURCE_BLOCK ? "device" : "image", d->label);
			return;
		}
		break;
	case SHARED_NO:
		break;
	}
	if (is_true(d->there, "exists"))
		judge_overwrite(d);
	else
		judge_create(d);
	if (d->here->snapshots > 0 && *d->action != PREFLIGHT_LEAVE)
		preflight_add(
			d->f, PREFLIGHT_WARNING, "image-snapshots", "keep the old image for as long as they are needed",
			"the image of disk %s has %u snapshot%s inside (qemu-img snapshot -l), which a copy does not "
			"have",
			d->label, d->here->snapshots, d->here->snapshots == 1 ? "" : "s");
	if (d->disk->n_backing > 0 && *d->action != PREFLIGHT_LEAVE)
		preflight_add(d->f, PREFLIGHT_INFO, "disk-flattened", "",
			      "disk %s is an overlay over %zu image%s: the copy will be one image with all of it",
			      d->label, d->disk->n_backing, d->disk->n_backing == 1 ? "" : "s");
}

static void judge_disk(const struct disk_judge *d, unsigned long qemu_version, bool *unsafe)
{
	if (d->disk->source == DOMAIN_SOURCE_NONE)
		return;
	if (d->disk->transient && !d->args->offline) {
		preflight_add(d->f, PREFLIGHT_ERROR, "disk-transient", "shut the VM down and use --offline",
			      "disk %s is transient, which libvirt does not migrate", d->label);
		return;
	}
	if (d->disk->source == DOMAIN_SOURCE_NETWORK) {
		/* Both hosts reach it by the network; a gateway on each may make that true even so. */
		if (d->disk->here_only)
			preflight_add(d->f, PREFLIGHT_WARNING, "disk-server-here",
				      "see that the same storage is served at that address there",
				      "disk %s is served by this host itself (a loopback address or a socket), and %s "
				      "would look for it at its own",
				      d->label, d->host);
		return;
	}
	const char *pool = str(d->there, "pool_error");
	if (pool) {
		preflight_add(d->f, PREFLIGHT_ERROR, "pool-missing",
			      "define and start the pool there, in the same folder: virsh pool-dumpxml, pool-define, "
			      "pool-start",
			      "disk %s is volume %s, and at %s %s", d->disk->target, d->disk->volume, d->host, pool);
		return;
	}
	if (d->disk->source == DOMAIN_SOURCE_OTHER) {
		preflight_add(d->f, PREFLIGHT_ERROR, "disk-unsupported", "give it as a file or a device instead",
			      "disk %s is of type %s, which vmferry can't check or copy", d->label, d->disk->type);
		return;
	}
	if (d->disk->readonly)
		judge_media(d);
	else if (!d->args->copy_storage || d->disk->shareable)
		judge_shared(d, qemu_version, unsafe);
	else
		judge_copy(d, qemu_version, unsafe);
}

static const json_t *facts_of(const struct judge *j, size_t disk)
{
	return named(json_object_get(j->t, "disks"), "target", j->dom->disks[disk].target);
}

/* Is disk k made on that file system? */
static bool made_on(const struct judge *j, size_t k, const char *fs)
{
	const char *other = str(facts_of(j, k), "fs_id");
	return j->v->actions[k] == PREFLIGHT_CREATE && other && strcmp(other, fs) == 0;
}

/* Images that are made on one file system share its space; the first of them speaks for all. */
static void judge_space(const struct judge *j, size_t first)
{
	const json_t *there = facts_of(j, first);
	const char *fs = str(there, "fs_id");
	uint64_t room = number(there, "fs_free_bytes");
	uint64_t need = 0;
	uint64_t most = 0;
	char a[32], b[32];

	if (!fs || !made_on(j, first, fs))
		return;
	for (size_t k = 0; k < j->v->n_disks; k++) {
		if (!made_on(j, k, fs))
			continue;
		if (k < first)
			return;
		if (__builtin_add_overflow(need, j->s->disks[k].allocated_bytes, &need) ||
		    __builtin_add_overflow(most, j->s->disks[k].virtual_bytes, &most))
			need = most = UINT64_MAX;
	}
	if (need > room)
		preflight_add(j->f, PREFLIGHT_ERROR, "space-short", "make room there, or choose another host",
			      "the disks hold %s and %s has %s free in the folder of %s",
			      units_format_size(need, a, sizeof(a)), j->host, units_format_size(room, b, sizeof(b)),
			      j->dom->disks[first].path);
	else if (most > room)
		preflight_add(j->f, PREFLIGHT_WARNING, "space-tight", "",
			      "the disks can grow to %s and %s has %s free in the folder of %s",
			      units_format_size(most, a, sizeof(a)), j->host, units_format_size(room, b, sizeof(b)),
			      j->dom->disks[first].path);
}

void preflight_judge_disks(const struct judge *j)
{
	for (size_t i = 0; i < j->dom->n_disks; i++) {
		struct disk_judge d = {
			.disk = &j->dom->disks[i],
			.here = &j->s->disks[i],
			.there = facts_of(j, i),
			.host = j->host,
			.args = j->args,
			.f = j->f,
			.action = &j->v->actions[i],
		};
		domain_disk_label(d.disk, d.label, sizeof(d.label));
		judge_disk(&d, j->s->qemu_version, &j->v->unsafe);
		if (j->v->actions[i] != PREFLIGHT_LEAVE)
			j->v->copy_bytes += j->s->disks[i].allocated_bytes;
	}
	for (size_t i = 0; i < j->dom->n_disks; i++)
		judge_space(j, i);
}

json_t *preflight_disks_json(const struct preflight_source *s, const struct preflight_verdict *v)
{
	static const char *const names[] = {
		[PREFLIGHT_LEAVE] = "leave",
		[PREFLIGHT_CREATE] = "create",
		[PREFLIGHT_OVERWRITE] = "overwrite",
	};
	json_t *list = json_array();
	for (size_t i = 0; i < v->n_disks; i++) {
		const struct domain_disk *disk = &s->dom->disks[i];
		json_array_append_new(list, json_pack("{s:s,s:s,s:s?,s:s?,s:I,s:I}", "target", disk->target, "action",
						      names[v->actions[i]], "path", disk->path, "format", disk->format,
						      "virtual_bytes", (json_int_t)s->disks[i].virtual_bytes,
						      "allocated_bytes", (json_int_t)s->disks[i].allocated_bytes));
	}
	return list;
}
