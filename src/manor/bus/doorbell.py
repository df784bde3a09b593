"""Doorbells: addresses where only the fact of a write counts, such as a virtqueue's notification address.

A target that has some says so; what is done about it is up to the machine. An accelerator may turn the write into an
eventfd that the I/O loop waits for, so that the vCPU goes on at once; without that, the write reaches the target as
any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Doorbell:
    """offset: from the start of the target. ring: what a write there does; machine lock held."""

    offset: int
    ring: Callable[[], None]


@runtime_checkable
class DoorbellTarget(Protocol):
    """A bus target with doorbells. The list does not change."""

    def doorbells(self) -> Sequence[Doorbell]: ...


class MapWatcher(Protocol):
    """Told what is put on a bus and taken off. Machine lock held."""

    def mapped(self, start: int, target: object) -> None: ...
    def unmapped(self, start: int) -> None: ...
