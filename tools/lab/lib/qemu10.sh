# qemu10.sh - QEMU 10 and libvirt 11 of Debian backports for a host of the lab: fetched by apt into a cache, unpacked there
# and never installed; mounted over the machine's own in that host alone.
# shellcheck shell=bash

QEMU10_CACHE=$LAB_CACHE/qemu10
QEMU10_TREE=$QEMU10_CACHE/tree
QEMU10_PACKAGES="qemu-system-x86 qemu-system-common qemu-system-data qemu-utils qemu-block-extra seabios
	libvirt0 libvirt-common libvirt-clients libvirt-daemon libvirt-daemon-common libvirt-daemon-lock libvirt-daemon-log
	libvirt-daemon-driver-qemu libvirt-daemon-driver-storage libvirt-daemon-driver-network libvirt-daemon-driver-interface
	libvirt-daemon-driver-nodedev libvirt-daemon-driver-secret libvirt-daemon-driver-nwfilter"
QEMU10_LIBDIR=usr/lib/x86_64-linux-gnu

# apt with lists, cache and the one source of its own.
qemu10_apt() {
	local own=$QEMU10_CACHE/apt
	"$@" -qq -o Dir::Etc::sourcelist="$own/backports.sources" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$own/lists" -o Dir::Cache="$own/cache" -o APT::Sandbox::User=root
}

# Where the machine gets its own Debian from, backports are too.
qemu10_source() {
	local uri release
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	[ "$release" = bookworm ] || { echo "backports of QEMU 10 are for Debian 12, this is $release" >&2; return 1; }
	# shellcheck disable=SC2016 # apt expands these
	uri=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^bookworm //p' | head -1)
	[ -n "$uri" ] || { echo "apt knows no source of Debian bookworm" >&2; return 1; }
	printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\n' "$uri"
	[ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
		echo "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"
}

# Unpacked and complete after success; otherwise says why it is not.
qemu10_fetch() {
	local own=$QEMU10_CACHE/apt deb log=$QEMU10_CACHE/fetch.log
	[ -e "$QEMU10_TREE/.complete" ] && return 0
	mkdir -p "$own/lists/partial" "$own/cache/archives/partial" "$own/debs" || return 1
	exec {qemu10_lock}>"$QEMU10_CACHE/.lock"
	flock -w 300 "$qemu10_lock" || return 1
	[ -e "$QEMU10_TREE/.complete" ] && return 0
	if qemu10_source >"$own/backports.sources" 2>"$log" && qemu10_apt timeout 120 apt-get update >>"$log" 2>&1 &&
		(cd "$own/debs" && rm -f ./*.deb &&
			# shellcheck disable=SC2086 # a list of words
			qemu10_apt timeout 300 apt-get download -t bookworm-backports $QEMU10_PACKAGES) >>"$log" 2>&1; then
		rm -rf "$QEMU10_TREE" && mkdir -p "$QEMU10_TREE"
		for deb in "$own"/debs/*.deb; do dpkg -x "$deb" "$QEMU10_TREE" >>"$log" 2>&1 || return 1; done
		rm -rf "$own"
		chmod 755 "$QEMU10_CACHE" "$QEMU10_TREE"
		touch "$QEMU10_TREE/.complete"
	else
		echo "QEMU 10 cannot be fetched from Debian backports: $(tail -1 "$log")" >&2
		return 1
	fi
}

# In the host's own mount namespace: the tree's programs, libraries and data over the machine's.
qemu10_mount() {
	local path target folders="$QEMU10_LIBDIR/libvirt $QEMU10_LIBDIR/qemu usr/share/libvirt usr/share/qemu usr/share/seabios"
	for path in $folders; do
		[ ! -d "/$path" ] || mount --bind "$QEMU10_TREE/$path" "/$path"
	done
	for path in $(cd "$QEMU10_TREE" && echo usr/bin/* usr/sbin/* usr/lib/libvirt/* "$QEMU10_LIBDIR"/libvirt*.so.0); do
		target=$(readlink -f "/$path") || continue
		[ ! -f "$target" ] || mount --bind "$(readlink -f "$QEMU10_TREE/$path")" "$target"
	done
}
