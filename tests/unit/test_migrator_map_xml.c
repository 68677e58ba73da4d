#include "base/mem.h"
#include "migrator/domain.h"
#include "migrator/map_xml.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What virsh dumpxml --migratable prints of a running VM, shortened where nothing depends on it. */
static const char live[] =
	"<domain type='kvm' id='3'><name>web1</name><uuid>11111111-2222-3333-4444-555555555555</uuid>"
	"<memory unit='KiB'>1048576</memory>"
	"<vcpu placement='static' cpuset='0-15'>2</vcpu>"
	"<cputune><vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='12'/><emulatorpin cpuset='0-1'/></cputune>"
	"<numatune><memory mode='strict' nodeset='1'/></numatune>"
	"<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>"
	"<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/web1_VARS.fd</nvram></os>"
	"<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>Skylake-Server-IBRS</model></cpu>"
	"<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>"
	"<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' io='native'/>"
	"<source file='/vms/gold/web1.qcow2' index='2'/><backingStore/><target dev='vda' bus='virtio'/>"
	"<serial>S1</serial><alias name='virtio-disk0'/>"
	"<address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/></disk>"
	"<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg0/data'/><target "
	"dev='vdb' bus='virtio'/><shareable/><transient/></disk>"
	"<disk type='network' device='disk'><driver name='qemu' type='raw'/><auth username='admin'><secret type='ceph' "
	"usage='c'/></auth>"
	"<source protocol='rbd' name='pool/image'><host name='mon1' port='6789'/></source><target dev='vdc' "
	"bus='virtio'/></disk>"
	"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/iso/debian.iso'/><target "
	"dev='sda' bus='sata'/><readonly/></disk>"
	"<interface type='network'><mac address='52:54:00:00:00:01'/><source network='prod' portid='9d2e' "
	"bridge='virbr0'/>"
	"<target dev='vnet3'/><model type='virtio'/></interface>"
	"<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br-lan'/><model "
	"type='virtio'/></interface>"
	"<interface type='bridge'><mac address='52:54:00:00:00:03'/><source bridge='br-same'/><model "
	"type='virtio'/></interface>"
	"<lease><lockspace>x</lockspace><key>y</key><target path='/z'/></lease>"
	"</devices></domain>";

static const struct map_disk disks[] = {
	{ "vda", "/here/web1-vda.qcow2", "qcow2" },
	{ "vdb", "/here/web1-vdb.qcow2", "qcow2" },
	{ "vdc", "/here/web1-vdc.raw", "raw" },
};
static const struct map_rule networks[] = { { "prod", "dr" }, { "br-lan", "network:isolated" } };

static bool only_qemu(void *ctx, const char *path)
{
	(void)ctx;
	return strcmp(path, "/usr/bin/qemu-system-x86_64") == 0;
}

static struct map_opts plain(void)
{
	return (struct map_opts){
		.disks = disks, .n_disks = 3, .networks = networks, .n_networks = 2, .cpus = 4, .exists = only_qemu
	};
}

static bool has_finding(const json_t *findings, const char *what)
{
	size_t i;
	json_t *f;
	json_array_foreach (findings, i, f)
		if (strcmp(json_string_value(json_object_get(f, "what")), what) == 0)
			return true;
	return false;
}

START_TEST(disks_become_files_here)
{
	struct err e = ERR_INIT;
	struct map_opts o = plain();
	json_t *findings = json_array();
	MEM_AUTO char *xml = map_xml(live, &o, findings, &e);
	ck_assert_msg(xml != NULL, "%s", e.text);
	DOMAIN_AUTO struct domain *d = domain_parse(xml, &e);
	ck_assert_msg(d != NULL, "%s", e.text);
	for (size_t i = 0; i < 3; i++) {
		const struct domain_disk *disk = domain_disk_by_target(d, disks[i].target);
		ck_assert_int_eq(disk->source, DOMAIN_SOURCE_FILE);
		ck_assert_str_eq(disk->path, disks[i].path);
		ck_assert_str_eq(disk->format, disks[i].format);
	}
	ck_assert_ptr_nonnull(strstr(xml, "<serial>S1</serial>"));
	ck_assert_ptr_nonnull(strstr(xml, "bus=\"0x04\""));
	ck_assert_ptr_nonnull(strstr(xml, "cache=\"none\""));
	ck_assert_ptr_null(strstr(xml, "/vms/gold"));
	ck_assert_ptr_null(strstr(xml, "/dev/vg0"));
	ck_assert_ptr_null(strstr(xml, "mon1"));
	ck_assert_ptr_null(strstr(xml, "<auth"));
	ck_assert_ptr_null(strstr(xml, "virtio-disk0"));
	ck_assert_ptr_null(strstr(xml, "id=\"3\""));
	/* Both are what libvirt refuses for an overlay, or what it would do to it. */
	ck_assert_ptr_null(strstr(xml, "<shareable"));
	ck_assert_ptr_null(strstr(xml, "<transient"));
	ck_assert(has_finding(findings, "disk-shareable"));
	ck_assert(has_finding(findings, "disk-transient"));
	ck_assert(has_finding(findings, "disk-source"));
	ck_assert_ptr_null(domain_disk_by_target(d, "sda")->path);
	ck_assert(has_finding(findings, "drive-empty"));
	json_decref(findings);
}
END_TEST

START_TEST(networks_by_rule_mac_kept)
{
	struct err e = ERR_INIT;
	struct map_opts o = plain();
	MEM_AUTO char *xml = map_xml(live, &o, NULL, &e);
	ck_assert_msg(xml != NULL, "%s", e.text);
	DOMAIN_AUTO struct domain *d = domain_parse(xml, &e);
	ck_assert_uint_eq(d->n_ifaces, 3);
	ck_assert_str_eq(d->ifaces[0].network, "dr");
	ck_assert_str_eq(d->ifaces[0].mac, "52:54:00:00:00:01");
	ck_assert_str_eq(d->ifaces[1].type, "network");
	ck_assert_str_eq(d->ifaces[1].network, "isolated");
	ck_assert_str_eq(d->ifaces[1].mac, "52:54:00:00:00:02");
	ck_assert_str_eq(d->ifaces[2].bridge, "br-same");
	ck_assert_ptr_null(strstr(xml, "br-lan"));
	ck_assert_ptr_null(strstr(xml, "vnet3"));
}
END_TEST

START_TEST(what_belongs_to_the_other_host_is_left_out)
{
	struct err e = ERR_INIT;
	struct map_opts o = plain();
	json_t *findings = json_array();
	MEM_AUTO char *xml = map_xml(live, &o, findings, &e);
	ck_assert_msg(xml != NULL, "%s", e.text);
	ck_assert_ptr_null(strstr(xml, "cpuset=\"12\""));
	ck_assert_ptr_null(strstr(xml, "0-15"));
	ck_assert_ptr_nonnull(strstr(xml, "cpuset=\"2\""));
	ck_assert_ptr_nonnull(strstr(xml, "emulatorpin"));
	ck_assert_ptr_null(strstr(xml, "numatune"));
	ck_assert_ptr_null(strstr(xml, "<lease"));
	ck_assert_ptr_nonnull(strstr(xml, "Skylake-Server-IBRS"));
	ck_assert(has_finding(findings, "cpu-pinning"));
	ck_assert(has_finding(findings, "numa-pinning"));
	ck_assert(has_finding(findings, "lease"));
	json_decref(findings);
	/* A host that is as large keeps the pinning. */
	o.cpus = 16;
	MEM_AUTO char *large = map_xml(live, &o, NULL, &e);
	ck_assert_ptr_nonnull(strstr(large, "0-15"));
	ck_assert_ptr_nonnull(strstr(large, "cpuset=\"12\""));
}
END_TEST

START_TEST(identity)
{
	struct err e = ERR_INIT;
	struct map_opts o = plain();
	o.nvram = "/here/web1_VARS.fd";
	o.name = "web1-drill";
	o.uuid = "99999999-2222-3333-4444-555555555555";
	o.links_down = true;
	MEM_AUTO char *xml = map_xml(live, &o, NULL, &e);
	ck_assert_msg(xml != NULL, "%s", e.text);
	DOMAIN_AUTO struct domain *d = domain_parse(xml, &e);
	ck_assert_str_eq(d->name, "web1-drill");
	ck_assert_str_eq(d->uuid, o.uuid);
	ck_assert_str_eq(d->nvram, o.nvram);
	ck_assert_str_eq(d->nvram_template, "/usr/share/OVMF/OVMF_VARS_4M.fd");
	size_t downs = 0;
	for (const char *p = xml; (p = strstr(p, "<link state=\"down\"/>")) != NULL; p++)
		downs++;
	ck_assert_uint_eq(downs, 3);
}
END_TEST

START_TEST(refusals)
{
	struct err e = ERR_INIT;
	struct map_opts o = plain();
	const char *at = strstr(live, "<lease>");
	MEM_AUTO char *hostdev = mem_printf("%.*s<hostdev mode='subsystem' type='pci'><source/></hostdev>%s",
					    (int)(at - live), live, at);
	ck_assert_ptr_null(map_xml(hostdev, &o, NULL, &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_ptr_nonnull(strstr(e.text, "device of the host"));
	/* A disk that was not replicated and is not here. */
	e = (struct err)ERR_INIT;
	o.n_disks = 1;
	ck_assert_ptr_null(map_xml(live, &o, NULL, &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_ptr_nonnull(strstr(e.text, "vdb"));
	/* A disk of the replica that the definition does not know. */
	static const struct map_disk other[] = { { "vdx", "/here/x", "raw" } };
	e = (struct err)ERR_INIT;
	o = (struct map_opts){ .disks = other, .n_disks = 1 };
	ck_assert_ptr_null(map_xml("<domain type='kvm'><name>a</name><devices/></domain>", &o, NULL, &e));
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	e = (struct err)ERR_INIT;
	ck_assert_ptr_null(map_xml("<network/>", &o, NULL, &e));
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
}
END_TEST

START_TEST(folders)
{
	static const struct map_rule rules[] = { { "/vms", "/pool" }, { "/vms/gold/", "/fast" }, { "/vms/go", "/no" } };
	struct err e = ERR_INIT;
	MEM_AUTO char *longest = map_image_dir(live, "vda", rules, 3, "/images", &e);
	ck_assert_str_eq(longest, "/fast");
	MEM_AUTO char *below = map_image_dir(live, "vda", rules, 1, "/images", &e);
	ck_assert_str_eq(below, "/pool/gold");
	MEM_AUTO char *none = map_image_dir(live, "vdb", rules, 3, "/images", &e);
	ck_assert_str_eq(none, "/images");
	ck_assert_ptr_null(map_image_dir(live, "vdz", rules, 3, "/images", &e));
}
END_TEST

static char *folder_of(const char *file, const struct map_rule *rules, size_t n, const char *otherwise)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *xml = mem_printf(
		"<domain type='kvm'><name>a</name><devices><disk type='file' device='disk'><source file='%s'/>"
		"<target dev='vda'/></disk></devices></domain>",
		file);
	char *folder = map_image_dir(xml, "vda", rules, n, otherwise, &e);
	ck_assert_msg(folder != NULL, "%s", e.text);
	return folder;
}

/* The definition is the other host's: it does not choose a folder of this one's. */
START_TEST(folders_that_are_not_for_images)
{
	static const struct map_rule rules[] = { { "/vms", "/pool" } };
	char dir[] = "/var/tmp/vmferry-map-XXXXXX";
	ck_assert_ptr_nonnull(mkdtemp(dir));
	MEM_AUTO char *images = mem_printf("%s/images", dir), *below = mem_printf("%s/images/gold", dir);
	ck_assert_int_eq(mkdir(images, 0700), 0);
	ck_assert_int_eq(mkdir(below, 0700), 0);
	MEM_AUTO char *good = mem_printf("%s/a.img", below), *beside = mem_printf("%s/a.img", dir);
	MEM_AUTO char *out = mem_printf("%s/../a.img", images);
	const struct {
		const char *file, *want;
	} cases[] = { { good, below },
		      { beside, images },
		      { out, images },
		      { "/etc/a.img", images },
		      { "/a.img", images },
		      { "/vms/gold/a.img", "/pool/gold" },
		      { "/vms/../etc/a.img", images },
		      { "/vms/gold/..", images } };
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		MEM_AUTO char *folder = folder_of(cases[i].file, rules, 1, images);
		ck_assert_msg(strcmp(folder, cases[i].want) == 0, "%s: %s", cases[i].file, folder);
	}
	ck_assert_int_eq(rmdir(below) | rmdir(images) | rmdir(dir), 0);
}
END_TEST

static bool everything(void *ctx, const char *path)
{
	(void)ctx, (void)path;
	return true;
}

static char *map_one(const char *disk, const struct map_opts *o, json_t *findings, struct err *e)
{
	MEM_AUTO char *xml = mem_printf("<domain type='kvm'><name>a</name><devices>%s</devices></domain>", disk);
	return map_xml(xml, o, findings, e);
}

/* What is not replicated, and is on this host by that name. */
START_TEST(this_hosts_own_files_and_devices)
{
	static const struct map_rule rules[] = { { "/dev/scratch", "/dev/vg1" } };
	static const char *const refused[] = {
		"<disk type='block' device='disk'><source dev='/dev/sda'/><target dev='vdb'/></disk>",
		"<disk type='file' device='disk'><source file='/etc/passwd'/><target dev='vdb'/></disk>",
		"<disk type='file' device='disk'><source file='/etc/passwd'/><target dev='vdb'/><shareable/></disk>",
		"<disk type='block' device='disk'><source dev='/dev/scratch/../sda'/><target dev='vdb'/></disk>",
		"<disk type='nvme' device='disk'><source type='pci' namespace='1'/><target dev='vdb'/></disk>",
		"<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdb'/></disk>",
	};
	struct map_opts o = { .exists = everything, .folders = rules, .n_folders = 1 };
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct err e = ERR_INIT;
		ck_assert_msg(!map_one(refused[i], &o, NULL, &e), "%s", refused[i]);
		ck_assert_int_eq(e.cls, ERR_REFUSED);
	}
	struct err e = ERR_INIT;
	MEM_AUTO char *ro = map_one(
		"<disk type='file' device='disk'><source file='/tools.img'/><target dev='vdb'/><readonly/></disk>", &o,
		NULL, &e);
	ck_assert_msg(ro && strstr(ro, "/tools.img"), "%s", e.text);
	MEM_AUTO char *placed =
		map_one("<disk type='block' device='disk'><source dev='/dev/scratch/web1'/><target dev='vdb'/></disk>",
			&o, NULL, &e);
	ck_assert_msg(placed && strstr(placed, "\"/dev/vg1/web1\""), "%s", e.text);
	json_t *findings = json_array();
	MEM_AUTO char *floppy =
		map_one("<disk type='file' device='floppy'><source file='/etc/passwd'/><target dev='fda'/></disk>", &o,
			findings, &e);
	ck_assert_msg(floppy && !strstr(floppy, "passwd"), "%s", e.text);
	ck_assert(has_finding(findings, "drive-empty"));
	json_decref(findings);
}
END_TEST

START_TEST(variables_become_a_file)
{
	static const char *const all[] = {
		"<nvram>/etc/passwd</nvram>",
		"<nvram type='file'><source file='/etc/passwd'/></nvram>",
		"<nvram type='block'><source dev='/dev/sda'/></nvram>",
	};
	struct map_opts o = { .nvram = "/here/x_VARS.fd", .exists = everything };
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct err e = ERR_INIT;
		MEM_AUTO char *xml = mem_printf("<domain type='kvm'><name>a</name><os>%s</os><devices/></domain>",
						all[i]);
		MEM_AUTO char *mapped = map_xml(xml, &o, NULL, &e);
		ck_assert_msg(mapped && strstr(mapped, "<nvram>/here/x_VARS.fd</nvram>"), "%s: %s", e.text, mapped);
	}
}
END_TEST

/* Devices that write to, listen at or run what they name. */
START_TEST(back_ends_that_name_this_hosts_files)
{
	static const struct {
		const char *device, *gone, *kept, *what;
	} cases[] = {
		{ "<serial type='file'><source path='/etc/cron.d/x' append='on'/><target port='0'/></serial>",
		  "/etc/cron.d", "<serial type=\"pty\"", "device-backend" },
		{ "<serial type='file'><source path='/var/log/libvirt/libvirtd.log'/><target port='0'/></serial>",
		  "libvirtd.log", "<target port=\"0\"", "device-backend" },
		{ "<serial type='file'><source path='/var/log/libvirt/../a.console'/></serial>", "a.console", "pty",
		  "device-backend" },
		{ "<serial type='pty'><source path='/dev/pts/3'/><log file='/etc/cron.d/x' append='off'/></serial>",
		  "/etc/cron.d", "pty", "device-log" },
		{ "<parallel type='dev'><source path='/dev/sda'/></parallel>", "/dev/sda", "pty", "device-backend" },
		{ "<console type='pipe'><source path='/run/p'/><target type='virtio'/></console>", "/run/p", "pty",
		  "device-backend" },
		{ "<serial type='unix'><source mode='bind' path='/etc/x'/></serial>", "/etc/x", "pty", "device-backend" },
		{ "<channel type='unix'><source mode='bind' path='/etc/x'/><target type='virtio' "
		  "name='org.qemu.guest_agent.0'/></channel>",
		  "/etc/x", "<channel type=\"unix\"", NULL },
		{ "<channel type='unix'><source mode='connect' path='/run/docker.sock'/><target type='guestfwd' "
		  "address='10.0.2.1' "
		  "port='4600'/></channel>",
		  "docker.sock", "pty", "device-backend" },
		{ "<channel type='file'><source path='/etc/x'/><target type='virtio' name='a'/></channel>", "/etc/x",
		  "pty", "device-backend" },
		{ "<redirdev bus='usb' type='unix'><source mode='connect' path='/run/x'/></redirdev>", "/run/x",
		  "redirdev", "device-backend" },
		{ "<rng model='virtio'><backend model='random'>/dev/sda</backend></rng>", "/dev/sda", "/dev/urandom",
		  "randomness" },
		{ "<rng model='virtio'><backend model='egd' type='unix'><source mode='connect' "
		  "path='/run/x'/></backend></rng>",
		  "/run/x", "/dev/urandom", "randomness" },
		{ "<graphics type='vnc' socket='/etc/x'><listen type='socket' socket='/etc/x'/></graphics>", "/etc/x",
		  "listen type=\"socket\"", "graphics-socket" },
		{ "<audio id='1' type='file' path='/etc/x'/>", "/etc/x", "type=\"none\"", "audio" },
		{ "<interface type='ethernet'><script path='/tmp/x'/><mac address='52:54:00:00:00:01'/></interface>",
		  "/tmp/x", "52:54:00:00:00:01", "network-script" },
		{ "<interface type='user'><backend type='passt' logFile='/etc/x'/></interface>", "/etc/x", "passt",
		  NULL },
		{ "<tpm model='tpm-crb'><backend type='emulator' debug='1'><source type='dir' "
		  "path='/etc'/></backend></tpm>",
		  "/etc", "tpm-crb", NULL },
		{ "<emulator>/var/lib/libvirt/images/qemu-x</emulator>", "qemu-x", "<devices", "emulator" },
		{ "<emulator>/usr/bin/perl</emulator>", "perl", "<devices", "emulator" },
		{ "<emulator>/usr/../tmp/qemu-x</emulator>", "qemu-x", "<devices", "emulator" },
	};
	struct map_opts o = { .exists = everything };
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err e = ERR_INIT;
		json_t *findings = json_array();
		MEM_AUTO char *xml = map_one(cases[i].device, &o, findings, &e);
		ck_assert_msg(xml && !strstr(xml, cases[i].gone) && strstr(xml, cases[i].kept), "%s: %s %s",
			      cases[i].device, e.text, xml);
		ck_assert_msg(cases[i].what ? has_finding(findings, cases[i].what) : json_array_size(findings) == 0,
			      "%s", cases[i].device);
		json_decref(findings);
	}
}
END_TEST

START_TEST(back_ends_that_stay)
{
	static const char *const kept[] = {
		"<serial type=\"file\"><source path=\"/var/log/libvirt/web1.console\"/><target port=\"0\"/></serial>",
		"<console type=\"pty\"><log file=\"/var/log/libvirt/web1.console\" append=\"on\"/></console>",
		"<serial type=\"tcp\"><source mode=\"bind\" host=\"127.0.0.1\" service=\"2445\"/></serial>",
		"<channel type=\"spicevmc\"><target type=\"virtio\" name=\"com.redhat.spice.0\"/></channel>",
		"<rng model=\"virtio\"><backend model=\"random\">/dev/hwrng</backend></rng>",
		"<rng model=\"virtio\"><backend model=\"builtin\"/></rng>",
		"<emulator>/usr/bin/qemu-system-x86_64</emulator>",
		"<memory model=\"dimm\"><target><size unit=\"KiB\">1</size></target></memory>",
		"<input type=\"tablet\" bus=\"usb\"/>",
	};
	struct map_opts o = { .exists = everything };
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		struct err e = ERR_INIT;
		json_t *findings = json_array();
		MEM_AUTO char *xml = map_one(kept[i], &o, findings, &e);
		ck_assert_msg(xml && strstr(xml, kept[i]), "%s: %s %s", kept[i], e.text, xml);
		ck_assert_uint_eq(json_array_size(findings), 0);
		json_decref(findings);
	}
}
END_TEST

#define QEMU_NS "http://libvirt.org/schemas/domain/qemu/1.0"

START_TEST(what_the_guest_would_miss_is_refused)
{
	static const char *const refused[] = {
		"<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='3' slot='0' "
		"function='0'/></source></hostdev>",
		"<hostdev mode='subsystem' type='usb'><source startupPolicy='optional'><vendor id='0x1234'/><product "
		"id='0xbeef'/></source></hostdev>",
		"<interface type='hostdev'><source><address type='pci' domain='0' bus='3' slot='0' "
		"function='0'/></source>"
		"</interface>",
		"<shmem name='shm0'><model type='ivshmem-plain'/></shmem>",
		"<filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem>",
		"<memory model='nvdimm'><source><path>/etc/x</path></source></memory>",
		"<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
		"<input type='passthrough' bus='virtio'><source evdev='/dev/input/event1'/></input>",
		"<input type='evdev'><source dev='/dev/input/event1'/></input>",
		"<smartcard mode='host-certificates'><database>/etc</database></smartcard>",
		"<interface type='vhostuser'><source type='unix' path='/etc/x' mode='server'/></interface>",
		"</devices><x:commandline xmlns:x='" QEMU_NS "'><x:arg value='-S'/></x:commandline><devices>",
	};
	struct map_opts o = { .exists = everything };
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct err e = ERR_INIT;
		MEM_AUTO char *xml = map_one(refused[i], &o, NULL, &e);
		ck_assert_msg(!xml, "%s", refused[i]);
		ck_assert_int_eq(e.cls, ERR_REFUSED);
	}
	struct err e = ERR_INIT;
	MEM_AUTO char *label = map_xml(
		"<domain type='kvm'><name>a</name><seclabel type='static' model='dac'><label>+0:+0</label></seclabel>"
		"<devices/></domain>",
		&o, NULL, &e);
	ck_assert_msg(label && !strstr(label, "seclabel"), "%s", e.text);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("migrator/map_xml");
	TCase *tc = tcase_create("map");
	tcase_add_test(tc, disks_become_files_here);
	tcase_add_test(tc, networks_by_rule_mac_kept);
	tcase_add_test(tc, what_belongs_to_the_other_host_is_left_out);
	tcase_add_test(tc, identity);
	tcase_add_test(tc, refusals);
	tcase_add_test(tc, folders);
	tcase_add_test(tc, folders_that_are_not_for_images);
	tcase_add_test(tc, this_hosts_own_files_and_devices);
	tcase_add_test(tc, variables_become_a_file);
	tcase_add_test(tc, back_ends_that_name_this_hosts_files);
	tcase_add_test(tc, back_ends_that_stay);
	tcase_add_test(tc, what_the_guest_would_miss_is_refused);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
