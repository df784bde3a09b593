"""QEMU's tools and ours on the same images: what one wrote the other reads, and both find it clean."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from manor.backends.block import operations
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.qcow2.image import Qcow2Image
from manor.base.errors import ManorError

pytestmark = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")), reason="needs qemu-img and qemu-io (qemu-utils)"
)

MiB = 1 << 20
SIZE = 4 * MiB

LAYOUTS: dict[str, dict[str, str]] = {
    "default": {},
    "512": {"cluster_size": "512"},
    "2M": {"cluster_size": "2M"},
    "0.10": {"compat": "0.10"},
    "extended": {"extended_l2": "on", "cluster_size": "32K"},
    "lazy": {"lazy_refcounts": "on"},
    "zstd": {"compression_type": "zstd", "cluster_size": "4K"},
    "metadata": {"preallocation": "metadata"},
    "full": {"preallocation": "full", "cluster_size": "1K"},
    "falloc": {"preallocation": "falloc", "extended_l2": "on"},
    **{f"refcount {bits}": {"refcount_bits": str(bits), "cluster_size": "4K"} for bits in (1, 2, 4, 8, 32, 64)},
}
DATA_FILES: dict[str, dict[str, str]] = {
    "data file": {"data_file": "data.raw"},
    "raw data file": {"data_file": "data.raw", "data_file_raw": "on"},
}
QUICK = ("default", "512", "0.10", "extended", "lazy", "refcount 1", "refcount 64")


def some_slow(names: Iterable[str], *quick: str) -> list[ParameterSet]:
    """All names; those that are not among `quick` are for the long tests."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def qemu_img(*arguments: object, folder: Path | None = None) -> str:
    """folder: where QEMU takes the name of a data file to be relative to."""
    command = ["qemu-img", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def qemu_io(path: Path, *commands: str) -> None:
    flags = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", "qcow2", *flags, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert "failed" not in done.stdout, done


def read(path: Path, format: str | None = None) -> bytes:
    image = open_image(str(path), OpenOptions(format=format, read_only=True))
    try:
        data = bytearray(image.size)
        image.read(0, [memoryview(data)])
        return bytes(data)
    finally:
        image.close()


def both_find_clean(path: Path) -> None:
    theirs = json.loads(qemu_img("check", "--output=json", path, folder=path.parent))
    ours = operations.check(str(path))
    assert ours.is_clean, ours.messages
    for name, value in {
        "total-clusters": ours.total_clusters,
        "allocated-clusters": ours.allocated_clusters,
        "compressed-clusters": ours.compressed_clusters,
        "fragmented-clusters": ours.fragmented_clusters,
        "image-end-offset": ours.image_end,
    }.items():
        assert theirs.get(name, 0) == value, name


def both_read(path: Path, expected: bytes, folder: Path) -> None:
    assert read(path) == expected
    qemu_img("convert", "-O", "raw", path, folder / "theirs.raw", folder=folder)
    assert (folder / "theirs.raw").read_bytes() == expected


def sparse_data(seed: int) -> bytes:
    rng = random.Random(seed)
    data = bytearray(SIZE)
    for _ in range(30):
        start = rng.randrange(SIZE // 4096) * 4096
        size = min(rng.choice((512, 4096, 65536, 300_000)), SIZE - start)
        data[start : start + size] = (rng.randbytes(96) * (size // 96 + 1))[:size]
    return bytes(data)


@pytest.mark.parametrize("name", some_slow({**LAYOUTS, **DATA_FILES}, *QUICK, *DATA_FILES))
def test_qemu_reads_what_we_write(tmp_path: Path, name: str) -> None:
    """Random operations; after each stage QEMU finds the image clean and reads the same."""
    options = {**LAYOUTS, **DATA_FILES}[name]
    rng = random.Random(name)
    path = tmp_path / "a.qcow2"
    operations.create(str(path), SIZE, options=options)
    model = bytearray(SIZE)
    for _ in range(3):
        image = open_image(str(path))
        for _ in range(40):
            start = rng.randrange(SIZE // 512) * 512
            size = min(rng.choice((512, 1024, 4096, 65536, 300_032)), SIZE - start)
            kind = rng.choice(("write", "write", "write", "zero", "discard", "flush"))
            if kind == "write":
                data = rng.randbytes(size)
                image.write(start, [memoryview(data)])
                model[start : start + size] = data
            elif kind == "zero":
                image.write_zeroes(start, size, rng.random() < 0.5)
                model[start : start + size] = bytes(size)
            elif kind == "discard":
                image.discard(start, size)
                found = bytearray(size)
                image.read(start, [memoryview(found)])
                model[start : start + size] = found
            else:
                image.flush()
        image.close()
        both_find_clean(path)
        both_read(path, bytes(model), tmp_path)


@pytest.mark.parametrize("name", some_slow(LAYOUTS, *QUICK))
def test_we_read_what_qemu_writes(tmp_path: Path, name: str) -> None:
    """QEMU makes the image and takes turns with us in changing it."""
    options = [f"{key}={value}" for key, value in LAYOUTS[name].items()]
    rng = random.Random(name)
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", *(["-o", ",".join(options)] if options else []), path, SIZE)
    model = bytearray(SIZE)
    for _ in range(2):
        commands = []
        for _ in range(20):
            start = rng.randrange(SIZE // 512) * 512
            size = min(rng.choice((512, 4096, 65536, 300_032)), SIZE - start)
            value = rng.randrange(1, 256)
            kind = rng.choice(("write", "zero", "zero-unmap"))
            model[start : start + size] = bytes([value if kind == "write" else 0]) * size
            command = {"write": f"write -P {value}", "zero": "write -z", "zero-unmap": "write -z -u"}[kind]
            commands.append(f"{command} {start} {size}")
        qemu_io(path, *commands)
        both_find_clean(path)
        both_read(path, bytes(model), tmp_path)
        image = open_image(str(path))
        for _ in range(20):
            start = rng.randrange(SIZE // 512) * 512
            data = rng.randbytes(min(rng.choice((512, 70_000)), SIZE - start))
            image.write(start, [memoryview(data)])
            model[start : start + len(data)] = data
        image.close()
        both_find_clean(path)
        both_read(path, bytes(model), tmp_path)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("name", some_slow(LAYOUTS, "default", "512", "zstd", "extended"))
def test_conversions_agree(tmp_path: Path, name: str, compressed: bool) -> None:
    options = LAYOUTS[name]
    if compressed and "preallocation" in options:
        options = {key: value for key, value in options.items() if key != "preallocation"}
    data = sparse_data(len(name))
    (tmp_path / "source.raw").write_bytes(data)
    ours, theirs = tmp_path / "ours.qcow2", tmp_path / "theirs.qcow2"
    operations.convert(
        str(tmp_path / "source.raw"), str(ours), target_format="qcow2", options=options, compressed=compressed
    )
    both_find_clean(ours)
    both_read(ours, data, tmp_path)
    pairs = ",".join(f"{key}={value}" for key, value in options.items())
    flags = [*(["-c"] if compressed else []), *(["-o", pairs] if pairs else [])]
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *flags, tmp_path / "source.raw", theirs)
    both_find_clean(theirs)
    both_read(theirs, data, tmp_path)
    assert operations.compare(str(ours), str(theirs)) is None
    # Both change what is compressed.
    image = open_image(str(ours))
    image.write(65536 + 100, [memoryview(b"x" * 200_000)])
    image.discard(MiB, MiB)
    image.close()
    both_find_clean(ours)
    qemu_io(ours, "write -P 7 100000 200000", "discard 0 64K")
    both_find_clean(ours)


def test_maps_agree(tmp_path: Path) -> None:
    data = sparse_data(5)
    (tmp_path / "base.raw").write_bytes(data[: SIZE // 2])
    path = tmp_path / "top.qcow2"
    operations.create(str(path), SIZE, backing_file="base.raw", backing_format="raw", options={"cluster_size": "4K"})
    image = open_image(str(path))
    image.write(8192, [memoryview(b"a" * 9000)])
    image.write_zeroes(MiB, 65536, True)
    image.write(3 * MiB, [memoryview(b"b" * 4096)])
    image.close()
    marks = bytearray()
    for extent in operations.map_image(str(path)):
        marks += (b"D" if extent.kind == "data" else b".") * (extent.size // 512)
    their_marks = bytearray()
    for entry in json.loads(qemu_img("map", "--output=json", path)):
        their_marks += (b"." if entry["zero"] else b"D") * (entry["length"] // 512)
    assert marks == their_marks


@pytest.mark.parametrize("name", ["default", "0.10", "extended", "lazy", "512", "refcount 64"])
def test_snapshots_of_both(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.qcow2"
    file = str(path)
    operations.create(file, SIZE, options=LAYOUTS[name])
    first = sparse_data(1)
    image = open_image(file)
    image.write(0, [memoryview(first)])
    image.close()
    operations.create_snapshot(file, "ours")
    both_find_clean(path)
    qemu_io(path, "write -P 17 100000 300000", "write -z 1M 1M")
    second = read(path)
    qemu_img("snapshot", "-c", "theirs", path)
    both_find_clean(path)
    image = open_image(file)
    image.write(0, [memoryview(b"third" * 100_000)])
    image.close()
    both_find_clean(path)
    assert [snapshot.name for snapshot in operations.list_snapshots(file)] == ["ours", "theirs"]
    for apply in (
        lambda name: operations.apply_snapshot(file, name),
        lambda name: qemu_img("snapshot", "-a", name, path),
    ):
        apply("ours")
        both_find_clean(path)
        both_read(path, first, tmp_path)
        apply("theirs")
        both_find_clean(path)
        both_read(path, second, tmp_path)
    operations.convert(file, str(tmp_path / "s.raw"), snapshot="ours")
    assert (tmp_path / "s.raw").read_bytes() == first
    operations.delete_snapshot(file, "theirs")
    both_find_clean(path)
    qemu_img("snapshot", "-d", "ours", path)
    both_find_clean(path)
    both_read(path, second, tmp_path)


def test_chains_of_three(tmp_path: Path) -> None:
    base, mid, top = (tmp_path / f"{name}.qcow2" for name in ("base", "mid", "top"))
    qemu_img("create", "-q", "-f", "qcow2", base, SIZE)
    qemu_io(base, f"write -P 1 0 {SIZE}")
    operations.create(str(mid), None, backing_file="base.qcow2", backing_format="qcow2", options={"cluster_size": "4K"})
    qemu_io(mid, "write -P 2 1M 70000", "write -z 2M 1M")
    operations.create(
        str(top),
        SIZE + MiB,
        backing_file="mid.qcow2",
        backing_format="qcow2",
        options={"extended_l2": "on", "cluster_size": "128K"},
    )
    image = open_image(str(top))
    image.write(MiB + 1000, [memoryview(b"\x03" * 5000)])
    image.write(SIZE - 100, [memoryview(b"\x04" * 200)])
    image.close()
    expected = bytearray(b"\x01" * SIZE + bytes(MiB))
    expected[MiB : MiB + 70_000] = b"\x02" * 70_000
    expected[2 * MiB : 3 * MiB] = bytes(MiB)
    expected[MiB + 1000 : MiB + 6000] = b"\x03" * 5000
    expected[SIZE - 100 : SIZE + 100] = b"\x04" * 200
    for path in (base, mid, top):
        both_find_clean(path)
    both_read(top, bytes(expected), tmp_path)
    qemu_img("rebase", "-b", base, "-F", "qcow2", top)
    both_read(top, bytes(expected), tmp_path)


@pytest.mark.parametrize("name", ["default", "512", "extended", "0.10"])
def test_resizes(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.qcow2"
    operations.create(str(path), SIZE, options=LAYOUTS[name])
    data = sparse_data(9)
    image = open_image(str(path))
    image.write(0, [memoryview(data)])
    image.close()
    assert operations.resize(str(path), 3 * SIZE) == (SIZE, 3 * SIZE)
    both_find_clean(path)
    both_read(path, data + bytes(2 * SIZE), tmp_path)
    operations.resize(str(path), 777 * 512, allow_shrink=True)
    both_find_clean(path)
    qemu_img("resize", path, SIZE)
    both_find_clean(path)
    both_read(path, data[: 777 * 512] + bytes(SIZE - 777 * 512), tmp_path)


def test_bitmaps_survive_and_are_known_to_be_stale(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, SIZE)
    qemu_img("bitmap", "--add", "--enable", path, "follows")
    qemu_img("bitmap", "--add", "--disable", path, "past")
    assert operations.image_info(str(path)).details["bitmaps"] == ("follows", "past")
    both_find_clean(path)
    image = open_image(str(path))
    image.write(0, [memoryview(b"x" * 512)])
    image.close()
    both_find_clean(path)
    found = json.loads(qemu_img("info", "--output=json", path))["format-specific"]["data"]["bitmaps"]
    flags = {bitmap["name"]: set(bitmap["flags"]) for bitmap in found}
    assert flags == {"follows": {"auto", "in-use"}, "past": set()}
    # QEMU refuses nothing: the stale one can be removed, the other used.
    qemu_img("bitmap", "--remove", path, "follows")
    both_find_clean(path)


def test_repairs_agree(tmp_path: Path) -> None:
    """Damage that either of us made, the other repairs."""
    path = tmp_path / "a.qcow2"
    operations.create(str(path), SIZE)
    image = open_image(str(path))
    data = sparse_data(3)
    image.write(0, [memoryview(data)])
    image.close()
    whole = path.read_bytes()
    counts = 2 * 65536
    damaged = bytearray(whole) + bytes(65536)
    last = len(whole) // 65536
    damaged[counts + 2 * 6 : counts + 2 * 9] = bytes(6)  # used, not counted
    damaged[counts + 2 * last : counts + 2 * last + 2] = b"\0\x01"  # counted, not used
    path.write_bytes(damaged)
    theirs = subprocess.run(["qemu-img", "check", "--output=json", path], capture_output=True, text=True, check=False)
    ours = operations.check(str(path))
    found = json.loads(theirs.stdout)
    assert (ours.leaks, ours.corruptions) == (found.get("leaks", 0), found.get("corruptions", 0))
    assert path.read_bytes() == damaged
    fixed = operations.check(str(path), repair="leaks")
    assert (fixed.leaks, fixed.leaks_fixed) == (0, 1)
    assert fixed.corruptions == ours.corruptions
    fixed = operations.check(str(path), repair="all")
    assert fixed.is_clean
    assert fixed.corruptions_fixed == ours.corruptions
    both_find_clean(path)
    both_read(path, data, tmp_path)


def test_an_image_that_qemu_left_dirty_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    operations.create(str(path), SIZE, options={"lazy_refcounts": "on"})
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 5 0 1M", "-c", "flush", "-c", "abort", str(path)],
        capture_output=True,
        check=False,
    )
    assert operations.image_info(str(path)).is_dirty
    assert read(path)[:MiB] == b"\x05" * MiB
    image = open_image(str(path))
    image.write(MiB, [memoryview(b"\x06" * 512)])
    image.close()
    both_find_clean(path)
    both_read(path, b"\x05" * MiB + b"\x06" * 512 + bytes(SIZE - MiB - 512), tmp_path)


def rich_image(path: Path) -> bytes:
    """Data, a snapshot, compressed and zero clusters; 4K clusters."""
    operations.create(str(path), 64 * 4096, options={"cluster_size": "4K"})
    image = open_image(str(path))
    image.write(0, [memoryview(b"d" * 20_000)])
    image.close()
    operations.create_snapshot(str(path), "one")
    image = open_image(str(path))
    assert isinstance(image, Qcow2Image)
    image.write_compressed(8 * 4096, b"compress" * 512)
    image.write_zeroes(16 * 4096, 8192, True)
    image.write(5000, [memoryview(b"e" * 9000)])
    image.close()
    return path.read_bytes()


@pytest.mark.parametrize("seed", [1, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12)]])
def test_what_we_call_repaired_is_clean_for_qemu(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.qcow2"
    whole = rich_image(path)
    rng = random.Random(seed)
    repaired = 0
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(1, len(data) // 4096) * 4096 + rng.randrange(100)
            likely = (rng.randrange(2) << 63 | rng.randrange(40) * 4096).to_bytes(8, "big")
            value = rng.choice((rng.randbytes(rng.randint(1, 8)), bytes(8), likely))
            data[at : at + len(value)] = value
        path.write_bytes(data)
        try:
            found = operations.check(str(path), repair="all")
        except ManorError:
            continue
        theirs = subprocess.run(["qemu-img", "check", path], capture_output=True, text=True, check=False)
        if found.is_clean:
            assert theirs.returncode == 0, (data.hex(), theirs.stdout, theirs.stderr)
            repaired += 1
        else:
            assert theirs.returncode != 0, found.messages
    assert repaired > 10


def test_lost_reference_counts_are_made_anew(tmp_path: Path) -> None:
    """Table, blocks, all of it: what is used says what the counts are."""
    path = tmp_path / "a.qcow2"
    whole = rich_image(path)
    expected = read(path)
    for start, stop in ((4096, 8192), (8192, 12288), (4096, 12288)):
        for fill in (bytes(stop - start), b"\xff" * (stop - start)):
            path.write_bytes(whole[:start] + fill + whole[stop:])
            assert not operations.check(str(path)).is_clean
            assert operations.check(str(path), repair="all").is_clean
            both_find_clean(path)
            both_read(path, expected, tmp_path)
            operations.apply_snapshot(str(path), "one")
            assert read(path)[:20_000] == b"d" * 20_000
            both_find_clean(path)
