#include "migrator/image_facts.h"

#include "base/child.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define PROBE_PREFIX ".vmferry-probe-"
#define PROBE_NAME_LEN (sizeof(PROBE_PREFIX) - 1 + 16)
#define PROBE_STALE_S 600
#define QEMU_IMG_TIMEOUT_NS (10 * NS_PER_S)

/* The file systems that virFileIsSharedFS() of libvirt knows. */
static const unsigned network_magics[] = {
	0x6969,     /* NFS */
	0x01161970, /* GFS2 */
	0x7461636f, /* OCFS2 */
	0x5346414f, /* AFS */
	0x517b,     /* SMB */
	0xff534d42, /* CIFS */
	0xfe534d42, /* SMB2 */
	0x00c36400, /* CEPH */
	0x47504653, /* GPFS */
	0x51626d6e, /* Quobyte */
	0x61636673, /* ACFS */
};

static void folder_of(const char *path, char *buf, size_t size)
{
	const char *slash = strrchr(path, '/');
	if (!slash)
		snprintf(buf, size, ".");
	else
		snprintf(buf, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

static void look_at_folder(const char *path, struct image_facts *out)
{
	char folder[PATH_MAX];
	struct stat st;
	struct statfs fs;
	struct statvfs space;

	folder_of(path, folder, sizeof(folder));
	out->folder = stat(folder, &st) == 0 && S_ISDIR(st.st_mode);
	if (!out->folder)
		return;
	out->fs_id = st.st_dev;
	if (statvfs(folder, &space) == 0)
		out->fs_free = (uint64_t)space.f_bavail * space.f_frsize;
	if (statfs(folder, &fs) != 0)
		return;
	for (size_t i = 0; i < sizeof(network_magics) / sizeof(network_magics[0]); i++)
		out->network_fs = out->network_fs || (unsigned)fs.f_type == network_magics[i];
}

static uint64_t device_size(const char *path)
{
	uint64_t bytes = 0;
	FD_AUTO int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) != 0)
		return 0;
	return bytes;
}

void image_facts_get(const char *path, struct image_facts *out)
{
	struct stat st;

	*out = (struct image_facts){ 0 };
	if (path[0] != '/')
		return;
	look_at_folder(path, out);
	if (stat(path, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		return;
	out->exists = true;
	out->device = S_ISBLK(st.st_mode);
	out->size = out->device ? device_size(path) : (uint64_t)st.st_size;
	out->allocated = out->device ? out->size : (uint64_t)st.st_blocks * 512;
	out->inode = st.st_ino;
	out->mtime_ns = st.st_mtim.tv_sec * NS_PER_S + st.st_mtim.tv_nsec;
}

#define QCOW2_HEAD 72 /* of version 2; later ones add to it */

static int qcow2_head(const char *path, unsigned char head[QCOW2_HEAD], struct err *e)
{
	/* A peer named the path: a FIFO of that name must not hold us. */
	FD_AUTO int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_sys(e, "%s", path);
	if (fd_read_full(fd, head, QCOW2_HEAD, e) < 0 || memcmp(head, "QFI\xfb", 4) != 0)
		return err_set(e, ERR_CORRUPT, "%s is not a qcow2 image", path);
	return 0;
}

static uint64_t big_endian(const unsigned char *p, int bytes)
{
	uint64_t value = 0;
	for (int i = 0; i < bytes; i++)
		value = value << 8 | p[i];
	return value;
}

static int qcow2_size(const char *path, uint64_t *size, struct err *e)
{
	unsigned char head[QCOW2_HEAD];

	if (qcow2_head(path, head, e) < 0)
		return -1;
	*size = big_endian(head + 24, 8);
	return 0;
}

unsigned image_facts_snapshots(const char *path)
{
	struct err ignored = ERR_INIT;
	unsigned char head[QCOW2_HEAD];

	return qcow2_head(path, head, &ignored) < 0 ? 0 : (unsigned)big_endian(head + 60, 4);
}

static int ask_qemu_img(const char *path, const char *format, uint64_t *size, struct err *e)
{
	MEM_AUTO char *out = NULL;
	const char *const argv[] = { "qemu-img", "info", "-U", "--output=json", "-f", format, path, NULL };

	for (const char *p = format; *p; p++)
		if (!isalnum((unsigned char)*p))
			return err_set(e, ERR_CORRUPT, "'%s' is no image format", format);
	if (child_run(argv, clock_mono_ns() + QEMU_IMG_TIMEOUT_NS, NULL, &out, e) < 0)
		return err_wrap(e, "%s", path);
	json_t *info = json_loads(out, 0, NULL);
	json_int_t value = json_integer_value(json_object_get(info, "virtual-size"));
	json_decref(info);
	if (value <= 0)
		return err_set(e, ERR_CORRUPT, "%s: qemu-img does not say how large it is", path);
	*size = (uint64_t)value;
	return 0;
}

int image_facts_virtual_size(const char *path, const char *format, uint64_t *size, struct err *e)
{
	struct image_facts f;

	image_facts_get(path, &f);
	if (!f.exists)
		return err_set(e, ERR_SYS, "%s is not there", path);
	if (strcmp(format, "qcow2") == 0)
		return qcow2_size(path, size, e);
	if (strcmp(format, "raw") != 0)
		return ask_qemu_img(path, format, size, e);
	*size = f.size;
	return 0;
}

/* One line of a file in /sys, trimmed; NULL when missing or empty. */
static char *read_line(const char *dev, const char *rest)
{
	struct err ignored = ERR_INIT;
	MEM_AUTO char *path = mem_printf("/sys/dev/block/%s/%s", dev, rest);
	char *text = file_read_all(path, 4096, NULL, &ignored);
	if (!text)
		return NULL;
	text[strcspn(text, "\n")] = 0;
	size_t len = strlen(text);
	while (len > 0 && text[len - 1] == ' ')
		text[--len] = 0;
	if (len == 0) {
		free(text);
		return NULL;
	}
	return text;
}

char *image_facts_device_id(const char *path)
{
	static const char *const whole[] = { "dm/uuid", "wwid", "device/wwid" };
	static const char *const parent[] = { "../dm/uuid", "../wwid", "../device/wwid" };
	struct stat st;
	char dev[32];

	if (stat(path, &st) != 0 || !S_ISBLK(st.st_mode))
		return NULL;
	snprintf(dev, sizeof(dev), "%u:%u", major(st.st_rdev), minor(st.st_rdev));
	MEM_AUTO char *partition = read_line(dev, "partition");
	for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++) {
		MEM_AUTO char *id = read_line(dev, partition ? parent[i] : whole[i]);
		if (id)
			return partition ? mem_printf("%s part %s", id, partition) : mem_strdup(id);
	}
	return NULL;
}

static bool is_probe_name(const char *name)
{
	return strlen(name) == PROBE_NAME_LEN && strncmp(name, PROBE_PREFIX, sizeof(PROBE_PREFIX) - 1) == 0 &&
	       strspn(name + sizeof(PROBE_PREFIX) - 1, "0123456789abcdef") == 16;
}

static void remove_stale(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	time_t now = time(NULL);

	while (dir && (entry = readdir(dir))) {
		struct stat st;
		if (is_probe_name(entry->d_name) && fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISREG(st.st_mode) && now - st.st_mtime > PROBE_STALE_S)
			(void)unlinkat(dirfd(dir), entry->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

static int random_hex(char *out, size_t digits, struct err *e)
{
	unsigned char bytes[16];
	size_t n = digits / 2;

	if (getrandom(bytes, n, 0) != (ssize_t)n)
		return err_sys(e, "random bytes");
	for (size_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

int image_facts_make_probe(const char *image, char **probe, char token[IMAGE_FACTS_TOKEN_LEN], struct err *e)
{
	char real[PATH_MAX];
	char folder[PATH_MAX];
	char name[17];

	if (!realpath(image, real))
		return err_sys(e, "%s", image);
	folder_of(real, folder, sizeof(folder));
	if (random_hex(name, 16, e) < 0 || random_hex(token, 32, e) < 0)
		return -1;
	remove_stale(folder);
	MEM_AUTO char *path = mem_printf("%s/" PROBE_PREFIX "%s", strcmp(folder, "/") == 0 ? "" : folder, name);
	FD_AUTO int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_sys(e, "make a file in %s", folder);
	if (fd_write_full(fd, token, IMAGE_FACTS_TOKEN_LEN - 1, e) < 0) {
		(void)unlink(path);
		return -1;
	}
	*probe = path;
	path = NULL;
	return 0;
}

bool image_facts_check_probe(const char *image, const char *name, const char *token)
{
	char real[PATH_MAX];
	char folder[PATH_MAX];
	char text[IMAGE_FACTS_TOKEN_LEN - 1];
	struct err ignored = ERR_INIT;
	struct stat st;

	if (!is_probe_name(name) || strlen(token) != sizeof(text) || !realpath(image, real))
		return false;
	folder_of(real, folder, sizeof(folder));
	FD_AUTO int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	FD_AUTO int fd = dir < 0 ? -1 : openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size != (off_t)sizeof(text))
		return false;
	return fd_read_full(fd, text, sizeof(text), &ignored) == 0 && memcmp(text, token, sizeof(text)) == 0;
}
