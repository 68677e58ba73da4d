# The state of a running VM at an instant: snapshot/capture against real QEMU, through libvirt.
# shellcheck shell=bash

#
# Where KVM is a software one, a boot sector takes its time to come up on a machine that has other things to do.
# limit colo 240
# limit colo_disk 240
# limit user_pause 240
# limit killed 240
# limit background 240
# limit background_qemu10 240

CAPTURE=$VMFERRY_BUILD/tools/dev/capture-dump

capture() { # HOST VM [OPTION...]: what it says is in $WORK/out, its status is returned
	local host=$1 rc=0
	shift
	echo "\$ $host: capture-dump $*"
	timeout -k 5 80 "$TOOLS/lab/lab" exec "$host" "$CAPTURE" "$@" >"$WORK/out" 2>&1 </dev/null || rc=$?
	cut -c1-250 "$WORK/out"
	return $rc
}

# A boot sector that writes 1000 pages a round, and has begun to.
sector() { # NAME HOST [SETTING...]
	local name=$1 host=$2
	shift 2
	[ -w /dev/kvm ] || skip "no /dev/kvm"
	guest start "$host" "$name" mem=128 sector=1000 spin=1000 "$@"
	eventually 60 "the boot sector of $name does not run" rounds "$name" "$host"
}

rounds() { # NAME HOST: has it begun its second round?
	[ $(($(word_of "$1" "$2"))) -gt 0 ]
}

qmp() { # HOST VM COMMAND [ARGUMENTS]
	in_host "$1" virsh -q qemu-monitor-command "$2" "{\"execute\":\"$3\",\"arguments\":{${4:-}}}"
}

# Nothing of a capture is left in QEMU, and it goes on.
assert_clean() { # HOST VM
	local seen
	seen=$(qmp "$1" "$2" query-migrate-capabilities | grep -oE '"state":true,"capability":"[^"]*"|"capability":"[^"]*","state":true' | grep -v '"events"' || true)
	[ -z "$seen" ] || fail "left on: $seen"
	for seen in query-named-block-nodes query-block-jobs query-block-exports query-fdsets; do
		! qmp "$1" "$2" $seen | grep -q vmferry- || fail "$seen still lists something of ours"
	done
	[ "$(in_host "$1" virsh -q domstate "$2")" = running ] || fail "$2 does not run"
}

word_of() { # NAME HOST: what its first page counts
	in_host "$2" virsh -q qemu-monitor-command "$1" --hmp 'xp /1xw 0x100000' | grep -o '0x[0-9a-f]\{8\}' | tail -1
}

counts_on() { # NAME HOST BEFORE
	[ "$(word_of "$1" "$2")" != "$3" ]
}

goes_on() { # NAME HOST: its round changes
	eventually 20 "$1 does not go on" counts_on "$1" "$2" "$(word_of "$1" "$2")"
}

test_colo() { # every checkpoint is one instant of the guest, and holds no more than was written
	the_hosts host1:stock
	sector vm1 host1
	capture host1 vm1 --mode colo --sector 1000 --points 30 --every 20
	grep -q '^mode=colo' "$WORK/out"
	[ "$(grep -c 'one_instant=yes' "$WORK/out")" = 30 ] || fail "not all points came"
	local pages
	pages=$(sed -n 's/^point=.* pages=\([0-9]*\) .*/\1/p' "$WORK/out" | sort -n | tail -1)
	[ "$pages" -le 1010 ] || fail "$pages pages in a checkpoint of a guest that writes 1000"
	assert_clean host1 vm1
	goes_on vm1 host1
	capture host1 vm1 --sector 1000 --points 3 # again, without a restart of the VM
	grep -q '^mode=colo' "$WORK/out" || fail "KVM and QEMU 7.2 are for COLO"
	assert_clean host1 vm1
}

test_colo_disk() { # a disk joins at the instant
	the_hosts host1:stock
	sector vm1 host1
	in_host host1 qemu-img create -q -f qcow2 /var/lib/libvirt/images/vm1.extra.qcow2 200M
	in_host host1 virsh -q attach-disk vm1 /var/lib/libvirt/images/vm1.extra.qcow2 vdb --driver qemu --subdriver qcow2
	local dev=/machine/peripheral/virtio-disk1/virtio-backend
	qmp host1 vm1 human-monitor-command "\"command-line\":\"qemu-io -d $dev \\\"write -P 0x11 1M 300k\\\"\"" >/dev/null
	cat >"$WORK/hook" <<-END
		#!/bin/sh
		virsh -q qemu-monitor-command vm1 --hmp "qemu-io -d $dev \\"write -P \$1 \${1}0M 100k\\"" >/dev/null
	END
	chmod +x "$WORK/hook"
	mkdir "$WORK/dump"
	capture host1 vm1 --mode colo --sector 1000 --points 5 --every 20 --hook "$WORK/hook" --out "$WORK/dump"
	assert_clean host1 vm1
	[ "$(sed -n 's/^point=[2-5] .* disk_blocks=\([0-9]*\) .*/\1/p' "$WORK/out" | sort -nu | tr '\n' ' ')" = "32 " ] || fail "100 KiB in two grains are 32 blocks"
	# The last write came after the last point.
	in_host host1 qemu-img convert -U -O raw /var/lib/libvirt/images/vm1.extra.qcow2 "$WORK/now.raw"
	cmp -n $((50 << 20)) "$WORK/dump/vdb.raw" "$WORK/now.raw" || fail "the disk is not as it was"
	cmp -s "$WORK/dump/vdb.raw" "$WORK/now.raw" && fail "the disk has what was written after the point"
	goes_on vm1 host1
}

test_user_pause() { # the user's pause stays, and the capture goes on after it
	the_hosts host1:stock
	sector vm1 host1
	cat >"$WORK/hook" <<-'END'
		#!/bin/sh
		[ "$1" != 2 ] || { sleep 3; virsh -q suspend vm1; }
	END
	chmod +x "$WORK/hook"
	local rc=0
	capture host1 vm1 --mode colo --sector 1000 --points 4 --hook "$WORK/hook" || rc=$?
	[ $rc = 3 ] || fail "status $rc, not 3 (not now)"
	[ "$(grep -c '^point=' "$WORK/out")" = 2 ] || fail "a checkpoint was made of a VM that its user had paused"
	[ "$(in_host host1 virsh -q domstate vm1)" = paused ] || fail "the user's pause was undone"
	in_host host1 virsh -q resume vm1
	assert_clean host1 vm1
	goes_on vm1 host1
}

test_killed() { # a capture that died leaves a VM that the next one frees and cleans
	the_hosts host1:stock
	sector vm1 host1
	local i pid
	for i in 1 2 3; do
		# A file for each: the one before has its third point already.
		lab exec host1 "$CAPTURE" vm1 --mode colo --points 100000 >"$WORK/killed.$i" 2>&1 &
		eventually 20 "no checkpoint" grep -qs '^point=3' "$WORK/killed.$i"
		pid=$(in_host host1 pgrep -f "^$CAPTURE vm1")
		in_host host1 kill -9 "$pid"
		wait $! || true
		capture host1 vm1 --clean-up
		assert_clean host1 vm1
		goes_on vm1 host1
	done
	capture host1 vm1 --mode colo --sector 1000 --points 2
}

background() { # HOST ACCEL
	guest start "$1" vm1 mem=256 disk=300M data=20 accel="$2"
	guest ask vm1 "load counters 1000 16" >/dev/null
	guest ask vm1 "disk 50 20" >/dev/null
	# Inside the host it cannot ask the guest, so it is done outside.
	cat >"$WORK/hook" <<-END
		#!/bin/sh
		[ "\$1" = 3 ] || exit 0
		touch "$WORK/hush"
		for i in \$(seq 200); do [ -e "$WORK/quiet" ] && exit 0; sleep 0.1; done
		exit 1
	END
	chmod +x "$WORK/hook"
	mkdir "$WORK/dump"
	(
		eventually 70 "no third point" test -e "$WORK/hush"
		guest ask vm1 "disk 0" >/dev/null
		touch "$WORK/quiet"
	) &
	capture "$1" vm1 --mode "$3" --points 5 --every 200 --hook "$WORK/hook" --out "$WORK/dump"
	wait $!
	[ "$(grep -c '^point=' "$WORK/out")" = 5 ] || fail "not all points came"
	assert_clean "$1" vm1
	# Nobody writes any more: the disk that was put together from five points is the disk.
	in_host "$1" qemu-img convert -U -O raw /var/lib/libvirt/images/vm1.qcow2 "$WORK/now.raw"
	cmp "$WORK/dump/vda.raw" "$WORK/now.raw" || fail "the disk's points do not add up to the disk"
	local answer
	for answer in verify diskcheck; do
		[ "$(value mismatches "$(guest ask vm1 $answer)")" = 0 ] || { touch "$WORK/differs" && fail "$answer after $3"; }
	done
}

test_background() {
	the_hosts host1:stock
	background host1 tcg background
	grep -q ' memory=yes' "$WORK/out"
}

test_background_qemu10() {
	need_qemu10
	the_hosts host1:qemu10
	background host1 tcg background
}

test_disk() { # disks alone: the VM never stands still
	the_hosts host1
	background host1 tcg disk
	! grep -q '^point=.* pause_us=[1-9]' "$WORK/out" || fail "it stood still"
}

test_refused() { # COLO where it would end badly
	the_hosts host1
	guest start host1 vm1 mem=128 accel=tcg
	local rc=0
	capture host1 vm1 --mode colo || rc=$?
	[ $rc = 1 ] || fail "status $rc"
	grep -q 'emulated' "$WORK/out" || fail "the reason is not said"
	assert_clean host1 vm1
}
