/*
 * vm_store.h - a replica on disk of a VM small enough for tests: header, two RAM blocks, two disks, device state.
 */
#ifndef VMFERRY_TESTS_VM_STORE_H
#define VMFERRY_TESTS_VM_STORE_H

#include "base/mem.h"
#include "base/sys.h"
#include "snapshot/store.h"

#include <check.h>
#include <string.h>

#define VM_STORE_UUID "11111111-2222-3333-4444-555555555555"
#define VM_STORE_HEADER "QEVM\0\0\0\3\7\0\0\0\012pc-q35-7.2"
#define VM_STORE_DEVICE "\4\0\0\0\5\3cpu\0\0\0\0\0\0\0\1DATA\x7e\0\0\0\5\0"
#define VM_STORE_XML                                                                  \
	"<domain type='kvm'><name>web1</name><uuid>" VM_STORE_UUID "</uuid><devices>" \
	"<disk type='file'><source file='/x/a'/><target dev='vda'/></disk>"           \
	"<disk type='file'><source file='/x/b'/><target dev='vdb'/></disk></devices></domain>"

static const struct store_volume vm_store_volume[] = {
	{ .kind = STORE_RAM, .name = "pc.ram", .size_bytes = 300 * STORE_BLOCK },
	{ .kind = STORE_DISK, .name = "vda", .size_bytes = 40 * STORE_BLOCK },
	{ .kind = STORE_RAM, .name = "vga.vram", .size_bytes = 2 * STORE_BLOCK },
	{ .kind = STORE_DISK, .name = "vdb", .size_bytes = 9 * STORE_BLOCK + 512 },
};
#define VM_STORE_VOLUMES (sizeof(vm_store_volume) / sizeof(vm_store_volume[0]))

/* Block b of volume v begins with v, b; every third one is zeros, and so is one that is not whole. False for zeros. */
static inline bool vm_store_content(uint8_t page[STORE_BLOCK], uint32_t v, uint64_t b)
{
	const bool some = b % 3 != 1 && b < vm_store_volume[v].size_bytes / STORE_BLOCK;

	memset(page, some ? (int)(0x11 + v) : 0, STORE_BLOCK);
	if (some) {
		memcpy(page, &v, sizeof(v));
		memcpy(page + 8, &b, sizeof(b));
	}
	return some;
}

static inline int vm_store_no_sync(int fd)
{
	(void)fd;
	return 0;
}

/* Without a point. */
static inline struct store *vm_store_empty(const char *path)
{
	struct err e = ERR_INIT;
	json_t *vm = json_pack("{s:s, s:s}", "uuid", VM_STORE_UUID, "name", "web1");

	/* Durability is the store's own tests' matter. */
	sys.fsync = vm_store_no_sync;
	sys.fdatasync = vm_store_no_sync;
	struct store *s = store_create(path, NULL, vm, &e);
	json_decref(vm);
	ck_assert_msg(s != NULL, "%s", e.text);
	return s;
}

static bool vm_store_autostart; /* of the points that are put */

/* Another point ("quiesced" if its id says so), in which one file (NULL: none) is another; its number. */
static inline uint64_t vm_store_put(struct store *s, const char *id, const char *kind, const char *name,
				    const void *data, size_t len)
{
	struct err e = ERR_INIT;
	json_t *meta = json_pack("{s:s, s:s, s:i, s:b, s:b}", "id", id, "kind", kind, "instant_ns", 1000, "autostart",
				 (int)vm_store_autostart, "quiesced", strstr(id, "quiesced") != NULL);
	struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);
	uint64_t seq = 0;

	ck_assert_msg(t != NULL, "%s", e.text);
	if (name)
		ck_assert_msg(store_txn_file(t, name, data, len, &e) == 0, "%s", e.text);
	ck_assert_msg(store_commit(t, meta, &seq, &e) == 0, "%s", e.text);
	json_decref(meta);
	return seq;
}

static inline struct store *vm_store_new(const char *path)
{
	uint8_t page[STORE_BLOCK];
	struct err e = ERR_INIT;
	struct store *s = vm_store_empty(path);
	json_t *meta = json_pack("{s:s, s:s}", "id", "p1", "kind", "memory");
	struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);

	ck_assert_msg(t != NULL && store_txn_volumes(t, vm_store_volume, VM_STORE_VOLUMES, &e) == 0, "%s", e.text);
	for (uint32_t v = 0; v < VM_STORE_VOLUMES; v++)
		for (uint64_t b = 0; b < vm_store_volume[v].size_bytes / STORE_BLOCK; b++)
			if (vm_store_content(page, v, b))
				ck_assert_msg(store_txn_block(t, v, b, page, &e) == 0, "%s", e.text);
	ck_assert_msg(store_txn_file(t, "header", VM_STORE_HEADER, sizeof(VM_STORE_HEADER) - 1, &e) == 0, "%s", e.text);
	ck_assert_msg(store_txn_file(t, "device", VM_STORE_DEVICE, sizeof(VM_STORE_DEVICE) - 1, &e) == 0, "%s", e.text);
	ck_assert_msg(store_txn_file(t, "xml", VM_STORE_XML, strlen(VM_STORE_XML), &e) == 0, "%s", e.text);
	ck_assert_msg(store_commit(t, meta, NULL, &e) == 0, "%s", e.text);
	json_decref(meta);
	return s;
}

#endif
