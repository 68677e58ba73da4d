# Migrations that end early, whoever ends them. Afterwards the VM runs on one host, and moves when asked again.
# shellcheck shell=bash

# A guest that cannot finish moving before we have done to it what we want.
slow_move() { # NAME [OPTION...]
	the_hosts
	boot "$1" host1 disk=200M data=20
	busy "$1" 20
	guest ask "$1" "load random 20000 100"
	lab rate host1 100
	move_in_background "$1" host2 --copy-storage
	eventually 40 "memory is copied" under_way "$1" host1
}

moves_afterwards() { # NAME
	lab rate host1 off
	lab rate host2 off
	guest ask "$1" "load idle" >/dev/null
	move "$1" "$([ "$(host_of "$1")" = host1 ] && echo host2 || echo host1)" --copy-storage
	assert_runs_once "$1"
	assert_same_guest "$1"
}

test_cancel() {
	slow_move vm1
	vmferry_at host1 cancel vm1
	local rc=0
	moved || rc=$?
	[ $rc = 5 ] || fail "status $rc, not 5"
	assert_only_at vm1 host1
	assert_same_guest vm1
	assert_tidy
	in_host host2 test ! -e /var/lib/libvirt/images/vm1.qcow2 || fail "the image at the target is still there"
	moves_afterwards vm1
}

# What it has taken fills every socket; QEMU's own cancelling would wait for it for ever.
test_cancel_while_target_qemu_stands_still() {
	the_hosts
	boot vm1 host1
	guest ask vm1 "load random 20000 100"
	lab rate host1 100
	move_in_background vm1 host2 --qemu-channels 2
	eventually 40 "memory is copied" under_way vm1 host1
	in_host host2 sh -c 'kill -STOP $(pgrep qemu-system)'
	sleep 2 # of what is on its way some may go on; what is asserted holds whether it did or not
	vmferry_at host1 cancel vm1
	local rc=0
	moved || rc=$?
	[ $rc = 5 ] || fail "status $rc, not 5"
	assert_only_at vm1 host1
	assert_same_guest vm1
	assert_tidy
	moves_afterwards vm1
}

test_interrupted_by_ctrl_c() {
	slow_move vm1
	in_host host1 sh -c 'kill -INT $(pgrep -x vmferry)'
	moved && fail "succeeded"
	assert_only_at vm1 host1
	assert_same_guest vm1
	assert_tidy
	moves_afterwards vm1
}

test_command_killed() { # a command that dies cancels its migration
	slow_move vm1
	in_host host1 sh -c 'kill -KILL $(pgrep -x vmferry)'
	moved && fail "succeeded"
	eventually 15 "the migration ends" eval '! under_way vm1 host1'
	assert_tidy
	assert_only_at vm1 host1
	assert_same_guest vm1
	moves_afterwards vm1
}

test_source_agent_killed() {
	slow_move vm1
	lab agent kill host1
	moved && fail "succeeded"
	assert_runs_once vm1
	lab agent start host1
	assert_tidy
	assert_only_at vm1 host1
	assert_same_guest vm1
	moves_afterwards vm1
}

test_target_agent_killed() {
	slow_move vm1
	lab agent kill host2
	moved && fail "succeeded"
	assert_only_at vm1 host1
	lab agent start host2
	assert_tidy
	assert_same_guest vm1
	moves_afterwards vm1
}

# Stopped, not dead: its connections stay open, and nothing answers.
agent_stands_still() { # HOST
	slow_move vm1
	lab agent freeze "$1"
	moved && fail "succeeded"
	# What a frozen target holds of it stands still too, until the agent has ended.
	assert_runs_once vm1
	[ "$(host_of vm1)" = host1 ] || fail "vm1 runs on $(host_of vm1)"
	lab agent kill "$1"
	lab agent start "$1"
	assert_tidy
	assert_only_at vm1 host1
	assert_same_guest vm1
	moves_afterwards vm1
}

test_source_agent_stands_still() {
	agent_stands_still host1
}

test_target_agent_stands_still() {
	agent_stands_still host2
}

test_link_cut() { # silently: found by our own keepalive within 5 s, and a little for the ending
	slow_move vm1
	local began=$SECONDS
	lab cut host2
	moved && fail "succeeded"
	note "$((SECONDS - began)) s"
	[ $((SECONDS - began)) -le 9 ] || fail "took $((SECONDS - began)) s to find out"
	assert_only_at_reachable vm1
	lab restore host2
	assert_tidy
	assert_only_at vm1 host1
	assert_same_guest vm1
	moves_afterwards vm1
}

assert_only_at_reachable() {
	[ "$(in_host host1 virsh -q domstate "$1")" = running ] || fail "$1 does not run at host1"
}

test_power_failure_of_target() {
	slow_move vm1
	lab kill host2
	moved && fail "succeeded"
	assert_only_at_reachable vm1
	lab up host2
	lab agent start host2
	assert_tidy
	assert_only_at vm1 host1
	assert_same_guest vm1
	moves_afterwards vm1
}

test_source_libvirtd_restarted() {
	slow_move vm1
	lab restart host1
	moved && note "it went through all the same"
	eventually 20 "one VM runs" runs_once vm1
	assert_tidy
	assert_same_guest vm1
	moves_afterwards vm1
}

test_target_libvirtd_restarted() {
	slow_move vm1
	lab restart host2
	moved && note "it went through all the same"
	eventually 20 "one VM runs" runs_once vm1
	assert_tidy
	assert_same_guest vm1
	moves_afterwards vm1
}

test_cannot_converge() { # said, with numbers, and the VM stays
	the_hosts
	boot vm1 host1
	guest ask vm1 "load random 30000 100"
	lab rate host1 50
	assert_says 6 "converge|faster|deadline" move vm1 host2 --deadline 10s --on-stall abort --no-auto-converge
	lab rate host1 off
	assert_only_at vm1 host1
	assert_same_guest vm1
}

test_stall_pause() {
	the_hosts
	boot vm1 host1
	guest ask vm1 "load random 30000 60"
	lab rate host1 200
	move vm1 host2 --deadline 6s --on-stall pause --no-auto-converge
	lab rate host1 off
	assert_only_at vm1 host2
	assert_same_guest vm1
}
