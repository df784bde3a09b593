"""Who is on the cable: MAC addresses by IP address, from ARP, neighbour discovery and what frames say; and who is
being looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from manor.base.clock import SECOND

MAX_NEIGHBOURS: Final = 256
MAX_SOUGHT: Final = 64
MAX_CALLS: Final = 16
"""Waiting for one neighbour; the newer ones are dropped, as a packet queue would."""
TRIES: Final = 16
INTERVAL: Final = SECOND
"""RFC 4861, 10: RETRANS_TIMER. More tries than its three: a guest that boots is worth waiting for."""

Found = Callable[[bytes], None]


@dataclass(slots=True)
class _Sought:
    deadline: int
    tries: int = 1
    calls: list[Found] = field(default_factory=list)


class Neighbours:
    """ask: sends an ARP request or a neighbour solicitation for an address. on_change: an address is new."""

    def __init__(self, ask: Callable[[bytes], None], on_change: Callable[[], None]) -> None:
        self._ask = ask
        self._on_change = on_change
        self._macs: dict[bytes, bytes] = {}
        self._sought: dict[bytes, _Sought] = {}

    def learn(self, address: bytes, mac: bytes) -> None:
        """`address` is at `mac`."""
        if self._macs.get(address) == mac:
            return
        is_new = address not in self._macs
        if is_new and len(self._macs) >= MAX_NEIGHBOURS:
            del self._macs[next(iter(self._macs))]
        self._macs[address] = mac
        if is_new:
            self._on_change()
        sought = self._sought.pop(address, None)
        if sought is not None:
            for call in sought.calls:
                call(mac)

    def gone(self, address: bytes) -> None:
        """Nobody has `address` any more."""
        self._macs.pop(address, None)

    def get(self, address: bytes) -> bytes | None:
        return self._macs.get(address)

    def addresses(self) -> list[bytes]:
        return list(self._macs)

    def seek(self, address: bytes, found: Found, now: int) -> None:
        """Call `found` with the MAC once it is known; never, if nobody answers."""
        sought = self._sought.get(address)
        if sought is None:
            if len(self._sought) >= MAX_SOUGHT:
                del self._sought[next(iter(self._sought))]
            sought = self._sought[address] = _Sought(now + INTERVAL)
            self._ask(address)
        if len(sought.calls) < MAX_CALLS:
            sought.calls.append(found)

    def expire(self, now: int) -> None:
        """Ask again for those who did not answer, or give them up."""
        for address, sought in list(self._sought.items()):
            if sought.deadline > now:
                continue
            if sought.tries >= TRIES:
                del self._sought[address]
                continue
            sought.tries += 1
            sought.deadline = now + INTERVAL
            self._ask(address)

    @property
    def deadline(self) -> int | None:
        if not self._sought:
            return None
        return min(sought.deadline for sought in self._sought.values())

    def forget(self) -> None:
        """A new machine is on the cable."""
        self._macs.clear()
        self._sought.clear()
        self._on_change()
