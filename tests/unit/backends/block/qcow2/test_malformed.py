"""Images that lie: a clear error, little memory, and not one byte written."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.block.api import BlockError
from manor.backends.block.open import Context, OpenOptions
from manor.backends.block.qcow2 import layout, snapshots
from manor.backends.block.qcow2.check import check_file
from manor.backends.block.qcow2.create import Qcow2Options, create_qcow2
from manor.backends.block.qcow2.header import read_header
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.open import assemble, open_qcow2
from manor.base.errors import ConfigError, HostError, ManorError, ProtocolError
from manor.testing.storage import MemoryFile

SIZE = 64 * 4096
COPIED = 1 << 63
COMPRESSED = 1 << 62


def valid(options: Qcow2Options | None = None, *, rich: bool = False) -> bytes:
    """An image with data; rich: also with a snapshot, compressed and zero clusters."""
    file = MemoryFile()
    create_qcow2(file, SIZE, options or Qcow2Options(cluster_size=4096))
    image = assemble(file, file, None, read_header(file), is_read_only=False)
    image.write(0, [memoryview(b"d" * 20_000)])
    if rich:
        snapshots.create(image, "one")
        image.write_compressed(8 * 4096, b"compress" * 512)
        image.write_zeroes(16 * 4096, 8192, True)
        image.write(5000, [memoryview(b"e" * 9000)])
    image.close()
    return bytes(file.data)


VALID = valid()
RICH = valid(rich=True)
L1 = 3 * 4096
L2 = 4 * 4096


def patched(offset: int, value: bytes, image: bytes = VALID) -> MemoryFile:
    data = bytearray(image)
    data[offset : offset + len(value)] = value
    return MemoryFile(data, "bad.qcow2")


def word(value: int) -> bytes:
    return struct.pack(">Q", value)


def opened(file: MemoryFile, *, read_only: bool = False) -> Qcow2Image:
    return open_qcow2(file, Context(OpenOptions(format="qcow2", read_only=read_only)))


def test_empty_name_of_a_backing_file_is_none() -> None:
    image = opened(patched(8, word(0x200) + bytes(4)))
    assert image.size == read_header(MemoryFile(VALID)).size
    image.close()


def test_the_valid_ones_are_valid() -> None:
    for data in (VALID, RICH):
        assert check_file(MemoryFile(data), read_header(MemoryFile(data))).is_clean
    assert struct.unpack_from(">QQ", VALID, 40) == (L1, 4096)
    assert struct.unpack_from(">Q", VALID, L1)[0] == COPIED | L2


HEADERS: dict[str, tuple[int, bytes, str]] = {
    "no magic": (0, b"QFI\0", "not a qcow2 image"),
    "version": (4, b"\0\0\0\4", "version 4"),
    "backing name far away": (8, word(1 << 40) + b"\0\0\0\5", "outside the first cluster"),
    "backing name too long": (8, word(2000) + b"\0\0\4\0", "1024 bytes, more than 1023"),
    "backing name behind the cluster": (8, word(4090) + b"\0\0\0\x40", "outside the first cluster"),
    "cluster bits low": (20, b"\0\0\0\x08", "cluster_bits is 8"),
    "cluster bits high": (20, b"\0\0\0\x16", "cluster_bits is 22"),
    "cluster bits absurd": (20, b"\xff\xff\xff\xff", "cluster_bits"),
    "size past the L1 table": (24, word(1 << 62), "too short"),
    "size negative": (24, word(1 << 63), "impossible"),
    "L1 size": (36, b"\xff\xff\xff\xff", "larger than"),
    "L1 size past the end": (36, b"\0\x10\0\0", "inside the file"),
    "L1 offset unaligned": (40, word(L1 + 8), "inside the file"),
    "L1 offset in the header": (40, word(0), "inside the file"),
    "L1 offset past the end": (40, word(1 << 50), "inside the file"),
    "L1 in the refcount table": (40, word(4096), "overlaps"),
    "refcount table unaligned": (48, word(4097), "inside the file"),
    "refcount table past the end": (48, word(1 << 60), "inside the file"),
    "no refcount table": (56, b"\0\0\0\0", "no refcount table"),
    "refcount table gigantic": (56, b"\xff\xff\xff\xff", "larger than"),
    "snapshots without number": (60, b"\xff\xff\xff\xff", "more than 65536"),
    "snapshot table past the end": (60, b"\0\0\1\0" + word(1 << 40), "inside the file"),
    "snapshot table is a table": (60, b"\0\0\0\1" + word(4096), "snapshot|overlaps"),
    "refcount order": (96, b"\0\0\0\7", "refcount_order is 7"),
    "header length low": (100, b"\0\0\0\x60", "header_length is 96"),
    "header length odd": (100, b"\0\0\0\x6c", "header_length is 108"),
    "header length huge": (100, b"\xff\xff\xff\xf8", "header_length"),
    "extension too long": (108, b"\xff\xff\xff\xff", "does not fit"),
    "compression unmarked": (72, word(layout.COMPRESSION), "disagree"),
    "raw data file without one": (88, word(layout.DATA_FILE_RAW), "without an external data file"),
    "bitmaps without extension": (88, word(layout.BITMAPS), "no extension"),
    "small clusters with subclusters": (72, word(layout.EXTENDED_L2), "at least 16K"),
    "L2 table unaligned": (L1, word(COPIED | L2 + 512), "L1 table"),
    "L2 table past the end": (L1, word(COPIED | 1 << 40), "L1 table"),
    "L2 table reserved bits": (L1, word(COPIED | L2 | 1 << 60), "L1 table"),
    "L2 table is the L1 table": (L1, word(COPIED | L1), "overlaps"),
    "L2 table is a refcount block": (L1, word(COPIED | 2 * 4096), "overlaps"),
    "refcount block unaligned": (4096, word(2 * 4096 + 512), "refcount table"),
    "refcount block past the end": (4096, word(1 << 40), "refcount table"),
    "refcount block twice": (4096 + 8, word(2 * 4096), "two entries"),
    "refcount block is the L1 table": (4096, word(L1), "overlaps"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_tables_that_cannot_be_are_refused(name: str) -> None:
    offset, value, message = HEADERS[name]
    file = patched(offset, value)
    before = bytes(file.data)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=message) as caught:
            opened(file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.offset is not None or name == "no magic"
    assert "bad.qcow2" in str(caught.value)
    assert bytes(file.data) == before


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (32, b"\0\0\0\1", "encrypted .AES."),
        (32, b"\0\0\0\2", "encrypted .LUKS."),
        (32, b"\0\0\0\x09", "encrypted .method 9."),
        (72, word(1 << 5), "incompatible feature 5"),
        (72, word(1 << 63 | 1 << 6), "incompatible feature 6, incompatible feature 63"),
        (72, word(layout.CORRUPT), "marked corrupt.*--repair all"),
        (72, word(layout.DATA_FILE), "does not say in which"),
    ],
)
def test_what_manor_does_not_have_is_refused_by_name(offset: int, value: bytes, message: str) -> None:
    file = patched(offset, value)
    before = bytes(file.data)
    with pytest.raises(ConfigError, match=message):
        opened(file)
    assert bytes(file.data) == before


def test_an_unknown_feature_is_called_what_the_image_calls_it() -> None:
    name = struct.pack(">BB46s", 0, 5, b"time travel")
    file = patched(72, word(1 << 5))
    table = bytes(file.data).index(struct.pack(">BB46s", 0, 0, b"dirty bit"))
    file.data[table : table + 48] = name
    with pytest.raises(ConfigError, match="time travel"):
        opened(file)


def test_an_image_marked_corrupt_can_be_read_and_repaired() -> None:
    file = patched(72, word(layout.CORRUPT))
    image = opened(file, read_only=True)
    data = memoryview(bytearray(4))
    image.read(0, [data])
    assert bytes(data) == b"dddd"
    assert check_file(file, read_header(file), "all").is_clean
    opened(file).close()


def test_unknown_autoclear_bits_are_cleared_before_writing() -> None:
    file = patched(88, word(1 << 40))
    opened(file, read_only=True).close()
    assert read_header(file).autoclear == 1 << 40
    opened(file).close()
    assert read_header(file).autoclear == 0


def flush_and_close(image: Qcow2Image) -> None:
    image.flush()
    image.close()


TABLES: dict[str, Callable[[], MemoryFile]] = {
    "the header": lambda: patched(L2, word(COPIED | 0)),
    "the refcount table": lambda: patched(L2, word(COPIED | 4096)),
    "a refcount block": lambda: patched(L2, word(COPIED | 2 * 4096)),
    "the L1 table": lambda: patched(L2, word(COPIED | L1)),
    "its own L2 table": lambda: patched(L2, word(COPIED | L2)),
    "past the end": lambda: patched(L2, word(COPIED | 1 << 40)),
    "an unaligned place": lambda: patched(L2, word(COPIED | L2 + 512)),
}


@pytest.mark.parametrize("name", [name for name in TABLES if name != "the header"])
def test_guest_data_is_not_written_over_tables(name: str) -> None:
    """An L2 entry that points to one of the image's own tables: whoever follows it destroys the image."""
    file = TABLES[name]()
    before = bytes(file.data)
    image = opened(file)
    for data in (b"x" * 512, b"x" * 4096, b"x" * 10_000):
        with pytest.raises(BlockError, match="check the image|check and repair"):
            image.write(0, [memoryview(data)])
    flush_and_close(image)
    assert bytes(file.data) == before


@pytest.mark.parametrize("victim", [1, 2, 3, 4], ids=["refcount table", "refcount block", "L1 table", "L2 table"])
def test_counts_that_call_a_table_free_are_not_believed(victim: int) -> None:
    file = patched(2 * 4096 + 2 * victim, b"\0\0")
    before = bytes(file.data)
    image = opened(file)
    with pytest.raises(BlockError, match="call the cluster at .* free"):
        image.write(40 * 4096, [memoryview(b"x" * 512)])
    flush_and_close(image)
    assert bytes(file.data) == before
    assert check_file(file, read_header(file), "all").is_clean
    image = opened(file)
    image.write(40 * 4096, [memoryview(b"x" * 512)])
    image.close()
    assert check_file(file, read_header(file)).is_clean


def test_a_wrong_entry_does_not_keep_the_rest_from_being_read() -> None:
    file = patched(L2 + 8, word(COPIED | L2 + 512))
    image = opened(file, read_only=True)
    data = memoryview(bytearray(4096))
    image.read(0, [data])
    assert bytes(data) == b"d" * 4096
    with pytest.raises(BlockError, match="guest's offset 0x1000"):
        image.read(4096, [data])
    assert not image.read_nowait(4096, [data])


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_damaged_compressed_clusters(kind: str) -> None:
    compression: dict[str, Qcow2Options] = {
        "zlib": Qcow2Options(cluster_size=4096),
        "zstd": Qcow2Options(cluster_size=4096, compression_type="zstd"),
    }
    file = MemoryFile()
    create_qcow2(file, SIZE, compression[kind])
    image = assemble(file, file, None, read_header(file), is_read_only=False)
    image.write_compressed(0, bytes(range(256)) * 16)
    image.close()
    entry = struct.unpack_from(">Q", file.data, struct.unpack_from(">Q", file.data, L1)[0] & layout.OFFSET_MASK)[0]
    assert entry & COMPRESSED
    offset = entry & 0xFFFF_FFFF
    rng = random.Random(1)
    failures = 0
    for _ in range(200):
        data = bytearray(file.data)
        for _ in range(rng.randint(1, 8)):
            data[offset + rng.randrange(64)] = rng.randrange(256)
        image = opened(MemoryFile(data), read_only=True)
        try:
            image.read(0, [memoryview(bytearray(4096))])
        except BlockError as error:
            failures += "damaged" in str(error) or "holds" in str(error)
    assert failures > 50


def use(file: MemoryFile) -> None:
    """What a program would do: look, read all, write a little, close. Errors that are meant may come."""
    before = bytes(file.data)
    try:
        image = opened(file)
    except (ProtocolError, ConfigError, HostError):
        assert bytes(file.data) == before  # HostError: it names another file, which there is not
        return
    except BlockError:
        return  # a repair of a dirty image may have begun to write
    header = read_header(file)
    for offset in range(0, min(image.size, SIZE), 4096):
        with suppress(BlockError):
            image.read(offset, [memoryview(bytearray(min(4096, image.size - offset)))])
    for action in (
        lambda: image.write(4096, [memoryview(b"w" * 512)]),
        lambda: image.write(20 * 4096, [memoryview(b"w" * 9000)]),
        lambda: image.discard(0, 8192),
        lambda: image.write_zeroes(12_000, 5000, True),
        lambda: list(image.extents(0, SIZE)),
        image.flush,
        image.close,
    ):
        with suppress(ManorError):
            action()
    after = read_header(file)  # the guest's data did not land on it
    assert (after.size, after.l1_offset, after.cluster_bits) == (header.size, header.l1_offset, header.cluster_bits)


HEADER_OFFSETS = st.integers(4, 120)
TABLE_OFFSETS = st.sampled_from([4096, 2 * 4096, L1, L2]).flatmap(lambda base: st.integers(base, base + 64))
CHANGES = st.lists(
    st.tuples(st.one_of(HEADER_OFFSETS, TABLE_OFFSETS), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
)


@settings(max_examples=150, deadline=None)
@given(is_rich=st.booleans(), changes=CHANGES, length=st.one_of(st.none(), st.integers(0, len(RICH))))
def test_damage_anywhere(is_rich: bool, changes: list[tuple[int, bytes]], length: int | None) -> None:
    """Changed bytes in the header and all tables, cut files: no error but those that are meant, and no harm."""
    data = bytearray((RICH if is_rich else VALID)[:length])
    for offset, value in changes:
        if offset < len(data):
            data[offset : offset + len(value)] = value
    use(MemoryFile(data))


@settings(max_examples=100, deadline=None)
@given(changes=CHANGES)
def test_checking_damage(changes: list[tuple[int, bytes]]) -> None:
    """A check of anything ends, changes nothing, and what it repaired is not worse than before."""
    data = bytearray(RICH)
    for offset, value in changes:
        data[offset : offset + len(value)] = value
    file = MemoryFile(data)
    try:
        header = read_header(file)
    except ManorError:
        return
    found = check_file(file, header)
    assert bytes(file.data) == bytes(data)
    try:
        left = check_file(file, read_header(file), "all")
    except ManorError:
        return  # a count that its width cannot hold
    assert left.corruptions <= found.corruptions
    assert left.leaks == 0 or left.corruptions or left.errors
