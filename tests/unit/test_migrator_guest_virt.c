#include "migrator/guest_virt_info.h"

#include <check.h>
#include <string.h>

#define DISK(attributes, target, alias, more)                                                                  \
	"<disk type='file' device='" attributes "'><driver name='qemu' type='qcow2'/><source file='/i/" target \
	"'/><target dev='" target "' bus='virtio'/>" more "<alias name='" alias "'/></disk>"

static const char xml[] =
	"<domain type='kvm' id='3'><name>web1</name><uuid>d012657d-73d7-45c8-b8c9-fb46f4fb8a7e</uuid>"
	"<memory unit='KiB'>262144</memory><vcpu>1</vcpu>"
	"<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><nvram>/n/web1.fd</nvram></os>"
	"<features><kvm><dirty-ring state='on' size='4096'/></kvm></features><devices>"
	"<emulator>/usr/bin/qemu-system-x86_64</emulator>" DISK("disk", "vda", "virtio-disk0", "")
		DISK("disk", "vdb", "virtio-disk1", "<readonly/>") DISK("cdrom", "sda", "sata0-0-0", "<readonly/>")
			DISK("disk", "vdc", "virtio-disk10",
			     "<shareable/>") "<channel type='unix'><target type='virtio' "
					     "name='org.qemu.guest_agent.0' state='connected'/></channel>"
					     "</devices></domain>";

static json_t *block(const char *qdev, const char *node, int size)
{
	return json_pack("{s:s,s:{s:s,s:{s:i}}}", "qdev", qdev, "inserted", "node-name", node, "image", "virtual-size",
			 size);
}

static json_t *blocks(void)
{
	json_t *all = json_array();
	json_array_append_new(all, json_pack("{s:s}", "device", "floppy0"));
	json_array_append_new(all, block("/machine/peripheral/virtio-disk10/virtio-backend", "libvirt-9-format", 4096));
	json_array_append_new(all, block("/machine/peripheral/virtio-disk1/virtio-backend", "libvirt-2-format", 8192));
	json_array_append_new(all,
			      block("/machine/peripheral/virtio-disk0/virtio-backend", "libvirt-1-format", 1 << 20));
	return all;
}

START_TEST(what_the_xml_says)
{
	struct guest_info i = { 0 };
	struct err e = ERR_INIT;
	json_t *version = json_pack("{s:{s:i,s:i,s:i}}", "qemu", "major", 10, "minor", 0, "micro", 2);
	json_t *list = blocks();
	ck_assert_msg(guest_virt_info_parse(xml, version, list, &i, &e) == 0, "%s", e.text);
	ck_assert_str_eq(i.name, "web1");
	ck_assert_str_eq(i.uuid, "d012657d-73d7-45c8-b8c9-fb46f4fb8a7e");
	ck_assert(i.kvm && i.dirty_ring && i.agent && !i.lock_manager);
	ck_assert_uint_eq(i.qemu_major * 10000 + i.qemu_minor * 100 + i.qemu_micro, 100002);
	ck_assert_uint_eq(i.memory_bytes, 256 << 20);
	ck_assert_uint_eq(i.n_disks, 3);
	ck_assert_str_eq(i.disks[0].target, "vda");
	ck_assert_str_eq(i.disks[0].path, "/i/vda");
	ck_assert_str_eq(i.disks[0].format, "qcow2");
	ck_assert_str_eq(i.disks[0].node, "libvirt-1-format");
	ck_assert_uint_eq(i.disks[0].size_bytes, 1 << 20);
	ck_assert(!i.disks[0].shareable && !i.disks[1].shareable && i.disks[2].shareable);
	ck_assert(!i.disks[0].readonly && i.disks[1].readonly && !i.disks[2].readonly);
	ck_assert_str_eq(i.disks[1].node, "libvirt-2-format");
	ck_assert_str_eq(i.disks[2].node, "libvirt-9-format");
	ck_assert_uint_eq(i.n_files, 1);
	ck_assert_str_eq(i.files[0].kind, "nvram");
	ck_assert_str_eq(i.files[0].path, "/n/web1.fd");
	guest_info_fini(&i);
	json_decref(version);
	json_decref(list);
}
END_TEST

START_TEST(a_disk_that_qemu_does_not_list)
{
	struct guest_info i = { 0 };
	struct err e = ERR_INIT;
	json_t *list = blocks();
	json_array_remove(list, json_array_size(list) - 1);
	ck_assert_int_eq(guest_virt_info_parse(xml, NULL, list, &i, &e), -1);
	ck_assert(strstr(e.text, "vda") != NULL);
	ck_assert_uint_eq(i.n_disks, 0);
	json_decref(list);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("migrator/guest_virt");
	TCase *tc = tcase_create("all");
	tcase_add_test(tc, what_the_xml_says);
	tcase_add_test(tc, a_disk_that_qemu_does_not_list);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
