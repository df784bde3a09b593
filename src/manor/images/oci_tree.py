"""A container's files as a disk: the layers of an OCI image laid over each other, in a new ext4 file system.

Source: OCI Image Format Specification 1.1, "Layer": a layer is a tar file of what was added and changed; `.wh.NAME`
takes NAME of the layers below away, `.wh..wh..opq` all that they have in its folder.
"""

from __future__ import annotations

import re
import stat
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from manor.base.errors import ConfigError, HostError, ProtocolError
from manor.base.units import GiB, MiB, format_size
from manor.fs.entry import NS_PER_S, Entry, FileData, directory
from manor.fs.ext4.writer import Ext4Writer
from manor.fs.io import ImageFile

MAX_MEMBERS: Final = 1_000_000
"""Members of all layers; a desktop's distribution has some hundred thousands."""
MAX_FOLLOWED: Final = 40
"""Symbolic links on the way to a folder, as in Linux (MAXSYMLINKS)."""
_MIN_SIZE: Final = 1 * GiB
_SPARE: Final = 256 * MiB
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_KINDS: Final = {
    tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG, tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.LNKTYPE: stat.S_IFREG,
}  # fmt: skip
_XATTR: Final = "SCHILY.xattr."
_KERNEL: Final = re.compile(r"boot/vmlinuz-[^/]+")


@dataclass(slots=True)
class _Node:
    """What is at a path. layer: the number of the layer that has it."""

    member: tarfile.TarInfo | None
    layer: int

    @property
    def is_directory(self) -> bool:
        return self.member is None or self.member.isdir()


class Tree:
    """Layers, each over those before it. Nothing in them is a path of this host."""

    def __init__(self) -> None:
        self._tars: list[tarfile.TarFile] = []
        self._nodes: dict[str, _Node] = {"": _Node(None, -1)}
        self._children: dict[str, set[str]] = {"": set()}
        self._count = 0

    def add_layer(self, tar: tarfile.TarFile) -> None:
        """Lay a layer over what is there. tar: open, and seekable, until the entries were used. Raises
        ProtocolError."""
        layer = len(self._tars)
        self._tars.append(tar)
        for member in tar:
            self._count += 1
            if self._count > MAX_MEMBERS:
                raise ProtocolError(f"the image has more than {MAX_MEMBERS} files")
            parts = _parts(member.name)
            if not parts:
                if not member.isdir():
                    raise ProtocolError("a layer has a file in the place of the whole tree")
                self._nodes[""] = _Node(member, layer)
                continue
            parent = self._folder(parts[:-1], layer)
            name = parts[-1]
            if name == _OPAQUE:
                for child in list(self._children[parent]):
                    self._remove(child, layer)
            elif name.startswith(_WHITEOUT):
                self._remove(_join(parent, name.removeprefix(_WHITEOUT)), layer)
            elif member.type in _KINDS:
                self._put(_join(parent, name), member, layer)

    def entries(self) -> Iterator[Entry]:
        """Folders before what is in them, files before their other names."""
        links: list[tuple[str, str]] = []
        for path in sorted(self._nodes, key=lambda each: each.split("/")):
            node = self._nodes[path]
            if node.member is not None and node.member.islnk():
                links.append((path, self._file_of_link(path)))
            else:
                yield self._entry(path, node)
        for path, target in links:
            yield Entry(path, stat.S_IFREG, link=target)

    def has_kernel(self) -> bool:
        return any(_KERNEL.fullmatch(path) for path in self._nodes)

    def size(self) -> int:
        """Bytes of all files."""
        return sum(node.member.size for node in self._nodes.values() if node.member is not None)

    def _entry(self, path: str, node: _Node) -> Entry:
        member = node.member
        if member is None:
            return directory(path)
        data: bytes | FileData = b""
        if member.isreg():
            tar = self._tars[node.layer]
            data = FileData(member.size, lambda: cast(IO[bytes], tar.extractfile(member)))
        elif member.issym():
            data = member.linkname.encode("utf-8", "surrogateescape")
        xattrs = {
            name.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
            for name, value in member.pax_headers.items()
            if name.startswith(_XATTR)
        }
        mode = _KINDS[member.type] | stat.S_IMODE(member.mode)
        device = (member.devmajor, member.devminor)
        mtime = int(member.mtime) * NS_PER_S
        return Entry(path, mode, member.uid, member.gid, max(0, mtime), data, device, xattrs=xattrs)

    def _file_of_link(self, path: str) -> str:
        """The path of the file that a hard link names, through other hard links."""
        for _ in range(MAX_FOLLOWED):
            node = self._nodes.get(path)
            if node is None or node.is_directory:
                break
            assert node.member is not None
            if not node.member.islnk():
                return path
            parts = _parts(node.member.linkname)
            path = _join(self._existing_folder(parts[:-1]), parts[-1]) if parts else ""
        raise ProtocolError(f"a layer has another name of {path!r}, which is no file")

    def _existing_folder(self, parts: Sequence[str]) -> str:
        return self._folder(parts, len(self._tars) - 1)

    def _folder(self, parts: Sequence[str], layer: int) -> str:
        """The path of a folder, through symbolic links inside the tree; it is made if nothing is there."""
        pending = list(reversed(parts))
        path = ""
        followed = 0
        while pending:
            part = pending.pop()
            if part == "..":
                path = path.rpartition("/")[0]
                continue
            inner = _join(path, part)
            node = self._nodes.get(inner)
            if node is not None and node.member is not None and node.member.issym():
                followed += 1
                if followed > MAX_FOLLOWED:
                    raise ProtocolError(f"a layer has too many symbolic links on the way to {'/'.join(parts)!r}")
                target = node.member.linkname
                path = "" if target.startswith("/") else path
                pending += [each for each in reversed(target.split("/")) if each not in ("", ".")]
                continue
            if node is None or not node.is_directory:
                self._put(inner, None, layer)
            path = inner
        return path

    def _put(self, path: str, member: tarfile.TarInfo | None, layer: int) -> None:
        old = self._nodes.get(path)
        new = _Node(member, layer)
        if old is not None and not (old.is_directory and new.is_directory):
            self._remove(path, layer + 1)
        self._nodes[path] = new
        self._children[path.rpartition("/")[0]].add(path)
        if new.is_directory:
            self._children.setdefault(path, set())

    def _remove(self, path: str, layer: int) -> None:
        """Take away what layers before `layer` have at and below `path`."""
        for child in list(self._children.get(path, ())):
            self._remove(child, layer)
        node = self._nodes.get(path)
        if node is not None and node.layer < layer and not self._children.get(path):
            del self._nodes[path]
            self._children.pop(path, None)
            self._children[path.rpartition("/")[0]].discard(path)


def write_tree(tree: Tree, target: Path, limit: int, digest: str) -> None:
    """Write the tree to the raw disk `target`: with partitions and a boot loader if it has a kernel, else one ext4.

    digest: of what it comes from; equal ones give equal disks. Raises ConfigError, HostError.
    """
    size = max(_MIN_SIZE, (2 * tree.size() + _SPARE + MiB - 1) // MiB * MiB)
    if size > limit:
        raise ConfigError("", f"the image's files need a disk of {format_size(size)}, which is too much")
    try:
        with ImageFile(target, size=size) as image:
            if tree.has_kernel():
                from manor.images.disk import DiskPlan, write_disk

                write_disk(image, DiskPlan(size, digest, 0, "Linux", "console=ttyS0"), tree.entries())
                return
            identity = uuid.uuid5(uuid.NAMESPACE_OID, f"manor image {digest}")
            system = Ext4Writer(image, size, identity=identity, label="root")
            for entry in tree.entries():
                system.add(entry)
            system.finish()
    except OSError as error:
        raise HostError.from_os_error(f"writing {target}", error) from error


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise ProtocolError(f"a layer has a file {name!r}, whose name leads out of it")
    return parts


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
