# net.sh - the network of the lab: a switch in a namespace of its own, a cable and a bridge per host.
# shellcheck shell=bash
#
# switch: br0 (address .1)  --port-HOST====eth0--  HOST: vmbr0 (the host's address; guests' taps join it)

switch_up() {
	local pid
	switch_pid >/dev/null && return 0
	setsid unshare -n -- sleep infinity </dev/null >/dev/null 2>&1 &
	pid=$!
	disown "$pid"
	wait_for 5 "switch" switch_unshared "$pid" || return 1
	pid_save "$LAB_DIR/switch.pid" "$pid"
	enter switch ip link set lo up &&
		enter switch ip link add br0 type bridge forward_delay 0 &&
		enter switch ip address add "$LAB_NET.1/24" dev br0 &&
		enter switch ip link set br0 up
}

switch_unshared() { # PID: it has its own network, and is past the shell that started it
	[ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ] && [ "$(cat "/proc/$1/comm")" = sleep ]
}

switch_down() {
	local pid
	pid=$(switch_pid) && kill -KILL "$pid"
	wait_for 5 "end of the switch" pid_gone "$LAB_DIR/switch.pid"
	rm -f "$LAB_DIR/switch.pid"
}

# The cable, and vmbr0 with the host's address and eth0 in it.
net_join() { # HOST
	local host=$1 pid n
	pid=$(host_pid "$host") || return 1
	n=$(host_number "$host")
	enter switch ip link delete "port-$host" 2>/dev/null
	enter switch ip link add "port-$host" type veth peer name eth0 netns "$pid" &&
		enter switch ip link set "port-$host" master br0 up || return 1
	enter "$host" sh -e -c "
		ip link add vmbr0 type bridge forward_delay 0
		ip link set vmbr0 address $(printf '52:54:00:aa:00:%02x' "$n")
		ip link set eth0 master vmbr0 up
		ip address add $(host_address "$host")/24 dev vmbr0
		ip link set vmbr0 up
		ip route add default via $LAB_NET.1"
}

net_link() { # HOST up|down
	enter "$1" ip link set eth0 "$2"
}

# The port neither forwards nor learns; both ends still have their carrier.
net_cut() { # HOST
	enter switch bridge link set dev "port-$1" state 0
}

net_restore() { # HOST
	enter switch bridge link set dev "port-$1" state 3
}

net_rate() { # HOST MBIT|off
	enter "$1" tc qdisc delete dev eth0 root 2>/dev/null
	[ "$2" = off ] || enter "$1" tc qdisc add dev eth0 root tbf rate "$2mbit" burst 256k latency 50ms
}

net_sent() { # HOST
	enter "$1" cat /sys/class/net/eth0/statistics/tx_bytes
}
