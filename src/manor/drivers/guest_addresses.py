"""Addresses of a guest as its agent tells them."""

from __future__ import annotations

from manor.rpc.protocol.records import GuestInterface, IpAddress


def agent_interfaces(found: object) -> list[GuestInterface]:
    """From the answer to guest-network-get-interfaces, of which nothing is trusted."""
    rows = []
    for each in found if isinstance(found, list) else []:
        if not isinstance(each, dict):
            continue
        listed, hardware = each.get("ip-addresses"), each.get("hardware-address")
        addresses = [
            IpAddress(int(one.get("ip-address-type") == "ipv6"), str(one.get("ip-address")), _prefix(one.get("prefix")))
            for one in (listed if isinstance(listed, list) else [])
            if isinstance(one, dict)
        ]
        rows.append(
            GuestInterface(str(each.get("name", "")), hardware if isinstance(hardware, str) else None, addresses)
        )
    return rows


def _prefix(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value <= 128 else 0
