#include "migrator/ways.h"

#include "base/mem.h"
#include "base/thread.h"
#include "migrator/migrator_internal.h"

#include <stdlib.h>
#include <string.h>

struct way {
	struct way *next;
	char *host;
	struct adapt_learned learned;
};

static struct way *find_locked(struct migrator *m, const char *host)
{
	struct way *w = m->ways;

	while (w && strcmp(w->host, host) != 0)
		w = w->next;
	return w;
}

void ways_recall(struct migrator *m, const char *host, struct adapt_learned *out)
{
	THREAD_LOCKED(&m->lock);
	const struct way *w = find_locked(m, host);
	*out = w ? w->learned : (struct adapt_learned){ 0 };
}

/* As many as there are peers in the configuration. */
void ways_remember(struct migrator *m, const char *host, const struct adapt_learned *learned)
{
	THREAD_LOCKED(&m->lock);
	struct way *w = find_locked(m, host);
	if (!w) {
		w = mem_alloc(sizeof(*w));
		w->host = mem_strdup(host);
		w->next = m->ways;
		m->ways = w;
	}
	w->learned = *learned;
}

void ways_free(struct migrator *m)
{
	while (m->ways) {
		struct way *w = m->ways;
		m->ways = w->next;
		free(w->host);
		free(w);
	}
}
