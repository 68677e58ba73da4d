#!/usr/bin/env python3
"""Reads a replica store. Written from snapshot/FORMAT.md alone, to hold the program against it.

store_reader.py FOLDER list                  the points: number, tab, meta as JSON
store_reader.py FOLDER extract POINT VOLUME  the volume's bytes to standard output
store_reader.py FOLDER extract POINT ALL     those of all volumes, one after the other
store_reader.py FOLDER file POINT NAME       a file's bytes to standard output
"""
import ctypes
import ctypes.util
import json
import os
import re
import struct
import sys

BLOCK = 4096
MASK = (1 << 64) - 1


def load_xxh():
    name = ctypes.util.find_library("xxhash") or "libxxhash.so.0"
    lib = ctypes.CDLL(name)
    f = lib.XXH3_64bits_withSeed
    f.restype = ctypes.c_uint64
    f.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    return lambda data, seed=0: f(bytes(data), len(data), seed & MASK)


try:
    xxh = load_xxh()
except OSError as e:
    print("no libxxhash here: %s" % e, file=sys.stderr)
    sys.exit(77)


class Corrupt(Exception):
    pass


def check(good, what):
    if not good:
        raise Corrupt(what)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def sealed(path):
    text = read(path)
    line, _, rest = text.partition(b"\n")
    check(rest == b"#xxh3 %016x\n" % xxh(line), path)
    return json.loads(line)


def read_catalogue(path, store_id):
    """The state after the last line that verifies, with the points that are kept."""
    state, salt, points, at, bad = None, None, {}, 0, None
    for line in read(path).splitlines(True):
        good = line.endswith(b"\n") and line[:17] == b"%016x " % xxh(line[17:-1], 0 if at == 0 else salt + at)
        check(not (good and bad is not None), "%s: line at %s" % (path, bad))
        check(good or at > 0, path + ": first line")
        if good:
            state = json.loads(line[17:])
            if at == 0:
                check(state["format"] == 2 and int(state["store"], 16) == store_id, path)
                salt = int(state["salt"], 16)
            for seq in state.get("drop", []):
                points.pop(seq, None)
            points.update((p["seq"], p) for p in state["points"])
        elif bad is None:
            bad = at
        at += len(line)
    return dict(state, points=[points[seq] for seq in sorted(points)])


class Store:
    def __init__(self, folder):
        self.folder = folder
        vm = sealed(os.path.join(folder, "vm.json"))
        self.id = int(vm["store"], 16)
        self.salt = int(vm["salt"], 16)
        check(vm["format"] in (1, 2), "vm.json: format")
        if vm["format"] == 1:
            self.cat = sealed(os.path.join(folder, "catalogue.json"))
            check(self.cat["format"] == 1 and int(self.cat["store"], 16) == self.id, "catalogue.json")
        else:
            self.cat = read_catalogue(os.path.join(folder, "catalogue.log"), self.id)
        self.applied = self.cat["applied"]
        self.points = {p["seq"]: dict(p, journal=None) for p in self.cat["points"]}
        self.txns = []
        self.read_journal()

    def block_sum(self, volume, block, data):
        if data.count(0) == len(data):
            return 0
        return xxh(data, self.salt + volume * 0x9E3779B97F4A7C15 + block) or 1

    # -- journal --

    def segments(self):
        number = self.cat["redo"]["segment"]
        offset = self.cat["redo"]["offset"]
        while True:
            path = os.path.join(self.folder, "journal", "%08d.wal" % number)
            if not os.path.exists(path):
                return
            data = read(path)
            head = data[:64]
            if len(head) < 64 or len(data) < offset or xxh(head[:56]) != struct.unpack(">Q", head[56:])[0]:
                return
            magic, form, length, ident, num, salt = struct.unpack(">8sIIQQQ", head[:40])
            check(form == 1, path + ": format")
            if (magic, length, ident, num) != (b"VMFJRNL\0", 64, self.id, number):
                return
            yield data, offset, salt
            number += 1
            offset = 64

    def records(self):
        for data, at, salt in self.segments():
            while at < len(data):
                head = data[at:at + 56]
                if len(head) < 56:
                    return
                kind, length, txn, a, b, volume, _, payload_sum, head_sum = struct.unpack(">IIQQQIIQQ", head)
                seed = salt + at
                payload = data[at + 56:at + 56 + length]
                if xxh(head[:48], seed) != head_sum or len(payload) != length:
                    return
                if kind == 3 and (not 1 <= b <= 256 or length != b * 4104):
                    return
                summed = payload[b * BLOCK:] if kind == 3 else payload
                if xxh(summed, seed) != payload_sum:
                    return
                yield kind, txn, a, b, volume, payload, head_sum, 56 + length
                at += 56 + length

    def read_journal(self):
        state = {"volumes": self.cat["volumes"], "files": {f["name"]: f for f in self.cat["files"]}}
        t = None
        last = self.applied
        for kind, txn, a, b, volume, payload, head_sum, size in self.records():
            if kind == 1:
                if t is not None or txn != last + 1:
                    return
                t = {"seq": txn, "kind": a, "blocks": {}, "cut": [], "volumes": state["volumes"], "files": dict(state["files"]),
                     "chain": 0, "records": 0, "bytes": 0, "file_bytes": 0}
            elif t is None or txn != t["seq"]:
                return
            elif kind == 2:
                self.take_volumes(t, payload)
            elif kind == 3:
                for i in range(b):
                    data = payload[i * BLOCK:(i + 1) * BLOCK]
                    want = struct.unpack(">Q", payload[b * BLOCK + 8 * i:][:8])[0]
                    if self.block_sum(volume, a + i, data) != want or want == 0:
                        return
                    t["blocks"][volume, a + i] = data
            elif kind == 4:
                for i in range(a, a + b):
                    t["blocks"][volume, i] = bytes(BLOCK)
            elif kind == 5:
                n = payload[0]
                name, data = payload[1:1 + n].decode(), payload[1 + n:]
                t["files"][name] = {"data": data}
                t["file_bytes"] += len(data)
            elif kind == 6:
                when, records, total, chain = struct.unpack(">QQQQ", payload[:32])
                if (records, total, chain) != (t["records"], t["bytes"], t["chain"]) or a > t["kind"]:
                    return
                t["kind"] = a
                self.txns.append(t)
                last = txn
                state = t
                if a == 1:
                    self.points[txn] = {"seq": txn, "meta": json.loads(payload[32:]), "volumes": t["volumes"], "files": list(
                        dict(f, name=n) for n, f in t["files"].items())}
                t = None
                continue
            elif not kind & 0x80000000:
                raise Corrupt("record of type %d is not known" % kind)
            t["chain"] = xxh(struct.pack(">QQ", t["chain"], head_sum))
            t["records"] += 1
            t["bytes"] += size

    @staticmethod
    def take_volumes(t, payload):
        _, n = struct.unpack(">II", payload[:8])
        at = 8
        volumes = []
        for _ in range(n):
            ident, kind, size, length = struct.unpack(">IIQB", payload[at:at + 17])
            name = payload[at + 17:at + 17 + length].decode()
            at += 17 + length
            volumes.append({"id": ident, "kind": {1: "ram", 2: "disk"}[kind], "name": name, "bytes": size})
        before = {v["id"]: v["bytes"] for v in t["volumes"]}
        for v in volumes:
            for b in range(blocks_of(v["bytes"]), blocks_of(before.get(v["id"], 0))):
                t["blocks"][v["id"], b] = bytes(BLOCK)
        t["volumes"] = volumes

    # -- undo --

    def undo_files(self, point):
        """Those that reach beyond the point. Beyond what is applied there may be some, without a gap to the point or not."""
        found = []
        for name in os.listdir(os.path.join(self.folder, "undo")):
            m = re.fullmatch(r"(\d{12,})-(\d{12,})\.undo", name)
            if m:
                found.append((int(m.group(1)), int(m.group(2)), name))
        inside = {n for f, t, n in found for g, u, o in found if o != n and g <= f and t <= u}
        chain = sorted(x for x in found if x[2] not in inside and x[1] > point)
        reached = point
        for first, last, name in chain:
            check(first <= reached + 1 or reached >= self.applied, "before-images of %d are missing" % (reached + 1))
            reached = last
            yield self.read_undo(first, last, os.path.join(self.folder, "undo", name))
        check(reached >= self.applied, "before-images of %d are missing" % (reached + 1))

    def read_undo(self, first, last, path):
        data = read(path)
        head, tail = data[:48], data[-64:]
        magic, form, start, ident, f, t, head_sum = struct.unpack(">8sIIQQQQ", head)
        check((magic, form, start, ident, f, t) == (b"VMFUNDO\0", 1, 4096, self.id, first, last), path)
        check(head_sum == xxh(head[:40], self.salt), path + ": header")
        magic, f, t, n, m, index_sum, _, tail_sum = struct.unpack(">8s7Q", tail)
        check((magic, f, t) == (b"VMFUEND\0", first, last) and tail_sum == xxh(tail[:56], self.salt), path + ": trailer")
        index = data[4096 + m * BLOCK:-64]
        check(len(index) == n * 32 + m * 8 and index_sum == xxh(index, self.salt), path + ": index")
        blocks = {}
        for i in range(n):
            volume, flags, block, count, where = struct.unpack(">IIQQQ", index[32 * i:32 * i + 32])
            for k in range(count):
                if flags == 1:
                    blocks[volume, block + k] = bytes(BLOCK)
                    continue
                check(flags == 0, path + ": flags")
                at = where + k
                contents = data[4096 + at * BLOCK:4096 + (at + 1) * BLOCK]
                want = struct.unpack(">Q", index[n * 32 + at * 8:][:8])[0]
                check(self.block_sum(volume, block + k, contents) == want, path + ": block")
                blocks[volume, block + k] = contents
        return blocks

    # -- reading --

    def head_block(self, volume, block):
        base = os.path.join(self.folder, "heads", "%08d" % volume)
        data, want = b"", b""
        if os.path.exists(base + ".raw"):
            with open(base + ".raw", "rb") as f:
                f.seek(block * BLOCK)
                data = f.read(BLOCK)
            with open(base + ".sums", "rb") as f:
                f.seek(block * 8)
                want = f.read(8)
        data = data.ljust(BLOCK, b"\0")
        check(self.block_sum(volume, block, data) == struct.unpack(">Q", want.ljust(8, b"\0"))[0],
              "%s.raw: block %d" % (base, block))
        return data

    def extract(self, point, name):
        p = self.points[point]
        volume = next(v for v in p["volumes"] if v["name"] == name)
        layers = [t["blocks"] for t in reversed(self.txns) if t["seq"] <= point]
        layers += self.undo_files(point)
        out = []
        for b in range(blocks_of(volume["bytes"])):
            key = (volume["id"], b)
            out.append(next((x[key] for x in layers if key in x), None) or self.head_block(*key))
        return b"".join(out)[:volume["bytes"]]

    def file(self, point, name):
        f = next(f for f in self.points[point]["files"] if f["name"] == name)
        if "data" in f:
            return f["data"]
        data = read(os.path.join(self.folder, "files", "%012d" % f["txn"]))[f["offset"]:f["offset"] + f["bytes"]]
        check(xxh(data, self.salt) == int(f["xxh3"], 16), "file " + name)
        return data


def blocks_of(size):
    return (size + BLOCK - 1) // BLOCK


def main(args):
    if len(args) < 2 or args[1] not in ("list", "extract", "file"):
        print(__doc__, file=sys.stderr)
        return 2
    store = Store(args[0])
    if args[1] == "list":
        for seq in sorted(store.points):
            print("%d\t%s" % (seq, json.dumps(store.points[seq]["meta"], sort_keys=True)))
    elif args[1] == "extract":
        point = int(args[2])
        names = [v["name"] for v in store.points[point]["volumes"]] if args[3] == "ALL" else [args[3]]
        for name in names:
            sys.stdout.buffer.write(store.extract(point, name))
    else:
        sys.stdout.buffer.write(store.file(int(args[2]), args[3]))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Corrupt as e:
        print("corrupt: %s" % e, file=sys.stderr)
        sys.exit(1)
