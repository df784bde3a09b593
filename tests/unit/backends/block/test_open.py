"""Opening by name: formats, chains with loops and without end, throw-away overlays, what is not opened on a guess."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from manor.backends.block import open as opening
from manor.backends.block.file import open_file
from manor.backends.block.open import OpenOptions, open_image, resolve
from manor.backends.block.operations import create, rebase
from manor.backends.block.probe import probe
from manor.backends.block.qcow2.header import read_header
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.raw import RawImage
from manor.base.errors import ConfigError, HostError

MiB = 1 << 20


def read(path: Path | str, size: int = 512, offset: int = 0) -> bytes:
    image = open_image(str(path), OpenOptions(read_only=True))
    data = memoryview(bytearray(size))
    image.read(offset, [data])
    image.close()
    return bytes(data)


def write(path: Path | str, data: bytes, offset: int = 0, format: str | None = None) -> None:
    image = open_image(str(path), OpenOptions(format=format))
    image.write(offset, [memoryview(data)])
    image.close()


def set_backing(path: Path, name: str, format: str | None) -> None:
    """Write a backing name into an image, whatever it means."""
    file = open_file(str(path), read_only=False)
    header = read_header(file)
    header.backing_file = name
    header.set_extension(0xE2792ACA, format.encode() if format else None)
    data = header.encode()
    file.write(0, [memoryview(data + bytes(65536 - len(data)))])
    file.close()


@pytest.mark.parametrize(
    ("head", "format"),
    [
        (b"QFI\xfb\0\0\0\2", "qcow2"),
        (b"QFI\xfb\0\0\0\3", "qcow2"),
        (b"QFI\xfb\0\0\0\7", "qcow2"),
        (b"QFI\xfb\0\0\0\1", "qcow"),
        (b"KDMV\1", "vmdk"),
        (b"# Disk DescriptorFile\nversion=1", "vmdk"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "vdi"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vpc"),
        (b"LUKS\xba\xbe", "luks"),
        (b"QFI", "raw"),
        (b"", "raw"),
        (bytes(2048), "raw"),
    ],
)
def test_formats_by_their_contents(head: bytes, format: str) -> None:
    assert probe(head) == format


def test_the_format_is_found_or_given(tmp_path: Path) -> None:
    create(str(tmp_path / "a"), MiB)
    assert isinstance(open_image(str(tmp_path / "a"), OpenOptions(read_only=True)), Qcow2Image)
    assert isinstance(open_image(str(tmp_path / "a"), OpenOptions(read_only=True, format="raw")), RawImage)
    with pytest.raises(ConfigError, match="no format 'qcow3'; there are raw, qcow2"):
        open_image(str(tmp_path / "a"), OpenOptions(format="qcow3"))
    (tmp_path / "luks").write_bytes(b"LUKS\xba\xbe" + bytes(1000))
    with pytest.raises(ConfigError, match="a luks image, which Manor does not read"):
        open_image(str(tmp_path / "luks"))
    with pytest.raises(HostError, match="opening .*missing.*No such file"):
        open_image(str(tmp_path / "missing"))


def test_names_are_relative_to_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    create(str(tmp_path / "images/base.qcow2"), MiB)
    write(tmp_path / "images/base.qcow2", b"base" * 128)
    create(str(tmp_path / "images/top.qcow2"), None, backing_file="base.qcow2", backing_format="qcow2")
    monkeypatch.chdir("/")
    assert read(tmp_path / "images/top.qcow2") == b"base" * 128
    assert resolve("/a/b.qcow2", "file:c") == "/a/c"
    assert resolve("/a/b.qcow2", "file:///c") == "/c"
    assert resolve("/a/b.qcow2", "x:y") == "/a/x:y"
    with pytest.raises(ConfigError, match="Manor opens no json: names"):
        resolve("/a/b", "json:{}")


def test_loops_are_found(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    for name in names:
        create(str(tmp_path / name), MiB)
    for name, below in zip(names, ["b", "c", "a"], strict=True):
        set_backing(tmp_path / name, below, "qcow2")
    for options in (OpenOptions(), OpenOptions(read_only=True, force_share=True)):
        with pytest.raises(ConfigError, match="backed by itself"):
            open_image(str(tmp_path / "a"), options)
    os.link(tmp_path / "a", tmp_path / "other name")
    set_backing(tmp_path / "a", "other name", "qcow2")
    with pytest.raises(ConfigError, match="backed by itself"):
        open_image(str(tmp_path / "a"))


def test_a_chain_is_as_long_as_it_may_be_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_DEPTH", 12)
    create(str(tmp_path / "0"), MiB, options={"cluster_size": "512"})
    write(tmp_path / "0", b"deep" * 128)
    for number in range(1, 13):
        options = {"cluster_size": "512"}
        create(
            str(tmp_path / str(number)),
            MiB,
            backing_file=str(number - 1),
            backing_format="qcow2" if number < 12 else "raw",
            options=options,
        )
    assert read(tmp_path / "11") == b"deep" * 128
    set_backing(tmp_path / "12", "11", "qcow2")
    with pytest.raises(ConfigError, match="more than 12 images"):
        open_image(str(tmp_path / "12"))
    open_image(str(tmp_path / "11")).close()


def test_a_guessed_backing_image_opens_no_other_file(tmp_path: Path) -> None:
    """A guest with a raw disk writes an image header into it that names a file of the host."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret!!" * 1000)
    create(str(tmp_path / "evil"), MiB, backing_file="secret", backing_format="raw")
    create(str(tmp_path / "plain"), MiB)
    write(tmp_path / "plain", b"plain..." * 64)
    create(str(tmp_path / "top"), MiB)
    set_backing(tmp_path / "top", "evil", None)
    with pytest.raises(ConfigError, match=r"names another file \('secret'\).*rebase -u"):
        open_image(str(tmp_path / "top"))
    set_backing(tmp_path / "top", "evil", "qcow2")
    assert read(tmp_path / "top") == b"secret!!" * 64
    set_backing(tmp_path / "top", "plain", None)
    assert read(tmp_path / "top") == b"plain..." * 64
    set_backing(tmp_path / "top", "secret", None)
    assert read(tmp_path / "top") == b"secret!!" * 64
    create(str(tmp_path / "below"), MiB)
    write(tmp_path / "below", struct.pack(">4sI", b"QFI\xfb", 3))
    rebase(str(tmp_path / "top"), "below", backing_format="qcow2", unsafe=True)
    assert read(tmp_path / "top")[:4] == b"QFI\xfb"


def test_writes_to_a_snapshot_are_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "overlays"))
    base = tmp_path / "disk"
    base.write_bytes(b"d" * MiB)
    image = open_image(str(base), OpenOptions(format="raw", snapshot=True))
    assert not image.is_read_only
    assert list((tmp_path / "overlays").iterdir()) == [], "the overlay has no name that could be left over"
    image.write(1000, [memoryview(b"new" * 1000)])
    image.flush()
    data = memoryview(bytearray(8192))
    image.read(0, [data])
    assert bytes(data) == b"d" * 1000 + b"new" * 1000 + b"d" * 4192
    second = open_image(str(base), OpenOptions(format="raw", snapshot=True))  # they share the disk
    image.close()
    second.close()
    assert base.read_bytes() == b"d" * MiB


def test_the_overlay_goes_to_the_cache_without_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    create(str(tmp_path / "a"), MiB)
    open_image(str(tmp_path / "a"), OpenOptions(snapshot=True)).close()
    assert (tmp_path / "cache/manor").is_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(HostError, match="set TMPDIR"):
        open_image(str(tmp_path / "a"), OpenOptions(snapshot=True))
    open_image(str(tmp_path / "a")).close()


def test_a_failed_opening_leaves_no_descriptor(tmp_path: Path) -> None:
    create(str(tmp_path / "base"), MiB)
    create(str(tmp_path / "top"), MiB, backing_file="base", backing_format="qcow2")
    os.unlink(tmp_path / "base")
    before = len(os.listdir("/proc/self/fd"))
    for options in (OpenOptions(), OpenOptions(snapshot=True), OpenOptions(format="raw", read_only=True)):
        if options.format:
            open_image(str(tmp_path / "top"), options).close()
            continue
        with pytest.raises(HostError, match="base"):
            open_image(str(tmp_path / "top"), options)
    assert len(os.listdir("/proc/self/fd")) == before
