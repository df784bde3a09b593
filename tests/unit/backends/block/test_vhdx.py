"""VHDX: the log of a writer that did not come to its end, and images over a parent."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from manor.backends.block.crc32c import crc32c
from manor.backends.block.file import open_file
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.vhdx import HEADERS, REGION_TABLES, read_header
from manor.backends.block.vhdx_log import PatchedFile, replay
from manor.base.errors import ConfigError, ProtocolError
from manor.base.units import KiB, MiB

needs_qemu = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")
BAT = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
METADATA = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
FILE_PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
PARENT_LOCATOR = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
VHDX_PARENT = UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913").bytes_le


def run(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def contents(path: Path) -> bytes:
    image = open_image(str(path), OpenOptions(read_only=True))
    data = bytearray(image.size)
    image.read(0, [memoryview(data)])
    image.close()
    return bytes(data)


def seal(image: bytearray, at: int, size: int) -> None:
    """Make the checksum of a structure right again."""
    image[at + 4 : at + 8] = bytes(4)
    image[at + 4 : at + 8] = crc32c(image[at : at + size]).to_bytes(4, "little")


def regions(image: bytes | bytearray) -> dict[bytes, int]:
    table = REGION_TABLES[0]
    (count,) = struct.unpack_from("<I", image, table + 8)
    rows = [struct.unpack_from("<16sQ", image, table + 16 + 32 * index) for index in range(count)]
    return dict(rows)


def test_checksum_of_the_standard() -> None:
    # RFC 3720, B.4, and the usual check value.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"123456789") == 0xE3069283


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """An image whose writer died between the log and the block table, made from one that was written normally.

    qemu-io logs each change of the table and then makes it. The last change is taken back, and the header says again
    that there is a log to replay.
    """
    path = tmp_path / "disk.vhdx"
    run("qemu-img", "create", "-q", "-f", "vhdx", path, "64M")
    run("qemu-io", "-f", "vhdx", "-c", "write -P 7 0 4M", "-c", "write -P 9 20M 100k", path)
    image = bytearray(path.read_bytes())
    log = 1 * MiB
    entries = [at for at in range(log, 2 * MiB, 4096) if image.startswith(b"loge", at)]
    last = max(entries, key=lambda at: struct.unpack_from("<Q", image, at + 16)[0])
    guid = image[last + 32 : last + 48]
    (place,) = struct.unpack_from("<Q", image, last + 64 + 16)
    assert regions(image)[BAT] == place
    image[place + 2 * 8 : place + 3 * 8] = bytes(8)  # block 2 of 8 MiB each: 20 MiB
    for header in HEADERS:
        image[header + 48 : header + 64] = guid
        seal(image, header, 4 * KiB)
    path.write_bytes(image)
    return path


@needs_qemu
def test_log_is_replayed_in_memory_as_qemu_replays_it(unfinished: Path, tmp_path: Path) -> None:
    before = unfinished.read_bytes()
    ours = contents(unfinished)
    assert unfinished.read_bytes() == before, "reading changes nothing"
    assert ours[20 * MiB : 20 * MiB + 100 * KiB] == b"\x09" * (100 * KiB)
    run("qemu-img", "check", "-f", "vhdx", "-r", "all", unfinished)
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", unfinished, tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == ours


@needs_qemu
def test_damaged_log_is_refused(unfinished: Path) -> None:
    image = bytearray(unfinished.read_bytes())
    for at in range(1 * MiB, 2 * MiB, 4096):
        if image.startswith(b"loge", at):
            image[at + 100] ^= 0xFF
    unfinished.write_bytes(image)
    with pytest.raises(ProtocolError, match="its log has no valid entry"):
        contents(unfinished)


@needs_qemu
def test_patched_file_has_changes_at_their_borders(unfinished: Path) -> None:
    file = open_file(str(unfinished), read_only=True)
    assert read_header(file).log_guid != bytes(16)
    image = open_image(str(unfinished), OpenOptions(read_only=True, force_share=True))
    patched = image._file  # type: ignore[attr-defined]
    assert isinstance(patched, PatchedFile)
    change = patched._changes[0]
    whole = bytearray(3 * 4096)
    patched.read(change.offset - 4096, [memoryview(whole)[:100], memoryview(whole)[100:]])
    assert bytes(whole[4096:8192]) == change.data
    for start in (-10, 4080):
        part = bytearray(20)
        patched.read(change.offset + start, [memoryview(part)])
        assert part == whole[4096 + start : 4096 + start + 20]
    image.close()
    file.close()


@pytest.fixture
def child(tmp_path: Path) -> Path:
    """A differencing image over base.vhdx, which holds 5s. It has block 1 (2s), and of block 0 sectors 3 to 69 (1s).

    Made from an empty image by what MS-VHDX says: no tool here makes one.
    """
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", tmp_path / "base.vhdx", "8M")
    run("qemu-io", "-f", "vhdx", "-c", "write -P 5 0 8M", tmp_path / "base.vhdx")
    path = tmp_path / "child.vhdx"
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", path, "8M")
    image = bytearray(path.read_bytes())
    base = (tmp_path / "base.vhdx").read_bytes()
    newest = max(HEADERS, key=lambda at: struct.unpack_from("<Q", base, at + 8)[0])
    linkage = str(UUID(bytes_le=base[newest + 32 : newest + 48]))
    places = regions(image)
    metadata = places[METADATA]
    (count,) = struct.unpack_from("<H", image, metadata + 10)
    for index in range(count):
        guid, start = struct.unpack_from("<16sI", image, metadata + 32 + 32 * index)
        if guid == FILE_PARAMETERS:
            image[metadata + start + 4] |= 2
    keys = {"parent_linkage": "{" + linkage + "}", "relative_path": ".\\base.vhdx"}
    rows, texts = b"", b""
    for key, value in keys.items():
        key_text, value_text = key.encode("utf-16-le"), value.encode("utf-16-le")
        at = 20 + 12 * len(keys) + len(texts)
        rows += struct.pack("<IIHH", at, at + len(key_text), len(key_text), len(value_text))
        texts += key_text + value_text
    locator = VHDX_PARENT + struct.pack("<HH", 0, len(keys)) + rows + texts
    image[metadata + 512 * KiB : metadata + 512 * KiB + len(locator)] = locator
    entry = struct.pack("<16sIIII", PARENT_LOCATOR, 512 * KiB, len(locator), 4, 0)
    image[metadata + 32 + 32 * count : metadata + 64 + 32 * count] = entry
    struct.pack_into("<H", image, metadata + 10, count + 1)
    image += bytes(-len(image) % MiB)
    blocks = len(image)
    bitmap = bytearray(MiB)
    for sector in range(3, 70):
        bitmap[sector // 8] |= 1 << sector % 8
    image += b"\x01" * MiB + b"\x02" * MiB + bitmap
    ratio = (1 << 23) * 512 // MiB
    struct.pack_into("<QQ", image, places[BAT], blocks | 7, blocks + MiB | 6)
    struct.pack_into("<6Q", image, places[BAT] + 16, *[0] * 6)
    # The table is padded to 1 MiB, so the bitmap's entry has room.
    struct.pack_into("<Q", image, places[BAT] + ratio * 8, blocks + 2 * MiB | 6)
    path.write_bytes(image)
    return path


@needs_qemu
def test_differencing_image_takes_sectors_from_its_parent(child: Path) -> None:
    expected = bytearray(b"\x05" * (8 * MiB))
    expected[3 * 512 : 70 * 512] = b"\x01" * (67 * 512)
    expected[MiB : 2 * MiB] = b"\x02" * MiB
    assert contents(child) == expected
    image = open_image(str(child), OpenOptions(read_only=True))
    for offset, size in ((1535, 3), (1024, 70 * 512), (69 * 512, 1000), (MiB - 5, 10)):
        part = bytearray(size)
        image.read(offset, [memoryview(part)])
        assert part == expected[offset : offset + size]
    assert {extent.depth for extent in image.extents(0, image.size)} == {0, 1}
    image.close()


@needs_qemu
def test_parent_that_was_changed_is_refused(child: Path) -> None:
    # A writer gives the disk a new identity before its first change.
    run("qemu-io", "-f", "vhdx", "-c", "write -P 6 0 512", child.parent / "base.vhdx")
    with pytest.raises(ConfigError, match="was changed after this image was made"):
        contents(child)


GUID = bytes(range(16))
LOG_SECTORS = 16


def entry(sequence: int, tail: int, *changes: tuple[int, bytes | int], guid: bytes = GUID) -> bytes:
    """An entry of a log: each change is (place, 4096 bytes of data or a number of zeros). Tail in sectors."""
    descriptors, sectors = b"", b""
    for place, what in changes:
        if isinstance(what, int):
            descriptors += struct.pack("<4sIQQQ", b"zero", 0, what, place, sequence)
        else:
            descriptors += struct.pack("<4s4s8sQQ", b"desc", what[-4:], what[:8], place, sequence)
            sectors += (
                struct.pack("<4sI", b"data", sequence >> 32) + what[8:-4] + struct.pack("<I", sequence & 0xFFFF_FFFF)
            )
    size = 4096 + len(sectors)
    head = struct.pack("<4sIIIQII16sQQ", b"loge", 0, size, tail * 4096, sequence, len(changes), 0, guid, 0, 1 * MiB)
    made = bytearray((head + descriptors).ljust(4096, b"\0") + sectors)
    seal(made, 0, len(made))
    return bytes(made)


def replayed(tmp_path: Path, entries: dict[int, bytes]) -> bytes:
    """What a file of 1s reads as after the log, whose entries stand at the given sectors; round the end of the log."""
    log = bytearray(LOG_SECTORS * 4096)
    for sector, data in entries.items():
        at = sector * 4096
        rest = max(0, at + len(data) - len(log))
        log[at : at + len(data) - rest] = data[: len(data) - rest]
        log[:rest] = data[len(data) - rest :]
    path = tmp_path / "file"
    path.write_bytes(bytes(log) + b"\x01" * (8 * 4096))
    file = replay(open_file(str(path), read_only=True), GUID, 0, len(log))
    found = bytearray(file.size() - len(log))
    file.read(len(log), [memoryview(found)])
    file.close()
    return bytes(found)


BASE = LOG_SECTORS * 4096
TWOS = b"\x02" * 4096
THREES = b"\x03" * 4096


def test_log_of_several_entries_round_its_end(tmp_path: Path) -> None:
    """The active sequence is 7, 8, 9 from sector 13; older entries, and those of another writer, do not count."""
    entries = {
        1: entry(9, 13, (BASE + 8192, 4096)),
        13: entry(7, 13, (BASE, TWOS)),
        15: entry(8, 13, (BASE, THREES)),
        4: entry(3, 4, (BASE + 12288, TWOS)),
        6: entry(99, 6, (BASE + 12288, TWOS), guid=bytes(16)),
    }
    data = replayed(tmp_path, entries)
    assert data[:4096] == THREES
    assert data[4096:8192] == b"\x01" * 4096
    assert data[8192:12288] == bytes(4096)
    assert data[12288 : 8 * 4096] == b"\x01" * (5 * 4096)
    assert len(data) == MiB - BASE, "the file is shown as long as its writer made it"


def test_sequence_without_its_tail_does_not_count(tmp_path: Path) -> None:
    """Of the newest sequence the first entry is damaged: then it never was complete, and the one before it holds."""
    broken = bytearray(entry(7, 6, (BASE, TWOS)))
    broken[200] ^= 1
    entries = {6: bytes(broken), 8: entry(8, 6, (BASE, THREES)), 2: entry(3, 2, (BASE + 4096, TWOS))}
    data = replayed(tmp_path, entries)
    assert data[:4096] == b"\x01" * 4096
    assert data[4096:8192] == TWOS


@pytest.mark.parametrize("at", [0, 8, 12, 16, 24, 30, 64, 72, 80, 88, 4096, 4100, 8191])
def test_entry_with_a_wrong_byte_is_none(tmp_path: Path, at: int) -> None:
    damaged = bytearray(entry(5, 0, (BASE, TWOS)))
    damaged[at] ^= 0x10
    with pytest.raises(ProtocolError, match="no valid entry"):
        replayed(tmp_path, {0: bytes(damaged)})


def test_entry_whose_parts_contradict_each_other_is_none(tmp_path: Path) -> None:
    """With a right checksum, as whoever makes an image to attack its reader would give it."""
    lies = {
        24: b"\xff\xff\xff\x7f",  # descriptors
        64: b"what",  # the descriptor's mark
        80: b"\x01",  # its place
        88: b"\x06",  # its sequence number
        4096: b"none",  # the data's mark
        4100: b"\x01",  # its half of the number
    }
    for at, value in lies.items():
        damaged = bytearray(entry(5, 0, (BASE, TWOS)))
        damaged[at : at + len(value)] = value
        seal(damaged, 0, len(damaged))
        with pytest.raises(ProtocolError, match="no valid entry"):
            replayed(tmp_path, {0: bytes(damaged)})
