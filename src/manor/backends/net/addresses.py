"""Learns the guest's addresses from what it says about itself, whatever the network.

Sources: RFC 826 (ARP; RFC 5227 for announcements and probes), RFC 4861, 4.3 and 4.4 (neighbour solicitation and
advertisement), RFC 4862, 5.4 (an address is probed from the unspecified one before it is used).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from manor.backends.net.api import Frame, NetBackend
from manor.backends.net.wrapper import NetWrapper

LIMIT: Final = 32
"""Addresses that are remembered, the last ones seen: a guest can invent as many as it likes."""
_ARP: Final = b"\x08\x06"
_IPV6: Final = b"\x86\xdd"
_ETHERNET_IPV4: Final = b"\x00\x01\x08\x00\x06\x04"
_ICMPV6: Final = 58
_NEIGHBOUR_ADVERTISEMENT: Final = 136
_SMALL: Final = 128
"""ARP and neighbour discovery come in small frames; larger ones are not looked at."""


class SeenAddresses:
    """IP addresses that machines name as their own in the frames they send, the latest last."""

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}

    def latest_first(self) -> list[bytes]:
        """4 or 16 bytes each."""
        return list(reversed(self._seen))

    def look(self, data: bytes) -> None:
        """Learn from a frame; most say nothing."""
        if len(data) > _SMALL:
            return
        ethertype = data[12:14]
        if ethertype == _ARP:
            # Hardware and protocol as here; the sender's protocol address is at 28. A probe's is 0.
            if len(data) >= 42 and data[14:20] == _ETHERNET_IPV4 and data[22:28] == data[6:12]:
                self._learn(data[28:32])
        elif ethertype == _IPV6 and len(data) >= 14 + 40 + 24 and data[20] == _ICMPV6 and data[21] == 255:
            # The target of an advertisement is the sender's own address (4.4); hop limit 255 says it did not travel.
            if data[54] == _NEIGHBOUR_ADVERTISEMENT:
                self._learn(data[62:78])
            elif 133 <= data[54] <= 135:
                self._learn(data[22:38])

    def _learn(self, address: bytes) -> None:
        if not any(address) or address[0] == 0xFF or (len(address) == 4 and address[0] >= 224):
            return
        self._seen.pop(address, None)
        self._seen[address] = None
        if len(self._seen) > LIMIT:
            del self._seen[next(iter(self._seen))]


class AddressWatch(NetWrapper):
    """mac: the interface's address at start; what its frames come from counts, a guest may change it."""

    def __init__(self, inner: NetBackend, mac: bytes) -> None:
        super().__init__(inner)
        self.mac = mac
        self._seen = SeenAddresses()

    def send(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self._seen.look(frame.data)
        self.inner.send(frames)

    def addresses(self) -> Sequence[str]:
        """The backend's own knowledge (a lease) first, then what was seen; the latest first."""
        seen = [str(ipaddress.ip_address(address)) for address in self._seen.latest_first()]
        return list(dict.fromkeys([*self.inner.addresses(), *seen]))
