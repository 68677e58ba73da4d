# Events on a real Kafka broker, read back by kcat.
# shellcheck shell=bash

# long broker_away
# limit migration 400
# limit broker_away 400
# limit bad_property 300

kafka() {
	"$TOOLS/lab/kafka" "$@"
}

the_broker() {
	local why
	command -v kcat >/dev/null || skip "no kcat on this machine"
	why=$(kafka fetch 2>&1) || skip "$why"
	the_hosts
	kafka stop
	kafka start switch
	BROKER=$(kafka address)
	trap the_end EXIT
}

# HOST's agent with that in its group `kafka`.
configure_kafka() { # HOST [SETTINGS]
	forget_kafka "$1"
	printf 'kafka: { %s };\n' "${2:-brokers = \"$BROKER\";}" >>"$VMFERRY_LAB/$1/fs/etc/vmferry/vmferryd.conf"
}

forget_kafka() { # HOST...
	local host
	for host in "$@"; do
		sed -i '/^kafka:/d' "$VMFERRY_LAB/$host/fs/etc/vmferry/vmferryd.conf"
	done
}

# As end_of_shell; no broker, and no configuration of one, is left behind.
the_end() {
	local rc=$?
	set +e
	# shellcheck disable=SC2046 # one word a host
	forget_kafka $(hosts)
	kafka stop
	(exit $rc)
	end_of_shell
}

# All that the topic has, one line each: KEY|HEADERS|VALUE. Headers are NAME=VALUE, with commas between.
read_topic() {
	timeout 30 "$TOOLS/lab/lab" exec switch kcat -b "$BROKER" -C -t vmferry.events -o beginning -e -q -f '%k|%h|%s\n' \
		>"$WORK/topic" 2>"$WORK/kcat.log" </dev/null || return 1
}

has_event() { # TYPE SOURCE
	read_topic && grep -q "ce_source=vmferry/$2,.*ce_type=io.vmferry.$1," "$WORK/topic"
}

types_of() { # SOURCE: in the order of the topic
	grep "ce_source=vmferry/$1," "$WORK/topic" | sed -n 's/.*ce_type=io\.vmferry\.\([^,]*\),.*/\1/p' | tr '\n' ' '
}

# In order, without one missing or twice, each a CloudEvent with JSON in it.
assert_cloud_events() { # SOURCE
	python3 - "$WORK/topic" "vmferry/$1" <<-'P'
		import json, re, sys
		last, ids = None, set()
		for line in open(sys.argv[1]):
		    key, headers, value = line.rstrip("\n").split("|", 2)
		    h = dict(x.split("=", 1) for x in headers.split(","))
		    if h["ce_source"] != sys.argv[2]:
		        continue
		    assert h["ce_specversion"] == "1.0" and h["content-type"] == "application/json", h
		    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", h["ce_time"]), h
		    assert h["ce_id"] not in ids, h
		    ids.add(h["ce_id"])
		    assert last is None or int(h["ce_sequence"]) == last + 1, (last, h)
		    last = int(h["ce_sequence"])
		    assert key == h.get("ce_subject", sys.argv[2].split("/")[1]), (key, h)
		    assert isinstance(json.loads(value), dict), value
		assert ids, "nothing of " + sys.argv[2]
	P
}

test_migration() { # from both hosts' agents, keyed by the VM
	the_broker
	boot vm1 host1
	configure_kafka host1
	configure_kafka host2
	lab agent restart host1 host2
	move vm1 host2
	eventually 30 "migration.done is in the topic" has_event migration.done host1
	lab agent stop host1
	eventually 30 "agent.stopped is in the topic" has_event agent.stopped host1
	grep -q "^$(in_host host2 virsh domuuid vm1 | head -1)|.*ce_type=io.vmferry.migration.done," "$WORK/topic" ||
		fail "no key is the VM's UUID"
	[[ "$(types_of host1)" == *"agent.started migration.started migration.done agent.stopped " ]] ||
		fail "in this order: $(types_of host1)"
	assert_cloud_events host1
	has_event agent.started host2 || fail "nothing of host2"
	lab agent start host1
}

test_broker_away() { # migrations go on, and their events arrive afterwards
	the_broker
	boot vm1 host1
	configure_kafka host1
	lab agent restart host1
	eventually 30 "agent.started is in the topic" has_event agent.started host1
	vmferry_at host1 check || true
	grep -qE 'ok.*kafka.*answers; 0 events wait' "$WORK/out" || fail "check does not say that all is well"
	local pid
	read -r pid _ <"$VMFERRY_LAB/kafka/pid"
	kill -STOP "$pid"
	move vm1 host2
	assert_only_at vm1 host2
	assert_same_guest vm1
	vmferry_at host1 check || true
	grep -qE 'warn.*kafka.*[1-9][0-9]* events wait' "$WORK/out" || fail "check does not say that events wait"
	kill -CONT "$pid"
	eventually 60 "migration.done is in the topic" has_event migration.done host1
	assert_cloud_events host1
}

test_bad_property() { # said by name; the agent runs
	the_hosts
	trap the_end EXIT
	configure_kafka host1 'brokers = "192.0.2.1:9092"; properties = ( { name = "no.such"; value = "1"; } );'
	! in_host host1 vmferryd --check-config >"$WORK/out" 2>&1 || fail "--check-config finds nothing"
	grep -q 'kafka.properties\[0\]: no.such' "$WORK/out"
	lab agent restart host1
	logged host1 'event=kafka_off .*no.such' || fail "nothing in the log"
	vmferry_at host1 events
	grep -q agent.started "$WORK/out"
}
