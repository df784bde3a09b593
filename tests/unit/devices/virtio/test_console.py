"""virtio-console: streams, size, multiport, hostile control messages."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.char.memory import MemoryBackend
from manor.base.address import Gpa
from manor.base.errors import SavedStateError
from manor.devices.virtio.console import (
    CONFIG_TABLE,
    CONTROL_RECEIVE_QUEUE,
    CONTROL_TRANSMIT_QUEUE,
    INPUT_LIMIT,
    NO_PORT,
    TRANSMIT_LIMIT,
    VirtioConsole,
)
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.virtq_driver import Allocator, DeferQueue, FakeNotifier, VirtqDriver, start_device

RECEIVE, TRANSMIT = 0, 1
RAM = 4 << 20


class Bench:
    def __init__(self, ports: int = 1) -> None:
        self.memory = GuestMemory([Region(Gpa(0), RAM)])
        self.allocator = Allocator(0x1000, RAM)
        self.defer = DeferQueue()
        self.notifier = FakeNotifier()
        self.backends = [MemoryBackend() for _ in range(ports)]
        self.device = VirtioConsole(
            "console0",
            self.memory,
            self.defer,
            self.backends,
            multiport=ports > 1,
            names=["", "agent"] if ports > 1 else (),
        )
        for backend, port in zip(self.backends, self.device.ports, strict=True):
            port.on_room = backend.pump
            backend.connect(port)
        self.device.notifier = self.notifier
        self.queues: list[VirtqDriver] = []

    def start(self) -> Bench:
        self.queues = start_device(self.device, self.memory, self.allocator, self.device.offered_features, 64)
        self.defer.run()
        return self

    def kick(self, index: int) -> None:
        self.device.kick(index)
        self.defer.run()

    def control(self, port: int, event: int, value: int) -> None:
        self.queues[CONTROL_TRANSMIT_QUEUE].add([struct.pack("<IHH", port, event, value)])
        self.kick(CONTROL_TRANSMIT_QUEUE)

    def messages(self) -> list[tuple[int, int, int, bytes]]:
        queue = self.queues[CONTROL_RECEIVE_QUEUE]
        found = []
        for used in queue.used():
            data = queue.written(used)
            found.append((*struct.unpack_from("<IHH", data), data[8:]))
        return found

    def give_control_buffers(self, count: int = 16, size: int = 64) -> None:
        for _ in range(count):
            self.queues[CONTROL_RECEIVE_QUEUE].add(writable=[size])
        self.kick(CONTROL_RECEIVE_QUEUE)


def test_output() -> None:
    bench = Bench().start()
    bench.queues[TRANSMIT].add([b"hello, ", b"world"])
    bench.queues[TRANSMIT].add([b"!"])
    bench.kick(TRANSMIT)
    assert bytes(bench.backends[0].output) == b"hello, world!"
    assert [used.written for used in bench.queues[TRANSMIT].used()] == [0, 0]
    assert bench.notifier.used[-1] == TRANSMIT


def test_output_of_one_chain_is_capped() -> None:
    bench = Bench().start()
    queue = bench.queues[TRANSMIT]
    for index in range(3):  # 3 MiB out of the same megabyte
        queue.write_descriptor(index, 0x100000, 1 << 20, 1 if index < 2 else 0, index + 1)
    queue.make_available(0)
    bench.kick(TRANSMIT)
    assert len(bench.backends[0].output) == TRANSMIT_LIMIT


def test_input_waits_for_buffers_and_none_is_lost() -> None:
    bench = Bench().start()
    sent = bytes(range(256)) * 40
    bench.backends[0].send(sent)
    assert bench.backends[0].waiting == len(sent) - INPUT_LIMIT
    received = b""
    while len(received) < len(sent):
        queue = bench.queues[RECEIVE]
        for _ in range(8):
            queue.add(writable=[100, 28])
        bench.kick(RECEIVE)
        for used in queue.used():
            received += queue.written(used)
    assert received == sent


def test_input_after_buffers() -> None:
    bench = Bench().start()
    bench.queues[RECEIVE].add(writable=[4096])
    bench.kick(RECEIVE)
    assert bench.queues[RECEIVE].used() == []
    bench.backends[0].send(b"ls\n")
    bench.defer.run()
    queue = bench.queues[RECEIVE]
    assert [queue.written(used) for used in queue.used()] == [b"ls\n"]


def test_receive_buffer_without_room() -> None:
    bench = Bench().start()
    bench.queues[RECEIVE].add([b"readable"])
    bench.queues[RECEIVE].add(writable=[8])
    bench.backends[0].send(b"x")
    bench.defer.run()
    assert [used.written for used in bench.queues[RECEIVE].used()] == [0, 1]


def test_config_and_resize() -> None:
    bench = Bench()
    read = bench.device.read_config
    assert (read(0, 2), read(2, 2), read(4, 4), read(0, 4)) == (80, 25, 1, 25 << 16 | 80)
    bench.device.resize(132, 50)
    assert bench.notifier.config_changes == 0
    bench.start()
    assert bench.notifier.config_changes == 1  # a driver without multiport is told the size at its start
    bench.device.resize(1 << 20, 43)
    assert (read(0, 2), read(2, 2)) == (0xFFFF, 43)
    assert bench.notifier.config_changes == 2
    assert bench.device.config_generation == 2
    bench.device.resize(0xFFFF, 43)
    assert bench.notifier.config_changes == 2


def test_emergency_write() -> None:
    bench = Bench()
    bench.device.write_config(8, 4, ord("!"))
    bench.device.write_config(0, 2, 5)
    assert bytes(bench.backends[0].output) == b"!"
    assert bench.device.columns == 80


def test_multiport_handshake() -> None:
    bench = Bench(3).start()
    assert len(bench.device.queues) == 8
    bench.give_control_buffers()
    bench.control(NO_PORT, 0, 1)
    assert bench.messages() == [(0, 1, 1, b""), (1, 1, 1, b""), (2, 1, 1, b"")]
    bench.control(0, 3, 1)
    assert bench.messages() == [
        (0, 4, 1, b""),
        (0, 5, 0, struct.pack("<HH", 80, 25)),
        (0, 6, 1, b""),
    ]
    bench.control(1, 3, 1)
    assert bench.messages() == [(1, 7, 1, b"agent"), (1, 6, 1, b"")]
    bench.control(1, 6, 1)
    assert bench.device.ports[1].guest_open
    bench.device.resize(100, 30)
    bench.defer.run()
    assert bench.messages() == [(0, 5, 0, struct.pack("<HH", 100, 30))]
    assert bench.notifier.config_changes == 0


def test_multiport_data() -> None:
    bench = Bench(3).start()
    bench.queues[7].add([b"to port 2"])
    bench.kick(7)
    assert bytes(bench.backends[2].output) == b"to port 2"
    bench.queues[4].add(writable=[16])
    bench.backends[1].send(b"for port 1")
    bench.defer.run()
    assert [bench.queues[4].written(used) for used in bench.queues[4].used()] == [b"for port 1"]


def test_control_messages_wait_for_buffers_and_stay_few() -> None:
    bench = Bench(2).start()
    bench.control(NO_PORT, 0, 1)
    for _ in range(200):
        bench.control(0, 3, 1)
        bench.queues[CONTROL_TRANSMIT_QUEUE].used()
    assert len(bench.device.save_own().outbox) == 5
    bench.give_control_buffers(1, size=4)
    assert [used.written for used in bench.queues[CONTROL_RECEIVE_QUEUE].used()] == [0]
    bench.give_control_buffers()
    assert {(port, event) for port, event, _, _ in bench.messages()} == {
        (0, 1),
        (1, 1),
        (0, 4),
        (0, 5),
        (0, 6),
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.binary(max_size=12)), max_size=12))
def test_fuzz_any_bytes_on_any_queue(messages: list[tuple[int, bytes]]) -> None:
    bench = Bench(3).start()
    for index, data in messages:
        bench.queues[index].add([data], [4])
        bench.kick(index)
    assert len(bench.device.save_own().outbox) <= 3 * 5


def test_control_without_multiport_negotiated() -> None:
    bench = Bench(2)
    features = bench.device.offered_features & ~2
    bench.queues = start_device(bench.device, bench.memory, bench.allocator, features)
    bench.control(NO_PORT, 0, 1)
    told = bench.notifier.config_changes
    bench.device.resize(1, 1)
    assert bench.queues[CONTROL_TRANSMIT_QUEUE].used() == []
    assert bench.notifier.config_changes == told + 1


def test_reset_forgets_the_driver() -> None:
    bench = Bench(2).start()
    bench.control(NO_PORT, 0, 1)
    bench.control(0, 3, 1)
    bench.device.write_status(0)
    own = bench.device.save_own()
    assert (own.control_ready, own.ports_ready, own.outbox) == (False, (False, False), ())


def test_save_and_load() -> None:
    bench = Bench(2).start()
    bench.control(NO_PORT, 0, 1)
    bench.backends[0].send(b"typed ahead")
    bench.defer.run()
    bench.device.resize(99, 33)
    state = bench.device.save()
    other = Bench(2)
    with pytest.raises(SavedStateError):
        Bench(1).device.load(state)
    other.memory.write(0, bench.memory.read(0, RAM))
    other.device.load(state)
    assert other.device.save() == state


@pytest.mark.parametrize(
    "change",
    [
        {"columns": -1},
        {"rows": 1 << 16},
        {"control_ready": 1},
        {"ports_ready": ()},
        {"input": (b"x" * (INPUT_LIMIT + 1),)},
        {"outbox": ((5, 0, 0, b""),)},
    ],
)
def test_load_refuses(change: dict[str, object]) -> None:
    bench = Bench()
    with pytest.raises(SavedStateError):
        bench.device.check_own(replace(bench.device.save_own(), **change))  # type: ignore[arg-type]


def test_port_counts() -> None:
    memory = GuestMemory([Region(Gpa(0), 0x1000)])
    with pytest.raises(ValueError, match="ports"):
        VirtioConsole("c", memory, DeferQueue(), [MemoryBackend(), MemoryBackend()])
    with pytest.raises(ValueError, match="ports"):
        VirtioConsole("c", memory, DeferQueue(), [], multiport=True)


def test_every_config_register_is_exercised() -> None:
    assert set(CONFIG_TABLE.by_name) == {"cols", "rows", "max_nr_ports", "emerg_wr"}


def test_port_that_is_no_console_is_announced_by_its_name_alone() -> None:
    memory = GuestMemory([Region(Gpa(0), RAM)])
    defer = DeferQueue()
    device = VirtioConsole(
        "serial", memory, defer, [MemoryBackend()], multiport=True, names=["org.example.0"], has_console=False
    )
    device.notifier = FakeNotifier()
    opened: list[bool] = []
    device.ports[0].on_open = opened.append
    queues = start_device(device, memory, Allocator(0x1000, RAM), device.offered_features, 64)
    for _ in range(8):
        queues[CONTROL_RECEIVE_QUEUE].add(writable=[64])
    for port, event, value in ((NO_PORT, 0, 1), (0, 3, 1), (0, 6, 1), (0, 6, 1), (0, 6, 0), (0, 6, 1)):
        queues[CONTROL_TRANSMIT_QUEUE].add([struct.pack("<IHH", port, event, value)])
        device.kick(CONTROL_TRANSMIT_QUEUE)
    defer.run()
    device.kick(CONTROL_RECEIVE_QUEUE)
    defer.run()
    device.resize(10, 10)
    defer.run()
    receive = queues[CONTROL_RECEIVE_QUEUE]
    events = [struct.unpack_from("<IHH", receive.written(used))[1] for used in receive.used()]
    assert events == [1, 7, 6]  # added, name, open
    assert opened == [True, False, True]
    device.write_status(0)
    assert opened[-1] is False
