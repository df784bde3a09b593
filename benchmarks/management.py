"""`python -m benchmarks.management`: many domains under `manord` and under libvirtd's QEMU driver, as ratios.

    python -m benchmarks.management [--domains N] [--running N] [--rounds N] [--only manor] [--json FILE]

Both daemons run in temporary directories (libvirtd as `nobody`, if this is root), and are asked
by the same program through libvirt's own library (python3-libvirt of the system) over the same protocol, in turns, in
many short batches: the machine may be noisy. Wall clock as the client sees it, and the daemon's processor time. Not a
test: no assertion.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.report import describe_machine
from manor.testing.daemon import DaemonProcess
from manor.testing.kernels import build_idle_kernel
from manor.testing.libvirtd import missing, running_libvirtd

CLIENT: Final = """
import json, sys, time, libvirt
libvirt.registerErrorHandler(lambda *_: None, None)
connection = libvirt.open(sys.argv[1])
DISK = '''<disk type='file'><driver name='qemu' type='qcow2'/><source file='/var/empty/%s.qcow2'/>
<target dev='vda' bus='virtio'/></disk>'''
XML = '''<domain type='qemu'><name>%s</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type>%s</os><devices>%s<console type='pty'/></devices></domain>'''

def define(first, count, kernel=''):
    for number in range(first, first + count):
        name = ('run%05d' if kernel else 'bench%05d') % number
        boot = '<kernel>%s</kernel>' % kernel if kernel else ''
        yield lambda: connection.defineXML(XML % (name, boot, '' if kernel else DISK % name))

def undefine(first, count):
    for number in range(first, first + count):
        yield lambda: connection.lookupByName('bench%05d' % number).undefine()

def start(count):
    for number in range(count):
        yield lambda: connection.lookupByName('run%05d' % number).create()

def stop(count):
    for number in range(count):
        yield lambda: connection.lookupByName('run%05d' % number).destroy()

def repeat(count, work):
    for _ in range(count):
        yield work

ACTIVE = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
domain = None
for line in sys.stdin:
    what, *arguments = json.loads(line)
    if what == 'info' and domain is None:
        domain = connection.lookupByName('bench00000')
    work = {
        'define': define, 'undefine': undefine, 'start': start, 'stop': stop,
        'list': lambda count: repeat(count, connection.listAllDomains),
        'stats': lambda count: repeat(count, connection.getAllDomainStats),
        'active': lambda count: repeat(count, lambda: connection.getAllDomainStats(0, ACTIVE)),
        'info': lambda count: repeat(count, domain and domain.info),
    }[what](*arguments)
    found = []
    for step in work:
        begin = time.perf_counter()
        step()
        found.append((time.perf_counter() - begin) * 1e3)
    print(json.dumps(found), flush=True)
"""
"""Reads commands as lines of JSON; answers with the milliseconds of each step."""
CLIENTS: Final = 8
"""At once, for the rows that say so."""


@dataclass(frozen=True, slots=True)
class Row:
    """what: command of the client. batch: its arguments a turn. turns: a round. goal: of the ratio."""

    name: str
    what: str
    batch: int
    turns: int
    goal: str = "<= 1.0"


LOOKS: Final = (
    Row("list of all domains", "list", 5, 12),
    Row("statistics of all domains", "stats", 3, 10),
    Row("information about one domain", "info", 200, 10),
)


@dataclass(slots=True)
class Samples:
    """wall: milliseconds of each step. cpu: milliseconds of the daemon's processor time a step, one a batch."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, wall: Sequence[float], cpu: float) -> None:
        self.wall += wall
        self.cpu.append(cpu / max(1, len(wall)))


class Asker:
    """A client process of one daemon."""

    def __init__(self, uri: str) -> None:
        self._process = subprocess.Popen(
            ["/usr/bin/python3", "-c", CLIENT, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, *command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def finish(self) -> list[float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the client failed; see above")
        found: list[float] = json.loads(line)
        return found

    def ask(self, *command: Any) -> list[float]:
        self.begin(*command)
        return self.finish()

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait(30)


@dataclass(slots=True)
class Target:
    """One daemon. found: row -> samples. single: row -> (value, unit)."""

    name: str
    uri: str
    folder: Path
    pid: Callable[[], int]
    asker: Asker
    found: dict[str, Samples] = field(default_factory=dict)
    single: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, row: str, *command: Any) -> None:
        before = processor_time(self.pid())
        wall = self.asker.ask(*command)
        self.found.setdefault(row, Samples()).add(wall, processor_time(self.pid()) - before)

    def note(self, row: str, value: float) -> None:
        self.single.setdefault(row, []).append(value)


def processor_time(pid: int) -> float:
    """Milliseconds that the threads of a process ran. Source: Linux Documentation/scheduler/sched-stats.rst."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            total += int(path.read_text().split()[0])
    return total / 1e6


def resident(pid: int) -> float:
    """MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def timed(*command: str) -> float:
    """Milliseconds of a whole command."""
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begin) * 1e3


@contextmanager
def manord(folder: Path) -> Iterator[tuple[Target, DaemonProcess]]:
    daemon = DaemonProcess(folder)
    daemon.start()
    try:

        def pid() -> int:
            assert daemon.process is not None
            return daemon.process.pid

        asker = Asker(daemon.uri())
        try:
            yield Target("manord", daemon.uri(), folder, pid, asker), daemon
        finally:
            asker.close()
    finally:
        daemon.end()


@contextmanager
def libvirtd(folder: Path) -> Iterator[Target]:
    with running_libvirtd() as socket:
        uri = f"qemu+unix:///session?socket={socket}"
        number = int((socket.parent.parent / "pid").read_text())
        asker = Asker(uri)
        try:
            yield Target("libvirtd", uri, socket.parent.parent, lambda: number, asker)
        finally:
            asker.close()


def in_turns(targets: Sequence[Target], turn: int) -> Sequence[Target]:
    """Every other time in reverse order."""
    return targets if turn % 2 == 0 else list(reversed(targets))


def measure(targets: Sequence[Target], domains: int, rounds: int) -> None:
    for target in targets:
        target.note("memory without domains, MiB", resident(target.pid()))
    chunk = max(1, domains // 10)
    for first in range(0, domains, chunk):
        for target in in_turns(targets, first // chunk):
            target.measure("definition of one more domain", "define", first, min(chunk, domains - first))
    for target in targets:
        target.note(f"memory with {domains} domains, MiB", resident(target.pid()))
    for round_number in range(rounds):
        for row in LOOKS:
            for turn in range(row.turns):
                for target in in_turns(targets, turn + round_number):
                    target.measure(row.name, row.what, row.batch)
        for target in in_turns(targets, round_number):
            target.note("virsh list --all, ms", timed("virsh", "-c", target.uri, "list", "--all"))
            target.note(
                "manor sh list --all, ms",
                timed(sys.executable, "-m", "manor", "sh", "-c", target.uri, "list", "--all"),
            )
            crowd(target)
            beside(target)
    for target in targets:
        target.note("memory after all this, MiB", resident(target.pid()))


def crowd(target: Target) -> None:
    """Many clients ask for information at the same time."""
    with ExitStack() as stack:
        askers = []
        for _ in range(CLIENTS):
            asker = Asker(target.uri)
            stack.callback(asker.close)
            asker.ask("info", 1)
            askers.append(asker)
        before = processor_time(target.pid())
        for asker in askers:
            asker.begin("info", 200)
        wall = [value for asker in askers for value in asker.finish()]
        row = f"information, {CLIENTS} clients at once"
        target.found.setdefault(row, Samples()).add(wall, processor_time(target.pid()) - before)


def beside(target: Target) -> None:
    """What one client waits for while another asks for the statistics of all."""
    other = Asker(target.uri)
    try:
        other.ask("stats", 1)
        other.begin("stats", 30)
        wall = target.asker.ask("info", 300)  # of the processor's time most is for the other
        target.found.setdefault("information beside statistics of all", Samples()).wall += wall
        other.finish()
    finally:
        other.close()


def measure_running(targets: Sequence[Target], running: int, rounds: int) -> None:
    kernel = build_idle_kernel()
    for target in targets:
        path = target.folder / "idle-kernel"
        path.write_bytes(kernel)
        path.chmod(0o644)
        target.asker.ask("define", 0, running, str(path))
        target.measure("start of a VM", "start", running)
    row = f"statistics of {running} running VMs"
    for turn in range(10 * rounds):
        for target in in_turns(targets, turn):
            target.measure(row, "active", 3)
    for target in targets:
        target.asker.ask("stop", running)


def restart(target: Target, daemon: DaemonProcess, domains: int) -> None:
    """From the start of the process to its first list."""
    target.asker.close()
    daemon.end()
    begin = time.perf_counter()
    daemon.start()
    target.asker = Asker(target.uri)
    target.asker.ask("list", 1)
    target.note(f"start with {domains} domains to the first list, ms", (time.perf_counter() - begin) * 1e3)


def show(targets: Sequence[Target]) -> None:
    """A table: median (99th percentile) of the wall clock, [processor time of the daemon]; ours through theirs."""
    first = targets[0]
    print(f"| | {' | '.join(each.name for each in targets)} | ratio | of processor time |")
    print("|---|" + "---|" * (len(targets) + 2))
    for row in first.found:
        cells, medians = [], []
        costs: list[float | None] = []
        for target in targets:
            wall = sorted(target.found[row].wall)
            cpu = statistics.median(target.found[row].cpu) if target.found[row].cpu else None
            medians.append(statistics.median(wall))
            costs.append(cpu)
            worst = wall[min(len(wall) - 1, int(len(wall) * 0.99))]
            cells.append(f"{medians[-1]:.3f} ({worst:.3f}) ms" + ("" if cpu is None else f" [{cpu:.3f} ms]"))
        print(f"| {row} | {' | '.join(cells)} | {_ratio(medians)} | {_ratio(costs)} |")
    for row in first.single:
        values = [statistics.median(target.single[row]) if row in target.single else None for target in targets]
        shown = " | ".join("-" if value is None else f"{value:.1f}" for value in values)
        print(f"| {row} | {shown} | {_ratio(values)} | |")


def _ratio(values: Sequence[float | None]) -> str:
    return f"{values[0] / values[1]:.2f}" if len(values) == 2 and values[0] and values[1] else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the daemon with many domains, beside libvirtd.")
    parser.add_argument("--domains", type=int, default=1000)
    parser.add_argument("--running", type=int, default=0, help="VMs to start, of a guest that only halts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("manor",), help="without libvirtd")
    parser.add_argument("--json", type=Path, help="write every value to this file")
    arguments = parser.parse_args()
    reason = missing()
    if reason and not arguments.only:
        print(f"without libvirtd: {reason}", file=sys.stderr)
    print(", ".join(f"{name} {value}" for name, value in describe_machine().items()))
    with tempfile.TemporaryDirectory(prefix="mgb") as folder, ExitStack() as stack:
        # As an installed program: compiled once, whatever this shell says.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/compiled"
        ours, daemon = stack.enter_context(manord(Path(folder)))
        targets = [ours]
        if not arguments.only and not reason:
            targets.append(stack.enter_context(libvirtd(Path(folder))))
        measure(targets, arguments.domains, arguments.rounds)
        if arguments.running:
            measure_running(targets, arguments.running, arguments.rounds)
        restart(ours, daemon, arguments.domains)
        show(targets)
        if arguments.json:
            found = {
                each.name: {
                    **{row: {"wall": samples.wall, "cpu": samples.cpu} for row, samples in each.found.items()},
                    **each.single,
                }
                for each in targets
            }
            arguments.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
