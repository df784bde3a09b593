"""Make, apply and delete internal snapshots. Source: qcow2 specification, "Snapshots".

Order of each: what the new state needs is counted and written; the header's pointer changes with one write; what only
the old state needed is freed. A crash in between leaves one of the two states and counts that are too high, and the
image is marked dirty meanwhile. Version 2 cannot be marked: a crash may leave entries there that say wrongly
whether they are the only user, which costs copies, and counts that are too high; a check repairs both.
"""

from __future__ import annotations

import time
from array import array

from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.layout import COPIED, MAX_SNAPSHOTS, OFFSET_MASK
from manor.backends.block.qcow2.maintenance import maintenance, write_l1_pointer, write_snapshot_pointer
from manor.backends.block.qcow2.refcounts import decode_words, encode_words
from manor.backends.block.qcow2.snapshot_table import Snapshot, read_snapshots
from manor.backends.block.qcow2.tree import (
    clear_copied,
    drop_table,
    place_table,
    restore_copied,
    tree_clusters,
    use_less,
    use_more,
)
from manor.base.errors import ConfigError


def snapshots_of(image: Qcow2Image) -> list[Snapshot]:
    """The snapshots in their order."""
    core = image.core
    return read_snapshots(core.file, core.header)[0] if core.header.snapshot_count else []


def find_snapshot(image: Qcow2Image, wanted: str) -> Snapshot:
    """The snapshot with this id, else with this name. Raises ConfigError that lists those there are."""
    snapshots = snapshots_of(image)
    for snapshot in snapshots:
        if snapshot.id == wanted:
            return snapshot
    for snapshot in snapshots:
        if snapshot.name == wanted:
            return snapshot
    names = ", ".join(f"{snapshot.id} ({snapshot.name})" for snapshot in snapshots) or "none"
    raise ConfigError(image.name, f"there is no snapshot {wanted!r}; there are: {names}")


def create(image: Qcow2Image, name: str) -> Snapshot:
    """Keep the present contents as a snapshot. Raises ConfigError, BlockError."""
    core = image.core
    _refuse_data_file(image)
    snapshots = snapshots_of(image)
    if not name or len(name.encode()) > 255:
        raise ConfigError("snapshot", "its name must have 1 to 255 bytes")
    if any(snapshot.name == name for snapshot in snapshots):
        raise ConfigError("snapshot", f"there is one with the name {name!r} already; take another or delete that")
    if len(snapshots) >= MAX_SNAPSHOTS:
        raise ConfigError(image.name, "it has 65536 snapshots, which is the most; delete one")
    if core.refcounts.max_count < 2:
        raise ConfigError(image.name, "its reference counts have 1 bit, which leaves no room for snapshots")
    ident = 1 + max((int(snapshot.id) for snapshot in snapshots if snapshot.id.isdecimal()), default=0)
    now = time.time_ns()
    with maintenance(image):
        use_more(core, core.tables.l1)
        core.write_counts()
        clear_copied(core)
        offset = place_table(core, encode_words(core.tables.l1))
        snapshot = Snapshot(str(ident), name, offset, len(core.tables.l1), now // 10**9, now % 10**9)
        snapshot.disk_size = core.header.size
        _replace_table(image, [*snapshots, snapshot])
    return snapshot


def _replace_table(image: Qcow2Image, snapshots: list[Snapshot]) -> None:
    """Write a new snapshot table and let the header point to it; free the old one."""
    core = image.core
    header = core.header
    old_offset, old_size = header.snapshots_offset, 0
    if header.snapshot_count:
        old_size = read_snapshots(core.file, header)[1]
    data = b"".join(snapshot.encode() for snapshot in snapshots)
    offset = place_table(core, data) if snapshots else 0
    core.write_counts()
    header.snapshot_count, header.snapshots_offset = len(snapshots), offset
    write_snapshot_pointer(image)
    if old_size:
        drop_table(core, old_offset, old_size)


def delete(image: Qcow2Image, wanted: str) -> None:
    """Forget a snapshot and free what only it used."""
    core = image.core
    snapshot = find_snapshot(image, wanted)
    l1 = _read_l1(image, snapshot)
    with maintenance(image):
        _replace_table(image, [other for other in snapshots_of(image) if other.id != snapshot.id])
        use_less(core, tree_clusters(core, l1))
        drop_table(core, snapshot.l1_offset, 8 * snapshot.l1_size)
        core.write_counts()
        restore_copied(core)


def apply(image: Qcow2Image, wanted: str) -> None:
    """Make a snapshot's contents, and its size, the present ones. The present ones are lost unless they have a
    snapshot."""
    core = image.core
    header = core.header
    snapshot = find_snapshot(image, wanted)
    size = header.size if snapshot.disk_size is None else snapshot.disk_size
    l1 = _read_l1(image, snapshot)
    missing = core.geometry.l1_entries(size) - len(l1)
    l1.extend([0] * max(0, missing))
    with maintenance(image):
        use_more(core, l1)
        new = array("Q", [entry & ~COPIED for entry in l1])
        offset = place_table(core, encode_words(new))
        core.write_counts()
        old, old_offset = core.tables.l1, core.tables.l1_offset
        header.size, header.l1_size, header.l1_offset = size, len(new), offset
        write_l1_pointer(image)
        core.tables.l1, core.tables.l1_offset = new, offset
        bits = core.geometry.cluster_bits
        core.metadata.difference_update((entry & OFFSET_MASK) >> bits for entry in old if entry & OFFSET_MASK)
        core.metadata.update((entry & OFFSET_MASK) >> bits for entry in new if entry & OFFSET_MASK)
        use_less(core, tree_clusters(core, old))
        drop_table(core, old_offset, 8 * len(old))
        core.write_counts()
        restore_copied(core)


def read_state(image: Qcow2Image, wanted: str) -> None:
    """Show a snapshot's contents through an image that is open for reading; nothing is written."""
    core = image.core
    snapshot = find_snapshot(image, wanted)
    size = core.header.size if snapshot.disk_size is None else snapshot.disk_size
    l1 = _read_l1(image, snapshot)
    l1.extend([0] * max(0, core.geometry.l1_entries(size) - len(l1)))
    with core.gate.alone():
        core.is_read_only = True
        core.tables.drop()
        image.reader.forget_plain()
        core.header.size = size
        core.tables.l1, core.tables.l1_offset = l1, snapshot.l1_offset


def _read_l1(image: Qcow2Image, snapshot: Snapshot) -> array[int]:
    data = bytearray(8 * snapshot.l1_size)
    image.core.file.read(snapshot.l1_offset, [memoryview(data)])
    return decode_words(data)


def _refuse_data_file(image: Qcow2Image) -> None:
    if image.core.has_data_file:
        raise ConfigError(image.name, "an image with a data file cannot have snapshots inside; make an overlay instead")
