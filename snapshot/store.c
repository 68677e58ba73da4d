#include "snapshot/store_impl.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const folders[] = { "journal", "heads", "files", "undo" };
static const char *const plain_files[] = { "catalogue.json", "catalogue.log", "vm.json", "lock" };
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static struct store *store_new(const char *dir, const struct store_opts *opts)
{
	struct store *s = mem_alloc(sizeof(*s));
	pthread_rwlockattr_t attr;

	s->dir = mem_strdup(dir);
	s->opts = opts ? *opts : (struct store_opts){ 0 };
	s->lock_fd = -1;
	pthread_mutex_init(&s->pruning, NULL);
	pthread_mutex_init(&s->applying, NULL);
	pthread_mutex_init(&s->saving, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_rwlockattr_init(&attr);
	/* Many readers must not keep the applier from going on. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&s->reading, &attr);
	pthread_rwlockattr_destroy(&attr);
	thread_cond_init(&s->changed);
	return s;
}

static void store_free(struct store *s)
{
	for (size_t i = 0; i < s->n_points; i++)
		store_entry_free(s->points[i]);
	for (size_t i = 0; i < s->n_pending; i++)
		store_pending_free(s->pending[i]);
	for (size_t i = 0; i < s->n_heads; i++)
		store_head_unref(s->heads[i]);
	store_layer_unref(s->publishing);
	store_volset_unref(s->volumes);
	store_volset_unref(s->applied_volumes);
	store_fileset_unref(s->files);
	store_fileset_unref(s->applied_files);
	store_journal_fini(&s->journal);
	store_catalogue_fini(&s->catalogue);
	free(s->unsynced_files);
	free(s->points);
	free(s->pending);
	free(s->heads);
	free(s->undos);
	json_decref(s->vm);
	fd_close(&s->lock_fd);
	pthread_cond_destroy(&s->changed);
	pthread_rwlock_destroy(&s->reading);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->saving);
	pthread_mutex_destroy(&s->applying);
	pthread_mutex_destroy(&s->pruning);
	free(s->dir);
	free(s);
}

static int take_lock(const char *dir, int *fd, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/lock", dir);

	*fd = sys.open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (*fd < 0)
		return err_sys(e, "open %s", path);
	if (flock(*fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		err_set(e, ERR_REFUSED, "%s: in use by another process", dir);
	else
		err_sys(e, "lock %s", path);
	fd_close(fd);
	return -1;
}

static int check_empty(const char *dir, struct err *e)
{
	DIR *d = opendir(dir);
	bool empty = true;

	if (!d)
		return errno == ENOENT ? 0 : err_sys(e, "open %s", dir);
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;)
		empty = empty && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
	closedir(d);
	return empty ? 0 : err_set(e, ERR_REFUSED, "%s: is not empty", dir);
}

static int make_folders(const char *dir, struct err *e)
{
	if (file_mkdirs(dir, 0700, e) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(folders); i++) {
		MEM_AUTO char *path = mem_printf("%s/%s", dir, folders[i]);
		if (file_mkdirs(path, 0700, e) < 0)
			return -1;
	}
	MEM_AUTO char *inside = mem_printf("%s/lock", dir);
	return file_sync_folder_of(inside, e) < 0 ? -1 : file_sync_folder_of(dir, e);
}

static int start(struct store *s, struct err *e)
{
	if (thread_start(&s->applier, "store-apply", store_apply_main, s, e) < 0)
		return -1;
	s->applier_runs = true;
	return 0;
}

struct store *store_create(const char *dir, const struct store_opts *opts, const json_t *vm, struct err *e)
{
	struct store *s = NULL;

	if (check_empty(dir, e) < 0 || make_folders(dir, e) < 0)
		return NULL;
	s = store_new(dir, opts);
	if (take_lock(dir, &s->lock_fd, e) < 0)
		goto fail;
	s->vm = vm ? json_deep_copy(vm) : json_object();
	if (!json_is_object(s->vm)) {
		err_set(e, ERR_CONFIG, "%s: what is known of the VM is not a JSON object", dir);
		goto fail;
	}
	if (getrandom(&s->id, sizeof(s->id), 0) != (ssize_t)sizeof(s->id) ||
	    getrandom(&s->salt, sizeof(s->salt), 0) != (ssize_t)sizeof(s->salt)) {
		err_sys(e, "random numbers");
		goto fail;
	}
	s->redo = s->saved_redo = (struct store_pos){ .segment = 1, .offset = STORE_SEG_HEAD };
	s->next_volume = s->applied_next_volume = 1;
	s->volumes = store_volset_new();
	s->applied_volumes = store_volset_ref(s->volumes);
	s->files = store_fileset_copy(NULL);
	s->applied_files = store_fileset_ref(s->files);
	store_journal_init(&s->journal, dir, s->id, s->opts.segment_bytes, &s->lock);
	if (store_meta_write_vm(s, e) < 0 || store_checkpoint(s, true, e) < 0 || start(s, e) < 0)
		goto fail;
	return s;
fail:
	store_free(s);
	return NULL;
}

/* Head images of volumes that only a transaction listed which never came to be, or that nobody lists any more. */
static void remove_strays(struct store *s)
{
	MEM_AUTO char *folder = mem_printf("%s/heads", s->dir);
	DIR *d = opendir(folder);

	if (!d)
		return;
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
		uint32_t id = 0;
		pthread_mutex_lock(&s->lock);
		const bool stray = sscanf(entry->d_name, "%" SCNu32 ".", &id) == 1 && !store_heads_find(s, id);
		pthread_mutex_unlock(&s->lock);
		MEM_AUTO char *path = mem_printf("%s/%s", folder, entry->d_name);
		if (stray)
			sys.unlink(path);
	}
	closedir(d);
}

static int open_head(struct store *s, const struct store_volset *set, bool known, struct err *e)
{
	for (size_t i = 0; i < set->n; i++)
		if (store_heads_ensure(s, set->v[i].id, known, e) < 0)
			return -1;
	return 0;
}

static int open_heads(struct store *s, struct err *e)
{
	if (open_head(s, s->applied_volumes, true, e) < 0)
		return -1;
	for (size_t i = 0; i < s->n_points; i++)
		if (open_head(s, s->points[i]->volumes, s->points[i]->seq <= s->applied, e) < 0)
			return -1;
	for (size_t i = 0; i < s->n_pending; i++)
		if (open_head(s, s->pending[i]->volumes, false, e) < 0)
			return -1;
	remove_strays(s);
	return 0;
}

static int load(struct store *s, struct err *e)
{
	unsigned format = 0;

	if (store_meta_read_vm(s, &format, e) < 0)
		return -1;
	s->catalogue.format_1 = format == STORE_FORMAT_1;
	if ((s->catalogue.format_1 ? store_meta_load_1(s, e) : store_catalogue_load(s, e)) < 0)
		return -1;
	s->last_point = s->n_points > 0 ? s->points[s->n_points - 1]->seq : 0;
	store_journal_init(&s->journal, s->dir, s->id, s->opts.segment_bytes, &s->lock);
	if (!s->catalogue.format_1)
		store_catalogue_remove_old(s); /* a crash came in between */
	return 0;
}

struct store *store_open(const char *dir, const struct store_opts *opts, struct err *e)
{
	struct store *s = store_new(dir, opts);

	if (take_lock(dir, &s->lock_fd, e) < 0 || load(s, e) < 0)
		goto fail;
	s->committed = s->applied;
	s->next_volume = s->applied_next_volume;
	s->volumes = store_volset_ref(s->applied_volumes);
	s->files = store_fileset_ref(s->applied_files);
	const struct store_pos was = s->redo;
	if (store_undo_scan(s, e) < 0 || store_recover(s, e) < 0 || open_heads(s, e) < 0 || store_rollback(s, e) < 0)
		goto fail;
	/* On a full disk it is opened all the same, for what frees space there, and for a failover: the next checkpoint does it. */
	if ((s->redo.segment != was.segment || s->catalogue.torn || s->catalogue.format_1) &&
	    store_checkpoint(s, true, e) < 0) {
		if (!store_may_pass(e))
			goto fail;
		err_clear(e);
	}
	store_files_collect(s);
	if (start(s, e) < 0)
		goto fail;
	return s;
fail:
	err_wrap(e, "replica %s", dir);
	store_free(s);
	return NULL;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	assert(!s->views && !s->txn);
	if (s->applier_runs) {
		pthread_mutex_lock(&s->lock);
		s->stopping = true;
		pthread_cond_broadcast(&s->changed);
		pthread_mutex_unlock(&s->lock);
		pthread_join(s->applier, NULL);
		struct err ignored = ERR_INIT; /* what is not saved is read in the journal again */
		if (s->applied > s->saved || s->catalogue.len > s->catalogue.whole_len)
			store_checkpoint(s, true, &ignored);
	}
	store_free(s);
}

static int remove_within(const char *folder, struct err *e)
{
	DIR *d = opendir(folder);
	int rc = 0;

	if (!d)
		return errno == ENOENT ? 0 : err_sys(e, "open %s", folder);
	for (const struct dirent *entry; rc == 0 && (entry = readdir(d)) != NULL;) {
		MEM_AUTO char *path = mem_printf("%s/%s", folder, entry->d_name);
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (sys.unlink(path) < 0)
			rc = err_sys(e, "remove %s", path);
	}
	closedir(d);
	if (rc == 0 && rmdir(folder) < 0)
		rc = err_sys(e, "remove %s", folder);
	return rc;
}

int store_destroy(const char *dir, struct err *e)
{
	FD_AUTO int fd = -1;

	if (access(dir, F_OK) < 0 && errno == ENOENT)
		return 0;
	if (take_lock(dir, &fd, e) < 0)
		return -1;
	/* Without its catalogue it is no store any more: first, so that half of one is never opened. */
	for (size_t i = 0; i < COUNT(plain_files); i++) {
		MEM_AUTO char *path = mem_printf("%s/%s", dir, plain_files[i]);
		if (i + 1 == COUNT(plain_files)) {
			for (size_t k = 0; k < COUNT(folders); k++) {
				MEM_AUTO char *folder = mem_printf("%s/%s", dir, folders[k]);
				if (remove_within(folder, e) < 0)
					return -1;
			}
		}
		if (file_remove_durable(path, e) < 0)
			return -1;
	}
	return remove_within(dir, e) < 0 ? -1 : file_sync_folder_of(dir, e);
}

const json_t *store_vm(const struct store *s)
{
	return s->vm;
}

uint64_t store_dropped_bytes(const struct store *s)
{
	return s->dropped_bytes;
}

bool store_was_damaged(const struct store *s)
{
	return s->damaged;
}

static int wait_applied(struct store *s, int64_t deadline_ns, struct err *e)
{
	THREAD_LOCKED(&s->lock);
	const uint64_t poke = ++s->poke;
	pthread_cond_broadcast(&s->changed);
	while (s->n_pending > 0 || s->busy) {
		if (err_is_set(&s->poison)) {
			*e = s->poison;
			return err_wrap(e, "%s: apply", s->dir);
		}
		/* An attempt that began after we came: not one that was failing already. */
		if (err_is_set(&s->stalled) && s->tried >= poke) {
			*e = s->stalled;
			return err_wrap(e, "%s: apply", s->dir);
		}
		if (thread_cond_wait_until(&s->changed, &s->lock, deadline_ns) == 0)
			continue;
		return err_set(e, ERR_CANCELLED, "%s: not all applied in time", s->dir);
	}
	return 0;
}

static bool is_saved(struct store *s)
{
	THREAD_LOCKED(&s->lock);
	return s->applied == s->saved;
}

int store_settle(struct store *s, int64_t deadline_ns, struct err *e)
{
	if (wait_applied(s, deadline_ns, e) < 0)
		return -1;
	return is_saved(s) || store_checkpoint(s, false, e) == 0 ? 0 : err_wrap(e, "%s: checkpoint", s->dir);
}

static uint64_t folder_bytes(const struct store *s, const char *name)
{
	MEM_AUTO char *folder = mem_printf("%s/%s", s->dir, name);
	DIR *d = opendir(folder);
	struct stat st;
	uint64_t n = 0;

	if (!d)
		return 0;
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;)
		if (fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
			n += (uint64_t)st.st_blocks * 512;
	closedir(d);
	return n;
}

int store_usage(struct store *s, struct store_usage *out, struct err *e)
{
	(void)e;
	*out = (struct store_usage){ .journal_bytes = store_journal_bytes(&s->journal),
				     .head_bytes = folder_bytes(s, "heads") + folder_bytes(s, "files") };
	THREAD_LOCKED(&s->lock);
	for (size_t i = 0; i < s->n_undos; i++)
		out->undo_bytes += store_undo_bytes(s, &s->undos[i]);
	out->pending_txns = s->n_pending;
	return 0;
}
