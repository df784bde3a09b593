"""Who has which address on the user-mode network, and what of the world the guest may reach."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ConfigError
from manor.spec.net import Reach

GATEWAY_MAC: Final = bytes.fromhex("525500000202")
"""Locally administered (bit 1 of the first byte: IEEE 802-2014, 8.4)."""
DOMAIN: Final = "manor"


_NETWORK: Final = ipaddress.IPv4Network("10.0.2.0/24")


@dataclass(frozen=True, slots=True)
class Plan:
    """Addresses are 4 or 16 bytes. guest, guest6: what the first machine that asks gets.

    host_at_gateway: the gateway's addresses lead to the host's loopback.
    """

    network: ipaddress.IPv4Network = _NETWORK
    gateway: bytes = bytes((10, 0, 2, 2))
    dns: bytes = bytes((10, 0, 2, 3))
    guest: bytes = bytes((10, 0, 2, 15))
    prefix6: bytes = bytes.fromhex("fd00000000000000")
    mac: bytes = GATEWAY_MAC
    mtu: int = 1500
    reach: Reach = "all"
    host_at_gateway: bool = True
    hostname: str = ""

    @property
    def gateway6(self) -> bytes:
        return self.prefix6 + bytes.fromhex("0000000000000002")

    @property
    def dns6(self) -> bytes:
        return self.prefix6 + bytes.fromhex("0000000000000003")

    @property
    def guest6(self) -> bytes:
        return self.prefix6 + bytes.fromhex("0000000000000015")

    @property
    def link_local(self) -> bytes:
        """The gateway's link-local address, from which router advertisements come (RFC 4861, 4.2)."""
        return b"\xfe\x80" + bytes(6) + b"\x00\x00\x00\x00\x00\x00\x00\x02"

    def own(self) -> frozenset[bytes]:
        """Every address that is ours."""
        return frozenset((self.gateway, self.dns, self.gateway6, self.dns6, self.link_local))

    def is_local(self, address: bytes) -> bool:
        """Whether `address` is on the cable rather than beyond the gateway."""
        if len(address) == 4:
            return ipaddress.IPv4Address(address) in self.network
        return address[:8] == self.prefix6 or address[:2] == b"\xfe\x80"


def make_plan(
    network: str = "10.0.2.0/24",
    prefix6: str = "fd00::/64",
    *,
    mtu: int = 1500,
    reach: Reach = "all",
    host_at_gateway: bool = True,
    hostname: str = "",
) -> Plan:
    """A plan with the usual hosts: .2 the gateway, .3 the DNS, .15 the guest. Raises ConfigError."""
    try:
        net4 = ipaddress.IPv4Network(network)
        net6 = ipaddress.IPv6Network(prefix6)
    except ValueError as error:
        raise ConfigError("network", f"{error}; use for example 10.0.2.0/24 and fd00::/64") from error
    if not 8 <= net4.prefixlen <= 27:
        raise ConfigError("network", f"{network} has no room for the usual hosts; use a prefix length from 8 to 27")
    if net6.prefixlen != 64:
        raise ConfigError("prefix6", f"{prefix6}: addresses configure themselves in a /64 only (RFC 4862)")
    if not 1280 <= mtu <= 65521:
        raise ConfigError("mtu", f"{mtu} is not an MTU from 1280, which IPv6 needs, to 65521")
    base = int(net4.network_address)
    return Plan(
        network=net4,
        gateway=(base + 2).to_bytes(4, "big"),
        dns=(base + 3).to_bytes(4, "big"),
        guest=(base + 15).to_bytes(4, "big"),
        prefix6=net6.network_address.packed[:8],
        mtu=mtu,
        reach=reach,
        host_at_gateway=host_at_gateway,
        hostname=hostname,
    )


LOOPBACK4: Final = bytes((127, 0, 0, 1))
LOOPBACK6: Final = bytes(15) + b"\x01"


def host_address(plan: Plan, address: bytes) -> bytes | None:
    """Where on the host's side a packet for `address` goes; None if the guest may not reach it.

    The host's loopback has one door, the gateway's address. Addresses that a router does not forward are refused in
    every form: they would mean the host itself or its own link. Sources: RFC 6890 (special-purpose registries), RFC
    3927, 7 and RFC 4291, 2.5.6 (link-local), RFC 4291, 2.5.5 (IPv4 inside IPv6).
    """
    if plan.reach == "none":
        return None
    if address in (plan.gateway, plan.gateway6):
        if not plan.host_at_gateway:
            return None
        return LOOPBACK4 if len(address) == 4 else LOOPBACK6
    if plan.reach != "all" or plan.is_local(address):
        return None
    if len(address) == 4:
        first = address[0]
        if first in (0, 127) or first >= 224 or address[:2] == b"\xa9\xfe":
            return None
        return address
    if address[0] == 0xFF or address[:2] == b"\xfe\x80" or address[:2] == b"\xfe\xc0":
        return None
    if address[:8] == bytes(8):  # unspecified, loopback, IPv4-compatible, IPv4-mapped, and everything near them
        return None
    if address[:12] == _NAT64 and host_address(plan, address[12:]) != address[12:]:
        return None
    return address


_NAT64: Final = bytes.fromhex("0064ff9b") + bytes(8)
"""RFC 6052, 2.1: leads to the IPv4 address in its last four bytes."""
