"""Changes to a whole qcow2 image that leave what the guest sees to the caller: empty it, name another backing
image, give unused space back."""

from __future__ import annotations

from manor.backends.block.api import BlockError
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.layout import OFFSET_MASK
from manor.backends.block.qcow2.maintenance import maintenance
from manor.backends.block.qcow2.tree import table_clusters, use_less


def empty(image: Qcow2Image) -> None:
    """Drop everything in the image itself, so that its backing image shows. Snapshots stay."""
    core = image.core
    tables = core.tables
    with maintenance(image):
        gone: list[int] = []
        for index, entry in enumerate(tables.l1):
            offset = entry & OFFSET_MASK
            if offset:
                gone += table_clusters(core, tables.read(offset))
                gone.append(offset >> core.geometry.cluster_bits)
                core.metadata.discard(offset >> core.geometry.cluster_bits)
                tables.set_l1(index, 0)
        core.commit()
        if core.has_data_file:
            core.data.punch(0, core.header.size)
        use_less(core, iter(gone))


def set_backing(image: Qcow2Image, name: str | None, format: str | None) -> None:
    """Name another backing image, or none. Raises ConfigError, and changes nothing, if the name does not fit."""
    core = image.core
    header = core.header
    old = header.backing_file, header.extensions[:]
    try:
        header.backing_file = name
        header.set_extension(layout.EXT_BACKING_FORMAT, format.encode("ascii") if name is not None and format else None)
        header.encode()
    except BaseException:
        header.backing_file, header.extensions = old
        raise
    with maintenance(image):
        core.file.flush()
        core.rewrite_header()


def trim(image: Qcow2Image) -> None:
    """Give the space of clusters that nothing uses back to the host, and cut the file off after the last one in use."""
    core = image.core
    bits = core.geometry.cluster_bits
    entries = core.geometry.refcount_entries
    with maintenance(image):
        clusters = (core.file.size() + core.geometry.cluster_mask) >> bits
        last = 0
        for number in range(-(-clusters // entries)):
            block = core.refcounts.block(number)
            first = number * entries
            count = min(entries, clusters - first)
            if block is None:
                _punch(image, first, count)
                continue
            used = max((index for index in range(count) if block.counts[index]), default=-1)
            last = first + used if used >= 0 else last
            _punch_free(image, first, block.counts[:count].tolist())
        core.file.truncate((last + 1) << bits)
        core.refcounts.hint = 0


def _punch_free(image: Qcow2Image, first: int, counts: list[int]) -> None:
    start = None
    for index, count in enumerate([*counts, 1]):
        if not count and start is None:
            start = index
        elif count and start is not None:
            _punch(image, first + start, index - start)
            start = None


def _punch(image: Qcow2Image, first: int, count: int) -> None:
    bits = image.core.geometry.cluster_bits
    try:
        image.core.file.punch(first << bits, count << bits)
    except BlockError:
        return  # stays as large as it is
