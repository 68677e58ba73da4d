#include "snapshot/stage.h"

#include "base/fd.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	CHUNK_PAGES = 256,
	CHUNK = CHUNK_PAGES * PAGE,
};

struct where {
	uint64_t block;
	uint32_t volume;
};

struct chunk {
	uint8_t *data; /* NULL: at `number` * CHUNK in the file */
	size_t n;
	struct where where[CHUNK_PAGES];
};

struct zero_run {
	uint64_t block, n;
	uint32_t volume;
};

struct stage {
	uint64_t soft_bytes, hard_bytes;
	char *folder;
	struct chunk **chunks; /* n_used of them hold something; those behind are kept for later */
	size_t n_used, n_chunks;
	uint8_t **idle; /* memory without a chunk */
	size_t n_idle;
	size_t in_memory; /* chunks with memory, and idle memory */
	struct zero_run *zeros;
	size_t n_zeros, cap_zeros;
	uint64_t bytes;
	int file; /* -1: none yet */
};

struct stage *stage_new(uint64_t soft_bytes, uint64_t hard_bytes, const char *folder)
{
	struct stage *s = mem_alloc(sizeof(*s));
	s->soft_bytes = soft_bytes < CHUNK ? CHUNK : soft_bytes;
	s->hard_bytes = hard_bytes;
	s->folder = mem_strdup(folder);
	s->file = -1;
	return s;
}

static void put_idle(struct stage *s, uint8_t *data)
{
	s->idle = mem_realloc_array(s->idle, s->n_idle + 1, sizeof(*s->idle));
	s->idle[s->n_idle++] = data;
}

static uint8_t *map_chunk(struct stage *s, struct err *e)
{
	void *p = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		err_sys(e, "memory to stage a checkpoint");
		return NULL;
	}
	s->in_memory++;
	return p;
}

static void drop_idle(struct stage *s)
{
	munmap(s->idle[--s->n_idle], CHUNK);
	s->in_memory--;
}

void stage_free(struct stage *s)
{
	if (!s)
		return;
	stage_reset(s);
	while (s->n_idle > 0)
		drop_idle(s);
	for (size_t i = 0; i < s->n_chunks; i++)
		free(s->chunks[i]);
	fd_close(&s->file);
	free(s->chunks);
	free(s->idle);
	free(s->zeros);
	free(s->folder);
	free(s);
}

void stage_warm(struct stage *s, uint64_t bytes)
{
	struct err e = ERR_INIT;
	while ((uint64_t)s->in_memory * CHUNK < bytes && (uint64_t)s->in_memory * CHUNK < s->soft_bytes) {
		uint8_t *p = map_chunk(s, &e);
		if (!p)
			return;
		for (size_t i = 0; i < CHUNK; i += PAGE)
			((volatile uint8_t *)p)[i] = 0;
		put_idle(s, p);
	}
}

static int open_file(struct stage *s, struct err *e)
{
	if (s->file >= 0)
		return 0;
	s->file = open(s->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (s->file < 0)
		return err_sys(e, "a file in %s to stage a checkpoint", s->folder);
	return 0;
}

/* Moves the last chunk, which is full, to the file; its memory is idle then. */
static int spill_last(struct stage *s, struct err *e)
{
	struct chunk *c = s->chunks[s->n_used - 1];
	off_t at = (off_t)(s->n_used - 1) * CHUNK;
	if (open_file(s, e))
		return -1;
	for (size_t done = 0; done < CHUNK;) {
		ssize_t n = pwrite(s->file, c->data + done, CHUNK - done, at + (off_t)done);
		if (n < 0 && errno != EINTR)
			return err_sys(e, "stage a checkpoint in %s", s->folder);
		done += n > 0 ? (size_t)n : 0;
	}
	put_idle(s, c->data);
	c->data = NULL;
	return 0;
}

static int too_much(struct stage *s, struct err *e)
{
	err_set(e, ERR_REFUSED, "more than %llu MiB were written since the last checkpoint: it cannot be staged",
		(unsigned long long)(s->hard_bytes >> 20));
	e->errnum = ENOBUFS;
	err_remedy(e, "raise the memory for staging, or replicate more often");
	return -1;
}

static struct chunk *next_chunk(struct stage *s, struct err *e)
{
	if (s->bytes >= s->hard_bytes) {
		(void)too_much(s, e);
		return NULL;
	}
	if (s->n_idle == 0 && s->folder && s->n_used > 0 && (uint64_t)(s->in_memory + 1) * CHUNK > s->soft_bytes &&
	    spill_last(s, e))
		return NULL;
	uint8_t *data = s->n_idle > 0 ? s->idle[--s->n_idle] : map_chunk(s, e);
	if (!data)
		return NULL;
	if (s->n_used == s->n_chunks) {
		s->chunks = mem_realloc_array(s->chunks, s->n_chunks + 1, sizeof(struct chunk *));
		s->chunks[s->n_chunks++] = mem_alloc(sizeof(struct chunk));
	}
	struct chunk *c = s->chunks[s->n_used++];
	c->data = data;
	c->n = 0;
	return c;
}

int stage_page(struct stage *s, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	struct chunk *c = s->n_used ? s->chunks[s->n_used - 1] : NULL;
	if (!c || c->n == CHUNK_PAGES) {
		c = next_chunk(s, e);
		if (!c)
			return -1;
	}
	memcpy(c->data + c->n * PAGE, data, PAGE);
	c->where[c->n++] = (struct where){ block, volume };
	s->bytes += PAGE;
	return 0;
}

int stage_zero(struct stage *s, uint32_t volume, uint64_t block, struct err *e)
{
	struct zero_run *last = s->n_zeros ? &s->zeros[s->n_zeros - 1] : NULL;
	if (last && last->volume == volume && last->block + last->n == block) {
		last->n++;
		return 0;
	}
	if (s->n_zeros == s->cap_zeros) {
		if (s->n_zeros * sizeof(*s->zeros) >= s->hard_bytes)
			return too_much(s, e);
		s->cap_zeros = s->cap_zeros ? s->cap_zeros * 2 : 256;
		s->zeros = mem_realloc_array(s->zeros, s->cap_zeros, sizeof(*s->zeros));
	}
	s->zeros[s->n_zeros++] = (struct zero_run){ block, 1, volume };
	return 0;
}

uint64_t stage_bytes(const struct stage *s)
{
	uint64_t sum = s->bytes;
	for (size_t i = 0; i < s->n_zeros; i++)
		sum += s->zeros[i].n * PAGE;
	return sum;
}

static int read_back(struct stage *s, size_t number, uint8_t *out, struct err *e)
{
	off_t at = (off_t)number * CHUNK;
	for (size_t done = 0; done < CHUNK;) {
		ssize_t n = pread(s->file, out + done, CHUNK - done, at + (off_t)done);
		if (n == 0)
			return err_set(e, ERR_CORRUPT, "the file in %s that stages a checkpoint is too short",
				       s->folder);
		if (n < 0 && errno != EINTR)
			return err_sys(e, "read back a checkpoint from %s", s->folder);
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

int stage_give(struct stage *s, const struct capture_sink *sink, struct err *e)
{
	MEM_AUTO uint8_t *back = NULL;
	for (size_t i = 0; i < s->n_zeros; i++) {
		const struct zero_run *z = &s->zeros[i];
		if (sink->zero(sink->ctx, z->volume, z->block, z->n, e))
			return -1;
	}
	for (size_t i = 0; i < s->n_used; i++) {
		const struct chunk *c = s->chunks[i];
		const uint8_t *data = c->data;
		if (!data) {
			if (!back)
				back = mem_try(CHUNK, 1, "a staged checkpoint", e);
			if (!back || read_back(s, i, back, e))
				return -1;
			data = back;
		}
		for (size_t k = 0; k < c->n; k++)
			if (sink->page(sink->ctx, c->where[k].volume, c->where[k].block, data + k * PAGE, e))
				return -1;
	}
	return 0;
}

void stage_reset(struct stage *s)
{
	for (size_t i = 0; i < s->n_used; i++)
		if (s->chunks[i]->data)
			put_idle(s, s->chunks[i]->data);
	s->n_used = 0;
	s->n_zeros = 0;
	s->bytes = 0;
	while (s->n_idle > 0 && (uint64_t)s->in_memory * CHUNK > s->soft_bytes)
		drop_idle(s);
	if (s->file >= 0)
		(void)!ftruncate(s->file, 0);
}
