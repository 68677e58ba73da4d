# Migrations that go well, of every kind.
# shellcheck shell=bash

test_memory() { # on storage that both hosts see, there and back
	the_hosts
	boot vm1 host1 disk=200M shared=1
	busy vm1 0
	move vm1 host2
	assert_only_at vm1 host2
	assert_same_guest vm1
	move vm1 host1
	assert_only_at vm1 host1
	assert_same_guest vm1
}

test_no_disk() { # and it starts with its host, wherever that is
	the_hosts
	boot vm1 host1
	busy vm1
	in_host host1 virsh -q autostart vm1
	move vm1 host2
	assert_only_at vm1 host2
	in_host host2 virsh -q dominfo vm1 | grep '^Autostart: *enable'
	assert_same_guest vm1
}

test_disk() { # the disk goes with it; the target has no image
	the_hosts
	boot vm1 host1 disk=1G data=60
	busy vm1 60
	move vm1 host2 --copy-storage
	assert_only_at vm1 host2
	assert_same_guest vm1
	[ "$(in_host host2 qemu-img info -U --output=json /var/lib/libvirt/images/vm1.qcow2 | grep -c '"format": "qcow2"')" -ge 1 ]
	in_host host2 qemu-img info -U /var/lib/libvirt/images/vm1.qcow2 | grep '^virtual size: 1 GiB'
}

test_disk_raw() {
	the_hosts
	boot vm1 host1 disk=300M data=20 format=raw
	busy vm1 20
	move vm1 host2 --copy-storage
	assert_only_at vm1 host2
	assert_same_guest vm1
}

test_holes_stay_holes() { # a disk that is mostly empty stays small
	the_hosts
	boot vm1 host1 disk=4G data=20
	move vm1 host2 --copy-storage
	local kb
	kb=$(in_host host2 du -k /var/lib/libvirt/images/vm1.qcow2 | cut -f1)
	[ "$kb" -lt 60000 ] || fail "the copy takes $kb KiB"
}

test_paused() {
	the_hosts
	boot vm1 host1
	busy vm1
	in_host host1 virsh -q suspend vm1
	move vm1 host2
	assert_only_at vm1 host2 "paused persistent"
	in_host host2 virsh -q resume vm1
	assert_same_guest vm1
}

test_offline() {
	the_hosts
	boot vm1 host1 disk=300M data=20 off=1
	assert_says 3 "shut off" move vm1 host2
	move vm1 host2 --offline --copy-storage
	assert_only_at vm1 host2 "shut off persistent"
	in_host host2 qemu-img check -q /var/lib/libvirt/images/vm1.qcow2
	in_host host2 virsh -q start vm1
	guest wait vm1 60
}

test_offline_interrupted() { # it is started by somebody meanwhile; the agent dies
	local point mover
	the_hosts
	for point in offline.copied offline.forget offline.defined; do
		boot vm1 host1 disk=100M data=10 off=1
		agent_with_fault host1 "$point=kill"
		! move vm1 host2 --offline --copy-storage || fail "moved without an agent"
		lab agent start host1
		[ "$(where vm1 | head -1)" = "host1 shut off persistent" ] || fail "after $point=kill it is: $(where vm1)"
		[ $point != offline.copied ] || eventually 20 "host2 keeps a part of it" in_host host2 sh -c "! ls /var/lib/libvirt/images/vm1.*"
		guest remove vm1

		agent_with_fault host1 "$point=delay:4000"
		boot vm1 host1 off=1
		assert_says 3 "was started here" move vm1 host2 --offline &
		mover=$!
		eventually 30 "the move does not come to $point" logged host1 "fault_injected point=$point"
		in_host host1 virsh -q start vm1
		wait $mover
		[ $point = offline.copied ] || grep -q "undefine it at host2" "$WORK/out" || fail "it does not say what to do"
		[ "$(where vm1 | head -1)" = "host1 running persistent" ] || fail "it is: $(where vm1)"
		guest remove vm1
	done
}

test_firmware() { # UEFI variables and TPM state are in QEMU's stream
	local nvram=/var/lib/libvirt/qemu/nvram/vm1_VARS.fd
	the_hosts
	boot vm1 host1 uefi=1 tpm=1 off=1
	in_host host1 virsh -q start vm1
	eventually 60 "the firmware did not write its variables" in_host host1 sh -c "! cmp -s $nvram /usr/share/OVMF/OVMF_VARS_4M.fd"
	in_host host1 virsh -q suspend vm1
	move vm1 host2
	assert_only_at vm1 host2 "paused persistent"
	in_host host2 virsh -q resume vm1 # when QEMU writes the file
	eventually 20 "the variables are those of a new VM" in_host host2 sh -c "! cmp -s $nvram /usr/share/OVMF/OVMF_VARS_4M.fd"
	in_host host2 sh -c 'test -s /var/lib/libvirt/swtpm/*/tpm2/tpm2-00.permall' || fail "no TPM state at host2"
	in_host host2 virsh -q destroy vm1
}

test_offline_firmware() { # UEFI variables and the TPM's keys are the VM as much as its disk
	local nvram=/var/lib/libvirt/qemu/nvram/vm1_VARS.fd tpm
	the_hosts
	boot vm1 host1 uefi=1 tpm=1 off=1
	in_host host1 virsh -q start vm1 # which makes both
	in_host host1 virsh -q destroy vm1
	tpm=$(in_host host1 find /var/lib/libvirt/swtpm -name tpm2-00.permall)
	in_host host1 sh -c "printf changed | dd of=$nvram bs=1 seek=4096 conv=notrunc status=none"
	in_host host1 sha256sum "$nvram" "$tpm" >"$WORK/before"
	# The file of another VM there, which its definition names, is not replaced.
	guest define vm1 uefi=1 | sed -e 's|<name>vm1<|<name>other<|' -e "s|<mac address='[^']*'/>||" >"$WORK/other.xml"
	in_host host2 virsh -q define "$WORK/other.xml"
	assert_says 3 "is of VM other here" move vm1 host2 --offline
	assert_only_at vm1 host1 "shut off persistent"
	in_host host1 sha256sum -c --quiet - <"$WORK/before" || fail "a move that was refused has taken something"
	in_host host2 virsh -q undefine other --nvram
	move vm1 host2 --offline
	assert_only_at vm1 host2 "shut off persistent"
	in_host host2 sha256sum -c --quiet - <"$WORK/before" || fail "what arrived is not what was there"
	! in_host host1 ls "$nvram" "$tpm" 2>/dev/null || fail "they are left at host1"
	in_host host2 virsh -q start vm1 # swtpm may read its state
	in_host host2 virsh -q destroy vm1
}

test_asked_before() { # what its QEMUs can do takes libvirt a second or two to find out: not while a migration waits for it
	local caps=/var/cache/libvirt/qemu/capabilities
	the_hosts
	lab agent stop host1
	in_host host1 sh -c "rm -f $caps/*.xml"
	lab restart host1
	lab agent start host1
	eventually 30 "nobody has asked after the agent's start" in_host host1 sh -c "ls $caps/*.xml"
	lab stop-libvirtd host1
	in_host host1 sh -c "rm $caps/*.xml"
	lab start-libvirtd host1
	eventually 30 "nobody has asked after libvirt came back" in_host host1 sh -c "ls $caps/*.xml"
}

test_transient() { # stays transient, and is gone from the source
	the_hosts
	boot vm1 host1 transient=1
	busy vm1
	move vm1 host2
	assert_only_at vm1 host2 running
	assert_same_guest vm1
}

test_two_processors() {
	the_hosts
	boot vm1 host1 vcpus=2
	busy vm1
	move vm1 host2
	assert_only_at vm1 host2
	assert_same_guest vm1
}

test_two_at_once() {
	the_hosts
	boot vm1 host1
	boot vm2 host1
	busy vm1
	busy vm2
	move_in_background vm1 host2
	vmferry_at host1 migrate vm2 host2
	moved
	assert_only_at vm1 host2
	assert_only_at vm2 host2
	assert_same_guest vm1
	assert_same_guest vm2
}

test_unprivileged_qemu() {
	export LAB_QEMU_USER=libvirt-qemu
	lab purge
	the_hosts
	boot vm1 host1 disk=300M data=20
	busy vm1 20
	move vm1 host2 --copy-storage
	assert_only_at vm1 host2
	assert_same_guest vm1
	[ "$(in_host host2 ps -o user= -C qemu-system-x86 | head -1)" != root ] || fail "QEMU runs as root"
	lab purge
}

test_qemu_channels() { # multifd
	the_hosts
	boot vm1 host1
	busy vm1
	move vm1 host2 --qemu-channels 3
	assert_only_at vm1 host2
	assert_same_guest vm1
}

test_postcopy() { # writes faster than the link carries
	the_hosts
	boot vm1 host1
	guest ask vm1 "load random 20000 100"
	lab rate host1 200
	move vm1 host2 --on-stall postcopy --deadline 8s
	lab rate host1 off
	assert_only_at vm1 host2
	assert_same_guest vm1
}

test_bandwidth() { # holds within 5 %
	the_hosts
	boot vm1 host1
	guest ask vm1 "load random 10 60"
	local before after began took
	before=$(lab sent host1)
	began=$(date +%s%N)
	move vm1 host2 --bandwidth 100M
	took=$((($(date +%s%N) - began) / 1000000))
	after=$(lab sent host1)
	note "$((after - before)) bytes in $took ms"
	[ $(((after - before) * 8 / took)) -le 105000 ] || fail "more than 105 Mbit/s: $(((after - before) * 8 / took)) kbit/s"
	assert_only_at vm1 host2
}

test_boot_sector_kvm() { # under whatever KVM there is; the guest checks its pages itself
	[ -w /dev/kvm ] || skip "no /dev/kvm"
	the_hosts
	guest start host1 vm1 sector=3000 mem=128
	eventually 30 "the boot sector writes" eval 'guest console vm1 | grep -aq "+.*[.]"'
	move vm1 host2
	assert_only_at vm1 host2
	local before
	before=$(guest console vm1 | wc -c)
	eventually 30 "the boot sector goes on" eval '[ $(guest console vm1 | wc -c) -gt $((before + 1)) ]'
	[ "$(guest console vm1 | tr -dc '.X+' | sed 's/^[^+]*//' | tr -dc X | wc -c)" = 0 ] || fail "pages differ"
}
