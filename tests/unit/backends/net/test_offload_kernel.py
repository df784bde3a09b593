"""Software segmentation and checksums against the host's kernel, which does the same work on the same frames.

In a network namespace of its own, one end of a veth pair loses its offloads, so that the kernel has to finish what it
is given; what arrives at the other end is compared with ours, byte by byte.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys

import pytest

from manor.backends.net.api import Frame, Segmentation
from manor.backends.net.offload import NOTHING, finish
from manor.testing.net_frames import MAC_A, MAC_B, eth, ipv4, ipv6, tcp, udp

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(
        not all(shutil.which(tool) for tool in ("ip", "unshare")), reason="ip or unshare is missing (package iproute2)"
    ),
]

SCRIPT = r"""
import array, fcntl, json, socket, struct, subprocess, sys

def run(line):
    subprocess.run(line.split(), check=True)

subprocess.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"], stderr=subprocess.DEVNULL)
run("ip link add v0 type veth peer name v1")
run("ip link set v0 mtu 9000 up")
run("ip link set v1 mtu 9000 up")
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for name in (b"v0", b"v1"):
    for command in (0x17, 0x1F):  # ETHTOOL_STXCSUM, ETHTOOL_STSO: Linux include/uapi/linux/ethtool.h
        value = array.array("I", [command, 0])
        fcntl.ioctl(control, 0x8946, struct.pack("16sQ16x", name, value.buffer_info()[0]))
ends = []
for name in ("v0", "v1"):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    end.bind((name, 0))
    ends.append(end)
sender, receiver = ends
sender.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
receiver.settimeout(20)
END = bytes.fromhex("0200000000ee0200000000ee88b5") + bytes(46)
receiver.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
answers = []
for header, data in json.load(sys.stdin):
    sender.send(struct.pack("<BBHHHH", *header) + bytes.fromhex(data))
    sender.send(bytes(10) + END)
    got = []
    while (frame := receiver.recv(65536)) != END:
        if frame[:12].hex() == data[:24]:
            got.append(frame.hex())
    answers.append(got)
print(json.dumps(answers))
"""


def by_kernel(frames: list[Frame]) -> list[list[bytes]]:
    """What the kernel makes of each frame."""
    headers = []
    for frame in frames:
        size = 0
        if frame.segmentation:
            is_udp = frame.segmentation is Segmentation.UDP_L4
            size = frame.checksum_start + (8 if is_udp else (frame.data[frame.checksum_start + 12] >> 4) * 4)
        values = (frame.segmentation, size, frame.segment_size, frame.checksum_start, frame.checksum_offset)
        headers.append(((1, *values), frame.data.hex()))
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", SCRIPT],
        input=json.dumps(headers), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"the kernel cannot be asked here: {done.stderr.strip().splitlines()[-1:]}")
    return [[bytes.fromhex(text) for text in answer] for answer in json.loads(done.stdout)]


def unfinished(ethertype: int, packet: bytes, segment_size: int) -> Frame:
    """A TCP frame that is to be cut."""
    start, kind = (34, Segmentation.TCPV4) if ethertype == 0x0800 else (54, Segmentation.TCPV6)
    return Frame(eth(MAC_B, MAC_A, ethertype, packet), start, 16, False, kind, segment_size)


def make_frames(rng: random.Random) -> list[Frame]:
    frames = []
    for size, segment_size in ((3000, 1460), (2920, 1460), (1461, 1460), (9999, 536), (20000, 1448), (63000, 1448)):
        payload = rng.randbytes(size)
        options = b"\x01\x01\x08\x0a" + rng.randbytes(8)
        flags = rng.choice([0x10, 0x18, 0x19, 0x98])
        segment = tcp(4000, 80, payload, rng.choice([1, 0xFFFF_FF00]), flags, options)
        frames += [
            unfinished(0x0800, ipv4(segment, protocol=6), segment_size),
            unfinished(0x86DD, ipv6(segment, protocol=6), segment_size),
        ]
    for size in (0, 1, 500, 1400):
        payload = rng.randbytes(size)
        frames += [
            Frame(eth(MAC_B, MAC_A, 0x0800, ipv4(udp(1, 2, payload))), 34, 6),
            Frame(eth(MAC_B, MAC_A, 0x86DD, ipv6(udp(1, 2, payload))), 54, 6),
            Frame(eth(MAC_B, MAC_A, 0x0800, ipv4(tcp(1, 2, payload), protocol=6)), 34, 16),
        ]
    datagram = udp(1, 2, rng.randbytes(9000))
    frames.append(Frame(eth(MAC_B, MAC_A, 0x0800, ipv4(datagram)), 34, 6, False, Segmentation.UDP_L4, 1000))
    return frames


def test_the_kernel_makes_the_same_of_it() -> None:
    rng = random.Random(5)
    frames = make_frames(rng)
    answers = by_kernel(frames)
    compared = 0
    for frame, answer in zip(frames, answers, strict=True):
        if frame.segmentation is Segmentation.UDP_L4 and len(answer) <= 1:
            continue  # a kernel that segments datagrams only where they leave for good
        assert [piece.data for piece in finish(frame, NOTHING)] == answer
        compared += len(answer)
    assert compared > 100
