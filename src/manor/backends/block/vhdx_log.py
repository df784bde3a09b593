"""The log of a VHDX: changes of its tables that the last writer promised and may not have made.

A reader makes them in memory. Source: MS-VHDX (revision 8.0), 2.3 "Log".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from manor.backends.block.api import Buffers
from manor.backends.block.buffers import total
from manor.backends.block.crc32c import crc32c
from manor.backends.block.file import File
from manor.backends.block.mapped import read_exactly
from manor.base.errors import ProtocolError

SECTOR: Final = 4096
MAX_LOG: Final = 64 << 20
"""Writers make logs of 1 MiB. The entries of a log are held in memory."""

_ENTRY: Final = struct.Struct("<4sIIIQII16sQQ")
"""signature, checksum, length, tail, sequence number, descriptors, reserved, log's GUID, file sizes (2.3.1.1)."""
_ZERO: Final = struct.Struct("<4sIQQQ")
"""signature, reserved, size, place, sequence number (2.3.1.2)."""
_DATA: Final = struct.Struct("<4sIQQQ")
"""signature, last 4 bytes, first 8 bytes, place, sequence number (2.3.1.3)."""
_SEQUENCE: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Change:
    """One promised change of the file. data: None for zeros."""

    offset: int
    size: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class _Entry:
    position: int
    length: int
    tail: int
    sequence: int
    flushed_size: int
    last_size: int
    changes: tuple[Change, ...]


class PatchedFile:
    """A read-only `File` that shows another one with changes made. Owns it."""

    is_read_only: Final = True

    def __init__(self, file: File, changes: list[Change], size: int) -> None:
        self._file = file
        self._changes = changes
        self._size = max([file.size(), size, *(change.offset + change.size for change in changes)])
        self._first = min((change.offset for change in changes), default=0)
        self._end = max((change.offset + change.size for change in changes), default=0)
        self.name = file.name
        self.identity = file.identity

    def size(self) -> int:
        return self._size

    def read(self, offset: int, buffers: Buffers) -> None:
        self._file.read(offset, buffers)
        end = offset + total(buffers)
        if end <= self._first or offset >= self._end:
            return
        for change in self._changes:
            if change.offset < end and offset < change.offset + change.size:
                _patch(buffers, offset, change)

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        return False

    def extents(self, offset: int, size: int) -> Iterator[tuple[int, int, bool]]:
        """All is data: changes may lie in the file's holes."""
        if size:
            yield offset, size, True

    def write(self, offset: int, buffers: Buffers) -> None:
        raise NotImplementedError("a patched file is read-only")

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        raise NotImplementedError("a patched file is read-only")

    def punch(self, offset: int, size: int) -> bool:
        return False

    def allocate(self, offset: int, size: int) -> None:
        raise NotImplementedError("a patched file is read-only")

    def truncate(self, size: int) -> None:
        raise NotImplementedError("a patched file is read-only")

    def hold_size(self, size: int) -> None:
        """Nothing is written."""

    def flush(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        self._file.close()


def _patch(buffers: Buffers, offset: int, change: Change) -> None:
    for piece in buffers:
        start = max(offset, change.offset)
        end = min(offset + piece.nbytes, change.offset + change.size)
        if start < end:
            at = start - change.offset
            data = bytes(end - start) if change.data is None else change.data[at : at + end - start]
            piece[start - offset : end - offset] = data
        offset += piece.nbytes


def replay(file: File, guid: bytes, position: int, length: int) -> File:
    """`file` with the changes of its log, the one of entries with `guid`; or `file` itself if there are none.

    Raises ProtocolError if the log cannot be what its writer left.
    """
    if length > MAX_LOG or length % SECTOR or position % SECTOR:
        raise ProtocolError(f"{file.name}: a log of {length} bytes at {position:#x} is not possible")
    log = read_exactly(file, position, length, "log")
    sequence = _active(_entries(log, guid), length)
    if not sequence:
        raise ProtocolError(
            f"{file.name}: the image was not closed and its log has no valid entry, so it is damaged; open it with the"
            " program that wrote it"
        )
    last = sequence[-1]
    if file.size() < last.flushed_size:
        raise ProtocolError(f"{file.name}: the file was cut off from {last.flushed_size} to {file.size()} bytes")
    changes = [change for entry in sequence for change in entry.changes]
    return PatchedFile(file, changes, last.last_size)


def _entries(log: bytes, guid: bytes) -> dict[int, _Entry]:
    """All valid entries by their position."""
    found: dict[int, _Entry] = {}
    for position in range(0, len(log), SECTOR):
        if log.startswith(b"loge", position):
            entry = _parse(log, position, guid)
            if entry is not None:
                found[position] = entry
    return found


def _active(entries: dict[int, _Entry], size: int) -> list[_Entry]:
    """The sequence to replay: of those whose last entry's tail is in them, the one that ends with the highest number.

    2.3.2 "Log Sequence": entries one after the other, round the log's end, with numbers that count up by one.
    """
    by_number = {entry.sequence: entry for entry in entries.values()}
    for head in sorted(entries.values(), key=lambda entry: -entry.sequence):
        sequence = [head]
        while sequence[0].position != head.tail and len(sequence) <= len(entries):
            before = by_number.get(sequence[0].sequence - 1)
            if before is None or not _is_before(before, sequence[0], size):
                break
            sequence.insert(0, before)
        if sequence[0].position == head.tail:
            return sequence
    return []


def _is_before(first: _Entry, second: _Entry, log_size: int) -> bool:
    """Whether `second` begins where `first` ends, round the end of the log."""
    return (first.position + first.length) % log_size == second.position


def _parse(log: bytes, position: int, guid: bytes) -> _Entry | None:
    """The entry at `position`, round the log's end; None if it is not valid."""
    _, stored, length, tail, sequence, count, _, log_guid, flushed, last = _ENTRY.unpack_from(log, position)
    if log_guid != guid or not SECTOR <= length <= len(log) or length % SECTOR or tail % SECTOR or sequence == 0:
        return None
    data = log[position : position + length]
    data += log[: length - len(data)]
    if stored != crc32c(data[:4] + bytes(4) + data[8:]):
        return None
    area = -(-(_ENTRY.size + count * _DATA.size) // SECTOR) * SECTOR
    if area > length:
        return None
    changes = _changes(data, count, area, sequence)
    if changes is None:
        return None
    return _Entry(position, length, tail, sequence, flushed, last, changes)


def _changes(data: bytes, count: int, area: int, sequence: int) -> tuple[Change, ...] | None:
    changes: list[Change] = []
    for index in range(count):
        at = _ENTRY.size + index * _DATA.size
        signature = data[at : at + 4]
        if signature == b"zero":
            _, _, size, place, number = _ZERO.unpack_from(data, at)
            changes.append(Change(place, size, None))
            is_valid = size % SECTOR == 0
        elif signature == b"desc":
            _, last, first, place, number = _DATA.unpack_from(data, at)
            sector = data[area : area + SECTOR]
            area += SECTOR
            # 2.3.1.4: each half of the number stands at one end, in place of 4 and 8 bytes of the data.
            is_valid = (
                len(sector) == SECTOR
                and sector.startswith(b"data")
                and _SEQUENCE.unpack_from(sector, 4)[0] == sequence >> 32
                and _SEQUENCE.unpack_from(sector, SECTOR - 4)[0] == sequence & 0xFFFF_FFFF
            )
            contents = first.to_bytes(8, "little") + sector[8:-4] + last.to_bytes(4, "little")
            changes.append(Change(place, SECTOR, contents))
        else:
            return None
        if not is_valid or number != sequence or place % SECTOR:
            return None
    return tuple(changes)
