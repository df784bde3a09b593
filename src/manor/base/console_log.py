"""What a VM's serial console printed, in a file that does not grow without end, and by position.

    FILE          the latest output, as the guest printed it
    FILE.1        what was before it
    FILE.starts   {"inode of FILE or FILE.1": position of its first byte}, in JSON

Positions are bytes since the log began, over all runs of the VM. One process writes, any others read at any time: they
find a file by what it is, so that it does not matter what it is called at that moment.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from manor.base.errors import HostError

MAX_LOG: Final = 4 << 20
"""Bytes from which on the file becomes FILE.1 and a new one begins; so at most twice as much is kept."""
_TRIES: Final = 5
"""Looks at files that are being renamed just then."""


class ConsoleLog:
    """Appends to `path`. Thread: one, the I/O loop's. An error of the host ends the log, not the VM."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._size = 0
        self._start = 0
        self._open()

    def write(self, data: bytes) -> None:
        if self._descriptor < 0:
            return
        try:
            os.write(self._descriptor, data)
        except OSError:
            self.close()
            return
        self._size += len(data)
        if self._size >= MAX_LOG:
            self._rotate()

    def close(self) -> None:
        """End the log; nothing happens the second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            found = os.fstat(self._descriptor)
            starts = _starts(self._path)
            self._size, self._start = found.st_size, starts.get(found.st_ino, 0)
            if found.st_ino not in starts:
                # It is new: after a death in the middle of a rotation it begins behind what went before.
                self._start = self._end_of_old(starts)
                self._note({**starts, found.st_ino: self._start})
        except OSError:
            self.close()

    def _end_of_old(self, starts: dict[int, int]) -> int:
        with suppress(FileNotFoundError):
            found = self._path.with_name(f"{self._path.name}.1").stat()
            if found.st_ino in starts:
                return starts[found.st_ino] + found.st_size
        return 0

    def _rotate(self) -> None:
        """Begin a new file. Whatever step is the last that happens, readers know where each file begins."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            old = os.fstat(self._descriptor).st_ino
            self.close()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(fresh, flags, 0o600)
            start = self._start + self._size
            self._note({old: self._start, os.fstat(self._descriptor).st_ino: start})
            os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
            os.replace(fresh, self._path)
            self._size, self._start = 0, start
        except OSError:
            self.close()

    def _note(self, starts: dict[int, int]) -> None:
        # Without waiting for the disk: the VM's own loop is here, and a log is not worth a pause.
        path = _starts_path(self._path)
        made = path.with_name(f".{path.name}.tmp")
        made.write_bytes(json.dumps(starts).encode())
        os.replace(made, path)


class Piece(NamedTuple):
    """A part of a log. first: position of the oldest byte that is kept; start: of data; end: behind the latest byte."""

    first: int
    start: int
    end: int
    data: bytes


def read_log(path: Path, since: int, limit: int) -> Piece:
    """At most `limit` bytes from position `since`, or from so many before the end if it is negative.

    From the oldest byte that is kept if that is later. A log that is not there is empty. Raises HostError.
    """
    try:
        for _ in range(_TRIES):
            descriptors = _open_files(path)
            try:
                parts = _parts(path, descriptors)
                if parts is not None:
                    return _piece(parts, since, limit)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
    except OSError as error:
        raise HostError.from_os_error(f"reading {path}", error) from error
    raise HostError(f"{path} changes faster than it can be read; try again", file=str(path))


class _Part(NamedTuple):
    """A file of the log: positions of its first byte and behind its last."""

    start: int
    end: int
    descriptor: int


def _open_files(path: Path) -> list[int]:
    """FILE and FILE.1, as far as they are there."""
    found = []
    for name in (path, path.with_name(f"{path.name}.1")):
        with suppress(FileNotFoundError):
            found.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
    return found


def _parts(path: Path, descriptors: list[int]) -> list[_Part] | None:
    """The files in the order of positions; None if they were renamed between two looks."""
    starts = _starts(path)
    found = []
    for index, descriptor in enumerate(descriptors):
        status = os.fstat(descriptor)
        if status.st_ino in starts:
            start = starts[status.st_ino]
            found.append(_Part(start, start + status.st_size, descriptor))
        elif not starts and index == 0:
            found.append(_Part(0, status.st_size, descriptor))  # a log from before positions were written down
        elif index == 0:
            return None
    found.sort()
    while len(found) > 1 and found[0].end != found[1].start:
        found.pop(0)  # a part that does not meet the latest
    return found


def _piece(parts: list[_Part], since: int, limit: int) -> Piece:
    if not parts:
        return Piece(0, 0, 0, b"")
    first, end = parts[0].start, parts[-1].end
    start = max(first, min(end, end + since if since < 0 else since))
    data = b""
    for part in parts:
        at = start + len(data)
        if part.start <= at < part.end and len(data) < limit:
            data += os.pread(part.descriptor, min(limit - len(data), part.end - at), at - part.start)
    return Piece(first, start, end, data)


def _starts_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.starts")


def _starts(path: Path) -> dict[int, int]:
    """Inode -> position; empty if there is no list, or none that makes sense."""
    try:
        value = json.loads(_starts_path(path).read_bytes()[: 1 << 12])
        return {int(inode): int(start) for inode, start in value.items() if int(start) >= 0}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
