"""Decompressor for LZO1X in the container of `lzop`, one of the compressions a Linux kernel may have.

No library: the ones for Python are bindings to GPL code. In Python it takes two seconds for a kernel of 50 MB.

Source: Linux Documentation/staging/lzo.rst "LZO stream format as understood by Linux' LZO decompressor";
lzop 1.04 file format.
"""

from __future__ import annotations

import struct
from typing import Final

from manor.base.errors import ProtocolError

LZOP_MAGIC: Final = b"\x89LZO\x00\r\n\x1a\n"

_ADLER32_D: Final = 0x1
_ADLER32_C: Final = 0x2
_EXTRA_FIELD: Final = 0x40
_CRC32_D: Final = 0x100
_CRC32_C: Final = 0x200
_FILTER: Final = 0x800
_VERSION_WITH_LEVEL: Final = 0x0940


def decompress_lzop(data: bytes, limit: int) -> bytes:
    """The contents of an lzop stream, at most `limit` bytes. Raises ProtocolError."""
    if not data.startswith(LZOP_MAGIC):
        raise ProtocolError("not an lzop stream", 0)
    try:
        return _read_blocks(data, limit)
    except (struct.error, IndexError) as error:
        raise ProtocolError("the lzop stream is truncated") from error


def _read_blocks(data: bytes, limit: int) -> bytes:
    flags, position = _skip_header(data)
    result = bytearray()
    while True:
        (size,) = struct.unpack_from(">I", data, position)
        if size == 0:
            return bytes(result)
        (packed_size,) = struct.unpack_from(">I", data, position + 4)
        start = position
        position += 8 + 4 * bool(flags & _ADLER32_D) + 4 * bool(flags & _CRC32_D)
        if packed_size < size:
            position += 4 * bool(flags & _ADLER32_C) + 4 * bool(flags & _CRC32_C)
        if len(result) + size > limit or packed_size > size or position + packed_size > len(data):
            raise ProtocolError("an lzop block does not fit", start)
        block = data[position : position + packed_size]
        result += block if packed_size == size else decompress_block(block, size)
        position += packed_size


def _skip_header(data: bytes) -> tuple[int, int]:
    """Flags, and the position of the first block."""
    position = len(LZOP_MAGIC)
    (version,) = struct.unpack_from(">H", data, position)
    position += 4
    has_level = version >= _VERSION_WITH_LEVEL
    position += 2 + 1 + 1 if has_level else 1
    (flags,) = struct.unpack_from(">I", data, position)
    position += 4
    if flags & _FILTER:
        raise ProtocolError("lzop filters are not supported", position)
    position += 12 if has_level else 8
    position += 1 + data[position]
    position += 4
    if flags & _EXTRA_FIELD:
        (size,) = struct.unpack_from(">I", data, position)
        position += 8 + size
    return flags, position


def decompress_block(source: bytes, size: int) -> bytes:
    """One LZO1X block of exactly `size` bytes. Raises ProtocolError if it is damaged.

    `state`: how many literals followed the last instruction, 0 to 3, or 4 for "many" (see the source).
    """
    result = bytearray()
    position = 0
    state = 0
    try:
        if source[0] > 17:
            count = source[0] - 17
            result += source[1 : 1 + count]
            position = 1 + count
            state = min(count, 4)
        while len(result) <= size:
            instruction = source[position]
            position += 1
            if instruction >= 64:
                # 01LDDDSS HHHHHHHH: 3 to 4 bytes; 1LLDDDSS HHHHHHHH: 5 to 8 bytes; both within 2 KiB.
                length = (instruction >> 5) + 1
                distance = (source[position] << 3) + ((instruction >> 2) & 7) + 1
                position += 1
                state = instruction & 3
            elif instruction >= 32:
                # 001LLLLL, then a 14-bit distance and the state.
                length, position = _long_length(source, position, instruction & 31, 31)
                length += 2
                tail = source[position] | source[position + 1] << 8
                position += 2
                distance = (tail >> 2) + 1
                state = tail & 3
            elif instruction >= 16:
                # 0001HLLL: distances of 16 to 48 KiB; distance 16 KiB exactly is the end.
                length, position = _long_length(source, position, instruction & 7, 7)
                length += 2
                tail = source[position] | source[position + 1] << 8
                position += 2
                distance = 0x4000 + ((instruction & 8) << 11) + (tail >> 2)
                state = tail & 3
                if distance == 0x4000:
                    break
            elif state == 0:
                # 0000LLLL: a run of 4 or more literals.
                length, position = _long_length(source, position, instruction, 15)
                length += 3
                if position + length > len(source):
                    raise ProtocolError("LZO literals reach behind the end", position)
                result += source[position : position + length]
                position += length
                state = 4
                continue
            else:
                # 0000DDSS HHHHHHHH: 2 bytes within 1 KiB, or 3 bytes from 2 to 3 KiB after a long run.
                distance = (source[position] << 2) + (instruction >> 2) + 1
                length = 2
                if state == 4:
                    distance += 2048
                    length = 3
                position += 1
                state = instruction & 3
            if distance > len(result):
                raise ProtocolError("an LZO match starts before the data", position)
            start = len(result) - distance
            if distance >= length:
                result += result[start : start + length]
            else:
                # The match overlaps what it produces: its first `distance` bytes repeat.
                pattern = bytes(result[start:])
                result += (pattern * (length // distance + 1))[:length]
            result += source[position : position + state]
            position += state
    except IndexError as error:
        raise ProtocolError("the LZO block is truncated", position) from error
    if len(result) != size:
        raise ProtocolError(f"an LZO block has {len(result)} bytes instead of {size}", position)
    return bytes(result)


def _long_length(source: bytes, position: int, length: int, base: int) -> tuple[int, int]:
    """A length whose field is zero goes on in the next bytes: each zero adds 255, the last its value."""
    if length:
        return length, position
    length = base
    while source[position] == 0:
        length += 255
        position += 1
    return length + source[position], position + 1
