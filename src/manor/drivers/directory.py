"""The volumes of a `dir` pool: the files in one directory."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from manor.base.errors import ApiError, ManorError
from manor.base.files import sync_directory
from manor.drivers.api import Cancelled, Progress, VolumeStream
from manor.drivers.errors import Code, Origin, failed, invalid_argument
from manor.drivers.volumes import Volume, VolumePlan

T = TypeVar("T")

CHUNK: Final = 256 * 1024
"""Bytes of a piece that is read, written or wiped."""
TRASH: Final = ".trash"
"""Directory in the pool's where deleted volumes wait; what begins with a dot is no volume."""
_ZEROS: Final = bytes(CHUNK)


class Directory:
    """One directory (VolumeBackend)."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def build(self) -> None:
        await _run(f"making {self.path}", lambda: os.makedirs(self.path, 0o711, exist_ok=True))

    async def open(self) -> None:
        def check() -> None:
            if not os.path.isdir(self.path):
                raise NotADirectoryError(2, "there is no such directory; build the pool, or make it", self.path)
            os.listdir(self.path)

        await _run(f"cannot open directory '{self.path}'", check)

    async def remove(self) -> None:
        await _run(f"removing {self.path}", lambda: os.rmdir(self.path))

    async def space(self) -> tuple[int, int]:
        found = await _run(f"looking at {self.path}", lambda: os.statvfs(self.path))
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    async def all(self) -> Sequence[Volume]:
        return await _run(f"reading {self.path}", self._list)

    async def create(self, plan: VolumePlan, source: Volume | None, progress: Progress) -> None:
        await _run(f"making the volume {plan.name}", lambda: self._create(plan, source, progress))

    async def delete(self, volume: Volume) -> None:
        remove = os.rmdir if volume.is_directory else os.unlink
        await _run(f"deleting {volume.path}", lambda: remove(volume.path))

    async def resize(self, volume: Volume, size: int, shrink: bool) -> None:
        def work() -> None:
            from manor.backends.block.operations.resize import resize

            resize(volume.path, size, format=volume.format, allow_shrink=shrink)

        await _run(f"resizing {volume.path}", work)

    async def wipe(self, volume: Volume, progress: Progress) -> None:
        await _run(f"wiping {volume.path}", lambda: _wipe(volume.path, progress))

    def trash_place(self, volume: Volume) -> str:
        return os.path.join(self.path, TRASH, f"{time.time_ns()}-{volume.name}")

    async def set_aside(self, volume: Volume, place: str) -> None:
        def work() -> None:
            os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
            os.rename(volume.path, place)
            sync_directory(Path(self.path))
            sync_directory(Path(place).parent)

        await _run(f"moving {volume.path} to the trash", work)

    async def bring_back(self, place: str, name: str) -> None:
        target = os.path.join(self.path, name)

        def work() -> None:
            if os.path.lexists(target):
                raise FileExistsError(17, "there is a file of that name already; rename or delete it", target)
            os.rename(self._trashed(place), target)
            sync_directory(Path(self.path))

        await _run(f"bringing {name} back", work)

    async def discard(self, place: str) -> None:
        def work() -> None:
            path = self._trashed(place)
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(path)

        await _run(f"deleting {place}", work)

    def _trashed(self, place: str) -> str:
        if os.path.dirname(place) != os.path.join(self.path, TRASH):
            raise OSError(22, "it is not in this pool's trash", place)
        return place

    async def upload(self, volume: Volume, offset: int, length: int) -> VolumeStream:
        descriptor = await _run(f"opening {volume.path}", lambda: _open(volume, os.O_WRONLY))
        return FileStream(descriptor, offset, length, volume.path)

    async def download(self, volume: Volume, offset: int, length: int) -> VolumeStream:
        descriptor = await _run(f"opening {volume.path}", lambda: _open(volume, os.O_RDONLY))
        size = os.fstat(descriptor).st_size
        if offset > size or (length and offset + length > size):
            os.close(descriptor)
            raise invalid_argument(f"{volume.path} has {size} bytes; the range goes beyond", Origin.STORAGE)
        return FileStream(descriptor, offset, length or size - offset, volume.path)

    def _list(self) -> list[Volume]:
        found = []
        with os.scandir(self.path) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if not entry.name.startswith(".") and entry.name.isprintable():
                    volume = _look(entry)
                    if volume is not None:
                        found.append(volume)
        return found

    def _create(self, plan: VolumePlan, source: Volume | None, progress: Progress) -> None:
        from manor.backends.block.operations.convert import convert
        from manor.backends.block.operations.create import create
        from manor.backends.block.operations.resize import resize

        path = os.path.join(self.path, plan.name)
        if os.path.lexists(path):
            raise FileExistsError(17, "there is a file of that name already", path)
        if source is not None:
            convert(
                source.path, path, source_format=source.format, target_format=plan.format, overwrite=False,
                progress=progress,
            )  # fmt: skip
            if plan.capacity is not None and plan.capacity > source.capacity:
                resize(path, plan.capacity, format=plan.format)
            return
        backing_file, backing_format = plan.backing or (None, None)
        full = plan.capacity is not None and plan.allocation >= plan.capacity > 0 and plan.format == "raw"
        create(
            path,
            plan.capacity,
            format=plan.format,
            options={"preallocation": "falloc"} if full else {},
            backing_file=backing_file,
            backing_format=backing_format,
        )


class FileStream:
    """A part of a file (VolumeStream). length: bytes, 0 for as many as come."""

    def __init__(self, descriptor: int, offset: int, length: int, path: str) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._left = length
        self._is_limited = length > 0
        self._path = path
        self._written = False

    async def read(self, size: int) -> bytes:
        size = min(size, self._left)
        if not size:
            return b""
        data = await _run(f"reading {self._path}", lambda: os.pread(self._descriptor, size, self._offset))
        self._offset += len(data)
        self._left -= len(data)
        return data

    async def write(self, data: bytes) -> None:
        if self._is_limited and len(data) > self._left:
            raise invalid_argument(f"more data for {self._path} than was announced", Origin.STORAGE)
        self._left -= len(data)
        self._written = True

        def work() -> None:
            done = 0
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], self._offset + done)

        await _run(f"writing {self._path}", work)
        self._offset += len(data)

    async def hole(self) -> int:
        size = await _run(f"reading {self._path}", lambda: _hole(self._descriptor, self._offset, self._left))
        self._offset += size
        self._left -= size
        return size

    async def skip(self, size: int) -> None:
        if self._is_limited and size > self._left:
            raise invalid_argument(f"more data for {self._path} than was announced", Origin.STORAGE)
        self._left -= size
        self._written = True
        await _run(f"writing {self._path}", lambda: _clear(self._descriptor, self._offset, size))
        self._offset += size

    async def finish(self) -> None:
        if self._written:
            await _run(f"writing {self._path}", lambda: os.fsync(self._descriptor))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _hole(descriptor: int, offset: int, left: int) -> int:
    """Bytes from `offset` on, at most `left`, that the file system keeps no data for."""
    if left <= 0 or offset >= os.fstat(descriptor).st_size:
        return 0
    try:
        return min(os.lseek(descriptor, offset, os.SEEK_DATA) - offset, left)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return min(os.fstat(descriptor).st_size - offset, left)
        raise


def _clear(descriptor: int, offset: int, size: int) -> None:
    """Make the bytes zero: where there is no data they are, and stay holes."""
    end = offset + size
    if os.fstat(descriptor).st_size < end:
        os.ftruncate(descriptor, end)
    while (gap := _hole(descriptor, offset, end - offset)) < end - offset:
        offset += gap
        piece = min(len(_ZEROS), end - offset)
        offset += os.pwrite(descriptor, _ZEROS[:piece], offset)


async def _run(attempt: str, work: Callable[[], T]) -> T:
    """Do what may block in a thread, and say what the host refused."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise ApiError(
            Code.SYSTEM_ERROR, Origin.STORAGE, f"{attempt}: {error.strerror or error}"
        ) from error
    except (ApiError, Cancelled):
        raise
    except ManorError as error:
        raise failed(f"{attempt}: {error}", Origin.STORAGE) from error


def _open(volume: Volume, how: int) -> int:
    descriptor = os.open(volume.path, how | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(22, "it is not a regular file", volume.path)
    return descriptor


def _look(entry: os.DirEntry[str]) -> Volume | None:
    from manor.backends.block.operations.info import image_info

    try:
        found = entry.stat()
    except OSError:
        return None
    mode, owner, group = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
    if stat.S_ISDIR(found.st_mode):
        return Volume(entry.name, entry.path, 0, 0, "dir", None, True, mode, owner, group)
    if not stat.S_ISREG(found.st_mode):
        return None
    allocation = found.st_blocks * 512
    try:
        info = image_info(entry.path, force_share=True)
    except (ManorError, OSError):
        return Volume(entry.name, entry.path, found.st_size, allocation, "raw", None, False, mode, owner, group)
    backing = (info.backing_path or info.backing_file, info.backing_format or "raw") if info.backing_file else None
    kind = "iso" if info.format == "raw" and entry.name.endswith(".iso") else info.format
    size = found.st_size if info.format == "raw" else info.virtual_size
    return Volume(entry.name, entry.path, size, allocation, kind, backing, False, mode, owner, group)


def _wipe(path: str, progress: Progress) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        zeros = bytes(CHUNK)
        for offset in range(0, size, CHUNK):
            os.pwrite(descriptor, zeros[: size - offset], offset)
            progress(min(offset + CHUNK, size), size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
