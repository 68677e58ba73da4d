#include "tools/vmferryd/recovery.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "migrator/restore_virt.h"
#include "replicator/failover.h"
#include "replicator/replicator.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/probe.h"
#include "tools/vmferryd/takeover.h"

#include <string.h>
#include <time.h>

#define SOON_NS NS_PER_S /* a VM may stand still */
#define AGAIN_NS (5 * NS_PER_S)
#define ANSWER_NS (2 * NS_PER_S)

/* One thread at a time. */
static struct {
	pthread_mutex_t lock;
	bool under_way, asked; /* under lock */
} rounds = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Its source may have given the VM up: then it goes on here, which was asked for. True: it runs here, or the source has said that it has not. */
static bool go_on(struct agent *a, const json_t *record, struct err *e)
{
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	const json_t *paused = json_object_get(json_object_get(record, "handover"), "paused");
	const char *from = json_string_value(json_object_get(record, "from"));

	/* One that is gone is asked without keeping an operator from a failover that does without it. */
	if (!from || !probe_answers(a, from, ANSWER_NS))
		return false;
	json_t *args = json_pack("{s:s, s:b, s:b, s:b}", "vm", uuid, "planned", 1, "again", 1, "paused",
				 json_is_true(paused));
	json_t *report = NULL;
	const int rc = takeover_failover(a, NULL, args, &report, e);

	json_decref(args);
	json_decref(report);
	if (rc == 0)
		return true;
	json_t *now = replicas_record(replicator_replicas(a->replicator), uuid);
	const bool open = json_is_object(json_object_get(now, "handover"));
	json_decref(now);
	return !open;
}

/* It runs here; the agent that started it may have died before it was thawed, or its own agent may not have answered. */
static bool thaw(struct agent *a, const char *uuid, bool wait, struct err *e)
{
	json_t *record = replicas_record(replicator_replicas(a->replicator), uuid);
	const bool frozen = failover_is_frozen(record);

	json_decref(record);
	return !frozen || (wait && takeover_thaw(a, uuid, e) == 0);
}

/* network: may a peer, or a guest's agent, be waited for? */
static bool recover_one(struct agent *a, const json_t *record, bool network)
{
	const char *uuid = json_string_value(json_object_get(record, "uuid")),
		   *state = json_string_value(json_object_get(record, "state"));
	struct err e = ERR_INIT;
	bool settled = true;

	if (!state)
		return true;
	if (strcmp(state, "promoting") == 0)
		settled = takeover_settle(a, uuid, &e) == 0;
	else if (strcmp(state, "replica") == 0 && json_is_object(json_object_get(record, "handover")))
		settled = network && go_on(a, record, &e);
	if (settled)
		settled = thaw(a, uuid, network, &e);
	if (err_is_set(&e))
		log_warn("failover_unsettled", "uuid=%s settled=%d msg=%s", uuid, (int)settled, LOG_Q(e.text));
	return settled;
}

/* False: something is left that libvirt or a peer could not be asked about. */
static bool recover_all(struct agent *a, bool network)
{
	struct replicas *replicas = replicator_replicas(a->replicator);
	json_t *all = json_array(), *one;
	bool settled = true;
	size_t i;

	replicas_list(replicas, NULL, all);
	json_array_foreach (all, i, one) {
		json_t *record = replicas_record(replicas, json_string_value(json_object_get(one, "uuid")));
		settled = recover_one(a, record, network) && settled;
		json_decref(record);
	}
	json_decref(all);
	return settled;
}

/* Is there anything more to do? */
static bool next_round(struct agent *a, bool settled)
{
	THREAD_LOCKED(&rounds.lock);
	const bool more = !agent_stopping(a) && (!settled || rounds.asked);
	rounds.asked = false;
	rounds.under_way = more;
	return more;
}

static void *recover_main(void *arg)
{
	struct agent *a = arg;
	const struct timespec moment = { .tv_nsec = 200 * NS_PER_MS };
	int64_t wait_ns = SOON_NS;
	bool settled = false;

	for (; next_round(a, settled); wait_ns = AGAIN_NS) {
		const int64_t until = clock_mono_ns() + wait_ns;
		while (!agent_stopping(a) && clock_mono_ns() < until)
			nanosleep(&moment, NULL);
		settled = agent_stopping(a) || recover_all(a, true);
	}
	__atomic_sub_fetch(&a->calls, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static bool in_background(struct agent *a, const char *name, void *(*fn)(void *arg))
{
	struct err e = ERR_INIT;

	__atomic_add_fetch(&a->calls, 1, __ATOMIC_SEQ_CST); /* the agent waits for it when it stops */
	if (thread_start_detached(name, fn, a, &e) == 0)
		return true;
	log_error("no_thread", "name=%s msg=%s", name, LOG_Q(e.text));
	__atomic_sub_fetch(&a->calls, 1, __ATOMIC_SEQ_CST);
	return false;
}

void recovery_again(struct agent *a)
{
	{
		THREAD_LOCKED(&rounds.lock);
		rounds.asked = true;
		if (rounds.under_way)
			return;
		rounds.under_way = true;
	}
	if (in_background(a, "recover", recover_main))
		return;
	THREAD_LOCKED(&rounds.lock);
	rounds.under_way = false;
}

void recovery_start(struct agent *a)
{
	const struct settings_view *view = settings_get(a->settings);

	restore_virt_clean_up(view->config->run_dir);
	settings_put(a->settings, view);
	if (!recover_all(a, false))
		recovery_again(a);
}
