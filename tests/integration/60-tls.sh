# Who may connect: TLS 1.3, certificates of this fleet, hosts that are listed.
# shellcheck shell=bash

# An attempt by openssl as HOST's client; the server must not say HELLO.
knock() { # CERT-FILE(or -) [OPTION...]
	local cert=$1
	shift
	[ "$cert" = - ] || set -- -cert "$cert.pem" -key "$cert.key" "$@"
	timeout 10 "$TOOLS/lab/lab" exec host1 openssl s_client -connect "$(lab address host2):7350" -CAfile /etc/vmferry/ca.pem \
		-quiet -no_ign_eof "$@" </dev/null >"$WORK/knock" 2>&1 || true
	cat "$WORK/knock"
}

refused_in_log() { # WORDS: said by host2's agent, with the address
	eventually 5 "host2 does not log '$1'" eval "lab agent log host2 | tail -n +$((log_lines + 1)) | grep -iE '$1' | grep -q '$(lab address host1)'"
}

log_lines=0
mark_log() {
	log_lines=$(lab agent log host2 | wc -l)
}

# A certificate of the lab's CA that `vmferry pki` would not make.
certificate() { # NAME FILE [openssl x509 OPTION...]
	(
		LAB_TOOLS=$TOOLS/lab
		. "$LAB_TOOLS/lib/common.sh"
		. "$LAB_TOOLS/lib/agent.sh"
		pki_issue "$@"
	)
}

# host1 is somebody else until identity_back. A test that fails in between leaves a lab that is purged.
keep_identity() {
	in_host host1 cp -a /etc/vmferry/host.pem /etc/vmferry/host.key /etc/vmferry/vmferryd.conf "$WORK/"
}

identity_back() {
	in_host host1 cp -a "$WORK/host.pem" "$WORK/host.key" "$WORK/vmferryd.conf" /etc/vmferry/
	lab agent restart host1
}

test_no_certificate() {
	the_hosts
	mark_log
	knock - >/dev/null
	refused_in_log "certificate"
}

test_tls_1_2() {
	the_hosts
	mark_log
	in_host host1 cp /etc/vmferry/host.pem /etc/vmferry/host.key "$WORK/"
	knock "$WORK/host" -tls1_2 >/dev/null
	grep -iE "alert|version|error" "$WORK/knock"
	refused_in_log "TLS 1.3"
}

test_unknown_host() { # of our CA, but not listed
	the_hosts
	certificate host66 "$WORK/host66"
	keep_identity
	in_host host1 cp "$WORK/host66.pem" /etc/vmferry/host.pem
	in_host host1 cp "$WORK/host66.key" /etc/vmferry/host.key
	in_host host1 sed -i 's/^name = .*/name = "host66";/' /etc/vmferry/vmferryd.conf
	mark_log
	lab agent restart host1
	boot vm1 host1
	move vm1 host2 && fail "worked"
	refused_in_log "host66"
	assert_only_at vm1 host1
	identity_back
}

bad_certificate() { # WORDS: with a bad certificate in place of host1's
	keep_identity
	in_host host1 cp "$WORK/bad.pem" /etc/vmferry/host.pem
	in_host host1 cp "$WORK/bad.key" /etc/vmferry/host.key
	mark_log
	lab agent restart host1 || true
	boot vm1 host1
	move vm1 host2 && fail "worked"
	grep -iE "certificate|CA" "$WORK/out"
	refused_in_log "$1"
	assert_only_at vm1 host1
	identity_back
}

test_expired() {
	the_hosts
	certificate host1 "$WORK/bad" -days -1 2>/dev/null || skip "this openssl makes no expired certificates"
	bad_certificate "expired"
}

test_wrong_ca() { # an agent would not even start with it, so openssl knocks
	the_hosts
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj "/CN=host1" -addext "subjectAltName=DNS:host1" \
		-addext "extendedKeyUsage=serverAuth,clientAuth" -keyout "$WORK/bad.key" -out "$WORK/bad.pem" 2>/dev/null
	mark_log
	knock "$WORK/bad" >/dev/null
	refused_in_log "certificate"
}

test_wrong_server() { # another host answers at host2's address
	the_hosts host1 host2 host3
	keep_identity
	in_host host1 sed -i "s/$(lab address host2)/$(lab address host3)/" /etc/vmferry/vmferryd.conf
	lab agent restart host1
	boot vm1 host1
	move vm1 host2 && fail "worked"
	grep -iE "host3.*host2|expected host2" "$WORK/out"
	assert_only_at vm1 host1
	identity_back
}

test_garbage() { # what is not TLS, or too long, ends that connection and nothing else
	the_hosts
	boot vm1 host1
	local kind
	for kind in /dev/zero /dev/urandom; do
		timeout 5 "$TOOLS/lab/lab" exec host1 bash -c "head -c 100000 $kind >/dev/tcp/$(lab address host2)/7350" || true
	done
	move vm1 host2
	assert_only_at vm1 host2
}
