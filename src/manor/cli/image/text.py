"""Sizes, tables and JSON as qemu-img prints them, so that what reads its output reads ours."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from manor.backends.block.operations import ImageInfo, SnapshotInfo

_UNITS: Final = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def size_text(size: int) -> str:
    """`size` in three digits: `64 MiB`, `1.25 MiB`, `0 B`."""
    value = float(size)
    unit = 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{value:.3g} {_UNITS[unit]}B"


def json_text(value: object) -> str:
    """`value` as JSON, in qemu-img's indentation."""
    return json.dumps(value, indent=4)


def info_text(info: ImageInfo) -> str:
    """One image, for people."""
    lines = [
        f"image: {info.path}",
        f"file format: {info.format}",
        f"virtual size: {size_text(info.virtual_size)} ({info.virtual_size} bytes)",
        f"disk size: {size_text(info.disk_size)}",
    ]
    if info.is_encrypted:
        lines.append("encrypted: yes")
    if info.cluster_size is not None:
        lines.append(f"cluster_size: {info.cluster_size}")
    if info.is_dirty:
        lines.append("cleanly shut down: no")
    if info.backing_file is not None:
        place = info.backing_path
        found = f" (actual path: {place})" if place is not None and place != info.backing_file else ""
        lines.append(f"backing file: {info.backing_file}{found}")
        if info.backing_format is not None:
            lines.append(f"backing file format: {info.backing_format}")
    if info.snapshots:
        lines += snapshot_table(info.snapshots)
    if info.details:
        lines.append("Format specific information:")
        for name, value in info.details.items():
            if isinstance(value, tuple):
                lines.append(f"    {name}:")
                lines += [f"        [{index}]: {one}" for index, one in enumerate(value)]
            else:
                lines.append(f"    {name}: {_plain(value)}")
    return "\n".join(lines)


def _plain(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def info_object(info: ImageInfo) -> dict[str, object]:
    """One image, for scripts."""
    found: dict[str, object] = {
        "virtual-size": info.virtual_size,
        "filename": info.path,
        "format": info.format,
        "actual-size": info.disk_size,
        "dirty-flag": info.is_dirty,
    }
    if info.cluster_size is not None:
        found["cluster-size"] = info.cluster_size
    if info.is_encrypted:
        found["encrypted"] = True
    if info.backing_file is not None:
        found["backing-filename"] = info.backing_file
        if info.backing_path is not None:
            found["full-backing-filename"] = info.backing_path
        if info.backing_format is not None:
            found["backing-filename-format"] = info.backing_format
    if info.snapshots:
        found["snapshots"] = [snapshot_object(snapshot) for snapshot in info.snapshots]
    if info.details:
        found["format-specific"] = {"type": info.format, "data": _hyphened(info.details)}
    return found


def _hyphened(details: Mapping[str, object]) -> dict[str, object]:
    return {
        name.replace(" ", "-"): list(value) if isinstance(value, tuple) else value for name, value in details.items()
    }


def snapshot_table(snapshots: Sequence[SnapshotInfo]) -> list[str]:
    """Lines of the table of snapshots. Times are local."""
    lines = [
        "Snapshot list:",
        f"{'ID':<10}{'TAG':<17}{'VM SIZE':>8}{'DATE':>20}{'VM CLOCK':>13}",
    ]
    for one in snapshots:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.date))
        milliseconds = one.vm_clock // 1_000_000
        seconds, fraction = divmod(milliseconds, 1000)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:03}"
        # A blank between the columns even where a name fills its own.
        lines.append(f"{one.id:<9} {one.name:<16} {size_text(one.vm_state_size):>8} {date:>19} {clock:>12}")
    return lines


def snapshot_object(snapshot: SnapshotInfo) -> dict[str, object]:
    """One snapshot, for scripts."""
    whole = int(snapshot.date)
    return {
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": whole,
        "date-nsec": round((snapshot.date - whole) * 1e9),
        "vm-clock-sec": snapshot.vm_clock // 10**9,
        "vm-clock-nsec": snapshot.vm_clock % 10**9,
    }
