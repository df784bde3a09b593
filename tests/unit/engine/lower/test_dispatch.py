"""The `exit` terminal: on through the jump cache, unless the run loop has something to do first."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from manor.engine.env import OFFSETS

PC = 0xFFFF_FFFF_8100_0123
FLAGS = 0x28
HALT = ("jump", 0, 0, 0, 0)


@pytest.fixture
def source(box: Any) -> int:
    """A block that leaves with rip = PC, where another block is in the jump cache."""
    for name in ("irq_pending", "nmi_pending", "shadow", "rflags", "interrupt"):
        box.write(name, 0)
    box.write("dr", 0x400, 7)
    box.write("block_flags", FLAGS)
    box.write("rip", PC)
    target = box.block([HALT], pc=PC, flags=FLAGS, exits=(0xFFFF_FFFF_8100_0999, 0))
    box.cache_jump(target)
    return int(box.block([("exit", 0, 0, 0, 0)], flags=FLAGS))


def test_goes_on_at_rip(box: Any, source: int) -> None:
    assert box.run(source) == (source - 1, 0, 0xFFFF_FFFF_8100_0999)


@pytest.mark.parametrize(("name", "value"), [("irq_pending", 1), ("nmi_pending", 1), ("rflags", 0x102)])
def test_leaves_for_the_run_loop(box: Any, source: int, name: str, value: int) -> None:
    box.write(name, value)
    assert box.run(source) == (None, 0, PC)
    box.write(name, 0)


def test_leaves_for_breakpoints(box: Any, source: int) -> None:
    box.write("dr", 0x401, 7)
    assert box.run(source) == (None, 0, PC)
    box.write("dr", 0x400, 7)


def test_leaves_when_the_mode_is_another(box: Any, source: int) -> None:
    box.write("block_flags", FLAGS | 3)
    assert box.run(source) == (None, 0, PC)


def test_leaves_for_an_address_that_is_not_canonical(box: Any, source: int) -> None:
    box.write("rip", PC ^ 1 << 60)
    assert box.run(source) == (None, 0, PC ^ 1 << 60)


def test_next_block_of_a_shadow_does_not_look_for_interrupts(box: Any, source: int, world: Any) -> None:
    """STI: the instruction behind it runs even if an interrupt came meanwhile."""

    def sti(env: int) -> int:
        ctypes.c_uint32.from_address(env + OFFSETS["shadow"]).value = 1
        ctypes.c_int32.from_address(env + OFFSETS["interrupt"]).value = 1
        ctypes.c_uint64.from_address(env + OFFSETS["rip"]).value = PC
        return 0

    world.on_helper = sti
    block = box.block([("helper", 20, 0, 0, 0, 1), ("exit", 0, 0, 0, 0)], flags=FLAGS)
    assert box.run(block) == (source - 1, 0, 0xFFFF_FFFF_8100_0999)
    assert box.read("shadow") == 0
    assert box.run(block) == (None, 0, 0x1000)  # at the head of the first block the interrupt is seen
    box.write("interrupt", 0)
