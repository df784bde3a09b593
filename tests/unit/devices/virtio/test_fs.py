"""virtio-fs: requests go to the server and answers come back, also late, and never into memory that was taken back."""

from __future__ import annotations

from collections.abc import Callable

from manor.backends.share.api import ShareRequest
from manor.base.address import Gpa
from manor.devices.virtio.fs import HIGH_PRIORITY_QUEUE, REQUEST_QUEUE, VirtioFs
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.virtq_driver import Allocator, DeferQueue, FakeNotifier, VirtqDriver, start_device

RAM = 4 << 20


class Server:
    """Keeps requests until a test answers them."""

    def __init__(self, tag: str = "work") -> None:
        self.tag = tag
        self.waiting: list[tuple[ShareRequest, Callable[[bytes], None]]] = []
        self.resets = 0

    def submit(self, request: ShareRequest, done: Callable[[bytes], None]) -> None:
        self.waiting.append((request, done))

    def reset(self) -> None:
        self.resets += 1


class Bench:
    def __init__(self, tag: str = "work") -> None:
        self.memory = GuestMemory([Region(Gpa(0), RAM)])
        self.allocator = Allocator(0x1000, RAM)
        self.defer = DeferQueue()
        self.notifier = FakeNotifier()
        self.server = Server(tag)
        self.device = VirtioFs("fs", self.memory, self.defer, self.server)
        self.device.notifier = self.notifier
        self.queues: list[VirtqDriver] = []

    def start(self) -> Bench:
        self.queues = start_device(self.device, self.memory, self.allocator, self.device.offered_features, 64)
        self.defer.run()
        return self

    def send(self, queue: int, readable: list[bytes], writable: list[int]) -> None:
        self.queues[queue].add(readable, writable)
        self.device.kick(queue)
        self.defer.run()


def test_configuration() -> None:
    device = Bench().device
    tag = b"".join(device.read_config(offset, 4).to_bytes(4, "little") for offset in range(0, 36, 4))
    assert tag == b"work" + bytes(32)
    assert device.read_config(36, 4) == 1
    assert device.config_size == 40
    full = Bench("x" * 36).device
    assert full.read_config(32, 4).to_bytes(4, "little") == b"xxxx"


def test_answers_come_in_any_order() -> None:
    bench = Bench().start()
    bench.send(REQUEST_QUEUE, [b"first ", b"request"], [5, 10])
    bench.send(REQUEST_QUEUE, [b"second"], [4])
    bench.send(HIGH_PRIORITY_QUEUE, [b"forget"], [])
    assert [(request.read(), request.room) for request, _ in bench.server.waiting] == [
        (b"first request", 15), (b"second", 4), (b"forget", 0),
    ]  # fmt: skip
    for index, answer in ((1, b"two"), (0, b"one and more"), (2, b"")):
        bench.server.waiting[index][1](answer)
    bench.defer.run()
    queue = bench.queues[REQUEST_QUEUE]
    assert [queue.written(used) for used in queue.used()] == [b"two", b"one and more"]
    assert len(bench.queues[HIGH_PRIORITY_QUEUE].used()) == 1
    assert bench.notifier.used == [1, 0]  # the driver, told once, has not asked to be told of the second


def test_answer_after_a_reset_touches_nothing() -> None:
    bench = Bench().start()
    bench.send(REQUEST_QUEUE, [b"request"], [8])
    [(gpa, _)] = bench.queues[REQUEST_QUEUE]._chains[0][1]
    resets = bench.server.resets
    bench.device.write_status(0)
    assert bench.server.resets == resets + 1
    bench.start()
    bench.server.waiting[0][1](b"too late")
    bench.defer.run()
    assert bench.memory.read(gpa, 8) == bytes(8)
    assert bench.queues[REQUEST_QUEUE].used() == []
