"""Address spaces as distinct types, and alignment.

Mixing a guest-physical with a guest-virtual address is a type error, not a run-time surprise.
"""

from __future__ import annotations

from typing import Final, NewType

Gpa = NewType("Gpa", int)
"""Guest-physical address."""
Gva = NewType("Gva", int)
"""Guest-virtual (linear) address."""
Hva = NewType("Hva", int)
"""Host-virtual address."""
Iova = NewType("Iova", int)
"""Device-visible address (what a DMA engine puts on the bus)."""
Port = NewType("Port", int)
"""x86 I/O port number, 0 to 0xFFFF."""

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
"""Smallest x86 page in bytes. Source: Intel SDM volume 3, 4.3."""


def is_aligned(value: int, alignment: int) -> bool:
    """Whether `value` is a multiple of `alignment`, a power of two."""
    return value & (alignment - 1) == 0


def align_down(value: int, alignment: int) -> int:
    """Round down to a multiple of `alignment`, a power of two."""
    _check_alignment(alignment)
    return value & -alignment


def align_up(value: int, alignment: int) -> int:
    """Round up to a multiple of `alignment`, a power of two."""
    _check_alignment(alignment)
    return (value + alignment - 1) & -alignment


def page_of(address: int) -> int:
    """Page frame number that contains `address`."""
    return address >> PAGE_SHIFT


def _check_alignment(alignment: int) -> None:
    if alignment <= 0 or alignment & (alignment - 1):
        raise ValueError(f"alignment {alignment} is not a power of two")
