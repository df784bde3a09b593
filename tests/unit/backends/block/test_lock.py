"""Who has an image is named, and nobody else may write it: among ourselves, and with QEMU both ways."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from manor.backends.block.file import open_file
from manor.backends.block.lock import ImageInUse
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.operations import create, image_info

needs_qemu = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")), reason="needs qemu-img and qemu-io (qemu-utils)"
)


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = str(tmp_path / "disk.qcow2")
    create(path, 1 << 20)
    return path


@contextmanager
def qemu_io(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """QEMU's tool with an image open, until the block ends."""
    with subprocess.Popen(
        ["qemu-io", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("length\n")
        process.stdin.flush()
        line = process.stdout.readline()  # the image is open once it answers
        assert "MiB" in line, line
        yield process
        process.stdin.close()
        process.wait(30)


def test_a_second_writer_is_refused_by_name(image: str) -> None:
    code = (
        "import sys; from manor.backends.block.open import open_image\n"
        "image = open_image(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "open\n"
        for options in (OpenOptions(), OpenOptions(read_only=True)):
            with pytest.raises(ImageInUse) as caught:
                open_image(image, options)
            assert f"(process {other.pid})" in str(caught.value)
            assert os.path.basename(sys.executable) in str(caught.value)
        open_image(image, OpenOptions(read_only=True, force_share=True)).close()
        other.stdin.close()
        other.wait(30)
    open_image(image).close()


def test_this_process_refuses_itself(image: str) -> None:
    first = open_image(image)
    with pytest.raises(ImageInUse, match="this process itself"):
        open_image(image)
    first.close()
    open_image(image).close()


def test_readers_share_and_keep_writers_out(image: str) -> None:
    readers = [open_image(image, OpenOptions(read_only=True)) for _ in range(3)]
    with pytest.raises(ImageInUse, match="opened for writing"):
        open_image(image)
    for reader in readers:
        reader.close()
    open_image(image).close()


def test_a_refused_opener_leaves_no_lock_behind(image: str) -> None:
    writer = open_image(image)
    with pytest.raises(ImageInUse):
        open_image(image, OpenOptions(read_only=True))
    writer.close()
    open_image(image).close()


def test_backing_images_are_locked_for_reading(tmp_path: Path, image: str) -> None:
    top = str(tmp_path / "top.qcow2")
    create(top, None, backing_file="disk.qcow2", backing_format="qcow2")
    overlay = open_image(top)
    with pytest.raises(ImageInUse):
        open_image(image)
    other = str(tmp_path / "other.qcow2")
    create(other, None, backing_file="disk.qcow2", backing_format="qcow2")
    second = open_image(other)  # many overlays share one base
    overlay.close()
    second.close()
    open_image(image).close()


def test_an_image_is_not_emptied_while_somebody_uses_it(image: str) -> None:
    writer = open_image(image)
    before = Path(image).read_bytes()
    with pytest.raises(ImageInUse):
        create(image, 1 << 20, overwrite=True)
    assert Path(image).read_bytes() == before
    writer.close()


@needs_qemu
def test_qemu_keeps_us_out_by_name(image: str) -> None:
    with qemu_io("-f", "qcow2", image) as process:
        for options in (OpenOptions(), OpenOptions(read_only=True)):
            with pytest.raises(ImageInUse, match=rf"qemu-io \(process {process.pid}\)"):
                open_image(image, options)
        assert image_info(image, force_share=True).virtual_size == 1 << 20
    open_image(image).close()


@needs_qemu
def test_a_reader_of_qemu_keeps_our_writers_out(image: str) -> None:
    with qemu_io("-r", "-f", "qcow2", image):
        open_image(image, OpenOptions(read_only=True)).close()
        with pytest.raises(ImageInUse):
            open_image(image)


@needs_qemu
@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
def test_we_keep_qemu_out(image: str, read_only: bool) -> None:
    ours = open_image(image, OpenOptions(read_only=read_only))
    write = subprocess.run(["qemu-io", "-c", "write 0 512", image], capture_output=True, text=True, check=False)
    assert write.returncode != 0
    assert 'Failed to get "write" lock' in write.stderr or "lock" in write.stderr
    read = subprocess.run(["qemu-img", "info", image], capture_output=True, text=True, check=False)
    assert (read.returncode == 0) == read_only, read.stderr
    ours.close()
    subprocess.run(["qemu-img", "info", image], capture_output=True, check=True)


def test_locks_end_with_the_process(image: str) -> None:
    """However it dies: the kernel gives them back."""
    code = "import os, sys; from manor.backends.block.open import open_image; open_image(sys.argv[1]); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, image], check=False).returncode == 9
    open_image(image).close()


def test_a_file_system_without_such_locks_is_used_without(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def refuse(_fd: int, _command: int, _argument: bytes) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    open_file(image, read_only=False).close()
