#include "tools/vmferryd/control.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/door.h"
#include "transport/link.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define NO_GROUP ((gid_t)-1)

struct control {
	/* fixed */
	struct agent *agent;
	char *path;
	gid_t group; /* NO_GROUP: root alone */
	struct door *door;
};

/* Is the process at the other end in the group, as its first or one of the others? */
static bool in_group(int fd, const struct ucred *cred, gid_t group)
{
	if (group == NO_GROUP)
		return false;
	if (cred->gid == group)
		return true;
	gid_t groups[1024];
	socklen_t len = sizeof(groups);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
		return false;
	for (size_t i = 0; i < len / sizeof(gid_t); i++)
		if (groups[i] == group)
			return true;
	return false;
}

static int check_caller(const struct control *c, int fd, char *who, size_t size, struct err *e)
{
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return err_sys(e, "SO_PEERCRED");
	snprintf(who, size, "local uid=%u pid=%d", cred.uid, cred.pid);
	if (cred.uid == 0 || cred.uid == geteuid() || in_group(fd, &cred, c->group))
		return 0;
	err_set(e, ERR_REFUSED, "user %u may not command this agent", cred.uid);
	return err_remedy(e, "run this as root, or as a member of the group that control.group in vmferryd.conf names");
}

static void greet(void *ctx, int fd, const char *addr)
{
	const struct control *c = ctx;
	struct err e = ERR_INIT, refused = ERR_INIT;
	char who[80] = "local";
	(void)addr;
	int allowed = check_caller(c, fd, who, sizeof(who), &refused);
	struct link *l = link_accept_local(fd, clock_mono_ns() + DOOR_WITHIN_NS, &e);
	if (allowed < 0) {
		log_warn("client_refused", "%s msg=%s", who, LOG_Q(refused.text));
		if (l)
			link_refuse(l, &refused);
		return;
	}
	if (!l) {
		log_debug("client_lost", "%s msg=%s", who, LOG_Q(e.text));
		return;
	}
	clients_serve(c->agent->clients, l, true, who);
}

static int find_group(const char *name, gid_t *out, struct err *e)
{
	*out = NO_GROUP;
	if (!*name)
		return 0;
	errno = 0;
	const struct group *g = getgrnam(name); /* at start, before other threads could ask */
	if (!g) {
		err_set(e, ERR_CONFIG, "control.group: there is no group \"%s\" on this host", name);
		return err_remedy(e, "make it with `groupadd --system %s', or set control.group to another", name);
	}
	*out = g->gr_gid;
	return 0;
}

static int open_socket(const struct control *c, struct err *e)
{
	MEM_AUTO char *dir = mem_strdup(c->path);
	char *slash = strrchr(dir, '/');
	if (slash && slash != dir) {
		*slash = '\0';
		if (file_mkdirs(dir, 0755, e) < 0)
			return -1;
	}
	int fd = fd_unix_listen(c->path, c->group == NO_GROUP ? 0600 : 0660, e);
	if (fd < 0)
		return -1;
	if (c->group != NO_GROUP && chown(c->path, (uid_t)-1, c->group) < 0) {
		err_sys(e, "chown %s", c->path);
		fd_close(&fd);
		return -1;
	}
	return fd;
}

struct control *control_start(struct agent *a, struct err *e)
{
	struct control *c = mem_alloc(sizeof(*c));
	const struct settings_view *view = settings_get(a->settings);
	c->agent = a;
	c->path = mem_strdup(view->config->control.socket);
	int rc = find_group(view->config->control.group, &c->group, e);
	settings_put(a->settings, view);
	int fd = rc == 0 ? open_socket(c, e) : -1;
	if (fd < 0) {
		err_wrap(e, "control socket");
		goto fail;
	}
	c->door = door_open(&(struct door_opts){ .name = "greet-local", .fd = fd, .greet = greet, .ctx = c }, e);
	if (!c->door)
		goto fail;
	return c;
fail:
	free(c->path);
	free(c);
	return NULL;
}

void control_stop(struct control *c)
{
	if (!c)
		return;
	door_close(c->door);
	unlink(c->path);
	free(c->path);
	free(c);
}
