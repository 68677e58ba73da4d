# host.sh - a host: pid, mount, network, host name and IPC namespaces whose pid 1 is a small shell. The end of that one
# process ends everything in the host, so nothing ever has to be searched for.
# shellcheck shell=bash
#
# What a host writes lives in $LAB_DIR/HOST/fs, mounted over the folders of the same name; the rest of the file system is
# the machine's own. $LAB_DIR/shared is the same in all hosts: /var/lib/libvirt/shared.

HOST_FOLDERS="etc/libvirt etc/vmferry var/lib/libvirt var/log/libvirt var/cache/libvirt var/lib/vmferry"

# Runs as pid 1 of the host.
host_init() { # HOST FLAVOUR
	local host=$1 flavour=$2 dir="$LAB_DIR/$1" folder
	set -e
	mount --make-rprivate /
	hostname "$host"
	mount -t proc proc /proc
	umount -R /sys 2>/dev/null || true
	mount -t sysfs sysfs /sys # this network's view; without cgroups below it libvirt does not use them
	mount -t tmpfs -o mode=755 tmpfs /run
	mkdir -p /run/lock /run/libvirt
	cat /proc/sys/kernel/random/uuid >/run/boot_id && mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
	mount -t tmpfs -o mode=1777 tmpfs /dev/shm
	for folder in $HOST_FOLDERS; do
		mkdir -p "/$folder" "$dir/fs/$folder"
		mount --bind "$dir/fs/$folder" "/$folder"
	done
	for folder in shared boot; do
		mkdir -p "$LAB_DIR/$folder" "/var/lib/libvirt/$folder"
		mount --bind "$LAB_DIR/$folder" "/var/lib/libvirt/$folder"
	done
	mkdir -p /var/lib/libvirt/images
	mount --bind "$LAB_DIR/hosts" /etc/hosts
	[ "$flavour" != qemu10 ] || qemu10_mount
	# As udev has it. Where it is root's alone (a container), libvirt finds that its QEMU may use KVM and its user may not, holds what it
	# knows of QEMU for out of date, and asks QEMU anew for every step, a minute for each VM.
	if [ "$LAB_QEMU_USER" != root ] && [ -e /dev/kvm ]; then
		mknod -m 660 /run/kvm c 10 232 && chown root:kvm /run/kvm && mount --bind /run/kvm /dev/kvm
	fi
	ip link set lo up
	touch "$dir/ready"
	set +e
	trap 'exit 0' TERM
	while :; do # as pid 1, bash also reaps whatever is orphaned
		sleep 86400 &
		wait $!
	done
}

host_up() { # HOST FLAVOUR
	local host=$1 flavour=$2 dir="$LAB_DIR/$1" parent pid
	rm -f "$dir/ready"
	setsid unshare --kill-child -m -u -i -n -p -f -- "$LAB_SELF" __init "$host" "$flavour" \
		</dev/null >"$dir/init.log" 2>&1 &
	parent=$!
	disown "$parent"
	wait_for 10 "$host: start (see $dir/init.log)" test -e "$dir/ready" || return 1
	read -r pid _ <"/proc/$parent/task/$parent/children"
	[ -n "$pid" ] || die "$host: gone again, see $dir/init.log"
	pid_save "$dir/init.pid" "$pid"
	net_join "$host" || die "$host: no network"
	libvirtd_start "$host"
}

lab_up() { # [HOST[:FLAVOUR] ...]
	local arg host flavour known new=() pids=() pid rc=0
	[ $# -gt 0 ] || set -- host1 host2
	for arg in "$@"; do
		host=${arg%%:*} flavour=stock
		[ "$arg" = "$host" ] || flavour=${arg#*:}
		host_number "$host" >/dev/null || exit 1
		host_pid "$host" >/dev/null && continue
		# A host that comes back after a failure of its power is what it was.
		[ "$arg" != "$host" ] || [ ! -e "$LAB_DIR/$host/flavour" ] || flavour=$(<"$LAB_DIR/$host/flavour")
		case $flavour in
		stock) ;;
		qemu10) qemu10_fetch || exit 1 ;;
		*) die "$arg: there is no flavour '$flavour', only stock and qemu10" ;;
		esac
		mkdir -p "$LAB_DIR/$host"
		echo "$flavour" >"$LAB_DIR/$host/flavour"
		new+=("$host")
	done
	[ ${#new[@]} -gt 0 ] || return 0
	mkdir -p "$LAB_DIR/boot" "$LAB_DIR/shared"
	{
		echo "127.0.0.1 localhost"
		for host in $(hosts_known); do echo "$(host_address "$host") $host"; done
	} >"$LAB_DIR/hosts"
	pki_ca && switch_up || die "the lab's network does not come up"
	known=$(hosts_known)
	for host in $known; do
		agent_certificates "$host" && agent_configure "$host" || exit 1
		[[ " ${new[*]} " = *" $host "* ]] || lab_agent reload "$host" 2>/dev/null
	done
	for host in "${new[@]}"; do
		libvirt_configure "$host"
		(host_up "$host" "$(<"$LAB_DIR/$host/flavour")") &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid" || rc=1; done
	return $rc
}

host_end() { # HOST
	local pid
	if pid=$(host_pid "$1"); then
		kill -KILL "$pid"
		wait_for 10 "$1: end" pid_gone "$LAB_DIR/$1/init.pid" || return 1
	fi
	rm -f "$LAB_DIR/$1/init.pid" "$LAB_DIR/$1/ready"
}

host_power_fail() { # HOST
	host_pid "$1" >/dev/null || die "$1 is not up"
	net_cut "$1" # otherwise the kernel would close the dead host's connections with a packet each
	host_end "$1"
}

lab_down() { # [HOST...]
	local host all=0
	[ $# -gt 0 ] || { all=1 && set -- $(hosts_known); }
	for host in "$@"; do host_end "$host" || return 1; done
	[ $all = 0 ] || switch_down
}

lab_status() {
	local host pid
	for host in $(hosts_known); do
		if pid=$(host_pid "$host"); then
			echo "$host up address=$(host_address "$host") flavour=$(<"$LAB_DIR/$host/flavour") init=$pid"
			nsenter -t "$pid" -p -m -- ps -eo pid,rss,args --no-headers | grep -vE ' (ps -eo|sleep 86400|/bin/bash .*__init)' |
				cut -c1-110 | sed 's/^/    /'
		else
			echo "$host down"
		fi
	done
}
