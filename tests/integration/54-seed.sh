# Where a first copy starts from: an image at the target that its operator has given out, or a replica that stayed. What is measured is what host1 puts on the
# wire. The guest is the boot sector under KVM with a disk of random data beside it, which it never touches: disks alone are protected.
# shellcheck shell=bash
# long seed_cut
# limit seed_cut 240

IMAGES=/var/lib/libvirt/images
SEEDS=$IMAGES/seeds
DATA_MB=64

guest_with_data() {
	local fs
	[ -w /dev/kvm ] || skip "no /dev/kvm: the boot sector is for KVM"
	the_hosts host1:stock host2:stock
	fs=$VMFERRY_LAB/host2/fs$SEEDS
	rm -rf "$fs" && mkdir -p "$fs"
	guest start host1 vm1 mem=64 sector=100 spin=1000 record=1
	head -c ${DATA_MB}M /dev/urandom >"$VMFERRY_LAB/host1/fs$IMAGES/vm1-data.raw"
	in_host host1 virsh -q attach-disk vm1 $IMAGES/vm1-data.raw vdb --subdriver raw --live
	# 5 % of it has changed since: a stretch, and single blocks.
	cp "$VMFERRY_LAB/host1/fs$IMAGES/vm1-data.raw" "$fs/old.raw"
	change "$fs/old.raw" 2M 10M
	change "$fs/old.raw" 1M 40M
	in_host host2 sh -c "cd $SEEDS && qemu-img convert -O qcow2 old.raw old.qcow2 && qemu-img create -q -f qcow2 -b old.qcow2 -F qcow2 over.qcow2"
	give_out ""
}

change() { # FILE BYTES AT
	head -c "$2" /dev/urandom | dd of="$1" bs=64k seek=$(($(numfmt --from=iec "$3") / 65536)) conv=notrunc iflag=fullblock status=none
}

give_out() { # FOLDER: at host2
	local conf=$VMFERRY_LAB/host2/fs/etc/vmferry/vmferryd.conf
	sed -i '/^replication/d' "$conf"
	[ -z "$1" ] || echo "replication: { seed_folders = [ \"$1\" ]; };" >>"$conf"
	lab agent restart host2
}

protect() { # OPTION...
	vmferry_at host1 protect vm1 --to host2 --mode disk --rpo 2s "$@"
}

status_value() { # KEY [HOST]
	in_host "${2:-host1}" vmferry status vm1 --json | sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\).*/\1/p" | head -1
}

is_state() { [ "$(status_value state)" = "$1" ]; }

reason_has() { # WORDS [HOST]
	[[ $(status_value reason "${2:-host1}") == *"$1"* ]]
}

sent_since() { # BYTES: MiB that host1 has put on the wire
	echo $((($(lab sent host1) - $1) >> 20))
}

assert_same_data() {
	in_host host2 rm -rf $IMAGES/exported
	in_host host2 vmferry export vm1 $IMAGES/exported >/dev/null
	qemu-img compare -U -f raw -F qcow2 "$VMFERRY_LAB/host1/fs$IMAGES/vm1-data.raw" "$VMFERRY_LAB/host2/fs$IMAGES/exported/vdb.qcow2" ||
		fail "the replica's disk is not the VM's"
	in_host host2 vmferry verify vm1 >/dev/null || fail "the replica does not verify"
}

end_protection() {
	in_host host1 vmferry unprotect vm1 --forget --yes >/dev/null
}

test_seed_image() {
	local before sent
	guest_with_data
	note "what is not taken"
	assert_says 3 "in no folder that is given out" protect --seed vdb=$SEEDS/old.qcow2
	give_out $SEEDS
	assert_says 3 "in no folder that is given out" protect --seed vdb=/etc/passwd
	assert_says 3 "has a backing file" protect --seed vdb=$SEEDS/over.qcow2
	assert_says 3 "No such file" protect --seed vdb=$SEEDS/none.qcow2
	assert_says 3 "the disk of" protect --seed hda=$SEEDS/old.qcow2
	assert_says 3 "2 disks that are replicated" protect --seed $SEEDS/old.qcow2
	assert_says 3 "no disk vdx" protect --seed vdx=$SEEDS/old.qcow2
	in_host host2 sh -c "qemu-nbd -f qcow2 --fork --pid-file=/run/nbd.pid -k /run/nbd.sock $SEEDS/old.qcow2"
	assert_says 3 "in use by a QEMU" protect --seed vdb=$SEEDS/old.qcow2
	in_host host2 sh -c 'kill "$(cat /run/nbd.pid)"; while [ -e /run/nbd.sock ]; do sleep 0.05; done'
	in_host host2 vmferry status | grep vm1 && fail "something of a protection that was refused is there"

	before=$(lab sent host1)
	protect --seed vdb=$SEEDS/old.qcow2 --wait
	sent=$(sent_since "$before")
	note "$sent MiB on the wire for a disk of $DATA_MB MiB of which 3 MiB have changed"
	[ "$sent" -ge 3 ] && [ "$sent" -le 8 ] || fail "$sent MiB were sent"
	assert_says 3 "points of VM vm1 already" protect --seed vdb=$SEEDS/old.qcow2
	assert_same_data

	note "a replica that stayed"
	in_host host1 vmferry unprotect vm1 --yes
	before=$(lab sent host1)
	protect --wait
	sent=$(sent_since "$before")
	note "$sent MiB on the wire"
	[ "$sent" -le 2 ] || fail "$sent MiB were sent"
	assert_same_data
	end_protection

	note "a raw one, and of something else: it only costs"
	change "$VMFERRY_LAB/host2/fs$SEEDS/old.raw" ${DATA_MB}M 0
	protect --seed vdb=$SEEDS/old.raw --wait
	assert_same_data
	end_protection
}

# A logical volume, say: whole, not in use, and of the disk's size.
test_seed_block_device() {
	local loop before sent holder
	guest_with_data
	give_out $SEEDS
	loop=$(losetup -f --show "$VMFERRY_LAB/host2/fs$SEEDS/old.raw" 2>"$WORK/loop") || skip "no loop device: $(cat "$WORK/loop")"
	trap 'rc=$?; set +e; losetup -d "$loop"; (exit $rc); end_of_shell' EXIT
	in_host host2 mknod $SEEDS/lv b 7 "${loop#/dev/loop}"
	in_host host2 ln -s "$loop" $SEEDS/link
	note "what is not taken"
	assert_says 3 "in no folder that is given out" protect --seed vdb="$loop"
	assert_says 3 "in no folder that is given out" protect --seed vdb=$SEEDS/link
	assert_says 3 "the disk of" protect --seed hda=$SEEDS/lv
	python3 -c '
import os, sys
os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL)
open(sys.argv[2], "w").close()
sys.stdin.read()' "$loop" "$WORK/held" < <(sleep 60) &
	holder=$!
	eventually 10 "the device is not held" test -e "$WORK/held"
	assert_says 3 "busy" protect --seed vdb=$SEEDS/lv
	kill "$holder"
	wait "$holder" || true
	in_host host2 vmferry status | grep vm1 && fail "something of a protection that was refused is there"

	before=$(lab sent host1)
	protect --seed vdb=$SEEDS/lv --wait
	sent=$(sent_since "$before")
	note "$sent MiB on the wire for a disk of $DATA_MB MiB of which 3 MiB have changed"
	[ "$sent" -ge 3 ] && [ "$sent" -le 8 ] || fail "$sent MiB were sent"
	assert_same_data
	end_protection
}

# The link goes while the peer reads, and while the rest travels: both go on.
test_seed_cut() {
	local before sent
	guest_with_data
	give_out $SEEDS
	# Half of it: 32 MiB, of which a slow link carries about 1.2 MiB a second.
	change "$VMFERRY_LAB/host2/fs$SEEDS/old.raw" 32M 0
	VMFERRY_FAULT=replica.seeded=delay:6000 lab agent restart host2
	lab rate host1 10
	before=$(lab sent host1)
	protect --seed vdb=$SEEDS/old.raw
	eventually 20 "the image is read" reason_has "reads the image"
	lab cut host2
	eventually 20 "a lost link is said" reason_has "host2"
	eventually 30 "the image is read without a link" logged host2 "event=replica_seed .*ms="
	lab restore host2
	eventually 30 "the rest travels" reason_has "first copy is on its way"
	eventually 60 "a part of it is there" sent_at_least "$before" 22
	lab cut host2
	eventually 20 "a lost link is said" cut_is_said
	lab restore host2
	lab rate host1 off
	eventually 60 "it is protected" is_state protected
	sent=$(sent_since "$before")
	note "$sent MiB on the wire for 32 MiB of changes, with a cut"
	[ "$sent" -lt 48 ] || fail "$sent MiB were sent: what was there at the cut was sent again"
	assert_same_data
	end_protection
}

sent_at_least() { # BYTES MIB
	[ "$(sent_since "$1")" -ge "$2" ]
}

cut_is_said() { # anything but that all is well
	! reason_has "first copy is on its way"
}
