# An agent that dies, is stopped, hangs or is late while it captures a VM: the VM runs again, and nothing is left set in QEMU. The agent is
# guardian_agent.c, which plays COLO with a real QEMU as far as it is told; the guest is the boot sector, under KVM.
# shellcheck shell=bash
# limit agent_killed 240
# limit agent_stopped 240
# limit agent_hangs 240
# limit agent_late 240
# limit guardian_killed 240
# limit libvirtd_restarted 240
# limit paused_by_user 240
# limit protected_random 240
# limit protected_paused 240

AGENT=$VMFERRY_BUILD/tests/guardian-agent
GUARDIAN=$VMFERRY_BUILD/tools/vmferry-guardian/vmferry-guardian
export GUARDIAN
# After the deadline that the agent had given (0.4 s) plus 100 ms; the rest is for a machine that does other things too. The figures are printed.
MOST_MS=1000

the_guest() {
	[ -w /dev/kvm ] || skip "no /dev/kvm: COLO deadlocks QEMU without KVM"
	[ -x "$AGENT" ] || fail "no guardian-agent in $VMFERRY_BUILD"
	# The stock QEMU: 10.0.0 to 10.0.6, which Debian's backports have, end COLO as a plain migration.
	the_hosts host1:stock
	lab agent stop host1 # it has a guardian too
	in_host host1 mkdir -p /run/vmferry
	boot_sector
}

boot_sector() {
	guest start host1 vm1 mem=256 sector=1000 spin=1000
	eventually 60 "the guest counts" counts
}

counts() { # of the boot sector, by the round it is in
	local a b
	a=$(counter) && sleep 0.3 && b=$(counter) && [ "$a" != "$b" ]
}

counter() {
	in_host host1 virsh -q qemu-monitor-command vm1 --hmp 'xp /1xw 0x100000'
}

x_colo() { # true|false
	in_host host1 virsh -q qemu-monitor-command vm1 '{"execute":"query-migrate-capabilities"}' |
		grep -qE "\"state\":$1,\"capability\":\"x-colo\"|\"capability\":\"x-colo\",\"state\":$1"
}

look() { # in the background, until looked
	in_host host1 sh -c 'echo $$ >/run/look.pid; exec "$@"' sh "$AGENT" look vm1 60 >"$WORK/look" &
	LOOK=$!
	sleep 0.2
}

looked() {
	in_host host1 sh -c 'kill -TERM $(cat /run/look.pid)'
	wait "$LOOK" || fail "cannot look at the guest"
}

# The played agent in the background, and the guest looked at until somewhat after the guardian has done its work.
play() { # PHASE ACTION
	rm -f "$WORK/agent" # of the phase before
	look
	in_host host1 timeout -k 1 60 "$AGENT" capture vm1 "$1" "$2" >"$WORK/agent" 2>&1 &
	PLAYED=$!
	eventually 40 "$1 $2: the guardian does nothing" grep -qE 'event=guardian_(freed|failed)' "$WORK/agent"
	sleep 0.5
	looked
	cat "$WORK/agent"
}

agent_of_play() {
	sed -n 's/^at .*: pid \([0-9]*\),.*/\1/p' "$WORK/agent" | head -1
}

assert_went_on() { # PHASE ACTION
	local seen
	seen=$(cat "$WORK/look")
	note "$1 $2: $(sed 's/ status=.*//' "$WORK/look") $(grep -o 'event=guardian_freed.*' "$WORK/agent" | sed 's/vm=[^ ]* //')"
	grep -q "^at $1:" "$WORK/agent" || fail "$1 $2: the agent did not come so far"
	[ "$(value runs "$seen")" = 1 ] || fail "$1 $2: the guest stands still"
	[ "$(value longest_ms "$seen")" -le $MOST_MS ] || fail "$1 $2: the guest stood still for $(value longest_ms "$seen") ms"
	[ "$(value x_colo "$seen")" = 0 ] || fail "$1 $2: x-colo is set"
	grep -q "event=guardian_freed .*cause=$3" "$WORK/agent" || fail "$1 $2: not by the guardian, because of $3"
	! grep -q 'event=guardian_failed' "$WORK/agent" || fail "$1 $2: $(grep guardian_failed "$WORK/agent")"
}

guardian_ends() {
	! in_host host1 pgrep -x vmferry-guardia >/dev/null
}

test_agent_killed() {
	the_guest
	local phase
	for phase in first ready request send ram device received between; do
		play $phase kill
		assert_went_on $phase kill agent-died
		eventually 5 "the guardian ends by itself" guardian_ends
	done
}

test_agent_stopped() {
	the_guest
	local phase cause
	for phase in first ready send ram device received between; do
		cause=agent-late
		[ $phase != between ] || cause=agent-silent # it runs: no hurry, 2 s here
		play $phase stop
		in_host host1 kill -CONT "$(agent_of_play)"
		wait "$PLAYED" || fail "$phase: the agent, once continued, fails: $(cat "$WORK/agent")"
		assert_went_on $phase stop $cause
		grep -qx 'freed 0' "$WORK/agent" || fail "$phase: the agent was not told"
		eventually 5 "the guardian ends by itself" guardian_ends
	done
}

test_agent_hangs() {
	the_guest
	local phase
	for phase in ready send ram received; do
		play $phase hang
		wait "$PLAYED" || fail "$phase: $(cat "$WORK/agent")"
		assert_went_on $phase hang agent-late
		grep -qx 'freed 0' "$WORK/agent" || fail "$phase: the agent was not told"
		play $phase close
		wait "$PLAYED" || fail "$phase: $(cat "$WORK/agent")"
		assert_went_on $phase close agent-late
	done
}

test_agent_late() {
	the_guest
	local phase
	for phase in ready send received; do
		play $phase late
		wait "$PLAYED" || fail "$phase: $(cat "$WORK/agent")"
		assert_went_on $phase late agent-late
	done
}

other_guardian() { # PID: not this one any more, in the checkpoint of last
	local now
	now=$(sed -n 's/^checkpoint .* guardian \(-*[0-9]*\)$/\1/p' "$WORK/agent" | tail -1)
	[ "$now" -gt 0 ] && [ "$now" != "$1" ]
}

# The guardian dies again and again while checkpoints go on; then all ends as it should.
test_guardian_killed() {
	the_guest
	in_host host1 timeout -k 1 60 sh -c 'echo "pid $$"; exec "$@"' sh "$AGENT" wait vm1 >"$WORK/agent" 2>&1 &
	PLAYED=$!
	eventually 50 "checkpoints are taken" grep -q "^checkpoint 5 " "$WORK/agent"
	look
	local i n pid
	for i in 1 2 3; do
		pid=$(sed -n 's/^checkpoint .* guardian \([0-9]*\)$/\1/p' "$WORK/agent" | tail -1)
		in_host host1 kill -KILL "$pid"
		eventually 5 "another guardian" other_guardian "$pid"
	done
	looked
	n=$(grep -c '^checkpoint ' "$WORK/agent")
	[ "$n" -ge 8 ] || fail "only $n checkpoints"
	note "$n checkpoints; $(sed 's/ status=.*//' "$WORK/look")"
	[ "$(value longest_ms "$(cat "$WORK/look")")" -le $MOST_MS ] || fail "the guest stood still"
	in_host host1 kill -TERM "$(sed -n 's/^pid //p' "$WORK/agent")"
	wait "$PLAYED" || fail "$(tail -3 "$WORK/agent")"
	grep -qx ended "$WORK/agent" || fail "$(tail -3 "$WORK/agent")"
	! grep -q 'event=guardian_freed' "$WORK/agent" || fail "it let the VM go though all was well"
	[ "$(grep -c 'event=guardian_started' "$WORK/agent")" -ge 4 ] || fail "not killed three times"
	eventually 5 "the guardian ends by itself" guardian_ends
	eventually 5 "the guest counts" counts
}

# libvirtd away at the wrong moment: the guardian comes back to it.
test_libvirtd_restarted() {
	the_guest
	in_host host1 timeout -k 1 60 "$AGENT" capture vm1 send hang >"$WORK/agent" 2>&1 &
	PLAYED=$!
	eventually 50 "a checkpoint" grep -q '^at send:' "$WORK/agent"
	lab restart host1
	wait "$PLAYED" || fail "$(cat "$WORK/agent")"
	grep -qx 'freed 0' "$WORK/agent" || fail "not freed: $(cat "$WORK/agent")"
	eventually 5 "the guest counts" counts
	x_colo false || fail "x-colo is set"
}

# A VM that its user has paused stays paused.
test_paused_by_user() {
	the_guest
	in_host host1 timeout -k 1 60 "$AGENT" capture vm1 between hang >"$WORK/agent" 2>&1 &
	PLAYED=$!
	eventually 50 "a checkpoint" grep -q '^at between:' "$WORK/agent"
	in_host host1 virsh -q suspend vm1
	in_host host1 kill -KILL "$(agent_of_play)"
	eventually 10 "it is let go" grep -q 'event=guardian_freed' "$WORK/agent"
	x_colo false || fail "x-colo is set"
	[ "$(in_host host1 virsh -q domstate --reason vm1)" = "paused (user)" ] || fail "it is $(in_host host1 virsh -q domstate --reason vm1)"
	counts && fail "it runs"
	in_host host1 virsh -q resume vm1
	eventually 5 "the guest counts" counts
}

# ---- the real agent, with a VM that it protects ----

protected() {
	[ -w /dev/kvm ] || skip "no /dev/kvm: COLO deadlocks QEMU without KVM"
	the_hosts host1:stock host2:stock
	boot_sector
	vmferry_at host1 protect vm1 --to host2 --rpo 250ms
	eventually 30 "no points are committed" commits 0
}

newest() { # the number of the newest point at host2
	in_host host2 vmferry points vm1 --json | sed -n 's/^ *"seq": \([0-9]*\),*$/\1/p' | sort -n | tail -1
}

commits() { # AFTER
	local n
	n=$(newest) && [ -n "$n" ] && [ "$n" -gt "$1" ]
}

# The guest is looked at while the agent fails, and some time longer.
assert_runs_on() { # HOW
	local seen
	looked
	seen=$(cat "$WORK/look")
	note "$1: $(sed 's/ status=.*//' "$WORK/look")"
	[ "$(value runs "$seen")" = 1 ] || fail "$1: the guest stands still"
	[ "$(value longest_ms "$seen")" -le $MOST_MS ] || fail "$1: the guest stood still for $(value longest_ms "$seen") ms"
}

# Points are only added, and more come by themselves.
assert_protected_again() { # HOW BEFORE
	local now
	now=$(newest) || fail "$1: no points at host2"
	[ "$now" -ge "$2" ] || fail "$1: the newest point is $now, and was $2"
	eventually 30 "$1: no more points are committed" commits $((now + 2))
}

# However often, and whenever, it goes wrong.
test_protected_random() {
	protected
	local i before pid
	for i in 1 2 3 4 5; do
		before=$(newest)
		look
		sleep "0.$((RANDOM % 900 + 100))"
		if [ $((i % 2)) = 1 ]; then
			lab agent kill host1
			sleep 1.2
			assert_runs_on "$i kill"
			x_colo false || fail "$i kill: x-colo is set"
			lab agent start host1
		else
			pid=$(in_host host1 cat /run/vmferryd.pid)
			in_host host1 kill -STOP "$pid"
			sleep 1.2
			in_host host1 kill -CONT "$pid"
			sleep 0.2
			assert_runs_on "$i stop"
		fi
		assert_protected_again "round $i" "$before"
	done
	vmferry_at host1 unprotect vm1
	x_colo false || fail "x-colo is set"
}

# Each time at the worst moment: the VM stands still.
test_protected_paused() {
	protected
	local fault before
	for fault in capture.pass=kill capture.paused=kill@5 capture.paused=stop@5 capture.paused=delay:1500@5 capture.paused=fail@5; do
		before=$(newest)
		look
		agent_with_fault host1 $fault
		case $fault in
		*kill*) eventually 20 "$fault: it lives" not_there host1 ;;
		*stop*) eventually 20 "$fault: it is not stopped" is_stopped host1 ;;
		*delay*) eventually 20 "$fault: not late" logged host1 event=protection_rescued ;;
		*) eventually 20 "$fault: it does not fail" logged host1 'state=degraded.*fault injected' ;;
		esac
		sleep 1.2
		assert_runs_on $fault
		case $fault in
		*kill*) x_colo false || fail "$fault: x-colo is set" && lab agent start host1 ;;
		*stop*) x_colo false || fail "$fault: x-colo is set" && in_host host1 sh -c 'kill -CONT $(cat /run/vmferryd.pid)' ;;
		esac
		assert_protected_again $fault "$before"
		case $fault in
		*stop* | *delay*) logged host1 'state=degraded.*the guardian let the VM run' || fail "$fault: the state does not say what happened" ;;
		esac
	done
	vmferry_at host1 events >/dev/null
	vmferry_at host1 unprotect vm1
	x_colo false || fail "x-colo is set"
}

not_there() { # HOST: no agent
	! in_host "$1" sh -c 'read -r pid </run/vmferryd.pid && [ -e /proc/$pid ]'
}

is_stopped() { # HOST
	in_host "$1" sh -c 'read -r pid </run/vmferryd.pid && grep -q "^State:.T" /proc/$pid/status'
}
