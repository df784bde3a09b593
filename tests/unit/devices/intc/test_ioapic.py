"""I/O APIC: windows, edge and level inputs, remote IRR, EOI by broadcast and by register."""

from __future__ import annotations

import dataclasses

import pytest

from manor.base.errors import SavedStateError
from manor.bus.irq import IrqLine
from manor.devices.intc.ioapic import PINS, IoApic
from manor.trace import sink

from .bench import EOI, LDR, SVR, Bench

LEVEL, MASKED, REMOTE, LOGICAL = 1 << 15, 1 << 16, 1 << 14, 1 << 11


class Board(Bench):
    def __init__(self, count: int = 1) -> None:
        super().__init__(count)
        self.ioapic = IoApic("ioapic", self.bus)

    def get(self, index: int) -> int:
        self.ioapic.write(0, 4, index)
        return self.ioapic.read(0x10, 4)

    def put(self, index: int, value: int) -> None:
        self.ioapic.write(0, 4, index)
        self.ioapic.write(0x10, 4, value)

    def route(self, pin: int, low: int, destination: int = 0) -> None:
        self.put(0x11 + 2 * pin, destination << 24)
        self.put(0x10 + 2 * pin, low)

    def entry(self, pin: int) -> int:
        return self.get(0x10 + 2 * pin)


@pytest.fixture
def board() -> Board:
    return Board()


def test_identification(board: Board) -> None:
    assert board.get(1) == 0x00170020
    board.put(0, 0xFFFFFFFF)
    assert board.get(0) == 0x0F000000
    assert board.get(2) == 0x0F000000
    board.put(1, 0)
    assert board.get(1) == 0x00170020
    assert [board.entry(pin) for pin in range(PINS)] == [MASKED] * PINS


def test_edge_input(board: Board) -> None:
    board.route(4, 0x34)
    line = IrqLine(board.ioapic, 4)
    line.raise_()
    assert board.taken() == [[0x34]]
    line.raise_()
    assert board.taken() == [[]]
    line.lower()
    line.pulse()
    assert board.taken() == [[0x34]]
    assert board.entry(4) == 0x34


def test_edges_on_a_masked_input_are_lost(board: Board) -> None:
    line = IrqLine(board.ioapic, 4)
    board.route(4, MASKED | 0x34)
    line.raise_()
    board.route(4, 0x34)
    assert board.taken() == [[]]
    line.lower()
    line.raise_()
    assert board.taken() == [[0x34]]


def test_level_input_repeats_until_lowered(board: Board) -> None:
    board.route(10, LEVEL | 0x51)
    line = IrqLine(board.ioapic, 10)
    line.raise_()
    assert board.entry(10) == LEVEL | REMOTE | 0x51
    assert board.apic.acknowledge() == 0x51
    line.lower()
    line.raise_()  # still in service: no second message
    assert not board.cpu.pending
    board.write(EOI, 0)
    assert board.cpu.pending
    assert board.apic.acknowledge() == 0x51
    line.lower()
    board.write(EOI, 0)
    assert not board.cpu.pending
    assert board.entry(10) == LEVEL | 0x51


def test_masked_level_input_is_delivered_when_unmasked(board: Board) -> None:
    board.route(10, MASKED | LEVEL | 0x51)
    IrqLine(board.ioapic, 10).raise_()
    assert not board.cpu.pending
    board.route(10, LEVEL | 0x51)
    assert board.cpu.pending


def test_eoi_register_and_switch_to_edge(board: Board) -> None:
    board.route(10, LEVEL | 0x51)
    line = IrqLine(board.ioapic, 10)
    line.raise_()
    line.lower()
    board.ioapic.write(0x40, 4, 0x52)
    assert board.entry(10) & REMOTE
    board.ioapic.write(0x40, 4, 0x51)
    assert not board.entry(10) & REMOTE
    line.raise_()
    assert board.entry(10) & REMOTE
    line.lower()
    board.route(10, MASKED | 0x51)
    assert not board.entry(10) & REMOTE


def test_remote_irr_needs_acceptance(board: Board) -> None:
    board.write(SVR, 0xFF)
    board.route(10, LEVEL | 0x51)
    IrqLine(board.ioapic, 10).raise_()
    assert not board.entry(10) & REMOTE
    board.write(SVR, 0x1FF)
    board.route(10, LEVEL | 0x51)
    assert board.cpu.pending


def test_destinations_and_modes() -> None:
    board = Board(2)
    board.write(LDR, 2 << 24, 1)
    board.route(1, LOGICAL | 0x41, destination=2)
    board.route(2, 0x42, destination=0xFF)
    board.route(3, 0x400, destination=1)
    board.route(5, 0x100 | LEVEL | 0x45, destination=0xFF)
    for pin in (1, 2, 3):
        board.ioapic.set_level(pin, True)
    assert board.taken() == [[0x42], [0x42, 0x41]]
    assert board.cpus[1].events == ["nmi"]
    board.ioapic.set_level(5, True)
    assert sum(cpu.pending for cpu in board.cpus) == 1


def test_two_inputs_share_a_vector(board: Board) -> None:
    board.route(10, LEVEL | 0x51)
    board.route(11, LEVEL | 0x51)
    board.ioapic.set_level(10, True)
    board.ioapic.set_level(11, True)
    assert board.apic.acknowledge() == 0x51
    board.ioapic.set_level(10, False)
    board.write(EOI, 0)
    assert board.apic.acknowledge() == 0x51
    board.ioapic.set_level(11, False)
    board.write(EOI, 0)
    assert not board.cpu.pending


def test_read_only_bits(board: Board) -> None:
    board.put(0x10, 0xFFFFFFFF)
    assert board.get(0x10) == 0x1AFFF
    board.put(0x11, 0xFFFFFFFF)
    assert board.get(0x11) == 0xFF000000


@pytest.mark.parametrize("index", [3, 0x0F, 0x40, 0xFF])
def test_unknown_registers(board: Board, index: int) -> None:
    ring = sink.RingSink()
    sink.enable("guest_error", ring)
    board.put(index, 0xFFFFFFFF)
    assert board.get(index) == 0
    sink.disable("guest_error", ring)
    assert len(ring.events) == 2


def test_other_offsets_and_sizes(board: Board) -> None:
    for offset in (0x04, 0x20, 0x44, 0xFFC):
        assert board.ioapic.read(offset, 4) == 0
        board.ioapic.write(offset, 4, 1)
    board.ioapic.write(0, 1, 1)  # drivers of the original chip write the index as a byte
    assert board.ioapic.read(0x10, 4) == 0x00170020
    assert board.ioapic.read(0x10, 1) == 0x20


def test_reset_keeps_the_wires(board: Board) -> None:
    board.ioapic.set_level(7, True)
    board.route(7, 0x41)
    board.ioapic.reset()
    assert board.entry(7) == MASKED
    board.route(7, LEVEL | 0x41)
    assert board.cpu.pending


def test_save_and_load(board: Board) -> None:
    board.route(10, LEVEL | 0x51)
    board.ioapic.set_level(10, True)
    board.ioapic.write(0, 4, 1)
    state = board.ioapic.save()
    other = Board()
    other.ioapic.load(state)
    assert other.ioapic.save() == state
    assert other.ioapic.read(0x10, 4) == 0x00170020
    assert other.entry(10) == LEVEL | REMOTE | 0x51


@pytest.mark.parametrize(
    "change",
    [
        {"entries": ()},
        {"entries": (1 << 64,) * PINS},
        {"entries": (1 << 20,) * PINS},
        {"levels": ()},
        {"registers": {}},
        {"indirect": {}},
    ],
)
def test_load_refuses(board: Board, change: dict[str, object]) -> None:
    state = board.ioapic.save()
    with pytest.raises(SavedStateError):
        board.ioapic.load(dataclasses.replace(state, **change))  # type: ignore[arg-type]
    with pytest.raises(SavedStateError):
        board.ioapic.load(None)
    assert board.ioapic.save() == state
