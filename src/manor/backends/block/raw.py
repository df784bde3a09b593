"""Raw images: the disk's bytes as they are, in a file or on a block device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from manor.backends.block.api import BlockError, Buffers, Extent
from manor.backends.block.buffers import cut, join, total
from manor.backends.block.file import File
from manor.backends.block.probe import PROBE_SIZE, probe

if TYPE_CHECKING:
    from manor.backends.block.open import Context


class RawImage:
    """A `BlockBackend` over a `File`.

    was_probed: nobody said that the format is raw; the contents looked like nothing else. Then the guest must not be
    able to make them look like something else, because the next program that looks would open files of the host that
    the guest named. Writes to the first sectors that would do so are refused.
    """

    def __init__(self, file: File, *, was_probed: bool = False) -> None:
        self._file = file
        self.size = file.size()
        self._was_probed = was_probed
        self.read_nowait = file.read_nowait
        self.read = file.read
        self.flush = file.flush
        file.hold_size(self.size)

    @property
    def is_read_only(self) -> bool:
        return self._file.is_read_only

    @property
    def name(self) -> str:
        return self._file.name

    def write(self, offset: int, buffers: Buffers) -> None:
        if self._was_probed and offset < PROBE_SIZE:
            buffers = self._checked_head(offset, buffers)
        self._file.write(offset, buffers)

    def _checked_head(self, offset: int, buffers: Buffers) -> list[memoryview]:
        """A copy of what is written, once it is known to leave the image raw. The guest cannot change a copy."""
        count = min(PROBE_SIZE - offset, total(buffers))
        written = join(cut(buffers, 0, count))
        head = bytearray(min(PROBE_SIZE, self.size))
        self._file.read(0, [memoryview(head)])
        head[offset : offset + count] = written
        found = probe(head)
        if found != "raw":
            raise BlockError(
                f"{self.name}: the guest's write would make this disk look like a {found} image, whose"
                " contents could then"
                f" name other files; if it may do so, give the format as raw",
                "read-only",
            )
        return [memoryview(written), *cut(buffers, count, total(buffers) - count)]

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        if size:
            self._file.write_zeroes(offset, size, may_unmap)

    def discard(self, offset: int, size: int) -> None:
        if size:
            self._file.punch(offset, size)

    def resize(self, size: int) -> None:
        self._file.truncate(size)
        self.size = self._file.size()
        self._file.hold_size(self.size)

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        for start, count, is_data in self._file.extents(offset, size):
            yield Extent(start, count, "data" if is_data else "hole", 0, start)

    def close(self) -> None:
        self._file.close()


def open_raw(file: File, context: Context) -> RawImage:
    """The opener of format "raw"."""
    return RawImage(file, was_probed=context.options.format is None and not context.options.read_only)
