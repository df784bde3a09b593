"""The FUSE server: every operation, and what a hostile guest may try."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manor.backends.share import fuse
from manor.backends.share import server as server_module
from manor.backends.share import tree as tree_module
from manor.backends.share.fuse import ROOT_ID, Opcode, SetAttr
from manor.backends.share.server import MAX_WRITE, FuseServer
from manor.backends.share.tree import OWNER_XATTR
from manor.testing.fuse_client import Client, Failed
from manor.trace.sink import RingSink, disable, enable

RDONLY, WRONLY, RDWR = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_bytes(b"contents")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "one").write_bytes(b"secret")
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FuseServer]:
    before = len(os.listdir("/proc/self/fd"))
    server = FuseServer(os.fspath(folder), "t")
    yield server
    server.close()
    assert len(os.listdir("/proc/self/fd")) == before  # every descriptor was given back


@pytest.fixture
def client(server: FuseServer) -> Client:
    return Client(server)


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(Failed) as caught:
        call(*arguments)
    assert caught.value.number == number, f"{caught.value}, not {errno.errorcode[number]}"


# --- the session ------------------------------------------------------------------------------------------------------


def test_kernel_and_server_agree(server: FuseServer) -> None:
    client = Client(server, start=False)
    refused(errno.ENOSYS, client.stat, ROOT_ID)  # nothing before INIT
    answer = client.call(Opcode.INIT, 0, fuse.INIT_IN.pack(7, 38, 99, 0xFFFF_FFFF) + bytes(48))
    major, minor, readahead, flags, _, _, max_write, _, max_pages, *_ = fuse.INIT_OUT.unpack(answer)
    assert (len(answer), major, minor, readahead, max_write, max_pages) == (64, 7, 31, 99, MAX_WRITE, MAX_WRITE // 4096)
    assert not flags & (1 << 1 | 1 << 10 | 1 << 16)  # locks and a cache for writing stay with the guest
    for wrong in ((6, 38), (8, 0), (7, 20)):
        refused(errno.EPROTO, client.call, Opcode.INIT, 0, fuse.INIT_IN.pack(*wrong, 0, 0))


def test_new_session_forgets_the_old_one(server: FuseServer, client: Client) -> None:
    node = client.look_up("file")
    client.open(node)
    client.call(Opcode.OPENDIR, ROOT_ID, fuse.OPEN_IN.pack(0, 0))
    assert server.open_count == 4
    client.call(Opcode.DESTROY, ROOT_ID)
    assert server.open_count == 1
    client = Client(server)
    refused(errno.ESTALE, client.stat, node)


def test_traces_name_the_request(client: Client) -> None:
    ring = RingSink(10)
    enable("share_request", ring)
    client.stat(ROOT_ID)
    client.raw(99, ROOT_ID)
    disable("*", ring)
    assert [values for _, values in ring.events] == [("t", "getattr", 1, 0), ("t", "99", 1, errno.ENOSYS)]


# --- ordinary work ----------------------------------------------------------------------------------------------------


def test_files(client: Client, folder: Path) -> None:
    node = client.look_up("file")
    assert client.stat(node).size == 8
    handle = client.open(node)
    assert client.read(node, handle, 2, 3) == b"nte"
    assert client.read(node, handle, 100) == b""
    client.release(node, handle)
    refused(errno.EBADF, client.read, node, handle)
    refused(errno.ENOENT, client.look_up, "missing")

    new, handle = client.create("new", mode=0o4640)
    assert stat.S_IMODE((folder / "new").stat().st_mode) == 0o640
    assert client.write(new, handle, b"hello") == 5
    assert client.write(new, handle, b"J", 0) == 1
    client.call(Opcode.FSYNC, new, fuse.FSYNC_IN.pack(handle, 0, 0))
    client.call(Opcode.FSYNC, new, fuse.FSYNC_IN.pack(handle, 1, 0))
    client.call(Opcode.FLUSH, new, bytes(24))
    client.call(Opcode.SYNCFS, ROOT_ID, bytes(8))
    client.release(new, handle)
    assert (folder / "new").read_bytes() == b"Jello"
    # Again: what is there is opened, and emptied if that was asked for; exclusively, it is refused.
    _, handle = client.create("new", WRONLY | os.O_TRUNC)
    assert (folder / "new").read_bytes() == b""
    refused(errno.EEXIST, client.create, "new", RDWR | os.O_EXCL)
    other, reading = client.create("new", RDONLY)
    assert other == new
    refused(errno.EBADF, client.write, new, reading, b"x")


def test_appending_goes_to_the_end_as_it_is_then(client: Client, folder: Path) -> None:
    node = client.look_up("file")
    handle = client.open(node, WRONLY | os.O_APPEND)
    with (folder / "file").open("ab") as file:
        file.write(b" of the host")
    client.write(node, handle, b"!", 8, os.O_APPEND)
    assert (folder / "file").read_bytes() == b"contents of the host!"
    client.write(node, handle, b"C", 0, os.O_APPEND, fuse.WRITE_CACHE)  # a mapped page that is written back
    assert (folder / "file").read_bytes() == b"Contents of the host!"


def test_attributes(client: Client, folder: Path) -> None:
    node = client.look_up("file")
    assert client.set(node, SetAttr.MODE, mode=stat.S_IFREG | 0o6751).mode == stat.S_IFREG | 0o751
    assert client.set(node, SetAttr.SIZE, size=3).size == 3
    handle = client.open(node, RDWR)
    assert client.set(node, SetAttr.SIZE | SetAttr.FH, handle, size=2).size == 2
    assert (folder / "file").read_bytes() == b"co"
    assert client.set(node, SetAttr.MTIME, mtime=1000, mtime_ns=5).mtime == 1000
    assert (folder / "file").stat().st_mtime_ns == 1000 * 10**9 + 5
    client.set(node, SetAttr.ATIME | SetAttr.ATIME_NOW)
    assert (folder / "file").stat().st_mtime_ns == 1000 * 10**9 + 5
    now = client.set(node, SetAttr.MTIME | SetAttr.MTIME_NOW)
    assert now.mtime > 1_600_000_000


def test_owners_are_the_guests_own(client: Client, folder: Path) -> None:
    node = client.look_up("file")
    assert (client.stat(node).uid, client.stat(node).gid) == (0, 0)
    try:
        found = client.set(node, SetAttr.UID | SetAttr.GID, uid=1000, gid=50)
    except Failed as failure:
        if failure.number != errno.EPERM:
            raise
        pytest.skip("the file system of temporary files has no extended attributes")
    assert (found.uid, found.gid) == (1000, 50)
    assert client.set(node, SetAttr.GID, gid=51).uid == 1000
    assert (folder / "file").stat().st_uid == os.geteuid()
    # Neither seen nor changed through the attribute that keeps it.
    assert client.call(Opcode.LISTXATTR, node, fuse.GETXATTR_IN.pack(4096, 0)) == b""
    name = OWNER_XATTR.encode() + b"\0"
    refused(errno.ENODATA, client.call, Opcode.GETXATTR, node, fuse.GETXATTR_IN.pack(100, 0) + name)
    refused(errno.EOPNOTSUPP, client.call, Opcode.REMOVEXATTR, node, name)
    for damaged in (b"x", b"1", b":", b"1:99999999999", b"-1:0"):
        os.setxattr(folder / "file", OWNER_XATTR, damaged)
        assert (client.stat(node).uid, client.stat(node).gid) == (0, 0)


def test_owner_for_whom_the_share_is(folder: Path) -> None:
    server = FuseServer(os.fspath(folder), "t", uid=1000, gid=1001)
    client = Client(server)
    assert (client.stat(ROOT_ID).uid, client.stat(ROOT_ID).gid) == (1000, 1001)
    server.close()


def test_extended_attributes(client: Client, folder: Path) -> None:
    node = client.look_up("file")
    body = fuse.SETXATTR_IN.pack(5, 0) + b"user.colour\0green"
    try:
        client.call(Opcode.SETXATTR, node, body)
    except Failed as failure:
        if failure.number != errno.EOPNOTSUPP:
            raise
        pytest.skip("the file system of temporary files has no extended attributes")

    def get(size: int) -> bytes:
        return client.call(Opcode.GETXATTR, node, fuse.GETXATTR_IN.pack(size, 0) + b"user.colour\0")

    assert get(5) == b"green"
    assert get(0) == fuse.GETXATTR_OUT.pack(5, 0)
    refused(errno.ERANGE, get, 4)
    assert client.call(Opcode.LISTXATTR, node, fuse.GETXATTR_IN.pack(100, 0)) == b"user.colour\0"
    client.call(Opcode.REMOVEXATTR, node, b"user.colour\0")
    refused(errno.ENODATA, get, 5)
    for name in (b"security.capability\0", b"trusted.x\0", b"system.posix_acl_access\0"):
        refused(errno.ENODATA, client.call, Opcode.GETXATTR, node, fuse.GETXATTR_IN.pack(9, 0) + name)
        body = fuse.SETXATTR_IN.pack(1, 0) + name + b"x"
        refused(errno.EOPNOTSUPP, client.call, Opcode.SETXATTR, node, body)


def test_folders(client: Client, folder: Path) -> None:
    for number in range(40):
        (folder / "sub" / f"entry {number}").touch()
    sub = client.look_up("sub")
    names = {".", "..", *(f"entry {number}" for number in range(40))}
    assert client.list(sub, size=200).keys() == names
    plus = client.list(sub, size=400, plus=True)
    assert plus.keys() == names
    assert plus["."] == plus[".."] == 0
    assert client.stat(plus["entry 7"]).inode == (folder / "sub" / "entry 7").stat().st_ino
    made, attributes = client.entry(client.call(Opcode.MKDIR, sub, fuse.MKDIR_IN.pack(0o755, 0) + b"made\0"))
    assert stat.S_ISDIR(attributes.mode)
    assert client.list(made).keys() == {".", ".."}
    refused(errno.ENOTEMPTY, client.call, Opcode.RMDIR, ROOT_ID, b"sub\0")
    client.call(Opcode.RMDIR, sub, b"made\0")
    client.call(Opcode.UNLINK, sub, b"entry 7\0")
    assert not (folder / "sub" / "entry 7").exists()
    assert client.stat(plus["entry 7"]).links == 0  # as long as the guest knows it
    handle = fuse.OPEN_OUT.unpack(client.call(Opcode.OPENDIR, sub, fuse.OPEN_IN.pack(0, 0)))[0]
    client.call(Opcode.FSYNCDIR, sub, fuse.FSYNC_IN.pack(handle, 0, 0))


def test_renaming_and_links(client: Client, folder: Path) -> None:
    sub, node = client.look_up("sub"), client.look_up("file")
    client.call(Opcode.RENAME, ROOT_ID, fuse.RENAME_IN.pack(sub) + b"file\0moved\0")
    assert client.walk("sub/moved") == node  # the same file
    (folder / "other").write_bytes(b"other")

    def move(flags: int) -> bytes:
        return fuse.RENAME2_IN.pack(sub, flags, 0) + b"other\0moved\0"

    refused(errno.EEXIST, client.call, Opcode.RENAME2, ROOT_ID, move(1))
    client.call(Opcode.RENAME2, ROOT_ID, move(2))
    assert (folder / "other").read_bytes() == b"contents"
    refused(errno.EINVAL, client.call, Opcode.RENAME2, ROOT_ID, move(4))
    entry, attributes = client.entry(client.call(Opcode.LINK, sub, fuse.LINK_IN.pack(node) + b"hard\0"))
    assert (entry, attributes.links) == (node, 2)
    link, attributes = client.entry(client.call(Opcode.SYMLINK, ROOT_ID, b"soft\0../anywhere\0"))
    assert stat.S_ISLNK(attributes.mode)
    assert client.call(Opcode.READLINK, link) == b"../anywhere"
    _, attributes = client.entry(client.call(Opcode.LINK, sub, fuse.LINK_IN.pack(link) + b"soft too\0"))
    assert stat.S_ISLNK(attributes.mode)
    assert os.readlink(folder / "sub" / "soft too") == "../anywhere"


def test_space_and_holes(client: Client, folder: Path) -> None:
    assert len(client.call(Opcode.STATFS, ROOT_ID)) == 80
    node, handle = client.create("holes")
    client.call(Opcode.FALLOCATE, node, fuse.FALLOCATE_IN.pack(handle, 0, 100_000, 0, 0))
    assert (folder / "holes").stat().st_size == 100_000
    client.write(node, handle, b"x" * 100_000)
    client.call(Opcode.FALLOCATE, node, fuse.FALLOCATE_IN.pack(handle, 0, 65536, 3, 0))
    assert client.read(node, handle, 0, 10) == bytes(10)
    seek = fuse.LSEEK_IN.pack(handle, 0, os.SEEK_DATA, 0)
    assert fuse.LSEEK_OUT.unpack(client.call(Opcode.LSEEK, node, seek))[0] == 65536
    refused(errno.EINVAL, client.call, Opcode.LSEEK, node, fuse.LSEEK_IN.pack(handle, 0, 0, 0))
    target, other = client.create("copy")
    body = fuse.COPY_IN.pack(handle, 65536, target, other, 3, 10, 0)
    assert fuse.WRITE_OUT.unpack(client.call(Opcode.COPY_FILE_RANGE, node, body))[0] == 10
    assert (folder / "copy").read_bytes() == bytes(3) + b"x" * 10


# --- a hostile guest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../secret", b"sub/../file", b"/etc/passwd", b"a/b"])
def test_names_that_lead_elsewhere(client: Client, folder: Path, name: bytes) -> None:
    node = client.look_up("file")
    zero = name + b"\0"
    for opcode, body in (
        (Opcode.LOOKUP, zero),
        (Opcode.UNLINK, zero),
        (Opcode.RMDIR, zero),
        (Opcode.MKDIR, fuse.MKDIR_IN.pack(0o700, 0) + zero),
        (Opcode.MKNOD, fuse.MKNOD_IN.pack(stat.S_IFREG | 0o600, 0, 0, 0) + zero),
        (Opcode.CREATE, fuse.CREATE_IN.pack(RDWR, 0o600, 0, 0) + zero),
        (Opcode.SYMLINK, zero + b"target\0"),
        (Opcode.LINK, fuse.LINK_IN.pack(node) + zero),
        (Opcode.RENAME, fuse.RENAME_IN.pack(ROOT_ID) + zero + b"new\0"),
        (Opcode.RENAME, fuse.RENAME_IN.pack(ROOT_ID) + b"file\0" + zero),
    ):
        refused(errno.EINVAL, client.call, opcode, ROOT_ID, body)
    assert sorted(os.listdir(folder)) == ["file", "sub"]
    refused(errno.ENAMETOOLONG, client.look_up, "x" * 256)


def test_links_out_of_the_folder_are_not_followed(client: Client, folder: Path, tmp_path: Path) -> None:
    """Whoever made them: the guest, or the host's user."""
    (folder / "to file").symlink_to(tmp_path / "secret")
    client.call(Opcode.SYMLINK, ROOT_ID, b"to folder\0" + os.fsencode(tmp_path / "secrets") + b"\0")
    client.call(Opcode.SYMLINK, ROOT_ID, b"magic\0/proc/self/root\0")
    for name in ("to file", "to folder", "magic"):
        node = client.look_up(name)
        assert stat.S_ISLNK(client.stat(node).mode)
        refused(errno.EACCES, client.open, node)
        with pytest.raises(Failed):
            client.list(node)
        with pytest.raises(Failed):
            client.look_up("one", node)
        with pytest.raises(Failed):
            client.create("new", parent=node)
        with pytest.raises(Failed):
            client.set(node, SetAttr.SIZE, size=0)
        with pytest.raises(Failed):
            client.set(node, SetAttr.MODE, mode=0o777)
        client.set(node, SetAttr.UID, uid=7)
        client.set(node, SetAttr.MTIME, mtime=5)
        refused(errno.EACCES, client.create, name, WRONLY | os.O_TRUNC)
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) != 0o777
    assert (tmp_path / "secret").stat().st_mtime != 5
    assert os.listdir(tmp_path / "secrets") == ["one"]


def test_folder_that_becomes_a_link_under_the_guest(client: Client, folder: Path, tmp_path: Path) -> None:
    """A node is the file itself, not its path."""
    sub = client.look_up("sub")
    (folder / "sub" / "inside").write_bytes(b"inside")
    (folder / "sub").rename(folder / "moved")
    (folder / "sub").symlink_to(tmp_path / "secrets")
    assert client.list(sub).keys() == {".", "..", "inside"}
    refused(errno.ENOENT, client.look_up, "one", sub)


def test_special_files_are_never_opened(client: Client, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    node = client.look_up("pipe")
    refused(errno.EACCES, client.open, node)
    refused(errno.EACCES, client.create, "pipe", WRONLY)
    for kind in (stat.S_IFBLK, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFLNK):
        body = fuse.MKNOD_IN.pack(kind | 0o600, 0x801, 0, 0) + b"new\0"
        refused(errno.EPERM, client.call, Opcode.MKNOD, ROOT_ID, body)
    _, attributes = client.entry(
        client.call(Opcode.MKNOD, ROOT_ID, fuse.MKNOD_IN.pack(stat.S_IFIFO | 0o600, 0, 0, 0) + b"own\0")
    )
    assert stat.S_ISFIFO(attributes.mode)


def test_read_only_share_changes_nothing(folder: Path) -> None:
    server = FuseServer(os.fspath(folder), "t", read_only=True)
    client = Client(server)
    node = client.look_up("file")
    handle = client.open(node)
    name = b"new\0"
    bodies = {
        Opcode.SETATTR: fuse.SETATTR_IN.pack(*[0] * 16), Opcode.SYMLINK: name * 2, Opcode.UNLINK: b"file\0",
        Opcode.MKNOD: fuse.MKNOD_IN.pack(0, 0, 0, 0) + name, Opcode.MKDIR: fuse.MKDIR_IN.pack(0, 0) + name,
        Opcode.RMDIR: b"sub\0", Opcode.RENAME: fuse.RENAME_IN.pack(1) + b"file\0new\0",
        Opcode.RENAME2: fuse.RENAME2_IN.pack(1, 0, 0) + b"file\0new\0", Opcode.LINK: fuse.LINK_IN.pack(node) + name,
        Opcode.CREATE: fuse.CREATE_IN.pack(0, 0, 0, 0) + name, Opcode.SETXATTR: fuse.SETXATTR_IN.pack(0, 0) + name,
        Opcode.REMOVEXATTR: name, Opcode.WRITE: fuse.WRITE_IN.pack(handle, 0, 1, 0, 0, 0, 0) + b"x",
        Opcode.FALLOCATE: fuse.FALLOCATE_IN.pack(handle, 0, 1, 0, 0),
        Opcode.COPY_FILE_RANGE: fuse.COPY_IN.pack(handle, 0, node, handle, 0, 1, 0),
    }  # fmt: skip
    for opcode, body in bodies.items():
        refused(errno.EROFS, client.call, opcode, ROOT_ID, body)
    for flags in (WRONLY, RDWR, os.O_TRUNC):
        refused(errno.EROFS, client.open, node, flags)
    assert client.read(node, handle) == b"contents"
    server.close()


def test_nodes_and_handles_that_nobody_was_told_of(client: Client) -> None:
    refused(errno.ESTALE, client.stat, 77)
    refused(errno.ESTALE, client.call, Opcode.LINK, ROOT_ID, fuse.LINK_IN.pack(77) + b"x\0")
    refused(errno.ESTALE, client.call, Opcode.RENAME, ROOT_ID, fuse.RENAME_IN.pack(77) + b"file\0x\0")
    for opcode, body in (
        (Opcode.READ, fuse.READ_IN.pack(77, 0, 1, 0, 0, 0, 0)),
        (Opcode.READDIR, fuse.READ_IN.pack(77, 0, 1, 0, 0, 0, 0)),
        (Opcode.RELEASE, fuse.RELEASE_IN.pack(77, 0, 0, 0)),
        (Opcode.RELEASEDIR, fuse.RELEASE_IN.pack(77, 0, 0, 0)),
        (Opcode.FSYNC, fuse.FSYNC_IN.pack(77, 0, 0)),
        (Opcode.LSEEK, fuse.LSEEK_IN.pack(77, 0, os.SEEK_DATA, 0)),
    ):
        refused(errno.EBADF, client.call, opcode, ROOT_ID, body)


def test_forgetting(server: FuseServer, client: Client) -> None:
    node = client.look_up("file")
    client.look_up("file")
    assert client.raw(Opcode.FORGET, node, fuse.FORGET_IN.pack(1)) == b""
    assert client.stat(node).size == 8
    body = fuse.BATCH_FORGET_IN.pack(1000, 0) + fuse.FORGET_ONE.pack(node, 5) + fuse.FORGET_ONE.pack(ROOT_ID, 9) + b"x"
    assert client.raw(Opcode.BATCH_FORGET, 0, body) == b""
    refused(errno.ESTALE, client.stat, node)
    client.raw(Opcode.FORGET, 12345, fuse.FORGET_IN.pack(1))
    client.raw(Opcode.INTERRUPT, 0, bytes(8))
    assert server.open_count == 1
    assert client.look_up("file") != node  # numbers are not used again


def test_tables_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HANDLE_LIMIT", 3)
    monkeypatch.setattr(server_module, "ENTRY_LIMIT", 10)
    monkeypatch.setattr(tree_module, "NODE_LIMIT", 4)
    server = FuseServer(os.fspath(folder), "t")
    client = Client(server)
    node = client.look_up("file")
    for _ in range(3):
        client.open(node)
    refused(errno.ENFILE, client.open, node)
    refused(errno.ENFILE, client.list)
    refused(errno.ENFILE, client.create, "new")
    client.release(node, 2)
    for name in ("a", "b"):
        (folder / name).touch()
        client.look_up(name)
    refused(errno.ENFILE, client.look_up, "sub")
    assert client.list(plus=True)["sub"] == 0  # listed, and not known
    for number in range(10):
        (folder / f"more {number}").touch()
    refused(errno.ENOMEM, client.list)
    server.close()


def test_requests_of_wrong_sizes(server: FuseServer, client: Client) -> None:
    assert server.handle(b"short", 1000) == b""
    assert client.raw(Opcode.GETATTR, ROOT_ID, bytes(16), room=15) == b""
    for size in (0, 39, 57, 0xFFFF_FFFF):
        answer = client.raw(Opcode.GETATTR, ROOT_ID, bytes(16), size=size)
        assert fuse.OUT_HEADER.unpack(answer)[1] == -errno.EINVAL
    # An answer that does not fit is an error and not a part.
    refused(errno.EIO, client.call, Opcode.GETATTR, ROOT_ID, bytes(16), 64)
    node = client.look_up("file")
    handle = client.open(node, RDWR)
    assert client.call(Opcode.READ, node, fuse.READ_IN.pack(handle, 0, 1 << 31, 0, 0, 0, 0), room=20) == b"cont"
    body = fuse.WRITE_IN.pack(handle, 0, 100, 0, 0, 0, 0) + b"too little"
    refused(errno.EINVAL, client.call, Opcode.WRITE, node, body)
    for offset in (1 << 63, (1 << 64) - 1):
        refused(errno.EINVAL, client.read, node, handle, offset)
        refused(errno.EINVAL, client.write, node, handle, b"x", offset)


@given(
    opcode=st.sampled_from([*Opcode, 0, 38, 39, 4096]),
    node=st.integers(0, 4),
    body=st.binary(max_size=120),
    room=st.integers(0, 300),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_request_has_an_answer_that_fits(folder: Path, opcode: int, node: int, body: bytes, room: int) -> None:
    server = FuseServer(os.fspath(folder), "t", read_only=True)
    client = Client(server)
    client.look_up("file")
    client.look_up("sub")
    client.open(2)
    answer = client.raw(opcode, node, body, room)
    assert len(answer) <= room
    if answer:
        assert fuse.OUT_HEADER.unpack_from(answer)[0] == len(answer)
    server.close()
