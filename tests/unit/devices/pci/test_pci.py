"""PCI host bridge, functions, BARs and MSI-X, as a driver sees them through ECAM and ports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.errors import SavedStateError
from manor.bus.bus import Bus
from manor.devices.pci.bar import Bar, BarKind
from manor.devices.pci.capability import BytesCapability, CapabilityList
from manor.devices.pci.config import HEADER_TABLE, FunctionState, Identity, PciFunction
from manor.devices.pci.host import PciHost, Window
from manor.devices.pci.msix import BAR_SIZE, NO_VECTOR, Msix
from manor.testing.fakes import FakeIrq, FakeMsi
from manor.testing.pci_driver import FoundFunction, enumerate_functions

ECAM = 0xE000_0000
WINDOWS = (
    Window("memory", 0xC000_0000, 0x1000_0000),
    Window("memory", 0x40_0000_0000, 0x10_0000_0000),
    Window("io", 0xC000, 0x4000),
)


class Memory:
    """A target that remembers the last write."""

    def __init__(self) -> None:
        self.last: tuple[int, int, int] | None = None

    def read(self, offset: int, size: int) -> int:
        return offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self.last = (offset, size, value)


class Bench:
    def __init__(self) -> None:
        self.mmio, self.pio = Bus("mmio"), Bus("pio")
        self.irq, self.msi = FakeIrq(), FakeMsi()
        self.host = PciHost(self.mmio, self.pio, self.irq, self.msi, WINDOWS)
        self.mmio.map(ECAM, 0x1000_0000, self.host.ecam, "ecam")
        self.pio.map(0xCF8, 8, self.host.ports, "pci ports")
        self.target = Memory()
        self.msix = Msix("f msix", 3, 4)
        self.function = self.make("f", self.target, self.msix)
        self.host.add(3, self.function)
        self.host.reset()

    @staticmethod
    def make(name: str, target: Memory, msix: Msix) -> PciFunction:
        return PciFunction(
            name,
            Identity(0x1AF4, 0x1234, 0x02_00_00, 7, 0x1AF4, 0x55),
            bars=(
                Bar(0, BarKind.MEMORY64, 0x10000, target, f"{name} bar0", prefetchable=True),
                Bar(2, BarKind.IO, 0x20, target, f"{name} bar2"),
                Bar(3, BarKind.MEMORY32, 0x2000, target, f"{name} bar3"),
                Bar(4, BarKind.MEMORY32, BAR_SIZE, msix, f"{name} msix"),
            ),
            msix=msix,
            interrupt_pin=1,
        )

    def find(self) -> FoundFunction:
        found = next(one for one in enumerate_functions(self.mmio, ECAM) if one.slot == 3)
        found.size_bars()
        found.enable()
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_enumeration(bench: Bench) -> None:
    bench.host.add(3, PciFunction("second", Identity(0x1AF4, 0x4321, 0)), 5)
    found = enumerate_functions(bench.mmio, ECAM)
    assert [(one.slot, one.number, one.device_id) for one in found] == [
        (0, 0, 0x0008),
        (3, 0, 0x1234),
        (3, 5, 0x4321),
    ]
    assert found[0].read(0x0A, 2) == 0x0600
    assert found[0].size_bars() == {}


def test_absent_functions_read_all_ones(bench: Bench) -> None:
    assert bench.mmio.read(ECAM + (9 << 15), 4) == 0xFFFF_FFFF
    assert bench.mmio.read(ECAM + (3 << 15) + (1 << 12), 2) == 0xFFFF
    assert bench.mmio.read(ECAM + (1 << 20), 8) == (1 << 64) - 1
    bench.mmio.write(ECAM + (9 << 15), 4, 0)
    bench.mmio.write(ECAM + (1 << 20), 4, 0)


def test_header(bench: Bench) -> None:
    found = bench.find()
    assert found.read(0, 4) == 0x1234_1AF4
    assert found.read(8, 4) == 0x02_00_00_07
    assert found.read(0x2C, 4) == 0x0055_1AF4
    assert found.read(0x3D, 1) == 1
    assert found.read(0x3C, 1) == 19
    assert found.read(0x100, 4) == 0  # no extended capabilities
    assert bench.mmio.read(ECAM + (3 << 15), 8) == found.read(4, 4) << 32 | 0x1234_1AF4
    assert bench.mmio.read(ECAM + (3 << 15) + 1, 2) == 0x341A
    found.write(0, 4, 0)
    found.write(0x100, 4, 1)
    assert found.read(0, 4) == 0x1234_1AF4


def test_every_header_register_is_reachable(bench: Bench) -> None:
    found = bench.find()
    for reg in HEADER_TABLE.regs:
        for index in range(reg.count):
            for offset in range(reg.offset + index * reg.stride, reg.offset + index * reg.stride + reg.size):
                assert 0 <= found.read(offset, 1) <= 0xFF
    found.write(0x3C, 1, 11)
    found.write(0x0C, 1, 16)
    assert (found.read(0x3C, 1), found.read(0x0C, 1)) == (11, 16)
    found.write(0x04, 2, 0xFFFF)
    assert found.read(0x04, 2) == 0x0547
    bench.function.registers.put(HEADER_TABLE.by_name["status"], "signaled_system_error", 1)
    assert found.read(6, 2) == 0x4010
    found.write(6, 2, 0x4000)
    assert found.read(6, 2) == 0x0010


def test_bars_are_sized_and_assigned(bench: Bench) -> None:
    bars = bench.find().bars
    assert {index: (bar.kind, bar.size) for index, bar in bars.items()} == {
        0: ("memory64", 0x10000),
        2: ("io", 0x20),
        3: ("memory32", 0x2000),
        4: ("memory32", 0x1000),
    }
    for bar in bars.values():
        assert bar.address % bar.size == 0
        assert any(window.start <= bar.address < window.end for window in WINDOWS)


def test_bars_answer_where_the_guest_puts_them(bench: Bench) -> None:
    found = bench.find()
    assert found.bar_read(0, 0x1234, 2) == 0x1234
    found.write(4, 2, 0)
    address = found.bars[0].address
    assert bench.mmio.read(address + 0x1234, 2) == 0xFFFF
    found.write(0x10, 4, 0x8000_1000)
    found.write(0x14, 4, 0x41)
    found.write(4, 2, 7)
    bench.mmio.write(0x41_8000_0008, 4, 77)
    assert bench.target.last == (8, 4, 77)
    found.write(0x18, 4, 0xD000)
    bench.pio.write(0xD004, 1, 9)
    assert bench.target.last == (4, 1, 9)


def test_bars_outside_windows_or_overlapping_do_not_answer(bench: Bench) -> None:
    found = bench.find()
    before = bench.mmio.ranges()
    found.write(0x1C, 4, 0x0010_0000)  # RAM
    assert len(bench.mmio.ranges()) == len(before) - 1
    found.write(0x1C, 4, found.bars[4].address)
    assert len(bench.mmio.ranges()) == len(before) - 1
    found.write(0x1C, 4, 0xFFFF_FFFF)
    found.write(0x24, 4, 0x1234_0000)  # no such BAR
    assert found.read(0x24, 4) == 0
    found.write(0x1C, 4, found.bars[3].address)
    assert bench.mmio.ranges() == before


def test_configuration_ports(bench: Bench) -> None:
    def select(address: int) -> None:
        bench.pio.write(0xCF8, 4, address)

    bench.pio.write(0xCFB, 1, 1)
    select(0x8000_0000)
    assert bench.pio.read(0xCF8, 4) == 0x8000_0000
    assert bench.pio.read(0xCFC, 4) == 0x0008_1B36
    select(0x8000_0000 | 3 << 11 | 0x3C)
    bench.pio.write(0xCFC, 1, 5)
    assert bench.pio.read(0xCFC, 2) == 0x0105
    select(0x8000_0000 | 3 << 11)
    assert bench.pio.read(0xCFE, 2) == 0x1234
    assert bench.pio.read(0xCFD, 2) == 0xFFFF  # not aligned
    select(0x8001_0000)
    assert bench.pio.read(0xCFC, 4) == 0xFFFF_FFFF
    select(0)
    assert bench.pio.read(0xCFC, 4) == 0xFFFF_FFFF
    bench.pio.write(0xCFC, 4, 0)
    assert bench.pio.read(0xCF9, 1) == 0xFF


def test_capability_list(bench: Bench) -> None:
    bench.function.add_capability(BytesCapability(0x09, b"\x06abc"))
    assert bench.find().capabilities() == [(0x11, 0x40), (0x09, 0x4C)]
    assert bench.find().read(0x4C, 4) == 0x6106_0009
    bench.find().write(0x4C, 4, 0)
    with pytest.raises(ValueError, match="does not fit"):
        CapabilityList().add(BytesCapability(9, bytes(0xC0)))


def test_intx_routing_and_masking(bench: Bench) -> None:
    gsi = bench.host.gsi(3, 1)
    assert gsi == 19
    assert [bench.host.gsi(slot, 1) for slot in range(5)] == [16, 17, 18, 19, 16]
    bench.function.set_intx(True)
    assert bench.irq.is_raised(gsi)
    found = bench.find()
    assert found.read(6, 2) & 8
    found.write(4, 2, 0x0407)
    assert not bench.irq.is_raised(gsi)
    found.write(4, 2, 0x0007)
    assert bench.irq.is_raised(gsi)
    bench.function.set_intx(False)
    assert not bench.irq.is_raised(gsi)


def test_intx_is_shared(bench: Bench) -> None:
    other = PciFunction("other", Identity(1, 2, 0), interrupt_pin=1)
    bench.host.add(7, other)
    other.set_intx(True)
    bench.function.set_intx(True)
    other.set_intx(False)
    assert bench.irq.is_raised(19)
    bench.function.set_intx(False)
    assert not bench.irq.is_raised(19)


def test_msix_sends_masks_and_keeps_pending(bench: Bench) -> None:
    bench.msix.notify(0)
    assert bench.msi.messages == []  # disabled
    found = bench.find()
    assert found.program_msix(0xFEE0_1000, 0x40) == 3
    bench.msix.notify(1)
    assert bench.msi.messages == [(0xFEE0_1000, 0x41)]
    found.bar_write(4, 16 * 2 + 12, 4, 1)
    bench.msix.notify(2)
    bench.msix.notify(2)
    assert found.bar_read(4, 0x800, 8) == 4
    assert found.bar_read(4, 16 * 2 + 8, 8) == 1 << 32 | 0x42
    found.bar_write(4, 16 * 2 + 8, 8, 0x99)  # data and unmask in one write
    assert bench.msi.messages[1:] == [(0xFEE0_1000, 0x99)]
    assert bench.msix.pending == 0
    control = found.read(0x42, 2)
    found.write(0x42, 2, control | 0x4000)
    bench.msix.notify(0)
    assert len(bench.msi.messages) == 2
    found.write(0x42, 2, control)
    assert bench.msi.messages[2:] == [(0xFEE0_1000, 0x40)]
    bench.msix.notify(NO_VECTOR)
    bench.msix.notify(3)
    assert len(bench.msi.messages) == 3


def test_msix_table_with_strange_accesses(bench: Bench) -> None:
    found = bench.find()
    found.bar_write(4, 0, 4, 0xFEE0_0003)
    assert found.bar_read(4, 0, 4) == 0xFEE0_0000
    found.bar_write(4, 0, 2, 1)
    found.bar_write(4, 0x7F0, 4, 1)
    found.bar_write(4, 0x800, 4, 1)
    assert (found.bar_read(4, 0, 2), found.bar_read(4, 0x7F0, 4), found.bar_read(4, 0x800, 4)) == (0, 0, 0)
    found.write(0x44, 4, 0xFFFF_FFFF)
    assert (found.read(0x44, 4), found.read(0x48, 4)) == (4, 0x804)


def test_msix_replaces_intx(bench: Bench) -> None:
    bench.msix._on_enable = bench.function.update_intx
    bench.function.set_intx(True)
    found = bench.find()
    found.program_msix(0xFEE0_0000, 0)
    assert not bench.irq.is_raised(19)
    found.write(0x42, 2, 0)
    assert bench.irq.is_raised(19)


def test_reset_restores_the_addresses(bench: Bench) -> None:
    found = bench.find()
    before = {index: bar.address for index, bar in found.bars.items()}
    found.write(0x1C, 4, 0xC800_0000)
    found.program_msix(0xFEE0_0000, 0)
    bench.function.set_intx(True)
    bench.host.reset()
    bench.function.reset()  # alone, too
    assert found.read(4, 2) == 0
    assert {index: bar.address for index, bar in bench.find().bars.items()} == before
    assert not bench.msix.is_enabled
    assert not bench.irq.is_raised(19)


def test_save_and_load(bench: Bench) -> None:
    found = bench.find()
    found.program_msix(0xFEE0_0000, 0x30)
    found.write(0x1C, 4, 0xC800_0000)
    bench.pio.write(0xCF8, 4, 0x8000_1800)
    function, host = bench.function.save(), bench.host.save()
    other = Bench()
    other.function.load(function)
    other.host.load(host)
    assert (other.function.save(), other.host.save()) == (function, host)
    assert other.mmio.read(0xC800_0010, 4) == 0x10
    assert other.mmio.ranges() == bench.mmio.ranges()
    other.msix.notify(2)
    assert other.msi.messages == [(0xFEE0_0000, 0x32)]
    for bad in (None, (1 << 32, function), (0, None), (0, function)):
        with pytest.raises(SavedStateError):
            other.host.load(bad)


def test_load_refuses(bench: Bench) -> None:
    state = bench.function.save()
    assert isinstance(state, FunctionState)
    assert state.msix is not None
    bad_states: list[object] = [
        None,
        replace(state, bars=()),
        replace(state, bars=((0, 1), *state.bars[1:])),
        replace(state, registers={**state.registers, "vendor_id": 1}),
        replace(state, registers={}),
        replace(state, intx=1),  # type: ignore[arg-type]
        replace(state, msix=None),
        replace(state, msix=replace(state.msix, control=-1)),
        replace(state, msix=replace(state.msix, control=0x3802)),
        replace(state, msix=replace(state.msix, entries=())),
        replace(state, msix=replace(state.msix, entries=((0, 0, 2),) * 3)),
        replace(state, msix=replace(state.msix, pending=8)),
    ]
    for bad in bad_states:
        with pytest.raises(SavedStateError):
            bench.function.load(bad)
        assert bench.function.save() == state


def test_wrong_building_is_refused(bench: Bench) -> None:
    target = Memory()
    for make in (
        lambda: Bar(5, BarKind.MEMORY64, 0x1000, target, "b"),
        lambda: Bar(0, BarKind.MEMORY32, 0x1800, target, "b"),
        lambda: Bar(0, BarKind.IO, 4, target, "b", prefetchable=True),
        lambda: Msix("m", 0, 0),
        lambda: bench.host.add(3, bench.function),
        lambda: bench.host.add(9, bench.function, 2),
        lambda: PciHost(bench.mmio, bench.pio, bench.irq, bench.msi, (), gsis=(1,)),
        lambda: PciFunction(
            "two",
            Identity(1, 2, 3),
            bars=(
                Bar(0, BarKind.MEMORY64, 0x1000, target, "a"),
                Bar(1, BarKind.MEMORY32, 0x1000, target, "b"),
            ),
        ),
    ):
        with pytest.raises(ValueError, match=r"."):
            make()
    big = PciFunction("big", Identity(1, 2, 3), bars=(Bar(0, BarKind.MEMORY32, 1 << 30, target, "big"),))
    bench.host.add(8, big)
    with pytest.raises(ValueError, match="fit no window"):
        bench.host.reset()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 0x110),
            st.sampled_from([1, 2, 4, 8]),
            st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 7, 0xC000_0000, 0xFFFF_FFFF])),
        ),
        max_size=30,
    )
)
def test_fuzz_configuration_space(accesses: list[tuple[int, int, int]]) -> None:
    bench = Bench()
    for offset, size, value in accesses:
        bench.mmio.write(ECAM + (3 << 15) + offset, size, value)
        assert 0 <= bench.mmio.read(ECAM + (3 << 15) + offset, size) < 1 << 8 * size
    for start, size, _ in bench.mmio.ranges():
        assert start == ECAM or any(w.start <= start and start + size <= w.end for w in WINDOWS)
    bench.host.reset()
    assert len(bench.mmio.ranges()) == 1
