"""Copy an image into another format, and compare two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

from manor.backends.block.api import BlockBackend, Extent
from manor.backends.block.buffers import is_zero
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.operations.copying import PIECE, Counter, in_parallel, pieces
from manor.backends.block.operations.create import create, remove_quietly
from manor.backends.block.operations.progress import Progress, silent
from manor.backends.block.qcow2.image import Qcow2Image
from manor.base.errors import ConfigError
from manor.spec.block import CACHE_MODES, CacheMode

_MIN_SPARSE: Final = 512


def convert(
    source: str,
    target: str,
    *,
    source_format: str | None = None,
    target_format: str = "raw",
    options: Mapping[str, str] | None = None,
    compressed: bool = False,
    backing_file: str | None = None,
    backing_format: str | None = None,
    sparse_size: int = 4096,
    threads: int = 4,
    snapshot: str | None = None,
    overwrite: bool = True,
    force_share: bool = False,
    into_existing: bool = False,
    cache: str = "writeback",
    progress: Progress = silent,
) -> None:
    """Copy what the guest sees of `source` into a new image `target`.

    compressed: qcow2 only. backing_file: the target holds only what differs from it. sparse_size: runs of zeros of at
    least as many bytes are left out; 0 writes everything. snapshot: copy that internal snapshot (id or name).
    into_existing: write into a target that exists (a device) instead of making one. force_share: read a source that
    somebody is writing. What was begun is removed again if it fails.
    """
    if compressed and target_format != "qcow2":
        raise ConfigError("compressed", f"a {target_format} image cannot be compressed; convert to qcow2")
    if compressed and options is not None and "data_file" in options:
        raise ConfigError("compressed", "an image with a data file cannot have compressed clusters; leave one out")
    if sparse_size and (sparse_size < _MIN_SPARSE or sparse_size & (sparse_size - 1)):
        raise ConfigError("sparse size", f"{sparse_size} is neither 0 nor a power of two from 512")
    if cache not in CACHE_MODES:
        raise ConfigError("cache", f"{cache!r} is none of {', '.join(CACHE_MODES)}")
    if not 1 <= threads <= 64:
        raise ConfigError("threads", f"{threads} is not 1 to 64")
    mode = cast(CacheMode, cache)
    below = OpenOptions(format=source_format, read_only=True, force_share=force_share, cache=mode)
    origin = open_image(source, below)
    try:
        if snapshot is not None:
            _show_snapshot(origin, snapshot)
        if not into_existing:
            create(
                target,
                origin.size,
                format=target_format,
                options=options,
                backing_file=backing_file,
                backing_format=backing_format,
                overwrite=overwrite,
            )
        try:
            _fill(origin, target, target_format, mode, compressed, sparse_size, threads, into_existing, progress)
        except BaseException:
            if not into_existing:
                remove_quietly(target)
            raise
    finally:
        origin.close()


def _show_snapshot(origin: BlockBackend, snapshot: str) -> None:
    from manor.backends.block.qcow2.snapshots import read_state

    if not isinstance(origin, Qcow2Image):
        raise ConfigError("snapshot", f"{origin.name} is no qcow2 image and has no snapshots inside")
    read_state(origin, snapshot)


def _fill(
    origin: BlockBackend,
    target: str,
    target_format: str,
    cache: CacheMode,
    compressed: bool,
    sparse_size: int,
    threads: int,
    into_existing: bool,
    progress: Progress,
) -> None:
    image = open_image(target, OpenOptions(format=target_format, cache=cache))
    try:
        if image.size < origin.size:
            raise ConfigError(target, f"it has {image.size} bytes, fewer than the {origin.size} of {origin.name}")
        copy = Copy(origin, image, compressed, sparse_size, must_write_zeros=into_existing, progress=progress)
        copy.run(threads)
        image.flush()
    finally:
        image.close()


class Copy:
    """One copy of all that the guest sees in `origin`."""

    def __init__(
        self,
        origin: BlockBackend,
        image: BlockBackend,
        compressed: bool,
        sparse_size: int,
        *,
        must_write_zeros: bool,
        progress: Progress,
    ) -> None:
        self._origin = origin
        self._image = image
        self._sparse_size = sparse_size
        self._must_write_zeros = must_write_zeros
        self._packed = image if compressed and isinstance(image, Qcow2Image) else None
        backing = image.core.backing if isinstance(image, Qcow2Image) else None
        self._backing = backing
        self._unit = image.core.geometry.cluster_size if isinstance(image, Qcow2Image) else (sparse_size or PIECE)
        self._align = self._unit if isinstance(image, Qcow2Image) else 1
        self._counter = Counter(origin.size, progress)

    def run(self, threads: int) -> None:
        """Copy it all. Raises BlockError of either side."""
        in_parallel(self._piece, pieces(self._wanted(), self._origin.size, self._align), threads)

    def _wanted(self) -> Iterator[Extent]:
        """What has to be looked at. Holes of a new image without a backing one need nothing."""
        if not self._origin.size:
            return
        looks_everywhere = self._backing is not None or self._must_write_zeros or not self._sparse_size
        for extent in self._origin.extents(0, self._origin.size):
            if extent.kind == "data" or looks_everywhere:
                yield extent
            else:
                self._counter.add(extent.size)

    def _piece(self, offset: int, size: int) -> None:
        data = memoryview(bytearray(size))
        self._origin.read(offset, [data])
        if self._backing is not None:
            self._copy_differences(offset, data)
        elif not self._sparse_size:
            self._write(offset, data)
        else:
            self._copy_sparse(offset, data)
        self._counter.add(size)

    def _copy_sparse(self, offset: int, data: memoryview) -> None:
        step = self._unit if self._packed is not None else self._sparse_size
        start = 0
        while start < len(data):
            zero = is_zero(data[start : start + step])
            stop = start + step
            while stop < len(data) and is_zero(data[stop : stop + step]) == zero:
                stop += step
            stop = min(stop, len(data))
            if not zero:
                self._write(offset + start, data[start:stop])
            elif self._must_write_zeros:
                self._image.write_zeroes(offset + start, stop - start, True)
            start = stop

    def _copy_differences(self, offset: int, data: memoryview) -> None:
        """Only clusters that differ from the backing image; one that is zero here and not there is marked so."""
        old = memoryview(bytearray(len(data)))
        inside = max(0, min(len(data), self._backing.size - offset)) if self._backing is not None else 0
        if self._backing is not None and inside:
            self._backing.read(offset, [old[:inside]])
        for start in range(0, len(data), self._unit):
            piece = data[start : start + self._unit]
            if piece == old[start : start + self._unit]:
                continue
            if is_zero(piece):
                self._image.write_zeroes(offset + start, len(piece), True)
            else:
                self._write(offset + start, piece)

    def _write(self, offset: int, data: memoryview) -> None:
        if self._packed is None:
            self._image.write(offset, [data])
            return
        for start in range(0, len(data), self._unit):
            piece = data[start : start + self._unit]
            if len(piece) < self._unit:  # the disk's end
                padded = memoryview(bytes(piece) + bytes(self._unit - len(piece)))
                self._packed.write_compressed(offset + start, padded)
            else:
                self._packed.write_compressed(offset + start, piece)


def compare(
    first: str,
    second: str,
    *,
    first_format: str | None = None,
    second_format: str | None = None,
    force_share: bool = False,
    progress: Progress = silent,
) -> int | None:
    """The offset of the first byte in which the guest's views differ; None if in none.

    Of different sizes, the longer may have only zeros past the end of the shorter.
    """
    one = open_image(first, OpenOptions(format=first_format, read_only=True, force_share=force_share))
    try:
        other = open_image(second, OpenOptions(format=second_format, read_only=True, force_share=force_share))
        try:
            return compare_images(one, other, progress)
        finally:
            other.close()
    finally:
        one.close()


def compare_images(one: BlockBackend, other: BlockBackend, progress: Progress = silent) -> int | None:
    """The same for open images."""
    size = max(one.size, other.size)
    for offset, count in pieces([Extent(0, size, "data")], size):
        if not _are_zero(one, offset, count) or not _are_zero(other, offset, count):
            left, right = _read_padded(one, offset, count), _read_padded(other, offset, count)
            if left != right:
                return offset + next(i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)
        progress(offset + count, size)
    return None


def _are_zero(image: BlockBackend, offset: int, size: int) -> bool:
    inside = max(0, min(size, image.size - offset))
    return not inside or all(extent.kind != "data" for extent in image.extents(offset, inside))


def _read_padded(image: BlockBackend, offset: int, size: int) -> bytearray:
    data = bytearray(size)
    inside = max(0, min(size, image.size - offset))
    if inside:
        image.read(offset, [memoryview(data)[:inside]])
    return data
