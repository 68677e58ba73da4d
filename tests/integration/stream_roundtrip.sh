#!/bin/bash
# stream_roundtrip.sh [QEMU...] - records real migration streams and takes them through parser, encoder and decoder: every
# byte must come out as it went in, however the stream is cut, at several levels and cache sizes.
#
# QEMU: programs to record with (default: qemu-system-x86_64). The guest is a boot sector that counts in 3000 pages without
# end, so that pages come again. Also recorded: xbzrle, compress where the version has it, and the connections of multifd, which
# must pass through unharmed. STREAM_ROUNDTRIP names the program (default: $VMFERRY_BUILD/tools/dev/stream-roundtrip).
set -eu -o pipefail
here=$(dirname "$(readlink -f "$0")")
program=${STREAM_ROUNDTRIP:-${VMFERRY_BUILD:-$here/../../build/release}/tools/dev/stream-roundtrip}
[ -x "$program" ] || { echo "stream_roundtrip: no $program: build the target stream-roundtrip" >&2; exit 1; }
[ $# -gt 0 ] || set -- qemu-system-x86_64
work=$(mktemp -d /var/tmp/vmferry-streams-XXXXXX)
trap 'rm -rf "$work"' EXIT

"$here/../guest/make-sector" 3000 0 0 counters "$work/sector"

# record QEMU MODE FOLDER: FOLDER/0, FOLDER/1, ... are what came over the connections, in order of acceptance.
record() {
	mkdir -p "$3"
	timeout 100 python3 - "$1" "$2" "$3" "$work/sector" ${QEMU_DATA:-} <<'END'
import json, os, socket, subprocess, sys, threading, time

qemu, mode, folder, sector, data = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:]
deadline = time.monotonic() + 90
listener = socket.socket(socket.AF_UNIX)
listener.bind(folder + "/in")
listener.listen(16)
control, theirs = socket.socketpair()
process = subprocess.Popen(
    [qemu, *[x for d in data for x in ("-L", d)], "-accel", "tcg", "-machine", "q35", "-m", "64", "-nodefaults", "-display", "none",
     "-drive", "file=%s,format=raw,snapshot=on" % sector,
     "-serial", "file:%s/serial" % folder, "-chardev", "socket,id=qmp,fd=%d" % theirs.fileno(), "-mon", "chardev=qmp,mode=control"],
    pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
theirs.close()
lines = control.makefile("rw")

def call(name, **arguments):
    lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
    lines.flush()
    while True:
        answer = json.loads(lines.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"]["desc"])
        if "return" in answer:
            return answer["return"]

def save(connection, path):
    with open(path, "wb") as f:
        while piece := connection.recv(1 << 20):
            f.write(piece)

threads = []

def accept():
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        t = threading.Thread(target=save, args=(connection, "%s/%d" % (folder, len(threads))))
        threads.append(t)
        t.start()

def until(what, done):
    while not done():
        if time.monotonic() > deadline or process.poll() is not None:
            sys.exit("%s did not come" % what)
        time.sleep(0.02)

def status():
    return call("query-migrate")

try:
    json.loads(lines.readline())
    call("qmp_capabilities")
    until("the guest", lambda: os.path.exists(folder + "/serial") and "." in open(folder + "/serial").read())
    if mode != "plain":
        try:
            call("migrate-set-capabilities", capabilities=[{"capability": mode, "state": True}])
        except RuntimeError as why:
            print("no %s here: %s" % (mode, why))
            sys.exit(0)
    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    call("migrate-set-parameters", **{"max-bandwidth": 30 << 20, "downtime-limit": 1})
    call("migrate", uri="unix:%s/in" % folder)
    # A few passes over pages that change, then let it end.
    until("passes", lambda: status().get("ram", {}).get("dirty-sync-count", 0) >= 4 or status()["status"] != "active")
    call("migrate-set-parameters", **{"max-bandwidth": 4 << 30, "downtime-limit": 20000})
    until("the end", lambda: status()["status"] in ("completed", "failed"))
    if status()["status"] == "failed":
        sys.exit("QEMU says that the migration failed")
finally:
    process.kill()
    process.wait()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for t in threads:
        t.join(10)
END
}

# check FILE OPTION...: what the program said.
check() {
	local out
	out=$("$program" "${@:2}" "$1") || { echo "not identical: $1 ${*:2}" >&2; exit 1; }
	case $out in identical=yes*) printf '%s\n' "$out" ;; *) echo "$out" >&2; exit 1 ;; esac
}

expect() { # TEXT PATTERN WHAT
	[[ $1 =~ $2 ]] || { echo "$3: $1" >&2; exit 1; }
}

one_qemu() { # QEMU
	local version out file folder=$work/q
	version=$("$1" --version | sed -n 's/.*version \([0-9.]*\).*/\1/p')
	rm -rf "$folder"
	record "$1" plain "$folder"
	for options in "--chunk random" "--chunk 1" "--chunk 4104 --level raw" "--slots 0 --level 1" "--slots 500 --level -5" "--level 9"; do
		# shellcheck disable=SC2086 # words
		out=$(check "$folder/0" $options)
		expect "$out" 'ram_ends=1 parsed_until="end of RAM"' "QEMU $version is not understood"
	done
	out=$(check "$folder/0")
	expect "$out" ' delta=[1-9][0-9]{3}' "QEMU $version: changed pages were not recognised"
	echo "QEMU $version, plain: $(head -1 <<<"$out")"
	for mode in xbzrle compress multifd; do
		rm -rf "$folder"
		record "$1" $mode "$folder"
		[ -e "$folder/0" ] || continue
		for file in "$folder"/[0-9]*; do
			out=$(check "$file" --chunk random)
			[ "$file" != "$folder/0" ] || echo "QEMU $version, $mode: $(head -1 <<<"$out")"
		done
	done
}

for qemu in "$@"; do one_qemu "$qemu"; done
