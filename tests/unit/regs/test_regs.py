"""Registers as data: checks at import, access kinds, banks, hooks, save and load."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from manor.base.errors import SavedStateError
from manor.regs import doc
from manor.regs.access import RC, RO, RW, W1C, W1S, WO, Access, describe
from manor.regs.block import RegisterBlock
from manor.regs.field import DeclarationError, Field, Reg, RegisterTable, reserved
from manor.trace import sink

STATUS = Reg(
    "STATUS", 0, 16, RO, source="test manual 1.2",
    fields=(
        Field("ready", 0, reset=1, doc="ready"),
        Field("error", 1, access=RC),
        Field("event", 2, access=W1C, reset=1),
        Field("start", 3, access=W1S),
        Field("mode", 4, 2, access=RW, reset=2, values=((0, "off"), (2, "fast"))),
        reserved(6, 2, 3),
        Field("secret", 8, 8, access=WO),
    ),
)  # fmt: skip
DATA_IN = Reg("DATA_IN", 2, access=RO, stored=False, bank="data")
DATA_OUT = Reg("DATA_OUT", 2, access=WO, stored=False, bank="data")
RATE = Reg("RATE", 2, reset=7, bank="rate")
BIG = Reg("BIG", 4, 32, reset=0x11223344)
SLOTS = Reg("SLOTS", 8, 32, stored=False, count=4, stride=8)
TABLE = RegisterTable(
    "widget", 0x40, (STATUS, DATA_IN, DATA_OUT, RATE, BIG, SLOTS), banks=("data", "rate"), split=True, unmapped=0xA5
)


class Widget:
    def __init__(self) -> None:
        self.written: list[tuple[str, int]] = []
        self.slots = [10, 11, 12, 13]
        self.regs = RegisterBlock(TABLE, self)

    def on_read_data_in(self) -> int:
        return 0x155

    def on_write_data_out(self, value: int) -> None:
        self.written.append(("data_out", value))

    def on_write_status(self, value: int) -> None:
        self.written.append(("status", value))

    def on_read_slots(self, index: int) -> int:
        return self.slots[index]

    def on_write_slots(self, index: int, value: int) -> None:
        self.slots[index] = value


@pytest.fixture
def widget() -> Widget:
    return Widget()


@pytest.fixture
def errors() -> Iterator[sink.RingSink]:
    ring = sink.RingSink()
    sink.enable("guest_error", ring)
    yield ring
    sink.disable("guest_error", ring)


def test_access_kinds(widget: Widget) -> None:
    regs = widget.regs
    regs.put(STATUS, "error", 1)
    assert regs.read(0, 2) == 0b1110_0111  # reserved bits read as ones, the secret as zero
    assert regs.read(0, 2) == 0b1110_0101  # error was cleared by reading
    regs.write(0, 2, 0xAB << 8 | 0b1100_1001)  # sets start, mode 0, leaves event
    assert regs[STATUS] == 0xAB << 8 | 0b1100_1101
    assert regs.get(STATUS, "mode") == 0
    regs.write(0, 2, 0b1100_0100)  # clears event; start stays
    assert regs.read(0, 2) == 0b1100_1001
    assert widget.written[-1] == ("status", 0b1100_1001)


def test_banks_and_read_write_pairs(widget: Widget) -> None:
    regs = widget.regs
    assert regs.read(2, 1) == 0x55
    regs.write(2, 1, 0x77)
    assert widget.written == [("data_out", 0x77)]
    regs.bank = "rate"
    assert regs.read(2, 1) == 7
    regs.write(2, 1, 9)
    assert regs[RATE] == 9
    assert len(widget.written) == 1
    regs.reset()
    assert (regs.bank, regs[RATE]) == ("data", 7)


def test_arrays_pass_their_index(widget: Widget) -> None:
    widget.regs.write(0x18, 4, 0xFFFF_FFFF)
    assert widget.slots == [10, 11, 0xFFFF_FFFF, 13]
    assert [widget.regs.read(8 + 8 * index, 4) for index in range(4)] == widget.slots


def test_narrow_and_wide_accesses(widget: Widget, errors: sink.RingSink) -> None:
    regs = widget.regs
    assert regs.read(5, 1) == 0x33
    assert regs.read(6, 2) == 0x1122
    regs.write(5, 1, 0xFF)
    assert regs[BIG] == 0x1122FF44
    regs.write(6, 2, 0)
    assert regs[BIG] == 0x0000FF44
    assert not errors.events
    assert regs.read(2, 2) == 0xA555  # offset 3 has no register
    assert len(errors.events) == 1
    regs.write(0x18, 2, 1)  # a part of a register that is not stored
    assert widget.slots[2] == 12
    assert len(errors.events) == 2
    regs.write(0, 1, 0b1100_0000)  # W1C and RO bits outside or zero stay
    assert regs[STATUS] == 0b1100_0101


def test_split_covers_several_registers(widget: Widget) -> None:
    widget.regs.bank = "rate"
    assert widget.regs.read(0, 4) == 0xA507_00E5
    widget.regs.write(0, 4, 0x0009_00F0)
    assert widget.regs[RATE] == 9
    assert widget.regs.get(STATUS, "mode") == 3


@pytest.mark.parametrize(("offset", "size"), [(0x3F, 1), (0x40, 1), (0x1000, 4), (-1, 1), (0x3E, 4), (0x3E, 8)])
def test_outside_has_a_defined_result(widget: Widget, errors: sink.RingSink, offset: int, size: int) -> None:
    assert widget.regs.read(offset, size) == int.from_bytes(b"\xa5" * size, "little")
    widget.regs.write(offset, size, 1)
    assert errors.events


def test_reserved_bits_are_a_guest_error(widget: Widget, errors: sink.RingSink) -> None:
    widget.regs.write(0, 2, 0b1100_0000)
    assert not errors.events
    widget.regs.write(0, 2, 0)
    assert errors.events[0][1] == ("widget.STATUS", "write of 0x0 sets reserved bits 0xc0")


def test_register_traces(widget: Widget) -> None:
    ring = sink.RingSink()
    sink.enable("register_*", ring)
    widget.regs.read(2, 1)
    widget.regs.write(2, 1, 3)
    sink.disable("register_*", ring)
    assert list(ring.events) == [("register_read", ("widget", 2, 1, 0x55)), ("register_write", ("widget", 2, 1, 3))]


def test_save_and_load(widget: Widget) -> None:
    widget.regs.bank = "rate"
    widget.regs.write(2, 1, 0x42)
    state = widget.regs.save()
    assert state == {"STATUS": STATUS.reset_value, "RATE": 0x42, "BIG": 0x11223344, "@bank": "rate"}
    other = Widget()
    other.regs.load(state)
    assert other.regs.save() == state
    assert other.regs.read(2, 1) == 0x42
    assert not other.written


@pytest.mark.parametrize(
    "change",
    [
        {"RATE": 256},
        {"RATE": -1},
        {"RATE": "x"},
        {"RATE": True},
        {"STATUS": 0},
        {"@bank": "other"},
        {"NEW": 1},
    ],
)
def test_load_refuses_and_changes_nothing(widget: Widget, change: dict[str, int | str]) -> None:
    before = widget.regs.save()
    with pytest.raises(SavedStateError):
        widget.regs.load({**before, "BIG": 5, **change})
    assert widget.regs.save() == before


def test_device_side_access(widget: Widget) -> None:
    widget.regs[BIG] = 0x1_0000_0007
    assert widget.regs[BIG] == 7
    with pytest.raises(KeyError):
        widget.regs[DATA_IN] = 1
    assert STATUS.mask("ready", "mode") == 0x31
    assert STATUS.field("mode").put(0, 3) == 0x30


def test_a_read_needs_a_source() -> None:
    with pytest.raises(DeclarationError, match="no read hook"):
        RegisterBlock(RegisterTable("t", 1, (Reg("X", 0, stored=False),)), object())


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("overlap another field", {"fields": (Field("a", 0, 4), Field("b", 3, 5))}),
        ("outside 8 bits", {"fields": (Field("a", 0, 9),)}),
        ("neither declared nor reserved", {"fields": (Field("a", 0, 7),)}),
        ("declared twice", {"fields": (Field("a", 0, 4), Field("a", 4, 4))}),
        ("does not fit", {"fields": (Field("a", 0, 4, reset=16), reserved(4, 4))}),
        ("multiple of 8", {"width": 7}),
        ("negative offset", {"offset": -1}),
        ("array", {"count": 2}),
        ("array", {"count": 2, "stored": False, "stride": 0}),
        ("more than one way", {"access": RW | Access.W1C}),
        ("neither readable nor writable", {"access": Access.RC}),
        ("belongs to the fields", {"reset": 1, "fields": (Field("a", 0, 8),)}),
    ],
)
def test_wrong_registers_are_rejected(message: str, arguments: dict[str, object]) -> None:
    with pytest.raises(DeclarationError, match=message):
        Reg(**{"name": "X", "offset": 0, **arguments})  # type: ignore[arg-type]


def test_two_fields_at_one_bit_are_rejected() -> None:
    with pytest.raises(DeclarationError, match=r"SEC_CTRL\.prog_gate_1: bits 0x80 overlap another field"):
        Reg("SEC_CTRL", 0, fields=(Field("prog_gate_0", 7), Field("prog_gate_1", 7), reserved(0, 7)))


@pytest.mark.parametrize(
    ("message", "regs", "banks"),
    [
        ("overlaps A", (Reg("A", 0, 16), Reg("B", 1)), ("",)),
        ("overlaps A in bank two", (Reg("A", 0), Reg("B", 0, bank="two")), ("one", "two")),
        ("declared twice", (Reg("A", 0), Reg("A", 1)), ("",)),
        ("no bank", (Reg("A", 0, bank="x"),), ("",)),
        ("ends at", (Reg("A", 3, 16),), ("",)),
    ],
)
def test_wrong_tables_are_rejected(message: str, regs: tuple[Reg, ...], banks: tuple[str, ...]) -> None:
    with pytest.raises(DeclarationError, match=message):
        RegisterTable("t", 4, regs, banks=banks)


def test_reference_page() -> None:
    page = doc.markdown(TABLE)
    assert "| `0x0` | any | `STATUS` | 16 | RO | `0xe5` |  |" in page
    assert "| 5:4 | `mode` | RW | `0x2` | 0 off; 2 fast |" in page
    assert "| `0x8` + n * `0x8`, n < 4 |" in page
    assert "Source: test manual 1.2" in page
    assert "### widget.BIG" not in page
    assert describe(W1C) == "R/W1C"
    assert describe(Access.W1S) == "W1S"


def test_dispatch_is_cheap(widget: Widget) -> None:
    """No searching per access: a table of 0x40 bytes is not slower at its end; the bound is very generous."""
    start = time.perf_counter()
    for _ in range(20_000):
        widget.regs.read(2, 1)
        widget.regs.write(0x20, 4, 1)
    assert time.perf_counter() - start < 1.0
