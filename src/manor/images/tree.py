"""Trees of files: written to a directory, read from one, kept as one compressed archive.

Source of the archive's format: POSIX.1-2017 pax, "pax Interchange Format", compressed by zstd (RFC 8878).
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final

import zstandard

from manor.base.errors import HostError, ProtocolError
from manor.fs.entry import NS_PER_S, Entry, FileData

_XATTR: Final = "SCHILY.xattr."
_LEVEL: Final = 3
_CHUNK: Final = 1 << 20


def write_directory(entries: Iterable[Entry], root: Path) -> None:
    """Make `entries` real below the empty directory `root`, with owners and times. Needs the rights for that.

    Nothing of an entry's path is followed out of `root`: a directory that a link stands for must have been resolved
    by who made the entries. Raises HostError.
    """
    times: list[tuple[Path, int]] = []
    try:
        for entry in entries:
            path = root / entry.path
            if entry.link is not None:
                os.link(root / entry.link, path, follow_symlinks=False)
                continue
            if stat.S_ISDIR(entry.mode):
                if entry.path:
                    path.mkdir()
                times.append((path, entry.mtime))
            elif stat.S_ISLNK(entry.mode):
                with entry.open() as stream:
                    os.symlink(stream.read(entry.size), os.fsencode(path))
            elif stat.S_ISREG(entry.mode):
                _write_file(entry, path)
            else:
                raise HostError(f"{entry.path} is a kind of file that is not made here")
            os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
            if not stat.S_ISLNK(entry.mode):
                # After the owner, whose change takes set-id bits away.
                os.chmod(path, stat.S_IMODE(entry.mode))
                for name, value in entry.xattrs.items():
                    os.setxattr(path, name, value)
            if not stat.S_ISDIR(entry.mode):
                os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)
        for path, mtime in reversed(times):
            os.utime(path, ns=(mtime, mtime))
    except OSError as error:
        raise HostError.from_os_error(f"unpack {error.filename or root}", error) from error


def _write_file(entry: Entry, path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file, entry.open() as stream:
        left = entry.size
        while left:
            data = stream.read(min(_CHUNK, left))
            if not data:
                raise ProtocolError(f"the contents of {entry.path} ended early")
            file.write(data)
            left -= len(data)


def read_directory(root: Path, is_wanted: Callable[[str], bool]) -> Iterator[Entry]:
    """What is below `root`, sorted; a directory that is not wanted is left out with all that is in it.

    Raises HostError if the host refuses.
    """
    links: dict[tuple[int, int], str] = {}

    def entry(path: str) -> Entry:
        full = root / path
        status = os.lstat(full)
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if key in links:
                return Entry(path, status.st_mode, link=links[key])
            links[key] = path
        data: bytes | FileData = b""
        xattrs: dict[str, bytes] = {}
        if stat.S_ISLNK(status.st_mode):
            data = os.readlink(os.fsencode(full))
        else:
            if stat.S_ISREG(status.st_mode):
                data = FileData(status.st_size, lambda: full.open("rb"))
            for name in sorted(os.listxattr(full)):
                # Labels of the host's own security module are not the guest's.
                if not name.startswith(("security.selinux", "security.apparmor", "security.ima", "security.evm")):
                    xattrs[name] = os.getxattr(full, name)
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        return Entry(
            path, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, data, device, xattrs=xattrs
        )

    def below(path: str) -> Iterator[Entry]:
        for name in sorted(os.listdir(root / path)):
            inner = f"{path}/{name}" if path else name
            if not is_wanted(inner):
                continue
            found = entry(inner)
            yield found
            if stat.S_ISDIR(found.mode):
                yield from below(inner)

    try:
        yield entry("")
        yield from below("")
    except OSError as error:
        raise HostError.from_os_error(f"read {root}", error) from error


def write_archive(entries: Iterable[Entry], stream: IO[bytes]) -> None:
    """Keep `entries`, in their order, as one archive; equal entries give equal bytes."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=0)
    with (
        compressor.stream_writer(stream, closefd=False) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive,
    ):
        for entry in entries:
            member = tarfile.TarInfo(entry.path or ".")
            member.mode = stat.S_IMODE(entry.mode)
            member.uid, member.gid = entry.uid, entry.gid
            member.mtime = entry.mtime // NS_PER_S
            member.pax_headers = {
                _XATTR + name: value.decode("utf-8", "surrogateescape") for name, value in entry.xattrs.items()
            }
            if entry.link is not None:
                member.type, member.linkname = tarfile.LNKTYPE, entry.link
                archive.addfile(member)
                continue
            match stat.S_IFMT(entry.mode):
                case stat.S_IFDIR:
                    member.type = tarfile.DIRTYPE
                case stat.S_IFLNK:
                    member.type = tarfile.SYMTYPE
                    with entry.open() as target:
                        member.linkname = target.read(entry.size).decode("utf-8", "surrogateescape")
                case stat.S_IFREG:
                    member.size = entry.size
                    with entry.open() as contents:
                        archive.addfile(member, contents)
                    continue
                case stat.S_IFCHR | stat.S_IFBLK:
                    member.type = tarfile.CHRTYPE if stat.S_ISCHR(entry.mode) else tarfile.BLKTYPE
                    member.devmajor, member.devminor = entry.device
                case stat.S_IFIFO:
                    member.type = tarfile.FIFOTYPE
                case _:
                    # A socket: whoever listened on it makes it anew.
                    continue
            archive.addfile(member)


def read_archive(stream: IO[bytes]) -> Iterator[Entry]:
    """Entries of an archive; contents are to be read before the next one is asked for. Raises ProtocolError."""
    kinds = {
        tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.REGTYPE: stat.S_IFREG,
        tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO,
        tarfile.LNKTYPE: stat.S_IFREG,
    }  # fmt: skip
    try:
        with (
            zstandard.ZstdDecompressor().stream_reader(stream, closefd=False) as plain,
            tarfile.open(fileobj=plain, mode="r|", encoding="utf-8") as archive,
        ):
            for member in archive:
                data: bytes | FileData = b""
                if member.isreg():
                    contents = archive.extractfile(member)
                    assert contents is not None  # a regular file has contents
                    data = FileData(member.size, lambda contents=contents: contents)  # type: ignore[misc]
                elif member.issym():
                    data = member.linkname.encode("utf-8", "surrogateescape")
                yield Entry(
                    "" if member.name == "." else member.name,
                    kinds[member.type] | member.mode,
                    member.uid,
                    member.gid,
                    int(member.mtime) * NS_PER_S,
                    data,
                    (member.devmajor, member.devminor),
                    member.linkname if member.islnk() else None,
                    {
                        name.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
                        for name, value in member.pax_headers.items()
                        if name.startswith(_XATTR)
                    },
                )
    except (tarfile.TarError, zstandard.ZstdError, KeyError, EOFError) as error:
        raise ProtocolError(f"the kept tree is damaged: {error}") from error
