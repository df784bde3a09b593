"""Which frames a guest wants to see: receive mode, MAC table, VLAN table, as its driver set them.

Source: VIRTIO 1.2, 5.1.6.5.1 "Packet Receive Filtering", 5.1.6.5.2 "Setting MAC Address Filtering", 5.1.6.5.3 "VLAN
Filtering". Thread: machine lock held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BROADCAST: Final = b"\xff" * 6
TABLE_LIMIT: Final = 1024
"""Addresses of a table; from there on all of its kind pass, which is allowed ("imperfect filtering", 5.1.6.5.2)."""
VLAN_LIMIT: Final = 4096
"""IEEE 802.1Q-2018, 9.6: 12 bits."""
_TAG: Final = b"\x81\x00"


@dataclass(frozen=True, slots=True)
class FilterState:
    """modes: names of the switches that are on. Addresses as hex text, sorted."""

    modes: tuple[str, ...]
    unicast: tuple[str, ...] | None
    multicast: tuple[str, ...] | None
    vlans: tuple[int, ...]


MODES: Final = ("promiscuous", "all_multicast", "all_unicast", "no_multicast", "no_unicast", "no_broadcast")
"""Switches in the order of their commands (5.1.6.5.1)."""


class ReceiveFilter:
    """mac: the interface's own address, whose owner keeps it up to date."""

    def __init__(self, mac: bytes) -> None:
        self.mac = mac
        self.has_vlan_filter = False
        self.reset()

    def reset(self) -> None:
        """As after a reset: everything passes, since a driver without filters would never ask for it."""
        self.modes = {"promiscuous"}
        self.is_promiscuous = True
        self._unicast: frozenset[bytes] | None = frozenset()
        self._multicast: frozenset[bytes] | None = frozenset()
        self._vlans: set[int] = set()

    def switch(self, mode: str, is_on: bool) -> None:
        """Set one of MODES."""
        (self.modes.add if is_on else self.modes.discard)(mode)
        self.is_promiscuous = "promiscuous" in self.modes

    def set_tables(self, unicast: frozenset[bytes] | None, multicast: frozenset[bytes] | None) -> None:
        """None: all of that kind pass."""
        self._unicast, self._multicast = unicast, multicast

    def set_vlan(self, number: int, is_wanted: bool) -> None:
        (self._vlans.add if is_wanted else self._vlans.discard)(number)

    def wants(self, data: bytes) -> bool:
        """Whether a frame of at least 14 bytes passes."""
        if self.is_promiscuous:
            return True
        if self.has_vlan_filter and data[12:14] == _TAG:
            number = (data[14] << 8 | data[15]) & 0xFFF if len(data) >= 16 else 0
            # VLAN 0 is no VLAN: a frame with a priority alone (IEEE 802.1Q-2018, table 9-2).
            if number and number not in self._vlans:
                return False
        target = data[:6]
        modes = self.modes
        if not target[0] & 1:
            if "no_unicast" in modes:
                return False
            if target == self.mac or "all_unicast" in modes:
                return True
            return self._unicast is None or target in self._unicast
        if target == BROADCAST:
            return "no_broadcast" not in modes
        if "no_multicast" in modes:
            return False
        return "all_multicast" in modes or self._multicast is None or target in self._multicast

    def save(self) -> FilterState:
        return FilterState(
            modes=tuple(sorted(self.modes)),
            unicast=_texts(self._unicast),
            multicast=_texts(self._multicast),
            vlans=tuple(sorted(self._vlans)),
        )

    @staticmethod
    def problem(state: object) -> str | None:
        """What is wrong with a saved state, if anything."""
        if not isinstance(state, FilterState):
            return "not a receive filter"
        if type(state.modes) is not tuple or not set(state.modes) <= set(MODES):
            return f"receive modes {state.modes!r}"
        if not all(type(vlan) is int and 0 <= vlan < VLAN_LIMIT for vlan in state.vlans):
            return "VLAN numbers"
        for table in (state.unicast, state.multicast):
            if table is not None and not all(_is_mac_text(text) for text in table):
                return "MAC table"
        return None

    def load(self, state: FilterState) -> None:
        """Take over a saved state in which `problem` found nothing."""
        self.modes = set(state.modes)
        self.is_promiscuous = "promiscuous" in self.modes
        self._unicast, self._multicast = _addresses(state.unicast), _addresses(state.multicast)
        self._vlans = set(state.vlans)


def _texts(table: frozenset[bytes] | None) -> tuple[str, ...] | None:
    return None if table is None else tuple(sorted(address.hex() for address in table))


def _addresses(texts: tuple[str, ...] | None) -> frozenset[bytes] | None:
    return None if texts is None else frozenset(bytes.fromhex(text) for text in texts)


def _is_mac_text(text: object) -> bool:
    return isinstance(text, str) and len(text) == 12 and all(c in "0123456789abcdef" for c in text)
