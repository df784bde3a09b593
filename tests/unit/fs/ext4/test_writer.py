"""The writer of ext4, judged by e2fsck and debugfs, which nobody here wrote, and by our reader."""

from __future__ import annotations

import io
import re
import shutil
import stat
import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manor.base.errors import ConfigError
from manor.base.units import GiB, MiB
from manor.fs.entry import Entry, FileData, directory, regular, symlink
from manor.fs.ext4.geometry import BLOCK, Geometry
from manor.fs.ext4.reader import Ext4Reader
from manor.fs.ext4.writer import Ext4Writer
from manor.fs.io import ImageFile, MemoryImage
from manor.fs.reading import list_directory, read_file, resolve
from tests.unit.fs.trees import trees

IDENTITY = uuid.UUID("11111111-2222-3333-4444-555555555555")
E2FSCK = shutil.which("e2fsck") or shutil.which("e2fsck", path="/usr/sbin:/sbin")
DEBUGFS = shutil.which("debugfs") or shutil.which("debugfs", path="/usr/sbin:/sbin")
needs_e2fsck = pytest.mark.skipif(E2FSCK is None, reason="e2fsck is not installed (Debian package e2fsprogs)")
needs_debugfs = pytest.mark.skipif(DEBUGFS is None, reason="debugfs is not installed (Debian package e2fsprogs)")


def write(path: Path, size: int, entries: list[Entry], *, inodes: int = 0) -> None:
    with ImageFile(path, size=size) as image:
        writer = Ext4Writer(image, size, identity=IDENTITY, label="test", created=1_700_000_000, inodes=inodes)
        for entry in entries:
            writer.add(entry)
        writer.finish()


def check(path: Path) -> None:
    """The checker finds nothing to say."""
    assert E2FSCK is not None
    done = subprocess.run([E2FSCK, "-fn", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Pass ")]
    assert len(lines) == 1, done.stdout


def debugfs(path: Path, request: str) -> str:
    assert DEBUGFS is not None
    return subprocess.run([DEBUGFS, "-R", request, path], capture_output=True, text=True, check=True).stdout


@needs_e2fsck
@pytest.mark.parametrize(
    "size", [16 * MiB, 17 * MiB + 4096, 127 * MiB, 129 * MiB, 160 * MiB, 1 * GiB, 9 * GiB, 65 * GiB]
)
def test_empty_file_systems_of_all_sizes_are_clean(tmp_path: Path, size: int) -> None:
    write(tmp_path / "image", size, [])
    check(tmp_path / "image")


@needs_e2fsck
def test_a_large_file_system_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "image"
    write(path, 256 * GiB, [])
    assert path.stat().st_blocks * 512 < 8 * MiB
    check(path)


@needs_e2fsck
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(trees())
def test_any_tree_is_clean_and_read_back(tmp_path: Path, entries: list[Entry]) -> None:
    path = tmp_path / "image"
    write(path, 64 * MiB, entries)
    check(path)
    with ImageFile(path) as image:
        reader = Ext4Reader(image)
        for entry in entries:
            parent, _, name = entry.path.rpartition("/")
            node = reader.find(resolve(reader, parent), name)
            assert node is not None
            if entry.link is not None:
                other_parent, _, other_name = entry.link.rpartition("/")
                other = reader.find(resolve(reader, other_parent), other_name)
                assert other is not None
                assert other.handle == node.handle
                continue
            inode = reader.inode(node.handle)
            assert (inode.mode, inode.uid, inode.gid, inode.mtime) == (entry.mode, entry.uid, entry.gid, entry.mtime)
            assert reader.xattrs(inode) == entry.xattrs
            if node.kind in ("file", "link"):
                assert reader.contents(node, 1 << 20) == entry.data
            elif entry.device != (0, 0):
                assert inode.device == entry.device


@needs_e2fsck
@pytest.mark.parametrize("count", [50, 200, 3000, 25_000])
def test_directories_grow_an_index_that_the_checker_accepts(tmp_path: Path, count: int) -> None:
    path = tmp_path / "image"
    names = [f"a rather long name of a file, so that directories grow, number {number} é" for number in range(count)]
    files = [regular("d/first", b"x"), *(Entry(f"d/{name}", 0, link="d/first") for name in names)]
    write(path, 256 * MiB, [directory("d"), *files])
    check(path)
    with ImageFile(path) as image:
        reader = Ext4Reader(image)
        found = {node.name for node in list_directory(reader, "d")}
    assert found == {"first", *names}


@needs_debugfs
def test_names_are_hashed_as_others_hash_them(tmp_path: Path) -> None:
    from manor.fs.ext4.htree import name_hash

    path = tmp_path / "image"
    write(path, 16 * MiB, [])
    seed = uuid.uuid5(IDENTITY, "hash seed")
    for name in ("a", "lost+found", "x" * 31, "x" * 32, "x" * 33, "y" * 200, "größe"):
        said = debugfs(path, f'dx_hash -h half_md4 -s {seed} "{name}"')
        found = re.search(r"0x([0-9a-f]+) \(minor", said)
        assert found is not None, said
        assert int(found[1], 16) == name_hash(name.encode(), seed.bytes)


NOBODY = 2**32 - 1
ACCESS = bytes.fromhex("02000000") + b"".join(
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in ((1, 7, NOBODY), (4, 5, NOBODY), (8, 5, 4), (16, 5, NOBODY), (32, 5, NOBODY))
)
"""An access control list: the owner, the group, the group 4, the mask, others."""


@needs_debugfs
def test_attributes_and_devices_as_debugfs_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "image"
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    long_value = b"v" * 300
    write(
        path, 16 * MiB,
        [
            Entry("ping", stat.S_IFREG | 0o755, data=b"#!", xattrs={"security.capability": capability}),
            Entry("long", stat.S_IFREG | 0o644, xattrs={"user.long": long_value, "user.short": b"s"}),
            Entry("journal", stat.S_IFDIR | 0o755, xattrs={"system.posix_acl_access": ACCESS, "user.x": b"1"}),
            Entry("tty", stat.S_IFCHR | 0o620, 0, 5, device=(5, 0)),
            Entry("disk", stat.S_IFBLK | 0o660, device=(259, 70_000)),
            symlink("short", "target"),
        ],
    )  # fmt: skip
    assert debugfs(path, "ea_get -r ping security.capability").startswith("security.capability (20) =")
    raw = tmp_path / "value"
    debugfs(path, f"ea_get -f {raw} ping security.capability")
    assert raw.read_bytes() == capability
    assert "v" * 300 in debugfs(path, "ea_get long user.long")
    debugfs(path, f"ea_get -f {raw} journal system.posix_acl_access")
    # In the form of the kernel's interface, as we took it; but debugfs has no number for what needs none.
    assert raw.read_bytes() == ACCESS.replace(struct.pack("<I", NOBODY), bytes(4))
    assert "Device major/minor number: 05:00" in debugfs(path, "stat tty")
    assert "Device major/minor number: 259:70000" in debugfs(path, "stat disk")
    assert 'Fast link dest: "target"' in debugfs(path, "stat short")


@needs_e2fsck
def test_a_file_in_more_pieces_than_an_inode_holds(tmp_path: Path) -> None:
    """Backup groups and tables lie between: at 9 GiB a file that fills the disk has more than four extents."""
    size = 2 * GiB
    path = tmp_path / "image"
    length = 1900 * MiB
    zeros = bytes(MiB)

    class Zeros:
        def read(self, count: int) -> bytes:
            return zeros[:count]

        def __enter__(self) -> Zeros:
            return self

        def __exit__(self, *_: object) -> None:
            return

    class Dropping(ImageFile):
        def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
            if data != zeros[: len(data)]:
                super().write(offset, data)

    with Dropping(path, size=size) as image:
        writer = Ext4Writer(image, size, identity=IDENTITY)
        writer.add(Entry("large", stat.S_IFREG | 0o644, data=FileData(length, Zeros)))  # type: ignore[arg-type]
        writer.add(regular("behind", b"here"))
        writer.finish()
    check(path)
    with ImageFile(path) as image:
        reader = Ext4Reader(image)
        large = reader.inode(resolve(reader, "large").handle)
        assert sum(count for _, count, _ in reader._extents(large)) * BLOCK == length
        assert len(list(reader._extents(large))) > 4
        assert read_file(reader, "behind", 10) == b"here"


def test_equal_input_gives_equal_bytes() -> None:
    images = []
    for _ in range(2):
        image = MemoryImage(16 * MiB)
        writer = Ext4Writer(image, image.size, identity=IDENTITY, created=5)
        writer.add(directory("d"))
        writer.add(regular("d/f", b"data"))
        writer.finish()
        images.append(image.data)
    assert images[0] == images[1]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([regular("no/such", b"")], "no directory"),
        ([regular("a", b""), regular("a", b"")], "there already"),
        ([Entry("b", 0, link="nothing")], "no earlier file"),
        ([directory("d"), Entry("b", 0, link="d")], "no earlier file"),
        ([regular("..", b"")], "no directory for it, or no name"),
        ([symlink("s", "")], "no target"),
        ([Entry("x", stat.S_IFREG, xattrs={"odd": b""})], "not a name of an extended attribute"),
        ([Entry("x", stat.S_IFREG, xattrs={"user.x": bytes(5000)})], "larger than a block"),
        ([Entry("x", stat.S_IFREG, data=FileData(5, lambda: io.BytesIO(b"1234")))], "ended early"),
        ([regular("x", bytes(17 * MiB))], "do not fit"),
    ],
)
def test_what_cannot_be_written_is_said(entries: list[Entry], message: str) -> None:
    image = MemoryImage(16 * MiB)
    writer = Ext4Writer(image, image.size, identity=IDENTITY)
    for entry in entries[:-1]:
        writer.add(entry)
    with pytest.raises(ConfigError, match=message):
        writer.add(entries[-1])


@given(st.integers(16 * MiB, 40 * GiB), st.integers(0, 100_000))
def test_metadata_never_overlaps(size: int, inodes: int) -> None:
    try:
        geometry = Geometry.of(size, inodes)
    except ConfigError:
        assert inodes > size // 16384
        return
    position = 0
    for start, count in geometry.fixed_ranges():
        assert start >= position
        position = start + count
    assert position <= geometry.blocks <= size // BLOCK
    assert geometry.inodes >= inodes
    free = sum(count for _, count in geometry.free_ranges())
    assert free + sum(count for _, count in geometry.fixed_ranges()) == geometry.blocks
