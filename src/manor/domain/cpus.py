"""Sets of processors, in libvirt's words: `0-3,^2,8`.

Source: libvirt, "Domain XML format", CPU Allocation, vcpu/@cpuset.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

MAX_CPU: Final = 16383
"""Highest number of a processor that is accepted; libvirt's own limit of a bitmap of processors."""
_ITEM: Final = re.compile(r"\s*(\^?)([0-9]{1,5})(?:-([0-9]{1,5}))?\s*", re.ASCII)


def parse_cpus(text: str) -> frozenset[int]:
    """Raises ValueError with what is wrong."""
    found: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if not match or (match[1] and match[3]):
            raise ValueError(f"{text[:60]!r} is no set of processors; write it like 0-3,^2,8")
        first = int(match[2])
        last = int(match[3] or first)
        if last < first or last > MAX_CPU:
            raise ValueError(f"{item.strip()!r} is no range of processors; numbers go to {MAX_CPU}")
        if match[1]:
            found.discard(first)
        else:
            found.update(range(first, last + 1))
    if not found:
        raise ValueError(f"{text[:60]!r} leaves no processor")
    return frozenset(found)


def show_cpus(cpus: Collection[int]) -> str:
    """The shortest way to write them."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def cpus_to_map(cpus: Collection[int], size: int) -> bytes:
    """A bitmap of `size` bytes, the lowest processor in the lowest bit; those beyond it are left out."""
    number = sum(1 << cpu for cpu in cpus if cpu < size * 8)
    return number.to_bytes(size, "little")


def map_to_cpus(raw: bytes) -> frozenset[int]:
    number = int.from_bytes(raw, "little")
    return frozenset(cpu for cpu in range(len(raw) * 8) if number >> cpu & 1)
