"""CRC-32C, the checksum of ext4's metadata.

Source: RFC 3720 section 12.1 and appendix B.4 (Castagnoli polynomial, reflected 0x82F63B78). As ext4 uses it, neither
the start value nor the result is inverted here.

Metadata is mostly zeros, so a run of trailing zeros is not walked through: it is one linear map of the register.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Final

_POLYNOMIAL: Final = 0x82F63B78


def crc32c(crc: int, data: bytes | bytearray | memoryview) -> int:
    """The register after `data`, from the register `crc` before it."""
    data = bytes(data)
    used = data.rstrip(b"\0")
    zeros = len(data) - len(used)
    if len(used) % 2:
        if zeros:
            used += b"\0"
            zeros -= 1
        else:
            crc = _bytes_table()[(crc ^ used[0]) & 0xFF] ^ crc >> 8
            used = used[1:]
    table = _words_table()
    words = memoryview(used).cast("H")
    if sys.byteorder == "big":
        words = memoryview(b"".join(used[i : i + 2][::-1] for i in range(0, len(used), 2))).cast("H")
    for word in words:
        crc = table[(crc ^ word) & 0xFFFF] ^ crc >> 16
    return _after_zeros(crc, zeros) if zeros else crc


@cache
def _bytes_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


@cache
def _words_table() -> list[int]:
    """The same for two bytes at once."""
    table = _bytes_table()
    return [table[low_done & 0xFF] ^ low_done >> 8 for low_done in (table[w & 0xFF] ^ w >> 8 for w in range(0x10000))]


def _after_zeros(crc: int, count: int) -> int:
    """The register after `count` zero bytes: square and multiply over the powers of two."""
    power = 0
    while count:
        if count & 1:
            low, second, third, high = _zeros_tables(power)
            crc = low[crc & 0xFF] ^ second[crc >> 8 & 0xFF] ^ third[crc >> 16 & 0xFF] ^ high[crc >> 24]
        count >>= 1
        power += 1
    return crc


@cache
def _zeros_tables(power: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """The linear map of 2**power zero bytes, as one table for each byte of the register."""
    if power == 0:
        table = _bytes_table()
        columns = [table[1 << bit & 0xFF] ^ (1 << bit) >> 8 for bit in range(32)]
    else:
        half = 1 << power - 1
        columns = [_after_zeros(_after_zeros(1 << bit, half), half) for bit in range(32)]
    tables = []
    for start in range(0, 32, 8):
        values = [0] * 256
        for bit in range(8):
            for low in range(1 << bit):
                values[1 << bit | low] = values[low] ^ columns[start + bit]
        tables.append(values)
    return tables[0], tables[1], tables[2], tables[3]
