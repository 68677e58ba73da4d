# What an operator sees and types.
# shellcheck shell=bash

test_lists() {
	the_hosts
	boot vm1 host1 disk=100M
	vmferry_at host1 hosts
	grep -q host2 "$WORK/out"
	vmferry_at host1 vms
	grep -q vm1 "$WORK/out"
	vmferry_at host1 vms --json
	python3 -m json.tool "$WORK/out" >/dev/null
	vmferry_at host1 hosts --json
	python3 -m json.tool "$WORK/out" >/dev/null
	vmferry_at host1 check || true
	grep -qi libvirt "$WORK/out"
}

test_plan() {
	the_hosts
	boot vm1 host1 disk=100M
	vmferry_at host1 plan vm1 host2 --copy-storage
	assert_only_at vm1 host1
	vmferry_at host1 plan vm1 host2 --copy-storage --json
	python3 -c 'import json,sys; p = json.load(open(sys.argv[1])); assert p["possible"] and p["forecast"]["total_ms"] > 0' "$WORK/out"
}

test_report() { # the numbers are measured ones
	the_hosts
	boot vm1 host1
	guest fill vm1 60
	local before after
	before=$(lab sent host1)
	move vm1 host2 --json
	after=$(lab sent host1)
	python3 - "$WORK/out" $((after - before)) <<-'E'
		import json, sys
		text = open(sys.argv[1]).read()
		r, sent = json.loads(text[text.rindex('\n{') + 1 if '\n{' in text else text.index('{'):]), int(sys.argv[2])
		assert r["runs_on"] == "host2" and r["state"] == "running", r
		assert r["qemu_bytes"] > 60e6, r
		assert 0 < r["total_ms"] < 60000 and 0 <= r["downtime_ms"] < 5000, r
		assert r["iterations"] >= 2, r  # the first, and the one while the guest stood still
		assert abs(r["wire_bytes"] - sent) < 0.1 * sent + 300000, (r["wire_bytes"], sent)
		assert r["wire_bytes"] < r["qemu_bytes"], r
	E
}

test_drain() {
	the_hosts
	boot vm1 host1
	boot vm2 host1
	vmferry_at host1 drain host1 --to host2 # a test before may have left a third
	assert_only_at vm1 host2
	assert_only_at vm2 host2
	assert_same_guest vm1
	assert_same_guest vm2
}

test_cpu_baseline() {
	the_hosts
	vmferry_at host1 cpu-baseline host1 host2
	grep -q "<cpu" "$WORK/out"
}

test_events() {
	the_hosts
	boot vm1 host1
	move vm1 host2
	vmferry_at host1 events
	grep -q "vm1" "$WORK/out"
}

test_remote_operation() { # the source is told from elsewhere
	the_hosts
	boot vm1 host1
	vmferry_at host2 --host host1 migrate vm1 host2
	assert_only_at vm1 host2
}
