#include "base/fault.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ARMED_MAX 32
#define DELAY_MAX_MS 600000
#define NTH_MAX 1000000000L

enum fault_action { FAULT_FAIL, FAULT_KILL, FAULT_STOP, FAULT_HANG, FAULT_DELAY };

struct armed {
	enum fault_id id;
	enum fault_action action;
	long delay_ms;
	long passes_left; /* fires when this becomes 0 */
};

static const char *const names[] = {
#define X(id, name) [id] = name,
	FAULT_POINTS(X)
#undef X
};

static atomic_bool any_armed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Under the lock. */
static struct armed table[ARMED_MAX];
static size_t table_len;

const char *fault_name(enum fault_id id)
{
	assert((unsigned)id < FAULT_COUNT);
	return names[id];
}

/* A decimal from 1 to max that ends at `end`. */
static int parse_count(const char *s, const char *end, long max, long *out)
{
	long v = 0;

	if (s == end)
		return -1;
	for (; s < end; s++) {
		if (!isdigit((unsigned char)*s))
			return -1;
		v = v * 10 + (*s - '0');
		if (v > max)
			return -1;
	}
	if (v < 1)
		return -1;
	*out = v;
	return 0;
}

static int find_point(const char *name, enum fault_id *id)
{
	for (unsigned i = 0; i < FAULT_COUNT; i++) {
		if (strcmp(names[i], name) == 0) {
			*id = (enum fault_id)i;
			return 0;
		}
	}
	return -1;
}

static int parse_action(const char *s, struct armed *a)
{
	static const char *const actions[] = { "fail", "kill", "stop", "hang" };

	for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
		if (strcmp(actions[i], s) == 0) {
			a->action = (enum fault_action)i;
			return 0;
		}
	}
	if (strncmp(s, "delay:", 6) == 0) {
		a->action = FAULT_DELAY;
		return parse_count(s + 6, s + strlen(s), DELAY_MAX_MS, &a->delay_ms);
	}
	return -1;
}

/* "POINT=ACTION[@N]"; `item` is modified. */
static int parse_item(char *item, struct armed *out, struct err *e)
{
	struct armed a = { .passes_left = 1 };
	char *action = strchr(item, '=');

	if (!action)
		return err_set(e, ERR_CONFIG, "fault '%s': not POINT=ACTION", item);
	*action++ = '\0';
	if (find_point(item, &a.id) < 0)
		return err_set(e, ERR_CONFIG, "fault '%s': no point of that name", item);
	char *nth = strchr(action, '@');
	if (nth) {
		*nth++ = '\0';
		if (parse_count(nth, nth + strlen(nth), NTH_MAX, &a.passes_left) < 0)
			return err_set(e, ERR_CONFIG, "fault '%s': '@%s' is not a count from 1", item, nth);
	}
	if (parse_action(action, &a) < 0)
		return err_set(e, ERR_CONFIG, "fault '%s': '%s' is not fail, kill, stop, hang or delay:MS", item,
			       action);
	*out = a;
	return 0;
}

int fault_arm(const char *spec, struct err *e)
{
	struct armed parsed[ARMED_MAX];
	size_t n = 0;
	MEM_AUTO char *copy = mem_strdup(spec ? spec : "");
	char *rest = NULL;

	for (char *item = strtok_r(copy, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
		if (n == ARMED_MAX)
			return err_set(e, ERR_CONFIG, "more than %d faults", ARMED_MAX);
		if (parse_item(item, &parsed[n], e) < 0)
			return -1;
		n++;
	}

	THREAD_LOCKED(&lock);
	if (n > 0)
		memcpy(table, parsed, n * sizeof(parsed[0]));
	table_len = n;
	atomic_store(&any_armed, n > 0);
	return 0;
}

int fault_arm_env(struct err *e)
{
	if (fault_arm(getenv("VMFERRY_FAULT"), e) < 0)
		return err_wrap(e, "VMFERRY_FAULT");
	return 0;
}

/* Counts the pass; true if an entry fires, which takes it out of the table. */
static bool pass(enum fault_id id, struct armed *fired)
{
	bool fires = false;

	THREAD_LOCKED(&lock);
	for (size_t i = 0; i < table_len; i++) {
		if (table[i].id != id || table[i].passes_left == 0)
			continue;
		if (--table[i].passes_left == 0 && !fires) {
			*fired = table[i];
			fires = true;
		}
	}
	return fires;
}

static int act(const struct armed *a, struct err *e)
{
	log_warn("fault_injected", "point=%s", names[a->id]);
	switch (a->action) {
	case FAULT_FAIL:
		err_set(e, ERR_SYS, "fault injected at %s", names[a->id]);
		e->errnum = EIO;
		return -1;
	case FAULT_KILL:
		kill(getpid(), SIGKILL);
		break;
	case FAULT_STOP:
		/* Of the process, not of this thread alone; whoever continues it lets the call go on. */
		kill(getpid(), SIGSTOP);
		break;
	case FAULT_HANG:
		for (;;)
			pause();
	case FAULT_DELAY: {
		struct timespec left = { .tv_sec = a->delay_ms / 1000, .tv_nsec = a->delay_ms % 1000 * NS_PER_MS };
		while (nanosleep(&left, &left) < 0 && errno == EINTR)
			;
		break;
	}
	}
	return 0;
}

int fault_point(enum fault_id id, struct err *e)
{
	struct armed fired = { 0 };

	if (!atomic_load_explicit(&any_armed, memory_order_relaxed))
		return 0;
	return pass(id, &fired) ? act(&fired, e) : 0;
}
