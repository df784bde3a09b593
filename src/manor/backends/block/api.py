"""What a disk device, a converter or a server expects of an image, whatever its format.

A backend is a flat array of bytes. Every method blocks until done and may be called by several threads at once; two
overlapping calls at the same time have no defined order, as on a real disk. Nobody calls one with the machine lock
held, but for `read_nowait`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from manor.base.errors import ManorError

Buffers = Sequence[memoryview]
"""Pieces laid end to end. They may be guest memory, which changes at any moment: read each byte once."""


class BlockError(ManorError):
    """An operation failed; what was before it is intact. reason: what a device reports to its guest."""

    def __init__(self, message: str, reason: Literal["io", "no-space", "read-only", "unsupported"] = "io") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of an image with one answer to "what is here".

    kind: "data"; "zero" reads as zeros by a mark in some layer, or is set aside there and a hole of its file; "hole" is
    allocated in no layer and reads as zeros.
    depth: how many images up the backing chain it was found; 0 is the image itself.
    file_offset: where the bytes are in the layer's file, if they are there as they are (not compressed or encrypted).
    """

    offset: int
    size: int
    kind: Literal["data", "zero", "hole"]
    depth: int = 0
    file_offset: int | None = None


DetailValue = str | int | bool | tuple[str, ...]


@runtime_checkable
class Described(Protocol):
    """A backend that can say more of its format. cluster_size: its unit of allocation in bytes, None without."""

    cluster_size: int | None
    details: Mapping[str, DetailValue]


class BlockBackend(Protocol):
    """One open image. Offsets and sizes are bytes; callers stay inside `size`."""

    @property
    def size(self) -> int:
        """The guest's view of the disk; changes by `resize` alone."""

    @property
    def is_read_only(self) -> bool: ...

    @property
    def name(self) -> str:
        """The file or URI, for messages."""

    def read(self, offset: int, buffers: Buffers) -> None:
        """Fill `buffers`. Raises BlockError."""

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        """Fill `buffers` if that needs no waiting for a medium; False (contents undefined) if it would."""

    def write(self, offset: int, buffers: Buffers) -> None:
        """Write `buffers`; on the medium only after a later `flush`. Raises BlockError."""

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        """Make the range read as zeros; may_unmap: and give its space back where the format can."""

    def discard(self, offset: int, size: int) -> None:
        """The guest needs the range no more. It reads as zeros or as before, never as another's data."""

    def flush(self) -> None:
        """Return when all writes that returned before are on the medium. Raises BlockError, and again on each later
        call if the medium lost a write: what was not written cannot be flushed by trying again."""

    def resize(self, size: int) -> None:
        """Grow, with zeros, or shrink. Raises BlockError if the format or the file cannot."""

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        """What is in the range, in order, without gaps; neighbours may be alike."""

    def close(self) -> None:
        """Flush, release locks and descriptors. Nothing happens the second time."""
