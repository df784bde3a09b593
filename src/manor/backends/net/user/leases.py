"""Addresses handed out to guests: the same one for the same machine, every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from manor.backends.net.user.plan import Plan

MAX_LEASES: Final = 64
"""Machines on one cable that get an address: the guest and what it bridges."""


@dataclass(slots=True)
class Lease:
    """mac: who has it. deadline: when it ends, ns; 0: offered or given back, but kept for its machine."""

    address: bytes
    mac: bytes
    hostname: str = ""
    deadline: int = 0


class Leases:
    """IPv4 leases by MAC. The first machine gets the plan's guest address, the next the ones behind it."""

    def __init__(self, plan: Plan) -> None:
        first = int.from_bytes(plan.guest, "big")
        last = int(plan.network.broadcast_address) - 1
        self._pool = [address.to_bytes(4, "big") for address in range(first, min(last, first + MAX_LEASES - 1) + 1)]
        self._leases: dict[bytes, Lease] = {}
        self._declined: set[bytes] = set()

    def get(self, mac: bytes) -> Lease | None:
        return self._leases.get(mac)

    def all(self) -> list[Lease]:
        return list(self._leases.values())

    def offer(self, mac: bytes, now: int, wanted: bytes = b"") -> Lease | None:
        """The lease of this machine, made if it has none; None if there is no address left."""
        lease = self._leases.get(mac)
        if lease is not None:
            return lease
        taken = {other.address: other for other in self._leases.values()}
        free = [address for address in self._pool if address not in taken and address not in self._declined]
        if wanted in free:
            address = wanted
        elif free:
            address = free[0]
        else:
            over = [lease for lease in self._leases.values() if lease.deadline <= now]
            if not over:
                return None
            oldest = min(over, key=lambda lease: lease.deadline)
            del self._leases[oldest.mac]
            address = oldest.address
        lease = self._leases[mac] = Lease(address, mac)
        return lease

    def decline(self, mac: bytes, address: bytes) -> None:
        """Somebody else on the cable uses `address`: do not hand it out again."""
        lease = self._leases.get(mac)
        if lease is not None and lease.address == address:
            del self._leases[mac]
            if len(self._declined) >= len(self._pool) // 2:
                self._declined.clear()  # a guest that declines everything shall not end without any
            self._declined.add(address)
