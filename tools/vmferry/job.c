#include "tools/vmferry/job.h"

#include "tools/vmferry/client.h"
#include "tools/vmferry/interrupt.h"
#include "tools/vmferry/live.h"

struct running {
	const struct job *job;
	struct live *live;
};

static void on_note(void *ctx, const json_t *note)
{
	const struct running *r = ctx;
	live_note(r->live, note);
}

static void on_first_interrupt(void *ctx)
{
	const struct running *r = ctx;
	live_say(r->live, "%s; press Ctrl-C again to leave without waiting", r->job->cancelling);
}

static void on_second_interrupt(void *ctx)
{
	const struct running *r = ctx;
	live_hide(r->live);
	live_say(r->live, "left while cancelling; the agent finishes without this command.");
	live_say(r->live, "  what to do: %s", r->job->left);
}

int job_run(const struct job *j, const char *method, json_t *args, json_t **result, struct err *e)
{
	struct running r = { .job = j, .live = live_new(j->vm, j->to, j->cli->json) };
	struct interrupt *interrupt = interrupt_new(on_first_interrupt, on_second_interrupt, &r, e);
	struct client *client = interrupt ? client_open(j->cli, e) : NULL;
	int rc = -1;
	if (client)
		rc = client_call(client, method, args, CLIENT_LONG_NS, on_note, &r, interrupt_flag(interrupt), result,
				 e);
	else
		json_decref(args);
	client_close(client);
	live_hide(r.live);
	interrupt_free(interrupt);
	live_free(r.live);
	return rc;
}
