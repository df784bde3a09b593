"""Readers of foreign formats, against images that qemu-img makes; damaged ones end in an error."""

from __future__ import annotations

import random
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manor.backends.block.api import BlockBackend, BlockError
from manor.backends.block.open import OpenOptions, open_image
from manor.base.errors import ConfigError, ManorError, ProtocolError
from manor.base.units import KiB, MiB

FORMATS = {
    "monolithicSparse": ("vmdk", "subformat=monolithicSparse"),
    "monolithicFlat": ("vmdk", "subformat=monolithicFlat"),
    "twoGbMaxExtentSparse": ("vmdk", "subformat=twoGbMaxExtentSparse"),
    "twoGbMaxExtentFlat": ("vmdk", "subformat=twoGbMaxExtentFlat"),
    "streamOptimized": ("vmdk", "subformat=streamOptimized"),
    "vdi": ("vdi", "static=off"),
    "vdi-fixed": ("vdi", "static=on"),
    "vhdx": ("vhdx", "subformat=dynamic"),
    "vhdx-undefined": ("vhdx", "block_state_zero=off"),
    "vhdx-fixed": ("vhdx", "subformat=fixed"),
    "vpc": ("vpc", "force_size=on"),
    "vpc-geometry": ("vpc", "subformat=dynamic"),
    "vpc-fixed": ("vpc", "subformat=fixed,force_size=on"),
}
SIZE = 9 * MiB + 7 * 512

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img to make the images")


@pytest.fixture(scope="module")
def contents() -> bytes:
    """A disk with data of many sizes at odd places, and much that is zero."""
    source = random.Random(20)
    disk = bytearray(SIZE)
    for _ in range(30):
        offset = source.randrange(SIZE)
        size = min(source.choice([100, 5000, 70_000, 300_000]), SIZE - offset)
        disk[offset : offset + size] = source.randbytes(size)
    return bytes(disk)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, contents: bytes) -> Path:
    """The disk in every format."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "raw").write_bytes(contents)
    for name, (format, options) in FORMATS.items():
        command = ["qemu-img", "convert", "-f", "raw", "-O", format, "-o", options, "raw", f"{name}.{format}"]
        subprocess.run(command, cwd=folder, check=True)
    return folder


def opened(path: Path, name: str) -> BlockBackend:
    """Found by its contents, but for a fixed VHD, which begins like any disk."""
    return open_image(str(path), OpenOptions(format="vpc" if name == "vpc-fixed" else None, read_only=True))


@pytest.fixture(params=FORMATS)
def image(request: pytest.FixtureRequest, folder: Path) -> Iterator[BlockBackend]:
    name = request.param
    image = opened(folder / f"{name}.{FORMATS[name][0]}", name)
    yield image
    image.close()


def read(image: BlockBackend, offset: int, size: int, pieces: int = 1) -> bytes:
    data = bytearray(size)
    step = max(1, size // pieces)
    image.read(offset, [memoryview(data)[start : start + step] for start in range(0, size, step)])
    return bytes(data)


def test_whole_disk(image: BlockBackend, contents: bytes) -> None:
    assert image.size >= SIZE
    data = read(image, 0, image.size)
    assert data[:SIZE] == contents
    assert not any(data[SIZE:])
    assert image.is_read_only


def test_parts_across_every_border(image: BlockBackend, contents: bytes) -> None:
    source = random.Random(21)
    for _ in range(60):
        offset = source.randrange(SIZE)
        size = source.randrange(min(200_000, SIZE - offset) + 1)
        assert read(image, offset, size, pieces=3) == contents[offset : offset + size]


def test_map_has_no_gaps_and_tells_the_truth(image: BlockBackend) -> None:
    data = read(image, 0, image.size)
    file = Path(image.name).read_bytes()
    position = 0
    kinds = set()
    for extent in image.extents(0, image.size):
        assert extent.offset == position
        position += extent.size
        kinds.add(extent.kind)
        if extent.kind != "data":
            assert not any(data[extent.offset : position])
        elif extent.file_offset is not None:
            assert file[extent.file_offset : extent.file_offset + extent.size] == data[extent.offset : position]
    assert position == image.size
    assert len(kinds) > 1, "an image with large empty parts has more than data"


def test_writing_is_refused_with_what_to_do(image: BlockBackend) -> None:
    calls: tuple[Callable[[], None], ...] = (
        lambda: image.write(0, [memoryview(b"x")]),
        lambda: image.write_zeroes(0, 512, True),
        lambda: image.discard(0, 512),
        lambda: image.resize(1 * MiB),
    )
    for call in calls:
        with pytest.raises(BlockError, match="convert it to qcow2") as caught:
            call()
        assert caught.value.reason == "read-only"
    image.flush()


def test_size_of_geometry_is_what_qemu_sees(folder: Path) -> None:
    text = subprocess.run(
        ["qemu-img", "info", "--output=json", "vpc-geometry.vpc"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    with_image = opened(folder / "vpc-geometry.vpc", "vpc-geometry")
    assert f'"virtual-size": {with_image.size}' in text
    with_image.close()


@pytest.mark.parametrize("name", FORMATS)
def test_cut_off_file_is_an_error_not_zeros(name: str, folder: Path, contents: bytes, tmp_path: Path) -> None:
    for path in folder.glob(f"{name}*.{FORMATS[name][0]}"):
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(
            data if path.suffix == ".vmdk" and len(data) < 4096 else data[: len(data) // 2]
        )
    with pytest.raises((BlockError, ProtocolError)):
        read(opened(tmp_path / f"{name}.{FORMATS[name][0]}", name), 0, SIZE)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_image_ends_in_an_error_or_reads(name: str, folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes of headers and tables changed: no crash, no endless loop, bounded memory."""
    suffix = FORMATS[name][0]
    source = folder / f"{name}.{suffix}"
    image = bytearray(source.read_bytes())
    for path in folder.glob(f"{name}-*.{suffix}"):
        shutil.copyfile(path, tmp_path / path.name)
    # Where structures are: the start, the tail, and of VHDX the headers and tables.
    areas = [
        (0, 1024),
        (max(0, len(image) - 1024), 1024),
        (64 * KiB, 80),
        (192 * KiB, 80),
        (256 * KiB, 80),
        (2 * MiB, 512),
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        start, size = data.draw(st.sampled_from([area for area in areas if area[0] < len(image)]))
        at = min(start + data.draw(st.integers(0, size - 1)), len(image) - 1)
        value = data.draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\x01"]))
        image[at : at + len(value)] = value
    target = tmp_path / source.name
    target.write_bytes(image)
    message = str(target)
    tracemalloc.start()
    try:
        found = opened(target, name)
        try:
            read(found, 0, min(found.size, 1 * MiB))
            read(found, found.size // 2, min(found.size - found.size // 2, 1 * MiB))
            for count, _ in enumerate(found.extents(0, min(found.size, 64 * MiB))):
                assert count < 64 * MiB // 512
        finally:
            found.close()
    except ManorError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 48 * MiB
    assert str(tmp_path) in message, "an error names the file"


def test_esx_image_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    path.write_bytes(b"COWD" + bytes(2048))
    with pytest.raises(ConfigError, match="COWD image of VMware ESX"):
        open_image(str(path), OpenOptions(read_only=True))


def test_differencing_images_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    vdi = bytearray((folder / "vdi.vdi").read_bytes())
    vdi[0x4C] = 4
    (tmp_path / "x.vdi").write_bytes(vdi)
    with pytest.raises(ConfigError, match="a differencing image"):
        open_image(str(tmp_path / "x.vdi"), OpenOptions(read_only=True))


def test_extent_in_another_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    """Whoever made the image could otherwise show any file of the host to a guest."""
    text = (folder / "monolithicFlat.vmdk").read_text()
    assert '"monolithicFlat-flat.vmdk"' in text
    for name in ("/etc/passwd", "../secret", "a/b"):
        (tmp_path / "disk.vmdk").write_text(text.replace("monolithicFlat-flat.vmdk", name))
        with pytest.raises(ConfigError, match="in another folder"):
            open_image(str(tmp_path / "disk.vmdk"), OpenOptions(read_only=True))


def test_vmdk_over_its_parent(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "raw").write_bytes(contents)
    commands = (
        "qemu-img convert -f raw -O vmdk raw base.vmdk",
        "qemu-img create -q -f vmdk -b base.vmdk -F vmdk top.vmdk",
    )
    for command in commands:
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    write = ["qemu-io", "-f", "vmdk", "-c", "write -P 7 1000000 4096", "-c", "write -P 9 6000000 70000", "top.vmdk"]
    subprocess.run(write, cwd=tmp_path, check=True, capture_output=True)
    expected = bytearray(contents)
    expected[1_000_000:1_004_096] = b"\x07" * 4096
    expected[6_000_000:6_070_000] = b"\x09" * 70_000
    image = open_image(str(tmp_path / "top.vmdk"), OpenOptions(read_only=True))
    assert read(image, 0, SIZE) == expected
    assert {extent.depth for extent in image.extents(0, SIZE) if extent.kind == "data"} == {0, 1}
    image.close()


def test_vmdk_in_several_extents(tmp_path: Path) -> None:
    for command in (
        "qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse disk.vmdk 5G",
        "qemu-io -f vmdk disk.vmdk",
    ):
        writes = b"write -P 1 2047M 2M\nwrite -P 2 4095M 64k\nwrite -P 3 4096M 64k\nwrite -P 4 5119M 1M\n"
        subprocess.run(command.split(), cwd=tmp_path, check=True, input=writes, capture_output=True)
    assert len(list(tmp_path.glob("disk-s*.vmdk"))) == 3
    image = open_image(str(tmp_path / "disk.vmdk"), OpenOptions(read_only=True))
    assert image.size == 5 << 30
    assert read(image, 2047 * MiB - 1, 2 * MiB + 2) == b"\0" + b"\1" * (2 * MiB) + b"\0"
    assert read(image, 4095 * MiB, 64 * KiB + 1) == b"\2" * (64 * KiB) + b"\0"
    assert read(image, 4096 * MiB - 1, 2) == b"\0\3"
    assert read(image, 5119 * MiB, MiB) == b"\4" * MiB
    data = sum(extent.size for extent in image.extents(0, image.size) if extent.kind == "data")
    assert data == 3 * MiB + 128 * KiB
    image.close()


def test_vmdk_zeros_hide_the_parent(tmp_path: Path) -> None:
    for command in (
        ["qemu-img", "create", "-q", "-f", "vmdk", "base.vmdk", "4M"],
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "vmdk",
            "-b",
            "base.vmdk",
            "-F",
            "vmdk",
            "-o",
            "zeroed_grain=on",
            "top.vmdk",
        ],
        ["qemu-io", "-f", "vmdk", "-c", "write -P 1 0 4M", "base.vmdk"],
        ["qemu-io", "-f", "vmdk", "-c", "write -z 1M 1M", "top.vmdk"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    image = open_image(str(tmp_path / "top.vmdk"), OpenOptions(read_only=True))
    assert read(image, 0, 4 * MiB) == b"\1" * MiB + bytes(MiB) + b"\1" * (2 * MiB)
    assert [(one.kind, one.depth) for one in image.extents(1 * MiB, 64 * KiB)] == [("zero", 0)]
    image.close()
