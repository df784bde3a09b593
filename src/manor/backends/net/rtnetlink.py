"""Two requests to the kernel that no ioctl makes: create a macvtap, delete an interface.

Source: rtnetlink(7), netlink(7); Linux include/uapi/linux/netlink.h, rtnetlink.h, if_link.h.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

_NETLINK_ROUTE: Final = 0
_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_EXCL: Final = 0x200
_NLM_F_CREATE: Final = 0x400
_NLMSG_ERROR: Final = 2
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_LINK: Final = 5
_IFLA_LINKINFO: Final = 18
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_IFLA_MACVLAN_MODE: Final = 1
_MACVLAN_MODE_BRIDGE: Final = 4
"""Guests on the same lower interface see each other."""

_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_TIMEOUT_S: Final = 5.0


def add_macvtap(name: str, lower: int, mac: bytes, mtu: int) -> None:
    """Create the macvtap `name` on the interface with index `lower`. Raises OSError."""
    add_link(name, "macvtap", lower, mac, mtu, attribute(_IFLA_MACVLAN_MODE, struct.pack("=I", _MACVLAN_MODE_BRIDGE)))


def add_link(name: str, kind: str, lower: int, mac: bytes, mtu: int, data: bytes) -> None:
    """Create an interface of that kind on top of another. data: the kind's own attributes. Raises OSError."""
    info = attribute(_IFLA_INFO_KIND, kind.encode() + b"\0") + attribute(_IFLA_INFO_DATA, data)
    _request(
        _RTM_NEWLINK,
        _NLM_F_CREATE | _NLM_F_EXCL,
        _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        + attribute(_IFLA_LINK, struct.pack("=I", lower))
        + attribute(_IFLA_ADDRESS, mac)
        + attribute(_IFLA_MTU, struct.pack("=I", mtu))
        + attribute(_IFLA_LINKINFO, info),
    )


def delete_link(name: str) -> None:
    """Delete an interface. Raises OSError."""
    _request(_RTM_DELLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(name), 0, 0))


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    size = 4 + len(data)
    return struct.pack("=HH", size, kind) + data + bytes(-size % 4)


def _request(kind: int, flags: int, body: bytes) -> None:
    """Send one message and wait for the kernel's answer to it."""
    header = _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.bind((0, 0))
        kernel.send(header + body)
        answer = kernel.recv(65536)
    _, answered, _, _, _ = _HEADER.unpack_from(answer)
    if answered == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if code:
            raise OSError(-code, os.strerror(-code))
