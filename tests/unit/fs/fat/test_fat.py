"""FAT: written, judged by fsck.fat and mtools, and read back; others' file systems read; damage."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manor.base.errors import ConfigError, ManorError, ProtocolError
from manor.base.units import MiB
from manor.fs.entry import Entry, directory, regular, symlink
from manor.fs.fat.reader import FatReader
from manor.fs.fat.writer import Fat32Writer
from manor.fs.io import ImageFile, MemoryImage
from manor.fs.reading import list_directory, read_file

FSCK = shutil.which("fsck.fat", path="/usr/sbin:/sbin:/usr/bin")
MKFS = shutil.which("mkfs.fat", path="/usr/sbin:/sbin:/usr/bin")
MTYPE = shutil.which("mtype")
MCOPY = shutil.which("mcopy")
needs_fsck = pytest.mark.skipif(FSCK is None, reason="fsck.fat is not installed (Debian package dosfstools)")
needs_mtools = pytest.mark.skipif(MTYPE is None, reason="mtools is not installed")
SIZE = 34 * MiB
TIME = 1_700_000_000 * 10**9


def write(path: Path, entries: list[Entry], size: int = SIZE) -> None:
    with ImageFile(path, size=size) as image:
        writer = Fat32Writer(image, size, volume_id=0x1234ABCD, label="ESP")
        for entry in entries:
            writer.add(entry)
        writer.finish()


def check(path: Path) -> None:
    assert FSCK is not None
    done = subprocess.run([FSCK, "-n", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == 2, done.stdout


NAMES = st.one_of(
    st.text("ABCabc019._- ~+=,;[]", min_size=1, max_size=20),
    st.text(st.characters(blacklist_characters='"*/:<>?\\|\x7f', min_codepoint=32, blacklist_categories=("Cs", "Cc")),
            min_size=1, max_size=40),
).filter(lambda name: name.strip(" .") == name and len(name.encode("utf-16-le")) <= 510)  # fmt: skip


@needs_fsck
@pytest.mark.parametrize("size", [34 * MiB, 70 * MiB, 256 * MiB, 600 * MiB])
def test_empty_ones_are_clean(tmp_path: Path, size: int) -> None:
    write(tmp_path / "image", [], size)
    check(tmp_path / "image")


@needs_fsck
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.dictionaries(NAMES, st.binary(max_size=5000), max_size=25))
def test_any_names_are_clean_and_read_back(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tmp_path / "image"
    unique = {name.casefold(): (name, data) for name, data in files.items()}
    unique = {name.lower(): (name, data) for name, data in unique.values()}
    write(path, [directory("d"), *(regular(f"d/{name}", data, mtime=TIME) for name, data in unique.values())])
    check(path)
    with ImageFile(path) as image:
        reader = FatReader(image)
        assert reader.uuid == "1234-ABCD"
        assert reader.label == "ESP"
        nodes = {node.name: node for node in list_directory(reader, "d")}
        assert nodes.keys() == {name for name, _ in unique.values()}
        for name, data in unique.values():
            assert reader.contents(nodes[name], 1 << 20) == data


@needs_fsck
@needs_mtools
def test_mtools_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "image"
    many = [regular(f"loader/a long name, number {number}.conf", b"%d" % number) for number in range(400)]
    write(path, [directory("EFI"), directory("EFI/BOOT"), regular("EFI/BOOT/BOOTX64.EFI", b"q" * 100_000),
                 directory("loader"), *many])  # fmt: skip
    check(path)
    assert MTYPE is not None
    for name, data in (("EFI/BOOT/BOOTX64.EFI", b"q" * 100_000), ("loader/a long name, number 77.conf", b"77")):
        done = subprocess.run([MTYPE, "-i", path, f"::{name}"], capture_output=True, check=True)
        assert done.stdout == data


@needs_mtools
@pytest.mark.skipif(MKFS is None, reason="mkfs.fat is not installed (Debian package dosfstools)")
@pytest.mark.parametrize(("kind", "size"), [("12", MiB), ("16", 16 * MiB), ("32", 40 * MiB)])
def test_all_three_kinds_made_by_others_are_read(tmp_path: Path, kind: str, size: int) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(size)
    assert MKFS is not None
    assert MCOPY is not None
    subprocess.run([MKFS, "-F", kind, path], capture_output=True, check=True)
    data = bytes(random.Random(1).randrange(256) for _ in range(50_000))
    (tmp_path / "loader").mkdir()
    (tmp_path / "loader" / "A longer Name.conf").write_bytes(data)
    (tmp_path / "loader" / "short.txt").write_bytes(b"short")
    subprocess.run([MCOPY, "-s", "-i", path, tmp_path / "loader", "::"], check=True)
    with ImageFile(path) as image:
        reader = FatReader(image)
        assert [node.name for node in list_directory(reader, "/LOADER")] == ["A longer Name.conf", "short.txt"]
        assert read_file(reader, "loader/a LONGER name.conf", 1 << 20) == data
        assert read_file(reader, "Loader/SHORT.TXT", 10) == b"short"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([regular("no/such", b"")], "no directory"),
        ([regular("a", b""), regular("A", b"")], "names here have no case"),
        ([regular("a:b", b"")], "bad name"),
        ([regular("end.", b"")], "bad name"),
        ([symlink("s", "t")], "neither a directory nor"),
        ([regular("large", bytes(36 * MiB))], "make it larger"),
    ],
)
def test_what_cannot_be_written_is_said(entries: list[Entry], message: str) -> None:
    writer = Fat32Writer(MemoryImage(SIZE), SIZE, volume_id=1)
    for entry in entries[:-1]:
        writer.add(entry)
    with pytest.raises(ConfigError, match=message):
        writer.add(entries[-1])


def test_too_small_for_fat32() -> None:
    with pytest.raises(ConfigError, match="needs 34 MiB"):
        Fat32Writer(MemoryImage(MiB), 20 * MiB, volume_id=1)


@pytest.fixture(scope="module")
def image() -> bytes:
    memory = MemoryImage(SIZE)
    writer = Fat32Writer(memory, SIZE, volume_id=1)
    writer.add(directory("d"))
    for number in range(30):
        writer.add(regular(f"d/file with a long name {number}", b"x" * 2000 * (number % 3)))
    writer.finish()
    return bytes(memory.data)


def test_a_loop_of_clusters_ends(image: bytes) -> None:
    memory = MemoryImage(image)
    reader = FatReader(memory)
    node = next(each for each in list_directory(reader, "d") if each.size == 4000)
    start = 32 * 512 + 4 * node.handle
    memory.write(start, node.handle.to_bytes(4, "little"))
    assert len(FatReader(memory).contents(node, 1 << 20)) == 4000
    memory.write(start, b"\xff\xff\xff\x0f")
    with pytest.raises(ProtocolError, match="end before it does"):
        FatReader(memory).contents(node, 1 << 20)


@pytest.mark.parametrize("seed", range(40))
def test_damage_ends_in_an_error_or_in_wrong_data(image: bytes, seed: int) -> None:
    dice = random.Random(seed)
    memory = MemoryImage(image)
    for _ in range(dice.randrange(1, 20)):
        at = dice.choice([dice.randrange(90), 32 * 512 + dice.randrange(500), 574_464 + dice.randrange(8000)])
        memory.data[at] = dice.randrange(256)
    try:
        reader = FatReader(memory)
        for node in list_directory(reader, "d"):
            if node.kind == "file":
                reader.contents(node, 1 << 20)
    except ManorError:
        pass
