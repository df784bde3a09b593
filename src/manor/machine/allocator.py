"""Hands out what devices do not choose for themselves: PCI slots. The same spec always gives the same machine."""

from __future__ import annotations

from collections.abc import Iterable

from manor.base.errors import ConfigError
from manor.devices.pci.host import SLOT_COUNT


class SlotAllocator:
    """Slots of PCI bus 0, in order. Slot 0 is the host bridge's."""

    def __init__(self, reserved: Iterable[int] = ()) -> None:
        """reserved: slots that are handed out only to who asks for that one."""
        self._reserved = set(reserved)
        self._used = {0}

    def take(self, name: str, wanted: int = 0) -> int:
        """A slot for the device `name`: the wanted one, or the next that is free.

        Raises ConfigError when all are taken, or the wanted one is.
        """
        if wanted:
            if not 0 < wanted < SLOT_COUNT or wanted in self._used:
                raise ConfigError("devices", f"PCI slot {wanted} is not free for {name}; let the machine choose")
            slot = wanted
        else:
            free = [slot for slot in range(SLOT_COUNT) if slot not in self._used | self._reserved]
            if not free:
                raise ConfigError("devices", f"no PCI slot is left for {name}; bus 0 has {SLOT_COUNT}")
            slot = free[0]
        self._used.add(slot)
        self._reserved.discard(slot)
        return slot

    def give_back(self, slot: int) -> None:
        """The slot is free again."""
        self._used.discard(slot)
