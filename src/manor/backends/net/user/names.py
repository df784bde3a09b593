"""What machines on the network are called, and which addresses they have."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Final

from manor.backends.net.user.leases import Lease, Leases
from manor.backends.net.user.neighbours import Neighbours
from manor.backends.net.user.plan import Plan

OtherNames = Callable[[str], Sequence[bytes] | None]
"""Addresses of machines elsewhere by name, without the domain; None for a name that nobody has."""

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""RFC 1123, 2.1. A guest's hostname that is none names nobody."""


class GuestNames:
    """dns.Names out of the plan, the leases and the neighbours."""

    def __init__(self, plan: Plan, leases: Leases, neighbours: Neighbours, other_names: OtherNames) -> None:
        self._plan = plan
        self._leases = leases
        self._neighbours = neighbours
        self._other_names = other_names

    def addresses_of(self, name: str) -> Sequence[bytes] | None:
        """As dns.Names."""
        plan = self._plan
        if name == "gateway" or (name == "host" and plan.host_at_gateway and plan.reach != "none"):
            return [plan.gateway, plan.gateway6]
        if name == "dns":
            return [plan.dns, plan.dns6]
        for lease in self._leases.all():
            if name and self._name_of_lease(lease) == name:
                return [lease.address, *self._v6_of(lease.mac)]
        return self._other_names(name)

    def name_of(self, address: bytes) -> str | None:
        """As dns.Names."""
        plan = self._plan
        if address in (plan.gateway, plan.gateway6):
            return "gateway"
        if address in (plan.dns, plan.dns6):
            return "dns"
        for lease in self._leases.all():
            if lease.address == address or address in self._v6_of(lease.mac):
                return self._name_of_lease(lease) or None
        return None

    def guest_address(self, now: int) -> bytes:
        """The IPv4 address of the first guest: its lease, or what it would get."""
        leases = self._leases.all()
        active = [lease for lease in leases if lease.deadline > now] or leases
        return active[0].address if active else self._plan.guest

    def known(self, now: int) -> tuple[str, ...]:
        """Addresses of machines on the cable, as text, the leased ones first; no link-local ones."""
        found = [lease.address for lease in self._leases.all() if lease.deadline > now]
        found += [address for address in self._neighbours.addresses() if address[:2] != b"\xfe\x80"]
        return tuple(str(ipaddress.ip_address(address)) for address in dict.fromkeys(found))

    def _name_of_lease(self, lease: Lease) -> str:
        """The user's name for the first machine, its own for others; "" if it has none."""
        leases = self._leases.all()
        is_first = bool(leases) and leases[0] is lease
        hostname = self._plan.hostname if is_first and self._plan.hostname else lease.hostname
        name = hostname.lower().split(".")[0]
        return name if _LABEL.fullmatch(name) else ""

    def _v6_of(self, mac: bytes) -> list[bytes]:
        neighbours = self._neighbours
        return [
            address
            for address in neighbours.addresses()
            if len(address) == 16 and address[:8] == self._plan.prefix6 and neighbours.get(address) == mac
        ]
