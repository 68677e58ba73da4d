"""The lab as a benchmark sees it: hosts whose network, CPU time and memory can be read, and a guest to be moved.

tools/lab/lab and tools/lab/guest do the work; what is read often is read here, from /proc and /sys.
"""
import contextlib
import fcntl
import os
import re
import subprocess
import tempfile
import time

PAGE = 4096
TICKS = os.sysconf("SC_CLK_TCK")
# What a migration costs CPU time in. A name in /proc/PID/comm is at most 15 characters long.
BUSY = ("qemu-system-x86", "libvirtd", "vmferryd")


class BenchError(Exception):
    """The benchmark cannot go on."""


class GuestLost(Exception):
    """This guest is not what it should be; another one is needed."""


def read(path):
    with open(path, encoding="ascii", errors="replace") as f:
        return f.read()


def run(args, limit, env=None):
    """Output of a command that must succeed within `limit` seconds."""
    try:
        done = subprocess.run(args, capture_output=True, text=True, timeout=limit, env=env, stdin=subprocess.DEVNULL,
                              check=False)
    except subprocess.TimeoutExpired as e:
        raise BenchError(f"'{' '.join(args)}' takes more than {limit} s") from e
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BenchError(f"'{' '.join(args)}' failed: {said[-1] if said else 'without a word'}")
    return done.stdout


class Host:
    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.address = lab.lab("address", name).strip()
        self.init = self.ns = None
        self.refresh()

    def refresh(self):
        """When it has come up: its processes are new ones."""
        self.init = int(read(f"{self.lab.folder}/{self.name}/init.pid").split()[0])
        self.ns = os.readlink(f"/proc/{self.init}/ns/pid")

    @property
    def uri(self):
        """libvirtd of this host, from outside."""
        return f"qemu+unix:///system?socket=/proc/{self.init}/root/run/libvirt/libvirt-sock"

    def inside(self, *args):
        """The command that runs `args` in this host, without a shell in between that would take time."""
        tools = f"{self.lab.build}/tools/vmferry:{self.lab.build}/tools/vmferryd:{os.environ['PATH']}"
        return ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "--",
                "env", f"PATH={tools}", *args]

    def virsh(self, *args, limit=60):
        return run(["virsh", "-q", "-c", self.uri, *args], limit)

    def sent(self):
        """Bytes it has sent on the network."""
        return int(read(f"/proc/{self.init}/root/sys/class/net/eth0/statistics/tx_bytes"))

    def processes(self):
        """(pid, name) of what costs CPU time in it."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/ns/pid") == self.ns:
                    name = read(f"/proc/{pid}/comm").strip()
                    if name in BUSY:
                        yield pid, name
            except OSError:  # it has just ended
                continue

    def cpu_seconds(self):
        """Of all QEMUs, libvirtds and agents so far, also of those that have ended: the host's pid 1 waits for them."""
        ticks = sum(int(n) for n in stat_fields(self.init)[13:15])
        for pid, _ in self.processes():
            with contextlib.suppress(OSError):
                ticks += sum(int(n) for n in stat_fields(pid)[11:15])
        return ticks / TICKS

    def _agents(self):
        return [pid for pid, name in self.processes() if name == "vmferryd"]

    def agent_seconds(self):
        """CPU time of the agent so far."""
        return sum(int(n) for pid in self._agents() for n in stat_fields(pid)[11:13]) / TICKS

    def reset_peak(self):
        """What the agent's peak memory is from now on."""
        for pid in self._agents():
            with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as f:
                f.write("5")

    def peak_mb(self):
        """Largest resident size of the agent since reset_peak."""
        peak = 0
        for pid in self._agents():
            peak = max(peak, int(re.search(r"VmHWM:\s*(\d+)", read(f"/proc/{pid}/status")).group(1)) / 1024)
        return peak


def stat_fields(pid):
    """/proc/PID/stat after the name: [11:15] is utime, stime, and both of children it has waited for."""
    return read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()


def machine_seconds():
    """CPU seconds that this machine has spent on anything so far."""
    user, nice, system, _, _, irq, softirq, steal = (int(n) for n in read("/proc/stat").split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


class Lab:
    """Two hosts, for as long as the `with` block lasts. `flavour`: ":qemu10" or none."""

    def __init__(self, root, build, folder, net, flavour=""):
        self.flavour = flavour
        self.root, self.build, self.folder = root, build, folder
        self.env = dict(os.environ, VMFERRY_LAB=folder, VMFERRY_BUILD=build, LAB_NET=net)
        self.hosts = []
        self._lock = None

    def lab(self, *args, limit=120):
        return run([f"{self.root}/tools/lab/lab", *args], limit, self.env)

    def guest(self, *args, limit=330):
        return run([f"{self.root}/tools/lab/guest", *args], limit, self.env)

    def __enter__(self):
        self._lock = open(f"{self.folder}.lock", "w", encoding="ascii")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            self._lock.close()
            raise BenchError(f"another benchmark is at work in {self.folder}: set VMFERRY_LAB and LAB_NET") from e
        try:
            if os.path.isdir(self.folder):  # of one that was killed
                self.lab("purge")
            self.lab("up", f"host1{self.flavour}", f"host2{self.flavour}")
            self.lab("agent", "start", "host1", "host2")
            self.hosts = [Host(self, "host1"), Host(self, "host2")]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BenchError):
            self.lab("purge")
        with contextlib.suppress(OSError):
            os.unlink(f"{self.folder}.lock")
        self._lock.close()

    def rate(self, mbit):
        """Limits what every host sends; None: no limit."""
        for host in self.hosts:
            self.lab("rate", host.name, str(mbit) if mbit else "off")

    def peer_of(self, host):
        return self.hosts[1 - self.hosts.index(host)]


class Guest:
    """A Linux with a checkable memory, running on the lab until remove()."""

    def __init__(self, lab, name, settings, nonzero_mb=0, setup=()):
        """`setup`: requests to its service; after them its memory is filled up to `nonzero_mb` MB that are not zero."""
        self.lab, self.name, self.host = lab, name, lab.hosts[0]
        self.mem = int(dict(s.split("=", 1) for s in settings).get("mem", 1024))
        lab.guest("start", self.host.name, name, "off=1", *settings)
        self._offer_zstd()
        self.host.virsh("start", name)
        address = lab.guest("address", name).strip()
        lab.lab("exec", "switch", f"{lab.build}/tests/guest/guest-client", "wait", address, "60")
        for request in setup:
            self.ask(request)
        missing = int(nonzero_mb - self.nonzero_mb())
        if nonzero_mb and missing > 0:
            lab.guest("fill", name, str(missing))

    def _offer_zstd(self):
        """libvirt 9.0 cannot ask QEMU for zstd in parallel migrations; QEMU's own command line can. It means nothing to
        migrations that are not parallel."""
        xml = self.host.virsh("dumpxml", "--inactive", self.name)
        xml = re.sub(r"^<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ", xml)
        arguments = "".join(f"<qemu:arg value='{a}'/>" for a in ("-global", "migration.multifd-compression=zstd"))
        xml = xml.replace("</domain>", f"<qemu:commandline>{arguments}</qemu:commandline></domain>")
        with tempfile.NamedTemporaryFile("w", suffix=".xml", encoding="utf-8") as f:
            f.write(xml)
            f.flush()
            self.host.virsh("define", f.name)

    def ask(self, request):
        return self.lab.guest("ask", self.name, request).strip()

    def mismatches(self, question):
        """What the guest finds wrong with its own memory (`verify`) or disk (`diskcheck`)."""
        try:
            return int(re.search(r"mismatches=(\d+)", self.ask(question)).group(1))
        except (BenchError, AttributeError) as e:
            raise GuestLost(f"the guest cannot {question}: {e}") from e

    def nonzero_mb(self):
        """How much of its memory is not zero, in MB."""
        with open(f"/proc/{self._qemu()}/maps", encoding="ascii") as f:
            ranges = [[int(a, 16) for a in line.split()[0].split("-")] for line in f]
        start, end = next(r for r in ranges if r[1] - r[0] >= self.mem << 20)
        zero, pages = bytes(PAGE), 0
        with open(f"/proc/{self._qemu()}/mem", "rb", buffering=0) as mem:
            for at in range(start, end, 4 << 20):
                chunk = os.pread(mem.fileno(), min(4 << 20, end - at), at)
                pages += sum(chunk[i:i + PAGE] != zero for i in range(0, len(chunk), PAGE))
        return pages * PAGE / 1e6

    def _qemu(self):
        return next(pid for pid, name in self.host.processes() if name == BUSY[0])

    def locate(self):
        """Where it runs now: exactly one host."""
        where = [line.split() for line in self.lab.guest("where", self.name).splitlines()]
        running = [words[0] for words in where if words[1:2] == ["running"]]
        if len(running) != 1:
            raise GuestLost(f"the guest should run on exactly one host; libvirt says: {where}")
        self.host = next(h for h in self.lab.hosts if h.name == running[0])

    def remove(self):
        self.lab.guest("remove", self.name)


class Watch:
    """A client outside that asks the guest every few milliseconds, for as long as the `with` block lasts."""

    def __init__(self, lab, name):
        self.seen = {}
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", f"{lab.root}/tools/lab/guest", "watch", name], env=lab.env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            out, _ = self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, _ = self._process.communicate()
        self.seen = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def gap_ms(self):
        """The longest time without an answer, once the block has ended."""
        return float(self.seen["gap_ms"]) if "gap_ms" in self.seen else None


def wait_until_quiet(guest, limit):
    """Until no migration job is left on the guest's host."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            if re.search(r"Job type:\s*None", guest.host.virsh("domjobinfo", guest.name)):
                return
        except BenchError:
            pass
        time.sleep(0.2)
    raise GuestLost(f"the migration job does not end within {limit} s")
