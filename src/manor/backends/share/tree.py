"""What the guest knows of the folder: nodes, each an open `O_PATH` descriptor; and what it may call them.

No path is ever resolved: the guest names one component in a node that it knows, which is opened below that node's
descriptor and without following a symbolic link. `/`, `.` and `..` are no names. So nothing outside of the folder can
be reached, whatever the guest sends and whatever links it makes, and no check can be overtaken by a rename.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from dataclasses import dataclass
from typing import Final

from manor.backends.share.fuse import ROOT_ID

NODE_LIMIT: Final = 1 << 17
"""Files and folders that a guest's kernel may remember at a time; less where descriptors are scarcer."""
_SPARE_DESCRIPTORS: Final = 256
NAME_LIMIT: Final = 255
OWNER_XATTR: Final = "user.manor.owner"
"""Where the owner that the guest gave is kept: `uid:gid`. The file itself stays the host user's."""
_MAX_ID: Final = 0xFFFF_FFFE


class Refused(Exception):
    """The request fails with this error number."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


@dataclass(slots=True)
class Node:
    """A file or folder. fd: O_PATH. lookups: how often the guest was told of it and did not forget it."""

    number: int
    fd: int
    key: tuple[int, int]
    lookups: int

    @property
    def path(self) -> str:
        """A path of this process that leads to the very file, for calls that take no O_PATH descriptor."""
        return f"/proc/self/fd/{self.fd}"


class Tree:
    """The nodes of one share. Thread: one.

    uid, gid: who owns, for the guest, what the host's user owns. Everything else is nobody's.
    """

    def __init__(self, root: str, uid: int = 0, gid: int = 0) -> None:
        """Raises OSError if `root` is no folder that can be opened."""
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.root = Node(ROOT_ID, fd, _key(os.fstat(fd)), 1)
        self._uid, self._gid = uid, gid
        self._own_uid, self._own_gid = os.geteuid(), os.getegid()
        self._nodes = {ROOT_ID: self.root}
        self._by_key = {self.root.key: self.root}
        self._next = ROOT_ID + 1
        self._limit = min(NODE_LIMIT, _more_descriptors() - _SPARE_DESCRIPTORS)

    def __len__(self) -> int:
        return len(self._nodes)

    def close(self) -> None:
        self.forget_all()
        if self.root.fd >= 0:
            os.close(self.root.fd)
            self.root.fd = -1

    def get(self, number: int) -> Node:
        """Raises Refused for a node that the guest was not told of."""
        node = self._nodes.get(number)
        if node is None:
            raise Refused(errno.ESTALE)
        return node

    def look_up(self, parent: Node, name: bytes) -> Node:
        """The file `name` in `parent`, which the guest knows from now on. Raises OSError, Refused."""
        check_name(name)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
        try:
            return self._adopt(fd)
        except BaseException:
            os.close(fd)
            raise

    def _adopt(self, fd: int) -> Node:
        key = _key(os.fstat(fd))
        known = self._by_key.get(key)
        if known is not None:
            os.close(fd)
            known.lookups += 1
            return known
        if len(self._nodes) >= self._limit:
            raise Refused(errno.ENFILE)
        node = Node(self._next, fd, key, 1)
        self._next += 1
        self._nodes[node.number] = self._by_key[key] = node
        return node

    def forget(self, number: int, lookups: int) -> None:
        """The guest forgot so many of its look-ups; nothing happens for a node that it does not know."""
        node = self._nodes.get(number)
        if node is None or node is self.root:
            return
        node.lookups -= min(lookups, node.lookups)
        if not node.lookups:
            del self._nodes[number]
            del self._by_key[node.key]
            os.close(node.fd)

    def forget_all(self) -> None:
        """The guest starts anew."""
        for node in [node for node in self._nodes.values() if node is not self.root]:
            self.forget(node.number, node.lookups)

    # --- owners -----------------------------------------------------------------------------------------------

    def owner(self, node: Node, status: os.stat_result) -> tuple[int, int]:
        """User and group as the guest sees them."""
        uid = self._uid if status.st_uid == self._own_uid else 65534
        gid = self._gid if status.st_gid == self._own_gid or status.st_uid == self._own_uid else 65534
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            return uid, gid  # others cannot have such attributes
        try:
            text = os.getxattr(node.path, OWNER_XATTR)
        except OSError:
            return uid, gid
        first, _, second = text.partition(b":")
        if first.isdigit() and second.isdigit() and max(int(first), int(second)) <= _MAX_ID:
            return int(first), int(second)
        return uid, gid

    def set_owner(self, node: Node, uid: int | None, gid: int | None) -> None:
        """Remember the owner that the guest gave. Raises OSError where the host's file system keeps no attributes."""
        status = os.fstat(node.fd)
        old = self.owner(node, status)
        new = (old[0] if uid is None else uid, old[1] if gid is None else gid)
        if new == old or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return
        try:
            os.setxattr(node.path, OWNER_XATTR, b"%d:%d" % new)
        except OSError as error:
            raise Refused(errno.EPERM if error.errno == errno.EOPNOTSUPP else error.errno or errno.EIO) from error


def check_name(name: bytes) -> None:
    """Raises Refused for what names no file of a folder."""
    if len(name) > NAME_LIMIT:
        raise Refused(errno.ENAMETOOLONG)
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise Refused(errno.EINVAL)


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _more_descriptors() -> int:
    """Raise this process's limit of open files as far as it may; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = NODE_LIMIT + 4 * _SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft
