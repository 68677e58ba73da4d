#include "tools/vmferryd/settings.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

#include <assert.h>
#include <stdlib.h>

struct version {
	struct settings_view view; /* first: views are cast back */
	struct config *config;
	unsigned refs; /* settings.lock */
};

struct settings {
	char *path; /* fixed */

	pthread_mutex_t lock;
	/* under lock */
	struct version *current; /* holds one reference */
	struct tls_ctx *tls;
};

static struct version *version_new(struct config *config)
{
	struct version *v = mem_alloc(sizeof(*v));
	v->config = config;
	v->view.config = config;
	v->refs = 1;
	return v;
}

static void version_unref_locked(struct version *v)
{
	if (--v->refs > 0)
		return;
	config_free(v->config);
	free(v);
}

static struct tls_ctx *load_tls(const struct config *c, struct err *e)
{
	const struct tls_files files = { .ca = c->tls.ca, .cert = c->tls.cert, .key = c->tls.key };
	struct tls_ctx *ctx = tls_ctx_new(&files, e);
	if (!ctx)
		err_remedy(e,
			   "make certificates with `vmferry pki init' and `vmferry pki issue %s', and copy ca.pem, "
			   "host.pem and "
			   "host.key to where tls.* in vmferryd.conf says",
			   c->name);
	return ctx;
}

struct settings *settings_new(const char *path, config_report report, void *ctx, struct err *e)
{
	struct config *config = config_load(path, report, ctx, e);
	if (!config)
		return NULL;
	struct tls_ctx *tls = load_tls(config, e);
	if (!tls) {
		config_free(config);
		return NULL;
	}
	struct settings *s = mem_alloc(sizeof(*s));
	s->path = mem_strdup(path);
	s->current = version_new(config);
	s->tls = tls;
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

void settings_free(struct settings *s)
{
	if (!s)
		return;
	assert(s->current->refs == 1);
	version_unref_locked(s->current);
	tls_ctx_free(s->tls);
	pthread_mutex_destroy(&s->lock);
	free(s->path);
	free(s);
}

const char *settings_path(const struct settings *s)
{
	return s->path;
}

const struct settings_view *settings_get(struct settings *s)
{
	THREAD_LOCKED(&s->lock);
	s->current->refs++;
	return &s->current->view;
}

void settings_put(struct settings *s, const struct settings_view *view)
{
	THREAD_LOCKED(&s->lock);
	version_unref_locked((struct version *)(uintptr_t)view);
}

struct tls_ctx *settings_tls(struct settings *s)
{
	THREAD_LOCKED(&s->lock);
	return tls_ctx_ref(s->tls);
}

unsigned settings_roles(struct settings *s, const char *peer)
{
	THREAD_LOCKED(&s->lock);
	const struct config_peer *p = config_peer_find(s->current->config, peer);
	return p ? p->roles : 0;
}

bool settings_knows(struct settings *s, const char *peer)
{
	THREAD_LOCKED(&s->lock);
	return config_peer_find(s->current->config, peer) != NULL;
}

static void log_line(void *ctx, const char *line)
{
	(void)ctx;
	log_error("config_problem", "msg=%s", LOG_Q(line));
}

static void log_changes(const struct config *running, const struct config *loaded)
{
	struct config_change changes[64];
	size_t n = config_reload_diff(running, loaded, changes, 64);
	for (size_t i = 0; i < n && i < 64; i++) {
		if (changes[i].needs_restart)
			log_warn("config_needs_restart", "key=%s msg=%s", changes[i].key,
				 LOG_Q("changed in the file, but in force only after systemctl restart vmferryd"));
		else
			log_info("config_changed", "key=%s", changes[i].key);
	}
}

int settings_reload(struct settings *s, struct err *e)
{
	struct config *loaded = config_load(s->path, log_line, NULL, e);
	if (!loaded)
		return -1;
	struct tls_ctx *tls = load_tls(loaded, e);
	if (!tls) {
		config_free(loaded);
		return -1;
	}
	THREAD_LOCKED(&s->lock);
	log_changes(s->current->config, loaded);
	config_keep_fixed(loaded, s->current->config);
	log_set_level(loaded->log.level);
	version_unref_locked(s->current);
	s->current = version_new(loaded);
	struct tls_ctx *old = s->tls;
	s->tls = tls;
	tls_ctx_free(old);
	return 0;
}
