# What preflight refuses: with the reason, before the first byte, the VM untouched.
# shellcheck shell=bash

refused() { # CODE-OR-WORDS NAME TO [OPTION...]: by plan and by migrate, status 3
	local words=$1
	shift
	assert_says 3 "$words" move "$@"
	assert_says 3 "$words" vmferry_at "$(host_of_plan "$1")" plan "$@"
	grep -qi "what to do" "$WORK/out" || fail "no remedy"
}

host_of_plan() {
	where "$1" | head -1 | cut -d' ' -f1
}

test_wrong_name() {
	the_hosts
	boot webserver host1
	assert_says 2 "webserver" vmferry_at host1 migrate webservr host2
}

test_unknown_host() {
	the_hosts
	boot vm1 host1
	vmferry_at host1 migrate vm1 host7 && fail "worked"
	grep -i host7 "$WORK/out"
	assert_only_at vm1 host1
}

test_disk_not_shared() {
	the_hosts
	boot vm1 host1 disk=100M
	refused "copy-storage" vm1 host2
	assert_only_at vm1 host1
}

test_copy_onto_itself() { # shared storage must never be copied over itself
	the_hosts
	boot vm1 host1 disk=100M shared=1
	busy vm1 0
	move vm1 host2 --copy-storage || true
	assert_runs_once vm1
	assert_same_guest vm1
}

test_image_of_other_size() {
	the_hosts
	boot vm1 host1 disk=100M
	in_host host2 qemu-img create -q -f qcow2 /var/lib/libvirt/images/vm1.qcow2 50M
	refused "size|50" vm1 host2 --copy-storage
	assert_only_at vm1 host1
}

test_name_taken() {
	the_hosts
	boot vm1 host1
	guest define vm1 mem=128 off=1 >"$WORK/other.xml"
	in_host host2 virsh -q define "$WORK/other.xml"
	refused "vm1" vm1 host2
	in_host host2 virsh -q undefine vm1
	assert_only_at vm1 host1
}

test_bridge_missing() {
	the_hosts
	boot vm1 host1
	in_host host2 ip link set vmbr0 name vmbr9
	refused "vmbr0" vm1 host2
	in_host host2 ip link set vmbr9 name vmbr0
	assert_only_at vm1 host1
}

test_memory_short() {
	the_hosts
	boot vm1 host1 mem=8000000 off=1
	# A VM that is shut off may go there, but could not be started.
	assert_says 0 "memory-short" vmferry_at host1 plan vm1 host2 --offline --json
}

test_job_already_running() {
	the_hosts
	boot vm1 host1
	guest ask vm1 "load random 20000 100"
	lab rate host1 50
	move_in_background vm1 host2
	eventually 30 "the first migration starts" under_way vm1 host1
	vmferry_at host1 migrate vm1 host2 && fail "a second migration was let in"
	grep -iE "already|another migration|job" "$WORK/out"
	vmferry_at host1 cancel vm1
	moved && fail "was cancelled, yet succeeded"
	lab rate host1 off
	assert_only_at vm1 host1
	assert_same_guest vm1
}

test_agent_down() {
	the_hosts
	boot vm1 host1
	lab agent stop host2
	assert_says 4 "host2" move vm1 host2
	assert_only_at vm1 host1
	lab agent start host2
}

test_libvirtd_down_at_target() {
	the_hosts
	boot vm1 host1
	lab stop-libvirtd host2
	move vm1 host2 && fail "worked"
	grep -i libvirt "$WORK/out"
	lab start-libvirtd host2
	assert_only_at vm1 host1
	move vm1 host2
	assert_only_at vm1 host2
}

test_role_missing() {
	the_hosts
	boot vm1 host1
	in_host host2 sed -i 's/"migrate-in", //' /etc/vmferry/vmferryd.conf
	lab agent reload host2
	move vm1 host2 && fail "worked"
	grep -iE "role|may not|allow|migrate-in" "$WORK/out"
	in_host host2 sed -i 's/\[ "operate"/[ "migrate-in", "operate"/' /etc/vmferry/vmferryd.conf
	lab agent reload host2
	assert_only_at vm1 host1
	move vm1 host2
	assert_only_at vm1 host2
}

test_target_disk_full() {
	the_hosts
	boot vm1 host1 disk=1G data=60
	in_host host2 mount -t tmpfs -o size=20m tmpfs /var/lib/libvirt/images
	refused "space|free" vm1 host2 --copy-storage
	in_host host2 umount /var/lib/libvirt/images
	assert_only_at vm1 host1
}
