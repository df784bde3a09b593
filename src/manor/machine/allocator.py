"""Hands out what devices do not choose for themselves: PCI slots. The same spec always gives the same machine."""

from __future__ import annotations

from manor.base.errors import ConfigError
from manor.devices.pci.host import SLOT_COUNT


class SlotAllocator:
    """Slots of PCI bus 0, in order. Slot 0 is the host bridge's."""

    def __init__(self) -> None:
        self._next = 1

    def take(self, name: str) -> int:
        """The next free slot, for the device `name`. Raises ConfigError when all are taken."""
        if self._next >= SLOT_COUNT:
            raise ConfigError("devices", f"no PCI slot is left for {name}; bus 0 has {SLOT_COUNT}")
        slot = self._next
        self._next += 1
        return slot
