"""Where file systems are written to and read from: flat ranges of bytes."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol

from manor.base.errors import ProtocolError


class Sink(Protocol):
    """What an image is written into. Ranges nobody writes read as zeros."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` at `offset` bytes."""


class Source(Protocol):
    """What an image is read from."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes at `offset`. Raises ProtocolError for a range that is not inside."""


class ImageFile:
    """A sparse file that is both. Raises OSError if the host refuses. Thread: one."""

    def __init__(self, path: Path, *, size: int | None = None) -> None:
        """size: create the file (replacing one) with that many zero bytes; None opens an existing one for reading."""
        flags = os.O_RDONLY if size is None else os.O_RDWR | os.O_CREAT | os.O_TRUNC
        self._descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        if size is not None:
            os.ftruncate(self._descriptor, size)
        self._size = os.lseek(self._descriptor, 0, os.SEEK_END)

    @property
    def size(self) -> int:
        return self._size

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._descriptor, view, offset)
            view, offset = view[done:], offset + done

    def read(self, offset: int, size: int) -> bytes:
        check_range(self, offset, size)
        parts = []
        while size:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                raise ProtocolError("the image is shorter than it was", offset)
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class MemoryImage:
    """An image in memory, for small ones and for tests."""

    def __init__(self, data: bytes | bytearray | int) -> None:
        """data: the contents, or a size in bytes."""
        self.data = bytearray(data)

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if not 0 <= offset <= len(self.data) - len(data):
            raise ValueError(f"{len(data)} bytes at {offset} are not inside the image")
        self.data[offset : offset + len(data)] = data

    def read(self, offset: int, size: int) -> bytes:
        check_range(self, offset, size)
        return bytes(self.data[offset : offset + size])


class SinkWindow:
    """The range of a sink that a partition is, with offsets of its own."""

    def __init__(self, sink: Sink, start: int, size: int) -> None:
        self._sink = sink
        self._start = start
        self._size = size

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if not 0 <= offset <= self._size - len(data):
            raise ValueError(f"{len(data)} bytes at {offset} are not inside the partition")
        self._sink.write(self._start + offset, data)


class SourceWindow:
    """The range of a source that a partition is, with offsets of its own. Raises ProtocolError if it is not inside."""

    def __init__(self, source: Source, start: int, size: int) -> None:
        if not 0 <= start <= start + size <= source.size:
            raise ProtocolError(f"a range of {size} bytes is not inside the disk", start)
        self._source = source
        self._start = start
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        check_range(self, offset, size)
        return self._source.read(self._start + offset, size)


def check_range(source: Source, offset: int, size: int) -> None:
    """Raises ProtocolError unless `size` bytes at `offset` are inside `source`."""
    if min(offset, size) < 0 or offset + size > source.size:
        raise ProtocolError(f"{size} bytes are not inside the image", offset)
