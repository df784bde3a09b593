"""MAC addresses: as text, and the one that an interface gets when nobody chose it."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Final

_TEXT: Final = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")
_LOCAL: Final = 0x02
"""Locally administered, unicast: bits 1 and 0 of the first byte. Source: IEEE 802-2014, 8.4."""


def parse_mac(text: str) -> bytes:
    """Six bytes from text such as 52:54:00:12:34:56. Raises ValueError with what is wrong."""
    if not _TEXT.fullmatch(text):
        raise ValueError(f"{text!r} is not a MAC address; write six hexadecimal bytes, for example 52:54:00:12:34:56")
    mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if mac[0] & 1:
        raise ValueError(f"{text} is a multicast address; the first byte of an interface's own is even")
    if not any(mac):
        raise ValueError(f"{text} belongs to nobody; give another, or none to have one chosen")
    return mac


def show_mac(mac: bytes) -> str:
    return mac.hex(":")


def derive_mac(vm_name: str, position: int) -> bytes:
    """The address of the interface at `position` of the VM of that name: always the same one, as guests name
    interfaces and ask for leases by it. A VM without a name gets a random one, since others may have none either."""
    seed = hashlib.sha256(f"{vm_name}\0{position}".encode()).digest() if vm_name else os.urandom(5)
    return bytes([_LOCAL]) + seed[:5]
