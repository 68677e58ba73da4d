# Hosts that boot, with VMs that start with them: a VM that has gone on elsewhere is not started, not for a moment; one that has not, is. What counts is how often
# QEMU was started, as libvirt's log of the VM says. The guest is the boot sector under KVM.
# shellcheck shell=bash
# long boots_while_promoted
# limit boots_while_promoted 240
# limit hook 180

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

# libvirt asks its hook, and does not start it: not even for a moment, whoever asks it to.
must_not_start() { # REGEX VIRSH-ARG...
	local why=$1 n
	shift
	n=$(starts host1)
	in_host host1 virsh -q "$@" 2>"$WORK/refused" && fail "libvirt has started it: virsh $*"
	grep -qE "$why" "$WORK/refused" || fail "another reason: $(cat "$WORK/refused")"
	[ "$(starts host1)" = "$n" ] || fail "QEMU was started all the same: virsh $*"
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
	# As libvirt-guests does with ON_BOOT=start: the agent comes later, and its record is the one of before.
	must_not_start "nobody has asked host2 since this host booted" start vm1
	lab agent start host1
	eventually 40 "the old host knows" is_state fenced
	[ "$(starts host1)" = "$n" ] || fail "the host has started it when it booted"
	runs_at host1 && fail "it runs twice"
	note "somebody starts it all the same"
	must_not_start "VM vm1 was taken over by host2" start vm1
	lab agent stop host1
	must_not_start "VM vm1 was taken over by host2" start vm1
	lab agent start host1
	runs_at host2 || fail "it does not run at host2 any more"
	in_host host1 virsh managedsave-remove vm1
}

check_says() { # STATUS REGEX
	in_host host1 vmferry check --json | python3 -c '
import json, re, sys
sys.exit(not any(c["name"] == "hook" and c["status"] == sys.argv[1] and re.search(sys.argv[2], c["text"]) for c in json.load(sys.stdin)["checks"]))' "$@"
}

# What was handed over starts nowhere but where it is, in whichever way; without the hook it is paused again.
test_hook() {
	local hook=/etc/libvirt/hooks/qemu.d/vmferry xml=/run/vm1.xml
	guest_with_autostart
	check_says ok "libvirt asks" || fail "check: $(in_host host1 vmferry check)"
	in_host host1 sh -c "virsh -q dumpxml --inactive vm1 >$xml"
	in_host host2 vmferry failover vm1
	paused_at host1 || fail "the old VM is not kept at host1"
	in_host host1 virsh -q destroy vm1
	must_not_start "VM vm1 was handed over to host2.*vmferry failback vm1" start vm1
	must_not_start "was handed over" start vm1 --paused
	must_not_start "was handed over" create $xml
	# Nor does it come in from elsewhere, where nobody has asked.
	in_host host1 virsh -q undefine vm1
	in_host host2 virsh -q migrate --live --unsafe vm1 "qemu+tcp://$(lab address host1)/system" 2>"$WORK/refused" && fail "it was migrated to a host whose record says that it is away"
	grep -q "was handed over" "$WORK/refused" || fail "another reason: $(cat "$WORK/refused")"
	eventually 10 "it does not run at host2 any more" runs_at host2
	in_host host1 virsh -q define $xml
	# Another VM of that host is none of its business.
	guest start host1 vm2 mem=32 sector=10 spin=1000

	note "a record that nobody can read"
	lab agent stop host1
	local record
	record=$(in_host host1 sh -c 'ls /var/lib/vmferry/protections/*.json')
	in_host host1 sh -c "cp $record /run/record; echo '{' >$record"
	must_not_start "cannot be told" start vm1
	in_host host1 cp /run/record "$record"
	lab agent start host1

	note "a configuration that nobody can read, and records elsewhere"
	local conf=/etc/vmferry/vmferryd.conf
	in_host host1 sh -c "cp $conf /run/conf; cat /var/lib/vmferry/folders.json" | grep -q /var/lib/vmferry/replicas ||
		fail "the agent has not noted where its records are"
	lab agent stop host1
	in_host host1 sh -c "mkdir /run/elsewhere && cp -r /var/lib/vmferry/protections /run/elsewhere && mv /var/lib/vmferry/protections /run/protections
		echo '{\"state_dir\":\"/run/elsewhere\",\"replica_dir\":\"/run/elsewhere/replicas\"}' >/var/lib/vmferry/folders.json"
	must_not_start "was handed over" start vm1
	in_host host1 sh -c "echo 'name = ;' >>$conf"
	must_not_start "was handed over" start vm1
	in_host host1 rm /var/lib/vmferry/folders.json
	must_not_start "cannot be told, and so not whether VM vm1 .*vmferryd --check-config" start vm1
	in_host host1 sh -c "mv /run/conf $conf && rm -r /run/elsewhere && mv /run/protections /var/lib/vmferry/protections"
	lab agent start host1

	note "without a hook"
	in_host host1 mv $hook /run/hook
	check_says warn "libvirt starts VMs that have gone on elsewhere" || fail "check: $(in_host host1 vmferry check)"
	in_host host1 virsh -q start vm1
	eventually 10 "it is paused again" paused_at host1
	runs_at host2 || fail "it does not run at host2 any more"
	in_host host1 virsh -q destroy vm1
	in_host host1 sh -c "echo '#!/bin/sh' >$hook && chmod 644 $hook"
	check_says warn "not executable" || fail "check: $(in_host host1 vmferry check)"
	in_host host1 mv -T /run/hook $hook
	must_not_start "was handed over" start vm1

	note "given up"
	in_host host1 vmferry unprotect vm1 --yes
	in_host host2 virsh -q destroy vm1
	in_host host1 virsh -q define $xml
	in_host host1 virsh -q start vm1
	runs_at host1 || fail "it cannot be started after its protection was ended"
}
