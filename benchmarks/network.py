"""`python -m benchmarks.network`: the user-mode network against QEMU's, both under translation, as ratios.

The same kernel, initramfs and C program; in turns, several times, for the machine may be noisy; the medians are
compared. The other end of every connection is a process of its own on the host. Not a test: no assertion.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import shutil
import socket
import socketserver
import statistics
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from benchmarks.report import describe_machine
from manor.base.errors import ManorError
from manor.guests.default import default_guest
from manor.guests.init_script import PROMPT
from manor.guests.progress import Silent
from manor.testing.guest_process import QEMU, Boot, GuestProcess, Runner, command
from manor.testing.programs import compile_program, extend_initrd

HERE: Final = Path(__file__).parent
BOOT_TIMEOUT_S: Final = 120.0
HOST: Final = "10.0.2.2"
"""The host, as guests of both see it."""
CHUNK: Final = bytes(1 << 18)


@dataclass(frozen=True, slots=True)
class Row:
    """mode: of the program. scale: what its rate is divided by for the unit."""

    mode: str
    question: str
    unit: str
    to_reach: str
    scale: float = 1.0


ROWS: Final = (
    Row("send", "guest to host, one TCP connection", "MB/s", ">= 3", 1e6),
    Row("receive", "host to guest, one TCP connection", "MB/s", ">= 3", 1e6),
    Row("connect", "TCP connections, one after the other", "1/s", ">= 2"),
    Row("udp", "round trips of a datagram", "1/s", ""),
    Row("ping", "round trips of an ICMP echo to the gateway", "1/s", ">= 2"),
)
NETWORK: Final[dict[Runner, tuple[str, ...]]] = {
    "manor": ("--net", "user,reach=host"),
    "qemu-q35": ("-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"),
}


class _Sink(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(len(CHUNK)):
            pass


class _Source(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(OSError):
            while True:
                self.request.sendall(CHUNK)


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(OSError):
            self.request.sendall(self.request.recv(1))


def _serve(ports: Connection) -> None:
    """The host's ends, in a process of their own."""

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """The guest's end was cut."""

    found = {}
    for mode, handler in (("send", _Sink), ("receive", _Source), ("connect", _Echo)):
        server = Server(("127.0.0.1", 0), handler)
        found[mode] = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        found["udp"] = datagrams.getsockname()[1]
        ports.send(found)
        while True:
            data, address = datagrams.recvfrom(65536)
            datagrams.sendto(data, address)


def measure(runner: Runner, boot: Boot, ports: dict[str, int], seconds: float, modes: list[str]) -> dict[str, float]:
    """Boot once; rates by mode. Raises ManorError if the guest does not answer."""
    values: dict[str, float] = {}
    with GuestProcess(command(runner, boot)) as guest:
        guest.wait_for(PROMPT, BOOT_TIMEOUT_S)
        guest.send("until ip addr show eth0 | grep -q 10.0.2.15; do sleep 0.2; done; echo lea''se\n")
        guest.wait_for("\nlease", BOOT_TIMEOUT_S)
        for mode in modes:
            guest.send(f"/bench/network {mode} {HOST} {ports.get(mode, 0)} {seconds}; echo do''ne\n")
            output = guest.wait_for(r"\ndone", seconds * 3 + 60)
            found = re.search(r"@@rate (\S+)", output)
            if found is not None:
                values[mode] = float(found[1])
            else:
                print(f"{runner}, {mode}: {output[-200:]!r}", file=sys.stderr)
    return values


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="boots of each runner (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="for each row (default 3)")
    parser.add_argument("--only", metavar="ROW,...", help=", ".join(row.mode for row in ROWS))
    parser.add_argument("--runners", metavar="NAME,...", default=",".join(NETWORK), help=", ".join(NETWORK))
    options = parser.parse_args()
    runners: list[Runner] = [runner for runner in NETWORK if runner in options.runners.split(",")]
    if shutil.which(QEMU) is None:
        print(f"benchmarks: there is no {QEMU} here, hence no ratios", file=sys.stderr)
        runners = ["manor"]
    rows = [row for row in ROWS if options.only is None or row.mode in options.only.split(",")]
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    ports = ours.recv()
    samples: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="manor-bench-") as scratch:
        guest = default_guest(Silent())
        program = compile_program(HERE / "programs" / "network.c", Path(scratch))
        files = {"/bench/network": (0o755, program.read_bytes())}
        initrd = extend_initrd(guest.initrd, files, Path(scratch) / "initrd.cpio")
        for repetition in range(options.repetitions):
            # Every other time backwards, so that a machine that slows down does not favour the first.
            for runner in runners if repetition % 2 == 0 else reversed(runners):
                boot = Boot(guest.kernel, initrd, guest.cmdline, extra=NETWORK[runner])
                try:
                    values = measure(runner, boot, ports, options.seconds, [row.mode for row in rows])
                except ManorError as error:
                    print(f"{runner}: {error}", file=sys.stderr)
                    continue
                for mode, value in values.items():
                    samples.setdefault((runner, mode), []).append(value)
    server.kill()
    for key, text in describe_machine().items():
        print(f"{key}: {text}")
    print("| | unit | " + " | ".join(runners) + " | ratio | to reach |")
    print("|" + "---|" * (len(runners) + 4))
    for row in rows:
        medians = {
            runner: statistics.median(samples[runner, row.mode]) / row.scale
            for runner in runners
            if samples.get((runner, row.mode))
        }
        cells = [f"{medians[runner]:,.4g}" if runner in medians else "-" for runner in runners]
        has_ratio = len(medians) == 2 and medians["qemu-q35"] > 0
        ratio = f"{medians['manor'] / medians['qemu-q35']:.2f}" if has_ratio else ""
        print(f"| {row.question} | {row.unit} | " + " | ".join(cells) + f" | {ratio} | {row.to_reach} |")
    return 0 if samples else 1


if __name__ == "__main__":
    sys.exit(main())
