"""Reader for Debian binary packages.

Source: deb(5) "Debian binary package format" (deb 2.0); ar(5), common format.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import zstandard

from manor.base.errors import ProtocolError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER: Final = 60
_MAX_MEMBERS: Final = 16
"""debian-binary, control and data, plus room for the `_` members the format allows."""
_MAX_FILE: Final = 1 << 30
"""One file out of a package is read into memory; a kernel is two orders of magnitude smaller."""


def read_deb(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Contents of the regular files in the package whose name (no leading `./`) is `wanted`.

    Raises ProtocolError if the package is damaged, OSError if it cannot be read.
    """
    with _archive(path, "data.tar") as archive:
        return _extract(archive, wanted)


def read_control(path: Path) -> dict[str, bytes]:
    """The package's control files by name, `control` among them. Raises as `read_deb`."""
    with _archive(path, "control.tar") as archive:
        return _extract(archive, lambda name: "/" not in name)


def read_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """What the package installs, in its order, each with its contents, which are to be read before the next one.

    Names begin with `./`. Raises as `read_deb`.
    """
    with _archive(path, "data.tar") as archive:
        for member in archive:
            yield member, archive.extractfile(member) if member.isreg() else None


@contextmanager
def _archive(path: Path, prefix: str) -> Iterator[tarfile.TarFile]:
    """The archive in the package whose name begins with `prefix`."""
    with path.open("rb") as package:
        suffix, size = _seek_member(package, prefix)
        try:
            with _open_tar(_Window(package, size), suffix) as archive:
                yield archive
        except (tarfile.TarError, lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError) as error:
            raise ProtocolError(f"the package {path.name} is damaged: {error}") from error


def _extract(archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for member in archive:
        name = member.name.removeprefix("./")
        if not member.isreg() or not wanted(name):
            continue
        if member.size > _MAX_FILE:
            raise ProtocolError(f"{name} in the package is {member.size} bytes, more than any file we need")
        content = archive.extractfile(member)
        data = content.read() if content is not None else b""
        if len(data) != member.size:
            raise ProtocolError(f"{name} in the package is truncated")
        files[name] = data
    return files


def _seek_member(package: IO[bytes], prefix: str) -> tuple[str, int]:
    """Position `package` at the member whose name begins with `prefix`; its name's suffix (`.xz`) and size."""
    if package.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ProtocolError("not a Debian package: no ar archive", 0)
    for _ in range(_MAX_MEMBERS):
        offset = package.tell()
        header = package.read(_AR_HEADER)
        if len(header) < _AR_HEADER or header[58:60] != b"`\n":
            break
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        digits = header[48:58].strip()
        if not digits.isdigit():
            raise ProtocolError(f"the size of member {name} is not a number", offset)
        size = int(digits)
        if name.startswith(prefix):
            return name.removeprefix(prefix), size
        package.seek(size + size % 2, 1)
    raise ProtocolError(f"the Debian package has no {prefix.partition('.')[0]} archive", package.tell())


def _open_tar(data: _Window, suffix: str) -> tarfile.TarFile:
    match suffix:
        case "":
            return tarfile.open(fileobj=io.BufferedReader(data), mode="r|")
        case ".gz":
            return tarfile.open(fileobj=io.BufferedReader(data), mode="r|gz")
        case ".xz" | ".lzma":
            return tarfile.open(fileobj=io.BufferedReader(data), mode="r|xz")
        case ".bz2":
            return tarfile.open(fileobj=io.BufferedReader(data), mode="r|bz2")
        case ".zst":
            return tarfile.open(fileobj=zstandard.ZstdDecompressor().stream_reader(io.BufferedReader(data)), mode="r|")
        case _:
            raise ProtocolError(f"the package is compressed as {suffix}, which this reader does not know")


class _Window(io.RawIOBase):
    """The next `size` bytes of a file, so that a decompressor does not read the member behind."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._file.read(min(len(view), self._left))
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)
