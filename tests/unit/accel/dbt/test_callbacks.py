"""What the engine reports becomes trace events."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from manor.accel.dbt.callbacks import Callbacks
from manor.engine import env
from manor.engine.env import FLAG_CODE64
from manor.engine.uop.show import Uop
from manor.engine.uop.table import NUMBER
from manor.trace.sink import RingSink, disable, enable

NOTHING = 1 << 64


class Handler:
    def pio_read(self, port: int, size: int) -> int:
        return 0

    def pio_write(self, port: int, size: int, value: int) -> None: ...
    def mmio_read(self, vcpu_index: int, gpa: int, size: int) -> int:
        return vcpu_index

    def mmio_write(self, vcpu_index: int, gpa: int, size: int, value: int) -> None: ...


@pytest.fixture
def callbacks() -> Callbacks:
    return Callbacks(Handler(), 3)


@pytest.fixture
def ring() -> Iterator[RingSink]:
    sink = RingSink()
    enable("*", sink)
    yield sink
    disable("*", sink)


def test_system_calls_are_shown_with_their_paths(callbacks: Callbacks, ring: RingSink) -> None:
    callbacks.read_string = {0x5000: "/init"}.get
    callbacks.trace("syscall", 257, NOTHING - 100, 0x5000, 0, 0, 0, 0, 0x401000)
    callbacks.trace("sysret", NOTHING - 2, 0x401002)
    assert list(ring.events) == [
        ("syscall_enter", (3, 0x401000, 'openat(AT_FDCWD, "/init", O_RDONLY)', "3 -> 0")),
        ("syscall_return", (3, -2, 0x401002, "0 -> 3")),
    ]


def test_interrupts_and_invalid_instructions(callbacks: Callbacks, ring: RingSink) -> None:
    callbacks.trace("interrupt", 14, 4, 0x401000, 3)
    callbacks.trace("invalid", 0x401000, 3, 0, 0)
    names = [name for name, _ in ring.events]
    assert names == ["interrupt_deliver", "guest_error"]


def test_blocks_are_rendered(callbacks: Callbacks, ring: RingSink) -> None:
    uops = Uop(NUMBER["jump"], insn=1).pack()
    callbacks.trace_block(0x401000, 0x1000, b"\x90", uops, b"\xc3", FLAG_CODE64, (0x401001,))
    ((name, values),) = ring.events
    assert (name, values[:3]) == ("block_translate", (3, 0x401000, 0x1000))
    assert "nop" in str(values[3])
    assert "jump -> 0x401001" in str(values[3])


def test_bits_follow_what_is_on(callbacks: Callbacks) -> None:
    assert callbacks.trace_bits() == 0
    callbacks.trace_block(0, 0, b"", b"", b"", 0, ())
    sink = RingSink()
    enable("block_*", sink)
    try:
        assert callbacks.trace_bits() == env.TRACE_BLOCKS
    finally:
        disable("block_*", sink)
    assert not sink.events


@pytest.mark.parametrize(("is_write", "text"), [(0, "reading MSR 0x123"), (1, "writing 0x7 to MSR 0x123")])
def test_refused_msr_ends_no_guest(callbacks: Callbacks, ring: RingSink, is_write: int, text: str) -> None:
    callbacks.trace("invalid_msr", 0x123, 7, is_write, 0x401000)
    assert list(ring.events) == [("guest_error", ("engine", f"{text} at rip 0x0000000000401000 is refused"))]


def test_an_event_of_unknown_kind_is_a_bug(callbacks: Callbacks) -> None:
    with pytest.raises(ValueError, match="'nonsense'"):
        callbacks.trace("nonsense", 0)
