"""Linux itself as a guest of the user-mode network: a tap device in a network namespace, for root only.

`python -m manor.testing.tap_guest NAMESPACE [options]` serves the namespace's interface `guest0` until its input
ends, with the network of the process that runs it as the world. It prints a line when it is ready, and one with its
statistics at the end, both JSON.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from manor.backends.net.api import Frame, NetBackend, Offloads, Segmentation
from manor.backends.net.user.backend import UserBackend
from manor.backends.net.user.plan import make_plan
from manor.base.clock import HostClock
from manor.spec.net import PortForward
from manor.testing.user_guest import EVERYTHING, NOTHING
from manor.vmm.io_loop import IoLoop

INTERFACE: Final = "guest0"

# <linux/if_tun.h>
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUN_F_CSUM_TSO4_TSO6: Final = 1 | 2 | 4

_HEADER: Final = struct.Struct("<BBHHHHH")  # virtio_net_hdr_mrg_rxbuf: VIRTIO 1.2, 5.1.6
_NEEDS_CHECKSUM: Final = 1
_DATA_VALID: Final = 2
_MAX_FRAME: Final = 65550 + _HEADER.size
_BATCH: Final = 64


class Tap:
    """A NetReceiver. loss: share of frames lost, each way. record: a pcap file."""

    def __init__(self, namespace: str, accepts: Offloads, loss: float, record: IO[bytes] | None) -> None:
        self.accepts = accepts
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), flags))
        fcntl.ioctl(self.fd, _TUNSETVNETHDRSZ, struct.pack("i", _HEADER.size))
        if accepts.tcpv4:
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, _TUN_F_CSUM_TSO4_TSO6)
        subprocess.run(["ip", "link", "set", INTERFACE, "netns", namespace], check=True)
        self.backend: NetBackend | None = None
        self._random = random.Random(1)
        self._loss = loss
        self._record = record
        if record is not None:
            record.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))

    def deliver(self, frames: Sequence[Frame]) -> int:
        for frame in frames:
            if self._is_lost(frame.data):
                continue
            start = frame.checksum_start
            header = _HEADER.pack(
                _NEEDS_CHECKSUM if start else 0,
                frame.segmentation,
                start + 20 if frame.segmentation else 0,
                frame.segment_size,
                start,
                frame.checksum_offset,
                0,
            )
            os.writev(self.fd, [header, frame.data])
        return len(frames)

    def readable(self) -> None:
        frames: list[Frame] = []
        for _ in range(_BATCH):
            try:
                data = os.read(self.fd, _MAX_FRAME)
            except BlockingIOError:
                break
            flags, kind, _, size, start, offset, _ = _HEADER.unpack_from(data)
            data = data[_HEADER.size :]
            if not self._is_lost(data):
                is_partial = bool(flags & _NEEDS_CHECKSUM)
                frames.append(
                    Frame(
                        data,
                        start if is_partial else 0,
                        offset,
                        bool(flags & _DATA_VALID),
                        Segmentation(kind & 0x7F),
                        size,
                    )
                )
        if frames and self.backend is not None:
            self.backend.send(frames)

    def _is_lost(self, data: bytes) -> bool:
        if self._loss and self._random.random() < self._loss:
            return True
        if self._record is not None:
            now = time.time_ns() // 1000
            self._record.write(struct.pack("<IIII", now // 1_000_000, now % 1_000_000, len(data), len(data)) + data)
        return False


def forward(text: str) -> PortForward:
    """`tcp:0:22` as a PortForward."""
    protocol, host_port, guest_port = text.split(":")
    return PortForward("udp" if protocol == "udp" else "tcp", int(host_port), int(guest_port))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("namespace")
    parser.add_argument("--plain", action="store_true", help="without offloads")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--forward", action="append", default=[], metavar="PROTOCOL:HOST:GUEST")
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--reach", choices=("all", "host", "none"), default="all")
    options = parser.parse_args()
    forwards = [forward(text) for text in options.forward]
    record = options.record.open("wb") if options.record else None
    tap = Tap(options.namespace, NOTHING if options.plain else EVERYTHING, options.loss, record)
    clock = HostClock()
    loop = IoLoop(clock, lambda error: os._exit(3))
    plan = make_plan(hostname="tapped", mtu=options.mtu, reach=options.reach)
    backend = UserBackend(plan, loop, clock, forwards)
    tap.backend = backend
    backend.attach(tap)
    loop.watch(tap.fd, tap.readable).want(read=True)
    loop.start()
    print(json.dumps({"forwards": [one.host_port for one in backend.forwards()]}), flush=True)
    sys.stdin.read()
    loop.stop()
    print(json.dumps({"statistics": backend.statistics(), "addresses": list(backend.addresses())}), flush=True)
    if record is not None:
        record.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
