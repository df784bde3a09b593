"""virtio-blk: every request, every malformed one, and resets while requests are in flight."""

from __future__ import annotations

import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.block.api import BlockError
from manor.base.address import Gpa
from manor.base.errors import SavedStateError, StateError
from manor.devices.block.disk import Disk
from manor.devices.virtio import blk
from manor.devices.virtio.blk import VirtioBlk
from manor.devices.virtio.device import VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_RESET, State, Status
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.fakes import FakeWork
from manor.testing.memory_disk import MemoryDisk, refused
from manor.testing.virtq_driver import Allocator, DeferQueue, FakeNotifier, Used, start_device
from manor.trace.sink import RingSink, disable, enable

RAM = 4 << 20
SECTORS = 256
ALL = (1 << 64) - 1


class Guest:
    """A disk and its driver."""

    def __init__(
        self,
        *,
        features: int = ALL,
        queues: int = 1,
        read_only: bool = False,
        discard: bool = True,
        serial: str = "S1",
        is_vcpu: bool = True,
        sectors: int = SECTORS,
    ) -> None:
        self.memory = GuestMemory([Region(Gpa(0), RAM)])
        self.backend = MemoryDisk(512 * sectors, read_only)
        self.work = FakeWork(is_vcpu)
        self.defer = DeferQueue()
        self.lock = threading.RLock()
        self.disk = Disk("disk0", self.backend, self.lock, self.work, serial, discard)
        self.device = VirtioBlk("disk0", self.memory, self.defer, self.disk, queues)
        self.notifier = FakeNotifier()
        self.device.notifier = self.notifier
        self.allocator = Allocator(0x1000, RAM)
        self.drivers = start_device(
            self.device, self.memory, self.allocator, features & self.device.offered_features, 64
        )
        self.defer.run()

    def settle(self) -> None:
        """Run everything that waits to be run."""
        while self.work.run() + self.defer.run():
            pass

    def request(
        self, kind: int, sector: int = 0, payload: bytes = b"", room: int = 0, queue: int = 0, *, indirect: bool = False
    ) -> tuple[int, bytes, int]:
        """(status, data, used length) of one request in the usual form."""
        header = struct.pack("<IIQ", kind, 0, sector)
        return self.raw([header, payload] if payload else [header], [room, 1] if room else [1], queue, indirect)

    def raw(
        self, readable: list[bytes], writable: list[int], queue: int = 0, indirect: bool = False
    ) -> tuple[int, bytes, int]:
        driver = self.drivers[queue]
        driver.add(readable, writable, indirect=indirect)
        self.device.kick(queue)
        self.settle()
        (used,) = driver.used()
        data = driver.written(Used(used.head, sum(writable)))
        return (data[-1] if data else -1), data[:-1], used.written


# --- requests that are right -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_vcpu", [True, False], ids=["short", "worker"])
@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("indirect", [True, False])
def test_read_and_write(is_vcpu: bool, is_cached: bool, indirect: bool) -> None:
    guest = Guest(is_vcpu=is_vcpu)
    guest.backend.is_cached = is_cached
    pattern = bytes(range(256)) * 16
    assert guest.request(blk.VIRTIO_BLK_T_OUT, 8, pattern, indirect=indirect) == (0, b"", 1)
    assert guest.backend.data[4096:8192] == pattern
    assert guest.request(blk.VIRTIO_BLK_T_IN, 8, room=4096, indirect=indirect) == (0, pattern, 4097)
    assert guest.device.queues[0].in_flight == 0
    assert guest.disk.in_flight == 0


def test_requests_are_traced() -> None:
    ring = RingSink()
    enable("virtio_blk_request", ring)
    guest = Guest()
    try:
        guest.request(blk.VIRTIO_BLK_T_OUT, 8, bytes(1024))
        guest.request(blk.VIRTIO_BLK_T_IN, 16, room=512)
    finally:
        disable("*", ring)
    assert list(ring.events) == [
        ("virtio_blk_request", ("disk0", 0, blk.VIRTIO_BLK_T_OUT, 8, 1024)),
        ("virtio_blk_request", ("disk0", 0, blk.VIRTIO_BLK_T_IN, 16, 512)),
    ]


def test_last_sector_can_be_used_and_the_one_behind_it_cannot() -> None:
    guest = Guest()
    assert guest.request(blk.VIRTIO_BLK_T_OUT, SECTORS - 1, b"x" * 512)[0] == blk.VIRTIO_BLK_S_OK
    assert guest.request(blk.VIRTIO_BLK_T_OUT, SECTORS, b"x" * 512)[0] == blk.VIRTIO_BLK_S_IOERR
    assert guest.request(blk.VIRTIO_BLK_T_OUT, SECTORS - 1, b"x" * 1024)[0] == blk.VIRTIO_BLK_S_IOERR
    assert guest.request(blk.VIRTIO_BLK_T_IN, ALL, room=512)[0] == blk.VIRTIO_BLK_S_IOERR
    assert len(guest.backend.data) == 512 * SECTORS


@pytest.mark.parametrize("cut", [1, 4, 8, 15])
def test_header_data_and_status_may_be_laid_out_in_any_descriptors(cut: int) -> None:
    guest = Guest()
    pattern = bytes(range(256)) * 4
    header = struct.pack("<IIQ", blk.VIRTIO_BLK_T_OUT, 0, 2)
    whole = header + pattern
    assert guest.raw([whole[:cut], whole[cut : cut + 20], whole[cut + 20 :]], [1])[0] == 0
    assert guest.backend.data[1024:2048] == pattern
    header = struct.pack("<IIQ", blk.VIRTIO_BLK_T_IN, 0, 2)
    assert guest.raw([header[:cut], header[cut:]], [100, 900, 25]) == (0, pattern, 1025)


def test_flush_and_get_id() -> None:
    guest = Guest(serial="WD-42")
    assert guest.request(blk.VIRTIO_BLK_T_FLUSH)[0] == 0
    assert guest.backend.calls == [("flush", 0, 0)]
    assert guest.request(blk.VIRTIO_BLK_T_GET_ID, room=20) == (0, b"WD-42".ljust(20, b"\0"), 21)
    status, data, used = guest.request(blk.VIRTIO_BLK_T_GET_ID, room=30)
    assert (status, data[:20], used) == (0, b"WD-42".ljust(20, b"\0"), 20)
    assert guest.request(blk.VIRTIO_BLK_T_GET_ID, room=19)[0] == blk.VIRTIO_BLK_S_IOERR


def segments(*ranges: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *each) for each in ranges)


def test_discard_and_write_zeroes() -> None:
    guest = Guest()
    guest.backend.data[:] = b"\xff" * len(guest.backend.data)
    assert guest.request(blk.VIRTIO_BLK_T_DISCARD, payload=segments((0, 8, 0), (16, 8, 0)))[0] == 0
    assert guest.request(blk.VIRTIO_BLK_T_WRITE_ZEROES, payload=segments((32, 1, 0)))[0] == 0
    assert guest.request(blk.VIRTIO_BLK_T_WRITE_ZEROES, payload=segments((40, 1, 1), (42, 2, 1)))[0] == 0
    # Only what may be given back altogether is.
    assert guest.request(blk.VIRTIO_BLK_T_WRITE_ZEROES, payload=segments((50, 1, 1), (52, 1, 0)))[0] == 0
    assert guest.backend.calls == [
        ("discard", 0, 4096),
        ("discard", 8192, 4096),
        ("write_zeroes", 32 * 512, 512),
        ("unmap_zeroes", 40 * 512, 512),
        ("unmap_zeroes", 42 * 512, 1024),
        ("write_zeroes", 50 * 512, 512),
        ("write_zeroes", 52 * 512, 512),
    ]
    assert guest.backend.data[33 * 512] == 0xFF


def test_several_queues_serve_the_same_disk() -> None:
    guest = Guest(queues=3)
    for queue in range(3):
        assert guest.request(blk.VIRTIO_BLK_T_OUT, queue, bytes([queue + 1]) * 512, queue=queue)[0] == 0
    for queue in range(3):
        data = bytes([queue + 1]) * 512
        assert guest.request(blk.VIRTIO_BLK_T_IN, queue, room=512, queue=2 - queue)[1] == data


def test_one_interrupt_for_what_ends_together() -> None:
    guest = Guest(features=ALL & ~(1 << VIRTIO_F_EVENT_IDX))
    for sector in range(8):
        guest.drivers[0].add([struct.pack("<IIQ", blk.VIRTIO_BLK_T_IN, 0, sector)], [512, 1])
    guest.device.kick(0)
    guest.settle()
    assert len(guest.drivers[0].used()) == 8
    assert guest.notifier.used == [0]
    assert guest.disk.statistics.short == 8


def test_data_that_was_read_drops_translated_code() -> None:
    guest = Guest()
    seen: list[tuple[int, int]] = []
    guest.memory.on_write = lambda gpa, size: seen.append((gpa, size))
    head = guest.drivers[0].add([struct.pack("<IIQ", blk.VIRTIO_BLK_T_IN, 0, 0)], [4096, 1])
    (data, _), *_ = guest.drivers[0]._chains[head][1]
    seen.clear()
    guest.device.kick(0)
    guest.settle()
    assert (data, 4096) in seen


# --- requests that are wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readable", "writable", "status"),
    [
        ([b"short"], [512, 1], blk.VIRTIO_BLK_S_IOERR),
        ([struct.pack("<IIQ", blk.VIRTIO_BLK_T_IN, 0, 0)], [1], blk.VIRTIO_BLK_S_IOERR),
        ([struct.pack("<IIQ", blk.VIRTIO_BLK_T_IN, 0, 0)], [513, 1], blk.VIRTIO_BLK_S_IOERR),
        ([struct.pack("<IIQ", blk.VIRTIO_BLK_T_IN, 0, 1 << 55)], [512, 1], blk.VIRTIO_BLK_S_IOERR),
        ([struct.pack("<IIQ", blk.VIRTIO_BLK_T_OUT, 0, 0)], [1], blk.VIRTIO_BLK_S_IOERR),
        ([struct.pack("<IIQ", blk.VIRTIO_BLK_T_OUT, 0, 0), b"x" * 100], [1], blk.VIRTIO_BLK_S_IOERR),
        ([struct.pack("<IIQ", 77, 0, 0)], [1], blk.VIRTIO_BLK_S_UNSUPP),
        ([struct.pack("<IIQ", blk.VIRTIO_BLK_T_DISCARD, 0, 0)], [1], blk.VIRTIO_BLK_S_IOERR),
        ([struct.pack("<IIQ", blk.VIRTIO_BLK_T_DISCARD, 0, 0), b"x" * 15], [1], blk.VIRTIO_BLK_S_IOERR),
        ([struct.pack("<IIQ", blk.VIRTIO_BLK_T_DISCARD, 0, 0), segments((0, 1, 1))], [1], blk.VIRTIO_BLK_S_UNSUPP),
        ([struct.pack("<IIQ", blk.VIRTIO_BLK_T_WRITE_ZEROES, 0, 0), segments((0, 1, 2))], [1], blk.VIRTIO_BLK_S_UNSUPP),
        (
            [struct.pack("<IIQ", blk.VIRTIO_BLK_T_WRITE_ZEROES, 0, 0), segments((0, 1, 0), (SECTORS, 1, 0))],
            [1],
            blk.VIRTIO_BLK_S_IOERR,
        ),
        (
            [struct.pack("<IIQ", blk.VIRTIO_BLK_T_DISCARD, 0, 0), segments((0, blk.MAX_DISCARD_SECTORS + 1, 0))],
            [1],
            blk.VIRTIO_BLK_S_IOERR,
        ),
        (
            [struct.pack("<IIQ", blk.VIRTIO_BLK_T_WRITE_ZEROES, 0, 0), segments((0, 1, 0)) * (blk.MAX_ZERO_RANGES + 1)],
            [1],
            blk.VIRTIO_BLK_S_IOERR,
        ),
        (
            [struct.pack("<IIQ", blk.VIRTIO_BLK_T_DISCARD, 0, 0), segments((0, 1, 0)) * (blk.MAX_DISCARD_RANGES + 1)],
            [1],
            blk.VIRTIO_BLK_S_IOERR,
        ),
    ],
)
def test_malformed_request_is_refused_and_changes_nothing(
    readable: list[bytes], writable: list[int], status: int
) -> None:
    guest = Guest()
    assert guest.raw(readable, writable)[0] == status
    assert guest.backend.calls == []
    assert guest.request(blk.VIRTIO_BLK_T_FLUSH)[0] == blk.VIRTIO_BLK_S_OK


def test_request_without_room_for_a_status_is_returned_untouched() -> None:
    guest = Guest()
    assert guest.raw([struct.pack("<IIQ", blk.VIRTIO_BLK_T_OUT, 0, 0), b"x" * 512], [])[2] == 0
    assert guest.backend.calls == []


def test_read_only_disk_refuses_every_change() -> None:
    guest = Guest(read_only=True)
    assert guest.device.has_feature(blk.VIRTIO_BLK_F_RO)
    assert guest.request(blk.VIRTIO_BLK_T_OUT, 0, b"x" * 512)[0] == blk.VIRTIO_BLK_S_IOERR
    assert guest.request(blk.VIRTIO_BLK_T_WRITE_ZEROES, payload=segments((0, 1, 0)))[0] == blk.VIRTIO_BLK_S_UNSUPP
    assert guest.request(blk.VIRTIO_BLK_T_DISCARD, payload=segments((0, 1, 0)))[0] == blk.VIRTIO_BLK_S_UNSUPP
    assert guest.request(blk.VIRTIO_BLK_T_IN, 0, room=512)[0] == blk.VIRTIO_BLK_S_OK
    assert [call[0] for call in guest.backend.calls] == ["read_nowait"]


def test_discard_can_be_switched_off() -> None:
    guest = Guest(discard=False)
    assert not guest.device.has_feature(blk.VIRTIO_BLK_F_DISCARD)
    assert guest.request(blk.VIRTIO_BLK_T_DISCARD, payload=segments((0, 1, 0)))[0] == blk.VIRTIO_BLK_S_UNSUPP
    assert guest.request(blk.VIRTIO_BLK_T_WRITE_ZEROES, payload=segments((0, 1, 1)))[0] == blk.VIRTIO_BLK_S_OK
    assert guest.backend.calls == [("write_zeroes", 0, 512)]
    assert guest.device.read_config(0x38, 1) == 0


@pytest.mark.parametrize(
    ("operation", "kind", "payload", "room"),
    [
        ("write", blk.VIRTIO_BLK_T_OUT, b"x" * 512, 0),
        ("read", blk.VIRTIO_BLK_T_IN, b"", 512),
        ("flush", blk.VIRTIO_BLK_T_FLUSH, b"", 0),
        ("discard", blk.VIRTIO_BLK_T_DISCARD, segments((0, 1, 0)), 0),
        ("write_zeroes", blk.VIRTIO_BLK_T_WRITE_ZEROES, segments((0, 1, 0)), 0),
    ],
)
def test_error_of_the_medium_reaches_the_guest(operation: str, kind: int, payload: bytes, room: int) -> None:
    guest = Guest()
    guest.backend.is_cached = False
    guest.backend.fail[operation] = refused()
    assert guest.request(kind, 0, payload, room)[0] == blk.VIRTIO_BLK_S_IOERR
    assert guest.disk.statistics.errors == 1
    guest.backend.fail[operation] = BlockError("not here", "unsupported")
    assert guest.request(kind, 0, payload, room)[0] == blk.VIRTIO_BLK_S_UNSUPP
    assert guest.request(kind, 0, payload, room)[0] == blk.VIRTIO_BLK_S_OK


# --- cache mode --------------------------------------------------------------------------------------------------


def test_write_through_when_the_driver_cannot_flush() -> None:
    lacking = ALL & ~(1 << blk.VIRTIO_BLK_F_FLUSH) & ~(1 << blk.VIRTIO_BLK_F_CONFIG_WCE)
    guest = Guest(features=lacking)
    guest.request(blk.VIRTIO_BLK_T_OUT, 0, b"x" * 512)
    assert [call[0] for call in guest.backend.calls] == ["write", "flush"]


def test_cache_mode_is_the_drivers_choice() -> None:
    guest = Guest()
    assert guest.device.read_config(0x20, 1) == 1
    guest.device.write_config(0x20, 1, 0)
    assert guest.device.read_config(0x20, 1) == 0
    guest.request(blk.VIRTIO_BLK_T_OUT, 0, b"x" * 512)
    assert [call[0] for call in guest.backend.calls] == ["write", "flush"]
    guest.device.write_config(0x20, 1, 7)
    assert guest.device.read_config(0x20, 1) == 0
    guest.device.write_status(0)
    assert guest.device.read_config(0x20, 1) == 1


# --- configuration -----------------------------------------------------------------------------------------------


def test_configuration() -> None:
    guest = Guest(queues=4)
    read = guest.device.read_config
    assert read(0, 8) == SECTORS
    assert (read(0, 4), read(4, 4)) == (SECTORS, 0)
    assert (read(0x08, 4), read(0x0C, 4)) == (blk.SIZE_MAX, blk.SEG_MAX)
    assert (read(0x10, 2), read(0x12, 1), read(0x13, 1)) == (SECTORS // (16 * 63), 16, 63)
    assert read(0x14, 4) == 512
    assert (read(0x18, 1), read(0x19, 1), read(0x1A, 2), read(0x1C, 4)) == (3, 0, 8, 0)
    assert read(0x22, 2) == 4
    assert (read(0x24, 4), read(0x28, 4), read(0x2C, 4)) == (blk.MAX_DISCARD_SECTORS, blk.MAX_DISCARD_RANGES, 8)
    assert (read(0x30, 4), read(0x34, 4), read(0x38, 1)) == (blk.MAX_ZERO_SECTORS, blk.MAX_ZERO_RANGES, 1)


def test_resize_while_running() -> None:
    guest = Guest()
    generation = guest.device.config_generation
    guest.disk.resize(512 * 1000)
    assert guest.device.read_config(0, 8) == 1000
    assert guest.notifier.config_changes == 1
    assert guest.device.config_generation != generation
    assert guest.request(blk.VIRTIO_BLK_T_OUT, 999, b"x" * 512)[0] == 0
    guest.disk.resize(512 * 10)
    assert guest.request(blk.VIRTIO_BLK_T_IN, 10, room=512)[0] == blk.VIRTIO_BLK_S_IOERR


def test_resize_waits_for_requests_and_new_ones_wait_for_it() -> None:
    guest = Guest(is_vcpu=False)
    guest.backend.gate.clear()
    driver = guest.drivers[0]
    driver.add([struct.pack("<IIQ", blk.VIRTIO_BLK_T_OUT, 0, 200), b"a" * 512], [1])
    guest.device.kick(0)
    worker = threading.Thread(target=guest.work.run)
    worker.start()
    while not guest.backend.calls:
        pass
    resizer = threading.Thread(target=guest.disk.resize, args=(512 * 100,))
    resizer.start()
    while True:
        with guest.lock:
            if guest.disk._is_paused:
                break
    with guest.lock:
        driver.add([struct.pack("<IIQ", blk.VIRTIO_BLK_T_OUT, 0, 201), b"b" * 512], [1])
        guest.device.kick(0)
    assert guest.backend.size == 512 * SECTORS
    guest.backend.gate.set()
    worker.join()
    resizer.join()
    guest.settle()
    statuses = [driver.written(Used(used.head, 1))[-1] for used in driver.used()]
    # The second was inside the disk when it was checked, and is not any more when its turn comes.
    assert statuses == [blk.VIRTIO_BLK_S_OK, blk.VIRTIO_BLK_S_IOERR]


def test_refused_resize_changes_nothing() -> None:
    guest = Guest()
    guest.backend.fail["resize"] = BlockError("cannot", "unsupported")
    with pytest.raises(BlockError):
        guest.disk.resize(512)
    assert guest.device.read_config(0, 8) == SECTORS
    assert guest.notifier.config_changes == 0
    assert guest.request(blk.VIRTIO_BLK_T_IN, 0, room=512)[0] == 0


# --- resets and saving -------------------------------------------------------------------------------------------


class Held(Guest):
    """A guest with one read in flight on a thread that the test lets go on."""

    def __init__(self, queues: int = 1) -> None:
        super().__init__(is_vcpu=False, queues=queues)
        self.backend.is_cached = False
        self.backend.data[:512] = b"d" * 512
        self.backend.gate.clear()
        self.head = self.drivers[0].add([struct.pack("<IIQ", blk.VIRTIO_BLK_T_IN, 0, 0)], [512, 1])
        self.device.kick(0)
        self.thread = threading.Thread(target=self.work.run)
        self.thread.start()
        while not self.backend.calls:
            pass

    def release(self) -> None:
        self.backend.gate.set()
        self.thread.join()


def test_device_reset_is_over_only_when_memory_is_left_alone() -> None:
    guest = Held()
    guest.device.write_status(0)
    assert guest.device.status != 0
    assert guest.device.state.value == "resetting"
    guest.device.write_status(Status.ACKNOWLEDGE)
    assert guest.device.state.value == "resetting"
    guest.release()
    assert guest.device.status == 0
    assert guest.drivers[0].used() == []
    assert guest.notifier.used == []
    # And it can be used again.
    drivers = start_device(guest.device, guest.memory, guest.allocator, guest.device.offered_features)
    drivers[0].add([struct.pack("<IIQ", blk.VIRTIO_BLK_T_IN, 0, 0)], [512, 1])
    guest.device.kick(0)
    guest.settle()
    assert len(drivers[0].used()) == 1


def test_queue_reset_is_over_only_when_memory_is_left_alone() -> None:
    guest = Held(queues=2)
    assert guest.device.has_feature(VIRTIO_F_RING_RESET)
    guest.device.reset_queue(1)
    assert not guest.device.queues[1].is_resetting
    guest.device.reset_queue(0)
    assert guest.device.queues[0].is_resetting
    guest.drivers[0].add([struct.pack("<IIQ", blk.VIRTIO_BLK_T_FLUSH, 0, 0)], [1])
    guest.device.kick(0)
    guest.release()
    queue = guest.device.queues[0]
    assert not queue.is_resetting
    assert not queue.enabled
    assert guest.drivers[0].used() == []
    assert [call[0] for call in guest.backend.calls] == ["read"]


def test_broken_queue_keeps_what_is_in_flight_to_itself() -> None:
    guest = Held(queues=2)
    guest.drivers[1].make_available(0x7777)
    guest.device.kick(1)
    assert guest.device.state is State.NEEDS_RESET
    guest.release()
    assert guest.disk.in_flight == 0
    assert guest.drivers[0].used() == []
    guest.device.write_status(0)
    assert guest.device.status == 0


def test_save_needs_an_idle_device() -> None:
    guest = Held()
    with pytest.raises(StateError):
        guest.device.save()
    guest.device.write_status(0)
    with pytest.raises(StateError):
        guest.device.save()
    guest.release()
    guest.disk.drain()
    guest.device.save()


def test_saved_state_goes_on_where_it_stopped() -> None:
    guest, other = Guest(), Guest()
    guest.device.write_config(0x20, 1, 0)
    guest.request(blk.VIRTIO_BLK_T_OUT, 3, b"y" * 512)
    other.memory.write(0, guest.memory.read(0, RAM))
    other.device.load(guest.device.save())
    assert other.device.read_config(0x20, 1) == 0
    assert other.device.save() == guest.device.save()
    smaller = Guest(sectors=8)
    with pytest.raises(SavedStateError, match="256 sectors"):
        smaller.device.load(guest.device.save())


# --- against a model ----------------------------------------------------------------------------------------------

REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "discard", "zero"]),
        st.integers(0, 40),
        st.integers(0, 12),
        st.integers(1, 255),
        st.booleans(),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.booleans(), st.booleans())
def test_any_requests_do_what_a_model_does(
    requests: list[tuple[str, int, int, int, bool]], is_vcpu: bool, is_cached: bool
) -> None:
    guest = Guest(is_vcpu=is_vcpu, sectors=40)
    guest.backend.is_cached = is_cached
    model = bytearray(512 * 40)
    for kind, sector, count, fill, indirect in requests:
        start, end = 512 * sector, 512 * (sector + count)
        fits = end <= len(model)
        if kind == "read":
            status, data, _ = guest.request(blk.VIRTIO_BLK_T_IN, sector, room=512 * count, indirect=indirect)
            assert status == (0 if fits and count else 1)
            assert not fits or data == model[start:end]
        elif kind == "write":
            data = bytes([fill]) * (512 * count)
            status, _, _ = guest.request(blk.VIRTIO_BLK_T_OUT, sector, data, indirect=indirect)
            assert status == (0 if fits and count else 1)
            if fits:
                model[start:end] = data
        else:
            number = blk.VIRTIO_BLK_T_DISCARD if kind == "discard" else blk.VIRTIO_BLK_T_WRITE_ZEROES
            status, _, _ = guest.request(number, payload=segments((sector, count, 0)), indirect=indirect)
            assert status == (0 if fits else 1)
            if fits:
                model[start:end] = bytes(end - start)
    assert guest.backend.data == model
