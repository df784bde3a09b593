"""virtio-vsock: packets between the queues and the backend; hostile headers and buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from manor.backends.vsock.packet import HEADER_SIZE, HOST_CID, MAX_PAYLOAD, Op, Packet, decode
from manor.base.address import Gpa
from manor.base.errors import SavedStateError
from manor.devices.virtio.vsock import EVENT_QUEUE, RECEIVE_QUEUE, TRANSMIT_QUEUE, VirtioVsock
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.virtq_driver import Allocator, DeferQueue, FakeNotifier, start_device
from manor.trace.sink import RingSink, disable, enable

RAM = 8 << 20
CID = 77


class Backend:
    """Echoes packets; congested while `is_congested` says so."""

    def __init__(self) -> None:
        self.on_packets: Callable[[], None] = lambda: None
        self.cid = CID
        self.is_congested = False
        self.got: list[Packet] = []
        self.waiting: list[Packet] = []
        self.rooms: list[int] = []
        self.resets = 0

    @property
    def has_packets(self) -> bool:
        return bool(self.waiting)

    def receive(self, packet: Packet) -> None:
        self.got.append(packet)

    def next_packet(self, room: int) -> Packet | None:
        self.rooms.append(room)
        self.is_congested = False
        packet = self.waiting.pop(0)
        return None if packet.op == Op.INVALID else packet

    def reset(self) -> None:
        self.resets += 1

    def offer(self, *packets: Packet) -> None:
        self.waiting += packets
        self.on_packets()


class Bench:
    def __init__(self) -> None:
        self.memory = GuestMemory([Region(Gpa(0), RAM)])
        self.allocator = Allocator(0x1000, RAM)
        self.defer = DeferQueue()
        self.backend = Backend()
        self.device = VirtioVsock("vsock", self.memory, self.defer, self.backend)
        self.device.notifier = FakeNotifier()
        self.queues = start_device(self.device, self.memory, self.allocator, self.device.offered_features, 64)
        self.defer.run()

    def send(self, *pieces: bytes) -> None:
        self.queues[TRANSMIT_QUEUE].add(pieces)
        self.device.kick(TRANSMIT_QUEUE)
        self.defer.run()

    def give(self, *sizes: int) -> None:
        for size in sizes:
            self.queues[RECEIVE_QUEUE].add(writable=[size])
        self.device.kick(RECEIVE_QUEUE)
        self.defer.run()

    def received(self) -> list[Packet | None]:
        queue = self.queues[RECEIVE_QUEUE]
        data = [queue.written(used) for used in queue.used()]
        return [decode(one[:HEADER_SIZE], one[HEADER_SIZE:]) if one else None for one in data]


@pytest.fixture
def ring() -> Iterator[RingSink]:
    sink = RingSink(1000)
    enable("guest_error", sink)
    yield sink
    disable("*", sink)


def packet(payload: bytes = b"") -> Packet:
    return Packet(CID, HOST_CID, 1, 2, Op.RW, payload=payload)


def test_packets_go_both_ways() -> None:
    bench = Bench()
    data = packet(b"hello").encode()
    bench.send(data)
    bench.send(data[:HEADER_SIZE], data[HEADER_SIZE:])
    bench.send(data[:10], data[10:45], data[45:])
    assert bench.backend.got == [packet(b"hello")] * 3
    answer = Packet(HOST_CID, CID, 2, 1, Op.RW, payload=b"world")
    bench.backend.offer(answer)
    bench.defer.run()
    assert bench.received() == []
    bench.give(4096, 4096)
    assert bench.received() == [answer]
    assert bench.backend.rooms == [4096 - HEADER_SIZE]


def test_configuration_has_the_guests_cid() -> None:
    device = Bench().device
    assert (device.read_config(0, 4), device.read_config(4, 4), device.config_size) == (CID, 0, 8)


def test_packets_that_lie_about_their_size_are_dropped(ring: RingSink) -> None:
    bench = Bench()
    bench.send(packet(b"hello").encode()[:-1])
    bench.send(packet().encode()[:-1])
    bench.send(packet(b"x" * (MAX_PAYLOAD + 1)).encode())
    assert bench.backend.got == []
    assert len(bench.queues[TRANSMIT_QUEUE].used()) == 3
    assert len(ring.events) == 3
    bench.send(packet(b"ab").encode() + b"what the header does not count is not looked at")
    assert bench.backend.got == [packet(b"ab")]


def test_receive_buffer_without_room_for_a_header_is_returned_empty(ring: RingSink) -> None:
    bench = Bench()
    bench.give(HEADER_SIZE - 1, HEADER_SIZE)
    bench.backend.offer(packet())
    bench.defer.run()
    assert bench.received() == [None, packet()]
    assert len(ring.events) == 1


def test_buffer_stays_when_the_backend_has_nothing_after_all() -> None:
    bench = Bench()
    bench.give(4096)
    bench.backend.offer(replace(packet(), op=Op.INVALID))
    bench.defer.run()
    assert bench.received() == []
    bench.backend.offer(packet())
    bench.defer.run()
    assert bench.received() == [packet()]


def test_congested_backend_gets_nothing_until_the_guest_took_something() -> None:
    bench = Bench()
    bench.backend.is_congested = True
    bench.send(packet().encode())
    assert bench.backend.got == []
    bench.backend.offer(packet())
    bench.give(4096)
    assert bench.backend.got == [packet()]


def test_reset_reaches_the_backend() -> None:
    bench = Bench()
    resets = bench.backend.resets
    bench.device.write_status(0)
    bench.defer.run()
    assert bench.backend.resets == resets + 1
    bench.backend.offer(packet())
    bench.defer.run()


def test_driver_is_told_after_a_load_that_its_connections_are_gone() -> None:
    bench = Bench()
    bench.queues[EVENT_QUEUE].add(writable=[4])
    state = bench.device.save()
    bench.device.load(state)
    bench.defer.run()
    queue = bench.queues[EVENT_QUEUE]
    [used] = queue.used()
    assert queue.written(used) == b"\0\0\0\0"
    queue.add(writable=[4])
    bench.device.kick(EVENT_QUEUE)
    bench.defer.run()
    assert queue.used() == []
    with pytest.raises(SavedStateError):
        bench.device.load(replace(state, own=None))
