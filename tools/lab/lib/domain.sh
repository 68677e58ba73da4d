# domain.sh - a test guest as a libvirt domain: its settings, disk and XML.
# shellcheck shell=bash

# Settings of the guest at hand, from KEY=VALUE.
guest_parse() { # NAME [KEY=VALUE...]
	local arg
	G_name=$1 G_mem=1024 G_vcpus=1 G_machine=q35 G_cpu="" G_disk="" G_data=0 G_shared=0 G_format=qcow2 G_redis=0
	G_transient=0 G_paused=0 G_pausedflag="" G_off=0 G_accel="" G_sector="" G_spin=0 G_record=0 G_load=counters
	G_uefi=0 G_tpm=0 G_reboot=destroy G_crash=destroy G_agent=0
	shift
	for arg in "$@"; do
		case $arg in
		mem=* | vcpus=* | machine=* | cpu=* | disk=* | data=* | shared=* | format=* | redis=* | transient=* | paused=* | off=* | \
			accel=* | sector=* | spin=* | record=* | load=* | uefi=* | tpm=* | reboot=* | crash=* | agent=*) declare -g "G_${arg%%=*}=${arg#*=}" ;;
		*) die "'$arg' is no setting of a guest" ;;
		esac
	done
	[[ $G_name =~ ^[A-Za-z0-9][A-Za-z0-9-]*$ ]] || die "'$G_name': letters, digits and dashes make a name"
	[ "$G_paused" = 0 ] || G_pausedflag=1
	if [ -z "$G_accel" ]; then
		if [ -n "$G_sector" ] && [ -w /dev/kvm ]; then G_accel=kvm; else G_accel=$(accel_detect); fi
	fi
	if [ "$G_record" != 0 ]; then # an IDE disk of its own, or two
		[ -n "$G_sector" ] || die "record=1 is for sector=PAGES"
		G_machine=pc G_disk=1M G_format=raw
	fi
	guest_number "$G_name"
	G_ip=$LAB_NET.$((100 + G_number)) G_mac=$(printf '52:54:00:77:00:%02x' "$G_number")
	G_images=/var/lib/libvirt/images
	[ "$G_shared" = 0 ] || G_images=/var/lib/libvirt/shared
	[ -z "$G_disk" ] || G_disk_path=$G_images/$G_name.$G_format
}

# A small number of its own for every name; kept until the guest is removed.
guest_number() { # NAME
	local n dir="$LAB_DIR/guests"
	mkdir -p "$dir"
	exec {guests_lock}>"$dir/.lock"
	flock "$guests_lock"
	if [ ! -e "$dir/$1/number" ]; then
		for ((n = 1; n < 100; n++)); do grep -qx "$n" "$dir"/*/number 2>/dev/null || break; done
		mkdir -p "$dir/$1"
		echo "$n" >"$dir/$1/number"
	fi
	exec {guests_lock}>&-
	read -r G_number <"$dir/$1/number"
}

guest_address() { # NAME
	local n
	[ -e "$LAB_DIR/guests/$1/number" ] || die "no guest '$1' in this lab"
	read -r n <"$LAB_DIR/guests/$1/number"
	echo "$LAB_NET.$((100 + n))"
}

# What boots a Linux at a bearable speed: kvm, or tcg where there is no KVM or only one in software. Found once per boot.
accel_detect() {
	local known="$LAB_DIR/boot/accel" boot=$(</proc/sys/kernel/random/boot_id) lines=()
	[ ! -e "$known" ] || mapfile -t lines <"$known"
	if [ "${lines[1]:-}" != "$boot" ]; then
		mkdir -p "$LAB_DIR/boot"
		accel_try "$boot" >"$known.$$" && mv "$known.$$" "$known"
		mapfile -t lines <"$known"
	fi
	echo "${lines[0]}"
}

accel_try() { # BOOT-ID
	local dir="$LAB_DIR/boot" accel=tcg
	if [ -w /dev/kvm ] && "$LAB_ROOT/tests/guest/make-initramfs" "$LAB_BUILD/tests/guest/guestd" "$dir" 2>/dev/null &&
		timeout -k 1 6 qemu-system-x86_64 -accel kvm -cpu host -m 256 -display none -nodefaults -no-reboot \
			-serial stdio -kernel "$dir/vmlinuz" -initrd "$dir/initramfs.cpio.gz" \
			-append "console=ttyS0 quiet no_timer_check guest.selftest" </dev/null 2>/dev/null | grep "guest: selftest" >/dev/null; then
		accel=kvm
	fi
	printf '%s\n%s\n' $accel "$1"
}

# Files of this machine, in an order that mixes their kinds and is the same every time.
machine_files() {
	find /usr/bin /usr/sbin /usr/lib /usr/share -xdev -type f -size +8k -readable 2>/dev/null | LC_ALL=C sort |
		LC_ALL=C sort -R --random-source=<(yes 2>/dev/null)
}

# The image in HOST's folder (or the shared one): 16 MiB for the guest's records, then `data` MiB of files.
domain_disk() { # HOST
	local host=$1 raw
	[ -n "$G_disk" ] || return 0
	if [ "$G_record" != 0 ]; then
		"$LAB_ROOT/tests/guest/make-sector" "$G_sector" "$G_spin" "$G_record" "$G_load" "$LAB_DIR/$host/fs$G_disk_path" || return
		[ "$G_record" = 1 ] || enter "$host" qemu-img create -q -f raw "$(domain_second_path)" 1M
		return
	fi
	if [ "$G_data" = 0 ]; then
		enter "$host" qemu-img create -q -f "$G_format" "$G_disk_path" "$G_disk"
		return
	fi
	raw="$LAB_DIR/$host/fs/var/lib/libvirt/images/.$G_name.raw"
	rm -f "$raw" && truncate -s "$G_disk" "$raw" &&
		machine_files | tr '\n' '\0' | xargs -0 cat 2>/dev/null | head -c "${G_data}M" |
		dd of="$raw" bs=1M seek=16 conv=notrunc iflag=fullblock status=none
	enter "$host" qemu-img convert -f raw -O "$G_format" "/var/lib/libvirt/images/.$G_name.raw" "$G_disk_path"
	local rc=$?
	rm -f "$raw"
	return $rc
}

domain_boot_xml() {
	local initrd=initramfs.cpio.gz firmware=""
	[ "$G_redis" = 0 ] || initrd=initramfs-redis.cpio.gz
	[ "$G_agent" = 0 ] || initrd=initramfs-agent.cpio.gz
	if [ -n "$G_sector" ]; then
		echo "<os><type arch='x86_64' machine='$G_machine'>hvm</type><boot dev='hd'/></os>"
		return
	fi
	[ "$G_uefi" = 0 ] || firmware="<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/${G_name}_VARS.fd</nvram>"
	cat <<-E
		<os>
		    <type arch='x86_64' machine='$G_machine'>hvm</type>
		    $firmware
		    <kernel>/var/lib/libvirt/boot/vmlinuz</kernel>
		    <initrd>/var/lib/libvirt/boot/$initrd</initrd>
		    <cmdline>console=ttyS0 quiet no_timer_check panic=-1 guest.ip=$G_ip/24 guest.gw=$LAB_NET.1</cmdline>
		  </os>
	E
}

domain_second_path() {
	echo "${G_disk_path%.*}.second.${G_disk_path##*.}"
}

domain_disk_xml() { # PATH FORMAT [readonly [TARGET]]
	local target="dev='vda' bus='virtio'"
	[ "$G_record" = 0 ] || target="dev='${4:-hda}' bus='ide'"
	cat <<-E
		<disk type='file' device='disk'>
		      <driver name='qemu' type='$2' cache='none' discard='unmap'/>
		      <source file='$1'/>
		      <target $target/>
		      ${3:+<readonly/>}
		    </disk>
	E
}

domain_xml() {
	local type=kvm cpu="" disk="" net="" tpm="" agent="" panic=""
	[ "$G_accel" = kvm ] || type=qemu
	[ -z "$G_cpu" ] || cpu="<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>$G_cpu</model></cpu>"
	if [ "$G_record" != 0 ]; then
		disk=$(domain_disk_xml "$G_disk_path" raw)
		[ "$G_record" = 1 ] || disk+=$(domain_disk_xml "$(domain_second_path)" raw "" hdb)
	elif [ -n "$G_sector" ]; then
		"$LAB_ROOT/tests/guest/make-sector" "$G_sector" "$G_spin" 0 "$G_load" "$LAB_DIR/shared/$G_name.sector" || exit 1
		disk=$(domain_disk_xml "/var/lib/libvirt/shared/$G_name.sector" raw readonly)
	else
		[ -z "$G_disk" ] || disk=$(domain_disk_xml "$G_disk_path" "$G_format")
		net="<interface type='bridge'>
      <mac address='$G_mac'/><source bridge='vmbr0'/><model type='virtio'/>
    </interface>"
	fi
	[ "$G_tpm" = 0 ] || tpm="<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
	[ "$G_crash" = destroy ] || panic="<panic model='isa'/>"
	[ "$G_agent" = 0 ] || agent="<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
	cat <<-E
		<domain type='$type'>
		  <name>$G_name</name>
		  <memory unit='MiB'>$G_mem</memory>
		  <vcpu>$G_vcpus</vcpu>
		  $(domain_boot_xml)
		  <features><acpi/><apic/></features>
		  $cpu
		  <on_poweroff>destroy</on_poweroff><on_reboot>$G_reboot</on_reboot><on_crash>$G_crash</on_crash>
		  <devices>
		    <emulator>/usr/bin/qemu-system-x86_64</emulator>
		    $disk
		    $net
		    $tpm
		    $agent
		    $panic
		    <controller type='usb' model='none'/>
		    <serial type='file'><source path='/var/log/libvirt/$G_name.console' append='on'/><target port='0'/></serial>
		    <memballoon model='none'/>
		    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
		  </devices>
		</domain>
	E
}
