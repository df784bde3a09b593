"""`python -m benchmarks.user_network`: what the user-mode network costs, without a guest.

The question: is a frame cheap enough in Python? A guest under binary translation wants 300 Mbit/s out and 800 in, and
1300 connections a second: three times and twice what QEMU's gives one. The guest here is a few lines that write the
next frame. Figures are for a second of processor time of the network's thread, sockets of the loopback included. Not a
test: no assertion.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Sequence

from manor.backends.net.api import Frame, Offloads, Segmentation
from manor.backends.net.user.backend import UserBackend
from manor.backends.net.user.plan import make_plan
from manor.base.clock import HostClock
from manor.testing.poll_loop import PollLoop
from manor.testing.user_guest import (
    ACK,
    EVERYTHING,
    GATEWAY,
    NOTHING,
    SYN,
    FakeApplication,
    TableGuest,
    echo_request,
    tcp,
)

MSS = bytes((2, 4, 5, 180, 1, 3, 3, 7))
_HEAD = struct.Struct(">IIHH")


class Sink:
    """A receiver that keeps the last frames."""

    def __init__(self, accepts: Offloads) -> None:
        self.accepts = accepts
        self.frames: list[Frame] = []

    def deliver(self, frames: Sequence[Frame]) -> int:
        self.frames += frames
        return len(frames)


class Bench:
    """A network on a loop that this thread turns."""

    def __init__(self, accepts: Offloads) -> None:
        self.loop = PollLoop()
        self.sink = Sink(accepts)
        self.backend = UserBackend(make_plan(), self.loop, HostClock())
        self.backend.attach(self.sink)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]

    def turn(self) -> None:
        """What is ready now."""
        self.loop.turn()

    def send(self, *frames: Frame | bytes) -> None:
        self.backend.send([frame if isinstance(frame, Frame) else Frame(frame) for frame in frames])

    def open(self, source_port: int) -> tuple[int, int]:
        """A connection to the listener: the next sequence and acknowledgement numbers."""
        self.send(tcp(GATEWAY, source_port, self.port, 0, 0, SYN, options=MSS))
        while not self.sink.frames:
            self.turn()
        sequence = int.from_bytes(self.sink.frames.pop().data[38:42], "big") + 1
        self.send(tcp(GATEWAY, source_port, self.port, 1, sequence, ACK))
        return 1, sequence

    def close(self) -> None:
        self.backend.close()
        self.listener.close()
        self.loop.close()


def to_host(seconds: float, size: int, accepts: Offloads) -> tuple[float, float]:
    """The guest sends: megabytes and frames a second of the thread's processor time."""
    bench = Bench(accepts)
    sequence, ack = bench.open(40000)
    peer, _ = bench.listener.accept()
    drain = threading.Thread(target=_drain, args=(peer,))
    drain.start()
    template = bytearray(tcp(GATEWAY, 40000, bench.port, 0, ack, ACK, bytes(size)))
    offload = accepts.checksum
    endpoint = bench.backend._core.tcp.endpoints()[0]
    batch = 8 if offload else 64
    sent = frames = 0
    started = time.thread_time()
    own = 0.0
    while (elapsed := time.thread_time() - started) < seconds:
        before = time.thread_time()
        made: list[Frame] = []
        while len(made) < batch and (len(made) + 1) * size <= endpoint.receive.window:
            template[38:42] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
            made.append(
                Frame(bytes(template), 34, 16, False, Segmentation.TCPV4, 1460)
                if offload
                else Frame(bytes(template), is_checked=True)
            )
            sequence += size
            sent += size
        own += time.thread_time() - before
        frames += len(made)
        bench.backend.send(made)
        while endpoint.receive.pending:
            bench.turn()
    bench.close()
    drain.join()
    peer.close()
    return sent / 1e6 / (elapsed - own), frames / (elapsed - own)


def _drain(peer: socket.socket) -> None:
    buffer = bytearray(1 << 20)
    try:
        while peer.recv_into(buffer):
            pass
    except OSError:
        pass


def _fill(peer: socket.socket) -> None:
    data = bytes(1 << 18)
    try:
        while True:
            peer.sendall(data)
    except OSError:
        pass


def to_guest(seconds: float, accepts: Offloads) -> tuple[float, float]:
    """The host sends."""
    bench = Bench(accepts)
    _, ack = bench.open(40000)
    peer, _ = bench.listener.accept()
    fill = threading.Thread(target=_fill, args=(peer,))
    fill.start()
    template = bytearray(tcp(GATEWAY, 40000, bench.port, 1, 0, ACK, window=8192))
    got = frames = 0
    own = 0.0
    started = time.thread_time()
    while (elapsed := time.thread_time() - started) < seconds:
        while not bench.sink.frames:
            bench.turn()
        before = time.thread_time()
        batch, bench.sink.frames = bench.sink.frames, []
        size = sum(len(frame.data) - 54 for frame in batch)
        got += size
        frames += len(batch)
        template[42:46] = ((ack + got) & 0xFFFFFFFF).to_bytes(4, "big")
        answer = Frame(bytes(template), is_checked=True)
        own += time.thread_time() - before
        bench.backend.send([answer])
    bench.close()
    peer.close()
    fill.join()
    return got / 1e6 / (elapsed - own), frames / (elapsed - own)


def connections(seconds: float) -> float:
    """Handshake, a question, an answer, both ends closed. The guest is a TcpTable, whose time counts too."""
    bench = Bench(EVERYTHING)
    guest = TableGuest()
    bench.backend.attach(guest)
    bench.listener.setblocking(False)
    done = 0
    clock = HostClock()
    peers: dict[int, socket.socket] = {}
    started = time.thread_time()
    running: dict[int, FakeApplication] = {}
    guest.step(bench.backend, clock.now_ns())
    while (elapsed := time.thread_time() - started) < seconds:
        while len(running) < 16:
            port = 20000 + done % 40000
            application = guest.connect(GATEWAY, bench.port, source_port=port)
            running[port] = application
            assert application.endpoint is not None
            application.endpoint.write(b"question")
            done += 1
        bench.turn()
        guest.step(bench.backend, clock.now_ns())
        try:
            while True:
                peer, _ = bench.listener.accept()
                peer.setblocking(False)
                peers[peer.fileno()] = peer
        except BlockingIOError:
            pass
        for descriptor, peer in list(peers.items()):
            try:
                if peer.recv(100):
                    peer.send(b"answer")
                    peer.close()
                    del peers[descriptor]
            except BlockingIOError:
                continue
        for port, application in list(running.items()):
            if application.total == b"answer" and application.endpoint is not None:
                application.endpoint.finish()
                application.total.clear()
            if application.end is not None:
                del running[port]
    for peer in peers.values():
        peer.close()
    bench.close()
    return (done - len(running)) / elapsed


def echoes(seconds: float) -> float:
    """Echo requests answered a second."""
    bench = Bench(NOTHING)
    frame = Frame(echo_request(GATEWAY, 1, 1, bytes(56)))
    count = 0
    started = time.thread_time()
    while (elapsed := time.thread_time() - started) < seconds:
        bench.backend.send([frame])
        bench.sink.frames.clear()
        count += 1
    bench.close()
    return count / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.user_network", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of processor time, for each run (default 1)")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each (default 3)")
    options = parser.parse_args()
    streams: dict[str, Callable[[], tuple[float, float]]] = {
        "guest to host, frames of 64 KB": lambda: to_host(options.seconds, 64240, EVERYTHING),
        "guest to host, frames of 1460 B": lambda: to_host(options.seconds, 1460, NOTHING),
        "host to guest, frames of 64 KB": lambda: to_guest(options.seconds, EVERYTHING),
        "host to guest, frames of 1460 B": lambda: to_guest(options.seconds, NOTHING),
    }
    for name, run in streams.items():
        results = [run() for _ in range(options.repetitions)]
        megabytes, frames = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"{name:<34} {megabytes:8.0f} MB/s {frames:8.0f} frames/s")
    for name, count in (("connections", connections), ("echo requests", echoes)):
        print(f"{name:<34} {statistics.median(count(options.seconds) for _ in range(options.repetitions)):8.0f} /s")


if __name__ == "__main__":
    main()
