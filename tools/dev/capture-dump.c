/*
 * capture-dump VM [OPTION...] - captures a running VM again and again into memory, and says what came and how long the
 * VM stood still.
 *
 *   --mode auto|colo|background|disk   default auto
 *   --points N                         default 3
 *   --every MS                         from checkpoint to checkpoint, default 0
 *   --staging MIB                      memory for a checkpoint
 *   --folder DIR                       for overlays, default /var/tmp
 *   --sector PAGES                     the guest is the lab's boot sector that writes PAGES: every point must be one instant of it
 *   --out DIR                          after the last point: ram and disks as DIR/NAME.raw, files as DIR/NAME
 *   --hook COMMAND                     run after every point, with its number
 *   --tcg-colo                         COLO of an emulated VM, whose QEMU would hang without help
 *   --clean-up                         only remove what a capture left in the VM
 *   --uri URI                          default qemu:///system
 *
 * Prints key=value lines. Status 0: all points came and what was checked holds; 3: not now (the VM is paused); 1:
 * anything else.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "migrator/guest_virt.h"
#include "snapshot/capture.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MAX_VOLUMES 128

struct dump {
	struct capture_volume v[MAX_VOLUMES];
	uint8_t *data[MAX_VOLUMES]; /* sparse */
	size_t n;
	uint64_t pages, zeros, disk_blocks, disk_zeros;
	uint64_t arms;
	bool armed;
	struct {
		char name[64];
		uint8_t *data;
		size_t len;
	} files[16];
	size_t n_files;
};

static uint64_t padded(uint64_t size)
{
	return (size + 4095) / 4096 * 4096;
}

static int on_volumes(void *ctx, const struct capture_volume *v, size_t n, struct err *e)
{
	struct dump *d = ctx;
	if (n > MAX_VOLUMES)
		return err_set(e, ERR_REFUSED, "%zu volumes", n);
	if (n == d->n && memcmp(v, d->v, n * sizeof(*v)) == 0)
		return 0;
	for (size_t i = 0; i < n; i++) {
		if (i < d->n && d->v[i].size_bytes == v[i].size_bytes && strcmp(d->v[i].name, v[i].name) == 0)
			continue;
		if (i < d->n)
			munmap(d->data[i], padded(d->v[i].size_bytes));
		d->data[i] = mmap(NULL, padded(v[i].size_bytes), PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (d->data[i] == MAP_FAILED)
			return err_sys(e, "memory for %s", v[i].name);
		printf("volume=%zu kind=%s name=%s bytes=%" PRIu64 "\n", i, v[i].ram ? "ram" : "disk", v[i].name,
		       v[i].size_bytes);
	}
	memcpy(d->v, v, n * sizeof(*v));
	d->n = n;
	return 0;
}

static int on_page(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	struct dump *d = ctx;
	if (volume >= d->n || block >= padded(d->v[volume].size_bytes) / 4096)
		return err_set(e, ERR_CORRUPT, "a page outside the volumes");
	memcpy(d->data[volume] + block * 4096, data, 4096);
	if (d->v[volume].ram)
		d->pages++;
	else
		d->disk_blocks++;
	return 0;
}

static int on_zero(void *ctx, uint32_t volume, uint64_t block, uint64_t n, struct err *e)
{
	struct dump *d = ctx;
	if (volume >= d->n || n > padded(d->v[volume].size_bytes) / 4096 ||
	    block > padded(d->v[volume].size_bytes) / 4096 - n)
		return err_set(e, ERR_CORRUPT, "zeros outside the volumes");
	/* What was never touched is zero already, and need not become memory. */
	for (uint64_t i = block; i < block + n; i++) {
		static const uint8_t zero[4096];
		uint8_t *p = d->data[volume] + i * 4096;
		if (memcmp(p, zero, sizeof(zero)) != 0)
			memset(p, 0, sizeof(zero));
	}
	if (d->v[volume].ram)
		d->zeros += n;
	else
		d->disk_zeros += n;
	return 0;
}

static int on_file(void *ctx, const char *name, const void *data, size_t len, struct err *e)
{
	struct dump *d = ctx;
	size_t i = 0;
	while (i < d->n_files && strcmp(d->files[i].name, name) != 0)
		i++;
	if (i == sizeof(d->files) / sizeof(d->files[0]))
		return err_set(e, ERR_REFUSED, "too many files");
	if (i == d->n_files)
		d->n_files++;
	free(d->files[i].data);
	snprintf(d->files[i].name, sizeof(d->files[i].name), "%s", name);
	d->files[i].data = mem_alloc(len);
	memcpy(d->files[i].data, data, len);
	d->files[i].len = len;
	return 0;
}

static void on_arm(void *ctx, bool on, int64_t expect_ns)
{
	(void)expect_ns;
	struct dump *d = ctx;
	if (on == d->armed)
		printf("problem=\"armed twice\"\n");
	d->armed = on;
	d->arms += on;
}

static uint32_t le32(const uint8_t *p)
{
	return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

/* One instant of the boot sector: it counts in dword 0 of page after page, so some pages from the first on are one
 * round ahead of the others; dword 1 is the page's number. */
static bool sector_holds(const struct dump *d, unsigned long pages, uint32_t *round)
{
	const uint8_t *ram = NULL;
	for (size_t i = 0; i < d->n; i++)
		if (d->v[i].ram && strstr(d->v[i].name, "ram") && d->v[i].size_bytes >= (1u << 20) + pages * 4096)
			ram = d->data[i] + (1 << 20);
	if (!ram)
		return false;
	uint32_t first = le32(ram), last = le32(ram + (pages - 1) * 4096);
	bool behind = false;
	*round = last;
	if (first != last && first != last + 1)
		return false;
	for (unsigned long p = 0; p < pages; p++) {
		uint32_t v = le32(ram + p * 4096);
		if (le32(ram + p * 4096 + 4) != p || (v != first && v != last) || (behind && v != last))
			return false;
		behind |= v == last;
	}
	return true;
}

static void write_out(const struct dump *d, const char *folder)
{
	for (size_t i = 0; i < d->n + d->n_files; i++) {
		bool volume = i < d->n;
		char name[300];
		snprintf(name, sizeof(name), "%s", volume ? d->v[i].name : d->files[i - d->n].name);
		for (char *p = name; *p; p++)
			if (*p == '/')
				*p = '_';
		MEM_AUTO char *path = mem_printf("%s/%s%s", folder, name, volume ? ".raw" : "");
		FILE *f = fopen(path, "we");
		size_t len = volume ? d->v[i].size_bytes : d->files[i - d->n].len;
		if (!f || fwrite(volume ? d->data[i] : d->files[i - d->n].data, 1, len, f) != len || fclose(f)) {
			fprintf(stderr, "capture-dump: %s: %s\n", path, strerror(errno));
			exit(1);
		}
	}
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? -1 : x > y;
}

struct options {
	struct capture_opts capture;
	unsigned long points, every_ms, sector;
	const char *out, *hook, *uri;
	bool clean_up;
};

static void nap_until(int64_t ns)
{
	while (clock_mono_ns() < ns) {
		const struct timespec nap = { .tv_nsec = NS_PER_MS };
		(void)nanosleep(&nap, NULL);
	}
}

static int problem(const struct err *e)
{
	fprintf(stderr, "capture-dump: %s%s%s\n", e->text, e->remedy[0] ? ": " : "", e->remedy);
	return e->cls == ERR_REFUSED && e->errnum == EAGAIN ? 3 : 1;
}

static int one_point(struct capture *c, struct dump *d, const struct options *o, unsigned long number,
		     int64_t *pause_ns, struct err *e)
{
	const struct capture_sink sink = { on_volumes, on_page, on_zero, on_file, d };
	struct capture_point p;
	d->pages = d->zeros = d->disk_blocks = d->disk_zeros = 0;
	int64_t start = clock_mono_ns();
	if (capture_take(c, &sink, &p, e))
		return -1;
	int64_t took = clock_mono_ns() - start;
	uint32_t round = 0;
	bool holds = !o->sector || sector_holds(d, o->sector, &round);
	printf("point=%lu pause_us=%" PRId64 " took_ms=%.1f pages=%" PRIu64 " zeros=%" PRIu64 " disk_blocks=%" PRIu64
	       " disk_zeros=%" PRIu64 " dirty=%" PRIu64 " memory=%s",
	       number, p.pause_ns / 1000, (double)took / 1e6, d->pages, d->zeros, d->disk_blocks, d->disk_zeros,
	       p.dirty_bytes, p.has_memory ? "yes" : "no");
	if (o->sector)
		printf(" round=%" PRIu32 " one_instant=%s", round, holds ? "yes" : "no");
	printf("\n");
	fflush(stdout);
	*pause_ns = p.pause_ns;
	if (!holds)
		return err_set(e, ERR_CORRUPT, "the point is not one instant of the guest");
	return 0;
}

static int run(struct guest *g, const struct options *o)
{
	struct err e = ERR_INIT;
	static struct dump d;
	struct capture_opts opts = o->capture;
	opts.arm = on_arm;
	opts.ctx = &d;
	struct capture *c = capture_new(g, &opts, &e);
	if (!c)
		return problem(&e);
	printf("mode=%s reason=\"%s\"\n", capture_mode_name(capture_chosen(c)), capture_reason(c));
	const struct capture_sink sink = { on_volumes, on_page, on_zero, on_file, &d };
	int64_t start = clock_mono_ns();
	int rc = capture_start(c, &sink, &e);
	double s = (double)(clock_mono_ns() - start) / 1e9;
	if (rc == 0)
		printf("started=%s seconds=%.3f pages=%" PRIu64 " zeros=%" PRIu64 " mib_per_s=%.0f\n",
		       capture_mode_name(capture_chosen(c)), s, d.pages, d.zeros, (double)(d.pages + d.zeros) / 256 / s);
	fflush(stdout);
	int64_t *pauses = mem_alloc_array(o->points, sizeof(*pauses));
	for (unsigned long i = 0; rc == 0 && i < o->points; i++) {
		int64_t next = clock_mono_ns() + (int64_t)o->every_ms * NS_PER_MS;
		rc = one_point(c, &d, o, i + 1, &pauses[i], &e);
		if (rc == 0 && o->hook) {
			MEM_AUTO char *command = mem_printf("%s %lu", o->hook, i + 1);
			if (system(command) != 0)
				rc = err_set(&e, ERR_SYS, "the hook failed");
		}
		nap_until(next);
	}
	int status = rc ? problem(&e) : 0;
	capture_free(c);
	if (d.armed) {
		printf("problem=\"still armed\"\n");
		status = 1;
	}
	if (status == 0 && o->points > 0) {
		qsort(pauses, o->points, sizeof(*pauses), by_value);
		printf("points=%lu pause_us_p50=%" PRId64 " p99=%" PRId64 " max=%" PRId64 " armed=%" PRIu64 "\n",
		       o->points, pauses[o->points / 2] / 1000, pauses[(o->points * 99) / 100] / 1000,
		       pauses[o->points - 1] / 1000, d.arms);
		if (o->out)
			write_out(&d, o->out);
	}
	free(pauses);
	return status;
}

int main(int argc, char **argv)
{
	static const struct option known[] = {
		{ "mode", 1, NULL, 'm' },     { "points", 1, NULL, 'p' },   { "every", 1, NULL, 'e' },
		{ "staging", 1, NULL, 's' },  { "folder", 1, NULL, 'f' },   { "sector", 1, NULL, 'x' },
		{ "out", 1, NULL, 'o' },      { "hook", 1, NULL, 'h' },     { "uri", 1, NULL, 'u' },
		{ "clean-up", 0, NULL, 'c' }, { "tcg-colo", 0, NULL, 't' }, { NULL, 0, NULL, 0 },
	};
	struct options o = { .points = 3, .uri = "qemu:///system" };
	struct err e = ERR_INIT;
	int opt;
	signal(SIGPIPE, SIG_IGN);
	while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (opt) {
		case 'm':
			if (capture_mode_from_name(optarg, &o.capture.mode))
				return fprintf(stderr, "capture-dump: there is no mode %s\n", optarg), 2;
			break;
		case 'p':
			o.points = strtoul(optarg, NULL, 10);
			break;
		case 'e':
			o.every_ms = strtoul(optarg, NULL, 10);
			break;
		case 's':
			o.capture.staging_bytes = strtoull(optarg, NULL, 10) << 20;
			break;
		case 'f':
			o.capture.folder = optarg;
			break;
		case 'x':
			o.sector = strtoul(optarg, NULL, 10);
			break;
		case 'o':
			o.out = optarg;
			break;
		case 'h':
			o.hook = optarg;
			break;
		case 'u':
			o.uri = optarg;
			break;
		case 'c':
			o.clean_up = true;
			break;
		case 't':
			o.capture.allow_tcg_colo = true;
			break;
		default:
			return 2;
		}
	}
	if (optind + 1 != argc)
		return fprintf(stderr, "usage: capture-dump VM [OPTION...]\n"), 2;
	struct virt *v = virt_new(o.uri, &e);
	struct guest *g = v ? guest_virt_open(v, argv[optind], &e) : NULL;
	if (!g)
		return problem(&e);
	int rc = o.clean_up ? (capture_clean_up(g, &e) ? problem(&e) : 0) : run(g, &o);
	guest_free(g);
	virt_free(v);
	return rc;
}
