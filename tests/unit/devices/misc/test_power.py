"""Power-off and reset requests."""

from __future__ import annotations

import pytest

from manor.base.errors import ConfigError, SavedStateError
from manor.devices import registry
from manor.devices.misc.power import RESET_VALUE, SLP_TYP_S5, ByteOverlay, PowerControl


class Machine:
    def __init__(self) -> None:
        self.requests: list[str] = []
        self.power = PowerControl("power", lambda: self.requests.append("off"), lambda: self.requests.append("reset"))


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_s5_powers_off(machine: Machine) -> None:
    machine.power.acpi.write(0, 1, SLP_TYP_S5 << 2)
    assert machine.requests == []
    machine.power.acpi.write(0, 1, SLP_TYP_S5 << 2 | 1 << 5)
    assert machine.requests == ["off"]


def test_other_sleep_types_do_nothing(machine: Machine) -> None:
    for kind in range(8):
        if kind != SLP_TYP_S5:
            machine.power.acpi.write(0, 1, kind << 2 | 1 << 5)
    assert machine.requests == []


def test_reset_register(machine: Machine) -> None:
    machine.power.acpi.write(2, 1, 0xFF)
    assert machine.requests == []
    machine.power.acpi.write(2, 1, RESET_VALUE)
    assert machine.requests == ["reset"]


def test_keyboard_controller_reset(machine: Machine) -> None:
    assert machine.power.i8042.read(0, 1) == 0  # input buffer empty: drivers wait for that
    machine.power.i8042.write(0, 1, 0xD1)
    assert machine.requests == []
    machine.power.i8042.write(0, 1, 0xFE)
    assert machine.requests == ["reset"]


def test_reset_control_needs_a_rising_bit(machine: Machine) -> None:
    control = machine.power.reset_control
    control.write(0, 1, 0x02)
    assert machine.requests == []
    control.write(0, 1, 0x06)
    control.write(0, 1, 0x06)
    assert machine.requests == ["reset"]
    assert control.read(0, 1) == 0x06
    control.write(0, 1, 0x02)
    control.write(0, 1, 0x0E)
    assert machine.requests == ["reset", "reset"]


def test_save_load_reset(machine: Machine) -> None:
    machine.power.reset_control.write(0, 1, 0x06)
    state = machine.power.save()
    other = Machine()
    other.power.load(state)
    other.power.reset_control.write(0, 1, 0x06)
    assert other.requests == []
    other.power.reset()
    assert other.power.reset_control.read(0, 1) == 0
    with pytest.raises(SavedStateError):
        other.power.load(object())


def test_overlay_takes_exactly_its_byte(machine: Machine) -> None:
    other = PowerControl("base", lambda: None, lambda: None)
    overlay = ByteOverlay(other.acpi, 1, machine.power.reset_control)
    overlay.write(1, 1, 0x04)
    assert machine.requests == ["reset"]
    assert overlay.read(1, 1) == 0x04
    assert overlay.read(0, 2) == 0
    overlay.write(0, 2, 0xFFFF)
    assert machine.requests == ["reset"]


def test_registry() -> None:
    assert registry.device_class("power") is PowerControl
    assert registry.device_class("serial").__name__ == "Ns16550"
    with pytest.raises(ConfigError, match="unknown device kind 'floppy'"):
        registry.device_class("floppy")


@pytest.mark.parametrize("kind", sorted(registry.KINDS))
def test_every_registered_kind_exists(kind: str) -> None:
    assert isinstance(registry.device_class(kind), type)
