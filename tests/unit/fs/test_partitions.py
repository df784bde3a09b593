"""Partition tables: GPT by our reader and by others' words, damaged ones, MBRs."""

from __future__ import annotations

import random
import struct
import uuid

import pytest

from manor.base.errors import ConfigError, ManorError, ProtocolError
from manor.base.units import MiB
from manor.fs.io import MemoryImage
from manor.fs.partitions import ESP, LINUX_ROOT_X86_64, Partition, read_partitions, usable, write_gpt

SIZE = 8 * MiB
GUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
FIRST = Partition(1 * MiB, 2 * MiB, ESP, uuid.UUID(int=6), "esp", True)
SECOND = Partition(3 * MiB, 4 * MiB, LINUX_ROOT_X86_64, uuid.UUID(int=7), "root ö")


def disk() -> MemoryImage:
    image = MemoryImage(SIZE)
    write_gpt(image, SIZE, GUID, [FIRST, SECOND])
    return image


def test_what_was_written_is_read() -> None:
    assert usable(SIZE) == (1 * MiB, 8 * MiB - 20 * 1024)
    assert read_partitions(disk()) == [FIRST, SECOND]


def test_the_bytes_are_those_of_the_specification() -> None:
    """UEFI 2.10, table 5.5 (header), 5.6 (entry), 5.2.3 (protective MBR)."""
    data = disk().data
    assert data[510:512] == b"\x55\xaa"
    assert data[450] == 0xEE
    assert struct.unpack_from("<II", data, 454) == (1, SIZE // 512 - 1)
    assert data[512:520] == b"EFI PART"
    assert struct.unpack_from("<QQQQ", data, 512 + 24) == (1, SIZE // 512 - 1, 34, SIZE // 512 - 34)
    # The first three parts of a GUID are little-endian.
    assert data[512 + 56 : 512 + 72].hex() == "3322110055447766" + "8899aabbccddeeff"
    assert data[1024:1040].hex() == "28732ac11ff8d211ba4b00a0c93ec93b"
    assert struct.unpack_from("<QQ", data, 1024 + 32) == (2048, 6143)


def test_the_backup_serves_when_the_primary_is_damaged() -> None:
    image = disk()
    image.data[512:1024] = bytes(512)
    assert read_partitions(image) == [FIRST, SECOND]
    image = disk()
    image.data[1030] ^= 1
    assert read_partitions(image) == [FIRST, SECOND]


def test_damage_of_both_is_said() -> None:
    image = disk()
    image.data[512] ^= 1
    image.data[SIZE - 512] ^= 1
    with pytest.raises(ProtocolError, match="and its copy are damaged"):
        read_partitions(image)


@pytest.mark.parametrize("partition", [Partition(0, MiB, ESP, GUID), Partition(MiB, 8 * MiB, ESP, GUID)])
def test_partitions_that_do_not_fit_are_refused(partition: Partition) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        write_gpt(MemoryImage(SIZE), SIZE, GUID, [partition])


def mbr(*entries: tuple[int, int, int]) -> bytes:
    table = b"".join(struct.pack("<4xB3xII", *entry) for entry in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def test_an_mbr_with_logical_partitions() -> None:
    image = MemoryImage(SIZE)
    image.write(0, mbr((0xEF, 2048, 1000), (0x83, 4096, 1000), (0x05, 8000, 6000)))
    image.write(8000 * 512, mbr((0x83, 10, 100), (0x05, 500, 400)))
    image.write(8500 * 512, mbr((0x83, 20, 200)))
    assert [(each.start // 512, each.size // 512, each.is_esp) for each in read_partitions(image)] == [
        (2048, 1000, True), (4096, 1000, False), (8010, 100, False), (8520, 200, False),
    ]  # fmt: skip


def test_a_chain_of_logical_partitions_that_is_a_loop_ends() -> None:
    image = MemoryImage(SIZE)
    image.write(0, mbr((0x05, 8000, 6000)))
    image.write(8000 * 512, mbr((0x83, 10, 100), (0x05, 1, 400)))
    image.write(8001 * 512, mbr((0x83, 10, 100), (0x05, 1, 400)))
    assert 0 < len(read_partitions(image)) <= 60


def test_disks_without_a_table() -> None:
    assert read_partitions(MemoryImage(SIZE)) == []
    assert read_partitions(MemoryImage(100)) == []


@pytest.mark.parametrize("seed", range(60))
def test_damage_ends_in_an_error_or_in_other_partitions(seed: int) -> None:
    dice = random.Random(seed)
    image = disk()
    for _ in range(dice.randrange(1, 30)):
        image.data[dice.choice([dice.randrange(2048), SIZE - 1 - dice.randrange(2048)])] = dice.randrange(256)
    try:
        for each in read_partitions(image):
            assert 0 <= each.start < each.start + each.size <= SIZE
    except ManorError:
        pass
