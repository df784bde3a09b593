"""Power-off and reset: ACPI hardware-reduced sleep registers, and the two older ways to reset a PC.

Source: ACPI specification 6.5, 4.8.3.6 "Reset Register" and 4.8.3.7 "Sleep Control and Status Registers";
IBM PC AT Technical Reference, 8042 commands (0xFE pulses the reset line); Intel ICH/PCH datasheets, RST_CNT
at port 0xCF9.

Other sleep states than S5 are not offered: a request for one is a guest error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from manor.base.errors import SavedStateError
from manor.bus.bus import BusTarget
from manor.devices.device import Device
from manor.regs.access import RO, W1C, WO
from manor.regs.block import RegisterBlock
from manor.regs.field import Field, Reg, RegisterTable, reserved
from manor.trace.event import declare, guest_error

SLP_TYP_S5: Final = 5
"""What the \\_S5 package of the DSDT must hold. Any value would do; this one is easy to recognise."""
RESET_VALUE: Final = 0x42
"""What the RESET_VALUE of the FADT must hold. Not 0 or 0xFF, which stray writes use."""
I8042_RESET: Final = 0xFE

SLEEP_CONTROL: Final = Reg(
    "SLEEP_CONTROL", 0, access=WO, stored=False, source="ACPI 6.5, table 4.22",
    fields=(
        reserved(0, 2),
        Field("slp_typ", 2, 3, doc="sleep state, from the \\_Sx package"),
        Field("slp_en", 5, doc="enter it"),
        reserved(6, 2),
    ),
)  # fmt: skip
SLEEP_STATUS: Final = Reg(
    "SLEEP_STATUS", 1, access=RO, source="ACPI 6.5, table 4.23",
    fields=(reserved(0, 7), Field("wak_sts", 7, access=W1C, doc="woken from a sleep state")),
)  # fmt: skip
RESET_REG: Final = Reg("RESET_REG", 2, access=WO, stored=False, doc="writing RESET_VALUE resets the machine")
ACPI_TABLE: Final = RegisterTable(
    "acpi_power", 3, (SLEEP_CONTROL, SLEEP_STATUS, RESET_REG), split=True, source="ACPI 6.5, 4.8.3"
)

I8042_STATUS: Final = Reg("I8042_STATUS", 0, access=RO, stored=False, doc="always idle: buffers empty")
I8042_COMMAND: Final = Reg("I8042_COMMAND", 0, access=WO, stored=False, doc="only 0xFE, reset")
I8042_TABLE: Final = RegisterTable("i8042_reset", 1, (I8042_STATUS, I8042_COMMAND), source="IBM PC AT")

RST_CNT: Final = Reg(
    "RST_CNT", 0, source="Intel 9 Series PCH datasheet, 12.7.5", doc="reset control",
    fields=(
        reserved(0, 1),
        Field("sys_rst", 1, doc="hard reset"),
        Field("rst_cpu", 2, doc="a change from 0 to 1 resets"),
        Field("full_rst", 3, doc="power cycle"),
        reserved(4, 4),
    ),
)  # fmt: skip
RST_CNT_TABLE: Final = RegisterTable("rst_cnt", 1, (RST_CNT,))

power_off_request = declare("power_off_request", device=str)
power_reset_request = declare("power_reset_request", device=str, way=str)


@dataclass(frozen=True, slots=True)
class PowerState:
    """Saved state: stored registers of the ACPI block and of RST_CNT."""

    acpi: Mapping[str, int | str]
    reset_control: Mapping[str, int | str]


class PowerControl(Device):
    """All of it as one device with three bus targets: `acpi` (3 ports), `i8042` (port 0x64), `reset_control`
    (0xCF9).

    The callbacks run on the vCPU's thread with the machine lock held: they note the request and return.
    """

    def __init__(self, name: str, on_power_off: Callable[[], None], on_reset: Callable[[], None]) -> None:
        self.name = name
        self._on_power_off = on_power_off
        self._on_reset = on_reset
        self.acpi = RegisterBlock(ACPI_TABLE, self, name)
        self.i8042 = RegisterBlock(I8042_TABLE, self, name)
        self.reset_control = RegisterBlock(RST_CNT_TABLE, self, name)
        self._rst_cpu = False

    def reset(self) -> None:
        self.acpi.reset()
        self.reset_control.reset()
        self._rst_cpu = False

    def save(self) -> PowerState:
        return PowerState(self.acpi.save(), self.reset_control.save())

    def load(self, state: object) -> None:
        if not isinstance(state, PowerState):
            raise SavedStateError(self.name, f"not a power control state: {type(state).__name__}")
        self.acpi.check(state.acpi)
        self.reset_control.load(state.reset_control)
        self.acpi.load(state.acpi)
        self._rst_cpu = bool(self.reset_control.get(RST_CNT, "rst_cpu"))

    # --- register hooks -------------------------------------------------------------------------------------

    def on_write_sleep_control(self, value: int) -> None:
        if not SLEEP_CONTROL.field("slp_en").get(value):
            return
        state = SLEEP_CONTROL.field("slp_typ").get(value)
        if state != SLP_TYP_S5:
            if guest_error.on:
                guest_error(self.name, f"sleep type {state} is not offered")
            return
        if power_off_request.on:
            power_off_request(self.name)
        self._on_power_off()

    def on_write_reset_reg(self, value: int) -> None:
        if value == RESET_VALUE:
            self._reset("acpi")
        elif guest_error.on:
            guest_error(self.name, f"value {value:#x} in the reset register is not {RESET_VALUE:#x}")

    def on_read_i8042_status(self) -> int:
        return 0

    def on_write_i8042_command(self, value: int) -> None:
        if value == I8042_RESET:
            self._reset("i8042")
        elif guest_error.on:
            guest_error(self.name, f"keyboard controller command {value:#x}: there is no keyboard controller")

    def on_write_rst_cnt(self, value: int) -> None:
        rising = bool(RST_CNT.field("rst_cpu").get(value)) and not self._rst_cpu
        self._rst_cpu = bool(RST_CNT.field("rst_cpu").get(value))
        if rising:
            self._reset("rst_cnt")

    def _reset(self, way: str) -> None:
        if power_reset_request.on:
            power_reset_request(self.name, way)
        self._on_reset()


class ByteOverlay:
    """A bus target with one byte of another put over it: port 0xCF9 inside PCI's 0xCF8 to 0xCFF.

    Only accesses of exactly that byte go to `byte`; wider ones belong to `base`, as on the real bus.
    """

    def __init__(self, base: BusTarget, offset: int, byte: BusTarget) -> None:
        self._base = base
        self._offset = offset
        self._byte = byte

    def read(self, offset: int, size: int) -> int:
        if offset == self._offset and size == 1:
            return self._byte.read(0, 1)
        return self._base.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == self._offset and size == 1:
            self._byte.write(0, 1, value)
        else:
            self._base.write(offset, size, value)
