/*
 * relay: what the data plane costs. Two relays, one per process, over TLS on loopback; a made QEMU stream goes in at one end and is read at
 * the other. Prints throughput, CPU time per process and peak memory.
 */
#include "migrator/relay.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/units.h"
#include "tools/bench/images.h"
#include "transport/pki.h"

#include <argp.h>
#include <ftw.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#define MAX_LINKS 8
#define DEADLINE_NS (60 * NS_PER_S)
#define PAGES_PER_WRITE 64

struct options {
	size_t mib;
	unsigned passes;
	unsigned links;
	unsigned workers;
	int level;
	uint64_t rate;
	size_t cache_mib;
	bool verify;
	const char *content;
	const char *image; /* NULL: made */
};

static struct options opt = {
	.mib = 256, .passes = 4, .links = 2, .level = RELAY_LEVEL_AUTO, .cache_mib = 512, .content = "update"
};

static char dir[64];
static int64_t deadline;

struct result {
	uint64_t bytes;
	uint64_t hash;
	int64_t ns;
	struct relay_stats stats;
};

static void die(const char *what, const struct err *e)
{
	fprintf(stderr, "relay: %s: %s\n", what, e ? e->text : strerror(errno));
	_exit(1);
}

static const char *path_of(const char *name)
{
	static char paths[8][128];
	static unsigned next;
	char *p = paths[next++ % 8];

	snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

/* ---- QEMU ---- */

struct stream_out {
	int fd;
	XXH3_state_t *hash;
	uint64_t bytes;
	struct iovec iov[2 * PAGES_PER_WRITE];
	uint64_t header[PAGES_PER_WRITE];
	size_t n;
};

static void put(struct stream_out *o, const void *p, size_t n)
{
	struct err e = ERR_INIT;

	if (fd_write_full(o->fd, p, n, &e) < 0)
		die("write", &e);
	if (opt.verify)
		XXH3_64bits_update(o->hash, p, n);
	o->bytes += n;
}

static void put_pages(struct stream_out *o)
{
	struct err e = ERR_INIT;

	for (size_t i = 0; i < o->n; i++) {
		if (opt.verify)
			XXH3_64bits_update(o->hash, o->iov[i].iov_base, o->iov[i].iov_len);
		o->bytes += o->iov[i].iov_len;
	}
	if (o->n && fd_writev_full(o->fd, o->iov, o->n, &e) < 0)
		die("write", &e);
	o->n = 0;
}

static void put_page(struct stream_out *o, uint64_t page, uint8_t *data, bool zero)
{
	static uint8_t no = 0;

	if (o->n == 2 * PAGES_PER_WRITE)
		put_pages(o);
	uint64_t *h = &o->header[o->n / 2];
	*h = __builtin_bswap64(page * 4096 | 0x20 | (zero ? 2 : 8));
	o->iov[o->n++] = (struct iovec){ .iov_base = h, .iov_len = 8 };
	o->iov[o->n++] = (struct iovec){ .iov_base = zero ? &no : data, .iov_len = zero ? 1 : 4096 };
}

static void section(struct stream_out *o, uint8_t type)
{
	const uint8_t head[5] = { type, 0, 0, 0, 2 };

	put_pages(o);
	put(o, head, sizeof(head));
}

static void section_end(struct stream_out *o)
{
	static const uint8_t tail[] = { 0, 0, 0, 0, 0, 0, 0, 0x10, 0x7e, 0, 0, 0, 2 };

	put_pages(o);
	put(o, tail, sizeof(tail));
}

static void put_start(struct stream_out *o, const struct image *im)
{
	static const uint8_t head[] = { 'Q', 'E', 'V', 'M', 0, 0,   0,   3,   7, 0, 0, 0, 2, 'p', 'c', 1,
					0,   0,   0,   2,   3, 'r', 'a', 'm', 0, 0, 0, 0, 0, 0,   0,   4 };
	struct {
		uint64_t total;
		uint8_t len;
		char name[6];
		uint64_t used;
	} __attribute__((packed)) list = { .total = __builtin_bswap64(im->pages * 4096 | 4),
					   .len = 6,
					   .name = { 'p', 'c', '.', 'r', 'a', 'm' },
					   .used = __builtin_bswap64(im->pages * 4096) };

	put(o, head, sizeof(head));
	put(o, &list, sizeof(list));
	section_end(o);
	/* The first record names its block. */
	section(o, 2);
	const uint8_t first[] = { 0, 0, 0, 0, 0, 0, 0, 2, 6, 'p', 'c', '.', 'r', 'a', 'm', 0 };
	put(o, first, sizeof(first));
	section_end(o);
}

static void generate(int fd, const struct image *im, struct result *out)
{
	struct stream_out *o = mem_alloc(sizeof(*o));
	uint8_t device[8192];

	o->fd = fd;
	o->hash = XXH3_createState();
	XXH3_64bits_reset(o->hash);
	put_start(o, im);
	for (unsigned pass = 0; pass < opt.passes; pass++) {
		for (size_t p = 0; p < im->pages; p++) {
			if (p % 4096 == 0)
				section(o, 2);
			put_page(o, p, im->ram + p * 4096, im->zero[p]);
			if (p % 4096 == 4095 || p + 1 == im->pages)
				section_end(o);
		}
	}
	section(o, 3);
	section_end(o);
	memset(device, 4, sizeof(device));
	put(o, device, sizeof(device));
	*out = (struct result){ .bytes = o->bytes, .hash = XXH3_64bits_digest(o->hash) };
}

static void consume(int fd, struct result *out)
{
	uint8_t *buf = mem_alloc(1 << 20);
	XXH3_state_t *hash = XXH3_createState();
	struct err e = ERR_INIT;
	ssize_t n;

	XXH3_64bits_reset(hash);
	*out = (struct result){ 0 };
	while ((n = fd_read_some(fd, buf, 1 << 20, &e)) > 0) {
		if (opt.verify)
			XXH3_64bits_update(hash, buf, (size_t)n);
		out->bytes += (uint64_t)n;
	}
	if (n < 0)
		die("read", &e);
	out->hash = XXH3_64bits_digest(hash);
	out->ns = clock_mono_ns();
}

/* ---- processes ---- */

static pid_t spawn(int (*fn)(int fd, void *arg), void *arg, int *fd)
{
	int p[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, p) < 0)
		die("socketpair", NULL);
	const pid_t pid = fork();
	if (pid == 0) {
		close(p[0]);
		_exit(fn(p[1], arg));
	}
	close(p[1]);
	*fd = p[0];
	return pid;
}

static void tell(int fd, const void *p, size_t n)
{
	struct err e = ERR_INIT;

	if (fd_write_full(fd, p, n, &e) < 0)
		die("tell", &e);
}

static void hear(int fd, void *p, size_t n)
{
	struct err e = ERR_INIT;

	if (fd_read_full(fd, p, n, &e) < 0)
		die("a process ended early", &e);
}

static struct tls_ctx *tls_of(const char *host)
{
	struct err e = ERR_INIT;
	char ca[128], cert[128], key[128];

	snprintf(ca, sizeof(ca), "%s/%s/ca.pem", dir, host);
	snprintf(cert, sizeof(cert), "%s/%s/host.pem", dir, host);
	snprintf(key, sizeof(key), "%s/%s/host.key", dir, host);
	struct tls_ctx *ctx = tls_ctx_new(&(struct tls_files){ .ca = ca, .cert = cert, .key = key }, &e);
	if (!ctx)
		die("certificates", &e);
	return ctx;
}

static void on_error(void *ctx, const struct err *e)
{
	fprintf(stderr, "relay: %s: %s\n", (const char *)ctx, e->text);
}

static void run_relay(int fd, const struct relay_opts *o, struct link **out, size_t n_out, struct link **in, size_t n_in)
{
	struct err e = ERR_INIT;
	struct result res = { 0 };
	char c = 0;
	struct relay *r = relay_start(o, out, n_out, in, n_in, &e);

	if (!r)
		die("relay_start", &e);
	tell(fd, &c, 1);
	hear(fd, &c, 1);
	if (relay_finish(r, deadline, &e) < 0)
		die("relay_finish", &e);
	relay_get_stats(r, &res.stats);
	tell(fd, &res, sizeof(res));
	relay_free(r);
}

static struct relay_opts base_options(void)
{
	return (struct relay_opts){ .slots = (uint32_t)(opt.cache_mib * 256),
				    .workers = opt.workers,
				    .fixed_level = opt.level,
				    .on_error = on_error };
}

static int target(int fd, void *arg)
{
	struct tls_ctx *ctx = tls_of("t");
	struct err e = ERR_INIT;
	struct link *fwd[MAX_LINKS], *bwd = NULL;
	struct relay_opts o = base_options();
	static char name[] = "target";

	for (unsigned i = 0; i <= opt.links; i++) {
		struct link *l = link_accept(ctx, accept(*(int *)arg, NULL, NULL), deadline, &e);
		if (!l || link_welcome(l, NULL, deadline, &e) < 0)
			die("accept", &e);
		if (i < opt.links)
			fwd[i] = l;
		else
			bwd = l;
	}
	o.path[RELAY_MIGRATION] = path_of("dst.sock");
	o.ctx = name;
	run_relay(fd, &o, &bwd, 1, fwd, opt.links);
	return 0;
}

static int source(int fd, void *arg)
{
	struct tls_ctx *ctx = tls_of("s");
	struct err e = ERR_INIT;
	struct link *l[MAX_LINKS + 1];
	struct relay_opts o = base_options();
	const struct link_peer peer = { .name = "t", .address = "127.0.0.1", .port = *(uint16_t *)arg };
	static char name[] = "source";

	for (unsigned i = 0; i <= opt.links; i++) {
		l[i] = link_connect(ctx, &peer, json_pack("{s:s}", "purpose", "data"), deadline, &e);
		if (!l[i])
			die("connect", &e);
	}
	o.source = true;
	o.path[RELAY_MIGRATION] = path_of("src.sock");
	o.rate_limit = opt.rate;
	o.ctx = name;
	run_relay(fd, &o, l, opt.links, &l[opt.links], 1);
	return 0;
}

static int qemu_in(int fd, void *arg)
{
	struct result res;

	consume(accept(*(int *)arg, NULL, NULL), &res);
	tell(fd, &res, sizeof(res));
	return 0;
}

static int qemu_out(int fd, void *arg)
{
	struct err e = ERR_INIT;
	struct result res;
	char c = 0;

	tell(fd, &c, 1);
	hear(fd, &c, 1);
	int s = fd_unix_connect(path_of("src.sock"), &e);
	if (s < 0)
		die("connect", &e);
	generate(s, arg, &res);
	fd_close(&s);
	tell(fd, &res, sizeof(res));
	return 0;
}

/* ---- the run ---- */

static int listen_tcp(uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 16) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		die("listen", NULL);
	*port = ntohs(a.sin_port);
	return fd;
}

static void make_pki(void)
{
	struct err e = ERR_INIT;
	static const char *const hosts[] = { "s", "t" };

	if (pki_init(path_of("ca"), "bench", &e) < 0)
		die("pki", &e);
	for (size_t i = 0; i < 2; i++) {
		const struct pki_issue_opts o = { .ca_dir = path_of("ca"),
						  .host = hosts[i],
						  .out_dir = path_of(hosts[i]) };
		if (pki_issue(&o, &e) < 0)
			die("pki", &e);
	}
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static void reap(const char *name, pid_t pid)
{
	struct rusage ru;
	int status;

	if (wait4(pid, &status, 0, &ru) != pid || status != 0)
		die(name, NULL);
	printf("  %-8s cpu %6.2f s (user %.2f, system %.2f)  peak RSS %4ld MiB, %ld page faults\n", name,
	       (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
		       (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6,
	       (double)ru.ru_utime.tv_sec + (double)ru.ru_utime.tv_usec / 1e6,
	       (double)ru.ru_stime.tv_sec + (double)ru.ru_stime.tv_usec / 1e6, ru.ru_maxrss / 1024, ru.ru_minflt);
}

static const struct image *choose(struct images *set)
{
	struct err e = ERR_INIT;

	if (opt.image) {
		if (images_add_file(set, opt.image, &e) < 0)
			die("image", &e);
		return &set->image[0];
	}
	images_make(set, opt.mib);
	for (size_t i = 0; i < set->n; i++)
		if (strcmp(set->image[i].name, opt.content) == 0)
			return &set->image[i];
	fprintf(stderr, "relay: no content of that name\n");
	exit(2);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct err e = ERR_INIT;

	switch (key) {
	case 'm':
		opt.mib = strtoul(arg, NULL, 10);
		break;
	case 'p':
		opt.passes = (unsigned)strtoul(arg, NULL, 10);
		break;
	case 'n':
		opt.links = (unsigned)strtoul(arg, NULL, 10);
		break;
	case 'w':
		opt.workers = (unsigned)strtoul(arg, NULL, 10);
		break;
	case 'l':
		opt.level = strcmp(arg, "auto") == 0  ? RELAY_LEVEL_AUTO
			    : strcmp(arg, "raw") == 0 ? CODEC_RAW
						      : (int)strtol(arg, NULL, 10);
		break;
	case 'r':
		if (units_parse_rate(arg, &opt.rate, &e) < 0)
			argp_error(state, "%s", e.text);
		break;
	case 'c':
		opt.cache_mib = strtoul(arg, NULL, 10);
		break;
	case 'v':
		opt.verify = true;
		break;
	case 't':
		opt.content = arg;
		break;
	case 'i':
		opt.image = arg;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "mib", 'm', "N", 0, "guest memory (256)", 0 },
		{ "passes", 'p', "N", 0, "times it is sent (4)", 0 },
		{ "links", 'n', "N", 0, "TLS links (2)", 0 },
		{ "workers", 'w', "N", 0, "codec threads per agent (one per CPU)", 0 },
		{ "level", 'l', "LEVEL", 0, "auto, raw or a zstd level", 0 },
		{ "rate", 'r', "RATE", 0, "limit, e.g. 200M", 0 },
		{ "cache", 'c', "MIB", 0, "page versions kept (512)", 0 },
		{ "content", 't', "NAME", 0, "update, counters or random", 0 },
		{ "image", 'i', "FILE", 0, "a guest's RAM from a file, instead of made contents", 0 },
		{ "verify", 'v', NULL, 0, "compare both ends by hash (costs CPU)", 0 },
		{ 0 },
	};
	const struct argp ap = { options, parse, NULL, "Measures the relay over TLS on loopback.", NULL, NULL, NULL };
	struct images set = { 0 };
	struct err e = ERR_INIT;
	struct result in, out, ss, ts;
	int fd_src, fd_dst, fd_gen, fd_sink;
	uint16_t port;
	char c = 0;

	argp_parse(&ap, argc, argv, 0, NULL, NULL);
	if (opt.links < 1 || opt.links > MAX_LINKS || opt.passes < 1)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	snprintf(dir, sizeof(dir), "/tmp/vmferry-bench-XXXXXX");
	if (!mkdtemp(dir))
		die("mkdtemp", NULL);
	make_pki();
	int lfd = listen_tcp(&port);
	int dst = fd_unix_listen(path_of("dst.sock"), 0600, &e);
	if (dst < 0)
		die("listen", &e);
	deadline = clock_mono_ns() + DEADLINE_NS + (int64_t)opt.mib * NS_PER_S;

	const pid_t pt = spawn(target, &lfd, &fd_dst);
	const pid_t ps = spawn(source, &port, &fd_src);
	hear(fd_dst, &c, 1);
	hear(fd_src, &c, 1);
	const pid_t pk = spawn(qemu_in, &dst, &fd_sink);
	const struct image *im = choose(&set);
	struct image copy = *im;
	const pid_t pg = spawn(qemu_out, &copy, &fd_gen);
	hear(fd_gen, &c, 1);
	const int64_t start = clock_mono_ns();
	tell(fd_gen, &c, 1);
	hear(fd_gen, &out, sizeof(out));
	const int64_t sent = clock_mono_ns();
	hear(fd_sink, &in, sizeof(in));
	tell(fd_src, &c, 1);
	tell(fd_dst, &c, 1);
	hear(fd_src, &ss, sizeof(ss));
	hear(fd_dst, &ts, sizeof(ts));

	const double s = (double)(in.ns - start) / 1e9;
	const struct codec_stats *cs = &ss.stats.codec;
	printf("%.0f MB of stream in %.2f s: %.0f MB/s; wire %.0f MB (%.1f MB/s), ratio %.2f; last byte %.0f ms after "
	       "QEMU's last write\n",
	       (double)in.bytes / 1e6, s, (double)in.bytes / 1e6 / s, (double)ss.stats.wire_bytes / 1e6,
	       (double)ss.stats.wire_bytes / 1e6 / s, (double)in.bytes / (double)ss.stats.wire_bytes,
	       (double)(in.ns - sent) / 1e6);
	printf("  level %d; pages: %llu zero, %llu same, %llu delta, %llu plain\n", ss.stats.level,
	       (unsigned long long)cs->zero_pages, (unsigned long long)cs->same_pages,
	       (unsigned long long)cs->delta_pages, (unsigned long long)cs->plain_pages);
	reap("source", ps);
	reap("target", pt);
	reap("qemu out", pg);
	reap("qemu in", pk);
	images_fini(&set);
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	if (in.bytes != out.bytes || (opt.verify && in.hash != out.hash)) {
		fprintf(stderr, "relay: the bytes that came out are not those that went in\n");
		return 1;
	}
	return 0;
}
