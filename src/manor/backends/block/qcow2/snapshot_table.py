"""The table of internal snapshots. Source: qcow2 specification, "Snapshots"."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from manor.backends.block.file import File
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.header import Header
from manor.base.errors import ProtocolError

_ENTRY: Final = struct.Struct(">QIHHIIQII")
_EXTRA: Final = struct.Struct(">QQ")
_MAX_EXTRA: Final = 1024


@dataclass(slots=True)
class Snapshot:
    """One entry. date: seconds, date_ns: nanoseconds within. vm_clock: nanoseconds. Sizes in bytes.

    disk_size: None in version 2 images that do not say. extra: further data past what is known, kept as it is.
    """

    id: str
    name: str
    l1_offset: int
    l1_size: int
    date: int = 0
    date_ns: int = 0
    vm_clock: int = 0
    vm_state_size: int = 0
    disk_size: int | None = None
    extra: bytes = b""

    def encode(self) -> bytes:
        """The entry with its padding."""
        extra = b""
        if self.disk_size is not None:
            extra = _EXTRA.pack(self.vm_state_size, self.disk_size) + self.extra
        ident, name = self.id.encode("utf-8", "surrogateescape"), self.name.encode("utf-8", "surrogateescape")
        data = _ENTRY.pack(
            self.l1_offset,
            self.l1_size,
            len(ident),
            len(name),
            self.date,
            self.date_ns,
            self.vm_clock,
            min(self.vm_state_size, 0xFFFF_FFFF),
            len(extra),
        )
        data += extra + ident + name
        return data + bytes(-len(data) % 8)


def read_snapshots(file: File, header: Header) -> tuple[list[Snapshot], int]:
    """All entries, and the bytes of the table. Raises ProtocolError."""
    geometry = header.geometry
    end = (file.size() + geometry.cluster_mask) & ~geometry.cluster_mask
    found = []
    offset = header.snapshots_offset
    for number in range(header.snapshot_count):
        offset = (offset + 7) & -8
        start = offset
        head = bytearray(_ENTRY.size)
        file.read(offset, [memoryview(head)])
        l1_offset, l1_size, id_size, name_size, date, date_ns, vm_clock, vm_size, extra_size = _ENTRY.unpack(head)
        if extra_size > _MAX_EXTRA:
            raise ProtocolError(f"{file.name}: snapshot {number} has {extra_size} bytes of extra data", start)
        rest = bytearray(extra_size + id_size + name_size)
        offset += len(head) + len(rest)
        if offset > end or offset - header.snapshots_offset > layout.MAX_SNAPSHOT_TABLE_SIZE:
            raise ProtocolError(f"{file.name}: the snapshot table does not end where it must", start)
        file.read(start + len(head), [memoryview(rest)])
        size = 8 * l1_size
        if size > layout.MAX_L1_SIZE or l1_offset & geometry.cluster_mask or (size and not 0 < l1_offset <= end - size):
            raise ProtocolError(f"{file.name}: the L1 table of snapshot {number} is not inside the file", start)
        disk_size = None
        extra = bytes(rest[:extra_size])
        if extra_size >= 8:
            vm_size = int.from_bytes(extra[:8], "big")
        if extra_size >= 16:
            vm_size, disk_size = _EXTRA.unpack_from(extra)
        text = bytes(rest[extra_size:])
        found.append(
            Snapshot(
                text[:id_size].decode("utf-8", "surrogateescape"),
                text[id_size:].decode("utf-8", "surrogateescape"),
                l1_offset,
                l1_size,
                date,
                date_ns,
                vm_clock,
                vm_size,
                disk_size,
                extra[16:],
            )
        )
    return found, offset - header.snapshots_offset
