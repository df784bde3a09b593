"""The hot-plug controller as the DSDT's methods meet it: bits, the interrupt line, ejections."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.errors import SavedStateError
from manor.bus.irq import IrqLine
from manor.devices.misc.hotplug import (
    BUTTON,
    CPU_DOWN,
    CPU_EJECT,
    CPU_ENABLED,
    CPU_KEPT,
    CPU_UP,
    PCI_DOWN,
    PCI_EJECT,
    PCI_UP,
    HotplugController,
    HotplugState,
)
from manor.trace import sink


class Pin:
    """IrqSink: the level, and how often it rose."""

    def __init__(self) -> None:
        self.level = False
        self.rises = 0

    def set_level(self, number: int, level: bool) -> None:
        assert number == 20
        self.rises += level
        self.level = level


class Made:
    """A controller and what it told."""

    def __init__(self) -> None:
        self.pin = Pin()
        self.told: list[tuple[str, int]] = []
        line = IrqLine(self.pin, 20)
        self.chip = HotplugController(
            "hotplug", line, self._note("slot"), self._note("cpu"), self._note("kept")
        )

    def _note(self, what: str) -> Callable[[int], None]:
        return lambda number: self.told.append((what, number))

    def read(self, offset: int) -> int:
        return self.chip.registers.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.chip.registers.write(offset, 4, value)


@pytest.fixture
def made() -> Made:
    return Made()


def test_arrival_is_told_until_it_is_acknowledged(made: Made) -> None:
    made.chip.slot_arrived(5)
    made.chip.slot_arrived(31)
    assert made.pin.level
    assert made.read(PCI_UP.offset) == 1 << 5 | 1 << 31
    made.write(PCI_UP.offset, 1 << 5)
    assert made.read(PCI_UP.offset) == 1 << 31
    assert made.pin.level, "one is not seen yet"
    made.write(PCI_UP.offset, 1 << 31)
    assert not made.pin.level
    assert made.pin.rises == 1


def test_request_and_ejection_of_a_slot(made: Made) -> None:
    made.chip.ask_slot(7)
    assert made.read(PCI_DOWN.offset) == 1 << 7
    made.write(PCI_DOWN.offset, 1 << 7)
    assert not made.pin.level
    assert made.told == [], "acknowledged is not given back"
    made.write(PCI_EJECT.offset, 1 << 7)
    assert made.told == [("slot", 7)]


def test_what_is_gone_is_not_announced_any_more(made: Made) -> None:
    made.chip.slot_arrived(3)
    made.chip.ask_slot(3)
    made.chip.slot_gone(3)
    assert (made.read(PCI_UP.offset), made.read(PCI_DOWN.offset), made.pin.level) == (0, 0, False)


def test_an_arrival_takes_an_old_request_back(made: Made) -> None:
    made.chip.ask_slot(3)
    made.chip.slot_arrived(3)
    assert (made.read(PCI_UP.offset), made.read(PCI_DOWN.offset)) == (8, 0)


def test_vcpus_beyond_the_first_word(made: Made) -> None:
    made.chip.cpu_enabled = 1
    made.chip.cpu_arrived(33)
    assert (made.read(CPU_UP.offset), made.read(CPU_UP.offset + 4)) == (0, 2)
    assert (made.read(CPU_ENABLED.offset), made.read(CPU_ENABLED.offset + 4)) == (1, 2)
    made.write(CPU_UP.offset + 4, 2)
    assert not made.pin.level
    made.chip.ask_cpu(33)
    assert made.read(CPU_DOWN.offset + 4) == 2
    made.write(CPU_KEPT.offset + 4, 2)
    made.write(CPU_EJECT.offset + 4, 2)
    assert made.told == [("kept", 33), ("cpu", 33)]
    made.chip.cpu_gone(33)
    assert made.read(CPU_ENABLED.offset + 4) == 0
    assert not made.pin.level


def test_power_button_is_told_until_it_is_acknowledged(made: Made) -> None:
    made.chip.press_button()
    assert made.pin.level
    assert made.read(BUTTON.offset) == 1
    made.write(BUTTON.offset, 0)
    assert made.pin.level
    other = Made()
    other.chip.load(made.chip.save())
    assert other.pin.level
    made.write(BUTTON.offset, 1)
    assert not made.pin.level
    assert made.told == []


def test_events_are_traced(made: Made) -> None:
    ring = sink.RingSink()
    sink.enable("hotplug_*", ring)
    sink.enable("power_button", ring)
    try:
        made.chip.slot_arrived(2)
        made.chip.cpu_arrived(1)
        made.chip.press_button()
    finally:
        sink.disable("*", ring)
    assert list(ring.events) == [
        ("hotplug_slot", (2, "arrived")), ("hotplug_cpu", (1, "arrived")), ("power_button", ("hotplug",)),
    ]  # fmt: skip


def test_reset_announces_nothing(made: Made) -> None:
    made.chip.slot_arrived(2)
    made.chip.cpu_arrived(1)
    made.chip.reset()
    assert not made.pin.level
    assert made.read(PCI_UP.offset) == made.read(CPU_UP.offset) == 0
    assert made.read(CPU_ENABLED.offset) == 2, "what is there stays"


WRITES = st.tuples(st.integers(0, 0x3C), st.sampled_from([1, 2, 4]), st.integers(0, (1 << 32) - 1))


@given(st.lists(WRITES, max_size=20))
def test_whatever_a_guest_writes_harms_nobody_and_survives_a_saved_state(writes: list[tuple[int, int, int]]) -> None:
    made = Made()
    for slot in range(32):
        made.chip.slot_arrived(slot)
    for offset, size, value in writes:
        made.chip.registers.write(offset, size, value & (1 << 8 * size) - 1)
    bits = [made.read(reg.offset) for reg in (PCI_UP, PCI_DOWN, BUTTON, CPU_UP, CPU_DOWN)]
    assert made.pin.level == any([*bits, made.read(CPU_UP.offset + 4), made.read(CPU_DOWN.offset + 4)])
    other = Made()
    other.chip.load(made.chip.save())
    assert other.chip.save() == made.chip.save()
    assert other.pin.level == made.pin.level


@pytest.mark.parametrize(
    "state", [None, HotplugState(1 << 32, 0, 0, 0, 0), HotplugState(0, 0, 0, 0, -1), HotplugState(0, 0, True, 0, 0)]
)
def test_state_that_does_not_fit_is_refused(made: Made, state: object) -> None:
    made.chip.slot_arrived(1)
    before = made.chip.save()
    with pytest.raises(SavedStateError):
        made.chip.load(state)
    assert made.chip.save() == before
