"""The state of a whole machine: nothing that a guest did through the buses is forgotten, nothing damaged is taken."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.block.open import OpenOptions, open_image
from manor.backends.char.memory import MemoryBackend
from manor.backends.net.memory import MemoryNet
from manor.base.clock import FakeClock
from manor.base.errors import ProtocolError, SavedStateError
from manor.base.units import MiB
from manor.bus.bus import Bus
from manor.devices.virtio.device import COMMON_FEATURES
from manor.machine.builder import build
from manor.machine.host_side import HostNic, HostSide
from manor.machine.pc import Machine
from manor.machine.saved import MachineState, load, read_state, save, state_to_plain
from manor.mem import layout
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec
from manor.spec.vsock import VsockSpec
from manor.testing.fake_accel import FakeAccel
from manor.testing.fakes import FakeTimers, FakeWork
from manor.testing.kernel import kernel_file
from manor.testing.pci_driver import FoundFunction, VirtioPciDriver, enumerate_functions
from manor.testing.virtq_driver import Allocator, VirtqDriver

CPUS = 2
DISK = 1 * MiB


class Line(MemoryBackend):
    """A console's far end that is never full."""

    is_full = False

    def wait_room(self) -> None:
        raise AssertionError


class Sockets:
    """A socket device's far end to which nothing comes."""

    cid = 3
    is_congested = False
    has_packets = False

    def __init__(self) -> None:
        self.on_packets: Callable[[], None] = lambda: None

    def receive(self, packet: object) -> None: ...
    def next_packet(self, room: int) -> None: ...
    def reset(self) -> None: ...


class Share:
    tag = "share"

    def submit(self, request: object, done: Callable[[bytes], None]) -> None:
        done(b"")

    def reset(self) -> None: ...


class Maker:
    """Machines that are alike, with every device there is; one clock for all."""

    def __init__(self, folder: Path) -> None:
        self.kernel = kernel_file(folder)
        self.folder = folder
        self.spec = MachineSpec(
            kernel=self.kernel,
            memory=64 * MiB,
            cpus=CPUS,
            disks=(DiskSpec(str(folder / "a"), "raw"), DiskSpec(str(folder / "b"), "raw", bus="nvme", queues=2)),
            nics=(NicSpec("none", queues=2),),
            vsock=VsockSpec(),
            agent=True,
        )
        self.timers = FakeTimers(FakeClock(now_ns=10**9))
        self.requests: list[str] = []
        self.work = FakeWork()
        self.count = 0

    def make(self, is_empty: bool = False, **changes: Any) -> Machine:
        spec = replace(self.spec, **changes)
        disks = []
        for _ in spec.disks:
            self.count += 1
            disk = self.folder / f"disk{self.count}"
            disk.write_bytes(bytes(DISK))
            disks.append(open_image(str(disk), OpenOptions(format="raw")))
        host = HostSide(
            clock=self.timers.clock,
            timers=self.timers,
            defer=lambda callback: self.timers.at(0, callback),  # type: ignore[arg-type]
            lock=threading.RLock(),
            serial=Line(),
            console=Line(),
            power_off=lambda: self.requests.append("off"),
            reset=lambda: self.requests.append("reset"),
            wake=lambda index: None,
            post=lambda callback: None,
            nics=[HostNic(MemoryNet(), bytes.fromhex("525400000001"), threading.RLock()) for _ in spec.nics],
            work=self.work,
            disks=disks,
            vsock=None if spec.vsock is None else Sockets(),
            agent=MemoryBackend() if spec.agent else None,
            shares=[Share()],
        )
        return build(spec, FakeAccel(), host, {} if is_empty else None)

    def copy(self, machine: Machine) -> Machine:
        """Another machine with the same state, which went through a file."""
        text = json.dumps(state_to_plain(save(machine)))
        other = self.make(is_empty=True)
        load(other, read_state(other, json.loads(text)))
        return other


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.fixture
def machine(maker: Maker) -> Iterator[Machine]:
    made = maker.make()
    yield made
    made.close()


def start_virtio(machine: Machine) -> list[VirtioPciDriver]:
    """A driver for every virtio function: all features, MSI-X, queues, DRIVER_OK."""
    allocator = Allocator(32 * MiB, 60 * MiB)
    drivers = []
    for function in functions(machine):
        if function.vendor_id != 0x1AF4 or function.device_id < 0x1040 or function.device_id == 0x10F0:
            continue
        driver = VirtioPciDriver(function)
        driver.negotiate(COMMON_FEATURES | 0xFFFF_FFFF)
        function.program_msix(0xFEE0_0000, 0x40 + function.slot)
        driver.write(0x10, 2, 0)
        for index in range(driver.read(0x12, 2)):
            driver.set_up_queue(index, VirtqDriver(machine.memory, allocator, 16), 0)
        driver.start()
        drivers.append(driver)
    return drivers


def functions(machine: Machine) -> list[FoundFunction]:
    found = enumerate_functions(machine.mmio, layout.ECAM)
    for function in found:
        function.size_bars()
        function.enable()
    return found


# --- what is compared -------------------------------------------------------------------------------------------------

FORGOTTEN = {
    "counters": "statistics of the host",
    "statistics": "statistics of the host, or of the balloon's guest, which are saved",
    "_inflated": "statistics of the host",
    "_reported": "statistics of the host",
    "_scheduled": "a loaded device gives every queue a turn",
    "_flows": "which queue a flow had last: it steers, and is learned anew",
    "_seen_avail": "the guest's index, which is read again",
    "_free": "free lists of the host",
    "_handle": "a timer of the host",
    "_timer": "a timer of the host",
    "_wants_statistics": "a question of the host, which asks again",
    "_is_starved": "whether the port shall be told of room; it is told of it when the machine goes on",
    "_untold": "queues whose last interrupt is a moment away; a loaded device looks at every queue",
    "_is_waiting": "the timer of that",
    "_sent_little": "the same",
    "_must_tell_reset": "a loaded socket device always tells of the reset",
    "event_idx": "of a queue: taken from the features, which are saved, when it is enabled",
    "indirect": "the same",
    "router": "the host bridge, which is compared itself",
}
"""Attributes that are no state of the guest's, with the reason."""
OURS = ("manor.devices", "manor.regs.block", "manor.bus.irq")


def differences(old: object, new: object, path: str, seen: set[int]) -> list[str]:
    """Attributes, however deep inside devices, that are not alike."""
    if isinstance(old, int) and isinstance(new, int):  # a number, or a set of flags
        return [] if old == new else [f"{path}: {old!r} is {new!r}"]
    if type(old) is not type(new):
        return [f"{path}: {old!r} is {new!r}"]
    if old is None or isinstance(old, (int, str, bytes, bytearray, float, Enum, frozenset, set)):
        return [] if old == new else [f"{path}: {old!r} is {new!r}"]
    if id(old) in seen:
        return []
    seen.add(id(old))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in old if isinstance(key, (int, str, tuple, bytes))]
        if len(old) != len(new):
            return [f"{path}: {list(old)} is {list(new)}"]
        if len(keys) < len(old):  # registers, which are the same objects
            return [
                line
                for key in old
                for line in differences(old[key], new[key], f"{path}[{getattr(key, 'name', key)}]", seen)
            ]
        return [line for key in keys for line in differences(old[key], new.get(key), f"{path}[{key!r}]", seen)]
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        if len(old) != len(new):
            return [f"{path}: {len(old)} is {len(new)}"]
        return [
            line
            for index, (a, b) in enumerate(zip(old, new, strict=True))
            for line in differences(a, b, f"{path}[{index}]", seen)
        ]
    if not type(old).__module__.startswith(OURS):
        return []
    names = {*getattr(old, "__dict__", ()), *getattr(type(old), "__slots__", ())} - FORGOTTEN.keys()
    return [
        line
        for name in sorted(names)
        if not name.startswith("on_")
        for line in differences(getattr(old, name, None), getattr(new, name, None), f"{path}.{name}", seen)
    ]


def assert_alike(old: Machine, new: Machine) -> None:
    before, after = save(old), save(new)
    vsock = "virtio-vsock"
    assert {name: state for name, state in after.devices.items() if name != vsock} == {
        name: state for name, state in before.devices.items() if name != vsock
    }
    assert after.vm == before.vm
    found: list[str] = []
    seen: set[int] = set()
    for a, b in zip(old.devices, new.devices, strict=True):
        found += differences(a, b, a.name, seen)
    assert not found, "\n".join(found)


# --- tests ------------------------------------------------------------------------------------------------------------


def test_a_machine_at_its_start(maker: Maker, machine: Machine) -> None:
    assert_alike(machine, maker.copy(machine))


def test_every_device_there_is_takes_part(machine: Machine) -> None:
    from manor.devices.registry import KINDS, device_class

    there = {type(device) for device in machine.devices}
    there |= {type(device.device) for device in machine.devices if hasattr(device, "device")}
    assert there >= {device_class(kind) for kind in KINDS}


def test_drivers_that_run(maker: Maker, machine: Machine) -> None:
    assert len(start_virtio(machine)) == 8
    maker.timers.advance(0)
    other = maker.copy(machine)
    assert_alike(machine, other)
    # The doorbells are where they were.
    for function in functions(machine):
        again = FoundFunction(other.mmio, layout.ECAM, function.slot, function.number)
        again.size_bars()
        assert again.bars == function.bars
        for offset in range(0, 0x100, 4):
            assert again.read(offset, 4) == function.read(offset, 4)


def _places(machine: Machine) -> list[tuple[Bus, int, int]]:
    """Everything that answers on either bus. Configuration space by its functions: most of it is empty."""
    places = [
        (bus, start, size)
        for bus in (machine.pio, machine.mmio)
        for start, size, _ in bus.ranges()
        if start != layout.ECAM
    ]
    return places + [(machine.mmio, layout.ECAM + (slot << 15), 0x100) for slot in range(12)]


@pytest.mark.parametrize("seed", range(24))
def test_whatever_was_written_through_the_buses_is_kept(maker: Maker, machine: Machine, seed: int) -> None:
    random = Random(seed)
    start_virtio(machine) if seed & 1 else functions(machine)
    for _ in range(120):
        bus, start, size = random.choice(_places(machine))
        width = random.choice((1, 2, 4))
        offset = random.randrange(max(1, min(size, 0x80) - width + 1)) // width * width
        if random.random() < 0.7:
            bus.write(start + offset, width, random.getrandbits(8 * width) & random.choice((-1, 0xFF)))
        else:
            bus.read(start + offset, width)
        if random.random() < 0.1:
            maker.timers.advance(random.randrange(10**6))
    for _ in range(8):
        lapic = random.choice(machine.lapics)
        lapic.write(random.choice((0x80, 0xF0, 0x320, 0x380, 0x3E0, 0xD0)), 4, random.getrandbits(16))
    maker.work.run()
    maker.timers.advance(0)
    assert_alike(machine, maker.copy(machine))


def test_time_goes_on_where_it_stood(maker: Maker, machine: Machine) -> None:
    lapic = machine.lapics[0]
    lapic.write(0xF0, 4, 0x1FF)
    lapic.write(0x320, 4, 0x40)
    lapic.write(0x3E0, 4, 0xB)
    lapic.write(0x380, 4, 1_000_000)
    maker.timers.advance(400_000)
    other = maker.copy(machine)
    maker.timers.advance(599_999)
    assert other.lapics[0].acknowledge() is None
    maker.timers.advance(1)
    assert other.lapics[0].acknowledge() == 0x40


def test_a_request_that_waits_is_served_by_the_other_machine(maker: Maker, machine: Machine) -> None:
    """The driver added a buffer, and the device was saved before its turn."""
    driver = next(one for one in start_virtio(machine) if one.function.device_id == 0x1044)
    maker.timers.advance(0)
    queue = VirtqDriver(machine.memory, Allocator(61 * MiB, 62 * MiB), 16)
    driver.write(0x14, 1, 0)
    driver.negotiate(COMMON_FEATURES & ~(1 << 29))
    driver.set_up_queue(0, queue, 0)
    driver.start()
    queue.add(writable=[8])
    driver.kick(0)
    state = save(machine)
    other = maker.make(is_empty=True)
    for region in machine.memory.regions:
        other.memory.load(region.start, machine.memory.read(region.start, region.size))
    load(other, state)
    queue.memory = other.memory
    assert queue.used() == []
    maker.timers.advance(0)
    assert [used.written for used in queue.used()] == [8]


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"balloon": False}, "there was a device virtio-balloon, which this machine has not"),
        ({"cpus": 1}, "not 2 queues|2 vCPUs|queues|vectors"),
        ({"agent": False}, "virtio-serial"),
    ],
)
def test_another_machine(maker: Maker, machine: Machine, changes: dict[str, Any], message: str) -> None:
    value = json.loads(json.dumps(state_to_plain(save(machine))))
    other = maker.make(is_empty=True, **changes)
    with pytest.raises(SavedStateError, match=message):
        load(other, read_state(other, value))


def test_a_missing_device(maker: Maker, machine: Machine) -> None:
    state = save(machine)
    devices = {name: saved for name, saved in state.devices.items() if name != "rtc"}
    with pytest.raises(SavedStateError, match="one of the two machines has no rtc"):
        load(maker.make(is_empty=True), MachineState(state.vm, devices))


def test_damage_names_the_field(maker: Maker, machine: Machine) -> None:
    value = json.loads(json.dumps(state_to_plain(save(machine))))
    other = maker.make(is_empty=True)
    value["devices"]["serial"]["trigger"] = "three"
    with pytest.raises(ProtocolError, match=r"serial\.trigger: 'three' is not of type int"):
        read_state(other, value)
    nothings: tuple[object, ...] = (None, [], {"devices": 3}, {"devices": {}})
    for nothing in nothings:
        with pytest.raises(ProtocolError):
            read_state(other, nothing)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_nonsense_in_a_record_is_a_saved_state_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A value anywhere in the tree is replaced: it is refused, or taken because a device can be like that."""
    maker = Maker(tmp_path_factory.mktemp("machine"))
    machine = maker.make()
    start_virtio(machine)
    maker.timers.advance(0)
    value = json.loads(json.dumps(state_to_plain(save(machine))))
    node, key = value, data.draw(st.sampled_from(("vm", "devices")))
    for _ in range(data.draw(st.integers(1, 6))):
        inner = node[key]
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
        if not keys:
            break
        node, key = inner, data.draw(st.sampled_from(keys))
    node[key] = data.draw(
        st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=3) | st.just([])
        | st.integers(0, 64)
    )  # fmt: skip
    other = maker.make(is_empty=True)
    try:
        load(other, read_state(other, value))
    except ProtocolError:
        return
    maker.timers.advance(0)
