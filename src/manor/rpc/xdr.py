"""XDR, the encoding of the protocol's payloads: its limits, its errors, and what has no fixed size.

Everything is big-endian and a multiple of four bytes long. Strings are UTF-8 here, with bytes that are not UTF-8 kept
as surrogates; a NUL in one is refused both ways, as the C programs at the other end would cut the string there.
Source: RFC 4506, sections 4.9 to 4.12, 4.19.
"""

from __future__ import annotations

import struct

from manor.base.errors import ManorError, ProtocolError

PAYLOAD_MAX = 32 * 1024 * 1024
"""The longest payload that is decoded at all. Source: libvirt 9.0 refuses longer messages."""

STRING_MAX = 4 * 1024 * 1024
"""Bytes of a string or opaque value. Source: libvirt's limit for strings of the remote program."""

ARRAY_MAX = 16384
"""Elements of an array that states no limit of its own. Source: libvirt's limit for lists of the remote program."""

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
"""What follows an opaque value, by its size modulo four."""

UINT = struct.Struct(">I")


class EncodeError(ManorError):
    """A value of ours does not fit the protocol: a bug of the caller's, or a string or list beyond its limit."""


def encode_opaque(value: bytes, limit: int = STRING_MAX) -> bytes:
    """Size, bytes, padding. Raises EncodeError beyond `limit`."""
    size = len(value)
    if size > limit:
        raise EncodeError(f"{size} bytes, where the protocol allows {limit}")
    return b"".join((UINT.pack(size), value, PADDING[size & 3]))


def encode_string(value: str, limit: int = STRING_MAX) -> bytes:
    """As `encode_opaque`. Raises EncodeError for a NUL."""
    raw = value.encode("utf-8", "surrogateescape")
    if 0 in raw:
        raise EncodeError(f"a string must not contain NUL: {value[:40]!r}")
    return encode_opaque(raw, limit)


def decode_opaque(data: bytes, position: int, limit: int = STRING_MAX) -> tuple[bytes, int]:
    """(value, position after it). Raises ProtocolError if it exceeds `limit` or the data."""
    if position + 4 > len(data):
        raise ProtocolError("the payload ends in a size", position)
    (size,) = UINT.unpack_from(data, position)
    end = position + 4 + size
    if size > limit or end > len(data):
        refuse_size(size, limit, position)
    return data[position + 4 : end], end + (-size & 3)


def decode_string(data: bytes, position: int, limit: int = STRING_MAX) -> tuple[str, int]:
    """As `decode_opaque`. Raises ProtocolError for a NUL as well."""
    raw, end = decode_opaque(data, position, limit)
    if 0 in raw:
        refuse_nul(position)
    return raw.decode("utf-8", "surrogateescape"), end


def encode_chars(value: bytes) -> bytes:
    """Each byte as a signed char in four bytes. Source: RFC 4506, 4.1; libvirt's arrays of char."""
    if value.isascii():
        out = bytearray(4 * len(value))
        out[3::4] = value
        return bytes(out)
    return struct.pack(f">{len(value)}i", *(byte - 256 if byte > 127 else byte for byte in value))


def decode_chars(data: bytes, position: int, count: int) -> bytes:
    """The inverse: the low byte of each word. Raises ProtocolError beyond the data."""
    if position + 4 * count > len(data):
        refuse_size(count, STRING_MAX, position)
    return data[position + 3 : position + 4 * count : 4]


def encode_text(value: str, size: int | None) -> bytes:
    """A string in an array of char: `size` chars filled up with NUL, or with None as many as needed and their count.

    A string that is too long is cut so that a NUL remains: that is what C programs do with these arrays.
    """
    raw = value.encode("utf-8", "surrogateescape")
    if 0 in raw:
        raise EncodeError(f"a string must not contain NUL: {value[:40]!r}")
    if size is None:
        return UINT.pack(len(raw) + 1) + encode_chars(raw + b"\0")
    return encode_chars(raw[: size - 1].ljust(size, b"\0"))


def decode_text(data: bytes, position: int, count: int) -> str:
    """The string up to the first NUL of `count` chars."""
    return decode_chars(data, position, count).partition(b"\0")[0].decode("utf-8", "surrogateescape")


def refuse_size(size: int, limit: int, position: int) -> None:
    """Raise ProtocolError for a size or count that is beyond the limit or the data."""
    if size > limit:
        raise ProtocolError(f"{size} where the protocol allows {limit}", position)
    raise ProtocolError(f"{size} goes beyond the end of the payload", position)


def refuse_nul(position: int) -> None:
    """Raise ProtocolError for a string with a NUL in it."""
    raise ProtocolError("a string contains NUL", position)
