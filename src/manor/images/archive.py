"""Disks inside archives: tar files of Vagrant, of clouds (one raw disk), and OCI images.

A tar file is data of others: names of members are compared, never used as paths, and only regular files are read.
Source: POSIX.1-2017, pax, "ustar Interchange Format"; Vagrant documentation, "Box File Format".
"""

from __future__ import annotations

import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from manor.base.errors import ConfigError, HostError, ProtocolError
from manor.guests.progress import Progress
from manor.images.sparse import PIECE, SparseWriter

MAX_MEMBERS: Final = 10_000
"""Members of an archive that holds a disk: few have more than ten."""
MAX_JSON: Final = 4 << 20
_DISK_SUFFIXES: Final = (".img", ".raw", ".qcow2", ".vmdk", ".vdi", ".vhd", ".vhdx")
_VAGRANT_USER: Final = "vagrant"


def is_archive(path: Path) -> bool:
    """Whether a file is a tar file. Raises HostError."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise HostError.from_os_error(f"reading {path}", error) from error
    return head[257:262] == b"ustar"


def disk_of_archive(archive: Path, target: Path, limit: int, progress: Progress) -> tuple[Path, str]:
    """Write the disk that `archive` (a tar file, or the folder of an OCI layout) holds to `target`.

    limit: its bytes that are too many. Returns (target, account to log in with, "" if that is not known).
    Raises ConfigError if there is no disk in it, ProtocolError if it is damaged, HostError.
    """
    if archive.is_dir():
        return _oci(DirectoryFiles(archive), target, limit, progress)
    try:
        with tarfile.open(archive, "r:") as tar:
            files = TarFiles(tar)
            if "index.json" in files.names:
                return _oci(files, target, limit, progress)
            return _single_disk(files, target, limit, progress)
    except tarfile.TarError as error:
        raise ProtocolError(f"the archive {archive.name} is damaged: {error}") from error
    except OSError as error:
        raise HostError.from_os_error(f"reading {archive}", error) from error


def _oci(files: Files, target: Path, limit: int, progress: Progress) -> tuple[Path, str]:
    from manor.images.oci import disk_of_layout

    return disk_of_layout(files, target, limit, progress)


class Files(ABC):
    """Named files of an archive. names: with / between their parts, nothing before them."""

    names: tuple[str, ...] = ()

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """The contents. Raises ProtocolError if there is no regular file of that name."""

    @abstractmethod
    def size(self, name: str) -> int: ...

    def read_json(self, name: str) -> Any:
        """A small file's value. Raises ProtocolError."""
        with self.open(name) as file:
            data = file.read(MAX_JSON + 1)
        try:
            if len(data) <= MAX_JSON:
                return json.loads(data)
        except (ValueError, RecursionError):
            pass
        raise ProtocolError(f"{name} in the archive is not JSON, or too long")


class TarFiles(Files):
    """Of a tar file; what is no regular file is left out, and of two with one name the last counts."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members: dict[str, tarfile.TarInfo] = {}
        for number, member in enumerate(tar):
            if number >= MAX_MEMBERS:
                raise ProtocolError(f"the archive has more than {MAX_MEMBERS} members: it is not one of a disk")
            if member.isreg():
                self._members[member.name.removeprefix("./")] = member
        self.names = tuple(self._members)

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        file = None if member is None else self._tar.extractfile(member)
        if file is None:
            raise ProtocolError(f"the archive has no file {name}")
        return file

    def size(self, name: str) -> int:
        return self._members[name].size


class DirectoryFiles(Files):
    """Of a folder, without following links out of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / "index.json").is_file():
            raise ConfigError("", f"{folder} is a folder without index.json: it is no OCI layout; give a file")

    def open(self, name: str) -> IO[bytes]:
        path = self._folder / name
        if not path.resolve().is_relative_to(self._folder.resolve()) or not path.is_file():
            raise ProtocolError(f"the layout {self._folder} has no file {name}")
        try:
            return path.open("rb")
        except OSError as error:
            raise HostError.from_os_error(f"reading {path}", error) from error

    def size(self, name: str) -> int:
        return (self._folder / name).stat().st_size


def _single_disk(files: Files, target: Path, limit: int, progress: Progress) -> tuple[Path, str]:
    """A Vagrant box, or a tar file around one disk."""
    is_box = "metadata.json" in files.names
    disks = [name for name in files.names if name.lower().endswith(_DISK_SUFFIXES)]
    if is_box:
        disks = _disks_of_box(files) or disks
    if len(disks) != 1:
        found = f"{len(disks)} ({', '.join(disks[:5])})" if disks else "none"
        raise ConfigError("", f"the archive should hold one disk, and it holds {found}; unpack it, and import the disk")
    with files.open(disks[0]) as file:
        copy_stream(file, target, limit, files.size(disks[0]), progress.advance)
    return target, _VAGRANT_USER if is_box else ""


def _disks_of_box(files: Files) -> list[str]:
    """By the box's own words: `disks` of newer boxes of libvirt, box.img of older ones."""
    metadata = files.read_json("metadata.json")
    listed = metadata.get("disks") if isinstance(metadata, dict) else None
    if isinstance(listed, list):
        paths = [disk.get("path") for disk in listed if isinstance(disk, dict)]
        return [path for path in paths if isinstance(path, str) and path in files.names]
    return ["box.img"] if "box.img" in files.names else []


def copy_stream(file: IO[bytes], target: Path, limit: int, total: int, progress: Callable[[int, int], None]) -> None:
    """Copy to `target`, zeros as holes. Raises HostError."""
    with SparseWriter(target, limit, "reading the archive") as writer:
        while data := file.read(PIECE):
            writer.write(data)
            progress(writer.size, max(total, writer.size))
