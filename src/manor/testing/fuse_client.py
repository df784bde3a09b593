"""A FUSE client for tests: what a guest's kernel sends, and what it makes of the answers."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from itertools import count

from manor.backends.share import fuse
from manor.backends.share.fuse import Opcode
from manor.backends.share.server import FuseServer

ROOM = 1 << 20


class Failed(Exception):
    """The server answered with an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.number = number


@dataclass(frozen=True)
class Attributes:
    inode: int
    size: int
    mtime: int
    mode: int
    links: int
    uid: int
    gid: int


def attributes(data: bytes) -> Attributes:
    values = fuse.ATTR.unpack_from(data)
    return Attributes(values[0], values[1], values[4], values[9], values[10], values[11], values[12])


class Client:
    """Talks to a server as a kernel would."""

    def __init__(self, server: FuseServer, start: bool = True) -> None:
        self.server = server
        self._unique = count(1)
        if start:
            self.call(Opcode.INIT, 0, fuse.INIT_IN.pack(7, 38, 1 << 17, 0xFFFF_FFFF))

    def raw(self, opcode: int, node: int, body: bytes = b"", room: int = ROOM, size: int | None = None) -> bytes:
        length = fuse.IN_HEADER.size + len(body) if size is None else size
        header = fuse.IN_HEADER.pack(length, opcode, next(self._unique), node, 0, 0, 1, 0, 0)
        return self.server.handle(header + body, room)

    def call(self, opcode: int, node: int, body: bytes = b"", room: int = ROOM) -> bytes:
        answer = self.raw(opcode, node, body, room)
        size, failure, _ = fuse.OUT_HEADER.unpack_from(answer)
        assert size == len(answer) <= room
        if failure:
            assert len(answer) == fuse.OUT_HEADER.size
            raise Failed(-failure)
        return answer[fuse.OUT_HEADER.size :]

    def look_up(self, name: str | bytes, parent: int = fuse.ROOT_ID) -> int:
        raw = name if isinstance(name, bytes) else name.encode()
        return self.entry(self.call(Opcode.LOOKUP, parent, raw + b"\0"))[0]

    def walk(self, path: str) -> int:
        node = fuse.ROOT_ID
        for name in path.split("/"):
            node = self.look_up(name, node)
        return node

    @staticmethod
    def entry(data: bytes) -> tuple[int, Attributes]:
        return fuse.ENTRY_OUT.unpack_from(data)[0], attributes(data[fuse.ENTRY_OUT.size :])

    def stat(self, node: int) -> Attributes:
        return attributes(self.call(Opcode.GETATTR, node, bytes(16))[fuse.ATTR_OUT.size :])

    def set(self, node: int, valid: int, handle: int = 0, **fields: int) -> Attributes:
        names = (
            "size", "owner", "atime", "mtime", "ctime", "atime_ns", "mtime_ns", "ctime_ns", "mode", "unused", "uid",
            "gid", "unused2",
        )  # fmt: skip
        body = fuse.SETATTR_IN.pack(valid, 0, handle, *(fields.get(name, 0) for name in names))
        return attributes(self.call(Opcode.SETATTR, node, body)[fuse.ATTR_OUT.size :])

    def open(self, node: int, flags: int = 0) -> int:
        return int(fuse.OPEN_OUT.unpack(self.call(Opcode.OPEN, node, fuse.OPEN_IN.pack(flags, 0)))[0])

    def create(self, name: str, flags: int = 2, mode: int = 0o644, parent: int = fuse.ROOT_ID) -> tuple[int, int]:
        data = self.call(Opcode.CREATE, parent, fuse.CREATE_IN.pack(flags, mode, 0, 0) + name.encode() + b"\0")
        return self.entry(data)[0], fuse.OPEN_OUT.unpack_from(data, fuse.ENTRY_OUT.size + fuse.ATTR.size)[0]

    def read(self, node: int, handle: int, offset: int = 0, size: int = 4096) -> bytes:
        return self.call(Opcode.READ, node, fuse.READ_IN.pack(handle, offset, size, 0, 0, 0, 0))

    def write(self, node: int, handle: int, data: bytes, offset: int = 0, flags: int = 0, how: int = 0) -> int:
        body = fuse.WRITE_IN.pack(handle, offset, len(data), how, 0, flags, 0) + data
        return int(fuse.WRITE_OUT.unpack(self.call(Opcode.WRITE, node, body))[0])

    def release(self, node: int, handle: int) -> None:
        self.call(Opcode.RELEASE, node, fuse.RELEASE_IN.pack(handle, 0, 0, 0))

    def list(self, node: int = fuse.ROOT_ID, size: int = 4096, plus: bool = False) -> dict[str, int]:
        """Name -> node (or inode number, without plus), read in pieces of `size` bytes."""
        handle = fuse.OPEN_OUT.unpack(self.call(Opcode.OPENDIR, node, fuse.OPEN_IN.pack(0, 0)))[0]
        found: dict[str, int] = {}
        offset = 0
        head = fuse.ENTRY_OUT.size + fuse.ATTR.size if plus else 0
        while True:
            opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
            data = self.call(opcode, node, fuse.READ_IN.pack(handle, offset, size, 0, 0, 0, 0))
            if not data:
                break
            while data:
                inode, offset, length, _ = fuse.DIRENT.unpack_from(data, head)
                start = head + fuse.DIRENT.size
                name = data[start : start + length].decode()
                assert name not in found
                found[name] = struct.unpack_from("<Q", data)[0] if plus else inode
                data = data[start + -(-length // 8) * 8 :]
        self.call(Opcode.RELEASEDIR, node, fuse.RELEASE_IN.pack(handle, 0, 0, 0))
        return found
