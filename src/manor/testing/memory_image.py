"""A disk in memory, for tests of what stands above and beside it."""

from __future__ import annotations

from collections.abc import Iterator

from manor.backends.block.api import BlockError, Buffers, Extent


class MemoryImage:
    """A `BlockBackend` of bytes. failure: what every request raises from now on. log: what was called."""

    def __init__(self, size: int, *, read_only: bool = False) -> None:
        self.data = bytearray(size)
        self.is_read_only = read_only
        self.name = "memory"
        self.failure: BlockError | None = None
        self.log: list[tuple[str, int, int]] = []
        self.is_closed = False

    @property
    def size(self) -> int:
        return len(self.data)

    def _log(self, what: str, offset: int, size: int) -> None:
        self.log.append((what, offset, size))
        if self.failure is not None:
            raise self.failure

    def read(self, offset: int, buffers: Buffers) -> None:
        self._log("read", offset, sum(piece.nbytes for piece in buffers))
        for piece in buffers:
            piece[:] = self.data[offset : offset + piece.nbytes]
            offset += piece.nbytes

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        if self.failure is not None:
            return False
        self.read(offset, buffers)
        return True

    def write(self, offset: int, buffers: Buffers) -> None:
        self._log("write", offset, sum(piece.nbytes for piece in buffers))
        for piece in buffers:
            self.data[offset : offset + piece.nbytes] = piece
            offset += piece.nbytes

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        self._log("unmap" if may_unmap else "zero", offset, size)
        self.data[offset : offset + size] = bytes(size)

    def discard(self, offset: int, size: int) -> None:
        self._log("discard", offset, size)
        self.data[offset : offset + size] = bytes(size)

    def flush(self) -> None:
        self._log("flush", 0, 0)

    def resize(self, size: int) -> None:
        self.data[size:] = bytes(max(0, size - len(self.data)))

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        """Blocks of 4 KiB: data, or holes where all is zero; the second MiB is never a hole but zeros."""
        end = offset + size
        while offset < end:
            stop = min(end, offset // 4096 * 4096 + 4096)
            is_data = any(self.data[offset:stop])
            yield Extent(offset, stop - offset, "data" if is_data else "zero" if offset >> 20 == 1 else "hole")
            offset = stop

    def close(self) -> None:
        self.is_closed = True


