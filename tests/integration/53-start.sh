# What can be told before a protection begins: whether the other host could start that VM; and what happens where its disk is full. The guest is the boot sector
# under KVM.
# shellcheck shell=bash
# limit full_disk 240

start_guest() { # [XML, put before </devices>]
	[ -w /dev/kvm ] || skip "no /dev/kvm: the boot sector is for KVM"
	the_hosts host1:stock host2:stock
	guest start host1 vm1 mem=64 sector=100 spin=1000
}

# The guest anew, with that in its definition.
start_with() { # SED-SCRIPT
	in_host host1 sh -c "virsh -q dumpxml vm1 --inactive >/tmp/vm1.xml && virsh -q destroy vm1 && sed -i '$1' /tmp/vm1.xml && virsh -q define /tmp/vm1.xml && virsh -q start vm1"
}

test_cannot_start_there() {
	start_guest
	start_with "s|</domain>|<qemu:commandline xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\"><qemu:arg value=\"-name\"/><qemu:arg value=\"x\"/></qemu:commandline></domain>|"
	assert_says 3 "could not be started at host2.*qemu:commandline" vmferry_at host1 protect vm1 --to host2
	in_host host2 vmferry status | grep vm1 && fail "something of a protection that was refused is there"
	start_with "/<qemu:commandline/,/<\\/qemu:commandline>/d"
	start_with "s|</devices>|<shmem name=\"shm0\"><model type=\"ivshmem-plain\"/><size unit=\"M\">4</size></shmem></devices>|"
	assert_says 3 "could not be started at host2.*shares memory" vmferry_at host1 protect vm1 --to host2
	start_with "/<shmem/,/<\\/shmem>/d"
	start_with "s|</devices>|<serial type=\"file\"><source path=\"/var/tmp/vm1.serial\"/><target port=\"1\"/></serial></devices>|"
	vmferry_at host1 protect vm1 --to host2
	grep -q "^at host2: a serial was on the other host's file /var/tmp/vm1.serial; here it is a pty" "$WORK/out" || fail "what would be different is not shown"
	in_host host1 vmferry unprotect vm1 --forget --yes
}

status_of() { # HOST: state, points, reason
	in_host "$1" vmferry status vm1 --json | python3 -c '
import json, sys
for p in json.load(sys.stdin)["protections"]:
    print(p["state"], p.get("points", 0), p.get("reason", ""))'
}

says() { # HOST WORDS
	[[ $(status_of "$1") == *"$2"* ]]
}

is_state() { # HOST STATE
	[[ $(status_of "$1") == "$2 "* ]]
}

points() { # at host2
	in_host host2 vmferry points vm1 --json | grep -c '"instant_ns"'
}

last_point() { # at host2
	in_host host2 vmferry points vm1 --json | sed -n 's/^ *"id": "\(.*\)",*$/\1/p' | tail -1
}

another_point() { # ID
	[ "$(last_point)" != "$1" ]
}

# The store's folder is a file system of its own that somebody else fills up.
test_full_disk() {
	local store=/var/lib/vmferry/replicas last
	start_guest
	lab agent stop host2
	in_host host2 sh -c "mkdir -p $store && mount -t tmpfs -o size=400m tmpfs $store"
	lab agent start host2
	vmferry_at host1 protect vm1 --to host2 --rpo 1s --wait
	note "full"
	in_host host2 sh -c "head -c 400M /dev/zero >$store/ballast 2>/dev/null || true"
	eventually 60 "the source says so" says host1 "disk of host2 is full"
	is_state host1 degraded || fail "the source is $(status_of host1)"
	eventually 20 "the target says so" says host2 "No space left"
	in_host host1 virsh -q list | grep -q 'vm1 *running' || fail "the guest does not run"
	last=$(last_point)
	[ "$(points)" -ge 1 ] || fail "the points are gone"
	in_host host2 vmferry verify vm1 || fail "what is there does not verify"
	note "space again"
	in_host host2 rm $store/ballast
	eventually 60 "it goes on by itself" is_state host1 protected
	eventually 20 "points come" another_point "$last"
	note "full, and the source is lost"
	in_host host2 sh -c "head -c 400M /dev/zero >$store/ballast 2>/dev/null || true"
	eventually 60 "the source says so" says host1 "disk of host2 is full"
	lab cut host1
	in_host host2 vmferry failover vm1 --force
	in_host host2 virsh -q list | grep -q 'vm1 *running' || fail "it does not run at host2"
	lab restore host1
	in_host host2 virsh -q destroy vm1
	lab agent stop host2
	in_host host2 umount $store
	lab agent start host2
}
