# Every fault point of base/fault.h, on the side where it is passed: an error, and the agent's death. After each: exactly one
# running VM with the right content, nothing left behind, and the next migration succeeds.
# shellcheck shell=bash
#
# All of them are for --all; the others walk those between the first page and the word that the VM runs at the target.
# limit some_errors 300
# limit some_deaths 300
# long source_errors
# limit source_errors 600
# long target_errors
# limit target_errors 600
# long source_deaths
# limit source_deaths 600
# long target_deaths
# limit target_deaths 600

SOURCE_POINTS="preflight.gather preflight.judge begin.source channel.connect relay.open.source relay.read relay.write relay.encode
	channel.send channel.recv migrate.start migrate.switch finish.source migrate.done end.source"
TARGET_POINTS="begin.target images.target channel.accept channel.recv channel.send relay.open.target relay.read relay.write
	relay.decode finish.target finished.target end.target"
# Where the other side has to wait for the agent that died: answer_lost.
TARGET_DEATHS="begin.target images.target channel.accept channel.recv channel.send relay.open.target relay.read relay.write
	relay.decode end.target"

guest_for_a_walk() {
	the_hosts
	boot vm1 host1 disk=100M data=10
	busy vm1 10
}

# One VM for all; it may have moved or not, that is the point's affair.
fault_walk() { # HOST ACTION POINT...
	local side=$1 action=$2 point from to spec other
	shift 2
	for point in "$@"; do
		from=$(host_of vm1)
		to=$([ "$from" = host1 ] && echo host2 || echo host1)
		other=$([ "$side" = source ] && echo "$from" || echo "$to")
		spec="$point=$action"
		note "$spec at the $side, $other"
		in_host "$to" rm -f /var/lib/libvirt/images/vm1.qcow2
		agent_with_fault "$other" "$spec"
		move vm1 "$to" --copy-storage && note "went through all the same"
		[ "$action" != fail ] || logged "$other" "event=fault_injected point=$point( |\$)" ||
			fail "$point was not passed at the $side"
		lab agent restart "$other"
		eventually 20 "one VM runs after $spec at the $side: $(where vm1 | tr '\n' ';')" runs_once vm1
		assert_tidy
		assert_same_guest vm1
		[ "$(where vm1 | wc -l)" = 1 ] || fail "$spec: known at both hosts: $(where vm1 | tr '\n' ';')"
		from=$(host_of vm1)
		to=$([ "$from" = host1 ] && echo host2 || echo host1)
		in_host "$to" rm -f /var/lib/libvirt/images/vm1.qcow2
		move vm1 "$to" --copy-storage || fail "the next migration after $spec at the $side"
		assert_only_at vm1 "$to"
	done
	assert_same_guest vm1
}

test_some_errors() {
	guest_for_a_walk
	fault_walk source fail relay.read channel.send migrate.switch finish.source
	fault_walk target fail relay.decode relay.write finish.target
}

test_some_deaths() {
	guest_for_a_walk
	fault_walk source kill relay.encode migrate.switch finish.source migrate.done
	fault_walk target kill channel.recv relay.write
}

test_source_errors() {
	guest_for_a_walk
	fault_walk source fail $SOURCE_POINTS
}

test_target_errors() {
	guest_for_a_walk
	fault_walk target fail $TARGET_POINTS
}

test_source_deaths() {
	guest_for_a_walk
	fault_walk source kill $SOURCE_POINTS
}

test_target_deaths() {
	guest_for_a_walk
	fault_walk target kill $TARGET_DEATHS
}

# The target's agent dies when it has been asked to start the VM: before libvirtd heard of it, and after the VM runs. The source must keep
# its copy paused, and may neither resume nor drop it, until the agent is back and says.
answer_lost() { # POINT HOST-WHERE-IT-ENDS
	the_hosts
	boot vm1 host1 disk=100M data=10 shared=1
	busy vm1 10
	agent_with_fault host2 "$1=kill"
	move_in_background vm1 host2
	eventually 60 "host1 does not see that the answer is lost" logged host1 "event=finish_unanswered"
	eventually 10 "host1 does not wait" eval '[ "$(in_host host1 virsh -q domstate vm1)" = paused ]'
	lab agent restart host2
	moved || note "did not move"
	eventually 20 "one VM runs: $(where vm1 | tr '\n' ';')" runs_once vm1
	assert_only_at vm1 "$2"
	assert_tidy
	assert_same_guest vm1
}

test_answer_lost_before_the_start() {
	answer_lost finish.target host1
}

test_answer_lost_after_the_start() {
	answer_lost finished.target host2
}
