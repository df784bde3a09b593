"""Read-only images: a format has to say where each range of the disk lies; reading and mapping follow from that."""

from __future__ import annotations

import struct
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from manor.backends.block.api import BlockBackend, BlockError, Buffers, Extent
from manor.backends.block.buffers import Cursor, total, zero_fill
from manor.backends.block.file import File
from manor.base.errors import ManorError

PAGE: Final = 64 << 10
MAX_PAGES: Final = 128
"""8 MiB of tables for one file: the map of 1 TiB in blocks of 1 MiB; larger maps are read again as they are needed."""

Where = Literal["file", "packed", "zero", "hole", "backing"]


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bytes of the disk that lie together.

    where: "file": as they are in `file` from `file_offset`; "packed": bytes from `start` of what is stored there
    compressed; "zero" by a mark of this image; "hole": here nothing was ever written; "backing": in the image below.
    """

    size: int
    where: Where
    file: File | None = None
    file_offset: int = 0
    start: int = 0


class Pages:
    """Integers of a file's tables, kept in a bounded number of pages. Any thread."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._size = file.size()
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def integer(self, position: int, layout: struct.Struct) -> int:
        """The integer of `layout` at `position`. Raises BlockError outside the file."""
        if position < 0 or position + layout.size > self._size:
            raise BlockError(
                f"{self._file.name}: a table entry at {position:#x} lies outside the file ({self._size} bytes);"
                " the image is damaged or was cut off"
            )
        page = position // PAGE
        # The page is immutable: it may be dropped from the cache while it is used.
        data = self._page(page)
        value: int = layout.unpack_from(data, position - page * PAGE)[0]
        return value

    def _page(self, page: int) -> bytes:
        with self._lock:
            data = self._pages.get(page)
            if data is not None:
                self._pages.move_to_end(page)
                return data
        # Some entries of a table may lie across a page's end where the table is not aligned: read eight bytes more.
        read = bytearray(PAGE + 8)
        self._file.read(page * PAGE, [memoryview(read)])
        data = bytes(read)
        with self._lock:
            self._pages[page] = data
            if len(self._pages) > MAX_PAGES:
                self._pages.popitem(last=False)
        return data


class MappedImage(ABC):
    """A read-only `BlockBackend` over `locate`. Owns its files and what backs it.

    cluster_size: the format's unit of allocation, None without. details: what is particular to the image, in the words
    of `qemu-img info`.
    """

    is_read_only: Final = True

    def __init__(
        self,
        name: str,
        size: int,
        files: Sequence[File],
        details: Mapping[str, str | int | bool],
        *,
        cluster_size: int | None = None,
        backing: BlockBackend | None = None,
    ) -> None:
        self.name = name
        self.size = size
        self.backing = backing
        self.cluster_size = cluster_size
        self.details = details
        self._files = tuple(files)
        self._sizes = {id(file): file.size() for file in self._files}

    @abstractmethod
    def locate(self, offset: int, size: int) -> Iterator[Piece]:
        """Where the range is: pieces in order, without gaps, `size` bytes in all. Raises BlockError."""

    def unpack(self, piece: Piece) -> bytes:
        """All that is stored compressed at a "packed" piece's place; at least start + size bytes. Raises BlockError."""
        raise NotImplementedError(f"{type(self).__name__} has no compressed pieces")

    def read(self, offset: int, buffers: Buffers) -> None:
        cursor = Cursor(buffers)
        for piece in merged(self.locate(offset, total(buffers))):
            target = cursor.take(piece.size)
            match piece.where:
                case "file":
                    self._file_of(piece).read(piece.file_offset, target)
                case "packed":
                    _scatter(self.unpack(piece), piece.start, target)
                case "backing":
                    self._read_backing(offset, piece.size, target)
                case _:
                    zero_fill(target)
            offset += piece.size

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        """Never: finding the place may need to read tables."""
        return False

    def _file_of(self, piece: Piece) -> File:
        """The file of a "file" piece, which must hold all of it: a file that was cut off does not read as zeros."""
        file = piece.file
        assert file is not None
        if piece.file_offset + piece.size > self._sizes[id(file)]:
            raise BlockError(
                f"{file.name}: data at {piece.file_offset:#x} lies outside the file ({self._sizes[id(file)]} bytes);"
                " the image is damaged or was cut off"
            )
        return file

    def _read_backing(self, offset: int, size: int, target: Buffers) -> None:
        held = min(size, max(0, self.backing.size - offset)) if self.backing is not None else 0
        cursor = Cursor(target)
        if held:
            assert self.backing is not None
            self.backing.read(offset, cursor.take(held))
        zero_fill(cursor.take(size - held))

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        for piece in merged(self.locate(offset, size)):
            match piece.where:
                case "file":
                    file = self._file_of(piece)
                    is_own = file is self._files[0]
                    start = piece.file_offset
                    for at, count, is_data in file.extents(start, piece.size):
                        yield Extent(
                            offset + at - start, count, "data" if is_data else "zero", 0, at if is_own else None
                        )
                case "packed":
                    yield Extent(offset, piece.size, "data")
                case "backing":
                    yield from self._backing_extents(offset, piece.size)
                case "zero":
                    yield Extent(offset, piece.size, "zero")
                case _:
                    yield Extent(offset, piece.size, "hole")
            offset += piece.size

    def _backing_extents(self, offset: int, size: int) -> Iterator[Extent]:
        held = min(size, max(0, self.backing.size - offset)) if self.backing is not None else 0
        if held:
            assert self.backing is not None
            for below in self.backing.extents(offset, held):
                yield Extent(below.offset, below.size, below.kind, below.depth + 1, below.file_offset)
        if size > held:
            yield Extent(offset + held, size - held, "hole")

    def _refuse(self) -> BlockError:
        return BlockError(
            f"{self.name}: Manor reads images of this format and does not write them; convert it to qcow2", "read-only"
        )

    def write(self, offset: int, buffers: Buffers) -> None:
        raise self._refuse()

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        raise self._refuse()

    def discard(self, offset: int, size: int) -> None:
        raise self._refuse()

    def resize(self, size: int) -> None:
        raise self._refuse()

    def flush(self) -> None:
        """Nothing was written."""
        return

    def close(self) -> None:
        close_all([*self._files, *([self.backing] if self.backing is not None else [])])


def close_all(owned: Sequence[File | BlockBackend]) -> None:
    """Close each, also if closing another one fails; then raise the first failure."""
    failure: ManorError | None = None
    for one in owned:
        try:
            one.close()
        except ManorError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def merged(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same, with neighbours that lie together as one."""
    last: Piece | None = None
    for piece in pieces:
        if last is None:
            last = piece
        elif _follows(last, piece):
            last = Piece(last.size + piece.size, last.where, last.file, last.file_offset)
        else:
            yield last
            last = piece
    if last is not None:
        yield last


def _follows(last: Piece, piece: Piece) -> bool:
    if last.where != piece.where or piece.where == "packed":
        return False
    return piece.where != "file" or (piece.file is last.file and piece.file_offset == last.file_offset + last.size)


def _scatter(data: bytes, start: int, target: Buffers) -> None:
    for part in target:
        part[:] = data[start : start + part.nbytes]
        start += part.nbytes


def read_exactly(file: File, position: int, size: int, what: str) -> bytes:
    """`size` bytes of the file's structures. Raises BlockError, naming `what`, where the file is too short."""
    if position < 0 or position + size > file.size():
        raise BlockError(
            f"{file.name}: the {what} at {position:#x} lies outside the file ({file.size()} bytes);"
            " the image is damaged or was cut off"
        )
    data = bytearray(size)
    file.read(position, [memoryview(data)])
    return bytes(data)
