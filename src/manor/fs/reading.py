"""What a reader of a file system offers, whatever its format, and how paths are followed in it.

Nothing in an image is trusted: readers bound every count, size and chain, and raise ProtocolError for nonsense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from manor.base.errors import ManorError, ProtocolError

Kind = Literal["file", "directory", "link", "other"]

MAX_LINKS: Final = 40
"""Symbolic links followed for one path, as Linux does (path_resolution(7))."""
MAX_ENTRIES: Final = 1 << 17
"""Names in one directory; more is refused."""


class PathNotFound(ManorError):
    """There is nothing of that name, or not of that kind."""


@dataclass(frozen=True, slots=True)
class Node:
    """A file as its directory's reader found it. handle: what the reader knows it by; size: bytes."""

    name: str
    kind: Kind
    size: int
    handle: int


class FileSystem(Protocol):
    """An open, read-only file system."""

    @property
    def kind(self) -> str:
        """For people: `ext4`, `FAT`."""

    @property
    def uuid(self) -> str:
        """As Linux shows it: what `UUID=` on a kernel's command line means."""

    @property
    def label(self) -> str: ...

    def root(self) -> Node: ...

    def entries(self, directory: Node) -> list[Node]:
        """What is in a directory, without `.` and `..`. Raises ProtocolError."""

    def find(self, directory: Node, name: str) -> Node | None:
        """One entry. Raises ProtocolError."""

    def contents(self, node: Node, limit: int) -> bytes:
        """A file's contents, or a link's target. Raises ProtocolError if it is larger than `limit` bytes."""


def resolve(system: FileSystem, path: str) -> Node:
    """The node at `path`, following links inside the file system. Raises PathNotFound, ProtocolError."""
    stack = [system.root()]
    parts = _parts(path)
    links = 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            if len(stack) > 1:
                stack.pop()
            continue
        node = system.find(stack[-1], part) if stack[-1].kind == "directory" else None
        if node is None:
            raise PathNotFound(f"there is no {path}")
        if node.kind == "link":
            links += 1
            if links > MAX_LINKS:
                raise ProtocolError(f"{path} leads through more than {MAX_LINKS} links")
            target = system.contents(node, 4096).decode("utf-8", "surrogateescape")
            if target.startswith("/"):
                del stack[1:]
            parts = _parts(target) + parts
            continue
        stack.append(node)
    return stack[-1]


def read_file(system: FileSystem, path: str, limit: int) -> bytes:
    """Contents of the regular file at `path`. Raises PathNotFound, ProtocolError."""
    node = resolve(system, path)
    if node.kind != "file":
        raise PathNotFound(f"{path} is no regular file")
    return system.contents(node, limit)


def list_directory(system: FileSystem, path: str) -> list[Node]:
    """What is in the directory at `path`, sorted by name. Raises PathNotFound, ProtocolError."""
    node = resolve(system, path)
    if node.kind != "directory":
        raise PathNotFound(f"{path} is no directory")
    return sorted(system.entries(node), key=lambda each: each.name)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
