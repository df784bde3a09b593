"""The server: FUSE requests in, answers out.

A request is bytes that a guest wrote: sizes, offsets, nodes, handles and names are checked before they are used. What
the host refuses goes back as the error number it gave. Special files are never opened: their nodes exist, and what is
behind a device or a pipe is the guest's own.
Locks are not served: the guest's kernel then keeps them itself, among the guest's programs.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from manor.backends.share import fuse, syscalls
from manor.backends.share.fuse import Init, Opcode, SetAttr
from manor.backends.share.tree import NAME_LIMIT, OWNER_XATTR, Node, Refused, Tree, check_name
from manor.backends.share.wire import answer, opcode_name, sized, string, strings, unpack
from manor.trace.event import declare, guest_error

MAX_PAGES: Final = 120
MAX_WRITE: Final = MAX_PAGES * 4096
"""Bytes of one read or write. With its headers a request of as many pages fits into a queue of 128 descriptors."""
HANDLE_LIMIT: Final = 4096
ENTRY_LIMIT: Final = 1 << 20
"""Names of all folders that are open for reading; each costs some hundred bytes."""
XATTR_LIMIT: Final = 64 << 10
"""Largest value and list. Source: Linux, include/uapi/linux/limits.h, XATTR_SIZE_MAX, XATTR_LIST_MAX."""
VALID_S: Final = 1
"""How long the guest may believe attributes and names, in seconds: the host may change them too."""
TIME_GRANULARITY_NS: Final = 1

_WANTED: Final = (
    Init.ASYNC_READ | Init.ATOMIC_O_TRUNC | Init.BIG_WRITES | Init.AUTO_INVAL_DATA | Init.DO_READDIRPLUS
    | Init.READDIRPLUS_AUTO | Init.PARALLEL_DIROPS | Init.HANDLE_KILLPRIV | Init.MAX_PAGES
)  # fmt: skip
_OPEN_FLAGS: Final = os.O_ACCMODE | os.O_TRUNC | os.O_SYNC | os.O_DSYNC
_ALWAYS: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_MODE: Final = 0o1777
"""Bits of a mode that reach the host. Without set-user-ID and set-group-ID: they would be for the host's users."""
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2

share_request = declare("share_request", tag=str, opcode=str, node=int, error=int)


@dataclass(slots=True)
class _File:
    fd: int
    node: int
    is_writable: bool


@dataclass(slots=True)
class _Folder:
    fd: int
    node: Node
    entries: list[tuple[bytes, int, int]] = field(default_factory=list)
    """Name, inode number, type (the upper bits of its mode)."""


class FuseServer:
    """One share of a folder. Thread: one."""

    def __init__(self, root: str, tag: str, *, read_only: bool = False, uid: int = 0, gid: int = 0) -> None:
        """Raises OSError if `root` is no folder that can be opened."""
        self._tag = tag
        self._read_only = read_only
        self._tree = Tree(root, uid, gid)
        self._files: dict[int, _File] = {}
        self._folders: dict[int, _Folder] = {}
        self._entries = 0
        self._next_handle = 1
        self._is_open = False
        self._actions: dict[int, Callable[[Node, bytes, int], bytes]] = {
            Opcode.LOOKUP: self._lookup, Opcode.GETATTR: self._getattr, Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink, Opcode.SYMLINK: self._symlink, Opcode.MKNOD: self._mknod,
            Opcode.MKDIR: self._mkdir, Opcode.UNLINK: self._unlink, Opcode.RMDIR: self._rmdir,
            Opcode.RENAME: self._rename, Opcode.RENAME2: self._rename2, Opcode.LINK: self._link,
            Opcode.OPEN: self._open, Opcode.CREATE: self._create, Opcode.READ: self._read, Opcode.WRITE: self._write,
            Opcode.STATFS: self._statfs, Opcode.RELEASE: self._release, Opcode.FLUSH: self._flush,
            Opcode.FSYNC: self._fsync, Opcode.OPENDIR: self._opendir, Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus, Opcode.RELEASEDIR: self._releasedir,
            Opcode.FSYNCDIR: self._fsyncdir, Opcode.SETXATTR: self._setxattr, Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr, Opcode.REMOVEXATTR: self._removexattr,
            Opcode.FALLOCATE: self._fallocate, Opcode.LSEEK: self._lseek, Opcode.COPY_FILE_RANGE: self._copy,
            Opcode.SYNCFS: self._syncfs,
        }  # fmt: skip

    def close(self) -> None:
        """Give everything back."""
        self.reset()
        self._tree.close()

    def reset(self) -> None:
        """The guest is gone, or starts anew: nothing that it had open counts any more."""
        self._is_open = False
        for file in self._files.values():
            os.close(file.fd)
        for folder in self._folders.values():
            os.close(folder.fd)
        self._files.clear()
        self._folders.clear()
        self._entries = 0
        self._tree.forget_all()

    @property
    def is_mounted(self) -> bool:
        """Whether a guest has it mounted. Thread: any."""
        return self._is_open

    @property
    def open_count(self) -> int:
        """Nodes and handles, for tests and statistics."""
        return len(self._tree) + len(self._files) + len(self._folders)

    # --- requests -----------------------------------------------------------------------------------------

    def handle(self, request: bytes, room: int) -> bytes:
        """The answer to one request, at most `room` bytes; b"" where there is none."""
        if len(request) < fuse.IN_HEADER.size:
            self._report(f"request of {len(request)} bytes")
            return b""
        size, opcode, unique, number = fuse.IN_HEADER.unpack_from(request)[:4]
        if size != len(request):
            self._report(f"request of {len(request)} bytes that says {size}")
            return answer(unique, errno.EINVAL, b"", room)
        body = request[fuse.IN_HEADER.size :]
        failure = 0
        result = b""
        try:
            result = self._serve(opcode, number, body, room - fuse.OUT_HEADER.size)
        except Refused as refusal:
            failure = refusal.number
        except OSError as error:
            failure = error.errno or errno.EIO
        except (ValueError, OverflowError):  # a number that no call of the host takes
            failure = errno.EINVAL
        if share_request.on:
            share_request(self._tag, opcode_name(opcode), number, failure)
        if opcode in fuse.NO_REPLY:
            return b""
        return answer(unique, failure, result, room)

    def _serve(self, opcode: int, number: int, body: bytes, room: int) -> bytes:
        match opcode:
            case Opcode.INIT:
                return self._init(body)
            case Opcode.DESTROY:
                self.reset()
                return b""
            case Opcode.FORGET:
                self._tree.forget(number, *unpack(fuse.FORGET_IN, body))
                return b""
            case Opcode.BATCH_FORGET:
                count, _ = unpack(fuse.BATCH_FORGET_IN, body)
                rest = body[fuse.BATCH_FORGET_IN.size :]
                for index in range(min(count, len(rest) // fuse.FORGET_ONE.size)):
                    self._tree.forget(*fuse.FORGET_ONE.unpack_from(rest, index * fuse.FORGET_ONE.size))
                return b""
            case Opcode.INTERRUPT:
                return b""  # no request takes long enough
        action = self._actions.get(opcode)
        if action is None or not self._is_open:
            raise Refused(errno.ENOSYS)
        return action(self._tree.get(number), body, room)

    def _init(self, body: bytes) -> bytes:
        major, minor, readahead, flags = unpack(fuse.INIT_IN, body)
        self.reset()
        if major != fuse.MAJOR or minor < fuse.OLDEST_MINOR:
            raise Refused(errno.EPROTO)
        self._is_open = True
        return fuse.INIT_OUT.pack(
            fuse.MAJOR, fuse.MINOR, readahead, flags & _WANTED, 0, 0, MAX_WRITE, TIME_GRANULARITY_NS, MAX_PAGES, 0, 0
        )

    def _report(self, message: str) -> None:
        if guest_error.on:
            guest_error(f"share {self._tag}", message)

    def _must_write(self) -> None:
        if self._read_only:
            raise Refused(errno.EROFS)

    # --- names and attributes -----------------------------------------------------------------------------

    def _attributes(self, node: Node) -> bytes:
        status = os.fstat(node.fd)
        uid, gid = self._tree.owner(node, status)
        times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
        return fuse.ATTR.pack(
            status.st_ino, status.st_size, status.st_blocks, *(max(0, t) // 10**9 for t in times),
            *(max(0, t) % 10**9 for t in times), status.st_mode, min(status.st_nlink, 0xFFFF_FFFF), uid, gid,
            status.st_rdev & 0xFFFF_FFFF, status.st_blksize, 0,
        )  # fmt: skip

    def _entry(self, node: Node) -> bytes:
        return fuse.ENTRY_OUT.pack(node.number, 0, VALID_S, VALID_S, 0, 0) + self._attributes(node)

    def _told(self, parent: Node, name: bytes) -> bytes:
        """Look a name up and tell the guest of it; if telling fails, it does not know it."""
        node = self._tree.look_up(parent, name)
        try:
            return self._entry(node)
        except BaseException:
            self._tree.forget(node.number, 1)
            raise

    def _lookup(self, node: Node, body: bytes, room: int) -> bytes:
        return self._told(node, string(body))

    def _getattr(self, node: Node, body: bytes, room: int) -> bytes:
        return fuse.ATTR_OUT.pack(VALID_S, 0, 0) + self._attributes(node)

    def _setattr(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        (
            valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _,
        ) = unpack(fuse.SETATTR_IN, body)  # fmt: skip
        if valid & (SetAttr.UID | SetAttr.GID):
            self._tree.set_owner(node, uid if valid & SetAttr.UID else None, gid if valid & SetAttr.GID else None)
        if valid & SetAttr.MODE:
            os.chmod(node.path, mode & _MODE)
        if valid & SetAttr.SIZE:
            self._truncate(node, self._file(handle) if valid & SetAttr.FH else None, size)
        if valid & (SetAttr.ATIME | SetAttr.MTIME):
            status = os.fstat(node.fd)
            now = time.time_ns()
            times = []
            for is_set, is_now, seconds, nanoseconds, old in (
                (SetAttr.ATIME, SetAttr.ATIME_NOW, atime, atime_ns, status.st_atime_ns),
                (SetAttr.MTIME, SetAttr.MTIME_NOW, mtime, mtime_ns, status.st_mtime_ns),
            ):
                wanted = now if valid & is_now else seconds * 10**9 + nanoseconds
                times.append(wanted if valid & is_set else old)
            os.utime(node.path, ns=(times[0], times[1]))
        return self._getattr(node, body, room)

    def _truncate(self, node: Node, file: _File | None, size: int) -> None:
        if file is not None and file.is_writable:
            os.ftruncate(file.fd, size)
            return
        fd = self._open_node(node, os.O_WRONLY)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def _readlink(self, node: Node, body: bytes, room: int) -> bytes:
        return os.readlink(b"", dir_fd=node.fd)

    def _statfs(self, node: Node, body: bytes, room: int) -> bytes:
        status = os.statvfs(node.path)
        return fuse.STATFS_OUT.pack(
            status.f_blocks, status.f_bfree, status.f_bavail, status.f_files, status.f_ffree, status.f_bsize,
            NAME_LIMIT, status.f_frsize, 0,
        )  # fmt: skip

    # --- making and removing ------------------------------------------------------------------------------

    def _symlink(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        name, target = strings(body, 2)
        check_name(name)
        os.symlink(target, name, dir_fd=node.fd)
        return self._told(node, name)

    def _mknod(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        mode, _, _, _ = unpack(fuse.MKNOD_IN, body)
        name = string(body[fuse.MKNOD_IN.size :])
        check_name(name)
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            raise Refused(errno.EPERM)  # a device would be the host's
        os.mknod(name, stat.S_IFMT(mode) | mode & _MODE, dir_fd=node.fd)
        return self._told(node, name)

    def _mkdir(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        mode, _ = unpack(fuse.MKDIR_IN, body)
        name = string(body[fuse.MKDIR_IN.size :])
        check_name(name)
        os.mkdir(name, mode & _MODE, dir_fd=node.fd)
        return self._told(node, name)

    def _unlink(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        name = string(body)
        check_name(name)
        os.unlink(name, dir_fd=node.fd)
        return b""

    def _rmdir(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        name = string(body)
        check_name(name)
        os.rmdir(name, dir_fd=node.fd)
        return b""

    def _rename(self, node: Node, body: bytes, room: int) -> bytes:
        (target,) = unpack(fuse.RENAME_IN, body)
        return self._move(node, target, 0, body[fuse.RENAME_IN.size :])

    def _rename2(self, node: Node, body: bytes, room: int) -> bytes:
        target, flags, _ = unpack(fuse.RENAME2_IN, body)
        if flags & ~(_RENAME_NOREPLACE | _RENAME_EXCHANGE):
            raise Refused(errno.EINVAL)  # a whiteout would be a device
        return self._move(node, target, flags, body[fuse.RENAME2_IN.size :])

    def _move(self, node: Node, target: int, flags: int, names: bytes) -> bytes:
        self._must_write()
        old, new = strings(names, 2)
        check_name(old)
        check_name(new)
        syscalls.rename(node.fd, old, self._tree.get(target).fd, new, flags)
        return b""

    def _link(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        (old,) = unpack(fuse.LINK_IN, body)
        name = string(body[fuse.LINK_IN.size :])
        check_name(name)
        os.link(self._tree.get(old).path, os.fsdecode(name), dst_dir_fd=node.fd, follow_symlinks=True)
        return self._told(node, name)

    # --- files --------------------------------------------------------------------------------------------

    def _open_node(self, node: Node, flags: int) -> int:
        if not stat.S_ISREG(os.fstat(node.fd).st_mode):
            raise Refused(errno.EACCES)
        return os.open(node.path, flags & _OPEN_FLAGS | _ALWAYS)

    def _add_handle(self) -> int:
        if len(self._files) + len(self._folders) >= HANDLE_LIMIT:
            raise Refused(errno.ENFILE)
        self._next_handle += 1
        return self._next_handle

    def _add_file(self, fd: int, node: Node, flags: int) -> bytes:
        try:
            handle = self._add_handle()
        except Refused:
            os.close(fd)
            raise
        self._files[handle] = _File(fd, node.number, flags & os.O_ACCMODE != os.O_RDONLY)
        return fuse.OPEN_OUT.pack(handle, 0, 0)

    def _check_open(self, flags: int) -> None:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self._must_write()

    def _open(self, node: Node, body: bytes, room: int) -> bytes:
        flags, _ = unpack(fuse.OPEN_IN, body)
        self._check_open(flags)
        return self._add_file(self._open_node(node, flags), node, flags)

    def _create(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        flags, mode, _, _ = unpack(fuse.CREATE_IN, body)
        name = string(body[fuse.CREATE_IN.size :])
        check_name(name)
        fd = -1
        try:
            # Exclusively: what is there already might be a pipe or a device, and those are not opened.
            new = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _ALWAYS
            fd = os.open(name, flags & _OPEN_FLAGS & ~os.O_TRUNC | new, mode & _MODE, dir_fd=node.fd)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
        try:
            file = self._tree.look_up(node, name)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        try:
            if fd < 0:
                fd = self._open_node(file, flags)
            opened = self._add_file(fd, file, flags)
        except BaseException:
            self._tree.forget(file.number, 1)
            raise
        return self._entry(file) + opened

    def _file(self, handle: int) -> _File:
        file = self._files.get(handle)
        if file is None:
            raise Refused(errno.EBADF)
        return file

    def _read(self, node: Node, body: bytes, room: int) -> bytes:
        handle, offset, size, *_ = unpack(fuse.READ_IN, body)
        return os.pread(self._file(handle).fd, max(0, min(size, room, MAX_WRITE)), offset)

    def _write(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        handle, offset, size, write_flags, _, flags, _ = unpack(fuse.WRITE_IN, body)
        data = memoryview(body)[fuse.WRITE_IN.size :]
        if len(data) != size:
            raise Refused(errno.EINVAL)
        file = self._file(handle)
        if flags & os.O_APPEND and not write_flags & fuse.WRITE_CACHE:
            # At the end as it is now: a program of the host may append as well.
            written = os.pwritev(file.fd, [data], 0, os.RWF_APPEND)
        else:
            written = os.pwrite(file.fd, data, offset)
        return fuse.WRITE_OUT.pack(written, 0)

    def _release(self, node: Node, body: bytes, room: int) -> bytes:
        handle = unpack(fuse.RELEASE_IN, body)[0]
        os.close(self._file(handle).fd)
        del self._files[handle]
        return b""

    def _flush(self, node: Node, body: bytes, room: int) -> bytes:
        return b""

    def _fsync(self, node: Node, body: bytes, room: int) -> bytes:
        handle, flags, _ = unpack(fuse.FSYNC_IN, body)
        sync = os.fdatasync if flags & fuse.FSYNC_DATA_ONLY else os.fsync
        sync(self._file(handle).fd)
        return b""

    def _fallocate(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        handle, offset, size, mode, _ = unpack(fuse.FALLOCATE_IN, body)
        if max(offset, size) >= 1 << 63:
            raise Refused(errno.EINVAL)
        syscalls.allocate(self._file(handle).fd, mode, offset, size)
        return b""

    def _lseek(self, node: Node, body: bytes, room: int) -> bytes:
        handle, offset, whence, _ = unpack(fuse.LSEEK_IN, body)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise Refused(errno.EINVAL)
        return fuse.LSEEK_OUT.pack(os.lseek(self._file(handle).fd, offset, whence))

    def _copy(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        source, source_offset, _, target, target_offset, size, flags = unpack(fuse.COPY_IN, body)
        if flags:
            raise Refused(errno.EINVAL)
        done = os.copy_file_range(
            self._file(source).fd, self._file(target).fd, min(size, 1 << 30), source_offset, target_offset
        )
        return fuse.WRITE_OUT.pack(done, 0)

    def _syncfs(self, node: Node, body: bytes, room: int) -> bytes:
        fd = os.open(self._tree.root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.sync_file_system(fd)
        finally:
            os.close(fd)
        return b""

    # --- folders ------------------------------------------------------------------------------------------

    def _opendir(self, node: Node, body: bytes, room: int) -> bytes:
        fd = os.open(node.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handle = self._add_handle()
        except Refused:
            os.close(fd)
            raise
        self._folders[handle] = _Folder(fd, node)
        return fuse.OPEN_OUT.pack(handle, 0, 0)

    def _folder(self, handle: int) -> _Folder:
        folder = self._folders.get(handle)
        if folder is None:
            raise Refused(errno.EBADF)
        return folder

    def _list(self, folder: _Folder) -> None:
        """Read the folder. From its beginning on the guest sees it as it is then, and nothing twice."""
        self._entries -= len(folder.entries)
        own = os.fstat(folder.fd).st_ino
        folder.entries = [(b".", own, stat.S_IFDIR), (b"..", own, stat.S_IFDIR)]
        with os.scandir(folder.fd) as found:
            for entry in found:
                if self._entries + len(folder.entries) >= ENTRY_LIMIT:
                    folder.entries = []
                    raise Refused(errno.ENOMEM)
                kind = stat.S_IFLNK if entry.is_symlink() else stat.S_IFDIR if entry.is_dir() else 0
                if not kind and entry.is_file():
                    kind = stat.S_IFREG
                folder.entries.append((os.fsencode(entry.name), entry.inode(), kind))
        self._entries += len(folder.entries)

    def _readdir(self, node: Node, body: bytes, room: int) -> bytes:
        return self._give_entries(body, room, plus=False)

    def _readdirplus(self, node: Node, body: bytes, room: int) -> bytes:
        return self._give_entries(body, room, plus=True)

    def _give_entries(self, body: bytes, room: int, plus: bool) -> bytes:
        handle, offset, size, *_ = unpack(fuse.READ_IN, body)
        folder = self._folder(handle)
        if offset == 0:
            self._list(folder)
        room = max(0, min(size, room, MAX_WRITE))
        given = bytearray()
        for position in range(min(offset, len(folder.entries)), len(folder.entries)):
            name, inode, kind = folder.entries[position]
            record = fuse.DIRENT.pack(inode, position + 1, len(name), kind >> 12) + name
            record += bytes(-len(record) % 8)
            head = fuse.ENTRY_OUT.size + fuse.ATTR.size if plus else 0
            if len(given) + head + len(record) > room:
                break
            if plus:
                given += self._entry_of(folder, name)
            given += record
        return bytes(given)

    def _entry_of(self, folder: _Folder, name: bytes) -> bytes:
        """What the guest may know at once of an entry; nothing of one that is just gone."""
        if name not in (b".", b".."):
            try:
                return self._told(folder.node, name)
            except (OSError, Refused):
                pass
        return bytes(fuse.ENTRY_OUT.size + fuse.ATTR.size)

    def _releasedir(self, node: Node, body: bytes, room: int) -> bytes:
        handle = unpack(fuse.RELEASE_IN, body)[0]
        folder = self._folder(handle)
        self._entries -= len(folder.entries)
        os.close(folder.fd)
        del self._folders[handle]
        return b""

    def _fsyncdir(self, node: Node, body: bytes, room: int) -> bytes:
        os.fsync(self._folder(unpack(fuse.FSYNC_IN, body)[0]).fd)
        return b""

    # --- extended attributes ------------------------------------------------------------------------------

    def _setxattr(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        size, flags = unpack(fuse.SETXATTR_IN, body)
        name, _, value = body[fuse.SETXATTR_IN.size :].partition(b"\0")
        if len(value) != size or size > XATTR_LIMIT:
            raise Refused(errno.EINVAL)
        os.setxattr(node.path, _attribute(name), value, flags)
        return b""

    def _getxattr(self, node: Node, body: bytes, room: int) -> bytes:
        size, _ = unpack(fuse.GETXATTR_IN, body)
        name = string(body[fuse.GETXATTR_IN.size :])
        try:
            value = os.getxattr(node.path, _attribute(name))
        except Refused:
            raise Refused(errno.ENODATA) from None
        return sized(value, size, room)

    def _listxattr(self, node: Node, body: bytes, room: int) -> bytes:
        size, _ = unpack(fuse.GETXATTR_IN, body)
        names = [name for name in os.listxattr(node.path) if name.startswith("user.") and name != OWNER_XATTR]
        return sized(b"".join(os.fsencode(name) + b"\0" for name in names), size, room)

    def _removexattr(self, node: Node, body: bytes, room: int) -> bytes:
        self._must_write()
        os.removexattr(node.path, _attribute(string(body)))
        return b""


def _attribute(name: bytes) -> bytes:
    """The others are the host's (security), or ours."""
    if not name.startswith(b"user.") or name == OWNER_XATTR.encode() or len(name) > NAME_LIMIT:
        raise Refused(errno.EOPNOTSUPP)
    return name
