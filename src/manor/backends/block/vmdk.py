"""VMDK, the format of VMware's desktop products: read-only, all its forms but those of ESX.

monolithicSparse, twoGbMaxExtentSparse, streamOptimized (compressed), monolithicFlat, twoGbMaxExtentFlat, and images
over a parent. Source: VMware, "Virtual Disk Format 5.0" (2011), named by its sections below.
"""

from __future__ import annotations

import struct
import threading
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from manor.backends.block.api import BlockBackend, BlockError
from manor.backends.block.file import File
from manor.backends.block.mapped import MappedImage, Pages, Piece, close_all, read_exactly
from manor.backends.block.vmdk_descriptor import Descriptor, ExtentLine, parse_descriptor
from manor.base.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from manor.backends.block.open import Context

SECTOR: Final = 512
MAX_DESCRIPTOR: Final = 1 << 20

_HEADER: Final = struct.Struct("<4sIIQQQQIQQQB4sH")
"""magic, version, flags, capacity, grain, descriptor's place and size, entries a table, redundant directory, directory,
overhead, unclean shutdown, test of line ends, compression. Sizes in sectors. "Hosted Sparse Extent Header"."""
_ENTRY: Final = struct.Struct("<I")
_MARKER: Final = struct.Struct("<QI")
"""Of a compressed grain: its first sector on the disk, bytes of deflated data. "Grain Markers and Stream-Optimized"."""

MAGIC: Final = b"KDMV"
_LINE_ENDS: Final = b"\n \r\n"
_HAS_LINE_TEST: Final = 1 << 0
_HAS_ZERO_ENTRIES: Final = 1 << 2
_HAS_PACKED_GRAINS: Final = 1 << 16
_DIRECTORY_IN_FOOTER: Final = 0xFFFF_FFFF_FFFF_FFFF
_DEFLATE: Final = 1

ZERO_GRAIN: Final = 1
"""A table entry that says: reads as zeros, whatever the parent holds."""

MAX_GRAIN: Final = 16 << 20
"""The specification's grains have 64 KiB. One compressed grain is held in memory as a whole."""
MAX_TABLE_ENTRIES: Final = 1 << 16
"""The specification has 512."""
KEPT_GRAINS: Final = 4


@dataclass(frozen=True, slots=True)
class Flat:
    """An extent whose sectors lie in `file` from `position` as they are. file: None for one that reads as zeros."""

    size: int
    file: File | None
    position: int = 0

    def locate(self, offset: int, size: int) -> Iterator[Piece]:
        if self.file is None:
            yield Piece(size, "zero")
        else:
            yield Piece(size, "file", self.file, self.position + offset)


class Sparse:
    """An extent in grains, found by a directory of tables. "Hosted Sparse Extents"."""

    def __init__(self, file: File, header: Header, below: bool) -> None:
        self.size = header.capacity * SECTOR
        self.file = file
        self.is_packed = bool(header.flags & _HAS_PACKED_GRAINS)
        self.grain = header.grain * SECTOR
        self._directory = header.directory * SECTOR
        self._entries = header.entries
        self._has_zeros = bool(header.flags & _HAS_ZERO_ENTRIES)
        self._below = below
        self._pages = Pages(file)

    def locate(self, offset: int, size: int) -> Iterator[Piece]:
        end = offset + size
        covered = self.grain * self._entries
        while offset < end:
            index, inside = divmod(offset, covered)
            table = self._pages.integer(self._directory + index * _ENTRY.size, _ENTRY)
            if table == 0:
                count = min(covered - inside, end - offset)
                yield self._absent(count)
            else:
                index, start = divmod(inside, self.grain)
                count = min(self.grain - start, end - offset)
                yield self._grain(self._pages.integer(table * SECTOR + index * _ENTRY.size, _ENTRY), start, count)
            offset += count

    def _grain(self, entry: int, start: int, count: int) -> Piece:
        if entry == 0:
            return self._absent(count)
        if entry == ZERO_GRAIN and self._has_zeros:
            return Piece(count, "zero")
        if self.is_packed:
            return Piece(count, "packed", self.file, entry * SECTOR, start)
        return Piece(count, "file", self.file, entry * SECTOR + start)

    def _absent(self, count: int) -> Piece:
        return Piece(count, "backing" if self._below else "hole")


@dataclass(frozen=True, slots=True)
class Header:
    """What a sparse extent says of itself, checked. In sectors."""

    version: int
    flags: int
    capacity: int
    grain: int
    descriptor: int
    descriptor_size: int
    entries: int
    directory: int


class VmdkImage(MappedImage):
    """Extents one after the other."""

    def __init__(
        self,
        name: str,
        extents: list[Flat | Sparse],
        files: list[File],
        backing: BlockBackend | None,
        descriptor: Descriptor | None,
    ) -> None:
        grains = {extent.grain for extent in extents if isinstance(extent, Sparse)}
        super().__init__(
            name,
            sum(extent.size for extent in extents),
            files,
            _details(descriptor, any(isinstance(extent, Sparse) and extent.is_packed for extent in extents)),
            cluster_size=max(grains, default=None),
            backing=backing,
        )
        self._extents = extents
        self._starts: list[int] = []
        start = 0
        for extent in extents:
            self._starts.append(start)
            start += extent.size
        self._grains = {id(extent.file): extent.grain for extent in extents if isinstance(extent, Sparse)}
        self._unpacked: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def locate(self, offset: int, size: int) -> Iterator[Piece]:
        end = offset + size
        index = bisect_right(self._starts, offset) - 1
        while offset < end:
            extent = self._extents[index]
            inside = offset - self._starts[index]
            count = min(extent.size - inside, end - offset)
            if count:
                yield from extent.locate(inside, count)
            offset += count
            index += 1

    def unpack(self, piece: Piece) -> bytes:
        assert piece.file is not None
        key = (id(piece.file), piece.file_offset)
        with self._lock:
            data = self._unpacked.get(key)
        if data is None:
            data = _inflate(piece.file, piece.file_offset, self._grains[id(piece.file)])
            with self._lock:
                self._unpacked[key] = data
                if len(self._unpacked) > KEPT_GRAINS:
                    self._unpacked.popitem(last=False)
        return data


def _inflate(file: File, position: int, grain: int) -> bytes:
    """The grain whose marker is at `position`, filled up with zeros: the last one of a disk may be shorter."""
    _, size = _MARKER.unpack(read_exactly(file, position, _MARKER.size, "marker of a grain"))
    # Data that do not get smaller grow by deflate's few bytes for each of its blocks.
    if not 0 < size <= grain + grain // 8 + 4096:
        raise BlockError(f"{file.name}: a compressed grain at {position:#x} claims {size} bytes; the image is damaged")
    packed = read_exactly(file, position + _MARKER.size, size, "compressed grain")
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, grain)
    except zlib.error as error:
        raise BlockError(f"{file.name}: the compressed grain at {position:#x} is damaged: {error}") from error
    return data.ljust(grain, b"\0")


def open_vmdk(file: File, context: Context) -> BlockBackend:
    """The opener of format "vmdk". Raises ProtocolError, ConfigError, and what opening the further files raises."""
    magic = read_exactly(file, 0, 4, "header")
    if magic == b"COWD":
        raise ConfigError(
            file.name, "this is a COWD image of VMware ESX, which Manor does not read; export the VM as OVF"
        )
    if magic == MAGIC:
        return _open_sparse(file, context)
    return _open_described(file, context)


def _open_sparse(file: File, context: Context) -> BlockBackend:
    """One sparse file, with the descriptor inside."""
    header = read_header(file)
    descriptor = None
    if header.descriptor:
        size = min(header.descriptor_size * SECTOR, MAX_DESCRIPTOR)
        text = read_exactly(file, header.descriptor * SECTOR, size, "descriptor")
        descriptor = parse_descriptor(file.name, text)
        if len(descriptor.extents) > 1:
            raise ProtocolError(f"{file.name}: a descriptor inside an extent names {len(descriptor.extents)} extents")
    backing = _open_parent(file.name, descriptor, context)
    try:
        extent = Sparse(file, header, backing is not None)
        return VmdkImage(file.name, [extent], [file], backing, descriptor)
    except BaseException:
        if backing is not None:
            backing.close()
        raise


def _open_described(file: File, context: Context) -> BlockBackend:
    """A text file that names its extents."""
    if file.size() > MAX_DESCRIPTOR:
        raise ProtocolError(f"{file.name}: this is no VMDK image: no header, and too large for a descriptor")
    descriptor = parse_descriptor(file.name, read_exactly(file, 0, file.size(), "descriptor"))
    if not descriptor.extents:
        raise ProtocolError(f"{file.name}: the descriptor names no extents")
    # The descriptor is not among the files of data: offsets in the extents are not offsets in it.
    opened: list[File] = [file]
    backing = _open_parent(file.name, descriptor, context)
    try:
        extents: list[Flat | Sparse] = []
        for line in descriptor.extents:
            extents.append(_open_extent(file.name, line, context, opened, backing is not None))
        return VmdkImage(file.name, extents, opened, backing, descriptor)
    except BaseException:
        # `file` itself is closed by whoever called the opener.
        close_all([*opened[1:], *([backing] if backing is not None else [])])
        raise


def _open_extent(image: str, line: ExtentLine, context: Context, opened: list[File], below: bool) -> Flat | Sparse:
    size = line.sectors * SECTOR
    if line.kind == "ZERO":
        return Flat(size, None)
    file = context.open_file(image, line.file)
    opened.append(file)
    if line.kind in ("FLAT", "VMFS"):
        position = line.offset * SECTOR
        if position + size > file.size():
            raise ProtocolError(f"{file.name}: the extent should have {position + size} bytes and has {file.size()}")
        return Flat(size, file, position)
    if file.size() >= 4 and read_exactly(file, 0, 4, "header") == b"COWD":
        raise ConfigError(image, f"its extent {line.file} is a COWD image of VMware ESX, which Manor does not read")
    header = read_header(file)
    if header.capacity < line.sectors:
        raise ProtocolError(f"{file.name}: the extent should have {line.sectors} sectors and has {header.capacity}")
    extent = Sparse(file, header, below)
    extent.size = size
    return extent


def _open_parent(name: str, descriptor: Descriptor | None, context: Context) -> BlockBackend | None:
    if descriptor is None or not descriptor.has_parent or not context.options.backing:
        return None
    if not descriptor.parent:
        raise ProtocolError(f"{name}: the image has a parent and does not say which (parentFileNameHint is missing)")
    return context.open_backing(name, descriptor.parent, "vmdk")


def read_header(file: File) -> Header:
    """The header of a sparse extent, that of the footer where the directory came after the data."""
    header = _parse_header(file, 0)
    if header.directory == _DIRECTORY_IN_FOOTER:
        # The file ends with a footer marker, the footer, an end-of-stream marker; a sector each.
        if file.size() < 3 * SECTOR:
            raise ProtocolError(f"{file.name}: the image was cut off before its footer")
        header = _parse_header(file, file.size() - 2 * SECTOR)
        if header.directory == _DIRECTORY_IN_FOOTER:
            raise ProtocolError(f"{file.name}: neither header nor footer says where the grain directory is")
    tables = -(-header.capacity // (header.grain * header.entries))
    if header.directory * SECTOR + tables * _ENTRY.size > file.size():
        raise ProtocolError(f"{file.name}: the grain directory at sector {header.directory} lies outside the file")
    return header


def _parse_header(file: File, position: int) -> Header:
    data = read_exactly(file, position, _HEADER.size, "header or footer")
    (
        magic, version, flags, capacity, grain, descriptor, descriptor_size, entries, _, directory, _, _, ends, packing,
    ) = _HEADER.unpack(data)  # fmt: skip
    name = file.name
    if magic != MAGIC:
        raise ProtocolError(f"{name}: there is no header or footer of a sparse extent", position)
    if not 1 <= version <= 3:
        raise ProtocolError(f"{name}: VMDK version {version} is not known; 1 to 3 are")
    if flags & _HAS_LINE_TEST and ends != _LINE_ENDS:
        raise ProtocolError(f"{name}: line ends were converted when the file was copied as text; copy it as binary")
    if flags & _HAS_PACKED_GRAINS and packing != _DEFLATE:
        raise ProtocolError(f"{name}: compression {packing} is not known; deflate (1) is")
    if not 1 <= grain <= MAX_GRAIN // SECTOR or grain & (grain - 1):
        raise ProtocolError(f"{name}: grains of {grain} sectors are not possible")
    if not 1 <= entries <= MAX_TABLE_ENTRIES:
        raise ProtocolError(f"{name}: tables of {entries} grains are not possible")
    if capacity > 1 << 54 or descriptor > 1 << 54:
        raise ProtocolError(f"{name}: {capacity} sectors are more than a file can hold")
    return Header(version, flags, capacity, grain, descriptor, descriptor_size, entries, directory)


def _details(descriptor: Descriptor | None, is_packed: bool) -> dict[str, str | int | bool]:
    details: dict[str, str | int | bool] = {"compressed": True} if is_packed else {}
    if descriptor is not None:
        details |= {"cid": descriptor.cid, "parent cid": descriptor.parent_cid, "create type": descriptor.create_type}
    return details
