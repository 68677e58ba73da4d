# Recorded migration streams through parser and codec, byte for byte. No lab needed.
# shellcheck shell=bash

test_stream_of_qemu() {
	"$here/stream_roundtrip.sh"
}

test_stream_of_qemu10() {
	local tree
	need_qemu10
	tree=$(lab have-qemu10)
	QEMU_MODULE_DIR=$tree/usr/lib/x86_64-linux-gnu/qemu QEMU_DATA="$tree/usr/share/qemu $tree/usr/share/seabios" \
		"$here/stream_roundtrip.sh" "$tree/usr/bin/qemu-system-x86_64"
}
