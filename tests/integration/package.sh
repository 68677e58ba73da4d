#!/bin/bash
# The Debian package: builds it, lets lintian look at it, unpacks it and installs it into a root of its own, runs what is in it.
# VMFERRY_BUILD is the build folder (default: build/release). Prints "ok NAME", "not ok NAME" or "skipped NAME: reason".
set -u -o pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
build=${VMFERRY_BUILD:-$root/build/release}
work=$(mktemp -d /tmp/vmferry-package.XXXXXX) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0

check() { # NAME COMMAND...: its output is shown when it fails
	local name=$1
	shift
	if "$@" >"$work/log" 2>&1; then
		echo "ok package: $name"
	else
		echo "not ok package: $name"
		sed 's/^/    /' "$work/log"
		failed=1
	fi
}

make_package() {
	(cd "$build" && timeout 900 cpack -G DEB -B "$work/out") || return 1
	mv "$work"/out/vmferry_*.deb "$work/vmferry.deb"
}

lint() {
	local said
	said=$(lintian --fail-on none --tag-display-limit 0 "$work/vmferry.deb" 2>&1)
	echo "$said"
	! grep -q '^E:' <<<"$said"
}

contents() {
	dpkg -x "$work/vmferry.deb" "$work/root" || return 1
	local file missing=0
	for file in usr/bin/vmferry usr/sbin/vmferryd usr/libexec/vmferry-guardian etc/vmferry/vmferryd.conf lib/systemd/system/vmferryd.service \
		usr/share/man/man1/vmferry.1.gz usr/share/man/man8/vmferryd.8.gz usr/share/man/man5/vmferryd.conf.5.gz \
		usr/share/bash-completion/completions/vmferry usr/share/doc/vmferry/copyright \
		usr/share/doc/vmferry/examples/vmferryd.conf.example; do
		[ -e "$work/root/$file" ] || { echo "missing: $file"; missing=1; }
	done
	[ "$(readlink "$work/root/etc/libvirt/hooks/qemu.d/vmferry")" = /usr/sbin/vmferry-hook ] && [ -x "$work/root/usr/sbin/vmferry-hook" ] ||
		{ echo "no hook"; missing=1; }
	[ "$missing" = 0 ] && ! find "$work/root" -path '*/usr/local*' | grep .
}

# Every library that the programs are linked with comes in by Depends.
depends() {
	local list
	list=$(dpkg-deb -f "$work/vmferry.deb" Depends) || return 1
	echo "$list"
	local name
	for name in libc6 libvirt0 libssl3 libzstd1 libconfig9 libjansson4 libsqlite3-0 libsmartcols1 qemu-utils; do
		grep -q "$name" <<<"$list" || { echo "no $name"; return 1; }
	done
}

conffiles() {
	dpkg-deb -I "$work/vmferry.deb" conffiles | grep -x /etc/vmferry/vmferryd.conf
}

check_config() {
	"$work/root/usr/sbin/vmferryd" --check-config --config "$work/root/etc/vmferry/vmferryd.conf" &&
		"$work/root/usr/bin/vmferry" --version && "$work/root/usr/bin/vmferry" --help
}

bad_config() {
	echo 'listen: { prt = 1; };' >"$work/bad.conf"
	"$work/root/usr/sbin/vmferryd" --check-config --config "$work/bad.conf"
	[ $? -eq 2 ]
}

# Into a database of its own, scripts included: they must cope with a system that systemd does not run.
install_and_purge() {
	local db=$work/instroot
	mkdir -p "$db/var/lib/dpkg/info" "$db/var/lib/dpkg/updates" "$db/var/log" && : >"$db/var/lib/dpkg/status" || return 1
	local dpkg=(dpkg --root="$db" --log=/dev/null --force-depends --force-script-chrootless --force-not-root)
	DPKG_ROOT=$db "${dpkg[@]}" --no-triggers -i "$work/vmferry.deb" || return 1
	[ -x "$db/usr/sbin/vmferryd" ] || return 1
	echo '# mine' >>"$db/etc/vmferry/vmferryd.conf"
	DPKG_ROOT=$db "${dpkg[@]}" -r vmferry || return 1
	[ ! -e "$db/usr/sbin/vmferryd" ] && grep -qx '# mine' "$db/etc/vmferry/vmferryd.conf" || return 1
	DPKG_ROOT=$db "${dpkg[@]}" -P vmferry && [ ! -e "$db/etc/vmferry/vmferryd.conf" ]
}

unit() {
	sed "s|/usr/sbin/vmferryd|$work/root/usr/sbin/vmferryd|" "$work/root/lib/systemd/system/vmferryd.service" \
		>"$work/vmferryd.service"
	local said
	said=$(systemd-analyze verify --man=no "$work/vmferryd.service" 2>&1 | grep -F vmferryd.service)
	echo "$said"
	[ -z "$said" ]
}

completion() {
	# The words that bash offers, without a terminal and without the helpers of the bash-completion package.
	bash -c '
		_init_completion() { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}")
			cword=$COMP_CWORD split=false; }
		. "$1" || exit 1
		offer() { COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=(); _vmferry; echo "${COMPREPLY[*]}"; }
		set -x
		[ "$(offer vmferry mig)" = migrate ] && [ "$(offer vmferry pki i)" = "init issue" ] &&
			[ "$(offer vmferry migrate --copy)" = --copy-storage ] &&
			[ "$(offer vmferry --json migrate --on-stall p)" = "pause postcopy" ] &&
			[ "$(offer vmferry drain --dr)" = --dry-run ]' - \
		"$work/root/usr/share/bash-completion/completions/vmferry"
}

manuals() {
	local page said
	for page in man1/vmferry.1 man8/vmferryd.8 man5/vmferryd.conf.5; do
		said=$(MANWIDTH=80 man --warnings -l -Tutf8 "$work/root/usr/share/man/$page.gz" 2>&1 >/dev/null)
		[ -z "$said" ] || { echo "$page: $said"; return 1; }
	done
}

check "is built" make_package
[ "$failed" = 0 ] || exit 1
if command -v lintian >/dev/null; then
	check "lintian finds no errors" lint
else
	echo "skipped package: lintian: it is not installed"
fi
check "has its files" contents
check "depends on its libraries" depends
check "keeps the configuration" conffiles
check "its programs run, its configuration is right" check_config
check "a wrong configuration ends with 2" bad_config
check "installs, is removed and purged" install_and_purge
if command -v systemd-analyze >/dev/null; then
	check "its unit is right" unit
else
	echo "skipped package: unit: there is no systemd-analyze"
fi
check "bash completes" completion
if command -v man >/dev/null; then
	check "its manual pages are formatted without warnings" manuals
else
	echo "skipped package: manual pages: there is no man"
fi
exit $failed
