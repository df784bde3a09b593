"""Maps of CPUs: one bit each, lowest first, and how people write them."""

from __future__ import annotations

from collections.abc import Iterable

from manor.shell.errors import CommandError


def bits_of(raw: bytes, count: int) -> list[int]:
    """The numbers below `count` whose bits are set."""
    return [n for n in range(min(count, len(raw) * 8)) if raw[n // 8] >> n % 8 & 1]


def bytes_of(numbers: Iterable[int], count: int) -> bytes:
    """The map of `count` bits."""
    raw = bytearray((count + 7) // 8)
    for number in numbers:
        raw[number // 8] |= 1 << number % 8
    return bytes(raw)


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,5`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{low}-{high}" if low != high else str(low) for low, high in parts)


def parse_ranges(text: str, count: int) -> list[int]:
    """The numbers of `0-3,5,^2`, or `r` for all. Raises CommandError for what is none or is not below `count`."""
    if text == "r":
        return list(range(count))
    chosen: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().removeprefix("^").partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise CommandError(f"Invalid cpulist '{text}'")
        numbers = range(int(low), min(int(high or low), 65535) + 1)
        if part.strip().startswith("^"):
            chosen -= set(numbers)
        else:
            chosen |= set(numbers)
    if not chosen or (count and max(chosen) >= count):
        raise CommandError(f"Invalid cpulist '{text}'")
    return sorted(chosen)
