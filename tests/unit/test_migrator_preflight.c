#include "base/clock.h"
#include "migrator/preflight.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GIB (UINT64_C(1) << 30)

/* A VM that can move anywhere, and a target that has all it needs; each case changes one thing. */
static const char target_json[] =
	"{'host':'host2','libvirt_version':9000000,'qemu_version':7002000,'domain_type':true,"
	"'emulator':{'path':'/usr/bin/"
	"qemu-system-x86_64','usable':true},'machine':{'name':'pc-q35-7.2','known':true,'newest':null},"
	"'cpu':{'verdict':'superset','missing':[],'message':''},"
	"'memory':{'total_bytes':68719476736,'available_bytes':34359738368,'promised_bytes':0,'spare_bytes':"
	"34359738368,'hugepages':[]},"
	"'disks':[{'target':'vda','exists':true,'folder':true,'shared':true,'virtual_bytes':10737418240,'fs_id':'a','"
	"fs_free_bytes':107374182400}],"
	"'paths':[],'networks':[{'name':'default','active':true,'bridge':'virbr0'}],'bridges':['br0'],'interfaces':['"
	"eth0','br0','ovs0'],"
	"'addresses':['127.0.0.1','192.0.2.2'],'same_uuid':null,'same_name':null,'incoming':false,'jobs':0,'max_jobs':"
	"4,'swtpm':false,"
	"'userfaultfd':true,'time_ns':0}";

#define VDA                                                                                       \
	"<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source " \
	"file='/img/web1.qcow2'/>"                                                                \
	"<target dev='vda' bus='virtio'/></disk>"

enum { COPY = 1, OFFLINE = 2, POSTCOPY = 4, OFF = 8, PAUSED = 16, TRANSIENT = 32, LEFT = 64, INCOMING = 128 };

struct test_case {
	/* "severity code", or "ok": not a single finding, or "severity code!" with text in it, below */
	const char *expect;
	const char *text; /* part of text or remedy */
	unsigned flags;
	const char *vm;      /* XML added to the domain, outside of devices */
	const char *devices; /* XML added to the devices */
	/* JSON that replaces members of the target's answer; deeper: 'disks' and so on are replaced whole */
	const char *target;
	void (*change)(struct preflight_source *s);
};

static json_t *json_from(const char *single_quoted)
{
	char *text = strdup(single_quoted);
	json_error_t why;
	for (char *p = text; *p; p++)
		*p = *p == '\'' ? '"' : *p;
	json_t *j = json_loads(text, 0, &why);
	ck_assert_msg(j != NULL, "%s in %s", why.text, text);
	free(text);
	return j;
}

static void make_source(struct preflight_source *s, const struct test_case *c)
{
	struct err e = ERR_INIT;
	char xml[8192];
	bool no_vda = c->devices && strncmp(c->devices, "-", 1) == 0;

	snprintf(xml, sizeof(xml),
		 "<domain type='kvm' id='1'><name>web1</name><uuid>11111111-2222-3333-4444-555555555555</uuid>"
		 "<memory unit='GiB'>2</memory><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>%s<devices>"
		 "<emulator>/usr/bin/qemu-system-x86_64</emulator>%s%s</devices></domain>",
		 c->vm ? c->vm : "", no_vda ? "" : VDA, c->devices ? c->devices + no_vda : "");
	*s = (struct preflight_source){ .where = WHERE_RUNNING,
					.persistent = !(c->flags & TRANSIENT),
					.job = -1,
					.libvirt_version = 9000000,
					.qemu_version = 7002000 };
	s->where = c->flags & OFF      ? WHERE_SHUTOFF
		   : c->flags & PAUSED ? WHERE_PAUSED
		   : c->flags & LEFT   ? WHERE_LEFT
				       : WHERE_RUNNING;
	s->where = c->flags & INCOMING ? WHERE_INCOMING : s->where;
	s->dom = domain_parse(xml, &e);
	ck_assert_msg(s->dom != NULL, "%s", e.text);
	s->xml = strdup(xml);
	s->cpu_missing_here = json_array();
	if (s->dom->cpu_mode)
		s->cpu_xml = strdup("<cpu/>");
	s->disks = calloc(s->dom->n_disks ? s->dom->n_disks : 1, sizeof(*s->disks));
	for (size_t i = 0; i < s->dom->n_disks; i++) {
		s->disks[i].virtual_bytes = 10 * GIB;
		s->disks[i].allocated_bytes = 3 * GIB;
		s->disks[i].network_fs = true;
	}
	if (c->change)
		c->change(s);
}

static json_t *make_target(const struct test_case *c)
{
	json_t *t = json_from(target_json);
	if (c->target) {
		json_t *patch = json_from(c->target);
		json_object_update(t, patch);
		json_decref(patch);
	}
	return t;
}

static void judge(const struct test_case *c, struct preflight_source *s, json_t **t, struct preflight_verdict *v)
{
	const struct migration_args args = { .vm = "web1",
					     .host = "host2",
					     .copy_storage = c->flags & COPY,
					     .offline = c->flags & OFFLINE,
					     .on_stall = c->flags & POSTCOPY ? CONVERGE_POSTCOPY : CONVERGE_ABORT };
	make_source(s, c);
	*t = make_target(c);
	preflight_judge(s, *t, &args, 0, v);
}

static void end(struct preflight_source *s, json_t *t, struct preflight_verdict *v)
{
	preflight_verdict_fini(v);
	preflight_source_fini(s);
	json_decref(t);
}

static void has_job(struct preflight_source *s)
{
	s->job = VIR_DOMAIN_JOB_OPERATION_BACKUP;
}
static void has_unknown_job(struct preflight_source *s)
{
	s->job = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;
}
static void has_snapshots(struct preflight_source *s)
{
	s->snapshots = 2;
}
static void has_snapshots_inside(struct preflight_source *s)
{
	s->disks[0].snapshots = 2;
}
static void has_layers(struct preflight_source *s)
{
	s->disks[0].layers = calloc(1, sizeof(*s->disks[0].layers));
	s->disks[0].layers[0].size = 4096;
}
static void has_checkpoints(struct preflight_source *s)
{
	s->checkpoints = 1;
}
static void has_managed_save(struct preflight_source *s)
{
	s->managed_save = true;
}
static void old_libvirt(struct preflight_source *s)
{
	s->libvirt_version = 6000000;
}
static void old_qemu(struct preflight_source *s)
{
	s->qemu_version = 3001000;
	free(s->dom->disks[0].cache);
	s->dom->disks[0].cache = strdup("writeback");
}
static void newer_qemu(struct preflight_source *s)
{
	s->qemu_version = 10000002;
}
static void newer_patch_level(struct preflight_source *s)
{
	s->qemu_version = 7002022;
}
static void same_lack(struct preflight_source *s)
{
	json_array_append_new(s->cpu_missing_here, json_string("hle"));
	json_array_append_new(s->cpu_missing_here, json_string("rtm"));
}
static void cached(struct preflight_source *s)
{
	free(s->dom->disks[0].cache);
	s->dom->disks[0].cache = strdup("writeback");
}
static void unknown_size(struct preflight_source *s)
{
	s->disks[0].virtual_bytes = 0;
}

static void crashed(struct preflight_source *s)
{
	s->paused_reason = "crashed";
}
static void fixed_chain(struct preflight_source *s)
{
	s->disks[0].fixed_chain = true;
}

#define CPU "<cpu mode='custom' match='exact'><model>Haswell</model></cpu>"
#define PASS "<cpu mode='host-passthrough'/>"
#define NOT_THERE                                                                                           \
	"'disks':[{'target':'vda','exists':false,'folder':true,'shared':false,'fs_id':'a','fs_free_bytes':" \
	"107374182400}]"
#define THERE(rest) \
	"{'disks':[{'target':'vda','exists':true,'folder':true,'fs_id':'a','fs_free_bytes':107374182400," rest "}]}"
#define BLOCK \
	"-<disk type='block' device='disk'><driver type='raw'/><source dev='/dev/vg/a'/><target dev='vda'/></disk>"
#define LUKS                                                                                                    \
	"-<disk type='file' device='disk'><driver type='raw'/><source file='/img/a'><encryption format='luks'>" \
	"<secret type='passphrase' uuid='1-2'/></encryption></source><target dev='vda'/></disk>"
#define OVERLAY                                                                                        \
	"-<disk type='file' device='disk'><driver type='qcow2'/><source file='/img/a'/><backingStore " \
	"type='file'><format type='raw'/><source file='/img/base'/></backingStore><target dev='vda'/></disk>"
#define BACKING(rest) THERE("'shared':true,'virtual_bytes':10737418240,'backing':[{'path':'/img/base'," rest "}]")
#define NBD(host)                                                                                     \
	"-<disk type='network' device='disk'><source protocol='nbd' name='x'><host name='" host "'/>" \
	"</source><target dev='vda'/></disk>"
#define VOLUME "-<disk type='volume' device='disk'><source pool='p' volume='a'/><target dev='vda'/></disk>"
#define CDROM "<disk type='file' device='cdrom'><source file='/iso/a.iso'/><target dev='sda'/></disk>"

static const struct test_case cases[] = {
	{ "ok", 0, 0, 0, 0, 0, 0 },
	{ "ok", 0, OFFLINE | OFF, 0, 0, 0, 0 },
	/* the VM */
	{ "info vm-paused", "paused", PAUSED, 0, 0, 0, 0 },
	{ "error vm-crashed", "virsh destroy", PAUSED, 0, 0, 0, crashed },
	{ "error vm-crashed", "kept as it is", OFFLINE | PAUSED, 0, 0, 0, crashed },
	{ "error vm-running", "--offline", OFFLINE, 0, 0, 0, 0 },
	{ "error vm-running", 0, OFFLINE | PAUSED, 0, 0, 0, 0 },
	{ "error vm-shut-off", "--offline", OFF, 0, 0, 0, 0 },
	{ "error vm-state", "another migration", LEFT, 0, 0, 0, 0 },
	{ "error vm-state", 0, INCOMING, 0, 0, 0, 0 },
	{ "info vm-transient", 0, TRANSIENT, 0, 0, 0, 0 },
	{ "error vm-transient", 0, TRANSIENT | OFFLINE | OFF, 0, 0, 0, 0 },
	{ "error job-active", "backup", 0, 0, 0, 0, has_job },
	{ "error job-active", "libvirt runs a job", 0, 0, 0, 0, has_unknown_job },
	{ "error snapshots", "2 snapshots", 0, 0, 0, 0, has_snapshots },
	{ "warning checkpoints", 0, 0, 0, 0, 0, has_checkpoints },
	{ "error managed-save", 0, OFFLINE | OFF, 0, 0, 0, has_managed_save },
	{ "error block-job-active", "vda", 0, 0,
	  "-<disk type='file' device='disk'><source file='/img/web1.qcow2'/><target dev='vda'/><mirror "
	  "type='file'/></disk>",
	  0, 0 },
	/* hosts */
	{ "error libvirt-too-old", "this host is 6.0.0", 0, 0, 0, 0, old_libvirt },
	{ "error libvirt-too-old", "host2 is 5.0.0", 0, 0, 0, "{'libvirt_version':5000000}", 0 },
	{ "error qemu-too-old", "host2", 0, 0, 0, "{'qemu_version':2011000}", 0 },
	{ "warning qemu-older", "10.0.2 here and 7.2.0 at host2", 0, 0, 0, 0, newer_qemu },
	{ "ok", 0, 0, 0, 0, 0, newer_patch_level },
	{ "error target-busy", "already receiving web1", 0, 0, 0, "{'incoming':true}", 0 },
	{ "error target-busy", "4 VMs", 0, 0, 0, "{'jobs':4}", 0 },
	{ "error target-answer", 0, 0, 0, 0, "{'disks':null}", 0 },
	{ "error target-answer", 0, 0, 0, 0, "{'machine':'x'}", 0 },
	/* machine, CPU */
	{ "error accelerator-missing", "kvm", 0, 0, 0,
	  "{'domain_type':false,'emulator':{'usable':false},'machine':{'known':false}}", 0 },
	{ "error emulator-missing", "/usr/bin/qemu-system-x86_64", 0, 0, 0,
	  "{'emulator':{'usable':false},'machine':{'known':false}}", 0 },
	{ "error machine-unknown", "pc-q35-6.2 at most", 0, 0, 0, "{'machine':{'known':false,'newest':'pc-q35-6.2'}}",
	  0 },
	{ "error machine-unknown", "does not know machine type pc-q35-7.2", 0, 0, 0,
	  "{'machine':{'known':false,'newest':null}}", 0 },
	{ "ok", 0, 0, CPU, 0, "{'cpu':{'verdict':'identical','missing':[]}}", 0 },
	{ "error cpu-features-missing", "lacks features that web1 has: avx2, hle, rtm", 0, CPU, 0,
	  "{'cpu':{'verdict':'missing','missing':['avx2','hle','rtm']}}", 0 },
	{ "error cpu-features-missing", "web1 has: avx2", 0, CPU, 0,
	  "{'cpu':{'verdict':'missing','missing':['avx2','hle','rtm']}}", same_lack },
	{ "info cpu-not-checked", "hle, rtm", 0, CPU, 0, "{'cpu':{'verdict':'missing','missing':['hle','rtm']}}",
	  same_lack },
	{ "error cpu-features-missing", "cpu-baseline", 0, CPU, 0, "{'cpu':{'verdict':'missing','missing':[]}}", 0 },
	{ "warning cpu-features-missing", 0, OFFLINE | OFF, CPU, 0, "{'cpu':{'verdict':'missing','missing':['avx2']}}",
	  0 },
	{ "warning cpu-not-checked", "why not", 0, CPU, 0,
	  "{'cpu':{'verdict':'unknown','missing':[],'message':'why not'}}", 0 },
	{ "warning cpu-not-checked", 0, 0, CPU, 0, "{'cpu':{}}", 0 },
	{ "ok", 0, 0, PASS, 0, "{'cpu':{'verdict':'identical','missing':[]}}", 0 },
	{ "warning cpu-passthrough", "differences", 0, PASS, 0, "{'cpu':{'verdict':'superset','missing':[]}}", 0 },
	{ "error cpu-passthrough", "avx512f", 0, PASS, 0, "{'cpu':{'verdict':'missing','missing':['avx512f']}}", 0 },
	{ "warning cpu-not-checked", 0, 0, PASS, 0, "{'cpu':{'verdict':'unknown','missing':[]}}", 0 },
	{ "error invariant-tsc", "frequency", 0,
	  "<cpu mode='custom'><model>Haswell</model><feature policy='require' name='invtsc'/></cpu>", 0, 0, 0 },
	{ "ok", 0, 0,
	  "<cpu mode='custom'><model>Haswell</model><feature policy='require' name='invtsc'/></cpu>"
	  "<clock><timer name='tsc' frequency='2000000000'/></clock>",
	  0, 0, 0 },
	/* memory */
	{ "error memory-short", "2.1 GiB", 0, 0, 0,
	  "{'memory':{'available_bytes':4294967296,'promised_bytes':3221225472,'spare_bytes':1073741824}}", 0 },
	{ "warning memory-short", 0, OFFLINE | OFF, 0, 0, "{'memory':{'spare_bytes':0}}", 0 },
	{ "info memory-locked", 0, 0, "<memoryBacking><locked/></memoryBacking>", 0, 0, 0 },
	{ "error hugepages-short", "has none", 0, "<memoryBacking><hugepages/></memoryBacking>", 0, 0, 0 },
	{ "error hugepages-short", "1.0 GiB free", 0,
	  "<memoryBacking><hugepages><page size='2' unit='M'/></hugepages></memoryBacking>", 0,
	  "{'memory':{'spare_bytes':0,'hugepages':[{'size_bytes':1073741824,'total':9,'free':9},{'size_bytes':2097152,'"
	  "total':600,'free':512}]}}",
	  0 },
	{ "ok", 0, 0, "<memoryBacking><hugepages><page size='1' unit='G'/></hugepages></memoryBacking>", 0,
	  "{'memory':{'spare_bytes':0,'hugepages':[{'size_bytes':1073741824,'total':9,'free':9}]}}", 0 },
	/* disks, not copied */
	{ "error disk-not-shared", "--copy-storage", 0, 0, 0, "{" NOT_THERE "}", 0 },
	{ "error disk-not-shared", "another image of that name", 0, 0, 0,
	  THERE("'shared':false,'virtual_bytes':10737418240"), 0 },
	{ "error disk-unknown", "can't be told", 0, 0, 0, THERE("'shared':null,'virtual_bytes':10737418240"), 0 },
	{ "error image-size", "10.0 GiB here and 1.0 GiB at host2", 0, 0, 0,
	  THERE("'shared':null,'virtual_bytes':1073741824"), 0 },
	{ "error disk-not-shared", "shareable", COPY, 0,
	  "-<disk type='file' device='disk'><source file='/img/a'/><target dev='vda'/><shareable/></disk>",
	  "{" NOT_THERE "}", 0 },
	{ "error cache-unsafe", "writeback", 0, 0, 0, 0, old_qemu },
	{ "ok", 0, 0, 0, 0, 0, cached },
	{ "warning device-assumed-shared", 0, 0, 0, BLOCK, THERE("'shared':null,'virtual_bytes':10737418240"), 0 },
	{ "ok", 0, 0, 0, BLOCK, THERE("'shared':true,'virtual_bytes':10737418240"), 0 },
	{ "error disk-not-shared", 0, 0, 0, BLOCK, THERE("'shared':false,'virtual_bytes':10737418240"), 0 },
	{ "error image-size", 0, 0, 0, BLOCK, THERE("'shared':null,'virtual_bytes':1073741824"), 0 },
	{ "ok", 0, 0, 0,
	  "-<disk type='network' device='disk'><source protocol='rbd' name='p/i'/><target dev='vda'/></disk>",
	  "{'disks':[]}", 0 },
	{ "error disk-unsupported", "nvme", 0, 0,
	  "-<disk type='nvme' device='disk'><source type='pci'/><target dev='vda'/></disk>", 0, 0 },
	{ "error disk-transient", 0, 0, 0,
	  "-<disk type='file' device='disk'><source file='/a'/><target dev='vda'/><transient/></disk>", 0, 0 },
	{ "ok", 0, 0, 0, "-<disk type='file' device='cdrom'><target dev='sda'/></disk>", "{'disks':[]}", 0 },
	/* disks, copied */
	{ "ok", 0, COPY, 0, 0, "{" NOT_THERE "}", 0 },
	{ "info disk-shared", "not copied", COPY, 0, 0, 0, 0 },
	{ "error disk-unknown", "onto itself", COPY, 0, 0, THERE("'shared':null,'virtual_bytes':10737418240"), 0 },
	{ "error disk-unknown", "onto itself", COPY, 0, BLOCK, THERE("'shared':null,'virtual_bytes':10737418240"), 0 },
	{ "warning image-exists", "overwritten", COPY, 0, 0, THERE("'shared':false,'virtual_bytes':10737418240"), 0 },
	{ "warning image-exists", "a device", COPY, 0, BLOCK, THERE("'shared':false,'virtual_bytes':21474836480"), 0 },
	{ "error image-exists", "images that it has made", COPY | OFFLINE | OFF, 0, 0,
	  THERE("'shared':false,'virtual_bytes':10737418240"), 0 },
	{ "ok", 0, COPY | OFFLINE | OFF, 0, 0, "{" NOT_THERE "}", 0 },
	{ "error image-size", 0, COPY, 0, 0, THERE("'shared':false,'virtual_bytes':21474836480"), 0 },
	{ "error image-size", "large enough", COPY, 0, BLOCK, THERE("'shared':false,'virtual_bytes':1073741824"), 0 },
	{ "error device-missing", 0, COPY, 0, BLOCK, "{" NOT_THERE "}", 0 },
	{ "error image-in-use", "VM 'other'", COPY, 0, 0,
	  THERE("'shared':false,'virtual_bytes':10737418240,'used_by':'other'"), 0 },
	{ "error image-format", "not a qcow2 image", COPY, 0, 0,
	  THERE("'shared':false,'format_error':'not a qcow2 image'"), 0 },
	{ "error image-refused", "no such folder", COPY, 0, 0,
	  "{'disks':[{'target':'vda','exists':false,'shared':false,'refused':'no such folder','remedy':'make it'}]}", 0 },
	{ "error disk-unknown", "size", COPY, 0, 0, "{" NOT_THERE "}", unknown_size },
	{ "error space-short", "3.0 GiB", COPY, 0, 0,
	  "{'disks':[{'target':'vda','exists':false,'shared':false,'fs_id':'a','fs_free_bytes':1073741824}]}", 0 },
	{ "warning space-tight", "10.0 GiB", COPY, 0, 0,
	  "{'disks':[{'target':'vda','exists':false,'shared':false,'fs_id':'a','fs_free_bytes':4294967296}]}", 0 },
	{ "error space-short", "6.0 GiB", COPY, 0,
	  "<disk type='file' device='disk'><driver type='raw'/><source file='/img/b'/><target dev='vdb'/></disk>",
	  "{'disks':[{'target':'vda','exists':false,'shared':false,'fs_id':'a','fs_free_bytes':5368709120},"
	  "{'target':'vdb','exists':false,'shared':false,'fs_id':'a','fs_free_bytes':5368709120}]}",
	  0 },
	{ "info disk-flattened", "overlay over 1 image", COPY, 0,
	  "-<disk type='file' device='disk'><driver type='qcow2'/><source file='/img/a'/><backingStore "
	  "type='file'><format type='raw'/>"
	  "<source file='/img/base'/></backingStore><target dev='vda'/></disk>",
	  "{" NOT_THERE "}", 0 },
	{ "warning image-snapshots", "2 snapshots inside", COPY, 0, 0, "{" NOT_THERE "}", has_snapshots_inside },
	{ "ok", 0, 0, 0, 0, 0, has_snapshots_inside },
	{ "error disk-encrypted", "encrypted by QEMU", COPY, 0, LUKS, "{" NOT_THERE "}", 0 },
	{ "warning image-exists", 0, COPY, 0, LUKS, THERE("'shared':false,'virtual_bytes':10737418240"), 0 },
	{ "ok", 0, COPY | OFFLINE | OFF, 0, LUKS, "{" NOT_THERE "}", 0 },
	/* what lies behind a disk that is not copied */
	{ "ok", 0, 0, 0, OVERLAY, BACKING("'exists':true,'shared':true,'size':1"), has_layers },
	{ "error backing-missing", "overlay over /img/base", 0, 0, OVERLAY, BACKING("'exists':false,'shared':false"),
	  has_layers },
	{ "error backing-differs", "another image of that name", 0, 0, OVERLAY,
	  BACKING("'exists':true,'shared':false,'size':1"), has_layers },
	{ "warning backing-not-shared", "sha256sum", 0, 0, OVERLAY, BACKING("'exists':true,'shared':null,'size':4096"),
	  has_layers },
	/* secrets */
	{ "error secret-missing", "secret 1-2, which disk vda", 0, 0, LUKS,
	  "{'secrets':[{'secret':'1-2','known':false}]}", 0 },
	{ "ok", 0, 0, 0, LUKS, "{'secrets':[{'secret':'1-2','known':true}]}", 0 },
	{ "ok", 0, 0, 0, LUKS, "{'secrets':[{'secret':'1-2','known':null}]}", 0 },
	{ "error secret-missing", "secret c, which disk vda", 0, 0,
	  "-<disk type='network' device='disk'><auth username='a'><secret type='ceph' usage='c'/></auth><source "
	  "protocol='rbd' name='p/i'/><target dev='vda'/></disk>",
	  "{'disks':[],'secrets':[{'secret':'c','known':false}]}", 0 },
	{ "error secret-missing", "the TPM", 0, 0,
	  "<tpm><backend type='emulator'><encryption secret='7'/></backend></tpm>",
	  "{'swtpm':true,'secrets':[{'secret':'7','known':false}]}", 0 },
	{ "warning disk-server-here", "loopback", 0, 0, NBD("127.0.0.1"), "{'disks':[]}", 0 },
	{ "ok", 0, 0, 0, NBD("192.0.2.9"), "{'disks':[]}", 0 },
	{ "ok", 0, COPY, 0, 0, "{" NOT_THERE "}", fixed_chain },
	{ "error pool-missing", "no storage pool", 0, 0, VOLUME, THERE("'pool_error':'there is no storage pool'"), 0 },
	{ "error disk-unsupported", "volume", 0, 0, VOLUME, "{" NOT_THERE "}", 0 },
	{ "ok", 0, 0, 0, 0, 0, fixed_chain },
	/* media */
	{ "error media-missing", "sda (/iso/a.iso)", 0, 0, CDROM, 0, 0 },
	{ "warning media-missing", 0, OFFLINE | OFF, 0, CDROM, 0, 0 },
	{ "warning media-missing", "empty there", 0, 0,
	  "<disk type='file' device='cdrom'><source file='/iso/a.iso' startupPolicy='optional'/><target "
	  "dev='sda'/></disk>",
	  0, 0 },
	{ "error media-missing", 0, 0, 0,
	  "<disk type='file' device='cdrom'><source file='/iso/a.iso' startupPolicy='mandatory'/><target "
	  "dev='sda'/></disk>",
	  0, 0 },
	{ "warning media-differs", 0, 0, 0, "-" CDROM,
	  "{'disks':[{'target':'sda','exists':true,'shared':false,'virtual_bytes':5}]}", 0 },
	{ "ok", 0, 0, 0, "-" CDROM,
	  "{'disks':[{'target':'sda','exists':true,'shared':false,'virtual_bytes':10737418240}]}", 0 },
	{ "ok", 0, COPY, 0, "-" CDROM,
	  "{'disks':[{'target':'sda','exists':true,'shared':null,'virtual_bytes':10737418240}]}", 0 },
	/* network */
	{ "ok", 0, 0, 0, "<interface type='network'><source network='default'/></interface>", 0, 0 },
	{ "error network-missing", "'lan'", 0, 0, "<interface type='network'><source network='lan'/></interface>", 0, 0 },
	{ "error network-inactive", 0, 0, 0, "<interface type='network'><source network='default'/></interface>",
	  "{'networks':[{'name':'default','active':false}]}", 0 },
	{ "warning network-missing", 0, OFFLINE | OFF, 0,
	  "<interface type='network'><source network='lan'/></interface>", 0, 0 },
	/* what live XML says of a network that is a bridge, or a device for macvtap */
	{ "error network-missing", "'lan'", 0, 0,
	  "<interface type='bridge'><source network='lan' bridge='br0'/></interface>", 0, 0 },
	{ "ok", 0, 0, 0, "<interface type='bridge'><source network='default' bridge='br7'/></interface>", 0, 0 },
	{ "ok", 0, 0, 0, "<interface type='direct'><source network='default' dev='eth9'/></interface>", 0, 0 },
	{ "error filter-missing", "'f'", 0, 0,
	  "<interface type='bridge'><source bridge='br0'/><filterref filter='f'/></interface>", "{'filters':['g']}", 0 },
	{ "ok", 0, 0, 0, "<interface type='bridge'><source bridge='br0'/><filterref filter='f'/></interface>",
	  "{'filters':['f']}", 0 },
	{ "error bridge-missing", "'br7'", 0, 0, "<interface type='bridge'><source bridge='br7'/></interface>", 0, 0 },
	{ "error bridge-missing", 0, 0, 0, "<interface type='bridge'><source bridge='eth0'/></interface>", 0, 0 },
	{ "ok", 0, 0, 0, "<interface type='bridge'><source bridge='br0'/></interface>", 0, 0 },
	{ "ok", 0, 0, 0,
	  "<interface type='bridge'><source bridge='ovs0'/><virtualport type='openvswitch'/></interface>", 0, 0 },
	{ "error interface-missing", "eth9", 0, 0,
	  "<interface type='direct'><source dev='eth9' mode='bridge'/></interface>", 0, 0 },
	{ "ok", 0, 0, 0, "<interface type='user'/>", 0, 0 },
	{ "error listen-address", "192.0.2.1", 0, 0,
	  "<graphics type='vnc'><listen type='address' address='192.0.2.1'/></graphics>", 0, 0 },
	{ "ok", 0, 0, 0, "<graphics type='vnc'><listen type='address' address='192.0.2.2'/></graphics>", 0, 0 },
	{ "error network-missing", "'lan'", 0, 0,
	  "<graphics type='vnc'><listen type='network' network='lan'/></graphics>", 0, 0 },
	{ "error listen-address", "serial of web1 listens on 192.0.2.1", 0, 0,
	  "<serial type='tcp'><source mode='bind' host='192.0.2.1' service='4555'/></serial>", 0, 0 },
	{ "ok", 0, 0, 0, "<serial type='tcp'><source mode='connect' host='192.0.2.1' service='4555'/></serial>", 0, 0 },
	/* devices */
	{ "error host-device", "PCI device 0000:03:00.0", 0, 0,
	  "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='3' slot='0' "
	  "function='0'/></source></hostdev>",
	  0, 0 },
	{ "error host-device", "USB", 0, 0,
	  "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/><product id='0x2'/></source></hostdev>", 0, 0 },
	{ "error host-device", "mediated device", 0, 0,
	  "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='abc'/></source></hostdev>", 0,
	  0 },
	{ "error host-device", "network device", 0, 0,
	  "<interface type='hostdev'><source><address type='pci' domain='0' bus='4' slot='0' "
	  "function='0'/></source></interface>",
	  0, 0 },
	{ "info host-device", "failover", 0, 0,
	  "<interface type='hostdev'><source><address type='pci' domain='0' bus='4' slot='0' "
	  "function='0'/></source><teaming type='transient' "
	  "persistent='x'/></interface>",
	  0, 0 },
	{ "warning host-device", 0, OFFLINE | OFF, 0,
	  "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/><product id='0x2'/></source></hostdev>", 0, 0 },
	{ "error device-unsupported", "virtiofs", 0, 0,
	  "<filesystem type='mount'><driver type='virtiofs'/><target dir='x'/></filesystem>", 0, 0 },
	{ "warning device-note", "mounted", 0, 0, "<filesystem type='mount'><target dir='x'/></filesystem>", 0, 0 },
	{ "error device-unsupported", "shared memory", 0, 0, "<shmem name='x'><model type='ivshmem-plain'/></shmem>", 0,
	  0 },
	{ "ok", 0, 0, 0, "<shmem name='x' role='master'><model type='ivshmem-plain'/></shmem>", 0, 0 },
	{ "error device-unsupported", "sev", 0, "<launchSecurity type='sev'/>", 0, 0, 0 },
	{ "error device-unsupported", "vDPA", 0, 0,
	  "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>", 0, 0 },
	{ "info device-note", "vsock", 0, 0, "<vsock model='virtio'/>", 0, 0 },
	{ "warning device-note", 0, OFFLINE | OFF, 0,
	  "<filesystem type='mount'><driver type='virtiofs'/><target dir='x'/></filesystem>", 0, 0 },
	{ "error tpm-missing", "swtpm", 0, 0, "<tpm><backend type='emulator'/></tpm>", 0, 0 },
	{ "ok", 0, 0, 0, "<tpm><backend type='emulator'/></tpm>", "{'swtpm':true}", 0 },
	{ "error device-unsupported", "/dev/tpm0", 0, 0,
	  "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", 0, 0 },
	{ "warning nvram", "vars.fd", OFFLINE | OFF, "<os><nvram>/x</nvram></os>", 0, 0, 0 },
	{ "error path-missing", "no folder for the serial log", 0, 0,
	  "<serial type='file'><source path='/var/log/x/a.log'/></serial>",
	  "{'paths':[{'path':'/var/log/x/a.log','exists':false,'folder':false}]}", 0 },
	{ "ok", 0, 0, 0, "<serial type='file'><source path='/var/log/x/a.log'/></serial>",
	  "{'paths':[{'path':'/var/log/x/a.log','exists':false,'folder':true}]}", 0 },
	{ "error path-missing", "no folder for the channel socket", 0, 0,
	  "<channel type='unix'><source mode='bind' path='/run/x/a'/></channel>",
	  "{'paths':[{'path':'/run/x/a','exists':false,'folder':false}]}", 0 },
	{ "ok", 0, 0, 0, "<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/x/a'/></channel>",
	  "{'paths':[{'path':'/var/lib/libvirt/qemu/channel/x/a','exists':false,'folder':false}]}", 0 },
	{ "error path-missing", "no folder for the graphics socket", 0, 0,
	  "<graphics type='vnc'><listen type='socket' socket='/run/x/v'/></graphics>",
	  "{'paths':[{'path':'/run/x/v','exists':false,'folder':false}]}", 0 },
	{ "error path-missing", "no shared folder /srv", 0, 0,
	  "<filesystem type='mount'><source dir='/srv'/><target dir='x'/></filesystem>",
	  "{'paths':[{'path':'/srv','exists':false,'folder':true}]}", 0 },
	{ "error path-missing", "serial device /dev/ttyS1", 0, 0,
	  "<serial type='dev'><source path='/dev/ttyS1'/></serial>",
	  "{'paths':[{'path':'/dev/ttyS1','exists':false,'folder':true}]}", 0 },
	/* names */
	{ "info definition-replaced", "shut off", 0, 0, 0,
	  "{'same_uuid':{'name':'web1','state':'shutoff','persistent':true},'same_name':{'uuid':'11111111-2222-3333-"
	  "4444-555555555555','state':'shutoff'}}",
	  0 },
	{ "error uuid-taken", "must not run twice", 0, 0, 0,
	  "{'same_uuid':{'name':'web1','state':'running','persistent':true}}", 0 },
	{ "error uuid-taken", "'clone'", 0, 0, 0, "{'same_uuid':{'name':'clone','state':'shutoff','persistent':true}}",
	  0 },
	{ "error name-taken", "99999999", 0, 0, 0,
	  "{'same_name':{'uuid':'99999999-2222-3333-4444-555555555555','state':'shutoff'}}", 0 },
	/* policy */
	{ "error postcopy-unavailable", "userfaultfd", POSTCOPY, 0, 0, "{'userfaultfd':false}", 0 },
	{ "ok", 0, POSTCOPY, 0, 0, 0, 0 },
	{ "ok", 0, 0, 0, 0, "{'userfaultfd':false}", 0 },
	{ "info dirty-ring", "4096", 0, "<features><kvm><dirty-ring state='on' size='4096'/></kvm></features>", 0, 0, 0 },
};

START_TEST(table)
{
	const struct test_case *c = &cases[_i];
	struct preflight_source s;
	struct preflight_verdict v;
	json_t *t;
	struct test_case patched = *c;
	if (c->vm && strcmp(c->vm, "<os><nvram>/x</nvram></os>") == 0)
		patched.vm = NULL; /* set below: <os> is there already */
	judge(&patched, &s, &t, &v);
	if (patched.vm != c->vm) {
		preflight_verdict_fini(&v);
		s.dom->nvram = strdup("/nvram/vars.fd");
		preflight_judge(&s, t, &(struct migration_args){ .host = "host2", .offline = true }, 0, &v);
	}
	char *all = json_dumps(v.findings.list, JSON_COMPACT);
	if (strcmp(c->expect, "ok") == 0) {
		ck_assert_msg(json_array_size(v.findings.list) == 0, "case %d: %s", _i, all);
		ck_assert_uint_eq(v.findings.errors, 0);
	} else {
		const char *space = strchr(c->expect, ' ');
		const json_t *f = preflight_find(&v.findings, space + 1);
		ck_assert_msg(f != NULL, "case %d: no %s in %s", _i, c->expect, all);
		const char *severity = json_string_value(json_object_get(f, "severity"));
		ck_assert_msg(strncmp(severity, c->expect, (size_t)(space - c->expect)) == 0, "case %d: %s", _i, all);
		ck_assert_msg(!c->text || strstr(all, c->text), "case %d: '%s' is not in %s", _i, c->text, all);
		ck_assert_int_eq(v.findings.errors > 0, strncmp(c->expect, "error", 5) == 0);
		/* What refuses says what to do. */
		if (strcmp(severity, "error") == 0 && strcmp(space + 1, "accelerator-missing") != 0)
			ck_assert_msg(json_string_length(json_object_get(f, "remedy")) > 0, "case %d: %s has no remedy",
				      _i, c->expect);
	}
	free(all);
	end(&s, t, &v);
}
END_TEST

START_TEST(actions)
{
	static const struct {
		unsigned flags;
		const char *devices, *target;
		enum preflight_action action;
		uint64_t copy_bytes;
	} list[] = {
		{ 0, 0, 0, PREFLIGHT_LEAVE, 0 },
		{ COPY, 0, 0, PREFLIGHT_LEAVE, 0 },
		{ COPY, 0, "{" NOT_THERE "}", PREFLIGHT_CREATE, 3 * GIB },
		{ COPY, 0, THERE("'shared':false,'virtual_bytes':10737418240"), PREFLIGHT_OVERWRITE, 3 * GIB },
		{ COPY, 0, THERE("'shared':null,'virtual_bytes':10737418240"), PREFLIGHT_LEAVE, 0 },
		{ COPY, BLOCK, THERE("'shared':false,'virtual_bytes':10737418240"), PREFLIGHT_OVERWRITE, 3 * GIB },
	};
	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		struct preflight_source s;
		struct preflight_verdict v;
		json_t *t;
		judge(&(struct test_case){ .flags = list[i].flags, .devices = list[i].devices, .target = list[i].target },
		      &s, &t, &v);
		ck_assert_uint_eq(v.n_disks, 1);
		ck_assert_int_eq(v.actions[0], list[i].action);
		ck_assert_uint_eq(v.copy_bytes, list[i].copy_bytes);
		json_t *disks = preflight_disks_json(&s, &v);
		ck_assert_uint_eq(json_array_size(disks), 1);
		json_decref(disks);
		end(&s, t, &v);
	}
}
END_TEST

static void local_fs(struct preflight_source *s)
{
	s->disks[0].network_fs = false;
}

START_TEST(unsafe_flag)
{
	/* Proved to be shared by a probe, on a file system of which libvirt thinks otherwise. */
	struct preflight_source s;
	struct preflight_verdict v;
	json_t *t;
	judge(&(struct test_case){ .change = local_fs }, &s, &t, &v);
	ck_assert(v.unsafe);
	ck_assert_uint_eq(v.findings.errors, 0);
	end(&s, t, &v);
	judge(&(struct test_case){ 0 }, &s, &t, &v);
	ck_assert(!v.unsafe);
	end(&s, t, &v);
	judge(&(struct test_case){ .flags = COPY, .target = "{" NOT_THERE "}", .change = local_fs }, &s, &t, &v);
	ck_assert(!v.unsafe);
	end(&s, t, &v);
	judge(&(struct test_case){ .target = "{" NOT_THERE "}", .change = local_fs }, &s, &t, &v);
	ck_assert(!v.unsafe);
	ck_assert_uint_gt(v.findings.errors, 0);
	end(&s, t, &v);
}
END_TEST

START_TEST(clock_skew)
{
	struct preflight_source s;
	struct preflight_verdict v;
	json_t *t;
	static const int64_t skews[] = { 0, 4 * NS_PER_S, -4 * NS_PER_S, 6 * NS_PER_S, -6 * NS_PER_S, 90000 * NS_PER_S };
	for (size_t i = 0; i < 6; i++) {
		judge(&(struct test_case){ 0 }, &s, &t, &v);
		preflight_verdict_fini(&v);
		preflight_judge(&s, t, &(struct migration_args){ .host = "host2" }, skews[i], &v);
		const json_t *f = preflight_find(&v.findings, "clock-skew");
		ck_assert_int_eq(f != NULL, i >= 3);
		if (f)
			ck_assert_ptr_nonnull(strstr(json_string_value(json_object_get(f, "text")),
						     skews[i] < 0 ? "behind" : "ahead"));
		ck_assert_uint_eq(v.findings.errors, 0);
		end(&s, t, &v);
	}
	ck_assert_int_eq(preflight_skew(100, 200, 150), 0);
	ck_assert_int_eq(preflight_skew(100, 200, 100), 0);
	ck_assert_int_eq(preflight_skew(100, 200, 70), -30);
	ck_assert_int_eq(preflight_skew(100, 200, 260), 60);
}
END_TEST

START_TEST(hostile_answers)
{
	/* A peer may answer anything: members missing, of other types, huge. It must end in a verdict, not in a
	 * crash. */
	static const char *const members[] = {
		"host",      "libvirt_version", "qemu_version", "domain_type", "emulator", "machine",    "cpu",
		"memory",    "disks",           "paths",        "networks",    "bridges",  "interfaces", "addresses",
		"same_uuid", "same_name",       "incoming",     "jobs",        "max_jobs", "swtpm",      "userfaultfd"
	};
	static const char *const values[] = {
		"null",
		"true",
		"-1",
		"9223372036854775807",
		"'x'",
		"[]",
		"{}",
		"[null,1,'a',{},[]]",
		"{'verdict':7,'missing':{},'name':[],'uuid':3,'state':null,'spare_bytes':'x','hugepages':3}",
		"[{'target':7},{'target':'vda','shared':'yes','exists':1,'virtual_bytes':-5,'fs_id':9}]"
	};
	const struct test_case rich = { .vm = CPU "<memoryBacking><hugepages/></memoryBacking>",
					.devices = CDROM
					"<interface type='network'><source network='default'/></interface>"
					"<serial type='file'><source path='/a/b'/></serial>" };
	for (size_t m = 0; m < sizeof(members) / sizeof(members[0]); m++)
		for (size_t k = 0; k < sizeof(values) / sizeof(values[0]); k++)
			for (unsigned flags = 0; flags < 4; flags++) {
				struct preflight_source s;
				struct preflight_verdict v;
				json_t *t;
				char patch[600];
				struct test_case c = rich;
				snprintf(patch, sizeof(patch), "{'%s':%s}", members[m], values[k]);
				c.target = patch;
				c.flags = (flags & 1 ? COPY : 0) | (flags & 2 ? OFFLINE | OFF : 0);
				judge(&c, &s, &t, &v);
				end(&s, t, &v);
			}
	struct preflight_source s;
	struct preflight_verdict v;
	make_source(&s, &rich);
	preflight_judge(&s, NULL, &(struct migration_args){ 0 }, 0, &v);
	ck_assert_uint_gt(v.findings.errors, 0);
	preflight_verdict_fini(&v);
	preflight_source_fini(&s);
}
END_TEST

START_TEST(without_the_target)
{
	struct preflight_source s;
	struct preflight_verdict v;
	make_source(&s, &(struct test_case){ .change = has_job });
	preflight_judge_alone(&s, &(struct migration_args){ .host = "host2", .copy_storage = true }, &v);
	ck_assert_ptr_nonnull(preflight_find(&v.findings, "job-active"));
	ck_assert_uint_eq(v.findings.errors, 1);
	ck_assert_int_eq(v.actions[0], PREFLIGHT_LEAVE);
	ck_assert_uint_eq(v.copy_bytes, 0);
	preflight_verdict_fini(&v);
	preflight_source_fini(&s);
}
END_TEST

START_TEST(findings)
{
	struct preflight_findings f;
	struct err e = ERR_INIT;
	preflight_findings_init(&f);
	ck_assert_int_eq(preflight_refuse(&f, "web1 can't move to host2", &e), 0);
	preflight_add(&f, PREFLIGHT_WARNING, "w", "", "only a warning");
	ck_assert_int_eq(preflight_refuse(&f, "web1 can't move to host2", &e), 0);
	preflight_add(&f, PREFLIGHT_ERROR, "a", "", "first");
	preflight_add(&f, PREFLIGHT_ERROR, "b", "do this", "second %d", 2);
	ck_assert_int_eq(preflight_refuse(&f, "web1 can't move to host2", &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_str_eq(e.text, "web1 can't move to host2: first; second 2");
	ck_assert_str_eq(e.remedy, "do this");
	ck_assert_ptr_null(preflight_find(&f, "c"));
	preflight_findings_fini(&f);

	preflight_findings_init(&f);
	struct err down = ERR_INIT;
	err_set(&down, ERR_PEER, "connection refused");
	err_remedy(&down, "start it");
	preflight_add_err(&f, "host2", &down);
	const json_t *got = preflight_find(&f, "peer-unreachable");
	ck_assert_ptr_nonnull(got);
	ck_assert_str_eq(json_string_value(json_object_get(got, "remedy")), "start it");
	err_set(&down, ERR_REFUSED, "no role");
	preflight_add_err(&f, "host2", &down);
	ck_assert_ptr_nonnull(preflight_find(&f, "peer-refused"));
	err_set(&down, ERR_LIBVIRT, "libvirtd is down");
	preflight_add_err(&f, "host2", &down);
	ck_assert_ptr_nonnull(preflight_find(&f, "target-libvirt"));
	ck_assert_uint_eq(f.errors, 3);
	preflight_findings_fini(&f);

	/* Many long ones are cut, not overrun. */
	preflight_findings_init(&f);
	for (int i = 0; i < 100; i++)
		preflight_add(&f, PREFLIGHT_ERROR, "x", "", "%0500d", i);
	preflight_add(&f, PREFLIGHT_ERROR, "bad-utf8", "\xff", "\xc3");
	ck_assert_int_eq(preflight_refuse(&f, "web1 can't move to host2", &e), -1);
	ck_assert_uint_eq(f.errors, 101);
	ck_assert_uint_eq(json_array_size(f.list), 101);
	preflight_findings_fini(&f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("preflight");
	TCase *tc = tcase_create("preflight");
	tcase_add_loop_test(tc, table, 0, sizeof(cases) / sizeof(cases[0]));
	tcase_add_test(tc, actions);
	tcase_add_test(tc, unsafe_flag);
	tcase_add_test(tc, clock_skew);
	tcase_add_test(tc, hostile_answers);
	tcase_add_test(tc, without_the_target);
	tcase_add_test(tc, findings);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
