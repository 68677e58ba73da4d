/*
 * driver.c - main() of a fuzz target where libFuzzer is not used: an ordinary, bounded, repeatable test.
 *
 *	fuzz_NAME CORPUS_FOLDER... [INPUT_FILE...]
 *
 * Every file is run as it is, then mutations of them: bits flipped, bytes set, pieces cut out, repeated or taken from
 * another file. Mutation n depends on the seed and n alone. VMFERRY_FUZZ_SEED (default 1) and VMFERRY_FUZZ_RUNS (default
 * 4000) change them; after VMFERRY_FUZZ_SECONDS (default 20) no further mutation is begun, so that a slow sanitizer build
 * ends as well. No input at all is a failure. When the target dies, the input is written to crash-NAME in the working
 * directory: give it as INPUT_FILE to see it again.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INPUT_MAX ((size_t)16 << 20)
#define GROWTH_MAX 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

struct input {
	uint8_t *data;
	size_t len;
};

struct corpus {
	struct input *inputs;
	size_t n;
};

/* What runs now, for the moment of a crash. */
static const uint8_t *running;
static size_t running_len;
static char crash_path[256];

static void save_running(void)
{
	static const char text[] = "fuzz: the input that did it is in ";

	if (!running)
		return;
	const int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, running, running_len) < 0 || write(2, text, sizeof(text) - 1) < 0 ||
	    write(2, crash_path, strlen(crash_path)) < 0 || write(2, "\n", 1) < 0)
		running = NULL;
	running = NULL;
}

static void on_signal(int sig)
{
	save_running();
	signal(sig, SIG_DFL);
	raise(sig);
}

static void catch_crashes(void)
{
	static const int signals[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL };

	if (__sanitizer_set_death_callback) {
		__sanitizer_set_death_callback(save_running);
		signal(SIGABRT, on_signal);
		return;
	}
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], on_signal);
}

/* In a block of exactly its size, so that a sanitizer sees the first byte read too far. */
static void run(const uint8_t *data, size_t len)
{
	uint8_t *copy = malloc(len);

	if (len > 0)
		memcpy(copy, data, len);
	running = copy;
	running_len = len;
	LLVMFuzzerTestOneInput(copy, len);
	running = NULL;
	free(copy);
}

static int add_file(struct corpus *c, const char *path)
{
	struct err e = ERR_INIT;
	size_t len = 0;
	char *data = file_read_all(path, INPUT_MAX, &len, &e);

	if (!data) {
		fprintf(stderr, "fuzz: %s\n", e.text);
		return -1;
	}
	c->inputs = mem_realloc_array(c->inputs, c->n + 1, sizeof(c->inputs[0]));
	c->inputs[c->n++] = (struct input){ .data = (uint8_t *)data, .len = len };
	return 0;
}

static int not_hidden(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

static int add_folder(struct corpus *c, const char *path)
{
	struct dirent **names = NULL;
	const int n = scandir(path, &names, not_hidden, alphasort);
	int rc = n < 0 ? -1 : 0;

	if (n < 0)
		perror(path);
	for (int i = 0; i < n; i++) {
		MEM_AUTO char *file = mem_printf("%s/%s", path, names[i]->d_name);
		if (rc == 0)
			rc = add_file(c, file);
		free(names[i]);
	}
	free(names);
	return rc;
}

static int add_path(struct corpus *c, const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return add_folder(c, path);
	return add_file(c, path);
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static size_t below(uint64_t *state, size_t n)
{
	return n ? (size_t)(next_random(state) % n) : 0;
}

/* A new tail for the input: a piece of another one of the corpus. */
static void join_piece(struct input *in, size_t cap, const struct input *other, uint64_t *rnd)
{
	const size_t at = below(rnd, in->len + 1);
	const size_t from = below(rnd, other->len);
	size_t n = below(rnd, other->len - from + 1);

	if (n > cap - at)
		n = cap - at;
	if (n > 0)
		memcpy(in->data + at, other->data + from, n);
	in->len = at + n;
}

/* A piece of the input, once more. */
static void repeat(struct input *in, size_t cap, uint64_t *rnd)
{
	const size_t from = below(rnd, in->len);
	size_t n = below(rnd, in->len - from + 1);

	if (n > cap - in->len)
		n = cap - in->len;
	memmove(in->data + from + n, in->data + from, in->len - from);
	in->len += n;
}

static void cut(struct input *in, uint64_t *rnd)
{
	const size_t from = below(rnd, in->len);
	const size_t n = below(rnd, in->len - from + 1);

	memmove(in->data + from, in->data + from + n, in->len - from - n);
	in->len -= n;
}

static void mutate_once(struct input *in, size_t cap, const struct corpus *c, uint64_t *rnd)
{
	static const uint8_t edges[] = { 0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff };
	const struct input *other = &c->inputs[below(rnd, c->n)];
	const size_t kind = below(rnd, 7);

	if (in->len == 0 || kind == 6) {
		join_piece(in, cap, other, rnd);
		return;
	}
	switch (kind) {
	case 0:
	case 1:
		in->data[below(rnd, in->len)] ^= (uint8_t)(1u << below(rnd, 8));
		break;
	case 2:
		in->data[below(rnd, in->len)] = edges[below(rnd, sizeof(edges))];
		break;
	case 3:
		in->len = below(rnd, in->len);
		break;
	case 4:
		repeat(in, cap, rnd);
		break;
	default:
		cut(in, rnd);
		break;
	}
}

static void run_mutation(const struct corpus *c, uint64_t seed, uint64_t n)
{
	uint64_t rnd = seed * UINT64_C(0x2545f4914f6cdd1d) + n;
	const struct input *base = &c->inputs[below(&rnd, c->n)];
	const size_t cap = base->len + GROWTH_MAX;
	struct input in = { .data = mem_alloc(cap), .len = base->len };

	memcpy(in.data, base->data, base->len);
	/* Mostly one change, which gets deepest; sometimes a few. */
	for (size_t changes = 1 + below(&rnd, 2) * below(&rnd, 5); changes > 0; changes--)
		mutate_once(&in, cap, c, &rnd);
	run(in.data, in.len);
	free(in.data);
}

static uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s && *s ? strtoull(s, NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	const uint64_t seed = env_number("VMFERRY_FUZZ_SEED", 1);
	const uint64_t runs = env_number("VMFERRY_FUZZ_RUNS", 4000);
	const int64_t end = clock_mono_ns() + (int64_t)env_number("VMFERRY_FUZZ_SECONDS", 20) * NS_PER_S;
	const char *slash = strrchr(argv[0], '/');
	struct corpus c = { 0 };
	uint64_t mutated = 0;

	snprintf(crash_path, sizeof(crash_path), "crash-%s", slash ? slash + 1 : argv[0]);
	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++)
		if (add_path(&c, argv[i]) < 0)
			return 1;
	if (c.n == 0) {
		fprintf(stderr, "fuzz: the corpus is empty, so nothing would be tested\n");
		return 1;
	}
	catch_crashes();
	for (size_t i = 0; i < c.n; i++)
		run(c.inputs[i].data, c.inputs[i].len);
	for (; mutated < runs && clock_mono_ns() < end; mutated++)
		run_mutation(&c, seed, mutated);
	printf("fuzz: %zu inputs and %" PRIu64 " of %" PRIu64 " mutations ran, seed %" PRIu64 "\n", c.n, mutated, runs,
	       seed);
	for (size_t i = 0; i < c.n; i++)
		free(c.inputs[i].data);
	free(c.inputs);
	return 0;
}
