#include "migrator/domain.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define HEAD "<domain type='kvm' id='7'><name>web1</name><uuid>11111111-2222-3333-4444-555555555555</uuid>"
#define TAIL "</domain>"

static const char full[] = HEAD
	"<memory unit='MiB'>2048</memory><currentMemory unit='GiB'>1</currentMemory>"
	"<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages><locked/></memoryBacking>"
	"<vcpu placement='static' current='2'>4</vcpu>"
	"<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>"
	"<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>"
	"<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/web1_VARS.fd</nvram>"
	"<kernel> /boot/vmlinuz </kernel></os>"
	"<features><acpi/><kvm><dirty-ring state='on' size='4096'/></kvm></features>"
	"<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>Westmere</model>"
	"<feature policy='require' name='invtsc'/></cpu>"
	"<clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>"
	"<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>"
	"<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>"
	"<source file='/img/web1.qcow2' index='2'/>"
	"<backingStore type='file' index='3'><format type='raw'/><source "
	"file='/img/base.raw'/><backingStore/></backingStore>"
	"<target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>"
	"<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg0/data' "
	"index='1'/><backingStore/>"
	"<target dev='vdb' bus='virtio'/><shareable/><alias name='ua-data'/></disk>"
	"<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/image'>"
	"<host name='mon1' port='6789'/></source><target dev='vdc' bus='virtio'/></disk>"
	"<disk type='file' device='cdrom'><source file='/iso/debian.iso'/><target dev='sda' bus='sata'/></disk>"
	"<disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><readonly/></disk>"
	"<interface type='network'><mac address='52:54:00:00:00:01'/>"
	"<source network='default' portid='9d2e' bridge='virbr0'/><target dev='vnet3'/><model type='virtio'/>"
	"<address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></interface>"
	"<interface type='bridge'><source bridge='br-lan'/><target dev='mytap'/><model type='virtio'/></interface>"
	"<interface type='direct'><source dev='eth1' mode='bridge'/></interface>"
	"<serial type='pty'><source path='/dev/pts/3'/><target port='0'/></serial>"
	"<serial type='file'><source path='/var/log/libvirt/web1.console'/><target port='1'/></serial>"
	"<console type='file'><source path='/var/log/libvirt/web1.console'/><target type='serial' port='1'/></console>"
	"<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0x03' slot='0x00' "
	"function='0x1'/>"
	"</source></hostdev>"
	"<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>"
	"<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/><target dir='share'/></filesystem>"
	"<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
	"<graphics type='vnc' port='5903' autoport='yes' listen='192.0.2.7'><listen type='address' "
	"address='192.0.2.7'/></graphics>"
	"<graphics type='vnc' port='5904' autoport='no'><listen type='address' address='127.0.0.1'/></graphics>"
	"</devices>"
	"<seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-1111</label></seclabel>"
	"<launchSecurity type='sev'><policy>0x3</policy></launchSecurity>" TAIL;

START_TEST(basics)
{
	struct err e = ERR_INIT;
	DOMAIN_AUTO struct domain *d = domain_parse(full, &e);
	ck_assert_msg(d != NULL, "%s", e.text);
	ck_assert_str_eq(d->name, "web1");
	ck_assert_str_eq(d->uuid, "11111111-2222-3333-4444-555555555555");
	ck_assert_str_eq(d->type, "kvm");
	ck_assert_str_eq(d->arch, "x86_64");
	ck_assert_str_eq(d->machine, "pc-q35-7.2");
	ck_assert_str_eq(d->emulator, "/usr/bin/qemu-system-x86_64");
	ck_assert_uint_eq(d->memory_bytes, UINT64_C(2) << 30);
	ck_assert_uint_eq(d->current_memory_bytes, UINT64_C(1) << 30);
	ck_assert_uint_eq(d->hugepage_bytes, 2u << 20);
	ck_assert(d->memory_locked);
	ck_assert_uint_eq(d->vcpus, 2);
	ck_assert_uint_eq(d->vcpus_max, 4);
	ck_assert_str_eq(d->cpu_mode, "custom");
	ck_assert_str_eq(d->cpu_model, "Westmere");
	ck_assert_str_eq(d->cpu_check, "full");
	ck_assert_ptr_nonnull(strstr(d->cpu_xml, "<model fallback=\"forbid\">Westmere</model>"));
	ck_assert(d->invtsc);
	ck_assert_uint_eq(d->dirty_ring, 4096);
	ck_assert(d->tpm_emulator);
	ck_assert_str_eq(d->nvram, "/var/lib/libvirt/qemu/nvram/web1_VARS.fd");
}
END_TEST

START_TEST(disks)
{
	struct err e = ERR_INIT;
	DOMAIN_AUTO struct domain *d = domain_parse(full, &e);
	char label[200];
	ck_assert_uint_eq(d->n_disks, 5);

	const struct domain_disk *vda = domain_disk_by_target(d, "vda");
	ck_assert_int_eq(vda->source, DOMAIN_SOURCE_FILE);
	ck_assert_str_eq(vda->path, "/img/web1.qcow2");
	ck_assert_str_eq(vda->format, "qcow2");
	ck_assert_str_eq(vda->cache, "none");
	ck_assert_uint_eq(vda->n_backing, 1);
	ck_assert_str_eq(vda->backing[0].path, "/img/base.raw");
	ck_assert_str_eq(vda->backing[0].format, "raw");
	ck_assert(domain_disk_copyable(vda));
	ck_assert_str_eq(domain_disk_label(vda, label, sizeof(label)), "vda (/img/web1.qcow2)");

	const struct domain_disk *vdb = domain_disk_by_target(d, "vdb");
	ck_assert_int_eq(vdb->source, DOMAIN_SOURCE_BLOCK);
	ck_assert(vdb->shareable);
	ck_assert(!domain_disk_copyable(vdb));
	ck_assert_uint_eq(vdb->n_backing, 0);

	const struct domain_disk *vdc = domain_disk_by_target(d, "vdc");
	ck_assert_int_eq(vdc->source, DOMAIN_SOURCE_NETWORK);
	ck_assert_str_eq(vdc->network, "rbd pool/image");

	const struct domain_disk *sda = domain_disk_by_target(d, "sda");
	ck_assert(sda->readonly);
	ck_assert_str_eq(sda->format, "raw");
	ck_assert(!domain_disk_copyable(sda));

	const struct domain_disk *sdb = domain_disk_by_target(d, "sdb");
	ck_assert_int_eq(sdb->source, DOMAIN_SOURCE_NONE);
	ck_assert(!domain_disk_copyable(sdb));
	ck_assert_ptr_null(domain_disk_by_target(d, "vdz"));

	json_t *list = domain_disks_json(d);
	ck_assert_uint_eq(json_array_size(list), 5);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 2), "path")), "rbd pool/image");
	ck_assert(json_is_null(json_object_get(json_array_get(list, 4), "path")));
	json_decref(list);
}
END_TEST

START_TEST(the_rest)
{
	struct err e = ERR_INIT;
	DOMAIN_AUTO struct domain *d = domain_parse(full, &e);

	ck_assert_uint_eq(d->n_ifaces, 3);
	ck_assert_str_eq(d->ifaces[0].network, "default");
	ck_assert_str_eq(d->ifaces[0].slot, "0000:01:00.0");
	ck_assert_str_eq(d->ifaces[1].bridge, "br-lan");
	ck_assert_str_eq(d->ifaces[2].dev, "eth1");

	ck_assert_uint_eq(d->n_hostdevs, 2);
	ck_assert_str_eq(d->hostdevs[0].text, "PCI device 0000:03:00.1");
	ck_assert_str_eq(d->hostdevs[1].text, "USB device 0x1234:0xbeef");

	ck_assert_uint_eq(d->n_devices, 2);
	ck_assert_str_eq(d->devices[1].kind, "virtiofs");
	ck_assert_str_eq(d->devices[0].kind, "launch-security");

	ck_assert_uint_eq(d->n_listen, 1);
	ck_assert_str_eq(d->listen[0].address, "192.0.2.7");
	ck_assert_str_eq(d->listen[0].what, "graphics");

	ck_assert_uint_eq(d->n_paths, 4);
	ck_assert_str_eq(d->paths[0].path, "/boot/vmlinuz");
	ck_assert_str_eq(d->paths[1].what, "firmware");
	ck_assert_str_eq(d->paths[3].what, "serial log");
	ck_assert(d->paths[3].folder_only);
}
END_TEST

START_TEST(small_domain)
{
	struct err e = ERR_INIT;
	DOMAIN_AUTO struct domain *d = domain_parse("<domain type='qemu'><name>a</name><memory>4096</memory></domain>",
						    &e);
	ck_assert_ptr_nonnull(d);
	ck_assert_uint_eq(d->memory_bytes, 4u << 20);
	ck_assert_uint_eq(d->current_memory_bytes, 4u << 20);
	ck_assert_uint_eq(d->vcpus, 1);
	ck_assert_ptr_null(d->cpu_mode);
	ck_assert_ptr_null(d->uuid);
	ck_assert_uint_eq(d->n_disks, 0);
}
END_TEST

static const char *const bad[] = {
	"",
	"not xml",
	"<domain type='kvm'><name>a</name>",
	"<network><name>a</name></network>",
	"<domain type='kvm'><name></name></domain>",
	"<domain type='kvm'><name>   </name></domain>",
	"<domain><name>a</name></domain>",
	"<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain type='kvm'><name>&x;</name></domain>",
	"<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]><domain type='&b;'><name>x</name></domain>",
};

START_TEST(refused)
{
	struct err e = ERR_INIT;
	ck_assert_ptr_null(domain_parse(bad[_i], &e));
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	ck_assert(strlen(e.text) > 0);
}
END_TEST

START_TEST(refused_too_many_devices)
{
	struct err e = ERR_INIT;
	size_t n = 1100;
	static const char disk[] = "<disk type='file'><source file='/x'/><target dev='vda'/></disk>";
	char *xml = calloc(1, 200 + n * sizeof(disk));
	strcpy(xml, "<domain type='kvm'><name>a</name><devices>");
	for (size_t i = 0; i < n; i++)
		strcat(xml, disk);
	strcat(xml, "</devices></domain>");
	ck_assert_ptr_null(domain_parse(xml, &e));
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	free(xml);
}
END_TEST

START_TEST(truncated_anywhere)
{
	/* No prefix is a domain, and none crashes or leaks. */
	for (size_t len = 0; len < sizeof(full) - 1; len += 3) {
		struct err e = ERR_INIT;
		char *part = strndup(full, len);
		ck_assert_ptr_null(domain_parse(part, &e));
		free(part);
	}
}
END_TEST

START_TEST(define_from_live)
{
	struct err e = ERR_INIT;
	char *xml = domain_for_define(full, NULL, 0, &e);
	ck_assert_msg(xml != NULL, "%s", e.text);
	ck_assert_ptr_null(strstr(xml, " id=\"7\""));
	ck_assert_ptr_null(strstr(xml, "virtio-disk0"));
	ck_assert_ptr_nonnull(strstr(xml, "ua-data"));
	ck_assert_ptr_null(strstr(xml, "vnet3"));
	ck_assert_ptr_nonnull(strstr(xml, "mytap"));
	ck_assert_ptr_null(strstr(xml, "virbr0"));
	ck_assert_ptr_null(strstr(xml, "portid"));
	ck_assert_ptr_null(strstr(xml, "backingStore"));
	ck_assert_ptr_null(strstr(xml, "index="));
	ck_assert_ptr_null(strstr(xml, "libvirt-1111"));
	ck_assert_ptr_null(strstr(xml, "/dev/pts/3"));
	ck_assert_ptr_nonnull(strstr(xml, "web1.console"));
	ck_assert_ptr_null(strstr(xml, "5903"));
	ck_assert_ptr_nonnull(strstr(xml, "5904"));
	DOMAIN_AUTO struct domain *again = domain_parse(xml, &e);
	ck_assert_ptr_nonnull(again);
	ck_assert_str_eq(again->disks[0].path, "/img/web1.qcow2");
	ck_assert_str_eq(again->disks[0].format, "qcow2");
	free(xml);
}
END_TEST

START_TEST(define_keeps_inactive)
{
	struct err e = ERR_INIT;
	static const char inactive[] =
		"<domain type='kvm'><name>a</name><devices><disk type='file' device='disk'><source file='/a'/>"
		"<backingStore type='file'><format type='raw'/><source file='/b'/></backingStore><target dev='vda'/>"
		"</disk></devices></domain>";
	char *xml = domain_for_define(inactive, NULL, 0, &e);
	ck_assert_ptr_nonnull(strstr(xml, "backingStore"));
	free(xml);
}
END_TEST

START_TEST(define_edits)
{
	struct err e = ERR_INIT;
	const struct domain_disk_edit edits[] = {
		{ .target = "vda", .path = "/new/a&b.qcow2", .format = "raw", .flatten = true },
		{ .target = "vdb", .path = "/dev/vg1/x" },
		{ .target = "sda", .format = "qcow2" },
	};
	char *xml = domain_for_define(full, edits, 3, &e);
	ck_assert_msg(xml != NULL, "%s", e.text);
	DOMAIN_AUTO struct domain *d = domain_parse(xml, &e);
	ck_assert_str_eq(d->disks[0].path, "/new/a&b.qcow2");
	ck_assert_str_eq(d->disks[0].format, "raw");
	ck_assert_str_eq(d->disks[0].cache, "none");
	ck_assert_str_eq(d->disks[1].path, "/dev/vg1/x");
	ck_assert_str_eq(d->disks[1].format, "raw");
	ck_assert_str_eq(d->disks[3].format, "qcow2");
	free(xml);

	const struct domain_disk_edit wrong = { .target = "vdz", .path = "/x" };
	ck_assert_ptr_null(domain_for_define(full, &wrong, 1, &e));
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	const struct domain_disk_edit network = { .target = "vdc", .path = "/x" };
	ck_assert_ptr_null(domain_for_define(full, &network, 1, &e));
	ck_assert_int_eq(e.cls, ERR_CONFIG);
}
END_TEST

START_TEST(flattened)
{
	struct err e = ERR_INIT;
	static const char chain[] =
		"<domain type='kvm'><name>a</name><devices>"
		"<disk type='file'><source file='/a'/><backingStore type='file'><source file='/b'/></backingStore>"
		"<target dev='vda'/></disk>"
		"<disk type='file'><source file='/c'/><backingStore type='file'><source file='/d'/></backingStore>"
		"<target dev='vdb'/></disk></devices></domain>";
	json_t *targets = json_pack("[s, s]", "vdb", "vdz");
	char *xml = domain_flatten(chain, targets, &e);
	ck_assert_msg(xml != NULL, "%s", e.text);
	DOMAIN_AUTO struct domain *d = domain_parse(xml, &e);
	ck_assert_uint_eq(d->disks[0].n_backing, 1);
	ck_assert_uint_eq(d->disks[1].n_backing, 0);
	ck_assert_str_eq(d->disks[1].path, "/c");
	json_decref(targets);
	free(xml);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("domain");
	TCase *tc = tcase_create("domain");
	tcase_add_test(tc, basics);
	tcase_add_test(tc, disks);
	tcase_add_test(tc, the_rest);
	tcase_add_test(tc, small_domain);
	tcase_add_loop_test(tc, refused, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_test(tc, refused_too_many_devices);
	tcase_add_test(tc, truncated_anywhere);
	tcase_add_test(tc, define_from_live);
	tcase_add_test(tc, define_keeps_inactive);
	tcase_add_test(tc, define_edits);
	tcase_add_test(tc, flattened);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
