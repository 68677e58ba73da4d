# Failback: a VM that was failed over goes home without loss, and everything works a second time; with real agents, stock libvirt and QEMU.
# shellcheck shell=bash

# long killed
# limit cycles 600
# limit lost 420
# limit killed 600
# limit given_up 300
# limit resumed 240

STATE=/var/lib/vmferry
IMAGES=/var/lib/libvirt/images

# Two hosts that know nothing, and a guest at work on host1, protected to host2.
protected_guest() {
	local host
	the_hosts
	for host in host1 host2; do
		lab agent stop $host
		in_host $host sh -c "rm -rf $STATE/protections $STATE/replicas $STATE/given-up-* $IMAGES/g1-*"
		lab agent start $host
	done
	boot g1 host1 disk=512M
	busy g1 20
	protect host1 host2
}

protect() { # FROM TO
	vmferry_at "$1" protect g1 --to "$2" --rpo 1s
	eventually 90 "g1 is not protected from $1 to $2" has_points "$1" 2
	# The points that the source shows are these, not what an earlier failover may have left there.
	local here there
	here=$(point_ids "$1") there=$(point_ids "$2")
	grep -qxF "${here:-none}" <<<"$there" || fail "$1 shows the points $here, $2 keeps $there"
}

point_ids() { # HOST
	in_host "$1" vmferry --json points g1 | python3 -c 'import json, sys; print("\n".join(p["id"] for p in json.load(sys.stdin)["points"]))'
}

state_at() { # HOST ROLE: state, points, epoch. A machine with much else to do holds no RPO: that counts as protected here
	in_host "$1" vmferry --json status g1 2>/dev/null | python3 -c '
import json, sys
for p in json.load(sys.stdin).get("protections", []):
    if p["role"] == sys.argv[1]:
        late = p["state"] == "degraded" and "is not held" in (p.get("reason") or "")
        print("protected" if late else p["state"], p.get("points", 0), p.get("epoch"))' "$2" 2>/dev/null || true
}

has_points() { # HOST MIN
	local state points
	read -r state points _ <<<"$(state_at "$1" source)"
	[ "${state:-}" = protected ] && [ "$points" -ge "$2" ]
}

is_state() { # HOST ROLE STATE
	local state
	read -r state _ <<<"$(state_at "$1" "$2")"
	[ "${state:-none}" = "$3" ]
}

fail_over() { # TO [OPTION...]
	local to=$1
	shift
	vmferry_at "$to" failover g1 --yes "$@"
	assert_same_guest g1
	[ "$(host_of g1)" = "$to" ] || fail "g1 should run at $to: $(where g1)"
}

fail_back() { # FROM HOME
	vmferry_at "$1" --json failback g1
	assert_only_at g1 "$2"
	assert_same_guest g1
	grep -q "\"runs_on\": *\"$2\"" "$WORK/out" || fail "the report does not say that it runs on $2"
	# What is left where it was is a replica, and no protection.
	[ "$(in_host "$1" sh -c "ls $STATE/protections | wc -l")" = 0 ] || fail "$1 still has a record of a protection"
	[ "$(in_host "$2" sh -c "ls $STATE/protections | wc -l")" = 0 ] || fail "$2 still has a record of a protection"
	is_state "$1" target waiting || fail "$1 should keep a replica: $(state_at "$1" target)"
}

# Twice around, planned.
test_cycles() {
	local cycle
	protected_guest
	for cycle in 1 2; do
		note "cycle $cycle"
		fail_over host2
		fail_back host2 host1
		[ "$cycle" = 2 ] || protect host1 host2
	done
	in_host host1 sh -c "ls $IMAGES/g1.qcow2" >/dev/null || fail "the guest's own image is gone"
}

# The host is lost; the VM goes home to what its disk still has, twice.
test_lost() {
	local cycle
	protected_guest
	for cycle in 1 2; do
		note "cycle $cycle"
		lab kill host1
		fail_over host2 --force
		lab up host1:"$LAB_FLAVOUR"
		lab agent start host1
		eventually 60 "host1 is not fenced: $(state_at host1 source)" is_state host1 source fenced
		fail_back host2 host1
		grep -q '"adopted": *"disks"' "$WORK/out" || fail "nothing of the old copy was used"
		[ "$cycle" = 2 ] || protect host1 host2
	done
}

# The agents die at every step; asked again, it goes on, and the VM runs once all the time.
test_killed() {
	local point
	protected_guest
	fail_over host2
	for point in failback.adopt failback.adopted failback.forget; do
		agent_with_fault host1 $point=kill
		vmferry_at host2 failback g1 && fail "it should have died at $point"
		assert_runs_once g1
		[ "$(host_of g1)" = host2 ] || fail "g1 should still run at host2: $(where g1)"
		lab agent restart host1
	done
	agent_with_fault host2 failback.takeover=kill
	vmferry_at host2 failback g1 && fail "it should have died"
	[ "$(host_of g1)" = host2 ] || fail "g1 should still run at host2: $(where g1)"
	lab agent restart host2
	agent_with_fault host1 failover.start=kill
	vmferry_at host2 failback g1 && fail "it should have died"
	lab agent restart host1
	agent_with_fault host2 failback.tidy=kill
	vmferry_at host2 failback g1 && fail "it should have died"
	[ "$(host_of g1)" = host1 ] || fail "g1 should run at host1: $(where g1)"
	assert_runs_once g1
	for point in failback.adopt failback.adopted failback.forget; do
		agent_with_fault host2 $point=kill
		vmferry_at host2 failback g1 && fail "it should have died at $point"
		assert_runs_once g1
	done
	lab agent restart host2
	fail_back host2 host1
	protect host1 host2
}

# libvirt undefines no VM of which it has a record of a snapshot.
record_snapshot() { # HOST
	in_host "$1" sh -c '{
		echo "<domainsnapshot><name>s1</name><state>disk-snapshot</state><creationTime>1</creationTime>"
		echo "<disks><disk name=\"vda\" snapshot=\"external\"><source file=\"/none\"/></disk></disks>"
		virsh dumpxml g1 --inactive
		echo "</domainsnapshot>"
	} >/run/snapshot.xml; virsh -q snapshot-create g1 /run/snapshot.xml --redefine'
}

# The old VM is given up: QEMU and definition go, the image stays.
test_given_up() {
	protected_guest
	fail_over host2
	is_state host1 source fenced || fail "host1 is not fenced: $(state_at host1 source)"
	record_snapshot host1
	vmferry_at host1 unprotect g1 --yes
	grep -q g1.qcow2 "$WORK/out" || fail "it does not say which image stays"
	assert_only_at g1 host2
	in_host host1 test -e $IMAGES/g1.qcow2 || fail "the image is gone"
	fail_back host2 host1
}

test_resumed() {
	protected_guest
	vmferry_at host1 pause g1
	eventually 20 "not paused" is_state host1 source paused
	vmferry_at host1 resume g1
	eventually 5 "it still says paused" not_paused
	eventually 60 "not protected again" has_points host1 3
}

not_paused() {
	! is_state host1 source paused
}
