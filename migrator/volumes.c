#include "migrator/volumes.h"

#include "base/log.h"
#include "base/mem.h"
#include "migrator/xml.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POOL_XML_MAX (1u << 20)

/* Is the path one right in that folder? */
static bool is_in(const char *path, const char *folder)
{
	size_t len = strlen(folder);

	while (len > 1 && folder[len - 1] == '/')
		len--;
	return strncmp(path, folder, len) == 0 && path[len] == '/' && path[len + 1] && !strchr(path + len + 1, '/');
}

static char *pool_folder(virStoragePoolPtr pool)
{
	struct err ignored = ERR_INIT;
	VIRT_STR_AUTO char *xml = virStoragePoolGetXMLDesc(pool, 0);
	XML_DOC_AUTO xmlDocPtr doc = xml ? xml_parse(xml, POOL_XML_MAX, "pool", &ignored) : NULL;

	return doc ? xml_text(xml_child(xml_child(xmlDocGetRootElement(doc), "target"), "path")) : NULL;
}

static bool is_volume(const struct domain_disk *d)
{
	return strcmp(d->type, "volume") == 0 && d->pool && d->volume;
}

static void find_one(virConnectPtr conn, struct domain_disk *d)
{
	virStoragePoolPtr pool = virStoragePoolLookupByName(conn, d->pool);
	virStorageVolPtr volume = pool ? virStorageVolLookupByName(pool, d->volume) : NULL;
	virStorageVolInfo info;

	if (volume && virStorageVolGetInfo(volume, &info) == 0 &&
	    (info.type == VIR_STORAGE_VOL_FILE || info.type == VIR_STORAGE_VOL_BLOCK)) {
		VIRT_STR_AUTO char *path = virStorageVolGetPath(volume);
		if (path) {
			xml_take(&d->path, mem_strdup(path));
			d->source = info.type == VIR_STORAGE_VOL_FILE ? DOMAIN_SOURCE_FILE : DOMAIN_SOURCE_BLOCK;
		}
	}
	if (volume)
		virStorageVolFree(volume);
	if (pool)
		virStoragePoolFree(pool);
}

void volumes_find(virConnectPtr conn, struct domain *d)
{
	for (size_t i = 0; i < d->n_disks; i++)
		if (is_volume(&d->disks[i]))
			find_one(conn, &d->disks[i]);
}

static void refresh(virStoragePoolPtr pool)
{
	struct err e = ERR_INIT;

	if (virStoragePoolRefresh(pool, 0) == 0)
		return;
	virt_err(&e, "refresh storage pool %s", virStoragePoolGetName(pool));
	log_warn("pool_refresh", "msg=%s", LOG_Q(e.text));
}

int volumes_place(virConnectPtr conn, struct domain_disk *d, const char *path, struct err *e)
{
	if (!is_volume(d))
		return err_set(e, ERR_PROTOCOL, "disk %s is no volume", d->target);
	virStoragePoolPtr pool = virStoragePoolLookupByName(conn, d->pool);
	MEM_AUTO char *folder = pool ? pool_folder(pool) : NULL;
	bool active = pool && virStoragePoolIsActive(pool) == 1, right = folder && is_in(path, folder);

	if (active && right && access(path, F_OK) == 0)
		refresh(pool);
	if (pool)
		virStoragePoolFree(pool);
	if (!active)
		return err_set(e, ERR_REFUSED, "there is no storage pool '%s' that is started", d->pool);
	if (!right)
		return err_set(e, ERR_REFUSED, "storage pool '%s' is at %s, not where %s is", d->pool,
			       folder ? folder : "no folder", path);
	xml_take(&d->path, mem_strdup(path));
	/* What it is there, the source knows; a logical pool has devices. */
	d->source = strncmp(path, "/dev/", 5) == 0 ? DOMAIN_SOURCE_BLOCK : DOMAIN_SOURCE_FILE;
	return 0;
}

static bool has_one(virStoragePoolPtr pool, const json_t *paths)
{
	MEM_AUTO char *folder = pool_folder(pool);
	size_t i;
	json_t *path;

	json_array_foreach (paths, i, path)
		if (folder && is_in(json_string_value(path), folder))
			return true;
	return false;
}

void volumes_refresh(virConnectPtr conn, const json_t *paths)
{
	virStoragePoolPtr *pools = NULL;
	int n = virConnectListAllStoragePools(conn, &pools, VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE);

	for (int i = 0; i < n; i++) {
		if (has_one(pools[i], paths))
			refresh(pools[i]);
		virStoragePoolFree(pools[i]);
	}
	free(pools);
}
