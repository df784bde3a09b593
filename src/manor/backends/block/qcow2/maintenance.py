"""Changes to an image as a whole: what they share. With the image alone and everything committed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.image import Qcow2Image


@contextmanager
def maintenance(image: Qcow2Image) -> Iterator[None]:
    """The image alone, nothing dirty and no table cached; marked dirty meanwhile, so that whoever opens it after a
    crash counts anew. If it fails, the image can be read on, and is repaired when it is opened again."""
    core = image.core
    with core.gate.alone():
        core.commit()
        core.write_counts()
        core.tables.drop()
        image.reader.forget_plain()
        core.set_dirty(True)
        try:
            yield
            core.commit()
            core.write_counts()
            core.set_dirty(False)
        except BaseException:
            core.is_read_only = True
            raise
        finally:
            core.tables.drop()
            image.reader.forget_plain()


def write_l1_pointer(image: Qcow2Image) -> None:
    """The disk's size and where the active L1 table is, as the header has them in memory, with one write inside one
    sector; on the medium when it returns, after everything that was written before."""
    header = image.core.header
    data = struct.pack(">QIIQ", header.size, header.crypt_method, header.l1_size, header.l1_offset)
    image.core.file.flush()
    image.core.file.write(layout.AT_SIZE, [memoryview(data)])
    image.core.file.flush()


def write_snapshot_pointer(image: Qcow2Image) -> None:
    """The same for the snapshot table."""
    header = image.core.header
    data = struct.pack(">IQ", header.snapshot_count, header.snapshots_offset)
    image.core.file.flush()
    image.core.file.write(layout.AT_SNAPSHOTS, [memoryview(data)])
    image.core.file.flush()
