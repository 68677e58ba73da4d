# QEMU and libvirt of different ages.
# shellcheck shell=bash

test_old() { # this machine's QEMU at both ends, the disk copied
	the_hosts host1:stock host2:stock
	boot vm1 host1 disk=300M data=20
	busy vm1 20
	move vm1 host2 --copy-storage
	assert_only_at vm1 host2
	assert_same_guest vm1
}

test_old_shared() { # there and back
	the_hosts host1:stock host2:stock
	boot vm1 host1 disk=200M shared=1
	busy vm1 0
	move vm1 host2
	assert_only_at vm1 host2
	move vm1 host1
	assert_only_at vm1 host1
	assert_same_guest vm1
}

test_old_new_old() { # QEMU 7.2 to 10.0 and back, the disk each time
	need_qemu10
	the_hosts host1:stock host2:qemu10
	boot vm1 host1 disk=300M data=20 machine=pc-q35-7.2
	busy vm1 20
	move vm1 host2 --copy-storage
	assert_only_at vm1 host2
	assert_same_guest vm1
	in_host host2 virsh -q qemu-monitor-command vm1 --hmp info version | grep '^10\.'
	in_host host1 rm -f /var/lib/libvirt/images/vm1.qcow2
	move vm1 host1 --copy-storage
	assert_only_at vm1 host1
	assert_same_guest vm1
}

test_new_machine_is_refused() {
	need_qemu10
	the_hosts host1:stock host2:qemu10
	boot vm1 host2 machine=pc-q35-10.0
	assert_says 3 "pc-q35-10.0" move vm1 host1
	assert_only_at vm1 host2
}

test_new_to_new() {
	need_qemu10
	the_hosts host1:qemu10 host2:qemu10
	boot vm1 host1 disk=300M data=20
	busy vm1 20
	move vm1 host2 --copy-storage
	assert_only_at vm1 host2
	assert_same_guest vm1
}
