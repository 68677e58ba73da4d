# The Debian package.
# shellcheck shell=bash

# limit debian 600
# limit unit 240
test_debian() { # package.sh says each step
	"$here/package.sh"
}

failed_over() { # HOST NAME: runs there, on an image over the replica's
	[ "$(in_host "$1" virsh -q domstate "$2")" = running ]
}

# Agents with what the systemd unit leaves them, and QEMU as another user: what a host has that installs the package.
test_unit() {
	export LAB_QEMU_USER=libvirt-qemu LAB_AGENT_UNIT=$WORK/vmferryd.service
	local host
	sed "s|@sbindir@|/usr/sbin|" "$TOOLS/packaging/vmferryd.service.in" >"$LAB_AGENT_UNIT"
	lab purge
	the_hosts
	boot vm1 host1 disk=300M data=20
	for host in host1 host2; do vmferry_at $host check; done
	move vm1 host2 --copy-storage
	assert_only_at vm1 host2
	assert_same_guest vm1
	in_host host1 rm -f /var/lib/libvirt/images/vm1.qcow2
	boot vm2 host1 uefi=1 tpm=1 off=1
	in_host host1 virsh -q start vm2 # which makes its files
	in_host host1 virsh -q destroy vm2
	move vm2 host2 --offline
	in_host host2 virsh -q start vm2 # and may read them there
	in_host host2 virsh -q destroy vm2
	vmferry_at host2 protect vm1 --to host1 --rpo 2s --mode disk --wait
	lab kill host2
	vmferry_at host1 failover vm1 --yes
	failed_over host1 vm1 || fail "it does not run at host1"
	guest wait vm1 60
	lab agent restart host1
	failed_over host1 vm1 || fail "it does not run at host1 after a restart of the agent"
	lab purge
}
