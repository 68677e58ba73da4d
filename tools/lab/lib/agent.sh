# agent.sh - the vmferryd of a host: certificates, configuration, start, stop.
# shellcheck shell=bash

lab_agent() { # start|stop|restart|kill|freeze|reload|log HOST...
	local what=$1 host
	shift
	for host in "$@"; do
		host_pid "$host" >/dev/null || die "$host is not up"
		case $what in
		start) agent_start "$host" ;;
		stop) agent_signal "$host" TERM ;;
		kill) agent_signal "$host" KILL ;;
		freeze) agent_pid "$host" >/dev/null && enter "$host" kill -STOP "$(agent_pid "$host")" ;;
		restart) agent_signal "$host" TERM && agent_start "$host" ;;
		reload) agent_pid "$host" >/dev/null && enter "$host" kill -HUP "$(agent_pid "$host")" ;;
		log) cat "$LAB_DIR/$host/vmferryd.log" ;;
		*) die "agent $what: start, stop, restart, kill, freeze, reload or log" ;;
		esac || return 1
	done
}

# ---- certificates ----

VMFERRY=$LAB_BUILD/tools/vmferry/vmferry

# By `vmferry pki` where it is built; otherwise by openssl, with the same names and properties.
pki_ca() {
	local pki="$LAB_DIR/pki"
	[ -e "$pki/ca.pem" ] && return 0
	if [ -x "$VMFERRY" ]; then
		"$VMFERRY" pki init --ca "$pki" --name "lab" >/dev/null && return 0
		die "no CA"
	fi
	mkdir -p "$pki" && chmod 700 "$pki"
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=lab" \
		-addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
		-keyout "$pki/ca.key" -out "$pki/ca.pem" 2>"$pki/openssl.log" || die "no CA: $(tail -1 "$pki/openssl.log")"
}

pki_host() { # HOST FOLDER: FOLDER/host.pem and host.key
	if [ -x "$VMFERRY" ]; then
		"$VMFERRY" pki issue "$1" --ca "$LAB_DIR/pki" --out "$2" >/dev/null || die "no certificate for $1"
	else
		pki_issue "$1" "$2/host"
	fi
}

# pki_issue NAME FILE [openssl x509 options]: FILE.pem and FILE.key, signed by the lab's CA, by openssl: also such that
# `vmferry pki` would not make.
pki_issue() {
	local name=$1 file=$2 log="$LAB_DIR/pki/openssl.log"
	shift 2
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout "$file.key" \
		-out "$file.csr" 2>"$log" &&
		openssl x509 -req -in "$file.csr" -CA "$LAB_DIR/pki/ca.pem" -CAkey "$LAB_DIR/pki/ca.key" -CAcreateserial \
			-days 30 "$@" -out "$file.pem" -extfile <(
				echo "subjectAltName=DNS:$name"
				echo "extendedKeyUsage=serverAuth,clientAuth"
				echo "keyUsage=critical,digitalSignature"
				echo "basicConstraints=critical,CA:FALSE"
			) 2>>"$log" || die "no certificate for $name: $(tail -1 "$log")"
	rm -f "$file.csr"
	chmod 600 "$file.key"
}

agent_certificates() { # HOST
	local host=$1 etc="$LAB_DIR/$1/fs/etc/vmferry" tls="$LAB_DIR/$1/fs/etc/libvirt/pki" role
	mkdir -p "$etc" "$tls"
	[ -e "$etc/host.pem" ] || pki_host "$host" "$etc" || return 1
	cp -f "$LAB_DIR/pki/ca.pem" "$etc/ca.pem"
	# The same for QEMU's own TLS, which `virsh migrate --tls` uses.
	cp "$etc/ca.pem" "$tls/ca-cert.pem"
	for role in server client; do
		cp "$etc/host.pem" "$tls/$role-cert.pem"
		cp "$etc/host.key" "$tls/$role-key.pem"
	done
	[ "$LAB_QEMU_USER" = root ] || chown -R "$LAB_QEMU_USER" "$tls"
}

# ---- configuration ----

agent_configure() { # HOST: every other host of the lab may do everything here
	local host=$1 etc="$LAB_DIR/$1/fs/etc/vmferry" group="" peer comma=
	[ "$LAB_QEMU_USER" = root ] || group=kvm
	mkdir -p "$etc"
	{
		echo "name = \"$host\";"
		echo "libvirt: { qemu_group = \"$group\"; };"
		echo "peers = ("
		for peer in $(hosts_known); do
			[ "$peer" = "$host" ] && continue
			printf '%s  { name = "%s"; address = "%s"; roles = [ "migrate-in", "operate", "replicate-in" ]; }' "$comma" "$peer" \
				"$(host_address "$peer")"
			comma=$',\n'
		done
		printf '\n);\n'
	} >"$etc/vmferryd.conf"
}

# ---- the process ----

agent_pid() { # HOST: as seen in the host
	enter "$1" sh -c 'read -r pid 2>/dev/null </run/vmferryd.pid && read -r comm 2>/dev/null </proc/$pid/comm &&
		[ "$comm" = vmferryd ] && echo "$pid"'
}

agent_listens() { # HOST
	agent_pid "$1" >/dev/null || return 2
	enter "$1" sh -c 'ss -lxH | grep -q /run/vmferry/control.sock && ss -ltH | grep -q :7350'
}

agent_start() { # HOST
	local host=$1 log="$LAB_DIR/$1/vmferryd.log" as=()
	[ -z "${LAB_AGENT_UNIT:-}" ] || as=("$LAB_TOOLS/as-unit" "$LAB_AGENT_UNIT")
	[ -x "$LAB_BUILD/tools/vmferryd/vmferryd" ] || die "no vmferryd in $LAB_BUILD: build it, or set VMFERRY_BUILD"
	agent_pid "$host" >/dev/null && return 0
	echo "--- start" >>"$log"
	enter "$host" setsid sh -c 'echo $$ >/run/vmferryd.pid; exec "$@"' sh "${as[@]}" vmferryd \
		--config /etc/vmferry/vmferryd.conf </dev/null >>"$log" 2>&1 &
	disown $!
	wait_for 10 "$host: vmferryd listens (see $log)" agent_listens "$host" && return 0
	tail -5 "$log" >&2
	return 1
}

agent_signal() { # HOST SIGNAL: and wait for the end, which a stuck agent does not delay for more than 20 s
	enter "$1" sh -c 'read -r pid 2>/dev/null </run/vmferryd.pid && kill -'"$2"' "$pid" 2>/dev/null || exit 0
		# A zombie has ended: nsenter stops together with an agent that was stopped, and then reaps nothing.
		for i in $(seq 400); do grep -q "^State:.[^Z]" "/proc/$pid/status" 2>/dev/null || { rm -f /run/vmferryd.pid; exit 0; }; sleep 0.05; done
		kill -KILL "$pid"; rm -f /run/vmferryd.pid; echo "vmferryd did not end within 20 s, killed" >&2; exit 1'
}
