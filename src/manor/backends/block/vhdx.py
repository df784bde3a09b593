"""VHDX, the format of Hyper-V: fixed, dynamic and differencing images, read-only.

Source: MS-VHDX (revision 8.0), named by section below.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

from manor.backends.block.api import BlockBackend, BlockError
from manor.backends.block.crc32c import crc32c
from manor.backends.block.file import File
from manor.backends.block.mapped import MappedImage, Pages, Piece, Where, read_exactly
from manor.backends.block.vhdx_log import replay
from manor.base.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from manor.backends.block.open import Context

KiB: Final = 1 << 10
MiB: Final = 1 << 20

HEADERS: Final = (64 * KiB, 128 * KiB)
REGION_TABLES: Final = (192 * KiB, 256 * KiB)
_HEADER_SIZE: Final = 4 * KiB
_TABLE_SIZE: Final = 64 * KiB
_HEADER: Final = struct.Struct("<4sIQ16s16s16sHHIQ")
"""signature, checksum, sequence number, GUIDs of file, data and log, versions of log and format, size and place of the
log (2.2.2)."""
_REGION_TABLE: Final = struct.Struct("<4sIII")
_REGION: Final = struct.Struct("<16sQII")
_METADATA_TABLE: Final = struct.Struct("<8sHH20x")
_METADATA: Final = struct.Struct("<16sIIII")
_LOCATOR: Final = struct.Struct("<16sHH")
_LOCATOR_ENTRY: Final = struct.Struct("<IIHH")
MAX_ENTRIES: Final = 2047
"""Of a region table and of a metadata table (2.2.3.1, 2.6.1.1)."""
MAX_ITEM: Final = 1 * MiB
"""Of one metadata item (2.6.1.2)."""

_BAT: Final = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
_METADATA_REGION: Final = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
_FILE_PARAMETERS: Final = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
_DISK_SIZE: Final = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
_LOGICAL_SECTOR: Final = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F").bytes_le
_PHYSICAL_SECTOR: Final = UUID("CDA348C7-445D-4471-9CC9-E9885251C556").bytes_le
_DISK_ID: Final = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746").bytes_le
_PARENT_LOCATOR: Final = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
_VHDX_PARENT: Final = UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913").bytes_le
_KNOWN_ITEMS: Final = frozenset(
    {_FILE_PARAMETERS, _DISK_SIZE, _LOGICAL_SECTOR, _PHYSICAL_SECTOR, _DISK_ID, _PARENT_LOCATOR}
)

_REQUIRED: Final = 1
_ITEM_REQUIRED: Final = 1 << 2
_LEAVE_ALLOCATED: Final = 1 << 0
_HAS_PARENT: Final = 1 << 1


class BlockState(IntEnum):
    """Of a payload block (2.5.1.1)."""

    NOT_PRESENT = 0
    UNDEFINED = 1
    ZERO = 2
    UNMAPPED = 3
    FULLY_PRESENT = 6
    PARTIALLY_PRESENT = 7


# State of a bitmap block (2.5.1.2).
_BITMAP_PRESENT: Final = 6

_CHUNK_SECTORS: Final = 1 << 23
"""Sectors whose bits fill one bitmap block of 1 MiB (2.4)."""
_ENTRY: Final = struct.Struct("<Q")
_WORD: Final = struct.Struct("<Q")

MAX_SIZE: Final = 64 << 40
"""64 TiB: the largest disk (2.6.2.2)."""


class VhdxImage(MappedImage):
    """A VHDX. All positions and sizes in bytes."""

    def __init__(
        self, file: File, bat: int, parameters: Parameters, backing: BlockBackend | None, data_guid: bytes
    ) -> None:
        kind = "differencing" if parameters.has_parent else "fixed" if parameters.is_fixed else "dynamic"
        details = {"create type": kind}
        super().__init__(file.name, parameters.size, [file], details, cluster_size=parameters.block, backing=backing)
        self.data_id = str(UUID(bytes_le=data_guid))
        self._file = file
        self._bat = bat
        self._block = parameters.block
        self._sector = parameters.sector
        self._chunk_ratio = parameters.chunk_ratio
        self._absent: Where = "backing" if parameters.has_parent else "hole"
        self._pages = Pages(file)

    def locate(self, offset: int, size: int) -> Iterator[Piece]:
        end = offset + size
        while offset < end:
            index, start = divmod(offset, self._block)
            count = min(self._block - start, end - offset)
            entry = self._entry(index + index // self._chunk_ratio)
            place = (entry >> 20) * MiB + start
            match entry & 7:
                case BlockState.NOT_PRESENT:
                    yield Piece(count, self._absent)
                case BlockState.ZERO:
                    yield Piece(count, "zero")
                case BlockState.UNDEFINED | BlockState.UNMAPPED:
                    yield Piece(count, "hole")
                case BlockState.FULLY_PRESENT:
                    yield Piece(count, "file", self._file, place)
                case BlockState.PARTIALLY_PRESENT:
                    yield from self._partial(index, start, count, place)
                case state:
                    raise BlockError(f"{self.name}: block {index} is in state {state}, which is not known")
            offset += count

    def _entry(self, index: int) -> int:
        return self._pages.integer(self._bat + index * _ENTRY.size, _ENTRY)

    def _partial(self, index: int, start: int, size: int, place: int) -> Iterator[Piece]:
        """Pieces of a block of which some sectors are here and the others in the parent."""
        chunk, block = divmod(index, self._chunk_ratio)
        entry = self._entry(chunk * (self._chunk_ratio + 1) + self._chunk_ratio)
        if entry & 7 != _BITMAP_PRESENT:
            raise BlockError(f"{self.name}: block {index} is partly present and has no bitmap; the image is damaged")
        bitmap = (entry >> 20) * MiB
        done = 0
        while done < size:
            bit, inside = divmod(block * self._block + start + done, self._sector)
            word = self._pages.integer(bitmap + bit // 64 * 8, _WORD) >> bit % 64
            is_here = word & 1
            # The run of equal bits, as far as this word tells.
            other = ~word if is_here else word
            bits = min(64 - bit % 64, (other & -other).bit_length() - 1 if other else 64)
            count = min(bits * self._sector - inside, size - done)
            yield Piece(count, "file", self._file, place + done) if is_here else Piece(count, "backing")
            done += count


@dataclass(frozen=True, slots=True)
class Header:
    """The current header."""

    data_guid: bytes
    log_guid: bytes
    log_size: int
    log_offset: int


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the metadata say of the disk."""

    size: int
    block: int
    sector: int
    has_parent: bool
    is_fixed: bool

    @property
    def chunk_ratio(self) -> int:
        """Payload entries of the BAT before each entry of a bitmap (2.5)."""
        return _CHUNK_SECTORS * self.sector // self.block

    @property
    def entries(self) -> int:
        """Entries of the BAT that are needed."""
        blocks = -(-self.size // self.block)
        if self.has_parent:
            return -(-blocks // self.chunk_ratio) * (self.chunk_ratio + 1)
        return blocks + (blocks - 1) // self.chunk_ratio if blocks else 0


def open_vhdx(file: File, context: Context) -> BlockBackend:
    """The opener of format "vhdx". Raises ProtocolError, ConfigError, and what opening the parent raises."""
    name = file.name
    if read_exactly(file, 0, 8, "file identifier") != b"vhdxfile":
        raise ProtocolError(f"{name}: this is no VHDX image: it does not begin with 'vhdxfile'")
    header = read_header(file)
    if header.log_guid != bytes(16):
        file = replay(file, header.log_guid, header.log_offset, header.log_size)
    regions = _regions(file)
    if _BAT not in regions or _METADATA_REGION not in regions:
        raise ProtocolError(f"{name}: the region table names no block table or no metadata")
    items = _metadata(file, *regions[_METADATA_REGION])
    parameters = _parameters(name, items)
    bat, bat_size = regions[_BAT]
    if parameters.entries * _ENTRY.size > bat_size or bat + parameters.entries * _ENTRY.size > file.size():
        raise ProtocolError(f"{name}: a block table of {bat_size} bytes is too small for {parameters.size} bytes")
    backing = None
    if parameters.has_parent and context.options.backing:
        backing = _open_parent(file, items, context)
    return VhdxImage(file, bat, parameters, backing, header.data_guid)


def read_header(file: File) -> Header:
    """The valid header with the higher sequence number (2.2.2.1). Raises ProtocolError."""
    best: tuple[int, Header] | None = None
    for position in HEADERS:
        if position + _HEADER_SIZE > file.size():
            continue
        data = read_exactly(file, position, _HEADER_SIZE, "header")
        fields = _HEADER.unpack_from(data)
        signature, stored, sequence, _, data_guid, log_guid, log_version, version, log_size, log_offset = fields
        if signature != b"head" or stored != crc32c(data[:4] + bytes(4) + data[8:]):
            continue
        if version != 1 or (log_version != 0 and log_guid != bytes(16)):
            raise ProtocolError(f"{file.name}: VHDX version {version} with log version {log_version} is not known")
        if best is None or sequence > best[0]:
            best = sequence, Header(data_guid, log_guid, log_size, log_offset)
    if best is None:
        raise ProtocolError(f"{file.name}: neither header of the image is valid; it is damaged")
    return best[1]


def _regions(file: File) -> dict[bytes, tuple[int, int]]:
    """GUID -> (position, size), of the first valid region table (2.2.3)."""
    for position in REGION_TABLES:
        if position + _TABLE_SIZE > file.size():
            continue
        data = read_exactly(file, position, _TABLE_SIZE, "region table")
        signature, stored, count, _ = _REGION_TABLE.unpack_from(data)
        if signature != b"regi" or count > MAX_ENTRIES or stored != crc32c(data[:4] + bytes(4) + data[8:]):
            continue
        regions: dict[bytes, tuple[int, int]] = {}
        for index in range(count):
            guid, start, size, flags = _REGION.unpack_from(data, _REGION_TABLE.size + index * _REGION.size)
            if guid not in (_BAT, _METADATA_REGION):
                if flags & _REQUIRED:
                    raise ConfigError(file.name, f"its region {UUID(bytes_le=guid)} is one that Manor does not know")
                continue
            if start % MiB or start + size > file.size():
                raise ProtocolError(f"{file.name}: a region of {size} bytes at {start:#x} is not possible")
            regions[guid] = start, size
        return regions
    raise ProtocolError(f"{file.name}: neither region table of the image is valid; it is damaged")


def _metadata(file: File, position: int, size: int) -> dict[bytes, bytes]:
    """GUID -> contents of the items that are known (2.6)."""
    table = read_exactly(file, position, _TABLE_SIZE, "metadata table")
    signature, _, count = _METADATA_TABLE.unpack_from(table)
    if signature != b"metadata" or count > MAX_ENTRIES:
        raise ProtocolError(f"{file.name}: the metadata table is damaged", position)
    items: dict[bytes, bytes] = {}
    for index in range(count):
        guid, start, length, flags, _ = _METADATA.unpack_from(table, _METADATA_TABLE.size + index * _METADATA.size)
        if guid not in _KNOWN_ITEMS:
            if flags & _ITEM_REQUIRED:
                raise ConfigError(file.name, f"the image has metadata {UUID(bytes_le=guid)}, which Manor does not know")
            continue
        if length > MAX_ITEM or (length and start < _TABLE_SIZE) or start + length > size:
            raise ProtocolError(f"{file.name}: a metadata item of {length} bytes at {start:#x} is not possible")
        items[guid] = read_exactly(file, position + start, length, "metadata item")
    return items


def _parameters(name: str, items: dict[bytes, bytes]) -> Parameters:
    block, flags = struct.unpack("<II", _item(name, items, _FILE_PARAMETERS, 8, "file parameters"))
    size = int.from_bytes(_item(name, items, _DISK_SIZE, 8, "virtual disk size"), "little")
    sector = int.from_bytes(_item(name, items, _LOGICAL_SECTOR, 4, "logical sector size"), "little")
    if not MiB <= block <= 256 * MiB or block & (block - 1):
        raise ProtocolError(f"{name}: blocks of {block} bytes are not possible; 1 MiB to 256 MiB are")
    if sector not in (512, 4096) or size % sector or size > MAX_SIZE:
        raise ProtocolError(f"{name}: a disk of {size} bytes in sectors of {sector} is not possible")
    return Parameters(size, block, sector, bool(flags & _HAS_PARENT), bool(flags & _LEAVE_ALLOCATED))


def _item(name: str, items: dict[bytes, bytes], guid: bytes, size: int, what: str) -> bytes:
    data = items.get(guid, b"")
    if len(data) != size:
        raise ProtocolError(f"{name}: the metadata hold no {what}")
    return data


def _open_parent(file: File, items: dict[bytes, bytes], context: Context) -> BlockBackend:
    """The image below a differencing one, found by its relative path, and known by its identity (2.6.2.6)."""
    keys = _locator(file.name, items.get(_PARENT_LOCATOR, b""))
    path = keys.get("relative_path", "")
    if not path or "\0" in path:
        raise ConfigError(file.name, "this differencing image does not say relative to itself where its parent is")
    parent = context.open_backing(file.name, path.replace("\\", "/"), "vhdx")
    linked = {text.strip("{}").lower() for key, text in keys.items() if key in ("parent_linkage", "parent_linkage2")}
    if isinstance(parent, VhdxImage) and parent.data_id not in linked:
        parent.close()
        raise ConfigError(
            file.name, f"its parent {parent.name} was changed after this image was made, so the two fit no more"
        )
    return parent


def _locator(name: str, data: bytes) -> dict[str, str]:
    if len(data) < _LOCATOR.size:
        raise ProtocolError(f"{name}: the differencing image has no parent locator")
    kind, _, count = _LOCATOR.unpack_from(data)
    if kind != _VHDX_PARENT or _LOCATOR.size + count * _LOCATOR_ENTRY.size > len(data):
        raise ProtocolError(f"{name}: the parent locator is damaged")
    keys: dict[str, str] = {}
    for index in range(count):
        key, value, key_size, value_size = _LOCATOR_ENTRY.unpack_from(data, _LOCATOR.size + index * _LOCATOR_ENTRY.size)
        if key + key_size > len(data) or value + value_size > len(data):
            raise ProtocolError(f"{name}: the parent locator is damaged")
        keys[data[key : key + key_size].decode("utf-16-le", "replace")] = data[value : value + value_size].decode(
            "utf-16-le", "replace"
        )
    return keys
