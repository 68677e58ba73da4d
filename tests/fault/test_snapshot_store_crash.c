/* Power cuts: everything a store does to its folder is recorded, and for every moment the folder is put together as a disk could
 * have it then: all that was done, or with some of what was not synced missing. Then it is opened: no acknowledged transaction
 * is lost, and every point reads right.  Data of a file is certain once the file was synced after it; names are certain once
 * their folder was, and come about in order. */
#include "tests/unit/store_model.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPS_MAX 20000
#define FDS_MAX 1024
#define INODES_MAX 2000
#define SIZE_MAX_FILE (1u << 20)

enum op_kind { DATA, LENGTH, HOLE, SYNC, NAME, RENAME, UNNAME, FOLDER_SYNC, ACK, PRUNE };
struct op {
	enum op_kind kind;
	int inode;
	uint64_t at, len;
	uint8_t *data;
	char *name, *to;
	uint64_t seq;
};
static struct op ops[OPS_MAX];
static size_t n_ops;
static struct {
	char *path;
	int inode;
} names[INODES_MAX];
static size_t n_names;
static int n_inodes, fd_inode[FDS_MAX];
static off_t fd_at[FDS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sys_calls kernel;
static char base[64], dir[96], copy[96];
static const struct store_opts small_segments = { .segment_bytes = 150000 };

/* What the store held after each transaction. */
static struct model_state *states[64];
static bool is_point[64];

static struct op *record(enum op_kind kind, int inode)
{
	ck_assert_uint_lt(n_ops, OPS_MAX);
	struct op *o = &ops[n_ops++];
	*o = (struct op){ .kind = kind, .inode = inode };
	return o;
}

/* Of a path, what comes after the store's folder; NULL: is the folder, or elsewhere. */
static const char *inside(const char *path)
{
	const size_t n = strlen(dir);
	return strncmp(path, dir, n) == 0 && path[n] == '/' ? path + n + 1 : NULL;
}

static int *inode_of(const char *path)
{
	for (size_t i = 0; i < n_names; i++)
		if (strcmp(names[i].path, path) == 0)
			return &names[i].inode;
	return NULL;
}

static void forget(const char *path)
{
	for (size_t i = 0; i < n_names; i++)
		if (strcmp(names[i].path, path) == 0) {
			free(names[i].path);
			names[i] = names[--n_names];
			return;
		}
}

static int seen_open(const char *p, int flags, mode_t mode)
{
	THREAD_LOCKED(&lock);
	const int fd = kernel.open(p, flags, mode);
	const char *in = inside(p);

	if (fd < 0 || fd >= FDS_MAX)
		return fd;
	fd_inode[fd] = -1;
	fd_at[fd] = 0;
	if (!in || (flags & O_DIRECTORY))
		return fd;
	int *known = inode_of(in);
	if (!known) {
		names[n_names].path = mem_strdup(in);
		names[n_names++].inode = n_inodes++;
		known = &names[n_names - 1].inode;
		record(NAME, *known)->name = mem_strdup(in);
	} else if (flags & O_TRUNC) {
		record(LENGTH, *known);
	}
	fd_inode[fd] = *known;
	return fd;
}

static void record_data(int fd, const void *buf, size_t n, off_t at)
{
	if (fd < 0 || fd >= FDS_MAX || fd_inode[fd] < 0)
		return;
	struct op *o = record(DATA, fd_inode[fd]);
	o->at = (uint64_t)at;
	o->len = n;
	o->data = mem_alloc(n);
	memcpy(o->data, buf, n);
}
static ssize_t seen_write(int fd, const void *buf, size_t n)
{
	THREAD_LOCKED(&lock);
	const ssize_t w = kernel.write(fd, buf, n);
	if (w > 0) {
		record_data(fd, buf, (size_t)w, fd_at[fd]);
		fd_at[fd] += w;
	}
	return w;
}
static ssize_t seen_pwrite(int fd, const void *buf, size_t n, off_t at)
{
	THREAD_LOCKED(&lock);
	const ssize_t w = kernel.pwrite(fd, buf, n, at);
	if (w > 0)
		record_data(fd, buf, (size_t)w, at);
	return w;
}
static int seen_fallocate(int fd, int mode, off_t at, off_t n)
{
	THREAD_LOCKED(&lock);
	const int rc = kernel.fallocate(fd, mode, at, n);
	if (rc == 0 && fd_inode[fd] >= 0) {
		struct op *o = record(HOLE, fd_inode[fd]);
		o->at = (uint64_t)at;
		o->len = (uint64_t)n;
	}
	return rc;
}
static int seen_ftruncate(int fd, off_t len)
{
	THREAD_LOCKED(&lock);
	const int rc = kernel.ftruncate(fd, len);
	if (rc == 0 && fd_inode[fd] >= 0)
		record(LENGTH, fd_inode[fd])->len = (uint64_t)len;
	return rc;
}
static int seen_sync(int fd)
{
	struct stat st;
	char path[200], link[64];

	THREAD_LOCKED(&lock);
	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		const ssize_t n = readlink(link, path, sizeof(path) - 1);
		ck_assert_int_gt(n, 0);
		path[n] = '\0';
		const char *in = inside(path);
		record(FOLDER_SYNC, -1)->name = mem_strdup(in ? in : "");
	} else if (fd_inode[fd] >= 0) {
		record(SYNC, fd_inode[fd]);
	}
	return 0;
}
static int seen_rename(const char *from, const char *to)
{
	THREAD_LOCKED(&lock);
	const int rc = kernel.rename(from, to);
	const char *f = inside(from), *t = inside(to);
	if (rc == 0 && f && t) {
		const int *known = inode_of(f);
		ck_assert_ptr_nonnull(known);
		const int inode = known ? *known : 0;
		struct op *o = record(RENAME, inode);
		o->name = mem_strdup(f);
		o->to = mem_strdup(t);
		forget(t);
		forget(f);
		names[n_names].path = mem_strdup(t);
		names[n_names++].inode = inode;
	}
	return rc;
}
static int seen_unlink(const char *p)
{
	THREAD_LOCKED(&lock);
	const int rc = kernel.unlink(p);
	const char *in = inside(p);
	if (rc == 0 && in) {
		record(UNNAME, -1)->name = mem_strdup(in);
		forget(in);
	}
	return rc;
}
/* A descriptor that is used again has another file: its number is set at opening. */

static void set_up(void)
{
	kernel = sys;
	model_folder(base);
	snprintf(dir, sizeof(dir), "%s/web1", base);
	snprintf(copy, sizeof(copy), "%s/copy", base);
	for (int i = 0; i < FDS_MAX; i++)
		fd_inode[i] = -1;
	sys.open = seen_open;
	sys.write = seen_write;
	sys.pwrite = seen_pwrite;
	sys.fallocate = seen_fallocate;
	sys.ftruncate = seen_ftruncate;
	sys.fsync = seen_sync;
	sys.fdatasync = seen_sync;
	sys.rename = seen_rename;
	sys.unlink = seen_unlink;
}

static void tear_down(void)
{
	sys = kernel;
	model_remove_folder(base);
}

static void mark(enum op_kind kind, uint64_t seq)
{
	THREAD_LOCKED(&lock);
	record(kind, -1)->seq = seq;
}

/* The history whose every moment is looked at. */
static size_t record_history(uint64_t seed)
{
	struct model m;
	struct err e = ERR_INIT;
	struct store *s = store_create(dir, &small_segments, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	pthread_mutex_lock(&lock);
	const size_t first = n_ops;
	pthread_mutex_unlock(&lock);
	model_init(&m, seed);
	for (int step = 0; step < 10; step++) {
		const enum store_txn_kind kind = model_below(&m, 3) ? STORE_TXN_POINT : STORE_TXN_PART;
		OK(model_txn(&m, s, kind, &e), e);
		states[m.now.seq] = mem_alloc(sizeof(struct model_state));
		*states[m.now.seq] = m.now;
		is_point[m.now.seq] = kind == STORE_TXN_POINT;
		mark(ACK, m.now.seq);
		if (step % 4 == 2)
			OK(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e), e);
		if (step % 4 == 3) {
			struct model before = m;
			for (size_t i = 0; i < m.n_points; i++)
				before.points[i] = m.points[i];
			size_t kept = 0;
			for (size_t i = 0; i < m.n_points; i++) {
				if (i + 1 < m.n_points && model_below(&m, 2))
					mark(PRUNE, m.points[i]->seq);
				else
					before.points[kept++] = m.points[i];
			}
			before.n_points = kept;
			OK(store_prune(s, model_keep, &before, &e), e);
			for (size_t i = 0; i < m.n_points; i++) {
				bool stays = false;
				for (size_t j = 0; j < kept; j++)
					stays |= before.points[j] == m.points[i];
				if (!stays)
					free(m.points[i]);
			}
			memcpy(m.points, before.points, sizeof(m.points));
			m.n_points = kept;
		}
	}
	model_fini(&m);
	store_close(s);
	return first;
}

struct disk {
	uint8_t *data[INODES_MAX];
	uint64_t len[INODES_MAX];
	struct {
		const char *path;
		int inode;
	} names[INODES_MAX];
	size_t n_names;
};

static void disk_data(struct disk *d, const struct op *o, uint64_t len)
{
	ck_assert_uint_le(o->at + o->len, SIZE_MAX_FILE);
	if (!d->data[o->inode])
		d->data[o->inode] = mem_alloc(SIZE_MAX_FILE);
	uint8_t *p = d->data[o->inode];
	if (o->kind == LENGTH) {
		if (o->len < d->len[o->inode])
			memset(p + o->len, 0, d->len[o->inode] - o->len);
		d->len[o->inode] = o->len;
	} else if (o->kind == HOLE) {
		memset(p + o->at, 0, o->len);
	} else {
		memcpy(p + o->at, o->data, len);
		if (o->at + len > d->len[o->inode])
			d->len[o->inode] = o->at + len;
	}
}

static void disk_unname(struct disk *d, const char *path)
{
	for (size_t i = 0; i < d->n_names; i++)
		if (strcmp(d->names[i].path, path) == 0) {
			d->names[i] = d->names[--d->n_names];
			return;
		}
}

static void disk_name(struct disk *d, const struct op *o)
{
	if (o->kind != NAME)
		disk_unname(d, o->name);
	if (o->kind == UNNAME)
		return;
	const char *path = o->kind == NAME ? o->name : o->to;
	disk_unname(d, path);
	d->names[d->n_names].path = path;
	d->names[d->n_names++].inode = o->inode;
}

static bool in_folder(const char *path, const char *folder)
{
	const char *slash = strrchr(path, '/');
	const size_t n = slash ? (size_t)(slash - path) : 0;
	return strlen(folder) == n && strncmp(path, folder, n) == 0;
}

/* Whether a sync between the operation and the moment made it certain. */
static bool certain(size_t i, size_t moment)
{
	for (size_t k = i + 1; k < moment; k++) {
		if (ops[i].kind <= HOLE && ops[k].kind == SYNC && ops[k].inode == ops[i].inode)
			return true;
		if (ops[i].kind >= NAME && ops[i].kind <= UNNAME && ops[k].kind == FOLDER_SYNC &&
		    in_folder(ops[i].name, ops[k].name))
			return true;
	}
	return false;
}

static void write_disk(const struct disk *d)
{
	model_clear(copy);
	for (size_t i = 0; i < d->n_names; i++) {
		MEM_AUTO char *path = mem_printf("%s/%s", copy, d->names[i].path);
		FILE *f = fopen(path, "wb");
		ck_assert_ptr_nonnull(f);
		const int inode = d->names[i].inode;
		if (d->len[inode] > 0)
			ck_assert_uint_eq(fwrite(d->data[inode], 1, d->len[inode], f), d->len[inode]);
		fclose(f);
	}
}

static bool changes_disk(const struct op *o)
{
	return o->kind <= HOLE || (o->kind >= NAME && o->kind <= UNNAME);
}

/* The folder at that moment, with some of what was not certain missing: what is there may have been written in any order. */
static void cut_power(size_t moment, struct model *rnd)
{
	static struct disk d;
	/* Names come about in order: up to here. */
	const size_t named = model_below(rnd, (uint32_t)moment + 1);

	for (size_t i = 0; i < moment; i++) {
		const struct op *o = &ops[i];
		if (o->kind <= HOLE) {
			const bool sure = certain(i, moment), keep = sure || model_below(rnd, 2);
			const bool torn = !sure && o->len > 512 && model_below(rnd, 4) == 0;
			if (keep)
				disk_data(&d, o,
					  torn && o->kind == DATA ? 512u * model_below(rnd, (uint32_t)(o->len / 512))
								  : o->len);
		} else if (changes_disk(o) && (i < named || certain(i, moment))) {
			disk_name(&d, o);
		}
	}
	write_disk(&d);
	for (int i = 0; i < n_inodes; i++)
		free(d.data[i]);
	memset(&d, 0, sizeof(d));
}

static void check(size_t moment, const char *how)
{
	struct err e = ERR_INIT;
	struct store_point *p = NULL;
	size_t n = 0;
	uint64_t acked = 0;
	bool must[64] = { false };

	for (size_t i = 0; i < moment; i++) {
		if (ops[i].kind == ACK) {
			acked = ops[i].seq;
			must[acked] = is_point[acked];
		} else if (ops[i].kind == PRUNE) {
			must[ops[i].seq] = false;
		}
	}
	struct store *s = store_open(copy, &small_segments, &e);
	ck_assert_msg(s != NULL, "moment %zu, %s: %s", moment, how, e.text);
	for (int pass = 0; pass < 2; pass++) {
		OK(store_points(s, &p, &n, &e), e);
		bool there[64] = { false };
		for (size_t i = 0; i < n; i++) {
			there[p[i].seq] = true;
			ck_assert_msg(states[p[i].seq] && is_point[p[i].seq], "moment %zu, %s: point %d was never made",
				      moment, how, (int)p[i].seq);
			struct store_view *v = store_view_open(s, p[i].seq, &e);
			ck_assert_msg(v != NULL, "moment %zu, %s: %s", moment, how, e.text);
			model_compare(states[p[i].seq], v);
			store_view_close(v);
		}
		store_points_free(p, n);
		for (int i = 0; i < 64; i++)
			ck_assert_msg(!must[i] || there[i], "moment %zu, %s: point %d is lost", moment, how, i);
		struct store_view *v = store_view_newest(s, &e);
		ck_assert_uint_ge(store_view_seq(v), acked);
		if (store_view_seq(v) > 0)
			model_compare(states[store_view_seq(v)], v);
		store_view_close(v);
		ck_assert_msg(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e) == 0, "moment %zu, %s: %s", moment,
			      how, e.text);
	}
	ck_assert_msg(store_verify(s, NULL, NULL, &e) == 0, "moment %zu, %s: %s", moment, how, e.text);
	store_close(s);
}

static void no_more_recording(void)
{
	sys = kernel;
	model_no_sync();
}

#define PARTS 4 /* of the moments, each a test */

/* Every prefix of what was done, and of the write that came next. */
START_TEST(every_moment)
{
	static struct disk d;
	const size_t first = record_history(2);
	struct model rnd;
	size_t seen = 0;

	no_more_recording();
	model_init(&rnd, 1);
	ck_assert_uint_gt(n_ops, first + 100);
	for (size_t moment = 0; moment <= n_ops; moment++) {
		const struct op *next = moment < n_ops ? &ops[moment] : NULL;
		if (next && !changes_disk(next))
			continue;
		if (moment >= first && seen++ % PARTS == (size_t)_i) {
			write_disk(&d);
			check(moment, "all before it");
			if (next && next->kind == DATA && next->len > 1) {
				disk_data(&d, next, 1 + model_below(&rnd, (uint32_t)next->len - 1));
				write_disk(&d);
				check(moment, "and a part of the next write");
			}
		}
		if (next && next->kind <= HOLE)
			disk_data(&d, next, next->len);
		else if (next)
			disk_name(&d, next);
	}
	for (int i = 0; i < n_inodes; i++)
		free(d.data[i]);
}
END_TEST

START_TEST(what_was_not_synced_may_be_missing)
{
	const size_t first = record_history((uint64_t)_i + 10);
	struct model rnd;

	no_more_recording();
	model_init(&rnd, (uint64_t)_i + 10);
	for (int i = 0; i < 80; i++) {
		const size_t moment = first + model_below(&rnd, (uint32_t)(n_ops - first + 1));
		cut_power(moment, &rnd);
		check(moment, "some of it missing");
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store_crash");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	/* Where threads are watched, which is slow and about something else, a quarter does. */
#ifdef __SANITIZE_THREAD__
	tcase_add_loop_test(t, every_moment, 0, 1);
#else
	tcase_add_loop_test(t, every_moment, 0, PARTS);
#endif
	tcase_add_loop_test(t, what_was_not_synced_may_be_missing, 0, 3);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
