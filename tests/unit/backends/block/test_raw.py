"""Raw images on real files: holes, direct I/O, errors of the host, the guard of what was only guessed to be raw."""

from __future__ import annotations

import errno
import os
import random
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from manor.backends.block.api import BlockError
from manor.backends.block.buffers import MAX_PIECES
from manor.backends.block.file import HostFile, open_file
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.raw import RawImage
from manor.base.errors import HostError
from manor.spec.block import CacheMode

MiB = 1 << 20


def make(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def opened(path: str, cache: CacheMode = "writeback") -> RawImage:
    image = open_image(path, OpenOptions(format="raw", cache=cache))
    assert isinstance(image, RawImage)
    return image


def read(image: RawImage, offset: int, size: int) -> bytes:
    data = memoryview(bytearray(size))
    image.read(offset, [data])
    return bytes(data)


@pytest.fixture(params=["writeback", "direct"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> CacheMode:
    mode: CacheMode = request.param
    if mode == "direct":
        try:
            os.close(os.open(tmp_path / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
        except OSError:
            pytest.skip("the file system of the temporary folder knows no direct I/O")
    return mode


def test_random_reads_and_writes(tmp_path: Path, cache: CacheMode) -> None:
    """Any offset, any pieces, aligned or not; also the file's last block, whose end is in the middle of a block."""
    rng = random.Random(1)
    size = 3 * MiB + 512 * 3
    model = bytearray(rng.randbytes(size))
    path = make(tmp_path / "disk", bytes(model))
    image = opened(path, cache)
    for _ in range(200):
        start = rng.choice((rng.randrange(size), rng.randrange(size // 4096) * 4096))
        pieces = [bytearray(rng.choice((1, 100, 512, 4096, 8192, 200_000))) for _ in range(rng.randint(1, 3))]
        while start + sum(map(len, pieces)) > size:
            pieces.pop()
        total = sum(map(len, pieces))
        if rng.random() < 0.5:
            for piece in pieces:
                piece[:] = rng.randbytes(len(piece))
            image.write(start, [memoryview(piece) for piece in pieces])
            model[start : start + total] = b"".join(pieces)
        else:
            image.read(start, [memoryview(piece) for piece in pieces])
            assert b"".join(pieces) == model[start : start + total]
    image.close()
    assert Path(path).read_bytes() == model


def test_direct_io_keeps_the_length_of_the_file(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", bytes(4096 + 512))
    try:
        image = opened(path, "direct")
    except HostError as error:
        pytest.skip(str(error))
    image.write(4096, [memoryview(b"x" * 512)])
    image.write(4500, [memoryview(b"y" * 100)])
    image.close()
    assert Path(path).read_bytes() == bytes(4096) + b"x" * 404 + b"y" * 100 + b"x" * 8


def test_more_pieces_than_one_call_takes(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", bytes(8192))
    image = opened(path)
    data = bytes(random.Random(2).randbytes(3 * MAX_PIECES))
    image.write(100, [memoryview(data)[index : index + 1] for index in range(len(data))])
    found = [memoryview(bytearray(1)) for _ in data]
    image.read(100, found)
    assert b"".join(found) == data
    assert not image.read_nowait(100, found)
    image.close()


def test_short_reads_and_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "disk", bytes(4096))
    image = opened(path)
    real_read, real_write = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, pieces, at, flags=0: real_read(fd, [pieces[0][:7]], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, at: real_write(fd, [pieces[0][:5]], at))
    data = bytes(range(100))
    image.write(10, [memoryview(data)[:40], memoryview(data)[40:]])
    pieces = [memoryview(bytearray(30)), memoryview(bytearray(70))]
    image.read(10, pieces)
    assert b"".join(pieces) == data
    assert not image.read_nowait(10, pieces)
    monkeypatch.undo()
    assert image.read_nowait(10, pieces)
    assert b"".join(pieces) == data
    image.close()


def test_read_nowait_says_when_it_would_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = opened(make(tmp_path / "disk", bytes(4096)))
    page = [memoryview(bytearray(512))]

    def refuse(number: int) -> None:
        def preadv(_fd: int, _pieces: object, _at: int, _flags: int = 0) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "preadv", preadv)

    for number in (errno.EAGAIN, errno.EIO, errno.EOPNOTSUPP):
        refuse(number)
        assert not image.read_nowait(0, page)
    monkeypatch.undo()
    assert not image.read_nowait(0, page), "a file system that cannot is not asked again"
    image.close()


def test_holes(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", b"d" * (4 * MiB))
    image = opened(path)
    image.discard(MiB, MiB)
    image.write_zeroes(3 * MiB, MiB // 2, True)
    image.write_zeroes(0, 4096, False)
    image.flush()
    assert os.stat(path).st_blocks * 512 <= 4 * MiB - MiB - MiB // 2 + 65536
    assert read(image, MiB, MiB) == bytes(MiB)
    assert read(image, 3 * MiB, MiB) == bytes(MiB // 2) + b"d" * (MiB // 2)
    assert read(image, 0, 8192) == bytes(4096) + b"d" * 4096
    holes = sum(extent.size for extent in image.extents(0, 4 * MiB) if extent.kind == "hole")
    assert holes >= MiB + MiB // 2
    extents = list(image.extents(MiB // 2, 2 * MiB))
    assert [extent.kind for extent in extents] == ["data", "hole", "data"]
    assert (extents[0].offset, extents[-1].offset + extents[-1].size) == (MiB // 2, MiB // 2 + 2 * MiB)
    image.close()


def test_zeros_are_written_where_the_file_system_cannot_do_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from manor.backends.block import file

    def refuse(*_arguments: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(file, "fallocate", refuse)
    image = opened(make(tmp_path / "disk", b"d" * 8192))
    image.discard(0, 4096)
    assert read(image, 0, 4096) == b"d" * 4096
    image.write_zeroes(0, 4096, True)
    image.write_zeroes(4096, 100, False)
    assert read(image, 0, 8192) == bytes(4196) + b"d" * 3996
    image.close()


def test_a_full_disk_is_told_apart(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full one."""
    image = opened(make(tmp_path / "disk", bytes(8192)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(BlockError) as caught:
            image.write(4096, [memoryview(b"x" * 512)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.reason == "no-space"
    image.close()


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "no-space"), (errno.EDQUOT, "no-space"), (errno.EIO, "io"), (errno.EROFS, "read-only")],
)
def test_errors_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
    image = opened(make(tmp_path / "disk", bytes(8192)))

    def refuse(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwritev", refuse)
    with pytest.raises(BlockError, match=os.strerror(number)) as caught:
        image.write(0, [memoryview(b"x")])
    assert caught.value.reason == reason
    monkeypatch.undo()
    image.close()


def test_a_failed_flush_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports a lost page once, and then drops it: the second fdatasync would lie."""
    image = opened(make(tmp_path / "disk", bytes(8192)))
    image.write(0, [memoryview(b"x")])

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(BlockError, match="Input/output error"):
            image.flush()
    for _ in range(2):
        with pytest.raises(BlockError, match="no later flush can succeed"):
            image.flush()
    image.close()
    image.close()


def test_resize(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", b"d" * 4096)
    image = opened(path)
    image.resize(MiB)
    assert image.size == MiB
    assert read(image, 0, 8192) == b"d" * 4096 + bytes(4096)
    image.resize(512)
    image.close()
    assert Path(path).read_bytes() == b"d" * 512


def test_what_is_neither_file_nor_device_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(HostError):
            open_file(str(name), read_only=True)


def test_a_guest_cannot_turn_its_guessed_disk_into_another_format(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", bytes(MiB))
    guessed = open_image(path)
    for magic, offset in ((b"QFI\xfb\0\0\0\3", 0), (b"KDMV", 0), (b"\x7f\x10\xda\xbe", 0x40), (b"vhdxfile", 0)):
        sector = bytearray(512)
        sector[offset : offset + len(magic)] = magic
        with pytest.raises(BlockError, match="give the format as raw") as caught:
            guessed.write(0, [memoryview(sector)])
        assert caught.value.reason == "read-only"
        guessed.write(0, [memoryview(bytes(sector[: offset + 2]))])  # in two steps, cut inside the magic
        with pytest.raises(BlockError):
            guessed.write(offset + 2, [memoryview(bytes(sector[offset + 2 :]))])
    guessed.write(0, [memoryview(b"\xeb\x63\x90" + bytes(5000))])  # a boot sector is what it should be
    guessed.write(512, [memoryview(b"EFI PART" + bytes(504))])
    guessed.close()
    assert Path(path).read_bytes()[512:520] == b"EFI PART"
    stated = opened(path)
    stated.write(0, [memoryview(b"QFI\xfb\0\0\0\3")])
    stated.close()


def test_reading_past_the_end_of_a_shrunk_file_gives_zeros(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", b"d" * 8192)
    image = opened(path)
    os.truncate(path, 1000)
    data = memoryview(bytearray(b"?" * 8192))
    image.read(0, [data[:4096], data[4096:]])
    assert bytes(data) == b"d" * 1000 + bytes(7192)
    image.close()


def test_a_file_that_is_only_read_is_never_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "disk", bytes(512))
    file = open_file(path, read_only=True)

    def fail(_fd: int) -> None:
        raise AssertionError

    monkeypatch.setattr(os, "fdatasync", fail)
    file.flush()
    file.close()
    assert isinstance(file, HostFile)


def test_a_raw_image_that_is_open_for_reading_refuses_changes(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", b"d" * 8192)
    image = open_image(path, OpenOptions(format="raw", read_only=True))
    actions: list[Callable[[], object]] = [
        lambda: image.write(0, [memoryview(b"x")]),
        lambda: image.write_zeroes(0, 512, True),
        lambda: image.discard(0, 512),
        lambda: image.resize(100),
    ]
    for action in actions:
        with pytest.raises(BlockError, match="reading only") as caught:
            action()
        assert caught.value.reason == "read-only"
    image.close()
    assert Path(path).read_bytes() == b"d" * 8192
