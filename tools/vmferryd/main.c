/* vmferryd - the agent. Starts it, waits for signals, stops it. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/kafka.h"
#include "tools/vmferryd/notify.h"
#include "tools/vmferryd/signals.h"

#include <argp.h>
#include <stdio.h>
#include <unistd.h>

const char *argp_program_version = "vmferryd " VMFERRY_VERSION;

/* 2: as for `vmferry', the command line or the configuration is wrong. systemd does not try again after it (see the
 * unit). */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_CONFIG = 2 };

struct options {
	const char *config;
	bool check;
};

enum { OPT_CHECK = 0x100, OPT_FOREGROUND };

static const struct argp_option option_table[] = {
	{ "config", 'c', "FILE", 0, "Configuration (default: " CONFIG_DEFAULT_PATH ")", 0 },
	{ "check-config", OPT_CHECK, NULL, 0,
	  "Check the configuration, say all that is wrong with it or what it means, and exit", 0 },
	{ "foreground", OPT_FOREGROUND, NULL, 0, "Stay in the foreground; always so, accepted for clarity", 0 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	switch (key) {
	case 'c':
		o->config = arg;
		return 0;
	case OPT_CHECK:
		o->check = true;
		return 0;
	case OPT_FOREGROUND:
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "\"%s\" is one argument too many", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse,
	.doc = "The agent of vmferry: moves virtual machines between this host and its peers.\v"
	       "It logs to stderr. SIGHUP reads the configuration again, SIGTERM cancels migrations under way and "
	       "stops. See vmferryd(8).",
};

static int fail(const struct err *e)
{
	fprintf(stderr, "vmferryd: %s\n", e->text);
	if (e->remedy[0])
		fprintf(stderr, "  what to do: %s\n", e->remedy);
	return e->cls == ERR_CONFIG ? EXIT_CONFIG : EXIT_FAILED;
}

static void print_problem(void *ctx, const char *line)
{
	unsigned *n = ctx;
	fprintf(stderr, "%s\n", line);
	(*n)++;
}

static int say_what_to_write(struct err *e)
{
	return err_remedy(e, "write the file (an example is /usr/share/doc/vmferry/examples/vmferryd.conf.example), or "
			     "name another with --config");
}

/* Whatever is wrong, a file that cannot be read too, no agent could use it: 2. */
static int check_config(const char *path)
{
	struct err e = ERR_INIT;
	unsigned problems = 0;
	struct config *c = config_load(path, print_problem, &problems, &e);
	if (!c) {
		if (!problems) {
			say_what_to_write(&e);
			(void)fail(&e);
			return EXIT_CONFIG;
		}
		fprintf(stderr, "vmferryd: %u problem%s in %s\n", problems, problems == 1 ? "" : "s", path);
		return EXIT_CONFIG;
	}
	if (kafka_check_config(c, &e) < 0) {
		config_free(c);
		(void)fail(&e);
		return EXIT_CONFIG;
	}
	MEM_AUTO char *text = config_describe(c);
	fputs(text, stdout);
	config_free(c);
	return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

static void run(struct agent *a, int signals)
{
	int64_t interval = notify_watchdog_interval_ns();
	int64_t next = interval ? clock_mono_ns() + interval : INT64_MAX;
	for (;;) {
		switch (signals_wait(signals, next)) {
		case SIGNALS_STOP:
			return;
		case SIGNALS_RELOAD:
			notify_reloading();
			agent_reload(a);
			notify_ready("running");
			break;
		case SIGNALS_NONE:
			notify_watchdog();
			next = clock_mono_ns() + interval;
			break;
		}
	}
}

static struct settings *load_settings(const char *path, struct err *e)
{
	unsigned problems = 0;
	struct settings *s = settings_new(path, print_problem, &problems, e);
	if (!s && e->cls == ERR_SYS)
		say_what_to_write(e);
	if (!s && problems > 0) {
		err_clear(e);
		err_set(e, ERR_CONFIG, "%u problem%s in %s", problems, problems == 1 ? "" : "s", path);
		err_remedy(e, "correct what is said above; vmferryd --check-config --config %s looks again", path);
	}
	return s;
}

int main(int argc, char **argv)
{
	struct options o = { .config = CONFIG_DEFAULT_PATH };
	struct err e = ERR_INIT;
	argp_err_exit_status = EXIT_CONFIG;
	if (argp_parse(&argp, argc, argv, 0, NULL, &o) != 0)
		return EXIT_CONFIG;
	if (o.check)
		return check_config(o.config);
	int signals = signals_open(&e);
	if (signals < 0 || fault_arm_env(&e) < 0)
		return fail(&e);
	struct settings *settings = load_settings(o.config, &e);
	if (!settings)
		return fail(&e);
	const struct settings_view *view = settings_get(settings);
	log_set_level(view->config->log.level);
	log_info("starting", "version=%s name=%s pid=%d", VMFERRY_VERSION, view->config->name, (int)getpid());
	settings_put(settings, view);
	struct agent *a = agent_start(settings, &e);
	if (!a)
		return fail(&e);
	notify_ready("running");
	log_info("ready", "pid=%d", (int)getpid());
	run(a, signals);
	notify_stopping("ending migrations");
	log_info("stopping", "pid=%d", (int)getpid());
	agent_stop(a);
	log_info("stopped", "pid=%d", (int)getpid());
	return EXIT_OK;
}
