# A VM that is protected, with agents, links and daemons that come and go: its points keep coming, nothing is copied twice, and the guest runs on. Then it is
# handed over, and nothing is lost. The guest is the boot sector under KVM: its memory counts.
# shellcheck shell=bash
# limit goes_on_after_whatever 240
# limit handed_over 240
# limit taken_over_and_fenced 300
# limit agent_dies_in_failover 240
# limit record_that_was_not_written 240
# limit agent_dies_after_failover 240
# limit agent_dies_handed_over 240

protected_guest() { # [OPTION...]: of protect; $OTHERS: hosts besides
	[ -w /dev/kvm ] || skip "no /dev/kvm: COLO deadlocks QEMU without KVM"
	the_hosts host1:stock host2:stock ${OTHERS:-}
	guest start host1 vm1 mem=256 sector=1000 spin=1000
	in_host host1 vmferry protect vm1 --to host2 --rpo 1s "$@" >"$WORK/protect" 2>&1 || fail "protect: $(cat "$WORK/protect")"
	eventually 30 "the VM is protected" is_state_or_late
}

status_value() { # KEY [HOST]
	in_host "${2:-host1}" vmferry status vm1 --json | sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\).*/\1/p" | head -1
}

is_state() { [ "$(status_value state)" = "$1" ]; }

points_since() { # N: more than N points have been committed
	[ "$(status_value points)" -gt "$1" ]
}

goes_on() { # SECONDS WHAT
	eventually "$1" "$2: protected again" is_state protected
	local n
	n=$(status_value points)
	eventually 15 "$2: points go on" points_since $((n + 2))
	in_host host1 virsh -q list | grep -q 'vm1 *running' || fail "$2: the guest does not run"
}

counter() { # HOST
	in_host "$1" virsh -q qemu-monitor-command vm1 --hmp 'xp /1xw 0x100000'
}

counts_on() { # HOST COUNTER
	[ "$(counter "$1")" != "$2" ]
}

test_goes_on_after_whatever() {
	protected_guest
	goes_on 10 "at first"
	note "pause p99 $(status_value pause_p99_ms) ms, commit $(status_value commit_ms) ms, interval $(status_value interval_ms) ms"
	lab agent restart host2
	goes_on 20 "the target's agent restarted"
	lab agent kill host1
	in_host host1 virsh -q list | grep -q 'vm1 *running' || fail "the guest stopped with the agent"
	lab agent start host1
	goes_on 20 "the source's agent killed"
	lab cut host2
	eventually 20 "a lost link is said" is_state degraded
	sleep 1
	[ "$(status_value rpo_ms)" -gt 1000 ] || fail "the RPO shown is not the measured one"
	lab restore host2
	goes_on 30 "the link was cut"
	lab restart host1
	goes_on 30 "libvirtd restarted"
	# Counters: a thousand pages, a few bytes each. All of it was compared several times over, and next to nothing travelled.
	local wire dirty
	wire=$(status_value wire_bytes)
	dirty=$(status_value dirty_bytes)
	note "$dirty bytes dirtied, $wire sent"
	[ $((wire * 50)) -lt "$dirty" ] || fail "$wire bytes sent for $dirty"
	in_host host2 vmferry verify vm1
	in_host host1 vmferry unprotect vm1
}

# QEMU leaves the memory of a VM whose background snapshot broke protected for good: the guest would stand still at the next page that it writes.
test_background_broken_off() {
	protected_guest --mode background
	local i was
	for i in 1 2 3; do
		vmferry_at host1 pause vm1
		was=$(counter host1)
		eventually 10 "it counts on when it was paused" counts_on host1 "$was"
		vmferry_at host1 resume vm1
		eventually 30 "paused, resumed: protected again" is_state_or_late
		sleep "0.$((i * 3))" # in the midst of one, or between two
		lab agent kill host1
		eventually 20 "no snapshot is under way" no_snapshot
		was=$(counter host1)
		eventually 10 "it counts on when the agent was killed" counts_on host1 "$was"
		lab agent start host1
		eventually 30 "the agent started: protected again" is_state_or_late
	done
}

no_snapshot() {
	! in_host host1 virsh -q qemu-monitor-command vm1 '{"execute":"query-migrate"}' | grep -qE '"status":"(setup|active|device)"'
}

# Where all memory is read each time a busy machine holds no RPO.
is_state_or_late() {
	is_state protected || is_state degraded
}

# COLO needs KVM, background snapshots userfaultfd, which Debian gives to root alone: what is left are the disks, and it is said why.
test_disks_alone() {
	[ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] || skip "everyone may use userfaultfd here"
	export LAB_QEMU_USER=libvirt-qemu
	lab purge
	the_hosts
	boot vm1 host1 disk=100M data=10 accel=tcg
	busy vm1 10
	vmferry_at host1 protect vm1 --to host2 --rpo 5s
	eventually 30 "the VM is protected" is_state protected
	[ "$(status_value capture)" = disk ] || fail "captured by $(status_value capture)"
	[[ $(status_value capture_reason) = "disks alone: "*"vm.unprivileged_userfaultfd=1"* ]] || fail "$(status_value capture_reason)"
	in_host host1 vmferry events | grep -q "protection.capture .*capture=disk .*reason=disks alone: " || fail "no event says so: $(in_host host1 vmferry events)"
	vmferry_at host1 verify vm1
	lab purge
}

# The VM has moved on, and its host is lost: nobody starts it a second time from what it was.
test_moved_to_a_third() {
	OTHERS=host3:stock protected_guest
	vmferry_at host1 drain --to host3
	grep -q 'vm1: warning: its protection to host2 has stayed behind' "$WORK/out" || fail "nobody says that its protection ends"
	lab kill host1
	assert_says 3 'vm1 is on host3 .running.: it would run twice' vmferry_at host2 failover vm1 --force --yes
	in_host host3 virsh -q list | grep -q 'vm1 *running' || fail "it does not run at host3"
	! in_host host2 virsh -q list | grep vm1 || fail "it runs twice"
}

test_handed_over() {
	protected_guest
	in_host host2 vmferry failover vm1
	local a b
	a=$(counter host1)
	b=$(counter host2)
	eventually 20 "the guest counts at its new host" counts_on host2 "$b"
	[ "$(counter host1)" = "$a" ] || fail "the guest still runs at its old host"
	is_state fenced || fail "the source is $(status_value state)"
	# Over a restart of its agent, too.
	lab agent restart host1
	eventually 10 "it stays fenced" is_state fenced
	[ "$(counter host1)" = "$a" ] || fail "a restart let the old guest run"
}

autostart_is() { # VALUE, at host1
	local info
	info=$(in_host host1 virsh dominfo vm1)
	[[ $info =~ Autostart:\ *$1 ]]
}

test_taken_over_and_fenced() {
	protected_guest
	in_host host1 virsh -q autostart vm1
	eventually 30 "whether it starts with its host is the agent's to decide" autostart_is disable
	goes_on 10 "at first"
	lab cut host1
	in_host host2 vmferry failover vm1 --force
	in_host host2 virsh -q list | grep -q 'vm1 *running' || fail "the guest does not run at its new host"
	lab restore host1
	eventually 60 "the source that is back is fenced" is_state fenced
	in_host host1 virsh -q list | grep -q 'vm1 *paused' || fail "the old guest still runs"
	in_host host1 virsh -q autostart vm1
	eventually 10 "the host does not start it any more, whoever says so" autostart_is disable
	in_host host2 virsh -q list | grep -q 'vm1 *running' || fail "the new guest does not run any more"
}

record_is() { # STATE...: one of them, in the replica's record at host2
	local seen
	seen=$(in_host host2 sh -c 'cat /var/lib/vmferry/replicas/*/replica.json' | sed -n 's/^ *"state": "\([a-z]*\)".*/\1/p')
	[[ " $* " == *" $seen "* ]]
}

has_booted() { # HOST
	! counter "$1" | grep -q ' 0x00000000'
}

dies_in_failover() { # POINT: host2's agent, and its VM's source is gone
	protected_guest
	eventually 90 "the guest counts" has_booted host1
	agent_with_fault host2 "$1=kill"
	goes_on 20 "the target's agent restarted"
	lab cut host1
	in_host host2 vmferry failover vm1 --force && fail "the agent should have died"
	record_is promoting || fail "it died before the epoch was raised"
	# Nobody asks for anything: the agent that starts settles it.
	lab agent start host2
	eventually 20 "the promotion is settled at start" record_is replica promoted
}

runs_on_host2() {
	record_is promoted || fail "it is not recorded as promoted"
	local b
	b=$(counter host2)
	eventually 20 "the guest counts at its new host" counts_on host2 "$b"
}

test_agent_dies_in_failover() {
	dies_in_failover failover.start
	record_is replica || fail "nothing was started, and it is not a replica"
	in_host host2 virsh -q list --all | grep -q vm1 && fail "recorded as a replica, and something of it is there"
	in_host host2 vmferry failover vm1 --force
	runs_on_host2
}

test_agent_dies_after_failover() {
	dies_in_failover failover.done
	runs_on_host2
	in_host host2 virsh -q list --all --persistent | grep -q vm1 || fail "it would not outlive a restart of its host"
}

handover_is_open() { # the replica's record says that the source was asked
	in_host host2 sh -c 'cat /var/lib/vmferry/replicas/*/replica.json' | grep -q '"handover": {'
}

# The source has given the VM up, and the agent that asked for it dies before it has raised the epoch: the guest stands still everywhere. The agent that
# starts goes on, unasked.
test_agent_dies_handed_over() {
	protected_guest
	eventually 90 "the guest counts" has_booted host1
	agent_with_fault host2 "failover.handed=kill"
	goes_on 20 "the target's agent restarted"
	in_host host2 vmferry failover vm1 && fail "the agent should have died"
	record_is replica || fail "it died after the epoch was raised"
	handover_is_open || fail "it is not written down that the source was asked"
	is_state fenced || fail "the source is $(status_value state)"
	local a
	a=$(counter host1)
	lab agent start host2
	eventually 60 "it goes on by itself" record_is promoted
	handover_is_open && fail "it is still said that the source was asked"
	runs_on_host2
	[ "$(counter host1)" = "$a" ] || fail "the guest runs at both hosts"
}

# That the VM runs could not be written down: the agent goes on trying, and until then nothing is done by half.
test_record_that_was_not_written() {
	protected_guest
	agent_with_fault host2 failover.done=fail
	goes_on 20 "the target's agent restarted"
	lab cut host1
	in_host host2 vmferry failover vm1 --force
	record_is promoting || fail "the fault had no effect"
	vmferry_at host2 failback vm1 && fail "failback of what is not settled"
	grep -q "not settled yet" "$WORK/out" || fail "no word of why"
	eventually 20 "it is settled without a restart" record_is promoted
	runs_on_host2
}
