# warm.sh - guests that need not boot: the state of one that has just booted is kept in $LAB_WARM, with its disk, and one that is
# to be the same starts from there in a second. Each has a UUID of its own all the same; its boot id is the first one's.
# shellcheck shell=bash

warm_wanted() {
	[ -n "${LAB_WARM:-}" ] && [ -z "$G_sector" ] && [ "$G_off" = 0 ] && [ -z "$G_pausedflag" ]
}

# All that makes a guest what it is, in the guest at hand's place in $LAB_WARM.
warm_name() { # HOST
	mkdir -p "$LAB_WARM"
	G_warm=$LAB_WARM/$({ cat "$LAB_DIR/$1/flavour" && echo "$LAB_QEMU_USER $G_disk $G_data $G_format" && domain_xml; } | sha256sum | cut -c1-32)
}

# Of the guest that has just booted. It goes on from what was kept, so that every one has the same history.
warm_keep() { # HOST
	warm_name "$1"
	# Without room for it the guest that has booted will do.
	enter "$1" virsh -q save "$G_name" "$G_warm.part" >/dev/null || { rm -f "$G_warm.part" && return 0; }
	enter "$1" virsh -q undefine "$G_name" >/dev/null 2>&1 # one that is transient is gone already
	[ -z "$G_disk" ] || enter "$1" cp --sparse=always "$G_disk_path" "$G_warm.disk" || return 1
	mv "$G_warm.part" "$G_warm.save" && warm_start "$1"
}

warm_start() { # HOST
	local uuid at xml="$LAB_DIR/guests/$G_name/domain.xml"
	warm_name "$1"
	[ -e "$G_warm.save" ] || return 1
	read -r uuid </proc/sys/kernel/random/uuid
	for at in $(head -c 65536 "$G_warm.save" | grep -abo '<uuid>' | cut -d: -f1); do
		printf %s "$uuid" | dd of="$G_warm.save" bs=1 seek=$((at + 6)) conv=notrunc status=none
	done
	[ -z "$G_disk" ] || enter "$1" cp --sparse=always "$G_warm.disk" "$G_disk_path" || return 1
	domain_xml | sed "s|<name>.*|&<uuid>$uuid</uuid>|" >"$xml"
	[ "$G_transient" = 1 ] || enter "$1" virsh -q define "$xml" >/dev/null || return 1
	enter "$1" virsh -q restore "$G_warm.save" >/dev/null && client wait "$G_ip" 20
}
