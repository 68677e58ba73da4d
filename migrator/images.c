#include "migrator/images.h"

#include "base/child.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <libxml/parser.h>
#include <libxml/xpath.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_FOLDER "/var/lib/libvirt/images"
#define CREATE_TIMEOUT_NS (60 * NS_PER_S)

/* The folder of an active pool, or NULL. */
static char *pool_folder(virStoragePoolPtr pool)
{
	VIRT_STR_AUTO char *xml = virStoragePoolGetXMLDesc(pool, 0);
	char *folder = NULL;

	if (!xml)
		return NULL;
	xmlDocPtr doc = xmlReadMemory(xml, (int)strlen(xml), "pool", NULL, XML_PARSE_NONET | XML_PARSE_NOERROR);
	xmlXPathContextPtr ctx = doc ? xmlXPathNewContext(doc) : NULL;
	xmlXPathObjectPtr r = ctx ? xmlXPathEvalExpression(BAD_CAST "string(/pool/target/path)", ctx) : NULL;
	if (r && r->stringval && r->stringval[0] == '/')
		folder = mem_strdup((const char *)r->stringval);
	xmlXPathFreeObject(r);
	xmlXPathFreeContext(ctx);
	xmlFreeDoc(doc);
	return folder;
}

/* Real path of `folder` equal to real path `dir`, or above it. */
static bool lies_in(const char *dir, const char *folder)
{
	char real[PATH_MAX];
	if (!realpath(folder, real))
		return false;
	size_t n = strlen(real);
	return strncmp(dir, real, n) == 0 && (dir[n] == 0 || dir[n] == '/');
}

static bool in_a_pool(virConnectPtr conn, const char *dir)
{
	virStoragePoolPtr *pools = NULL;
	bool found = false;
	int n = virConnectListAllStoragePools(conn, &pools, VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE);

	for (int i = 0; i < n; i++) {
		MEM_AUTO char *folder = pool_folder(pools[i]);
		found = found || (folder && lies_in(dir, folder));
		virStoragePoolFree(pools[i]);
	}
	free(pools);
	return found;
}

static int check_folder(virConnectPtr conn, const char *image_dir, const char *path, struct err *e)
{
	char dir[PATH_MAX], real[PATH_MAX];
	const char *slash = strrchr(path, '/');

	if (path[0] != '/' || strlen(path) >= sizeof dir || !slash[1])
		return err_set(e, ERR_REFUSED, "image %s: not the absolute path of a file", path);
	snprintf(dir, sizeof dir, "%.*s", slash == path ? 1 : (int)(slash - path), path);
	if (!realpath(dir, real)) {
		err_sys(e, "image %s: folder %s", path, dir);
		return err_remedy(e, "create the folder %s on the target host, on a file system with enough space", dir);
	}
	if ((image_dir && lies_in(real, image_dir)) || lies_in(real, DEFAULT_FOLDER) || in_a_pool(conn, real))
		return 0;
	err_set(e, ERR_REFUSED, "image %s: folder %s is not given out for images on this host", path, dir);
	return err_remedy(e,
			  "on the target host set migration.image_dir = \"%s\" in vmferryd.conf, or make the folder a storage pool",
			  dir);
}

static int check_one(virConnectPtr conn, const char *image_dir, const json_t *disk, struct err *e)
{
	const char *path = json_string_value(json_object_get(disk, "path"));
	const char *format = json_string_value(json_object_get(disk, "format"));
	struct stat st;

	if (!path || !format || path[0] != '/' || json_integer_value(json_object_get(disk, "virtual_size")) <= 0)
		return err_set(e, ERR_PROTOCOL, "a disk without path, format or size");
	if (strcmp(format, "qcow2") != 0 && strcmp(format, "raw") != 0)
		return err_set(e, ERR_REFUSED, "image %s: format %s cannot be created, only raw and qcow2", path, format);
	if (check_folder(conn, image_dir, path, e) != 0)
		return -1;
	if (lstat(path, &st) == 0) {
		err_set(e, ERR_REFUSED, "image %s exists already", path);
		return err_remedy(e, "it may hold data: look at it, then remove or rename it");
	}
	return errno == ENOENT ? 0 : err_sys(e, "image %s", path);
}

int images_check(virConnectPtr conn, const char *image_dir, const json_t *disks, struct err *e)
{
	size_t i;
	json_t *disk;

	json_array_foreach(disks, i, disk)
		if (check_one(conn, image_dir, disk, e) != 0)
			return -1;
	return 0;
}

static int create_one(const char *path, const char *format, json_int_t size, json_t *made, struct err *e)
{
	char bytes[32];

	/* qemu-img would overwrite: the name is taken first, by the one call that cannot. */
	FD_AUTO int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(e, "create image %s", path);
	json_array_append_new(made, json_string(path));
	snprintf(bytes, sizeof bytes, "%lld", (long long)size);
	const char *const argv[] = { "qemu-img", "create", "-q", "-f", format, path, bytes, NULL };
	if (child_run(argv, clock_mono_ns() + CREATE_TIMEOUT_NS, NULL, NULL, e) != 0)
		return err_wrap(e, "create image %s", path);
	return 0;
}

int images_create(const json_t *disks, json_t *made, struct err *e)
{
	size_t i;
	json_t *disk;

	json_array_foreach(disks, i, disk)
		if (create_one(json_string_value(json_object_get(disk, "path")),
			       json_string_value(json_object_get(disk, "format")),
			       json_integer_value(json_object_get(disk, "virtual_size")), made, e) != 0)
			return -1;
	return 0;
}

void images_remove(const json_t *made)
{
	size_t i;
	json_t *path;

	json_array_foreach(made, i, path)
	{
		struct err e = ERR_INIT;
		if (file_remove_durable(json_string_value(path), &e) != 0)
			log_error("image_left", "path=%s msg=%s", json_string_value(path), LOG_Q(e.text));
		else
			log_info("image_removed", "path=%s", json_string_value(path));
	}
}
