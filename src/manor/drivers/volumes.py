"""Where the volumes of a pool are: an interface, and the description of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from manor.base.errors import ApiError, ConfigError
from manor.domain import names
from manor.domain.xml import storage
from manor.domain.xml.to_spec import refuse
from manor.drivers.api import Progress, VolumeStream
from manor.drivers.errors import Code, Origin, judging, reading

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
    async def create(self, plan: VolumePlan, source: Volume | None, progress: Progress) -> None: ...
    async def delete(self, volume: Volume) -> None: ...
    async def resize(self, volume: Volume, size: int, shrink: bool) -> None: ...
    async def wipe(self, volume: Volume, progress: Progress) -> None: ...
    def trash_place(self, volume: Volume) -> str:
        """Where it would be in the trash: in a directory of its own, directly in the pool's."""

    async def set_aside(self, volume: Volume, place: str) -> None: ...
    async def bring_back(self, place: str, name: str) -> None:
        """Raises ApiError if there is another of that name meanwhile."""

    async def discard(self, place: str) -> None: ...
    async def upload(self, volume: Volume, offset: int, length: int) -> VolumeStream: ...
    async def download(self, volume: Volume, offset: int, length: int) -> VolumeStream: ...


def read_volume(text: str) -> VolumePlan:
    """What a client wants. Raises ApiError."""
    with reading(Origin.STORAGE):
        document = storage.parse_volume(text)
        names.check_name(document.name, storage.VOLUME)
        path = document.backing.path if document.backing else None
        if document.capacity is None and not path:
            raise ConfigError("volume/capacity", "it is missing; write for example <capacity unit='GiB'>20</capacity>")
        if document.capacity is not None and document.capacity > MAX_VOLUME:
            raise ConfigError("volume/capacity", f"{document.capacity} bytes are too many")
    kind = document.format or "raw"
    with judging(Origin.STORAGE):
        refuse(storage.check_volume(document))
        if kind not in FORMATS:
            raise ConfigError(
                "volume/target/format/@type", f"{kind!r} is not made here; use one of {', '.join(FORMATS)}"
            )
    below = (path, (document.backing and document.backing.format) or "raw") if path else None
    allocation = (document.capacity or 0) if document.allocation is None else document.allocation
    return VolumePlan(document.name, document.capacity, allocation, kind, below)


def volume_xml(volume: Volume) -> str:
    """Its description."""
    backing = volume.backing and storage.BackingStore(path=volume.backing[0], format=volume.backing[1])
    return storage.format_volume(
        storage.Volume(
            type="dir" if volume.is_directory else "file",
            name=volume.name,
            key=volume.path,
            capacity=volume.capacity,
            allocation=volume.allocation,
            path=volume.path,
            format=volume.format,
            permissions=storage.Permissions(mode=volume.mode, owner=volume.owner, group=volume.group),
            backing=backing or None,
        )
    )


def volume_exists(name: str) -> ApiError:
    """There is one of that name already."""
    return ApiError(Code.STORAGE_VOL_EXIST, Origin.STORAGE, f"storage volume name '{name}' already in use.")
