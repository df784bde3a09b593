"""The file of a saved VM: what stands in it, and whether a machine is the one that was saved.

    HEAD   SavedHead, as JSON
    STAT   the state of the processors and devices, as JSON
    HOST   what the host's side wants to know again, as JSON: "networks", a value for each interface, and "extra"
    PAGE   a piece of memory: address, size, how it is stored (_PAGE); as often as there are pieces
    DISK   DiskMarks of the disks, as JSON, as they were when the VM let go of them

in this order, as sections (base.sections). A saved state belongs to the version of Manor that wrote it: devices may
have other registers in the next one. It also belongs to its disks, as the guest has parts of them in its memory.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from manor.base.errors import ConfigError, HostError, ProtocolError
from manor.base.sections import SectionReader, SectionWriter
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.spec.machine_json import spec_from_json, spec_to_json
from manor.spec.net import NicSpec
from manor.spec.record import plain, read

D = TypeVar("D", DiskSpec, NicSpec)

MAGIC: Final = b"MANORVM\x1a"
VERSION: Final = 1
WHAT: Final = "the state of a saved VM"

HEAD: Final = b"HEAD"
STATE: Final = b"STAT"
HOST: Final = b"HOST"
PAGES: Final = b"PAGE"
DISKS: Final = b"DISK"

PAGE_HEAD: Final = struct.Struct("<QII")
"""Address, size in memory, and what follows: STORED or ZSTD."""
STORED: Final = 0
ZSTD: Final = 1

_HOST_SIDE: Final = {
    "": {"kernel", "initrd", "append", "console", "smbios"},
    "disks": {"source", "format", "snapshot", "cache", "throttle", "id", "slot"},
    "nics": {
        "kind", "name", "reach", "host_at_gateway", "forwards", "hostname", "capture", "shaping", "link_up", "id",
        "slot",
    },
    "vsock": {"path"},
    "shares": {"path", "uid", "gid"},
}  # fmt: skip
"""What the guest's machine does not consist of, by where it stands: it counts from the next start on, or is the host's
alone. All else must be as it was."""


@dataclass(frozen=True, slots=True)
class SavedHead:
    """What there was to save.

    program: version of Manor. saved_ns: civil time, ns since 1970. accel: the accelerator it ran on. machine: as it was
    when it was saved. clock_ns: time of the machine's own clock. memory: bytes of RAM that were in use.
    paused: it was paused by somebody, and shall be after its restoration. note: what who saved it wants to find again.
    """

    program: str
    saved_ns: int
    accel: str
    machine: MachineSpec
    clock_ns: int
    memory: int
    paused: bool = False
    note: str = ""

    def to_json(self) -> bytes:
        """For the file."""
        value = {
            "program": self.program, "saved_ns": self.saved_ns, "accel": self.accel, "clock_ns": self.clock_ns,
            "memory": self.memory, "paused": self.paused, "note": self.note,
        }  # fmt: skip
        return json.dumps(value | {"machine": json.loads(spec_to_json(self.machine))}).encode()


@dataclass(frozen=True, slots=True)
class DiskMark:
    """By what a disk's file is known again. size, mtime_ns: None for what has none, such as a network's disk."""

    path: str
    size: int | None
    mtime_ns: int | None


def read_head(path: Path) -> SavedHead:
    """What a file says of itself, after a look at its two ends. Raises HostError, ProtocolError."""
    reader = open_saved(path)
    try:
        reader.last()
        kind, payload = next(reader.sections())
        return parse_head(path, kind, payload)
    finally:
        reader.close()


def open_saved(path: Path) -> SectionReader:
    """A reader at the beginning of the file. Raises HostError, ProtocolError."""
    return SectionReader(path, MAGIC, VERSION, WHAT)


def parse_head(path: Path, kind: bytes, payload: bytes) -> SavedHead:
    """The first section. Raises ProtocolError."""
    value = load_json(path, payload) if kind == HEAD else None
    if not isinstance(value, dict) or not isinstance(value.get("machine"), dict):
        raise ProtocolError(f"{path} does not say what machine was saved")
    try:
        machine = spec_from_json(json.dumps(value.pop("machine")))
    except ConfigError as error:
        raise ProtocolError(f"{path} holds a machine that this Manor does not know: {error}") from error
    fields: dict[str, type] = {
        "program": str, "saved_ns": int, "accel": str, "clock_ns": int, "memory": int, "paused": bool, "note": str,
    }  # fmt: skip
    if value.keys() != fields.keys() or any(type(value[name]) is not kind for name, kind in fields.items()):
        raise ProtocolError(f"{path} does not say how the machine was saved")
    return SavedHead(machine=machine, **value)


def load_json(path: Path, payload: bytes) -> Any:
    """A section of JSON. Raises ProtocolError."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{path} holds something that is not JSON: {error}") from error


def write_empty(path: Path, head: SavedHead) -> None:
    """A file of a machine that is nothing but its description. Raises HostError."""
    writer = SectionWriter(path, MAGIC, VERSION)
    try:
        writer.add(HEAD, head.to_json())
        writer.add(DISKS, marks_to_json(()))
        writer.finish()
    except BaseException:
        writer.abandon()
        raise


def replace_head(path: Path, head: SavedHead) -> None:
    """Write the file anew, complete or not at all, with another head. Raises HostError, ProtocolError."""
    reader = open_saved(path)
    try:
        writer = SectionWriter(path, MAGIC, VERSION)
        try:
            for kind, payload in reader.sections():
                writer.add(kind, head.to_json() if kind == HEAD else payload)
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
    finally:
        reader.close()


# --- the same machine -------------------------------------------------------------------------------------------------


def check_same(saved: MachineSpec, now: MachineSpec) -> None:
    """Raise ConfigError, naming the field, unless `now` is the machine that was saved, as far as its guest can see."""
    old, new = (json.loads(spec_to_json(spec)) for spec in (saved, now))
    for name, value in old.items():
        if name not in _HOST_SIDE[""]:
            _compare(name, name, value, new.get(name))


def with_places(saved: MachineSpec, now: MachineSpec) -> MachineSpec:
    """`now` with the names and slots that the devices of `saved` have, in their order: what came while it ran came last
    there, wherever it is described. What `now` leaves open is as it was: numbers of queues, vCPUs that may come."""
    if len(saved.disks) != len(now.disks) or len(saved.nics) != len(now.nics):
        return now  # `check_same` will say so
    return replace(
        now,
        disks=_placed(saved.disks, now.disks),
        nics=_placed(saved.nics, now.nics),
        max_cpus=saved.max_cpus if saved.possible_cpus == now.possible_cpus else now.max_cpus,
    )


def _placed(saved: tuple[D, ...], now: tuple[D, ...]) -> tuple[D, ...]:
    named = {one.id: one for one in now if one.id}
    if all(old.id in named for old in saved):
        now = tuple(named[old.id] for old in saved)
    return tuple(
        replace(new, id=old.id, slot=old.slot, queues=new.queues or old.queues)
        for old, new in zip(saved, now, strict=True)
    )


def _compare(path: str, kind: str, old: Any, new: Any) -> None:
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            raise _differs(path, f"{len(old)} of them", f"{len(new)}")
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            _compare(f"{path}[{index}]", kind, before, after)
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in old:
            if name not in _HOST_SIDE.get(kind, set()):
                _compare(f"{path}.{name}", f"{kind}.{name}", old[name], new.get(name))
    elif old != new:
        raise _differs(path, _show(old), _show(new))


def _show(value: Any) -> str:
    return "nothing" if value is None or value == "" else "some" if isinstance(value, (dict, list)) else str(value)


def _differs(path: str, old: str, new: str) -> ConfigError:
    return ConfigError(path, f"the saved machine had {old}, this one has {new}; a saved VM goes on as it was")


# --- the same disks ---------------------------------------------------------------------------------------------------


def mark_disks(disks: Sequence[DiskSpec]) -> tuple[DiskMark, ...]:
    """Marks of disks that nobody has open for writing. Raises HostError."""
    return tuple(_mark(disk.source) for disk in disks)


def _mark(source: str) -> DiskMark:
    path = Path(source)
    try:
        found = path.stat()
    except OSError as error:
        if "://" in source or ":" in source.split("/", 1)[0]:
            return DiskMark(source, None, None)
        raise HostError.from_os_error(f"cannot look at the disk {source}", error) from error
    if not path.is_file():
        return DiskMark(os.path.abspath(source), None, None)  # a device has no time of its last change
    return DiskMark(os.path.abspath(source), found.st_size, found.st_mtime_ns)


def marks_to_json(marks: Sequence[DiskMark]) -> bytes:
    """For the file."""
    return json.dumps(plain(tuple(marks))).encode()


def read_marks(path: Path, kind: bytes, payload: bytes) -> tuple[DiskMark, ...]:
    """The section before the last. Raises ProtocolError."""
    value = load_json(path, payload) if kind == DISKS else None
    if not isinstance(value, list):
        raise ProtocolError(f"{path} does not say what disks the VM had")
    return tuple(read(DiskMark, each, f"disk {number}") for number, each in enumerate(value))


def check_disks(marks: Sequence[DiskMark], disks: Sequence[DiskSpec]) -> None:
    """Raise HostError if a disk was written since it was marked. A file may have been moved."""
    for mark, disk, now in zip(marks, disks, mark_disks(disks), strict=True):
        if mark.mtime_ns is not None and (mark.size, mark.mtime_ns) != (now.size, now.mtime_ns):
            raise HostError(
                f"{disk.source} has changed since the VM was saved: to go on would mix what the guest has in memory "
                "with another disk's contents and destroy both; put the disk back as it was, or give the saved state up"
            )
