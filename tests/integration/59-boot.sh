# Hosts that boot, with VMs that start with them: a VM that has gone on elsewhere is not started, not for a moment; one that has not, is. What counts is how often
# QEMU was started, as libvirt's log of the VM says. The guest is the boot sector under KVM.
# shellcheck shell=bash
# long boots_while_promoted
# limit boots_while_promoted 240

guest_with_autostart() {
	[ -w /dev/kvm ] || skip "no /dev/kvm: the boot sector is for KVM"
	the_hosts host1:stock host2:stock
	guest start host1 vm1 mem=64 sector=100 spin=1000
	in_host host1 virsh -q autostart vm1
	in_host host1 vmferry protect vm1 --to host2 --rpo 1s >"$WORK/protect" 2>&1 || fail "protect: $(cat "$WORK/protect")"
	eventually 30 "the VM is protected" is_state protected
	eventually 20 "points say that it starts with its host" point_autostarts
	autostart_is host1 disable || fail "libvirt would start it before anybody knows whose it is"
}

is_state() { # STATE
	in_host host1 vmferry status vm1 --json | grep -q "\"state\": \"$1\""
}

point_autostarts() {
	in_host host1 vmferry points vm1 --json | grep -q '"autostart": true'
}

autostart_is() { # HOST VALUE
	local info
	info=$(in_host "$1" virsh dominfo vm1)
	[[ $info =~ Autostart:\ *$2 ]]
}

starts() { # HOST: how often QEMU was started for it there
	grep -c 'starting up libvirt' "$VMFERRY_LAB/$1/fs/var/log/libvirt/qemu/vm1.log"
}

runs_at() { # HOST
	in_host "$1" virsh -q list | grep -q 'vm1 *running'
}

paused_at() { # HOST
	in_host "$1" virsh -q list | grep -q 'vm1 *paused'
}

boot_host1() { # all but the agent
	lab up host1:stock host2:stock
	in_host host1 virsh -q list >/dev/null
}

test_boots_while_promoted() {
	local n
	guest_with_autostart

	note "a power failure, and nobody has taken it over"
	lab kill host1
	n=$(starts host1)
	boot_host1
	[ "$(starts host1)" = "$n" ] || fail "libvirt has started it before anybody knows whose it is"
	lab agent start host1
	eventually 30 "the agent starts it" runs_at host1
	[ "$(starts host1)" = $((n + 1)) ] || fail "QEMU was started $(($(starts host1) - n)) times"
	eventually 30 "it is protected again" is_state protected
	in_host host1 virsh -q shutdown vm1 --mode acpi 2>/dev/null || true
	in_host host1 virsh -q destroy vm1
	lab agent restart host1
	eventually 20 "it is known to be off" is_state waiting
	runs_at host1 && fail "an agent that was restarted has started a VM that was shut off"
	in_host host1 virsh -q start vm1
	eventually 30 "it is protected again" is_state protected

	note "it is saved, the power fails, and it goes on elsewhere"
	in_host host1 vmferry pause vm1 >/dev/null # its capture is a migration to QEMU: no other can be made
	in_host host1 virsh -q managedsave vm1
	lab kill host1
	n=$(starts host1)
	in_host host2 vmferry failover vm1 --force
	runs_at host2 || fail "it does not run at host2"
	autostart_is host2 enable || fail "it would not start with its new host"
	boot_host1
	lab agent start host1
	eventually 40 "the old host knows" is_state fenced
	[ "$(starts host1)" = "$n" ] || fail "the host has started it when it booted"
	runs_at host1 && fail "it runs twice"
	note "somebody starts it all the same"
	in_host host1 virsh -q start vm1 || true
	eventually 10 "it is paused again" paused_at host1
	runs_at host2 || fail "it does not run at host2 any more"
	in_host host1 virsh -q destroy vm1
	in_host host1 virsh managedsave-remove vm1
}
