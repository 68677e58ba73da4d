# What happens to a VM while it is protected: it is reset, paused, ended; its disks change; somebody else migrates, saves or copies it. Replication goes
# on or says why not, finds by itself what differs, and what comes up at the other host is right. The boot sector under KVM, in COLO, with a disk.
# shellcheck shell=bash
# long jobs
# long blocks
# long files
# long max_pause
# long quiesce
# long crash
# limit quiesce 300
# limit files 240
# limit two_disks 240
# limit max_pause 240
# limit lifecycle 240
# limit devices 300
# limit crash 240
# limit jobs 300
# limit blocks 300

IMAGES=/var/lib/libvirt/images
GRACE=60 # for a machine that has much else to do

protected_guest() { # [SETTING...]
	[ -w /dev/kvm ] || skip "no /dev/kvm: COLO deadlocks QEMU without KVM"
	the_hosts host1:stock host2:stock
	guest start host1 vm1 mem=128 sector=1000 spin=1000 "$@"
	in_host host1 qemu-img create -q -f qcow2 $IMAGES/vm1.vdb.qcow2 64M
	in_host host1 virsh -q attach-disk vm1 $IMAGES/vm1.vdb.qcow2 vdb --driver qemu --subdriver qcow2 --persistent
	write_disk 1 1M
	# The machine may be slow: its pauses are not what is looked at.
	vmferry_at host1 protect vm1 --to host2 --rpo 1s --max-pause 10s
	points_go_on "the first"
	[ "$(value_of capture)" = colo ] || fail "the capture is $(value_of capture): $(value_of capture_reason)"
}

value_of() { # KEY
	in_host host1 vmferry status vm1 --json | sed -n "s/^ *\"$1\": \"\{0,1\}\(.*[^\",]\)\"\{0,1\},\{0,1\}$/\1/p" | head -1
}

status_is() { # STATE REGEX
	local out
	out=$(in_host host1 vmferry status vm1 --json)
	grep -q "\"state\": \"$1\"" <<<"$out" && grep -qE "\"reason\": \".*$2" <<<"$out"
}

more_points_than() { # N
	[ "$(value_of points)" -gt "$1" ]
}

# Of what is there now: the point under way when it was asked does not count.
points_go_on() { # WHAT
	eventually $GRACE "$1: no points any more: $(value_of reason)" more_points_than $(($(value_of points) + 1))
	[ "$(in_host host1 virsh -q domstate vm1)" != "shut off" ] || fail "$1: the guest does not run"
}

write_disk() { # BYTE OFFSET: 300 KiB
	local said
	said=$(in_host host1 virsh -q qemu-monitor-command vm1 --hmp \
		"qemu-io -d /machine/peripheral/virtio-disk1/virtio-backend \"write -P $1 $2 300k\"")
	[ -z "$said" ] || fail "the disk was not written: $said" # what qemu-io itself prints goes to QEMU's log
}

# What QEMU or libvirt refuses while a point is being read works between two.
retried() { # WHAT CMD...
	eventually $GRACE "$1" in_host host1 "${@:2}" 2>"$WORK/refused"
}

counter() { # HOST
	in_host "$1" virsh -q qemu-monitor-command vm1 --hmp 'xp /1xw 0x100000' | grep -o '0x[0-9a-f]\{8\}' | tail -1
}

counts_on() { # HOST COUNTER
	[ "$(counter "$1")" != "$2" ]
}

above() { # HOST COUNTER
	[ $(($(counter "$1"))) -gt "$2" ]
}

# The last point without loss: the guest goes on there, and its disk is the one that it has left here.
fail_over() {
	vmferry_at host2 failover vm1
	local before
	before=$(counter host2)
	eventually $GRACE "the guest counts at its new host" counts_on host2 "$before"
	[ "$(in_host host1 virsh -q domstate vm1)" = paused ] || fail "the guest runs at its old host, too"
	in_host host1 qemu-img convert -U -O raw "$(disk_of host1)" "$WORK/here.raw"
	in_host host2 qemu-img convert -U -O raw "$(disk_of host2)" "$WORK/there.raw"
	cmp "$WORK/here.raw" "$WORK/there.raw" || fail "the disk is another one at the new host"
}

disk_of() { # HOST
	in_host "$1" virsh -q domblklist vm1 | awk '$1 == "vdb" { print $2 }'
}

test_lifecycle() {
	protected_guest reboot=restart
	eventually 90 "the guest counts" above host1 20
	# At whatever moment of a checkpoint.
	for _ in 1 2 3 4 5; do
		in_host host1 timeout 20 virsh -q reset vm1 || fail "QEMU does not answer any more"
		sleep 0.$((RANDOM % 900 + 100))
	done
	eventually 90 "the guest counts after its reset" above host1 0
	write_disk 2 2M
	points_go_on "after a reset"

	in_host host1 virsh -q suspend vm1
	eventually $GRACE "a pause by the user is said" status_is waiting "paused"
	local n
	n=$(value_of points)
	[ "$(in_host host1 virsh -q domstate vm1)" = paused ] || fail "the user's pause was undone"
	in_host host1 virsh -q resume vm1
	points_go_on "after a pause by its user"
	[ "$(value_of points)" -gt "$n" ] || fail "no new points"

	in_host host1 virsh -q destroy vm1
	eventually 8 "its end is said" status_is waiting "ended|shut off"
	in_host host1 virsh -q start vm1
	write_disk 3 3M
	points_go_on "after it was started anew"
	[ "$(times_logged host1 'event=protection .*state=seeding')" = 1 ] || fail "the copy was begun again from nothing"
	eventually 90 "the guest counts" above host1 0
	fail_over
}

# It panics, and QEMU is kept with it: no points of that, nobody lets it go on, here or elsewhere; a user may.
test_crash() {
	protected_guest crash=preserve reboot=restart
	in_host host1 virsh -q qemu-monitor-command vm1 --hmp 'o /b 0x505 1'
	eventually $GRACE "that it has crashed is not said: $(value_of reason)" status_is waiting "has crashed"
	[ "$(in_host host1 virsh -q domstate vm1)" = crashed ] || fail "it is $(in_host host1 virsh -q domstate vm1)"
	vmferry_at host1 vms
	grep -q "crashed" "$WORK/out" || fail "vms does not say that it has crashed"
	assert_says 3 "has crashed" vmferry_at host1 migrate vm1 host2 --copy-storage
	assert_says 3 "has crashed" vmferry_at host1 migrate vm1 host2 --offline
	assert_says 3 "has crashed" vmferry_at host2 failover vm1
	[ "$(in_host host1 virsh -q domstate vm1)" = crashed ] || fail "a failover that was refused has changed it to $(in_host host1 virsh -q domstate vm1)"
	in_host host1 virsh -q reset vm1
	in_host host1 virsh -q resume vm1
	write_disk 9 9M
	points_go_on "after a crash"
	# The last point before the crash is what a failover without its host goes on from.
	in_host host1 virsh -q qemu-monitor-command vm1 --hmp 'o /b 0x505 1'
	eventually $GRACE "that it has crashed is not said" status_is waiting "has crashed"
	vmferry_at host2 failover vm1 --force
	eventually $GRACE "the guest counts at its new host" above host2 0
	eventually $GRACE "the old one is not fenced" status_is fenced "taken this VM over"
	[ "$(in_host host1 virsh -q domstate vm1)" != running ] || fail "it runs twice"
}

test_devices() {
	protected_guest machine=pc # with slots for what is plugged in
	# QEMU plugs nothing in or out while its state is being migrated, as in COLO. That costs a pause of the protection, and no new copy.
	in_host host1 qemu-img create -q -f qcow2 $IMAGES/vm1.vdc.qcow2 8M
	in_host host1 virsh -q attach-disk vm1 $IMAGES/vm1.vdc.qcow2 vdc --driver qemu --subdriver qcow2 2>"$WORK/refused" &&
		fail "QEMU has plugged in a disk while it was in COLO: good news for the manual"
	grep -q "not allowed while migrating" "$WORK/refused" || fail "another reason: $(cat "$WORK/refused")"
	points_go_on "after a disk that was refused"
	vmferry_at host1 pause vm1
	in_host host1 virsh -q attach-disk vm1 $IMAGES/vm1.vdc.qcow2 vdc --driver qemu --subdriver qcow2
	in_host host1 virsh -q attach-interface vm1 bridge vmbr0 --model virtio
	vmferry_at host1 resume vm1
	points_go_on "with another disk and an interface"
	vmferry_at host1 points vm1
	write_disk 4 4M

	retried "the disk cannot be resized" virsh -q blockresize vm1 vdb 96M
	write_disk 5 90M
	points_go_on "after a disk was resized"
	retried "no snapshot can be made" virsh -q snapshot-create-as vm1 s1 --disk-only --no-metadata --diskspec vda,snapshot=no \
		--diskspec vdc,snapshot=no --diskspec vdb,snapshot=external,file=$IMAGES/vm1.vdb.s1
	write_disk 6 6M
	points_go_on "after a snapshot of its disk"
	eventually 90 "the guest counts" above host1 0
	fail_over
	[ "$(stat -c %s "$WORK/there.raw")" = $((96 << 20)) ] || fail "the disk has its old size at the new host"
	[ "$(in_host host2 virsh -q domblklist vm1 | grep -c 'vd[bc]')" = 2 ] || fail "not both disks are at the new host"
	in_host host2 virsh -q domiflist vm1 | grep -q vmbr0 || fail "the interface is not at the new host"
}

on_disks_alone() {
	[ "$(value_of capture)" = disk ] && [[ $(value_of capture_reason) == *"until the VM is started anew"* ]]
}

on_disks_alone_or_ended() {
	on_disks_alone || status_is waiting "ended|shut off"
}

test_jobs() {
	protected_guest
	retried "the disk cannot be copied" virsh -q blockcopy vm1 vdb --dest $IMAGES/vm1.copy.qcow2 --wait --pivot --transient-job
	[ "$(disk_of host1)" = $IMAGES/vm1.copy.qcow2 ] || fail "the copy is not its disk"
	write_disk 7 7M
	points_go_on "after a copy of its disk"
	eventually 90 "the guest counts" above host1 0
	vmferry_at host1 pause vm1
	in_host host1 virsh -q save vm1 $IMAGES/vm1.save
	in_host host1 virsh -q restore $IMAGES/vm1.save
	vmferry_at host1 resume vm1
	points_go_on "after it was saved and restored"
	[ "$(value_of capture)" = colo ] || fail "the capture is $(value_of capture): $(value_of capture_reason)"

	# Not through us, so nobody asks us. QEMU 7.2 forgets COLO over it, and can migrate no more: the disks go on alone, and that is said.
	# In the middle of a checkpoint it may even end.
	in_host host1 virsh -q save vm1 $IMAGES/vm1.save && fail "it was saved while its state was being migrated"
	eventually $GRACE "it goes on without a word" on_disks_alone_or_ended
	if [ "$(value_of capture)" = disk ]; then
		write_disk 8 8M
		lab agent restart host1
		eventually $GRACE "the agent is back" on_disks_alone
		points_go_on "with another agent"
		in_host host1 virsh -q destroy vm1
	else
		note "QEMU has ended over it"
	fi
	eventually 8 "its end is said" status_is waiting "ended|shut off"
	in_host host1 virsh -q start vm1
	points_go_on "after it was started anew"
	[ "$(value_of capture)" = colo ] || fail "the capture is $(value_of capture): $(value_of capture_reason)"
	eventually 90 "the guest counts" above host1 0
	fail_over
}

no_job() {
	in_host host1 virsh -q domjobinfo vm1 2>/dev/null | grep -q "None"
}

# What others do to its disks with libvirt's means: replication goes on, at once or when that is over, and what it has then is right.
test_blocks() {
	protected_guest
	in_host host1 sh -c "cat >/run/backup.xml" <<-E
		<domainbackup><disks>
		<disk name='vda' backup='no'/><disk name='vdb' type='file'><target file='$IMAGES/vm1.backup.qcow2'/><driver type='qcow2'/></disk>
		</disks></domainbackup>
	E
	in_host host1 sh -c "cat >/run/pull.xml" <<-E
		<domainbackup mode='pull'><server transport='unix' socket='/run/backup.sock'/><disks>
		<disk name='vda' backup='no'/><disk name='vdb' backup='yes' type='file'><scratch file='$IMAGES/vm1.scratch.qcow2'/></disk>
		</disks></domainbackup>
	E
	note "a backup that is pushed"
	retried "no backup can be begun" virsh -q backup-begin vm1 /run/backup.xml
	write_disk 1 1M
	eventually $GRACE "the backup does not end" no_job
	in_host host1 qemu-img check -q $IMAGES/vm1.backup.qcow2
	points_go_on "after a backup"

	note "a backup that is pulled, and takes its time"
	retried "no backup can be begun" virsh -q backup-begin vm1 /run/pull.xml
	write_disk 2 2M
	eventually $GRACE "that it keeps points from being made is not said: $(value_of reason)" status_is degraded "block job that is not vmferry's is under way .backup"
	assert_says 3 "block job that is not" vmferry_at host2 failover vm1
	[ "$(in_host host1 virsh -q domstate vm1)" = running ] || fail "the guest does not run"
	in_host host1 virsh -q domjobabort vm1
	points_go_on "after a pull"

	note "a snapshot with memory of nothing, and its disk is committed back"
	retried "no snapshot can be made" virsh -q snapshot-create-as vm1 s1 --disk-only --no-metadata --diskspec vda,snapshot=no \
		--diskspec vdb,snapshot=external,file=$IMAGES/vm1.vdb.s1
	write_disk 3 3M
	points_go_on "on a snapshot"
	write_disk 4 4M
	retried "it cannot be committed" virsh -q blockcommit vm1 vdb --active --pivot --wait
	[ "$(disk_of host1)" = $IMAGES/vm1.vdb.qcow2 ] || fail "it is not committed"
	write_disk 5 5M
	points_go_on "after a commit"

	note "and pulled up"
	retried "no snapshot can be made" virsh -q snapshot-create-as vm1 s2 --disk-only --no-metadata --diskspec vda,snapshot=no \
		--diskspec vdb,snapshot=external,file=$IMAGES/vm1.vdb.s2
	write_disk 6 6M
	points_go_on "on another snapshot"
	retried "it cannot be pulled" virsh -q blockpull vm1 vdb --wait
	in_host host1 qemu-img info -U "$(disk_of host1)" | grep -q "backing file" && fail "it is not pulled"
	write_disk 7 7M
	points_go_on "after a pull"
	eventually 90 "the guest counts" above host1 0
	fail_over
	[ "$(od -An -tu1 -j$((7 << 20)) -N1 "$WORK/there.raw" | tr -d ' ')" = 7 ] || fail "the last write is not there"
}

shown() { # HOST: how many rounds the guest has shown there
	in_host "$1" grep -c '^[0-9a-f]*$' /var/log/libvirt/vm1.console || true
}

more_shown() { # HOST N
	[ "$(shown "$1")" -gt "$2" ]
}

# A guest that writes each round to memory, then to one disk, then to the other, and looks at both before it does. Its host is lost at no particular
# moment; where it goes on, what it finds on its disks is of its memory's instant.
test_two_disks() {
	[ -w /dev/kvm ] || skip "no /dev/kvm: COLO deadlocks QEMU without KVM"
	the_hosts host1:stock host2:stock
	guest start host1 vm1 mem=64 sector=500 spin=2000 record=2
	vmferry_at host1 protect vm1 --to host2 --rpo 1s --max-pause 10s
	points_go_on "the first"
	eventually 90 "the guest counts" above host1 20
	points_go_on "of a guest at work"
	lab cut host1
	vmferry_at host2 failover vm1 --force
	eventually $GRACE "the guest shows nothing at its new host" more_shown host2 3
	! in_host host2 grep -q '[X+]' /var/log/libvirt/vm1.console || fail "memory and disks are not of one instant: $(in_host host2 cat /var/log/libvirt/vm1.console)"
	lab restore host1
	local a b
	in_host host2 virsh -q suspend vm1
	for disk in hda hdb; do
		in_host host2 qemu-img convert -U -O raw "$(in_host host2 virsh -q domblklist vm1 | awk -v d=$disk '$1 == d { print $2 }')" "$WORK/$disk"
	done
	a=$(od -An -tu4 -j512 -N4 "$WORK/hda") b=$(od -An -tu4 -j512 -N4 "$WORK/hdb")
	[ $((a - b)) -ge 0 ] && [ $((a - b)) -le 1 ] && [ "$((b))" -gt 0 ] || fail "the disks hold rounds $a and $b"
}

over_budget() {
	status_is degraded "pauses are over the budget of .*the interval is stretched to"
}

changed_capture() {
	[ "$(value_of capture)" = background ] && [[ $(value_of capture_reason) == *"COLO's pauses were over the budget"* ]]
}

# No pause is so short: first fewer of them, then another way of capture, and it is said.
test_max_pause() {
	protected_guest
	vmferry_at host1 protect vm1 --to host2 --rpo 300ms --max-pause 1ms
	eventually $GRACE "that pauses are over their budget is not said" over_budget
	[ "$(value_of interval_ms)" -gt 225 ] || fail "the interval is not stretched: $(value_of interval_ms) ms"
	eventually 90 "the capture does not change: $(value_of capture_reason)" changed_capture
	points_go_on "from another capture"
	in_host host2 vmferry verify vm1
}

asked_to() { # freeze|thaw: how often the guest's agent was, at any host
	guest console vm1 | grep -c "^guest: $1" || true
}

quiesced_points() { # MIN
	[ "$(in_host host1 vmferry points vm1 --json | grep -c '"quiesced": true')" -ge "$1" ]
}

# A real agent freezes and thaws; its guest, restored from a point at which it was frozen, is thawed where it goes on.
test_quiesce() {
	[ -e /usr/sbin/qemu-ga ] || skip "no /usr/sbin/qemu-ga: install qemu-guest-agent"
	the_hosts
	boot vm1 host1 accel=tcg agent=1
	eventually 30 "the guest's agent is not connected" in_host host1 virsh -q domfsinfo vm1
	vmferry_at host1 protect vm1 --to host2 --rpo 5s --quiesce
	eventually $GRACE "no points whose file systems were frozen" quiesced_points 2
	guest ask vm1 ping
	lab cut host1
	[ "$(asked_to freeze)" -ge 2 ] || fail "the agent was asked $(asked_to freeze) times to freeze"
	# Its agent dies when it has started the guest, before it has it thawed: the next one does.
	agent_with_fault host2 failover.thaw=kill
	vmferry_at host2 failover vm1 --force && fail "the agent should have died"
	[ "$(in_host host2 virsh -q domstate vm1)" = running ] || fail "it does not run at its new host"
	thawed_at_host2 && fail "it was thawed before its agent died"
	lab agent restart host2
	eventually 30 "nobody has thawed it at its new host" thawed_at_host2
	eventually 5 "that is not said" said_thawed
	[ "$(in_host host2 virsh -q qemu-agent-command vm1 '{"execute":"guest-fsfreeze-status"}')" = '{"return":"thawed"}' ] || fail "it is frozen"
	assert_same_guest vm1
	lab restore host1
}

thawed_at_host2() {
	in_host host2 grep -q "^guest: thaw" /var/log/libvirt/vm1.console
}

said_thawed() {
	in_host host2 vmferry events --json | grep -q failover.thawed && ! in_host host2 vmferry status vm1 --json | grep -q "are frozen"
}

# UEFI variables and a TPM's state are files of the host. With points of disks they travel as such; --paused leaves the VM before its first instruction,
# so nobody has changed them at the new host yet.
test_files() {
	local vars=/usr/share/OVMF/OVMF_VARS_4M.fd
	the_hosts
	boot vm1 host1 disk=64M uefi=1 tpm=1 off=1
	in_host host1 virsh -q start vm1
	local uuid nvram tpm host
	uuid=$(in_host host1 virsh -q domuuid vm1)
	nvram=/var/lib/libvirt/qemu/nvram/vm1_VARS.fd
	tpm=/var/lib/libvirt/swtpm/$uuid/tpm2/tpm2-00.permall
	vmferry_at host1 protect vm1 --to host2 --rpo 1s --mode disk
	points_go_on "the first"
	# Firmware that has come up has written variables, and writes none any more.
	eventually 60 "the firmware has not written its variables" written "$nvram" $vars
	eventually 60 "the firmware does not come up" unchanged "$nvram"
	points_go_on "with its variables"
	vmferry_at host2 failover vm1 --paused
	[ "$(in_host host2 virsh -q domstate vm1)" = paused ] || fail "it is not paused"
	for host in host1 host2; do
		in_host $host cat "$(nvram_of $host)" >"$WORK/$host.nvram"
		in_host $host cat "$tpm" >"$WORK/$host.tpm"
	done
	cmp "$WORK/host1.nvram" "$WORK/host2.nvram" || fail "the UEFI variables are other ones"
	cmp "$WORK/host1.tpm" "$WORK/host2.tpm" || fail "the TPM's state is another one"
	[ "$(mode_of host1 "$nvram")" = "$(mode_of host2 "$(nvram_of host2)")" ] || fail "the variables' owner and mode: $(mode_of host2 "$(nvram_of host2)")"
	[ "$(mode_of host1 "$tpm")" = "$(mode_of host2 "$tpm")" ] || fail "the TPM state's owner and mode: $(mode_of host2 "$tpm"), not $(mode_of host1 "$tpm")"
	in_host host2 virsh -q resume vm1
	[ "$(in_host host2 virsh -q domstate vm1)" = running ] || fail "it does not run at the new host"
}

nvram_of() { # HOST
	in_host "$1" virsh -q dumpxml vm1 | sed -n 's|.*<nvram[^>]*>\(.*\)</nvram>.*|\1|p'
}

mode_of() { # HOST FILE
	in_host "$1" stat -c "%U:%G %a" "$2"
}

written() { # FILE WAS
	! in_host host1 cmp -s "$1" "$2"
}

unchanged() { # FILE: for a while
	local before
	before=$(in_host host1 sha256sum "$1")
	sleep 3
	[ "$(in_host host1 sha256sum "$1")" = "$before" ]
}
