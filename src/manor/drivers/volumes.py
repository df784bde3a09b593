"""Where the volumes of a pool are: an interface, and the description of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from xml.etree.ElementTree import Element, SubElement

from manor.base.errors import ApiError
from manor.drivers.api import VolumeStream
from manor.drivers.errors import Code, Origin, unsupported_config, xml_error
from manor.drivers.xml import bytes_of, check_name, format_xml, parse, take_name, text_of

MAX_VOLUME: Final = 1 << 62
FORMATS: Final = ("raw", "qcow2")
"""Those that can be made; others are only looked at."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume. Sizes: bytes. backing: path and format of what it is laid over."""

    name: str
    path: str
    capacity: int
    allocation: int
    format: str
    backing: tuple[str, str] | None = None
    is_directory: bool = False
    mode: int = 0o600
    owner: int = 0
    group: int = 0


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """A volume that is to be made."""

    name: str
    capacity: int | None
    allocation: int
    format: str
    backing: tuple[str, str] | None


class VolumeBackend(Protocol):
    """The volumes of one pool. Every method raises ApiError or HostError."""

    path: str

    async def build(self) -> None:
        """Make the place itself."""

    async def open(self) -> None:
        """See that it is there."""

    async def remove(self) -> None:
        """Delete the place, which has to be empty."""

    async def space(self) -> tuple[int, int]:
        """(capacity, available), bytes."""

    async def all(self) -> Sequence[Volume]: ...
    async def create(self, plan: VolumePlan, source: Volume | None) -> None: ...
    async def delete(self, volume: Volume) -> None: ...
    async def resize(self, volume: Volume, size: int, shrink: bool) -> None: ...
    async def wipe(self, volume: Volume) -> None: ...
    async def upload(self, volume: Volume, offset: int, length: int) -> VolumeStream: ...
    async def download(self, volume: Volume, offset: int, length: int) -> VolumeStream: ...


def read_volume(text: str) -> VolumePlan:
    """What a client wants. Raises ApiError."""
    root = parse(text, "volume", Origin.STORAGE)
    name = take_name(root, Origin.STORAGE)
    check_name(name, Origin.STORAGE)
    capacity = bytes_of(root.find("capacity"), "bytes", Origin.STORAGE)
    if capacity is not None and capacity > MAX_VOLUME:
        raise xml_error(f"<capacity>: {capacity} bytes are too many", Origin.STORAGE)
    backing = root.find("backingStore")
    path = "" if backing is None else text_of(backing, "path")
    if capacity is None and not path:
        raise xml_error("<capacity>: a volume needs one; write <capacity unit='GiB'>20</capacity>", Origin.STORAGE)
    allocation = bytes_of(root.find("allocation"), "bytes", Origin.STORAGE)
    kind = root.find("target/format")
    format_name = "raw" if kind is None else kind.get("type", "raw")
    if format_name not in FORMATS:
        raise unsupported_config(
            f"target.format: '{format_name}' cannot be made here; there are {', '.join(FORMATS)}", Origin.STORAGE
        )
    backing_format = None if backing is None else backing.find("format")
    below = (path, "raw" if backing_format is None else backing_format.get("type", "raw")) if path else None
    return VolumePlan(name, capacity, capacity or 0 if allocation is None else allocation, format_name, below)


def volume_xml(volume: Volume) -> str:
    """Its description."""
    root = Element("volume", type="dir" if volume.is_directory else "file")
    SubElement(root, "name").text = volume.name
    SubElement(root, "key").text = volume.path
    for tag, value in (("capacity", volume.capacity), ("allocation", volume.allocation)):
        SubElement(root, tag, unit="bytes").text = str(value)
    target = SubElement(root, "target")
    SubElement(target, "path").text = volume.path
    SubElement(target, "format", type=volume.format)
    permissions = SubElement(target, "permissions")
    for tag, text in (("mode", f"0{volume.mode:o}"), ("owner", str(volume.owner)), ("group", str(volume.group))):
        SubElement(permissions, tag).text = text
    if volume.backing is not None:
        backing = SubElement(root, "backingStore")
        SubElement(backing, "path").text = volume.backing[0]
        SubElement(backing, "format", type=volume.backing[1])
    return format_xml(root)


def volume_exists(name: str) -> ApiError:
    """There is one of that name already."""
    return ApiError(
        Code.STORAGE_VOL_EXIST, Origin.STORAGE, f"storage volume name '{name}' already in use."
    )
