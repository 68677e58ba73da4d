# libvirt.sh - the libvirtd of a host: configuration, start, stop.
# shellcheck shell=bash

libvirt_configure() { # HOST
	local host=$1 etc="$LAB_DIR/$1/fs/etc/libvirt" group=root own=0
	[ "$LAB_QEMU_USER" = root ] || { group=kvm && own=1; }
	mkdir -p "$etc"
	libvirt_hook "$host"
	# TCP without authentication is for comparisons with `virsh migrate` only; this network ends at the lab's switch.
	cat >"$etc/libvirtd.conf" <<-E
		host_uuid = "$(printf '5e1f0000-0000-4000-8000-%012d' "$(host_number "$host")")"
		auth_unix_ro = "none"
		auth_unix_rw = "none"
		unix_sock_group = "root"
		unix_sock_rw_perms = "0700"
		listen_tls = 0
		listen_tcp = 1
		listen_addr = "$(host_address "$host")"
		auth_tcp = "none"
		log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
		keepalive_interval = 5
		keepalive_count = 3
	E
	cat >"$etc/qemu.conf" <<-E
		security_driver = "none"
		user = "$LAB_QEMU_USER"
		group = "$group"
		dynamic_ownership = $own
		remember_owner = 0
		namespaces = []
		cgroup_controllers = []
		stdio_handler = "file"
		migrate_tls_x509_cert_dir = "/etc/libvirt/pki"
		migrate_tls_x509_verify = 1
	E
}

# Asked before a VM starts, as the package has it.
libvirt_hook() { # HOST
	local hooks="$LAB_DIR/$1/fs/etc/libvirt/hooks/qemu.d"
	[ -x "$LAB_BUILD/tools/vmferry-hook/vmferry-hook" ] || return 0
	mkdir -p "$hooks" && ln -sfn "$LAB_BUILD/tools/vmferry-hook/vmferry-hook" "$hooks/vmferry"
}

libvirtd_answers() { # HOST
	enter "$1" timeout 5 virsh -q -c qemu:///system list >/dev/null 2>&1
}

libvirtd_start() { # HOST
	enter "$1" /usr/sbin/libvirtd --daemon --listen </dev/null >/dev/null || die "$1: libvirtd does not start"
	wait_for 15 "$1: libvirtd answers (see $LAB_DIR/$1/fs/var/log/libvirt/libvirtd.log)" libvirtd_answers "$1"
}

libvirtd_stop() { # HOST
	enter "$1" sh -c 'pid=$(cat /run/libvirtd.pid) && kill "$pid" || exit 0
		for i in $(seq 300); do kill -0 "$pid" 2>/dev/null || exit 0; sleep 0.05; done; kill -KILL "$pid"'
}
