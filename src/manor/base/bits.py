"""Bit tricks, in one place. Positions count from the least significant bit."""

from __future__ import annotations


def bit(position: int) -> int:
    """Integer with only bit `position` set."""
    return 1 << position


def mask(width: int, lsb: int = 0) -> int:
    """Integer with `width` ones, starting at bit `lsb`."""
    return ((1 << width) - 1) << lsb


def field(value: int, lsb: int, width: int) -> int:
    """Bits [lsb, lsb + width) of `value`."""
    return (value >> lsb) & ((1 << width) - 1)


def insert(value: int, lsb: int, width: int, part: int) -> int:
    """`value` with bits [lsb, lsb + width) replaced by `part` (truncated)."""
    ones = ((1 << width) - 1) << lsb
    return (value & ~ones) | ((part << lsb) & ones)


def is_set(value: int, position: int) -> bool:
    """Whether bit `position` of `value` is one."""
    return (value >> position) & 1 == 1


def sext(value: int, width: int) -> int:
    """Read the low `width` bits of `value` as a two's complement number."""
    sign = 1 << (width - 1)
    return ((value & ((1 << width) - 1)) ^ sign) - sign


def highest_bit(value: int) -> int:
    """Position of the most significant one, -1 for zero. `value` is not negative."""
    return value.bit_length() - 1


def lowest_bit(value: int) -> int:
    """Position of the least significant one, -1 for zero."""
    return (value & -value).bit_length() - 1
