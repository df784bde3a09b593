"""Give the host space back that an image does not need."""

from __future__ import annotations

import os
import shutil
import tempfile

from manor.backends.block.api import BlockBackend
from manor.backends.block.buffers import is_zero
from manor.backends.block.file import open_file, sync_folder
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.operations.copying import Counter, data_extents, pieces, total_data
from manor.backends.block.operations.create import remove_quietly
from manor.backends.block.operations.progress import Progress, silent
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.check import check_file
from manor.backends.block.qcow2.create import Qcow2Options, create_qcow2
from manor.backends.block.qcow2.header import COMPRESSION_TYPES, Header, read_header
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.reader import DATA, PACKED, ZEROES
from manor.backends.block.qcow2.reshape import trim
from manor.base.errors import ConfigError

_MIN_RAW_HOLE = 4096


def compact(
    path: str,
    *,
    format: str | None = None,
    rewrite: bool = False,
    progress: Progress = silent,
) -> tuple[int, int]:
    """Release clusters that hold zeros or that nothing uses; returns the bytes on the host (before, after).

    In place: works on any image, with snapshots too; the file may keep its length and get holes. rewrite: make a new
    file beside it, without gaps, and put it in the old one's place when it is complete (refused with internal
    snapshots).
    """
    image = open_image(path, OpenOptions(format=format, backing=False))
    try:
        before = _space(path)
        if not isinstance(image, Qcow2Image):
            _punch_zeros(image, _MIN_RAW_HOLE, progress)
        elif rewrite:
            _rewrite(image, path, progress)
        else:
            _free_leaks(image)
            _punch_zeros(image, image.core.geometry.cluster_size, progress)
            trim(image)
    finally:
        image.close()
    return before, _space(path)


def _space(path: str) -> int:
    return os.stat(path).st_blocks * 512


def _free_leaks(image: Qcow2Image) -> None:
    core = image.core
    with core.gate.alone():
        core.commit()
        core.write_counts()
        core.tables.drop()
        found = check_file(core.file, core.header, "leaks")
        if found.corruptions or found.errors:
            raise ConfigError(image.name, "it is damaged; repair it first: manor image check --repair all")
        core.refcounts.blocks.clear()
        core.refcounts.hint = 0


def _punch_zeros(image: BlockBackend, unit: int, progress: Progress) -> None:
    """Look for units of zeros in what is allocated, and give their space back."""
    if not image.size:
        return
    counter = Counter(total_data(image), progress)
    for offset, size in pieces(iter(list(data_extents(image, 0, image.size))), image.size, unit):
        data = memoryview(bytearray(size))
        image.read(offset, [data])
        start = 0
        while start < size:
            stop = start
            while stop < size and is_zero(data[stop : min(stop + unit, size)]):
                stop = min(stop + unit, size)
            if stop > start:
                image.write_zeroes(offset + start, stop - start, True)
            start = max(stop, start + unit)
        counter.add(size)
    image.flush()


def _rewrite(image: Qcow2Image, path: str, progress: Progress) -> None:
    header = image.core.header
    if header.snapshot_count:
        raise ConfigError(path, "it has snapshots inside; compact it in place, or delete them first")
    if header.incompatible & layout.DATA_FILE or header.autoclear & layout.BITMAPS:
        raise ConfigError(path, "an image with a data file or bitmaps can only be compacted in place")
    path = os.path.realpath(path)
    fd, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".", suffix=".new", dir=os.path.dirname(path))
    os.close(fd)
    try:
        file = open_file(temporary, read_only=False)
        try:
            create_qcow2(
                file,
                header.size,
                options_of(header),
                backing_file=header.backing_file,
                backing_format=header.backing_format or "raw",
            )
            if header.backing_format is None and header.backing_file is not None:
                _forget_format(file.name)
        finally:
            file.close()
        target = open_image(temporary, OpenOptions(format="qcow2", backing=False))
        try:
            assert isinstance(target, Qcow2Image)
            _copy_own(image, target, progress)
            target.flush()
        finally:
            target.close()
        shutil.copymode(path, temporary)
        os.replace(temporary, path)
        sync_folder(path)
    except BaseException:
        remove_quietly(temporary)
        raise


def options_of(header: Header) -> Qcow2Options:
    """How an image was made, to make another like it."""
    return Qcow2Options(
        cluster_size=1 << header.cluster_bits,
        version=2 if header.version == 2 else 3,
        lazy_refcounts=bool(header.compatible & layout.LAZY_REFCOUNTS),
        refcount_bits=1 << header.refcount_order,
        compression_type="zstd" if COMPRESSION_TYPES[header.compression_type] == "zstd" else "zlib",
        extended_l2=bool(header.incompatible & layout.EXTENDED_L2),
    )


def _forget_format(path: str) -> None:
    """The old image did not state its backing image's format; what is not known must not be made up."""
    file = open_file(path, read_only=False, force_share=True)
    try:
        header = read_header(file)
        header.set_extension(layout.EXT_BACKING_FORMAT, None)
        data = header.encode()
        file.write(0, [memoryview(data + bytes((1 << header.cluster_bits) - len(data)))])
        file.flush()
    finally:
        file.close()


def _copy_own(image: Qcow2Image, target: Qcow2Image, progress: Progress) -> None:
    """What is in the image itself: compressed clusters stay compressed, zeros become marks."""
    counter = Counter(image.size, progress)
    unit = image.core.geometry.cluster_size
    offset = 0
    while offset < image.size:
        with image.core.gate.operation():
            kind, _, count = image.reader.next_run(offset, min(image.size - offset, 2 << 20))
        if kind == ZEROES:
            target.write_zeroes(offset, count, True)
        elif kind in (DATA, PACKED):
            data = memoryview(bytearray(count))
            image.read(offset, [data])
            if kind == PACKED:
                target.write_compressed(offset, bytes(data) + bytes(unit - count))
            else:
                _write_unless_zero(target, offset, data, unit)
        offset += count
        counter.add(count)


def _write_unless_zero(target: Qcow2Image, offset: int, data: memoryview, unit: int) -> None:
    start = 0
    while start < len(data):
        stop = min(len(data), (offset + start + unit & -unit) - offset)
        if is_zero(data[start:stop]):
            target.write_zeroes(offset + start, stop - start, True)
        else:
            target.write(offset + start, [data[start:stop]])
        start = stop
