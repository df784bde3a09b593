"""Hot-plug controller: what arrived, what shall go, and the guest's word that something may go now.

The power button is here as well.

A device of our own; the DSDT's methods (boot/acpi_hotplug.py) are its driver, so guests need none of theirs.

`up` and `down` have a bit for each PCI slot of bus 0 and each vCPU; the interrupt line is asserted while any is set,
and the guest clears what it has seen. So nothing is lost that happens before a guest's kernel listens, and a guest that
never clears them only interrupts itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from manor.base.errors import SavedStateError
from manor.bus.irq import IrqLine
from manor.devices.device import Device
from manor.regs.access import RO, W1C, WO
from manor.regs.block import RegisterBlock
from manor.regs.field import Reg, RegisterTable
from manor.trace.event import declare, guest_error

SLOT_BITS: Final = 32
CPU_BITS: Final = 64
_WORD_BITS: Final = 32
_WORD: Final = (1 << _WORD_BITS) - 1

PCI_UP: Final = Reg("pci_up", 0x00, 32, W1C, stored=False, doc="slots whose device arrived; 1 acknowledges")
PCI_DOWN: Final = Reg("pci_down", 0x04, 32, W1C, stored=False, doc="slots whose device shall go; 1 acknowledges")
PCI_EJECT: Final = Reg("pci_eject", 0x08, 32, WO, stored=False, doc="slots whose device may be taken out")
BUTTON: Final = Reg("button", 0x0C, 32, W1C, stored=False, doc="bit 0: the power button was pressed; 1 acknowledges")
CPU_UP: Final = Reg("cpu_up", 0x10, 32, W1C, stored=False, count=2, stride=4, doc="vCPUs that arrived, by index")
CPU_DOWN: Final = Reg("cpu_down", 0x18, 32, W1C, stored=False, count=2, stride=4, doc="vCPUs that shall go")
CPU_EJECT: Final = Reg("cpu_eject", 0x20, 32, WO, stored=False, count=2, stride=4, doc="vCPUs that may be taken out")
CPU_KEPT: Final = Reg("cpu_kept", 0x28, 32, WO, stored=False, count=2, stride=4, doc="vCPUs that the guest keeps")
CPU_ENABLED: Final = Reg("cpu_enabled", 0x30, 32, RO, stored=False, count=2, stride=4, doc="vCPUs that are there")
HOTPLUG_TABLE: Final = RegisterTable(
    "hotplug", 0x38, (PCI_UP, PCI_DOWN, PCI_EJECT, BUTTON, CPU_UP, CPU_DOWN, CPU_EJECT, CPU_KEPT, CPU_ENABLED)
)

hotplug_slot = declare("hotplug_slot", slot=int, what=str)
hotplug_cpu = declare("hotplug_cpu", index=int, what=str)
power_button = declare("power_button", device=str)


@dataclass(frozen=True, slots=True)
class HotplugState:
    """Bits as in the registers."""

    pci_up: int
    pci_down: int
    cpu_up: int
    cpu_down: int
    cpu_enabled: int
    button: int = 0


class HotplugController(Device):
    """line: level-triggered. on_eject_slot: the guest gives back what is in a slot; on_eject_cpu, on_keep_cpu: it gives
    a vCPU back, or does not.

    Callbacks come on a vCPU's thread with the machine lock held, for any number that the guest likes: who gets them
    checks whether something is there.
    """

    def __init__(
        self,
        name: str,
        line: IrqLine,
        on_eject_slot: Callable[[int], None],
        on_eject_cpu: Callable[[int], None],
        on_keep_cpu: Callable[[int], None],
    ) -> None:
        self.name = name
        self._line = line
        self._on_eject_slot = on_eject_slot
        self._on_eject_cpu = on_eject_cpu
        self._on_keep_cpu = on_keep_cpu
        self.cpu_enabled = 0
        """A bit for each vCPU that is there; the machine's to set."""
        self.registers = RegisterBlock(HOTPLUG_TABLE, self, name)
        self._pci_up = self._pci_down = self._cpu_up = self._cpu_down = self._button = 0

    # --- from the machine -----------------------------------------------------------------------------------

    def slot_arrived(self, slot: int) -> None:
        """Tell the guest to look what is in a slot."""
        self._trace_slot(slot, "arrived")
        self._pci_down &= ~(1 << slot)
        self._pci_up |= 1 << slot
        self._update()

    def ask_slot(self, slot: int) -> None:
        """Ask the guest to give back what is in a slot."""
        self._trace_slot(slot, "asked")
        self._pci_down |= 1 << slot
        self._update()

    def slot_gone(self, slot: int) -> None:
        """Nothing is in the slot any more."""
        self._pci_up &= ~(1 << slot)
        self._pci_down &= ~(1 << slot)
        self._update()

    def cpu_arrived(self, index: int) -> None:
        """Tell the guest of one more vCPU."""
        self._trace_cpu(index, "arrived")
        self.cpu_enabled |= 1 << index
        self._cpu_down &= ~(1 << index)
        self._cpu_up |= 1 << index
        self._update()

    def ask_cpu(self, index: int) -> None:
        """Ask the guest to give a vCPU back."""
        self._trace_cpu(index, "asked")
        self._cpu_down |= 1 << index
        self._update()

    def cpu_gone(self, index: int) -> None:
        """The vCPU is not there any more."""
        self.cpu_enabled &= ~(1 << index)
        self._cpu_up &= ~(1 << index)
        self._cpu_down &= ~(1 << index)
        self._update()

    def press_button(self) -> None:
        """Press the power button: a guest that minds it shuts down, when it likes."""
        if power_button.on:
            power_button(self.name)
        self._button = 1
        self._update()

    def _update(self) -> None:
        self._line.set(bool(self._pci_up | self._pci_down | self._cpu_up | self._cpu_down | self._button))

    def _trace_slot(self, slot: int, what: str) -> None:
        if hotplug_slot.on:
            hotplug_slot(slot, what)

    def _trace_cpu(self, index: int, what: str) -> None:
        if hotplug_cpu.on:
            hotplug_cpu(index, what)

    # --- register hooks -------------------------------------------------------------------------------------

    def on_read_pci_up(self) -> int:
        return self._pci_up

    def on_write_pci_up(self, value: int) -> None:
        self._pci_up &= ~value
        self._update()

    def on_read_pci_down(self) -> int:
        return self._pci_down

    def on_write_pci_down(self, value: int) -> None:
        self._pci_down &= ~value
        self._update()

    def on_write_pci_eject(self, value: int) -> None:
        for slot in _bits(value):
            self._trace_slot(slot, "ejected")
            self._on_eject_slot(slot)

    def on_read_button(self) -> int:
        return self._button

    def on_write_button(self, value: int) -> None:
        self._button &= ~value
        self._update()

    def on_read_cpu_up(self, word: int) -> int:
        return self._cpu_up >> word * _WORD_BITS & _WORD

    def on_write_cpu_up(self, word: int, value: int) -> None:
        self._cpu_up &= ~(value << word * _WORD_BITS)
        self._update()

    def on_read_cpu_down(self, word: int) -> int:
        return self._cpu_down >> word * _WORD_BITS & _WORD

    def on_write_cpu_down(self, word: int, value: int) -> None:
        self._cpu_down &= ~(value << word * _WORD_BITS)
        self._update()

    def on_write_cpu_eject(self, word: int, value: int) -> None:
        for index in _bits(value << word * _WORD_BITS):
            self._trace_cpu(index, "ejected")
            self._on_eject_cpu(index)

    def on_write_cpu_kept(self, word: int, value: int) -> None:
        for index in _bits(value << word * _WORD_BITS):
            self._trace_cpu(index, "kept")
            self._on_keep_cpu(index)

    def on_read_cpu_enabled(self, word: int) -> int:
        return self.cpu_enabled >> word * _WORD_BITS & _WORD

    def report(self, message: str) -> None:
        """Trace a mistake of the guest."""
        if guest_error.on:
            guest_error(self.name, message)

    # --- lifecycle ------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Nothing is announced: a guest that starts sees what is there."""
        self._pci_up = self._pci_down = self._cpu_up = self._cpu_down = self._button = 0
        self._update()

    def save(self) -> HotplugState:
        return HotplugState(
            self._pci_up, self._pci_down, self._cpu_up, self._cpu_down, self.cpu_enabled, self._button
        )

    def load(self, state: object) -> None:
        if not isinstance(state, HotplugState):
            raise SavedStateError(self.name, "not a hot-plug controller")
        for field, value in asdict(state).items():
            limit = 1 << (1 if field == "button" else SLOT_BITS if field.startswith("pci") else CPU_BITS)
            if type(value) is not int or not 0 <= value < limit:
                raise SavedStateError(self.name, f"{field} is {value!r}")
        self._pci_up, self._pci_down = state.pci_up, state.pci_down
        self._cpu_up, self._cpu_down, self.cpu_enabled = state.cpu_up, state.cpu_down, state.cpu_enabled
        self._button = state.button
        self._update()


def _bits(value: int) -> list[int]:
    """Numbers of the bits that are set."""
    return [number for number in range(value.bit_length()) if value >> number & 1]
