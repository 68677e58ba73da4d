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
#include "replicator/folders.h"
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

static int nobody_knows(const char *vm, const struct err *why, struct err *e)
{
	err_set(e, ERR_REFUSED,
		"where the records of this host's protected VMs are cannot be told, and so not whether VM %.80s has "
		"gone on "
		"at another host: %.600s",
		vm, why->text);
	return err_remedy(e, "'vmferryd --check-config' says what is wrong with " CONFIG_DEFAULT_PATH
			     "; where no VM is protected, that file may be moved away");
}

/* Where the configuration says, and where the agent last had them: it may have been changed since, or be unreadable now. What is in neither is nowhere only
 * if there is no configuration at all, or a good one. */
static int judge(const char *vm, const struct config *c, const struct err *why, struct err *e)
{
	MEM_AUTO char *boot_id = line_of(BOOT_ID);
	struct folders noted = { 0 };
	struct err ignored = ERR_INIT;
	char uuid[UUID_LEN + 1];

	if (!read_uuid(STDIN_FILENO, uuid))
		return err_set(e, ERR_REFUSED,
			       "libvirt's definition of VM %.80s has no UUID: nobody can tell whose it is", vm);
	const bool known = folders_noted(FOLDERS_PATH, &noted, &ignored) == 0;
	int rc = known ? may_start(noted.state_dir, noted.replica_dir, uuid, boot_id, e) : 0;
	folders_fini(&noted);
	if (rc == 0 && c)
		rc = may_start(c->state_dir, c->replication.replica_dir, uuid, boot_id, e);
	else if (rc == 0 && !known && why->errnum == ENOENT)
		rc = may_start("/var/lib/vmferry", "/var/lib/vmferry/replicas", uuid, boot_id, e);
	else if (rc == 0 && !known)
		rc = nobody_knows(vm, why, e);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT, why = ERR_INIT;

	if (argc < 4) {
		fprintf(stderr, "vmferry-hook is started by libvirt, see vmferryd(8)\n");
		return 2;
	}
	struct config *c = config_load(CONFIG_DEFAULT_PATH, NULL, NULL, &why);
	leave_stamp(c ? c->run_dir : "/run/vmferry");
	int rc = 0;
	if (strcmp(argv[2], "prepare") == 0 && strcmp(argv[3], "begin") == 0)
		rc = judge(argv[1], c, &why, &e);
	config_free(c);
	if (rc == 0)
		return EXIT_MAY;
	fprintf(stderr, "vmferry: %s%s%s\n", e.text, e.remedy[0] ? "; " : "", e.remedy);
	return EXIT_MUST_NOT;
}
