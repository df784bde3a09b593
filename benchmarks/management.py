"""How fast is the daemon with a thousand domains? Listing, statistics, information, durable definitions, memory.

    python benchmarks/management.py [--domains N] [--against URI]

It starts a manord of its own in a temporary directory and asks it through libvirt's own library (python3-libvirt of the
system, in another process). --against: measure another libvirt daemon's driver instead, in which domains can be
defined. Prints one line a figure: milliseconds (median, 99th percentile), or MiB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from manor.testing.daemon import DaemonProcess

CLIENT = """
import json, sys, time, libvirt
uri, count = sys.argv[1], int(sys.argv[2])
connection = libvirt.open(uri)
XML = '''<domain type='%s'><name>bench%05d</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>
<devices><disk type='file'><driver name='qemu' type='qcow2'/><source file='/var/empty/d%05d.qcow2'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>'''
kind = 'test' if connection.getType().upper() == 'TEST' else 'qemu'

def timed(work, repeat):
    found = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) * 1e3)
    found.sort()
    return found[len(found) // 2], found[min(len(found) - 1, int(len(found) * 0.99))]

result = {}
start = time.perf_counter()
for number in range(count):
    connection.defineXML(XML % (kind, number, number))
total = (time.perf_counter() - start) * 1e3
result[f'define {count}'] = (total, total)
result['list all domains'] = timed(lambda: connection.listAllDomains(), 30)
result['statistics of all'] = timed(lambda: connection.getAllDomainStats(), 20)
domain = connection.lookupByName('bench00000')
result['information of one'] = timed(domain.info, 1000)
print(json.dumps(result))
if len(sys.argv) > 3:
    for number in range(count):
        connection.lookupByName('bench%05d' % number).undefine()
"""


def resident(pid: int) -> float:
    """MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def ask(uri: str, count: int, *more: str) -> dict[str, list[float]]:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", CLIENT, uri, str(count), *more], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the client failed: {done.stderr}")
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def virsh_list(uri: str) -> float:
    """Milliseconds of a whole `virsh list --all`, the median of five."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(["virsh", "-c", uri, "list", "--all"], stdout=subprocess.DEVNULL, check=True)
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the daemon with many domains.")
    parser.add_argument("--domains", type=int, default=1000)
    parser.add_argument("--against", metavar="URI", help="measure this daemon; its benchmark domains are removed")
    arguments = parser.parse_args()
    if arguments.against:
        show(ask(arguments.against, arguments.domains, "undefine"))
        return
    with tempfile.TemporaryDirectory(prefix="mgb") as folder:
        daemon = DaemonProcess(Path(folder))
        daemon.start()
        try:
            assert daemon.process is not None
            before = resident(daemon.process.pid)
            show(ask(daemon.uri(), arguments.domains))
            print(f"{'virsh list --all':24} {virsh_list(daemon.uri()):10.1f} ms")
            print(f"{'resident memory':24} {resident(daemon.process.pid):10.1f} MiB (empty: {before:.1f} MiB)")
        finally:
            daemon.end()


def show(found: dict[str, list[float]]) -> None:
    for name, (median, worst) in found.items():
        print(f"{name:24} {median:10.3f} ms (99%: {worst:.3f} ms)")


if __name__ == "__main__":
    main()
