#include "tools/vmferry/watch.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/interrupt.h"
#include "tools/vmferry/replication.h"
#include "tools/vmferry/screen.h"
#include "tools/vmferry/spark.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EVERY_NS NS_PER_S
#define NAP_US 20000
#define SPARK_WIDTH 30
#define ANSWER_WITHIN_NS (10 * NS_PER_S)

/* The RPO that one protection had. */
struct history {
	struct history *next;
	char *key; /* UUID and role */
	struct spark rpo;
	bool seen; /* in the last answer */
};

struct watch {
	struct cli *cli;
	const char *vm;
	struct table *(*make_table)(const json_t *protections, unsigned width);
	const volatile bool *stop;
	struct client *client; /* NULL: to be connected */
	struct history *histories;
};

static struct history *history_of(struct watch *w, const json_t *p)
{
	MEM_AUTO char *key = mem_printf("%s %s", cli_str(p, "uuid", cli_str(p, "vm", "?")), cli_str(p, "role", ""));
	struct history **at = &w->histories;
	for (; *at; at = &(*at)->next)
		if (strcmp((*at)->key, key) == 0)
			return *at;
	*at = mem_alloc(sizeof(**at));
	(*at)->key = key;
	key = NULL;
	return *at;
}

static void remember(struct watch *w, const json_t *protections)
{
	size_t i;
	const json_t *p;
	for (struct history *h = w->histories; h; h = h->next)
		h->seen = false;
	json_array_foreach (protections, i, p) {
		struct history *h = history_of(w, p);
		spark_add(&h->rpo, (double)cli_int(p, "rpo_ms", -1));
		h->seen = true;
	}
	for (struct history **at = &w->histories; *at;) {
		struct history *h = *at;
		if (h->seen) {
			at = &h->next;
			continue;
		}
		*at = h->next;
		free(h->key);
		free(h);
	}
}

static const char *time_now(char *buf, size_t size)
{
	time_t now = (time_t)(clock_wall_ns() / NS_PER_S);
	struct tm tm;
	if (!localtime_r(&now, &tm) || strftime(buf, size, "%H:%M:%S", &tm) == 0)
		buf[0] = '\0';
	return buf;
}

/* ---- the screen ---- */

static void add_sparks(struct watch *w, const json_t *protections, struct buf *out)
{
	char bars[SPARK_WIDTH * 16 + 1], vm[40], least[32], most[32];
	size_t i;
	const json_t *p;
	buf_printf(out, "\n\nRPO in the last minute\n");
	json_array_foreach (protections, i, p) {
		if (!replication_keeps_up(p))
			continue;
		const struct history *h = history_of(w, p);
		double target = (double)cli_int(p, "rpo_target_ms", 1000);
		struct spark_style style = {
			.width = SPARK_WIDTH, .target = target, .utf8 = screen_has_utf8(), .colour = screen_has_colour()
		};
		buf_printf(out, "  %-12.12s %s ", cli_clean(cli_str(p, "vm", "?"), vm, sizeof(vm)),
			   spark_draw(&h->rpo, &style, bars, sizeof(bars)));
		if (spark_max(&h->rpo) >= 0)
			buf_printf(out, " %s to %s", cli_duration((int64_t)spark_min(&h->rpo), least, sizeof(least)),
				   cli_duration((int64_t)spark_max(&h->rpo), most, sizeof(most)));
		buf_printf(out, "\n");
	}
}

static void draw(struct watch *w, const json_t *result, const struct err *e)
{
	BUF_AUTO struct buf text = BUF_INIT;
	char now[16], clean[1300];
	const json_t *protections = json_object_get(result, "protections");
	buf_printf(&text, "vmferry  %s  %zu protection%s\n\n", time_now(now, sizeof(now)), json_array_size(protections),
		   json_array_size(protections) == 1 ? "" : "s");
	if (!result) {
		bool colour = screen_has_colour();
		buf_printf(&text, "%s%s%s\n", colour ? "\033[31m" : "", cli_clean(e->text, clean, sizeof(clean)),
			   colour ? "\033[0m" : "");
	} else if (json_array_size(protections) == 0) {
		buf_printf(&text, "No VM is protected, and no replica is kept here.\n");
	} else {
		size_t i;
		const json_t *p;
		MEM_AUTO char *table = table_text(w->make_table(protections, screen_width()), screen_width());
		buf_printf(&text, "%s", table);
		add_sparks(w, protections, &text);
		buf_printf(&text, "\n");
		json_array_foreach (protections, i, p)
			replication_notes(p, &text);
	}
	screen_draw((const char *)text.data);
}

/* ---- lines ---- */

static void print_lines(const struct watch *w, json_t *result, const struct err *e)
{
	char now[16], when[32];
	size_t i;
	const json_t *p;
	if (w->cli->json) {
		json_t *line = result ? json_incref(result)
				      : json_pack("{s:{s:s, s:s, s:s}}", "error", "class", err_class_name(e->cls),
						  "text", e->text, "remedy", e->remedy);
		json_object_set_new(line, "time", json_string(clock_format_wall(clock_wall_ns(), when, sizeof(when))));
		json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
		putchar('\n');
		json_decref(line);
	} else if (!result) {
		char clean[1300];
		printf("%s  %s\n", time_now(now, sizeof(now)), cli_clean(e->text, clean, sizeof(clean)));
	} else {
		json_array_foreach (json_object_get(result, "protections"), i, p) {
			BUF_AUTO struct buf line = BUF_INIT;
			replication_line(p, &line);
			printf("%s  %s\n", time_now(now, sizeof(now)), (const char *)line.data);
		}
		if (json_array_size(json_object_get(result, "protections")) == 0)
			printf("%s  nothing is protected\n", time_now(now, sizeof(now)));
	}
	fflush(stdout);
}

/* ---- going on ---- */

/* NULL while the agent is away. */
static json_t *ask(struct watch *w, struct err *e)
{
	json_t *result = NULL, *args = w->vm ? json_pack("{s:s}", "vm", w->vm) : json_object();
	if (!w->client)
		w->client = client_open(w->cli, e);
	if (!w->client) {
		json_decref(args);
		return NULL;
	}
	if (client_call(w->client, "status", args, ANSWER_WITHIN_NS, NULL, NULL, w->stop, &result, e) == 0)
		return result;
	client_close(w->client);
	w->client = NULL;
	return NULL;
}

static int go_on(struct watch *w, struct err *e)
{
	bool terminal = screen_is_terminal() && !w->cli->json, first = true;
	for (int64_t next = clock_mono_ns(); !interrupt_pending(w->stop) && !ferror(stdout); next += EVERY_NS) {
		err_clear(e);
		json_t *result = ask(w, e);
		if (interrupt_pending(w->stop)) {
			json_decref(result);
			break;
		}
		/* What is wrong at once, and will be a second later, is an error and nothing to watch. */
		if (!result && (first || e->cls != ERR_PEER))
			return -1;
		first = false;
		if (result)
			remember(w, json_object_get(result, "protections"));
		if (terminal)
			draw(w, result, e);
		else
			print_lines(w, result, e);
		json_decref(result);
		if (clock_mono_ns() > next + EVERY_NS) /* it took long: no hurry to make up for it */
			next = clock_mono_ns() - EVERY_NS;
		while (clock_mono_ns() < next + EVERY_NS && !interrupt_pending(w->stop))
			usleep(NAP_US);
	}
	return 0;
}

static void on_first_interrupt(void *ctx)
{
	(void)ctx;
}

static void on_second_interrupt(void *ctx)
{
	(void)ctx;
	screen_leave();
}

int watch_run(struct cli *cli, const char *vm, struct table *(*make_table)(const json_t *protections, unsigned width))
{
	struct err e = ERR_INIT;
	struct watch w = { .cli = cli, .vm = vm, .make_table = make_table };
	struct interrupt *interrupt = interrupt_new(on_first_interrupt, on_second_interrupt, NULL, &e);
	int rc = -1;
	if (interrupt) {
		w.stop = interrupt_flag(interrupt);
		rc = go_on(&w, &e);
	}
	screen_leave();
	client_close(w.client);
	interrupt_free(interrupt);
	while (w.histories) {
		struct history *h = w.histories;
		w.histories = h->next;
		free(h->key);
		free(h);
	}
	return rc == 0 ? EXIT_CODE_OK : cli_fail(cli, &e);
}
