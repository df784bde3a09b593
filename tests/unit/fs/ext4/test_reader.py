"""The reader of ext4: file systems that mke2fs made, and damaged ones."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from manor.base.errors import ManorError, ProtocolError
from manor.base.units import MiB
from manor.fs.entry import directory, regular, symlink
from manor.fs.ext4.reader import Ext4Reader, is_ext
from manor.fs.ext4.writer import Ext4Writer
from manor.fs.io import ImageFile, MemoryImage
from manor.fs.reading import PathNotFound, list_directory, read_file, resolve

MKE2FS = shutil.which("mke2fs") or shutil.which("mke2fs", path="/usr/sbin:/sbin")
needs_mke2fs = pytest.mark.skipif(MKE2FS is None, reason="mke2fs is not installed (Debian package e2fsprogs)")


def small() -> MemoryImage:
    image = MemoryImage(16 * MiB)
    writer = Ext4Writer(image, image.size, identity=uuid.UUID(int=1))
    for entry in (
        directory("boot"),
        regular("boot/kernel", b"kernel" * 3000),
        symlink("kernel", "/boot/kernel"),
        symlink("up", "boot/../../boot"),
        symlink("loop", "loop2"),
        symlink("loop2", "loop"),
        *(regular(f"boot/file{number}", b"") for number in range(300)),
    ):
        writer.add(entry)
    writer.finish()
    return image


@needs_mke2fs
@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ext2"), ("-t", "ext3"), ("-t", "ext4"), ("-t", "ext4", "-b", "1024"),
        ("-t", "ext4", "-O", "^64bit"), ("-t", "ext4", "-O", "meta_bg,^resize_inode"),
        ("-t", "ext4", "-O", "inline_data"), ("-t", "ext4", "-b", "2048"),
        ("-t", "ext2", "-b", "1024", "-I", "128"), ("-t", "ext4", "-O", "metadata_csum_seed,large_dir"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_file_systems_of_mke2fs(tmp_path: Path, options: tuple[str, ...]) -> None:
    tree = tmp_path / "tree"
    (tree / "boot" / "deep").mkdir(parents=True)
    contents = {
        "boot/kernel": os.urandom(3 * MiB), "boot/deep/small": b"in the inode", "boot/deep/empty": b"",
        "boot/medium": b"m" * 100_000,
    }  # fmt: skip
    for name, data in contents.items():
        (tree / name).write_bytes(data)
    with (tree / "sparse").open("wb") as file:
        file.seek(1_000_000)
        file.write(b"end")
    (tree / "many").mkdir()
    for number in range(500):
        (tree / "many" / f"name of a file, number {number}").write_bytes(b"%d" % number)
    (tree / "link").symlink_to("boot/deep")
    (tree / "long").symlink_to("x" * 100)
    path = tmp_path / "image"
    assert MKE2FS is not None
    command = [MKE2FS, "-q", *options, "-d", str(tree), str(path), "32M"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with ImageFile(path) as image:
        reader = Ext4Reader(image)
        for name, data in contents.items():
            assert read_file(reader, name, 1 << 30) == data
        assert read_file(reader, "sparse", 1 << 30) == bytes(1_000_000) + b"end"
        assert read_file(reader, "/link/small", 100) == b"in the inode"
        assert len(list_directory(reader, "many")) == 500
        assert read_file(reader, "many/name of a file, number 321", 10) == b"321"
        assert reader.contents(next(n for n in list_directory(reader, "/") if n.name == "long"), 200) == b"x" * 100


def test_links_are_followed_inside_the_file_system() -> None:
    reader = Ext4Reader(small())
    assert read_file(reader, "kernel", 1 << 20) == b"kernel" * 3000
    assert resolve(reader, "up").name == "boot"
    with pytest.raises(ProtocolError, match="more than 40 links"):
        resolve(reader, "loop")
    with pytest.raises(PathNotFound, match="there is no boot/nothing"):
        resolve(reader, "boot/nothing")
    with pytest.raises(PathNotFound, match="no regular file"):
        read_file(reader, "boot", 10)
    with pytest.raises(PathNotFound, match="no directory"):
        list_directory(reader, "kernel")
    with pytest.raises(ProtocolError, match="more than the 10 that are read"):
        read_file(reader, "kernel", 10)


def test_other_contents_are_no_ext4() -> None:
    assert not is_ext(MemoryImage(100))
    assert not is_ext(MemoryImage(1 * MiB))
    with pytest.raises(ProtocolError, match="no ext4"):
        Ext4Reader(MemoryImage(1 * MiB))


def test_an_image_that_is_cut_off_is_refused() -> None:
    with pytest.raises(ProtocolError, match="cut off"):
        Ext4Reader(MemoryImage(small().data[: 8 * MiB]))


@pytest.mark.parametrize("seed", range(40))
def test_damage_ends_in_an_error_or_in_wrong_data_but_in_nothing_else(seed: int) -> None:
    dice = random.Random(seed)
    image = small()
    starts = range(0, len(image.data), 4096)
    used = [start // 4096 for start in starts if any(image.data[start : start + 4096])]
    for _ in range(dice.randrange(1, 12)):
        block = dice.choice([0, 0, *used])
        at = block * 4096 + dice.choice([1024, 0]) * (block == 0) + dice.randrange(1024)
        image.data[at] = dice.randrange(256)
    try:
        reader = Ext4Reader(image)
        for node in list_directory(reader, "boot")[:30]:
            if node.kind == "file":
                reader.contents(node, 1 << 20)
        resolve(reader, "kernel")
    except ManorError:
        pass
