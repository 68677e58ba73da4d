/*
 * vmferry-hook VM OPERATION SUB-OPERATION EXTRA <the VM's definition - libvirt's hook for QEMU, /etc/libvirt/hooks/qemu.d/vmferry.
 *
 * libvirt asks before it starts a VM, however that came about ("prepare begin": start, create, restore, a migration in, autostart), and does not start it
 * if the status is not 0; what is on stderr becomes its message. May it be started: replicator/may_start.h. All other steps are none of ours.
 *
 * libvirt waits, and holds the VM's lock: no call to it, no network, no agent. Only files are read.
 */
#include "base/file.h"
#include "base/mem.h"
#include "config/config.h"
#include "replicator/epoch.h"
#include "replicator/may_start.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define DEFINITION_MAX ((size_t)1 << 20) /* its UUID stands at the beginning */
#define UUID_LEN 36u

enum { EXIT_MAY = 0, EXIT_MUST_NOT = 1 };

/* To be freed; NULL if there is none, or it cannot be read. */
static char *line_of(const char *path)
{
	struct err ignored = ERR_INIT;
	char *text = file_read_all(path, 4096, NULL, &ignored);

	if (text)
		text[strcspn(text, "\n")] = '\0';
	return text;
}

/* The first in libvirt's own words: metadata and devices come later, and its name has no markup. */
static bool find_uuid(const char *xml, char uuid[UUID_LEN + 1])
{
	static const char tag[] = "<uuid>";
	const char *at = strstr(xml, tag);

	if (!at || strlen(at + strlen(tag)) < UUID_LEN)
		return false;
	memcpy(uuid, at + strlen(tag), UUID_LEN);
	uuid[UUID_LEN] = '\0';
	return epoch_uuid_ok(uuid);
}

static bool read_uuid(int fd, char uuid[UUID_LEN + 1])
{
	MEM_AUTO char *xml = mem_alloc(DEFINITION_MAX + 1);
	size_t n = 0;

	while (n < DEFINITION_MAX) {
		const ssize_t got = read(fd, xml + n, DEFINITION_MAX - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	return find_uuid(xml, uuid);
}

/* For `vmferry check': libvirt does ask. */
static void leave_stamp(const char *run_dir)
{
	MEM_AUTO char *path = mem_printf("%s/hook-asked", run_dir);
	const int fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);

	if (fd < 0)
		return;
	(void)futimens(fd, NULL);
	close(fd);
}

static int judge(const char *vm, const struct config *c, struct err *e)
{
	MEM_AUTO char *boot_id = line_of(BOOT_ID);
	char uuid[UUID_LEN + 1];

	if (!read_uuid(STDIN_FILENO, uuid)) {
		err_set(e, ERR_REFUSED, "libvirt's definition of VM %.80s has no UUID: nobody can tell whose it is", vm);
		return -1;
	}
	return may_start(c ? c->state_dir : "/var/lib/vmferry",
			 c ? c->replication.replica_dir : "/var/lib/vmferry/replicas", uuid, boot_id, e);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT, ignored = ERR_INIT;

	if (argc < 4) {
		fprintf(stderr, "vmferry-hook is started by libvirt, see vmferryd(8)\n");
		return 2;
	}
	/* One that cannot be read counts as the defaults: a slip in it must not keep every VM of the host from starting. */
	struct config *c = config_load(CONFIG_DEFAULT_PATH, NULL, NULL, &ignored);
	leave_stamp(c ? c->run_dir : "/run/vmferry");
	int rc = 0;
	if (strcmp(argv[2], "prepare") == 0 && strcmp(argv[3], "begin") == 0)
		rc = judge(argv[1], c, &e);
	config_free(c);
	if (rc == 0)
		return EXIT_MAY;
	fprintf(stderr, "vmferry: %s%s%s\n", e.text, e.remedy[0] ? "; " : "", e.remedy);
	return EXIT_MUST_NOT;
}
