"""The symbols that a Linux kernel carries in itself: found by what they look like, in the unpacked image.

Source: Linux, scripts/kallsyms.c (what is written, 6.1 to 6.12) and kernel/kallsyms.c (how it is read): names are
strings of bytes that stand for 256 tokens; `markers` has the place of every 256th name; addresses are offsets from a
base. No label says where the parts are, and versions order them differently; each is found by checks that random bytes
do not pass. Every name and number comes from a file that the user gives: all are bounded.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import Final

from manor.base.address import align_up
from manor.base.errors import ProtocolError

TOKENS: Final = 256
MARKED: Final = 256
"""Names between two markers."""
MAX_SYMBOLS: Final = 4 << 20
MIN_SYMBOLS: Final = 1000
"""The smallest Linux kernels have some thousands."""
_DIGITS: Final = b"".join(b"%d\0" % digit for digit in range(10))
"""A character that occurs in names stands for itself; digits are ten in a row."""
_ALIGNMENT: Final = 8
_KERNEL: Final = 0xFFFF_FFFF_8000_0000
"""Where the kernel is linked. Source: Linux, Documentation/arch/x86/x86_64/mm.rst."""


@dataclass(frozen=True, slots=True)
class Kallsyms:
    """addresses: of each name, in their order, which is ascending but for those of the per-CPU section."""

    addresses: list[int]
    names: list[str]


def find_kallsyms(image: bytes) -> Kallsyms:
    """The symbols in an unpacked kernel. Raises ProtocolError if there are none that this reader knows."""
    position = image.find(_DIGITS)
    while position >= 0:
        table = _find_tokens(image, position)
        if table is not None:
            return _read(image, *table)
        position = image.find(_DIGITS, position + 1)
    raise ProtocolError("the kernel has no symbols that are known how to read")


def _find_tokens(image: bytes, digits: int) -> tuple[int, int, list[bytes]] | None:
    """Start of the token table around `digits`, end of its index, and the tokens."""
    start = digits
    for _ in range(ord("0")):
        start = image.rfind(b"\0", 0, start - 1) + 1
    # The table begins at an aligned place; what is before it may be zeros, which looked like the end of a token.
    for begin in range(align_up(start, _ALIGNMENT), digits, _ALIGNMENT):
        tokens: list[bytes] = []
        end = begin
        for _ in range(TOKENS):
            following = image.find(b"\0", end, end + 512)
            if following < 0:
                break
            tokens.append(image[end:following])
            end = following + 1
        index = align_up(end, _ALIGNMENT)
        if len(tokens) == TOKENS and image[index : index + 2 * TOKENS] == _index_of(tokens):
            return begin, index + 2 * TOKENS, tokens
    return None


def _index_of(tokens: list[bytes]) -> bytes:
    offsets = array("H")
    offset = 0
    for token in tokens:
        offsets.append(offset & 0xFFFF)
        offset += len(token) + 1
    return offsets.tobytes()


def _read(image: bytes, table: int, index_end: int, tokens: list[bytes]) -> Kallsyms:
    for count_at in range(table - 2 * _ALIGNMENT, -1, -_ALIGNMENT):
        count, zero = struct.unpack_from("<II", image, count_at)
        if zero or not MIN_SYMBOLS <= count <= MAX_SYMBOLS:
            continue
        places = _walk(image, count_at + _ALIGNMENT, count, table)
        if places is None:
            continue
        for offsets_end in (count_at, None):
            addresses = _addresses(image, count, offsets_end, index_end)
            if addresses is not None:
                return Kallsyms(addresses, [_name(image, start, size, tokens) for start, size in places])
    raise ProtocolError("the kernel's symbols are of a form that is not known")


def _walk(image: bytes, start: int, count: int, limit: int) -> list[tuple[int, int]] | None:
    """(start, size) of each name, if there are `count`, with their markers behind them."""
    places: list[tuple[int, int]] = []
    position = start
    for _ in range(count):
        size = image[position]
        position += 1
        if size & 0x80:  # two bytes, since Linux 6.1
            size = size & 0x7F | image[position] << 7
            position += 1
        if size == 0 or position + size > limit:
            return None
        places.append((position, size))
        position += size
    markers = align_up(position, _ALIGNMENT)
    for number, place in enumerate(range(0, count, MARKED)):
        at = markers + 4 * number
        if at + 4 > limit or struct.unpack_from("<I", image, at)[0] != _entry(places, place) - start:
            return None
    return places


def _entry(places: list[tuple[int, int]], number: int) -> int:
    """Where an entry begins: its size included."""
    return places[number][0] - (2 if places[number][1] >= 0x80 else 1)


def _addresses(image: bytes, count: int, end: int | None, index_end: int) -> list[int] | None:
    """The offsets lie in front of the count (to Linux 6.3), which ends them, or behind the index of tokens."""
    if end is None:
        start = align_up(index_end, _ALIGNMENT)
        base_at = align_up(start + 4 * count, _ALIGNMENT)
    else:
        base_at = end - _ALIGNMENT
        start = base_at - align_up(4 * count, _ALIGNMENT)
    if start < 0 or base_at + 8 > len(image):
        return None
    (base,) = struct.unpack_from("<Q", image, base_at)
    if base < _KERNEL:
        return None
    offsets = array("i", image[start : start + 4 * count])
    if any(offset < 0 for offset in offsets):
        # those of the per-CPU section, which are not negative, are absolute
        return [offset if offset >= 0 else base - 1 - offset for offset in offsets]
    return [base + offset for offset in offsets]


def _name(image: bytes, start: int, size: int, tokens: list[bytes]) -> str:
    """The name without its first character, which tells its kind."""
    return b"".join(tokens[byte] for byte in image[start : start + size])[1:].decode("ascii", "replace")
