# A protected guest whose agents, guardian, QEMU, libvirtd, hosts and link are killed, stopped and cut at random moments and fault points; after
# each round no acknowledged point may be lost, and the guest goes on at one host, from one instant (tools/dev/torture says what else).
# shellcheck shell=bash
# long other_seed
# long every_point
# limit fixed_seed 300
# limit other_seed 420
# limit every_point 900

torture() { # OPTION...: its lab is this one, anew, so that its logs are kept where it fails
	local rc=0
	lab purge
	"$TOOLS/dev/torture" "$@" || rc=$?
	[ $rc != 77 ] || skip "no /dev/kvm"
	return $rc
}

test_fixed_seed() {
	torture --seed 7 --rounds 200 --seconds 50
}

test_other_seed() {
	torture --seed "$(date +%s)" --rounds 200 --seconds 150
}

# An agent dies at each fault point of replication, failover and failback.
test_every_point() {
	torture --walk kill --seed 1
}
