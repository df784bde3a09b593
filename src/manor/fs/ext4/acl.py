"""Access control lists: the kernel's interface has another form of them than ext4 on the disk.

Source: Linux, include/uapi/linux/posix_acl_xattr.h (version 2: tag, permissions and an id each) and fs/ext4/acl.h
(version 1: an id only for named users and groups).
"""

from __future__ import annotations

import struct
from typing import Final

from manor.base.errors import ConfigError, ProtocolError

INDICES: Final = (2, 3)
"""Name indices of posix_acl_access and posix_acl_default; their names are empty behind it."""
_HEAD: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_SHORT: Final = struct.Struct("<HH")
_INTERFACE, _DISK = 2, 1
_NAMED: Final = (0x02, 0x08)
"""Tags of a named user and a named group."""
_NOBODY: Final = 0xFFFF_FFFF


def to_disk(value: bytes) -> bytes:
    """The form on the disk. Raises ConfigError if `value` is no list as the kernel's interface has it."""
    if len(value) < _HEAD.size or (len(value) - _HEAD.size) % _ENTRY.size or _HEAD.unpack_from(value)[0] != _INTERFACE:
        raise ConfigError("", f"{value.hex()} is not an access control list")
    entries = [
        _ENTRY.pack(tag, permissions, number) if tag in _NAMED else _SHORT.pack(tag, permissions)
        for tag, permissions, number in _ENTRY.iter_unpack(value[_HEAD.size :])
    ]
    return _HEAD.pack(_DISK) + b"".join(entries)


def from_disk(value: bytes) -> bytes:
    """The form of the kernel's interface. Raises ProtocolError if `value` is no list as ext4 has it."""
    if len(value) < _HEAD.size or _HEAD.unpack_from(value)[0] != _DISK:
        raise ProtocolError("an access control list is damaged")
    entries = []
    at = _HEAD.size
    while at < len(value):
        if at + _SHORT.size > len(value):
            raise ProtocolError("an access control list is cut off")
        tag, permissions = _SHORT.unpack_from(value, at)
        at += _SHORT.size
        number = _NOBODY
        if tag in _NAMED:
            if at + 4 > len(value):
                raise ProtocolError("an access control list is cut off")
            (number,) = struct.unpack_from("<I", value, at)
            at += 4
        entries.append(_ENTRY.pack(tag, permissions, number))
    return _HEAD.pack(_INTERFACE) + b"".join(entries)
