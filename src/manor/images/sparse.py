"""Copies of disks without their zeros: a hole in a file costs nothing and reads as zeros."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from manor.base.errors import HostError
from manor.base.units import format_size

PIECE: Final = 1 << 20
_BLOCK: Final = 1 << 16
"""Zeros are left out by as many bytes, aligned: file systems allocate no less than 4 KiB, and fewer holes are
faster."""
_ZEROS: Final = bytes(_BLOCK)


class SparseWriter:
    """Writes a file from its beginning, leaving out blocks of zeros. Removes what it wrote if the `with` block
    fails."""

    def __init__(self, path: Path, limit: int, purpose: str) -> None:
        """limit: bytes from which on it refuses. purpose: what is being done, for errors."""
        self.size = 0
        self._path = path
        self._limit = limit
        self._purpose = purpose
        self._pending = b""
        self._descriptor = -1

    def __enter__(self) -> SparseWriter:
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._refused(error) from error
        return self

    def write(self, data: bytes) -> None:
        """Append. Raises HostError if there is no room, or the limit is reached."""
        self.size += len(data)
        if self.size > self._limit:
            raise HostError(f"{self._purpose}: it is larger than {format_size(self._limit)}, which no disk here needs")
        data = self._pending + data
        whole = len(data) // _BLOCK * _BLOCK
        self._pending = data[whole:]
        self._put(data[:whole], self.size - len(self._pending) - whole)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._put(self._pending, self.size - len(self._pending))
                os.ftruncate(self._descriptor, self.size)
        except OSError as failure:
            error = failure
            raise self._refused(failure) from failure
        except HostError as failure:
            error = failure
            raise
        finally:
            os.close(self._descriptor)
            if error is not None:
                self._path.unlink(missing_ok=True)

    def _put(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        start = 0
        try:
            for end in range(_BLOCK, len(view) + _BLOCK, _BLOCK):
                block = view[end - _BLOCK : end]
                if block == _ZEROS[: len(block)]:
                    self._put_all(view[start : end - _BLOCK], offset + start)
                    start = end
            self._put_all(view[start:], offset + start)
        except OSError as error:
            raise self._refused(error) from error

    def _put_all(self, view: memoryview, offset: int) -> None:
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            view = view[count:]
            offset += count

    def _refused(self, error: OSError) -> HostError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return HostError(
                f"{self._purpose}: there is no room for it in {self._path.parent}; make room, or point "
                "XDG_DATA_HOME to another disk",
                error.errno,
                os.fspath(self._path),
            )
        return HostError(f"{self._purpose}: {error.strerror}", error.errno, os.fspath(self._path))


def copy_sparse(source: Path, target: Path, limit: int, progress: Callable[[int, int], None]) -> int:
    """Copy a file, holes and zeros as holes; returns its size. Raises HostError."""
    purpose = f"copying {source}"
    try:
        with source.open("rb", buffering=0) as file, SparseWriter(target, limit, purpose) as writer:
            total = os.fstat(file.fileno()).st_size
            while data := file.read(PIECE):
                writer.write(data)
                progress(writer.size, max(total, writer.size))
            return writer.size
    except OSError as error:
        raise HostError.from_os_error(purpose, error) from error
