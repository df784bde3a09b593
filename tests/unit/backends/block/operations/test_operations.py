"""What one does with images, on files: each operation, its errors, and that a failure leaves things as they were."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

from manor.backends.block import operations
from manor.backends.block.api import BlockError, Extent
from manor.backends.block.lock import ImageInUse
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.operations.copying import pieces
from manor.backends.block.operations.info import merged
from manor.base.errors import ConfigError, HostError, ProtocolError

MiB = 1 << 20


def read(path: Path | str) -> bytes:
    image = open_image(str(path), OpenOptions(read_only=True))
    data = bytearray(image.size)
    image.read(0, [memoryview(data)])
    image.close()
    return bytes(data)


def write(path: Path | str, offset: int, data: bytes) -> None:
    image = open_image(str(path))
    image.write(offset, [memoryview(data)])
    image.close()


def sparse(seed: int, size: int = 2 * MiB) -> bytes:
    rng = random.Random(seed)
    data = bytearray(size)
    for _ in range(12):
        start = rng.randrange(size // 512) * 512
        data[start : start + 40_000] = (rng.randbytes(50) * 800)[: min(40_000, size - start)]
    return bytes(data)


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path, Path]:
    """base (2 MiB) <- mid <- top (3 MiB), each with data of its own."""
    base, mid, top = (tmp_path / name for name in ("base", "mid", "top"))
    operations.create(str(base), 2 * MiB)
    write(base, 0, sparse(1))
    operations.create(str(mid), None, backing_file="base", backing_format="qcow2", options={"cluster_size": "4K"})
    write(mid, 100_000, b"m" * 50_000)
    image = open_image(str(mid))
    image.write_zeroes(MiB, 100_000, True)
    image.close()
    operations.create(str(top), 3 * MiB, backing_file="mid", backing_format="qcow2", options={"extended_l2": "on"})
    write(top, 120_000, b"t" * 1000)
    write(top, 2 * MiB - 100, b"t" * 200)
    return base, mid, top


# create


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": None}, "how large"),
        ({"size": -1}, "how large"),
        ({"size": MiB, "format": "vmdk"}, "reads this format, it does not write it; create raw or qcow2"),
        ({"size": MiB, "format": "zip"}, "no such format"),
        ({"size": MiB, "options": {"colour": "red"}}, "colour: qcow2 has no such option; it has: cluster_size"),
        ({"size": MiB, "options": {"cluster_size": "100"}}, "not a power of two"),
        ({"size": MiB, "options": {"cluster_size": "4M"}}, "not a power of two from 512 to 2M"),
        ({"size": MiB, "options": {"cluster_size": "many"}}, "is not a size"),
        ({"size": MiB, "options": {"compat": "2"}}, "neither 0.10 nor 1.1"),
        ({"size": MiB, "options": {"refcount_bits": "17"}}, "is not 1, 2, 4"),
        ({"size": MiB, "options": {"refcount_bits": "x"}}, "is not 1, 2, 4"),
        ({"size": MiB, "options": {"lazy_refcounts": "perhaps"}}, "neither on nor off"),
        ({"size": MiB, "options": {"compression_type": "lz4"}}, "neither zlib nor zstd"),
        ({"size": MiB, "options": {"preallocation": "some"}}, "none of off, metadata, falloc, full"),
        ({"size": MiB, "format": "raw", "options": {"preallocation": "metadata"}}, "none of off, falloc, full"),
        ({"size": MiB, "options": {"extended_l2": "on", "cluster_size": "8K"}}, "clusters of at least 16K"),
        ({"size": MiB, "options": {"compat": "0.10", "lazy_refcounts": "on"}}, "needs version 3"),
        ({"size": MiB, "options": {"compat": "0.10", "compression_type": "zstd"}}, "needs version 3"),
        ({"size": MiB, "options": {"data_file_raw": "on"}}, "needs data_file"),
        (
            {"size": 1 << 40, "options": {"cluster_size": "512"}},
            "too large for this cluster_size, which allows 128 GiB",
        ),
        ({"size": MiB, "backing_file": "base"}, "say what format base has"),
        ({"size": MiB, "backing_file": "base", "backing_format": "raw", "format": "raw"}, "cannot have one"),
        (
            {"size": MiB, "backing_file": "base", "backing_format": "raw", "options": {"preallocation": "full"}},
            "needs extended_l2=on",
        ),
    ],
)
def test_what_cannot_be_created_is_said(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    (tmp_path / "base").write_bytes(bytes(MiB))
    with pytest.raises(ConfigError, match=message):
        operations.create(str(tmp_path / "a"), **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()


def test_an_existing_file_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="exists already"):
        operations.create(str(path), MiB)
    assert path.read_bytes() == b"precious"
    operations.create(str(path), MiB, overwrite=True)
    assert operations.image_info(str(path)).virtual_size == MiB


def test_sizes_are_rounded_to_sectors_and_taken_from_the_backing_image(tmp_path: Path) -> None:
    operations.create(str(tmp_path / "a"), 1000, format="raw")
    assert os.path.getsize(tmp_path / "a") == 1024
    operations.create(str(tmp_path / "b"), None, backing_file="a", backing_format="raw")
    info = operations.image_info(str(tmp_path / "b"))
    assert (info.virtual_size, info.backing_file, info.backing_format) == (1024, "a", "raw")
    assert info.backing_path == str(tmp_path / "a")
    with pytest.raises(HostError, match="missing"):
        operations.create(str(tmp_path / "c"), None, backing_file="missing", backing_format="raw")
    with pytest.raises(ConfigError, match="cannot be backed by itself"):
        operations.create(str(tmp_path / "b"), None, backing_file="b", backing_format="qcow2", overwrite=True)
    assert operations.image_info(str(tmp_path / "b")).virtual_size == 1024


def test_preallocation_takes_the_space_at_once(tmp_path: Path) -> None:
    for format in ("raw", "qcow2"):
        for mode in ("falloc", "full"):
            path = tmp_path / f"{format}-{mode}"
            operations.create(str(path), 4 * MiB, format=format, options={"preallocation": mode})
            assert operations.image_info(str(path)).disk_size >= 4 * MiB
            assert read(path) == bytes(4 * MiB)
    operations.create(str(tmp_path / "m"), 4 * MiB, options={"preallocation": "metadata"})
    assert operations.image_info(str(tmp_path / "m")).disk_size < MiB


def test_a_tiny_disk_and_an_empty_one(tmp_path: Path) -> None:
    for size in (0, 512):
        path = str(tmp_path / f"disk{size}")
        operations.create(path, size)
        assert operations.check(path).is_clean
        assert read(path) == bytes(size)
        operations.resize(path, MiB)
        write(path, MiB - 512, b"x" * 512)
        assert read(path) == bytes(MiB - 512) + b"x" * 512
        assert operations.check(path).is_clean


# convert and compare


def test_convert_copies_what_the_guest_sees(tmp_path: Path, chain: tuple[Path, Path, Path]) -> None:
    expected = read(chain[2])
    steps: list[tuple[int, int]] = []
    for target, arguments in {
        "raw": {"target_format": "raw"},
        "raw full": {"target_format": "raw", "sparse_size": 0, "threads": 1},
        "qcow2": {"target_format": "qcow2", "threads": 8},
        "packed": {"target_format": "qcow2", "compressed": True},
        "over base": {"target_format": "qcow2", "backing_file": "base", "backing_format": "qcow2"},
        "packed over base": {
            "target_format": "qcow2",
            "backing_file": "base",
            "backing_format": "qcow2",
            "compressed": True,
        },
    }.items():
        path = tmp_path / target
        steps.clear()
        operations.convert(
            str(chain[2]),
            str(path),
            progress=lambda done, total: steps.append((done, total)),
            **arguments,  # type: ignore[arg-type]
        )
        assert read(path) == expected, target
        assert steps[-1] == (3 * MiB, 3 * MiB)
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert operations.compare(str(chain[2]), str(path)) is None
        if "raw" not in target:
            assert operations.check(str(path)).is_clean
    assert (
        operations.image_info(str(tmp_path / "over base")).disk_size
        < operations.image_info(str(tmp_path / "qcow2")).disk_size
    )
    assert (
        operations.image_info(str(tmp_path / "raw")).disk_size
        < operations.image_info(str(tmp_path / "raw full")).disk_size
    )


def test_convert_into_what_exists_leaves_no_old_bytes(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(sparse(4))
    (tmp_path / "target").write_bytes(b"old" * MiB)
    operations.convert(str(tmp_path / "source"), str(tmp_path / "target"), into_existing=True)
    assert (tmp_path / "target").read_bytes()[: 2 * MiB] == sparse(4)
    (tmp_path / "small").write_bytes(bytes(MiB))
    with pytest.raises(ConfigError, match="fewer than"):
        operations.convert(str(tmp_path / "source"), str(tmp_path / "small"), into_existing=True)
    assert (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"compressed": True}, "raw image cannot be compressed"),
        ({"sparse_size": 1000}, "power of two"),
        ({"threads": 0}, "not 1 to 64"),
        ({"cache": "none"}, "none of writeback, direct"),
        ({"snapshot": "x"}, "no qcow2 image"),
        ({"target_format": "qcow2", "compressed": True, "options": {"data_file": "d"}}, "data file"),
    ],
)
def test_what_cannot_be_converted_is_said(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    (tmp_path / "source").write_bytes(bytes(MiB))
    with pytest.raises(ConfigError, match=message):
        operations.convert(str(tmp_path / "source"), str(tmp_path / "target"), **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "target").exists()


def test_a_failed_conversion_is_removed(tmp_path: Path) -> None:
    operations.create(str(tmp_path / "source"), MiB, options={"cluster_size": "4K"})
    write(tmp_path / "source", 0, b"x" * MiB)
    data = bytearray((tmp_path / "source").read_bytes())
    data[4 * 4096 + 8 * 100 + 6] ^= 0x02  # an L2 entry
    (tmp_path / "source").write_bytes(data)
    with pytest.raises(BlockError, match="L2 entry"):
        operations.convert(str(tmp_path / "source"), str(tmp_path / "target"))
    assert sorted(os.listdir(tmp_path)) == ["source"]


def test_the_same_file_is_not_converted_into_itself(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(sparse(1))
    with pytest.raises(ImageInUse):
        operations.convert(str(tmp_path / "a"), str(tmp_path / "a"), target_format="qcow2")
    assert (tmp_path / "a").read_bytes() == sparse(1)


def test_compare_tells_where(tmp_path: Path) -> None:
    data = bytearray(sparse(1))
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data + bytes(5000))
    assert operations.compare(str(tmp_path / "a"), str(tmp_path / "b")) is None
    data[1_234_567] ^= 1
    (tmp_path / "c").write_bytes(data)
    assert operations.compare(str(tmp_path / "a"), str(tmp_path / "c")) == 1_234_567
    (tmp_path / "d").write_bytes(data + bytes(500) + b"x")
    assert operations.compare(str(tmp_path / "c"), str(tmp_path / "d")) == len(data) + 500


# commit and rebase


def test_commit_moves_data_down(chain: tuple[Path, Path, Path]) -> None:
    base, mid, top = chain
    expected = read(top)
    assert operations.commit(str(top)) > 0
    assert operations.image_info(str(top)).disk_size < 400_000
    assert read(top) == expected
    assert read(mid) == expected, "the base grew to the overlay's size"
    for path in chain:
        assert operations.check(str(path)).is_clean
    assert operations.commit(str(mid), keep=True) > 0
    assert read(base) == expected
    assert read(mid) == expected


def test_commit_further_down_leaves_the_top_as_it_is(chain: tuple[Path, Path, Path]) -> None:
    base, _, top = chain
    expected = read(top)
    before = top.read_bytes()
    operations.commit(str(top), base="base")
    assert read(base) == expected
    assert read(top) == expected
    assert top.read_bytes() == before


def test_commit_cuts_what_a_shorter_image_between_cut(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"b" * MiB)
    operations.create(str(tmp_path / "mid"), MiB // 2, backing_file="base", backing_format="raw")
    operations.create(str(tmp_path / "top"), MiB, backing_file="mid", backing_format="qcow2")
    write(tmp_path / "top", 0, b"t" * 512)
    expected = b"t" * 512 + b"b" * (MiB // 2 - 512) + bytes(MiB // 2)
    assert read(tmp_path / "top") == expected
    operations.commit(str(tmp_path / "top"), base=str(tmp_path / "base"))
    assert (tmp_path / "base").read_bytes() == expected


def test_what_cannot_be_committed_is_said(tmp_path: Path, chain: tuple[Path, Path, Path]) -> None:
    base, _, top = chain
    with pytest.raises(ConfigError, match="no backing image"):
        operations.commit(str(base))
    with pytest.raises(ConfigError, match="other is not in its backing chain"):
        operations.commit(str(top), base="other")
    holder = open_image(str(base), OpenOptions(read_only=True))
    with pytest.raises(ImageInUse):
        operations.commit(str(top), base="base")
    holder.close()


@pytest.mark.parametrize("target", ["base", None, "other"])
def test_rebase_keeps_what_the_guest_sees(tmp_path: Path, chain: tuple[Path, Path, Path], target: str | None) -> None:
    operations.create(str(tmp_path / "other"), 4 * MiB)
    write(tmp_path / "other", 0, b"o" * 3 * MiB)
    expected = read(chain[2])
    operations.rebase(str(chain[2]), target, backing_format="qcow2" if target else None)
    assert read(chain[2]) == expected
    assert operations.image_info(str(chain[2])).backing_file == target
    assert operations.check(str(chain[2])).is_clean


def test_unsafe_rebase_changes_the_name_alone(tmp_path: Path, chain: tuple[Path, Path, Path]) -> None:
    _, mid, top = chain
    expected = read(top)
    os.rename(mid, tmp_path / "moved")
    with pytest.raises(HostError):
        operations.rebase(str(top), "moved", backing_format="qcow2")
    operations.rebase(str(top), "moved", backing_format="qcow2", unsafe=True)
    assert read(top) == expected
    with pytest.raises(ConfigError, match="say what format"):
        operations.rebase(str(top), "base")
    with pytest.raises(ConfigError, match="at most 1023"):
        operations.rebase(str(top), "x" * 1024, backing_format="qcow2", unsafe=True)
    assert read(top) == expected


# resize, check, compact, snapshots, info


def test_shrinking_has_to_be_wanted(tmp_path: Path) -> None:
    for format in ("raw", "qcow2"):
        path = str(tmp_path / format)
        operations.create(path, MiB, format=format)
        with pytest.raises(ConfigError, match="--shrink"):
            operations.resize(path, MiB // 2, format=format)
        assert operations.resize(path, MiB // 2, format=format, allow_shrink=True) == (MiB, MiB // 2)
        assert operations.resize(path, 2 * MiB, format=format, preallocation="full") == (MiB // 2, 2 * MiB)
        assert operations.image_info(path).disk_size >= MiB
        with pytest.raises(ConfigError, match="neither off nor full"):
            operations.resize(path, MiB, preallocation="falloc")


def test_an_overlay_does_not_show_more_of_its_base_when_it_grows(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"b" * MiB)
    for version in ("0.10", "1.1"):
        path = tmp_path / version
        operations.create(
            str(path), MiB // 2 + 512, backing_file="base", backing_format="raw", options={"compat": version}
        )
        operations.resize(str(path), 2 * MiB)
        assert read(path) == b"b" * (MiB // 2 + 512) + bytes(MiB + MiB // 2 - 512)
        assert operations.check(str(path)).is_clean


def test_what_has_no_structures_cannot_be_checked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(MiB))
    with pytest.raises(ConfigError, match="a raw image has no structures"):
        operations.check(str(tmp_path / "a"))
    with pytest.raises(ProtocolError, match="not a qcow2 image"):
        operations.check(str(tmp_path / "a"), format="qcow2")


@pytest.mark.parametrize("rewrite", [False, True], ids=["in place", "rewritten"])
def test_compact_gives_space_back(tmp_path: Path, chain: tuple[Path, Path, Path], rewrite: bool) -> None:
    base, _, top = chain
    expected = read(top)
    write(top, MiB, bytes(MiB // 2))
    write(top, 2 * MiB, b"w" * MiB)
    write(top, 2 * MiB + MiB // 2, bytes(MiB // 2))
    expected = read(top)
    before, after = operations.compact(str(top), rewrite=rewrite)
    assert after < before - MiB // 2
    assert read(top) == expected
    assert operations.check(str(top)).is_clean
    assert sorted(os.listdir(tmp_path)) == ["base", "mid", "top"]
    operations.create_snapshot(str(base), "s")
    if rewrite:
        with pytest.raises(ConfigError, match="has snapshots inside"):
            operations.compact(str(base), rewrite=True)
    else:
        operations.compact(str(base))
        assert operations.check(str(base)).is_clean


def test_compact_of_a_raw_image_makes_holes(tmp_path: Path) -> None:
    data = b"d" * MiB + bytes(MiB) + b"d" * 100_000
    (tmp_path / "a").write_bytes(data)
    before, after = operations.compact(str(tmp_path / "a"), format="raw")
    assert after <= before - MiB + 8192
    assert (tmp_path / "a").read_bytes() == data


def test_snapshots_by_id_and_name(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    operations.create(path, MiB)
    write(path, 0, b"1" * 512)
    made = operations.create_snapshot(path, "first")
    assert (made.id, made.name, made.disk_size) == ("1", "first", MiB)
    assert operations.create_snapshot(path, "second").id == "2"
    with pytest.raises(ConfigError, match="there is one with the name 'first'"):
        operations.create_snapshot(path, "first")
    with pytest.raises(ConfigError, match=r"no snapshot 'third'; there are: 1 \(first\), 2 \(second\)"):
        operations.delete_snapshot(path, "third")
    write(path, 0, b"2" * 512)
    operations.resize(path, 2 * MiB)
    operations.apply_snapshot(path, "1")
    assert read(path) == b"1" * 512 + bytes(MiB - 512)
    operations.delete_snapshot(path, "first")
    assert [snapshot.name for snapshot in operations.list_snapshots(path)] == ["second"]
    assert operations.check(path).is_clean
    (tmp_path / "raw").write_bytes(bytes(MiB))
    assert operations.list_snapshots(str(tmp_path / "raw")) == []
    with pytest.raises(ConfigError, match="only qcow2 images have snapshots inside"):
        operations.create_snapshot(str(tmp_path / "raw"), "x")


def test_no_room_for_a_snapshot_in_one_bit(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    operations.create(path, MiB, options={"refcount_bits": "1"})
    with pytest.raises(ConfigError, match="1 bit"):
        operations.create_snapshot(path, "x")
    operations.create(path, MiB, options={"refcount_bits": "2"}, overwrite=True)
    write(path, 0, b"x" * 512)
    for number in range(2):
        operations.create_snapshot(path, str(number))
    with pytest.raises(BlockError, match="used 4 times") as caught:
        operations.create_snapshot(path, "one too many")
    assert caught.value.reason == "unsupported"
    write(path, 0, b"y" * 512)
    assert len(operations.list_snapshots(path)) == 2
    assert operations.check(path).is_clean


def test_data_files(tmp_path: Path) -> None:
    path = tmp_path / "a"
    operations.create(str(path), MiB, options={"data_file": "a.data", "data_file_raw": "on"})
    write(path, 5000, b"x" * 100_000)
    assert (tmp_path / "a.data").read_bytes() == read(path)
    info = operations.image_info(str(path))
    assert (info.details["data file"], info.details["data file raw"]) == ("a.data", True)
    with pytest.raises(ConfigError, match="data file cannot have snapshots"):
        operations.create_snapshot(str(path), "x")
    operations.resize(str(path), 2 * MiB)
    assert os.path.getsize(tmp_path / "a.data") == 2 * MiB
    assert operations.check(str(path)).is_clean
    image = open_image(str(path))
    with pytest.raises(ImageInUse):
        open_image(str(tmp_path / "a.data"), OpenOptions(format="raw"))
    image.close()


def test_a_chain_is_described(chain: tuple[Path, Path, Path]) -> None:
    found = operations.chain_info(str(chain[2]))
    assert [info.path for info in found] == [str(chain[2]), str(chain[1]), str(chain[0])]
    assert [info.cluster_size for info in found] == [65536, 4096, 65536]
    assert found[0].details["extended l2"] is True
    os.unlink(chain[0])
    assert operations.image_info(str(chain[1])).backing_file == "base"
    with pytest.raises(HostError):
        operations.chain_info(str(chain[2]))


def test_maps_join_what_is_alike(chain: tuple[Path, Path, Path]) -> None:
    found = list(operations.map_image(str(chain[2]), offset=4096, size=MiB))
    assert found[0].offset == 4096
    assert found[-1].offset + found[-1].size == MiB + 4096
    for first, second in itertools.pairwise(found):
        assert first.offset + first.size == second.offset
    extents = [
        Extent(0, 5, "data", 0, 100),
        Extent(5, 5, "data", 0, 105),
        Extent(10, 5, "data", 0, 200),
        Extent(15, 1, "hole"),
    ]
    assert list(merged(iter(extents))) == [
        Extent(0, 10, "data", 0, 100),
        Extent(10, 5, "data", 0, 200),
        Extent(15, 1, "hole"),
    ]


def test_pieces_are_cut_and_aligned() -> None:
    extents = [Extent(100, 50, "data"), Extent(150, 900, "data"), Extent(4000, 10, "data"), Extent(4090, 6, "data")]
    assert list(pieces(extents, 4096, 1, 1024)) == [(100, 924), (1024, 26), (4000, 10), (4090, 6)]
    assert list(pieces(extents, 4000, 256, 1024)) == [(0, 1024), (1024, 256), (3840, 160)]
    assert list(pieces([], 100)) == []
