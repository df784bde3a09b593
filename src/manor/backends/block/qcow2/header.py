"""The header cluster: fixed fields, extensions, the backing image's name. Source: qcow2 specification, "Header" to
"Feature name table"."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Final

from manor.backends.block.file import File
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.layout import Geometry
from manor.base.errors import ConfigError, ProtocolError

_FIXED: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3: Final = struct.Struct(">QQQII")
_EXTENSION: Final = struct.Struct(">II")
_MAX_EXTENSIONS: Final = 1 << 21

_FEATURE_NAMES: Final = (
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
)
COMPRESSION_TYPES: Final = ("zlib", "zstd")
ENCRYPTION: Final = {1: "AES", 2: "LUKS"}


@dataclass(slots=True)
class Header:
    """What the first cluster says. Offsets and sizes in bytes.

    extensions: type and data, in their order, without the end mark; unknown ones are kept as they are.
    unknown_fields: bytes of the fixed part past those known here.
    """

    version: int
    cluster_bits: int
    size: int
    l1_size: int = 0
    l1_offset: int = 0
    refcount_table_offset: int = 0
    refcount_table_clusters: int = 0
    snapshot_count: int = 0
    snapshots_offset: int = 0
    crypt_method: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    compression_type: int = 0
    backing_file: str | None = None
    extensions: list[tuple[int, bytes]] = field(default_factory=list)
    unknown_fields: bytes = b""

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.cluster_bits, self.refcount_order, bool(self.incompatible & layout.EXTENDED_L2))

    def extension(self, kind: int) -> bytes | None:
        """Data of the extension of this type."""
        for found, data in self.extensions:
            if found == kind:
                return data
        return None

    def set_extension(self, kind: int, data: bytes | None) -> None:
        """Replace, add or (None) remove an extension."""
        self.extensions = [item for item in self.extensions if item[0] != kind]
        if data is not None:
            self.extensions.insert(0, (kind, data))

    @property
    def backing_format(self) -> str | None:
        data = self.extension(layout.EXT_BACKING_FORMAT)
        return None if data is None else data.rstrip(b"\0").decode("ascii", "replace")

    @property
    def data_file(self) -> str | None:
        data = self.extension(layout.EXT_DATA_FILE)
        return None if data is None else os.fsdecode(data)

    def encode(self) -> bytes:
        """The header, its extensions and the name; at most one cluster. Raises ConfigError if they do not fit."""
        tail = b""
        if self.version >= 3:
            tail = bytes([self.compression_type]) + bytes(7)
            tail = tail + self.unknown_fields if self.compression_type or self.unknown_fields else b""
        length = 104 + len(tail) if self.version >= 3 else 72
        extensions = b"".join(
            _EXTENSION.pack(kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in self.extensions
        )
        if self.extensions or self.version >= 3:
            extensions += _EXTENSION.pack(layout.EXT_END, 0)
        name = os.fsencode(self.backing_file) if self.backing_file is not None else b""
        if len(name) > layout.MAX_BACKING_NAME:
            raise ConfigError("backing file", f"its name has {len(name)} bytes; qcow2 holds at most 1023")
        fixed = _FIXED.pack(
            layout.MAGIC,
            self.version,
            length + len(extensions) if name else 0,
            len(name),
            self.cluster_bits,
            self.size,
            self.crypt_method,
            self.l1_size,
            self.l1_offset,
            self.refcount_table_offset,
            self.refcount_table_clusters,
            self.snapshot_count,
            self.snapshots_offset,
        )
        if self.version >= 3:
            fixed += self.encode_features() + struct.pack(">II", self.refcount_order, length)
        data = fixed + tail + extensions + name
        if len(data) > 1 << self.cluster_bits:
            raise ConfigError(
                "backing file",
                f"the header with its names needs {len(data)} bytes, a cluster has {1 << self.cluster_bits};"
                " use a larger cluster_size or a shorter name",
            )
        return data

    def encode_features(self) -> bytes:
        """The three feature fields, at `layout.AT_FEATURES`."""
        return struct.pack(">QQQ", self.incompatible, self.compatible, self.autoclear)


def feature_names() -> bytes:
    """Data of the feature name table for all features known here."""
    return b"".join(struct.pack(">BB46s", kind, bit, name.encode()) for kind, bit, name in _FEATURE_NAMES)


def read_header(file: File) -> Header:
    """Parse and check the first cluster. Raises ProtocolError for a malformed one, ConfigError naming a feature that
    Manor does not have. Checks what the header alone says; tables are checked by those who read them."""
    head = bytearray(112)
    file.read(0, [memoryview(head)])
    fields = _FIXED.unpack_from(head)
    magic, version, name_offset, name_size, cluster_bits, size, crypt_method = fields[:7]
    if magic != layout.MAGIC:
        raise ProtocolError(f"{file.name} is not a qcow2 image", 0)
    if version not in (2, 3):
        raise ProtocolError(f"{file.name}: qcow2 version {version} is not known; versions 2 and 3 are", 4)
    if not layout.MIN_CLUSTER_BITS <= cluster_bits <= layout.MAX_CLUSTER_BITS:
        raise ProtocolError(f"{file.name}: cluster_bits is {cluster_bits}, not 9 to 21", 20)
    header = Header(version, cluster_bits, size)
    header.crypt_method = crypt_method
    (
        header.l1_size,
        header.l1_offset,
        header.refcount_table_offset,
        header.refcount_table_clusters,
        header.snapshot_count,
        header.snapshots_offset,
    ) = fields[7:]
    length = 72
    if version == 3:
        length = _read_version_3(file, header, head)
    _read_extensions(file, header, length, name_offset)
    _check_features(file, header)
    if name_offset and name_size:  # an empty name is none, as for qemu-img
        header.backing_file = _read_name(file, header, name_offset, name_size)
    _check_tables(file, header)
    return header


def _read_version_3(file: File, header: Header, head: bytearray) -> int:
    (header.incompatible, header.compatible, header.autoclear, header.refcount_order, length) = _VERSION_3.unpack_from(
        head, 72
    )
    if length < 104 or length % 8 or length > 1 << header.cluster_bits:
        raise ProtocolError(f"{file.name}: header_length is {length}, not 104 to a cluster in steps of 8", 100)
    if header.refcount_order > 6:
        raise ProtocolError(f"{file.name}: refcount_order is {header.refcount_order}, not 0 to 6", 96)
    if length > 104:
        header.compression_type = head[104]
    if length > 112:
        rest = bytearray(length - 112)
        file.read(112, [memoryview(rest)])
        header.unknown_fields = bytes(rest)
    return int(length)


def _read_extensions(file: File, header: Header, start: int, name_offset: int) -> None:
    """Extensions between the header and the name, or the cluster's end. A version 2 header may have none, and then
    whatever follows is not looked at past the first that does not fit."""
    end = name_offset if start <= name_offset < 1 << header.cluster_bits else 1 << header.cluster_bits
    offset = start
    while offset + 8 <= end:
        head = bytearray(8)
        file.read(offset, [memoryview(head)])
        kind, length = _EXTENSION.unpack(head)
        if kind == layout.EXT_END:
            break
        offset += 8
        if length > min(end - offset, _MAX_EXTENSIONS):
            raise ProtocolError(
                f"{file.name}: header extension {kind:#010x} of {length} bytes does not fit", offset - 8
            )
        data = bytearray(length)
        file.read(offset, [memoryview(data)])
        header.extensions.append((kind, bytes(data)))
        offset += (length + 7) & -8


def _check_features(file: File, header: Header) -> None:
    if header.crypt_method:
        kind = ENCRYPTION.get(header.crypt_method, f"method {header.crypt_method}")
        raise ConfigError(file.name, f"the image is encrypted ({kind}), which Manor does not read; decrypt it first")
    unknown = header.incompatible & ~layout.KNOWN_INCOMPATIBLE
    if unknown:
        names = _names(header, unknown)
        raise ConfigError(file.name, f"the image needs features that Manor does not have: {', '.join(names)}")
    if header.incompatible & layout.EXTENDED_L2 and header.cluster_bits < layout.MIN_EXTENDED_CLUSTER_BITS:
        raise ProtocolError(f"{file.name}: extended L2 entries need clusters of at least 16K", 20)
    is_marked = bool(header.incompatible & layout.COMPRESSION)
    if is_marked != bool(header.compression_type):
        raise ProtocolError(f"{file.name}: compression type and its feature bit disagree", 104)
    if header.compression_type >= len(COMPRESSION_TYPES):
        raise ConfigError(file.name, f"compression type {header.compression_type} is not known; zlib and zstd are")
    if header.autoclear & layout.DATA_FILE_RAW and not header.incompatible & layout.DATA_FILE:
        raise ProtocolError(f"{file.name}: raw external data without an external data file", 88)


def _names(header: Header, bits: int) -> list[str]:
    table = header.extension(layout.EXT_FEATURE_NAMES) or b""
    known = {}
    for start in range(0, len(table) - 47, 48):
        if table[start] == 0:
            text = table[start + 2 : start + 48].rstrip(b"\0").decode("ascii", "replace")
            known[table[start + 1]] = text if text.isprintable() else ""
    return [known.get(bit) or f"incompatible feature {bit}" for bit in range(64) if bits >> bit & 1]


def _read_name(file: File, header: Header, offset: int, size: int) -> str:
    if size > layout.MAX_BACKING_NAME:
        raise ProtocolError(f"{file.name}: the backing file's name has {size} bytes, more than 1023", 16)
    if offset + size > 1 << header.cluster_bits:
        raise ProtocolError(f"{file.name}: the backing file's name is outside the first cluster", 8)
    data = bytearray(size)
    file.read(offset, [memoryview(data)])
    if b"\0" in data:
        raise ProtocolError(f"{file.name}: the backing file's name has a zero byte in it", offset)
    if header.autoclear & layout.DATA_FILE_RAW:
        raise ProtocolError(f"{file.name}: a raw external data file and a backing file exclude each other", 8)
    return os.fsdecode(bytes(data))


def _check_tables(file: File, header: Header) -> None:
    geometry = header.geometry
    mask = geometry.cluster_mask
    end = (file.size() + mask) & ~mask

    def inside(what: str, at: int, offset: int, size: int, limit: int) -> None:
        if size > limit:
            raise ProtocolError(f"{file.name}: the {what} of {size} bytes is larger than {limit}", at)
        if size and (offset & mask or not geometry.cluster_size <= offset <= end - size):
            raise ProtocolError(
                f"{file.name}: the {what} ({size} bytes at {offset:#x}) is not at a cluster inside the file", at
            )

    if header.size >= 1 << 63:
        raise ProtocolError(f"{file.name}: the disk's size {header.size:#x} is impossible", layout.AT_SIZE)
    inside("L1 table", layout.AT_L1, header.l1_offset, header.l1_size * 8, layout.MAX_L1_SIZE)
    if geometry.l1_entries(header.size) > header.l1_size:
        raise ProtocolError(
            f"{file.name}: an L1 table of {header.l1_size} entries is too short for {header.size} bytes", layout.AT_L1
        )
    table_size = header.refcount_table_clusters << header.cluster_bits
    if not table_size:
        raise ProtocolError(f"{file.name}: there is no refcount table", layout.AT_REFCOUNT_TABLE)
    inside(
        "refcount table",
        layout.AT_REFCOUNT_TABLE,
        header.refcount_table_offset,
        table_size,
        max(layout.MAX_REFCOUNT_TABLE_SIZE, geometry.cluster_size),
    )
    if header.snapshot_count > layout.MAX_SNAPSHOTS:
        raise ProtocolError(f"{file.name}: {header.snapshot_count} snapshots are more than 65536", layout.AT_SNAPSHOTS)
    if header.snapshot_count:
        inside(
            "snapshot table", 64, header.snapshots_offset, 40 * header.snapshot_count, layout.MAX_SNAPSHOT_TABLE_SIZE
        )
