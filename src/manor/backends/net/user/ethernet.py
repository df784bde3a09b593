"""Ethernet II headers. A frame here has no check sequence; addresses are 6 bytes."""

from __future__ import annotations

from typing import Final

HEADER: Final = 14
BROADCAST: Final = b"\xff" * 6

# EtherTypes: IANA, IEEE 802 Numbers.
IPV4: Final = b"\x08\x00"
ARP: Final = b"\x08\x06"
IPV6: Final = b"\x86\xdd"


def multicast_of(address: bytes) -> bytes:
    """The address to which an IPv6 multicast packet goes. Source: RFC 2464, 7."""
    return b"\x33\x33" + address[-4:]


def parse_mac(text: str) -> bytes:
    """`52:54:00:12:34:56` as bytes. Raises ValueError."""
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or not all(1 <= len(part) <= 2 for part in parts):
        raise ValueError(f"{text!r} is not a MAC address")
    return bytes(int(part, 16) for part in parts)


def show_mac(mac: bytes) -> str:
    return mac.hex(":")
