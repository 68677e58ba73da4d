#include "tools/bench/images.h"

#include "base/file.h"
#include "base/mem.h"
#include "snapshot/qemu_stream.h"

#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u
#define STREAM_PAGES_MAX (UINT64_C(1) << 24) /* 64 GiB */

static struct image *add(struct images *s, const char *name, size_t pages)
{
	s->image = mem_realloc_array(s->image, s->n + 1, sizeof(*s->image));
	struct image *im = &s->image[s->n++];
	*im = (struct image){ .pages = pages };
	const char *slash = strrchr(name, '/');
	snprintf(im->name, sizeof(im->name), "%.31s", slash ? slash + 1 : name);
	im->ram = mem_alloc_array(pages, PAGE);
	im->zero = mem_alloc_array(pages, sizeof(*im->zero));
	return im;
}

void images_fini(struct images *s)
{
	for (size_t i = 0; i < s->n; i++) {
		mem_free_ptr(&s->image[i].ram);
		mem_free_ptr(&s->image[i].zero);
		mem_free_ptr(&s->image[i].changed);
		mem_free_ptr(&s->image[i].changes);
	}
	mem_free_ptr(&s->image);
	s->n = 0;
}

static bool is_zero(const uint8_t *p)
{
	return p[0] == 0 && memcmp(p, p + 1, PAGE - 1) == 0;
}

static void find_zeros(struct image *im)
{
	for (size_t i = 0; i < im->pages; i++)
		im->zero[i] = is_zero(im->ram + i * PAGE);
}

static const uint8_t *map_file(const char *path, size_t *len, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		err_sys(e, "%s", path);
		return NULL;
	}
	struct stat st;
	const uint8_t *p = NULL;
	if (fstat(fd, &st) || st.st_size < (off_t)PAGE)
		err_set(e, ERR_CONFIG, "%s: cannot be read, or is shorter than a page", path);
	else if ((p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED) {
		err_sys(e, "%s", path);
		p = NULL;
	}
	close(fd);
	if (p)
		*len = (size_t)st.st_size;
	return p;
}

int images_add_file(struct images *s, const char *path, struct err *e)
{
	size_t len;
	const uint8_t *p = map_file(path, &len, e);
	if (!p)
		return -1;
	struct image *im = add(s, path, len / PAGE);
	memcpy(im->ram, p, im->pages * PAGE);
	find_zeros(im);
	munmap((void *)(uintptr_t)p, len);
	return 0;
}

/* ---- a recorded stream ---- */

struct reading {
	struct image *im;
	uint8_t *came; /* per page of block 0: it has come already */
	size_t room;   /* for changes */
};

static int on_literal(void *ctx, const uint8_t *p, size_t n)
{
	(void)ctx;
	(void)p;
	(void)n;
	return 0;
}

static int on_page(void *ctx, uint32_t block, uint64_t addr, bool cont, const uint8_t *data)
{
	struct reading *r = ctx;
	struct image *im = r->im;
	uint64_t no = addr / PAGE;
	(void)cont;
	if (block != 0 || no >= im->pages)
		return 0;
	if (!r->came[no]) {
		r->came[no] = 1;
		memcpy(im->ram + no * PAGE, data, PAGE);
		return 0;
	}
	if (im->n_changed == r->room) {
		r->room = r->room ? 2 * r->room : 1024;
		im->changed = mem_realloc_array(im->changed, r->room, sizeof(*im->changed));
		im->changes = mem_realloc_array(im->changes, r->room, PAGE);
	}
	im->changed[im->n_changed] = no;
	memcpy(im->changes + im->n_changed * PAGE, data, PAGE);
	im->n_changed++;
	return 0;
}

static int on_zero(void *ctx, uint32_t block, uint64_t addr)
{
	struct reading *r = ctx;
	if (block == 0 && addr / PAGE < r->im->pages)
		r->came[addr / PAGE] = 1;
	return 0;
}

int images_add_stream(struct images *s, const char *path, struct err *e)
{
	size_t len, at = 0, used;
	const uint8_t *p = map_file(path, &len, e);
	if (!p)
		return -1;
	struct reading r = { 0 };
	const struct qemu_stream_sink sink = { on_literal, on_page, on_zero, NULL, &r };
	struct qemu_stream *stream = qemu_stream_new(&sink);
	/* The head of the stream first, to know how much RAM there is. */
	size_t head = len < 4400 ? len : 4400;
	struct image empty = { .pages = 0 };
	struct reading none = { .im = &empty };
	struct qemu_stream_sink to_none = sink;
	to_none.ctx = &none;
	struct qemu_stream *probe = qemu_stream_new(&to_none);
	qemu_stream_feed(probe, p, head);
	uint64_t pages = qemu_stream_ram_bytes(probe) / PAGE;
	qemu_stream_free(probe);
	int rc = 0;
	if (pages == 0 || pages > STREAM_PAGES_MAX) {
		rc = err_set(e, ERR_CONFIG, "%s: not a migration stream that this program knows", path);
	} else {
		r.im = add(s, path, (size_t)pages);
		r.came = mem_alloc((size_t)pages);
		while (at < len && (used = qemu_stream_feed(stream, p + at, len - at)) > 0)
			at += used;
		find_zeros(r.im);
		mem_free_ptr(&r.came);
	}
	qemu_stream_free(stream);
	munmap((void *)(uintptr_t)p, len);
	return rc;
}

/* ---- images made here ---- */

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Shared libraries of this machine, as a guest's page cache would hold them. Returns how many bytes there were. */
static size_t read_programs(uint8_t *to, size_t want)
{
	glob_t found;
	size_t have = 0;
	if (glob("/usr/lib/*-linux-gnu/*.so*", 0, NULL, &found) == 0) {
		for (size_t i = 0; i < found.gl_pathc && have < want; i++) {
			struct stat st;
			int fd = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				continue;
			/* No single file may be most of it. */
			size_t cap = want - have < want / 8 ? want - have : want / 8;
			ssize_t n = fstat(fd, &st) || !S_ISREG(st.st_mode) ? 0 : read(fd, to + have, cap);
			if (n > 0)
				have += ((size_t)n + PAGE - 1) / PAGE * PAGE;
			close(fd);
		}
		globfree(&found);
	}
	return have < want ? have : want;
}

/* Objects of an allocator: pointers into the same heap, small numbers, flags, unused words. */
static void make_heap(uint64_t *w, size_t words, uint64_t *rnd)
{
	uint64_t base = 0x7f3a00000000 + (next_random(rnd) & 0xfff000000);
	for (size_t i = 0; i < words; i++) {
		uint64_t r = next_random(rnd);
		switch (r % 8) {
		case 0:
		case 1:
			w[i] = base + (r >> 40) * 16;
			break;
		case 2:
			w[i] = r >> 56;
			break;
		case 3:
			w[i] = r >> 44;
			break;
		case 4:
			w[i] = base;
			break;
		default:
			w[i] = 0;
			break;
		}
	}
}

/* Records as a database would keep them. */
static void make_record(char *to, size_t len, uint64_t *rnd)
{
	static const char *const names[] = { "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi" };
	size_t at = 0;
	while (at < len) {
		char text[200];
		uint64_t r = next_random(rnd);
		int n = snprintf(text, sizeof(text),
				 "{\"id\":%u,\"name\":\"%s\",\"balance\":%u,\"token\":\"%016llx\",\"seen\":17%08u},",
				 (unsigned)(r % 100000), names[r >> 61], (unsigned)(r >> 20 & 0xffffff),
				 (unsigned long long)next_random(rnd), (unsigned)(r >> 33));
		size_t k = (size_t)n < len - at ? (size_t)n : len - at;
		memcpy(to + at, text, k);
		at += k;
	}
}

static void make_random(uint8_t *to, size_t len, uint64_t *rnd)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t r = next_random(rnd);
		memcpy(to + i, &r, 8);
	}
}

/* A third empty; the rest programs, heap, records, repeated pages, and a little that does not compress. */
static void make_ram(struct image *im)
{
	uint64_t rnd = UINT64_C(88172645463325252);
	size_t used = im->pages * 2 / 3;
	size_t programs = read_programs(im->ram, used / 2 * PAGE) / PAGE;
	for (size_t i = programs; i < used; i++) {
		uint8_t *p = im->ram + i * PAGE;
		unsigned kind = (unsigned)(next_random(&rnd) % 20);
		if (kind < 9)
			make_heap((uint64_t *)(void *)p, PAGE / 8, &rnd);
		else if (kind < 16)
			make_record((char *)p, PAGE, &rnd);
		else if (kind < 18 && i > 16)
			memcpy(p, im->ram + (size_t)(next_random(&rnd) % i) * PAGE, PAGE);
		else
			make_random(p, PAGE, &rnd);
	}
	find_zeros(im);
}

enum change { CHANGE_UPDATE, CHANGE_COUNTER, CHANGE_RANDOM };

/* Every fifth page or so, in ascending order as QEMU sends them. */
static void make_changes(struct image *im, enum change change)
{
	uint64_t rnd = 1234567;
	im->changed = mem_alloc_array(im->pages, sizeof(*im->changed));
	im->changes = mem_alloc_array(im->pages, PAGE);
	for (size_t i = 0; i < im->pages; i++) {
		if (im->zero[i] || next_random(&rnd) % 5)
			continue;
		uint8_t *p = im->changes + im->n_changed * PAGE;
		memcpy(p, im->ram + i * PAGE, PAGE);
		if (change == CHANGE_COUNTER) {
			uint64_t n;
			memcpy(&n, p, 8);
			n += 1 + next_random(&rnd) % 3;
			memcpy(p, &n, 8);
		} else if (change == CHANGE_RANDOM) {
			make_random(p, PAGE, &rnd);
		} else {
			size_t at = next_random(&rnd) % (PAGE - 256);
			make_record((char *)p + at, 40 + next_random(&rnd) % 200, &rnd);
			for (unsigned k = 0; k < 6; k++) {
				uint64_t pointer = 0x7f3a00000000 + (next_random(&rnd) & 0xfffff0);
				memcpy(p + (next_random(&rnd) % (PAGE / 8)) * 8, &pointer, 8);
			}
		}
		im->changed[im->n_changed++] = i;
	}
}

void images_make(struct images *s, size_t mib)
{
	static const char *const names[] = { "update", "counters", "random" };
	for (unsigned i = 0; i < 3; i++) {
		struct image *im = add(s, names[i], mib << 8);
		make_ram(im);
		make_changes(im, (enum change)i);
	}
}
