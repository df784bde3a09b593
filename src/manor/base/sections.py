"""A file of checked sections, for what must be whole or be refused: written under another name, then put in place.

    magic, version                          16 bytes
    (kind, size, checksum) payload          as often as there are sections
    (SEAL, size, checksum) count, digest, where the section before it begins

Integers are little-endian. A checksum is the CRC-32 of kind, size and payload; the seal's digest is the CRC-32 of all
checksums before it, and its count that of the sections; so a section that is missing, or stands twice, is found too.
That protects against damage, not against who writes such files on purpose: who reads one checks what is in it.

A reader holds one section at a time, of at most `MAX_SECTION` bytes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.base.errors import HostError, ProtocolError
from manor.base.files import sync_directory

MAX_SECTION: Final = 16 << 20
"""Bytes of a payload: bounds the memory that a damaged size can cost."""
_HEAD: Final = struct.Struct("<8sII")
_SECTION: Final = struct.Struct("<4sII")
_SEAL: Final = struct.Struct("<IIQ")
SEAL: Final = b"SEAL"


def _checksum(kind: bytes, size: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_SECTION.pack(kind, size, 0)))


def _open_own(path: Path) -> int:
    """A descriptor of a new file that only we can read, or of one that we left. In a folder of all users somebody may
    have made one of that name, to read what we write or to have us overwrite something. Raises OSError."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        descriptor = os.open(path, flags)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, f"{path} is somebody else's", os.fspath(path))
    os.fchmod(descriptor, 0o600)
    return descriptor


class SectionWriter:
    """Writes `path`: nobody sees it before `finish`. Thread: one. Raises HostError where the host refuses."""

    def __init__(self, path: Path, magic: bytes, version: int) -> None:
        """magic: 8 bytes. What another writer left that died is overwritten; one that lives is not disturbed."""
        self.path = path
        self.size = 0
        """Bytes written so far."""
        self._temporary = path.with_name(f".{path.name}.part")
        self._count = 0
        self._digest = 0
        self._last = 0
        if path.exists() and not path.is_file():
            raise HostError(f"{path} is there already, and is no file")
        try:
            self._fd = _open_own(self._temporary)
        except OSError as error:
            raise HostError.from_os_error(f"cannot write {path}", error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise HostError(f"{path} is being written by another process") from error
        try:
            os.ftruncate(self._fd, 0)
            self._write(_HEAD.pack(magic, version, 0))
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError):
                raise HostError.from_os_error(f"cannot write {path}", error) from error
            raise

    def add(self, kind: bytes, payload: bytes) -> None:
        """Append a section. payload: at most MAX_SECTION bytes."""
        if len(payload) > MAX_SECTION:
            raise ValueError(f"a section of {len(payload)} bytes")
        checksum = _checksum(kind, len(payload), payload)
        self._last = self.size
        try:
            self._write(_SECTION.pack(kind, len(payload), checksum))
            self._write(payload)
        except OSError as error:
            raise HostError.from_os_error(f"cannot write {self.path}", error) from error
        self._digest = zlib.crc32(checksum.to_bytes(4, "little"), self._digest)
        self._count += 1

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(data)

    def reserve(self, size: int) -> None:
        """Have what is written so far on the medium, and room for `size` bytes more and the seal, so that writing these
        hardly can fail."""
        try:
            os.posix_fallocate(self._fd, self.size, size + 2 * _SECTION.size + _SEAL.size)
            os.fsync(self._fd)
        except OSError as error:
            raise HostError.from_os_error(f"cannot write {self.path}", error) from error

    def finish(self) -> None:
        """Seal the file, and give it its name. It is on the medium then."""
        self.add(SEAL, _SEAL.pack(self._count, self._digest, self._last))
        try:
            os.ftruncate(self._fd, self.size)
            os.fsync(self._fd)
            os.rename(self._temporary, self.path)
            os.close(self._fd)
            self._fd = -1
            sync_directory(self.path.parent)
        except OSError as error:
            raise HostError.from_os_error(f"cannot write {self.path}", error) from error

    def abandon(self) -> None:
        """Leave nothing behind. Nothing happens after `finish`."""
        if self._fd >= 0:
            with suppress(OSError):
                os.unlink(self._temporary)
            os.close(self._fd)
            self._fd = -1


class SectionReader:
    """Reads such a file from its beginning. Thread: one. Raises HostError, and ProtocolError for what is none.

    Nothing that was read counts before `sections` has ended: only then the file is known to be whole.
    """

    def __init__(self, path: Path, magic: bytes, version: int, what: str) -> None:
        """what: such a file in words, for errors."""
        self.path = path
        self.done = 0
        """Bytes read so far."""
        self._what = what
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}", error.errno, str(path)) from error
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            head = self._file.read(_HEAD.size)
            if len(head) < _HEAD.size or head[:8] != magic:
                raise ProtocolError(f"{path} is not {what}")
            found = _HEAD.unpack(head)[1]
            if found != version:
                raise ProtocolError(
                    f"{path} is {what} of version {found}, this Manor reads version {version}; "
                    "use the Manor that wrote it"
                )
        except OSError as error:
            self.close()
            raise HostError.from_os_error(f"cannot read {path}", error) from error
        except ProtocolError:
            self.close()
            raise
        self.done = _HEAD.size

    def sections(self) -> Iterator[tuple[bytes, bytes]]:
        """Kind and payload of each section; ends after the seal, or raises ProtocolError."""
        count = digest = last = 0
        while True:
            begin = self.done
            kind, payload, checksum = self._next()
            if kind == SEAL:
                if payload != _SEAL.pack(count, digest, last):
                    raise self._damaged("sections are missing")
                if self._file.read(1):
                    raise self._damaged("it goes on behind its end")
                return
            last = begin
            digest = zlib.crc32(checksum.to_bytes(4, "little"), digest)
            count += 1
            yield kind, payload

    def last(self) -> tuple[bytes, bytes]:
        """Kind and payload of the section before the seal, without reading what is before it."""
        seal = _SECTION.size + _SEAL.size
        where, done = self._file.tell(), self.done
        try:
            self._seek(max(_HEAD.size, self.size - seal))
            kind, payload, _ = self._next()
            if kind != SEAL or len(payload) != _SEAL.size:
                raise self._damaged("it has no end")
            self._seek(min(_SEAL.unpack(payload)[2], self.size))
            kind, payload, _ = self._next()
        finally:
            self._seek(where)
            self.done = done
        return kind, payload

    def _seek(self, where: int) -> None:
        try:
            self._file.seek(where)
        except OSError as error:
            raise HostError.from_os_error(f"cannot read {self.path}", error) from error
        self.done = where

    def _next(self) -> tuple[bytes, bytes, int]:
        head = self._read(_SECTION.size)
        kind, size, checksum = _SECTION.unpack(head)
        if size > MAX_SECTION:
            raise self._damaged(f"a section of {size} bytes at {self.done - _SECTION.size:#x}")
        payload = self._read(size)
        if _checksum(kind, size, payload) != checksum:
            raise self._damaged(f"the checksum at {self.done - size - _SECTION.size:#x} is wrong")
        return kind, payload, checksum

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise HostError.from_os_error(f"cannot read {self.path}", error) from error
        self.done += len(data)
        if len(data) < size:
            raise self._damaged(f"it ends at {self.done:#x}, in the middle of a section")
        return data

    def _damaged(self, how: str) -> ProtocolError:
        return ProtocolError(f"{self.path} is damaged: {how}; it is of no use as {self._what}")

    def close(self) -> None:
        self._file.close()
