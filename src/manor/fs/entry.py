"""What a file system is made of, whatever its format."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Final

NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class FileData:
    """Contents that are read when they are needed. size: bytes; `open` gives a stream of at least as many."""

    size: int
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a tree.

    path: without a leading slash, parts divided by `/`; "" is the root directory. mode: type and permissions as in
    stat(2). mtime: nanoseconds since 1970. data: contents of a regular file, or the target of a symbolic link.
    device: (major, minor) of a device node. link: the path of an earlier entry that this is another name of (a hard
    link; everything else about this entry is ignored then). xattrs: extended attributes by full name.
    """

    path: str
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    data: bytes | FileData = b""
    device: tuple[int, int] = (0, 0)
    link: str | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of contents."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.size

    def open(self) -> IO[bytes]:
        """The contents as a stream."""
        return io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open()


def directory(path: str, permissions: int = 0o755, *, mtime: int = 0) -> Entry:
    return Entry(path, stat.S_IFDIR | permissions, mtime=mtime)


def regular(path: str, data: bytes, permissions: int = 0o644, *, mtime: int = 0) -> Entry:
    return Entry(path, stat.S_IFREG | permissions, data=data, mtime=mtime)


def symlink(path: str, target: str, *, mtime: int = 0) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, data=target.encode("utf-8", "surrogateescape"), mtime=mtime)
