"""Parts of FUSE messages: strings, layouts, answers with a bounded size."""

from __future__ import annotations

import errno
import struct

from manor.backends.share import fuse
from manor.backends.share.fuse import Opcode
from manor.backends.share.tree import Refused


def sized(value: bytes, size: int, room: int) -> bytes:
    """Only the size if the guest asks for that with a size of 0."""
    if size == 0:
        return fuse.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > min(size, room):
        raise Refused(errno.ERANGE)
    return value


def unpack(layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    """The fields at the beginning of `body`. Raises Refused if it is too short."""
    if len(body) < layout.size:
        raise Refused(errno.EINVAL)
    return layout.unpack_from(body)


def string(body: bytes) -> bytes:
    """The one string that is all of `body`, without its zero. Raises Refused."""
    return strings(body, 1)[0]


def strings(body: bytes, count: int) -> list[bytes]:
    """So many strings, each with its zero."""
    parts = body.split(b"\0")
    if len(parts) != count + 1 or parts[-1]:
        raise Refused(errno.EINVAL)
    return parts[:count]


def answer(unique: int, failure: int, result: bytes, room: int) -> bytes:
    """Header and result; failure: an error number, or 0. b"" if there is not even room for the header."""
    if room < fuse.OUT_HEADER.size:
        return b""
    if fuse.OUT_HEADER.size + len(result) > room:
        failure, result = errno.EIO, b""
    if failure:
        result = b""
    return fuse.OUT_HEADER.pack(fuse.OUT_HEADER.size + len(result), -failure, unique) + result


def opcode_name(opcode: int) -> str:
    """For traces."""
    return Opcode(opcode).name.lower() if opcode in Opcode.__members__.values() else str(opcode)
