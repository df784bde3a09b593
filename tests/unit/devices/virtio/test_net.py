"""virtio-net: frames both ways, every feature, hostile headers and commands."""

from __future__ import annotations

import struct
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.net.api import Frame, Offloads, Segmentation
from manor.backends.net.memory import MemoryNet
from manor.backends.net.offload import EVERYTHING, FRAME_LIMIT, NOTHING
from manor.base.address import Gpa
from manor.base.clock import FakeClock
from manor.base.errors import SavedStateError
from manor.devices.virtio import net_features as f
from manor.devices.virtio.device import COMMON_FEATURES, VIRTIO_F_EVENT_IDX
from manor.devices.virtio.net import CONFIG_TABLE, SENT_DELAY_NS, TRANSMIT_BUDGET, VirtioNet
from manor.devices.virtio.net_control import VIRTIO_NET_ERR, VIRTIO_NET_OK
from manor.devices.virtio.net_header import HEADER, HEADER_SIZE
from manor.devices.virtio.net_port import SHORT_BYTES, SHORT_FRAMES, NetPort
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.fakes import FakeTimers, FakeWork
from manor.testing.net_frames import MAC_A, MAC_B, eth, ipv4, tcp, udp
from manor.testing.virtq_driver import Allocator, DeferQueue, FakeNotifier, VirtqDriver, start_device
from manor.trace import sink

RAM = 16 << 20
ALL = f.ALL_FEATURES | COMMON_FEATURES
PLAIN = HEADER.pack(0, 0, 0, 0, 0, 0, 0)


def without(*numbers: int) -> int:
    return ALL & ~sum(1 << number for number in numbers)


class Bench:
    """A device on a memory backend, driven without a transport."""

    def __init__(
        self,
        features: int = ALL,
        pairs: int = 1,
        accepts: Offloads = EVERYTHING,
        size: int = 16,
        work: FakeWork | None = None,
        timers: FakeTimers | None = None,
    ) -> None:
        self.memory = GuestMemory([Region(Gpa(0), RAM)])
        self.allocator = Allocator(0x1000, RAM)
        self.defer = DeferQueue()
        self.posted = DeferQueue()
        self.notifier = FakeNotifier()
        self.backend = MemoryNet(accepts)
        self.network_lock = threading.RLock()
        self.port = NetPort("net0", self.backend, threading.RLock(), self.network_lock, self.posted, work)
        clock = None if timers is None else timers.clock
        self.device = VirtioNet(
            "net0", self.memory, self.defer, self.port, mac=MAC_A, pairs=pairs, clock=clock, timers=timers
        )
        self.port.device = self.device
        self.backend.attach(self.port)
        self.device.notifier = self.notifier
        self.features = features & self.device.offered_features
        self.size = size
        self.queues: list[VirtqDriver] = []

    def start(self) -> Bench:
        self.queues = start_device(self.device, self.memory, self.allocator, self.features, self.size)
        self.run()
        return self

    def run(self) -> None:
        while self.defer.run() or self.posted.run():
            pass

    def kick(self, index: int) -> None:
        self.device.kick(index)
        self.run()

    def transmit(self, frame: bytes, header: bytes = PLAIN, queue: int = 1, pieces: int = 1) -> None:
        whole = header + frame
        step = -(-len(whole) // pieces)
        self.queues[queue].add([whole[at : at + step] for at in range(0, len(whole), step)])
        self.kick(queue)

    def give_buffers(self, count: int, size: int = 1526, queue: int = 0) -> None:
        for _ in range(count):
            self.queues[queue].add(writable=[size])
        self.kick(queue)

    def received(self, queue: int = 0) -> list[tuple[tuple[int, ...], bytes]]:
        """Header and contents of each frame that the guest got."""
        driver = self.queues[queue]
        found = []
        parts = [driver.written(used) for used in driver.used()]
        while parts:
            header = HEADER.unpack_from(parts[0])
            taken, parts = parts[: header[6]], parts[header[6] :]
            found.append((header, b"".join(taken)[HEADER_SIZE:]))
        return found

    def command(self, command_class: int, command: int, data: bytes = b"") -> int:
        queue = 2 * self.device.pairs if self.device.has_feature(f.VIRTIO_NET_F_MQ) else 2
        driver = self.queues[queue]
        driver.add([bytes([command_class, command]), data] if data else [bytes([command_class, command])], [1])
        self.kick(queue)
        return driver.written(driver.used()[0])[0]


FRAME = eth(MAC_B, MAC_A, 0x0800, ipv4(udp(1000, 2000, b"hello")))
OTHER = eth(MAC_B, MAC_A, 0x0800, ipv4(udp(1000, 2000, b"again")))
INWARD = eth(MAC_A, MAC_B, 0x0800, ipv4(udp(2000, 1000, b"world"), source=2, target=1))


# --- transmission ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_a_frame_is_sent(pieces: int) -> None:
    bench = Bench().start()
    bench.transmit(FRAME, pieces=pieces)
    assert bench.backend.sent == [Frame(FRAME)]
    assert [used.written for used in bench.queues[1].used()] == [0]
    assert bench.device.counters["sent_frames"] == 1
    assert bench.device.counters["sent_bytes"] == len(FRAME)


def test_frames_of_one_kick_are_one_batch() -> None:
    bench = Bench().start()
    batches: list[int] = []
    bench.backend.send = lambda frames: batches.append(len(frames))  # type: ignore[method-assign]
    for _ in range(5):
        bench.queues[1].add([PLAIN + FRAME])
    bench.kick(1)
    assert batches == [5]


def test_a_vcpu_sends_a_little_itself_when_it_has_left_the_device() -> None:
    work = FakeWork(is_vcpu=True)
    bench = Bench(work=work).start()
    bench.transmit(FRAME)
    assert bench.backend.sent == []
    work.run_short()
    assert [frame.data for frame in bench.backend.sent] == [FRAME]
    bench.transmit(FRAME)
    work.run_short()
    assert len(bench.backend.sent) == 2


def test_an_answer_is_there_when_the_vcpu_goes_on() -> None:
    work = FakeWork(is_vcpu=True)
    bench = Bench(work=work).start()
    bench.give_buffers(1)
    bench.backend.send = lambda frames: bench.backend.give(Frame(INWARD))  # type: ignore[method-assign, assignment]
    bench.transmit(FRAME)
    work.run_short()
    assert [data for _, data in bench.received()] == [INWARD]


class TestLateInterrupts:
    """About a few frames that a vCPU sent itself."""

    def start(self, *, is_vcpu: bool = True) -> tuple[Bench, FakeTimers, FakeWork]:
        work, timers = FakeWork(is_vcpu=is_vcpu), FakeTimers(FakeClock())
        bench = Bench(work=work, timers=timers).start()
        bench.notifier.used.clear()
        return bench, timers, work

    def test_the_guest_is_told_a_little_later_and_once(self) -> None:
        bench, timers, work = self.start()
        for _ in range(2):
            bench.transmit(FRAME)
            work.run_short()
        assert len(bench.queues[1].used()) == 2  # what it would see, if it looked
        assert bench.notifier.used == []
        timers.advance(SENT_DELAY_NS)
        assert bench.notifier.used == [1]

    def test_not_at_all_where_it_has_seen_them_by_then(self) -> None:
        bench, timers, work = self.start()
        bench.transmit(FRAME)
        work.run_short()
        bench.queues[1].used()
        # Linux asks for the next interrupt behind what it has seen, whenever it looks.
        event = bench.device.queues[1].driver_area + 4 + 2 * bench.size
        bench.memory.write_u16(event, 1)
        timers.advance(SENT_DELAY_NS)
        assert bench.notifier.used == []

    def test_the_timer_ends_when_nothing_is_sent(self) -> None:
        bench, timers, work = self.start()
        bench.transmit(FRAME)
        work.run_short()
        assert len(timers.pending()) == 1
        timers.advance(SENT_DELAY_NS)
        assert len(timers.pending()) == 1  # for what comes next
        timers.advance(SENT_DELAY_NS)
        assert timers.pending() == []

    def test_at_once_about_much_and_about_what_others_send(self) -> None:
        bench, timers, _ = self.start()
        for _ in range(SHORT_FRAMES + 1):
            bench.queues[1].add([PLAIN + FRAME])
        bench.kick(1)
        assert bench.notifier.used == [1]
        bench, timers, _ = self.start(is_vcpu=False)
        bench.transmit(FRAME)
        assert bench.notifier.used == [1]
        assert timers.pending() == []

    def test_a_reset_forgets_them(self) -> None:
        bench, timers, work = self.start()
        bench.transmit(FRAME)
        work.run_short()
        bench.device.write_status(0)
        timers.advance(2 * SENT_DELAY_NS)
        assert bench.notifier.used == []


@pytest.mark.parametrize(("count", "size"), [(SHORT_FRAMES + 1, 60), (1, SHORT_BYTES + 1)])
def test_much_is_sent_beside_the_guest(count: int, size: int) -> None:
    work = FakeWork(is_vcpu=True)
    bench = Bench(work=work).start()
    for _ in range(count):
        bench.queues[1].add([PLAIN + FRAME[:14] + bytes(size - 14)])
    bench.kick(1)
    assert work.short_jobs == []
    assert len(bench.backend.sent) == count


def test_a_vcpu_does_not_wait_for_a_network_that_is_busy() -> None:
    work = FakeWork(is_vcpu=True)
    bench = Bench(work=work).start()

    def send(frame: bytes) -> None:
        bench.queues[1].add([PLAIN + frame])
        bench.device.kick(1)
        bench.defer.run()

    def as_vcpu() -> None:
        send(FRAME)
        work.run_short()
        send(OTHER)  # behind the first, whoever sends it
        assert work.short_jobs == []

    with bench.network_lock:  # as the loop holds it
        vcpu = threading.Thread(target=as_vcpu)
        vcpu.start()
        vcpu.join(5)
        assert not vcpu.is_alive()
        assert bench.backend.sent == []
    bench.run()
    assert [frame.data for frame in bench.backend.sent] == [FRAME, OTHER]


def test_a_turn_is_bounded_by_bytes() -> None:
    bench = Bench(size=256).start()
    gpa = bench.allocator.take(65000)
    bench.memory.write(gpa, PLAIN + FRAME)
    for index in range(64):
        bench.queues[1].write_descriptor(index, gpa, 65000, 0)
        bench.queues[1].make_available(index)
    bench.device.kick(1)
    assert bench.device.counters["sent_bytes"] < TRANSMIT_BUDGET + 65000
    bench.run()
    assert len(bench.backend.sent) == 64


def test_unfinished_frames_go_to_a_backend_that_takes_them() -> None:
    bench = Bench().start()
    frame, start, offset = tcp_frame(b"x" * 4000)
    bench.transmit(frame, HEADER.pack(1, 1, 54, 1460, start, offset, 0))
    assert bench.backend.sent == [Frame(frame, start, offset, False, Segmentation.TCPV4, 1460)]


def test_the_device_finishes_what_its_backend_does_not_take() -> None:
    bench = Bench(accepts=NOTHING).start()
    frame, start, offset = tcp_frame(b"x" * 4000)
    bench.transmit(frame, HEADER.pack(1, 1, 54, 1460, start, offset, 0))
    assert [len(sent.data) for sent in bench.backend.sent] == [54 + 1460, 54 + 1460, 54 + 1080]
    assert all(sent.checksum_start == 0 for sent in bench.backend.sent)


def test_a_frame_that_is_not_what_its_header_says_is_dropped() -> None:
    bench = Bench(accepts=NOTHING).start()
    bench.transmit(FRAME, HEADER.pack(1, 1, 40, 1460, 30, 6, 0))  # TCP, it says
    assert bench.backend.sent == []
    assert bench.port.malformed == 1


@pytest.mark.parametrize(
    "header",
    [
        (1, 0, 0, 0, len(FRAME), 0, 0),  # the checksum behind the end
        (1, 0, 0, 0, 34, 0xFFFF, 0),
        (1, 0, 0, 0, 0xFFFF, 0xFFFF, 0),
        (1, 0, 0, 0, 0, 6, 0),  # in the Ethernet header
        (1, 0, 0, 0, 13, 0, 0),
        (0, 1, 54, 1460, 0, 0, 0),  # segmentation without checksum
        (1, 1, 54, 0, 34, 6, 0),  # into empty pieces
        (1, 1, 0xFFFF, 1460, 34, 6, 0),  # headers longer than the frame
        (1, 3, 42, 1480, 34, 6, 0),  # UFO is not offered
        (1, 0x81, 54, 1460, 34, 6, 0),  # nor ECN
        (1, 2, 54, 1460, 34, 6, 0),  # nor is that anything
    ],
)
def test_wrong_headers_are_dropped(header: tuple[int, ...]) -> None:
    bench = Bench().start()
    bench.transmit(FRAME, HEADER.pack(*header))
    assert bench.backend.sent == []
    assert bench.device.counters["send_malformed"] == 1
    assert len(bench.queues[1].used()) == 1
    bench.transmit(FRAME)
    assert len(bench.backend.sent) == 1


@pytest.mark.parametrize("size", [0, 1, HEADER_SIZE, HEADER_SIZE + 13, HEADER_SIZE + FRAME_LIMIT + 1])
def test_frames_too_short_or_long_are_dropped(size: int) -> None:
    bench = Bench().start()
    bench.queues[1].add([bytes(size)])
    bench.kick(1)
    assert bench.backend.sent == []
    assert bench.device.counters["send_malformed"] == 1


def test_offloads_not_negotiated_are_refused() -> None:
    bench = Bench(without(f.VIRTIO_NET_F_CSUM, f.VIRTIO_NET_F_HOST_TSO4)).start()
    frame, start, offset = tcp_frame(b"x" * 4000)
    bench.transmit(frame, HEADER.pack(1, 0, 0, 0, start, offset, 0))
    bench.transmit(frame, HEADER.pack(1, 1, 54, 1460, start, offset, 0))
    assert bench.backend.sent == []


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=12, max_size=12), st.binary(max_size=200), st.integers(1, 4), st.booleans())
def test_no_bytes_of_a_guest_raise(header: bytes, data: bytes, pieces: int, finish: bool) -> None:
    bench = Bench(accepts=NOTHING if finish else EVERYTHING).start()
    bench.transmit(data, header, pieces=pieces)
    for frame in bench.backend.sent:
        assert not finish or (frame.checksum_start == 0 and frame.segmentation is Segmentation.NONE)


# --- reception ------------------------------------------------------------------------------------------------------


def test_a_frame_is_received() -> None:
    bench = Bench().start()
    bench.give_buffers(2)
    assert bench.backend.give(Frame(INWARD)) == 1
    assert bench.received() == [((0, 0, 0, 0, 0, 0, 1), INWARD)]
    assert bench.notifier.used[-1] == 0
    assert bench.device.counters["received_bytes"] == len(INWARD)


def test_a_large_frame_takes_several_buffers() -> None:
    bench = Bench().start()
    bench.give_buffers(4, 1000)
    frame, start, offset = tcp_frame(bytes(range(250)) * 10, inward=True)
    assert bench.backend.give(Frame(frame, start, offset, False, Segmentation.TCPV4, 1460)) == 1
    assert bench.received() == [((1, 1, 54, 1460, start, offset, 3), frame)]


def test_the_driver_never_sees_a_part_of_a_frame() -> None:
    """Another vCPU may be looking at the ring: its index moves over all chains of a frame at once."""
    bench = Bench().start()
    bench.give_buffers(4, 1000)
    index = bench.device.queues[0].device_area + 2
    seen: list[int] = []
    bench.memory.on_write = lambda gpa, size: seen.append(bench.memory.read_u16(index))
    frame, start, offset = tcp_frame(bytes(2500), inward=True)
    bench.backend.give(Frame(frame, start, offset, False, Segmentation.TCPV4, 1460))
    assert set(seen) == {0, 3}


def test_frames_wait_for_buffers_in_order() -> None:
    bench = Bench().start()
    frames = [Frame(INWARD + bytes([number])) for number in range(10)]
    bench.give_buffers(3)
    assert bench.backend.give(*frames) == 3
    assert bench.backend.rooms == 0
    bench.give_buffers(2)
    assert bench.backend.rooms == 1
    bench.give_buffers(10)
    assert [data[-1] for _, data in bench.received()] == list(range(10))


def test_buffers_of_a_frame_that_does_not_fit_yet_are_kept() -> None:
    bench = Bench().start()
    bench.give_buffers(2, 1000)
    frame, start, offset = tcp_frame(b"y" * 2500, inward=True)
    assert bench.backend.give(Frame(frame, start, offset, False, Segmentation.TCPV4, 1460)) == 0
    assert bench.queues[0].used() == []
    bench.give_buffers(1, 1000)
    assert [data for _, data in bench.received()] == [frame]


def test_a_frame_that_will_never_fit_is_dropped() -> None:
    bench = Bench(size=2).start()
    bench.give_buffers(2, 1000)
    frame, start, offset = tcp_frame(b"y" * 2500, inward=True)
    assert bench.backend.give(Frame(frame, start, offset, False, Segmentation.TCPV4, 1460), Frame(INWARD)) == 2
    assert [data for _, data in bench.received()] == [INWARD]
    assert bench.device.counters["receive_dropped"] == 1


def test_without_mergeable_buffers_a_frame_takes_one_chain() -> None:
    bench = Bench(without(f.VIRTIO_NET_F_MRG_RXBUF)).start()
    bench.queues[0].add(writable=[12, 3000])
    bench.queues[0].add(writable=[12, 30])
    bench.kick(0)
    big = Frame(INWARD + bytes(2000))
    assert bench.backend.give(big, big) == 2
    assert [data for _, data in bench.received()] == [big.data]
    assert bench.device.counters["receive_dropped"] == 1


def test_a_buffer_too_small_for_the_header_does_not_stop_the_queue() -> None:
    bench = Bench().start()
    bench.queues[0].add(writable=[4])
    bench.kick(0)
    assert bench.backend.give(Frame(INWARD)) == 1
    assert bench.device.counters["receive_dropped"] == 1


@pytest.mark.parametrize("missing", [f.VIRTIO_NET_F_GUEST_TSO4, f.VIRTIO_NET_F_GUEST_CSUM])
def test_the_device_finishes_what_the_guest_does_not_take(missing: int) -> None:
    bench = Bench(without(missing)).start()
    bench.give_buffers(8)
    frame, start, offset = tcp_frame(b"z" * 4000, inward=True)
    assert bench.backend.give(Frame(frame, start, offset, False, Segmentation.TCPV4, 1460)) == 1
    received = bench.received()
    assert [len(data) for _, data in received] == [1514, 1514, 54 + 1080]
    flags = {header[0] for header, _ in received}
    assert flags == ({0} if missing == f.VIRTIO_NET_F_GUEST_CSUM else {1})


def test_pieces_without_buffers_follow_later() -> None:
    bench = Bench(without(f.VIRTIO_NET_F_GUEST_TSO4)).start()
    bench.give_buffers(1)
    frame, start, offset = tcp_frame(b"z" * 4000, inward=True)
    unfinished = Frame(frame, start, offset, False, Segmentation.TCPV4, 1460)
    assert bench.backend.give(unfinished, Frame(INWARD)) == 1
    assert len(bench.received()) == 1
    bench.give_buffers(8)
    assert [len(data) for _, data in bench.received()] == [1514, 54 + 1080, len(INWARD)]


def test_checked_frames_say_so_to_guests_that_understand() -> None:
    for features, flags in ((ALL, 2), (without(f.VIRTIO_NET_F_GUEST_CSUM), 0)):
        bench = Bench(features).start()
        bench.give_buffers(1)
        bench.backend.give(Frame(INWARD, is_checked=True))
        assert bench.received()[0][0][0] == flags


def test_frames_before_the_driver_is_ready_are_dropped() -> None:
    bench = Bench()
    assert bench.backend.give(Frame(INWARD)) == 1
    bench.start()
    bench.give_buffers(1)
    assert bench.received() == []


def test_a_reset_lets_waiting_frames_go() -> None:
    bench = Bench().start()
    assert bench.backend.give(Frame(INWARD)) == 0
    bench.device.write_status(0)
    bench.run()
    assert bench.backend.waiting == []


# --- the link -------------------------------------------------------------------------------------------------------


def test_link_down_and_up() -> None:
    bench = Bench().start()
    bench.give_buffers(4)
    assert bench.device.read_config(6, 2) == f.VIRTIO_NET_S_LINK_UP
    bench.device.set_link(False)
    assert bench.notifier.config_changes == 1
    assert bench.device.read_config(6, 2) == 0
    bench.transmit(FRAME)
    bench.backend.give(Frame(INWARD))
    assert (bench.backend.sent, bench.received()) == ([], [])
    bench.device.set_link(True)
    bench.device.set_link(True)
    assert bench.notifier.config_changes == 2
    bench.transmit(FRAME)
    bench.backend.give(Frame(INWARD))
    assert (len(bench.backend.sent), len(bench.received())) == (1, 1)


def test_configuration() -> None:
    bench = Bench(pairs=3).start()
    config = bytes(bench.device.read_config(offset, 1) for offset in range(CONFIG_TABLE.size))
    mac, status, pairs, mtu, speed, duplex = struct.unpack("<6sHHHIB", config)
    assert (mac, status, pairs, mtu, speed, duplex) == (MAC_A, 1, 3, 1500, 10_000, 1)
    bench.device.write_config(0, 1, 0x55)
    assert bench.device.read_config(0, 1) == MAC_A[0]


def test_announcement() -> None:
    bench = Bench().start()
    bench.device.announce()
    assert bench.device.read_config(6, 2) == f.VIRTIO_NET_S_LINK_UP | f.VIRTIO_NET_S_ANNOUNCE
    assert bench.command(3, 0) == VIRTIO_NET_OK
    assert bench.device.read_config(6, 2) == f.VIRTIO_NET_S_LINK_UP
    other = Bench(without(f.VIRTIO_NET_F_GUEST_ANNOUNCE)).start()
    other.device.announce()
    assert other.notifier.config_changes == 0


# --- filters --------------------------------------------------------------------------------------------------------

BROADCAST = eth(b"\xff" * 6, MAC_B, 0x0806, bytes(28))
MULTICAST = eth(bytes.fromhex("333300000001"), MAC_B, 0x86DD, bytes(40))
STRANGE = eth(bytes.fromhex("020000000099"), MAC_B, 0x0800, bytes(40))


def passes(bench: Bench, frame: bytes) -> bool:
    before = bench.device.counters["receive_filtered"]
    bench.queues[0].add(writable=[1526])
    bench.kick(0)
    bench.backend.give(Frame(frame))
    bench.queues[0].used()
    return bench.device.counters["receive_filtered"] == before


def test_everything_passes_until_the_driver_filters() -> None:
    bench = Bench().start()
    assert all(passes(bench, frame) for frame in (INWARD, BROADCAST, MULTICAST, STRANGE))


@pytest.mark.parametrize(
    ("mode", "passed"),
    [
        ((), "own broadcast"),
        ((1,), "own broadcast multicast"),
        ((2,), "own broadcast strange"),
        ((3, 1), "own broadcast"),
        ((4,), "broadcast"),
        ((5,), "own"),
    ],
)
def test_receive_modes(mode: tuple[int, ...], passed: str) -> None:
    bench = Bench().start()
    assert bench.command(0, 0, b"\0") == VIRTIO_NET_OK
    for command in mode:
        assert bench.command(0, command, b"\1") == VIRTIO_NET_OK
    frames = {"own": INWARD, "broadcast": BROADCAST, "multicast": MULTICAST, "strange": STRANGE}
    assert {name for name, frame in frames.items() if passes(bench, frame)} == set(passed.split())


def table(*macs: bytes) -> bytes:
    return struct.pack("<I", len(macs)) + b"".join(macs)


def test_mac_tables() -> None:
    bench = Bench().start()
    bench.command(0, 0, b"\0")
    assert bench.command(1, 0, table(STRANGE[:6]) + table(MULTICAST[:6])) == VIRTIO_NET_OK
    assert passes(bench, STRANGE)
    assert passes(bench, MULTICAST)
    assert bench.command(1, 0, table() + table()) == VIRTIO_NET_OK
    assert not passes(bench, STRANGE)
    assert not passes(bench, MULTICAST)


def test_mac_tables_beyond_the_limit_let_all_of_their_kind_through() -> None:
    bench = Bench().start()
    bench.command(0, 0, b"\0")
    assert bench.command(1, 0, table() + struct.pack("<I", 1025) + bytes(6 * 1025)) == VIRTIO_NET_OK
    assert passes(bench, MULTICAST)
    assert not passes(bench, STRANGE)
    assert bench.command(1, 0, struct.pack("<I", 0xFFFFFFFF)) == VIRTIO_NET_OK
    assert passes(bench, STRANGE)


def test_mac_address_set() -> None:
    bench = Bench().start()
    bench.command(0, 0, b"\0")
    assert bench.command(1, 1, STRANGE[:6]) == VIRTIO_NET_OK
    assert passes(bench, STRANGE)
    assert not passes(bench, INWARD)
    assert bench.device.read_config(5, 1) == 0x99
    assert bench.command(1, 1, b"\x01" + bytes(5)) == VIRTIO_NET_ERR
    bench.device.write_status(0)
    assert bench.device.mac == MAC_A


def test_vlan_filter() -> None:
    bench = Bench().start()
    bench.command(0, 0, b"\0")
    tagged = INWARD[:12] + b"\x81\x00\x00\x05" + INWARD[12:]
    priority = INWARD[:12] + b"\x81\x00\x60\x00" + INWARD[12:]
    assert not passes(bench, tagged)
    assert passes(bench, priority)
    assert bench.command(2, 0, struct.pack("<H", 5)) == VIRTIO_NET_OK
    assert passes(bench, tagged)
    assert bench.command(2, 1, struct.pack("<H", 5)) == VIRTIO_NET_OK
    assert not passes(bench, tagged)
    other = Bench(without(f.VIRTIO_NET_F_CTRL_VLAN)).start()
    other.command(0, 0, b"\0")
    assert passes(other, tagged)


@pytest.mark.parametrize(
    ("command", "data"),
    [
        ((0, 6), b"\1"), ((0, 0), b""), ((1, 0), b""), ((1, 0), table(MAC_A)), ((1, 0), struct.pack("<I", 3) + MAC_A),
        ((1, 1), b"\2"), ((1, 2), MAC_A), ((2, 0), b"\1"), ((2, 2), b"\1\0"), ((2, 0), b"\xff\xff"), ((3, 1), b""),
        ((4, 0), b"\1\0"), ((4, 1), b"\1\0"), ((5, 0), b"\1"), ((5, 0), b"\xff" * 8), ((5, 1), bytes(8)), ((6, 0), b""),
        ((255, 255), b"x" * 100),
    ],
)  # fmt: skip
def test_wrong_commands_are_refused(command: tuple[int, int], data: bytes) -> None:
    bench = Bench().start()
    before = bench.device.save_own()
    assert bench.command(*command, data) == VIRTIO_NET_ERR
    assert bench.device.save_own() == before


def test_a_command_without_room_for_its_answer_or_without_contents() -> None:
    bench = Bench().start()
    bench.queues[2].add([b"\0\0\0"])
    bench.queues[2].add([b"\0"], [1])
    bench.queues[2].add([], [1])
    bench.kick(2)
    assert [used.written for used in bench.queues[2].used()] == [0, 1, 1]
    assert "promiscuous" in bench.device.filter.modes


def test_commands_of_features_not_negotiated_are_refused() -> None:
    bench = Bench(ALL & ~sum(1 << bit for bit in (2, 18, 19, 20, 21, 23))).start()
    for command, data in (((0, 0), b"\0"), ((0, 2), b"\1"), ((1, 0), table() * 2), ((1, 1), MAC_B), ((2, 0), b"\1\0"),
                          ((3, 0), b""), ((5, 0), bytes(8))):  # fmt: skip
        assert bench.command(*command, data) == VIRTIO_NET_ERR


def test_guest_offloads_can_be_switched() -> None:
    bench = Bench().start()
    assert bench.device.accepts == Offloads(checksum=True, tcpv4=True, tcpv6=True)
    assert bench.command(5, 0, struct.pack("<Q", 1 << f.VIRTIO_NET_F_GUEST_CSUM)) == VIRTIO_NET_OK
    assert bench.device.accepts == Offloads(checksum=True)
    assert bench.command(5, 0, bytes(8)) == VIRTIO_NET_OK
    assert bench.device.accepts == NOTHING
    bench.give_buffers(4)
    frame, start, offset = tcp_frame(b"z" * 2000, inward=True)
    bench.backend.give(Frame(frame, start, offset, False, Segmentation.TCPV4, 1460))
    assert [header[0] for header, _ in bench.received()] == [0, 0]


# --- several queue pairs --------------------------------------------------------------------------------------------


def test_queues_without_mq_have_their_control_queue_at_2() -> None:
    bench = Bench(without(f.VIRTIO_NET_F_MQ), pairs=2).start()
    assert bench.command(0, 0, b"\0") == VIRTIO_NET_OK
    bench.kick(3)
    bench.kick(4)


def test_a_flow_is_received_where_it_was_sent() -> None:
    bench = Bench(pairs=2).start()
    assert bench.command(4, 0, b"\2\0") == VIRTIO_NET_OK
    bench.give_buffers(4, queue=0)
    bench.give_buffers(4, queue=2)
    bench.backend.give(Frame(INWARD))
    assert (len(bench.received(0)), len(bench.received(2))) == (1, 0)
    bench.transmit(FRAME, queue=3)
    bench.backend.give(Frame(INWARD), Frame(BROADCAST))
    assert (len(bench.received(0)), len(bench.received(2))) == (1, 1)
    assert bench.command(4, 0, b"\1\0") == VIRTIO_NET_OK
    bench.backend.give(Frame(INWARD))
    assert (len(bench.received(0)), len(bench.received(2))) == (1, 0)


@pytest.mark.parametrize("count", [0, 3, 0xFFFF])
def test_pairs_that_are_not_there_are_refused(count: int) -> None:
    bench = Bench(pairs=2).start()
    assert bench.command(4, 0, struct.pack("<H", count)) == VIRTIO_NET_ERR
    assert bench.device.active_pairs == 1


# --- save and load --------------------------------------------------------------------------------------------------


def test_state_survives() -> None:
    bench = Bench(pairs=2).start()
    bench.command(0, 0, b"\0")
    bench.command(1, 0, table(STRANGE[:6]) + table(MULTICAST[:6]))
    bench.command(2, 0, b"\7\0")
    bench.command(4, 0, b"\2\0")
    bench.command(5, 0, bytes(8))
    saved = bench.device.save()
    other = Bench(pairs=2)
    other.device.load(saved)
    assert other.device.save() == saved
    assert other.device.filter.wants(STRANGE)
    assert not other.device.filter.wants(INWARD[:5] + b"\x77" + INWARD[6:])


def test_states_that_do_not_fit_are_refused() -> None:
    bench = Bench(pairs=2).start()
    saved = bench.device.save()
    own = bench.device.save_own()
    changes: list[dict[str, object]] = [
        {"active_pairs": 3}, {"active_pairs": 0}, {"mac": "x"}, {"link_up": 1}, {"accepts": (True,)}, {"filter": None},
        {"filter": replace(own.filter, modes=("x",))}, {"filter": replace(own.filter, vlans=(4096,))},
        {"filter": replace(own.filter, unicast=("zz",))},
    ]  # fmt: skip
    for wrong in (None, *(replace(own, **change) for change in changes)):  # type: ignore[arg-type]
        with pytest.raises(SavedStateError):
            bench.device.load(replace(saved, own=wrong))
    assert bench.device.save() == saved


def test_events_are_traced() -> None:
    ring = sink.RingSink(64)
    sink.enable("net_*", ring)
    sink.enable("virtio_net_*", ring)
    try:
        bench = Bench().start()
        bench.transmit(FRAME)
        bench.give_buffers(1)
        bench.backend.give(Frame(INWARD))
        bench.command(0, 0, b"\0")
    finally:
        sink.disable("*", ring)
    assert {name for name, _ in ring.events} == {"net_send", "net_receive", "virtio_net_control"}


def test_the_driver_is_told_once_for_a_batch() -> None:
    bench = Bench(ALL & ~(1 << VIRTIO_F_EVENT_IDX)).start()
    bench.give_buffers(8)
    before = len(bench.notifier.used)
    bench.backend.give(*[Frame(INWARD)] * 5)
    assert len(bench.notifier.used) == before + 1


def tcp_frame(payload: bytes, inward: bool = False) -> tuple[bytes, int, int]:
    """An unfinished TCP frame and where its checksum is to be."""
    source, target = (2, 1) if inward else (1, 2)
    ends = (MAC_A, MAC_B) if inward else (MAC_B, MAC_A)
    return eth(*ends, 0x0800, ipv4(tcp(80, 5000, payload), source=source, target=target, protocol=6)), 34, 16
