# lib.sh - what the integration tests are made of. Sourced by `run --one`; a test fails where a command fails (set -e), or by
# calling fail.
# shellcheck shell=bash

TOOLS=$(readlink -f "$here/../../tools")
mkdir -p "$VMFERRY_LAB"
WORK=$(mktemp -d /var/tmp/vmferry-test-XXXXXX)
trap end_of_shell EXIT

# Status 78 tells `run` that emulation has broken the guest (see there).
end_of_shell() {
	local rc=$?
	if [ $rc != 0 ] && [ $rc != 77 ] && guest_broken; then rc=78; fi
	rm -rf "$WORK"
	exit $rc
}

guest_broken() {
	[ "$(guest accel)" = tcg ] && grep -qx stock "$VMFERRY_LAB"/*/flavour 2>/dev/null || return 1
	[ -e "$WORK/differs" ] ||
		grep -qaE 'Kernel panic|kernel BUG|Oops|general protection' "$VMFERRY_LAB"/*/fs/var/log/libvirt/*.console 2>/dev/null
}

lab() {
	"$TOOLS/lab/lab" "$@"
}

guest() {
	"$TOOLS/lab/guest" "$@"
}

fail() {
	echo "FAIL: $*" >&2
	exit 1
}

skip() {
	echo "skip: $*"
	exit 77
}

note() {
	echo "--- $*"
}

# eventually SECONDS WHAT CMD...: CMD succeeds in time, or the test fails.
eventually() {
	local what=$2 end=$((SECONDS + $1))
	shift 2
	until "$@"; do
		[ $SECONDS -lt $end ] || fail "$what"
		sleep 0.1
	done
}

hosts() {
	(cd "$VMFERRY_LAB" && ls -d host*/ 2>/dev/null | tr -d /)
}

# ---- the lab ----

# Hosts that are as new: up, connected, no VMs, agents without faults. Default: host1 host2 of $LAB_FLAVOUR.
the_hosts() { # [HOST[:FLAVOUR]...]
	local host flavour
	[ $# -gt 0 ] || set -- host1 host2
	for host in "$@"; do
		flavour=${host#*:}
		[ "$flavour" != "$host" ] || flavour=$LAB_FLAVOUR
		set -- "${@:2}" "${host%%:*}:$flavour"
		# A lab of other hosts than the test wants makes room.
		if [ -e "$VMFERRY_LAB/${host%%:*}/flavour" ] && [ "$(<"$VMFERRY_LAB/${host%%:*}/flavour")" != "$flavour" ]; then
			lab purge
		fi
	done
	lab up "$@"
	for host in $(hosts); do
		lab restore "$host"
		lab link "$host" up
		lab rate "$host" off
	done
	rm_guests
	for host in "$@"; do
		lab agent stop "${host%%:*}"
		# Protections and replicas of guests that are no more.
		in_host "${host%%:*}" rm -rf /var/lib/vmferry/protections /var/lib/vmferry/replicas
		lab agent start "${host%%:*}"
	done
}

rm_guests() {
	local name dir
	for dir in "$VMFERRY_LAB"/guests/*/; do
		[ -d "$dir" ] || continue
		name=${dir%/}
		guest remove "${name##*/}"
	done
}

need_qemu10() {
	local why
	why=$(lab have-qemu10 2>&1 >/dev/null) || skip "$why"
}

# The agent of HOST anew, with a fault armed (base/fault.h).
agent_with_fault() { # HOST SPEC
	VMFERRY_FAULT=$2 lab agent restart "$1"
}

# Has HOST's agent logged a line like that since it was started? The log goes on over restarts and tests.
logged() { # HOST REGEX
	awk -v re="$2" '/^--- start$/ { found = 0 } $0 ~ re { found = 1 } END { exit !found }' "$VMFERRY_LAB/$1/vmferryd.log"
}

# How many such lines?
times_logged() { # HOST REGEX
	awk -v re="$2" '/^--- start$/ { n = 0 } $0 ~ re { n++ } END { print n + 0 }' "$VMFERRY_LAB/$1/vmferryd.log"
}

in_host() { # HOST CMD...
	lab exec "$@"
}

# ---- guests ----

# A guest that runs and remembers who it is, and what it was asked to do. After `boot NAME HOST ...`.
boot() { # NAME HOST [SETTING...]
	local name=$1 host=$2
	shift 2
	guest start "$host" "$name" mem=256 "$@"
	[[ " $* " != *" off=1 "* && " $* " != *" paused=1 "* ]] || return 0
	guest ask "$name" ping >"$WORK/$name.first"
}

# Work to do while it moves: counters, and records on its disk if it has one.
busy() { # NAME [DATA_MB]
	guest ask "$1" "load counters 1000 16" >/dev/null
	[ $# = 1 ] || guest ask "$1" "disk 50 $2" >/dev/null
}

value() { # KEY TEXT
	sed -n "s/.*\b$1=\([^ ]*\).*/\1/p" <<<"$2" | head -1
}

where() { # NAME: "host1 running persistent", one line per host that knows it
	guest where "$1"
}

assert_only_at() { # NAME HOST [STATE, default "running persistent"]
	local seen
	seen=$(where "$1")
	[ "$seen" = "$2 ${3:-running persistent}" ] || fail "$1 should be at $2 alone, ${3:-running persistent}; it is: ${seen:-nowhere}"
}

# Wherever it is, it runs there and on no other host.
assert_runs_once() { # NAME
	local running
	running=$(where "$1" | grep -c ' running' || true)
	[ "$running" = 1 ] || fail "$1 should run on exactly one host; libvirt says: $(where "$1" | tr '\n' ';')"
}

runs_once() { # NAME
	[ "$(where "$1" | grep -c ' running')" = 1 ]
}

host_of() { # NAME: where it runs
	where "$1" | sed -n 's/ running.*//p' | head -1
}

# The same guest, still counting, with the memory and disk it should have.
assert_same_guest() { # NAME
	local name=$1 first now answer
	first=$(<"$WORK/$name.first")
	now=$(guest ask "$name" ping)
	[ "$(value boot "$now")" = "$(value boot "$first")" ] || fail "$name has booted again"
	[ "$(value counter "$now")" -gt "$(value counter "$first")" ] || fail "$name's counter went back: $now after $first"
	[ "$(value ticks "$now")" -ge "$(value ticks "$first")" ] || fail "$name's ticks went back: $now after $first"
	for answer in verify diskcheck; do
		now=$(guest ask "$name" $answer)
		[ "$(value mismatches "$now")" = 0 ] || { touch "$WORK/differs" && fail "$name $answer: $now"; }
	done
}

# ---- migrations ----

# vmferry at the host where NAME is known: vmferry migrate NAME TO ...; what it says is in $WORK/out, its status is returned.
move() { # NAME TO [OPTION...]
	local name=$1 from
	from=$(where "$name" | grep -v " shut off$" | head -1)
	[ -n "$from" ] || from=$(where "$name" | head -1)
	from=${from%% *}
	vmferry_at "${from:-host1}" migrate "$@"
}

vmferry_at() { # HOST ARG...
	local host=$1 rc=0
	shift
	echo "\$ $host: vmferry $*"
	timeout -k 5 100 "$TOOLS/lab/lab" exec "$host" vmferry "$@" >"$WORK/out" 2>&1 </dev/null || rc=$?
	cat "$WORK/out"
	return $rc
}

# Expects it not to work, with STATUS, and words in what it says.
assert_says() { # STATUS WORDS CMD...
	local want=$1 words=$2 rc=0
	shift 2
	"$@" || rc=$?
	[ $rc = "$want" ] || fail "status $rc, not $want"
	grep -qiE -- "$words" "$WORK/out" || fail "nothing of '$words' in what it says"
}

# The same in the background; `moved` waits for it.
move_in_background() { # NAME TO [OPTION...]
	move "$@" >"$WORK/background" 2>&1 &
	MOVE=$!
}

moved() { # its status
	local rc=0
	wait "$MOVE" || rc=$?
	cat "$WORK/background"
	return $rc
}

under_way() { # NAME HOST: is a migration out of HOST copying its memory?
	in_host "$2" virsh -q domjobinfo "$1" 2>/dev/null | grep -q '^Memory processed: *[1-9]'
}

# ---- afterwards ----

# No sockets, folders or journal of a migration, no domain that does not belong, no QEMU without one.
tidy_here() { # HOST
	in_host "$1" sh -c 'find /run/vmferry -mindepth 1 ! -name "*.sock" ! -name "*.lock" ! -name "*.pid" ! -name hook-asked 2>/dev/null
		find /var/lib/vmferry/sessions -name "*.json*" 2>/dev/null
		domains=$(virsh -q list --name | grep -c .)
		processes=$(pgrep -c "^qemu-system")
		[ "$domains" = "$processes" ] || echo "$processes QEMU for $domains running VMs"' >"$WORK/left"
	[ ! -s "$WORK/left" ]
}

assert_tidy() {
	local host end=$((SECONDS + 15))
	for host in $(hosts); do
		in_host "$host" true 2>/dev/null || continue
		until tidy_here "$host"; do
			[ $SECONDS -lt $end ] || fail "$host: left behind: $(tr '\n' ' ' <"$WORK/left")"
			sleep 0.2
		done
	done
}

end_of_test() {
	assert_tidy
}
