# common.sh - where things are, errors, waiting, processes by pid and start time. Sourced by lab and guest.
# shellcheck shell=bash

export LC_ALL=C.UTF-8 # what others print is read

LAB_DIR=${VMFERRY_LAB:-/var/tmp/vmferry-lab}
LAB_NET=${LAB_NET:-10.77.0}
LAB_ROOT=${LAB_TOOLS%/*/*}
LAB_BUILD=${VMFERRY_BUILD:-$LAB_ROOT/build}
LAB_CACHE=${VMFERRY_LAB_CACHE:-${XDG_CACHE_HOME:-/var/cache}/vmferry-lab}
LAB_QEMU_USER=${LAB_QEMU_USER:-root}

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# wait_for SECONDS WHAT CMD...: until CMD succeeds; fails with a message that says WHAT did not happen.
wait_for() {
	local limit=$1 what=$2 end
	shift 2
	end=$((${EPOCHREALTIME/./} + limit * 1000000))
	until "$@"; do
		if [ "${EPOCHREALTIME/./}" -ge "$end" ]; then
			echo "${0##*/}: $what: not within $limit s" >&2
			return 1
		fi
		sleep 0.03
	done
}

# Commands that change the lab as a whole run one at a time, and to their end: an interrupt must not leave a host behind that
# no one knows of. What they start does not inherit the lock.
alone() { # COMMAND ARG...
	local rc=0 interrupted=0
	mkdir -p "$LAB_DIR" && chmod 755 "$LAB_DIR" || exit 1
	trap 'interrupted=1' INT TERM HUP
	setsid -w flock -w 120 -E 99 -o "$LAB_DIR/.lock" "$LAB_SELF" "__$1" "${@:2}" || rc=$?
	trap - INT TERM HUP
	[ $interrupted = 0 ] || exit 130
	[ $rc != 99 ] || die "another lab command has been at work in $LAB_DIR for 2 minutes"
	return $rc
}

# Pid files hold "PID STARTTIME", so that a pid used again by someone else is never taken for ours.
start_time() {
	local stat fields
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	read -r -a fields <<<"${stat##*) }"
	echo "${fields[19]}"
}

pid_save() { # FILE PID
	echo "$2 $(start_time "$2")" >"$1"
}

pid_read() { # FILE
	local pid started
	[ -r "$1" ] && read -r pid started <"$1" || return 1
	[ "$(start_time "$pid")" = "$started" ] && echo "$pid"
}

pid_gone() { # FILE
	! pid_read "$1" >/dev/null
}

host_pid() { # HOST: its pid 1, as seen from here
	pid_read "$LAB_DIR/$1/init.pid"
}

switch_pid() {
	pid_read "$LAB_DIR/switch.pid"
}

host_number() { # HOST: host1 -> 1
	local n=${1##*[!0-9]}
	[ -n "$n" ] && [ "$n" -ge 1 ] && [ "$n" -le 99 ] || die "'$1' is no name of a host: it must end in a number from 1 to 99"
	echo $((10#$n))
}

host_address() { # HOST
	local n
	n=$(host_number "$1") || exit 1
	echo "$LAB_NET.$((10 + n))"
}

hosts_known() {
	local f
	for f in "$LAB_DIR"/*/flavour; do
		[ -e "$f" ] || continue
		f=${f%/flavour}
		echo "${f##*/}"
	done
}

# enter HOST CMD...: CMD in all namespaces of HOST, or in the network of the switch. With enter_by=exec it takes this shell's place, which
# then has nothing to say of how CMD ended.
enter() {
	local host=$1 pid
	shift
	if [ "$host" = switch ]; then
		pid=$(switch_pid) || die "the lab is not up: lab up"
		${enter_by:-} nsenter -t "$pid" -n -- "$@"
		return
	fi
	pid=$(host_pid "$host") || die "$host is not up: lab up $host"
	PATH=$LAB_BUILD/tools/vmferry:$LAB_BUILD/tools/vmferryd:$PATH ${enter_by:-} nsenter -t "$pid" -m -u -i -n -p -r -w -- "$@"
}
