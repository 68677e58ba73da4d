/*
 * A point with memory, small enough for tests: header, two RAM blocks, two disks, device state. For stand-in/store.h.
 */
#ifndef VMFERRY_TESTS_STAND_IN_IMAGE_H
#define VMFERRY_TESTS_STAND_IN_IMAGE_H

#include "tests/stand-in/store.h"

#define STAND_IN_HEADER "QEVM\0\0\0\3\7\0\0\0\012pc-q35-7.2"
#define STAND_IN_DEVICE "\4\0\0\0\5\3cpu\0\0\0\0\0\0\0\1DATA\x7e\0\0\0\5\0"
#define STAND_IN_XML                                                                                     \
	"<domain type='kvm'><name>web1</name><uuid>11111111-2222-3333-4444-555555555555</uuid><devices>" \
	"<disk type='file'><source file='/x/a'/><target dev='vda'/></disk>"                              \
	"<disk type='file'><source file='/x/b'/><target dev='vdb'/></disk></devices></domain>"

/* Block b of volume v begins with v, b; every third one is zeros. */
static inline void stand_in_content(uint8_t page[STORE_BLOCK], uint32_t v, uint64_t b)
{
	memset(page, (int)(0x11 + v), STORE_BLOCK);
	memcpy(page, &v, sizeof(v));
	memcpy(page + 8, &b, sizeof(b));
}

static inline void stand_in_fill(struct store *s, uint32_t v, uint64_t n_blocks)
{
	uint8_t page[STORE_BLOCK];
	for (uint64_t b = 0; b < n_blocks; b++) {
		stand_in_content(page, v, b);
		if (b % 3 != 1)
			stand_in_block(s, v, b, page);
	}
}

static inline struct store *stand_in_vm(void)
{
	struct store *s = stand_in_new();
	stand_in_fill(s, stand_in_volume(s, STORE_RAM, "pc.ram", 300 * STORE_BLOCK), 300);
	stand_in_fill(s, stand_in_volume(s, STORE_DISK, "vda", 40 * STORE_BLOCK), 40);
	stand_in_fill(s, stand_in_volume(s, STORE_RAM, "vga.vram", 2 * STORE_BLOCK), 2);
	stand_in_fill(s, stand_in_volume(s, STORE_DISK, "vdb", 9 * STORE_BLOCK + 512), 9);
	stand_in_file(s, "header", STAND_IN_HEADER, sizeof(STAND_IN_HEADER) - 1);
	stand_in_file(s, "device", STAND_IN_DEVICE, sizeof(STAND_IN_DEVICE) - 1);
	stand_in_file(s, "xml", STAND_IN_XML, strlen(STAND_IN_XML));
	return s;
}

#endif
