"""The images behind a VM's disks: opened once for its life, kept across reboots, closed at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manor.backends.block.api import BlockBackend, BlockError
from manor.base.errors import ConfigError, HostError, ManorError, ProtocolError
from manor.devices.block.disk import SECTOR, Disk
from manor.spec.block import DiskSpec, Throttle
from manor.spec.names import disk_name

if TYPE_CHECKING:
    from manor.backends.block.open import OpenOptions


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """One open image. name: of the disk in the VM."""

    name: str
    spec: DiskSpec
    backend: BlockBackend


class OpenDisks:
    """The open images of a VM. Thread: one at a time."""

    def __init__(self, specs: Sequence[DiskSpec]) -> None:
        self._specs = specs
        self.all: list[OpenDisk] = []

    @property
    def backends(self) -> list[BlockBackend]:
        """What is open for each disk, in their order."""
        return [disk.backend for disk in self.all]

    def open(self) -> None:
        """Open all of them, in order; none is left open if one cannot be.

        Raises ConfigError where the user should say something else, HostError where the host refused.
        """
        try:
            for index, spec in enumerate(self._specs):
                self.all.append(OpenDisk(disk_name(spec, index), spec, open_disk(spec)))
        except ManorError:
            self.close()
            raise

    def flush(self) -> None:
        """Have everything written on the medium. Raises HostError."""
        for backend in self.backends:
            try:
                backend.flush()
            except BlockError as error:
                raise HostError(f"{backend.name} cannot be written: {error}") from error

    def close(self) -> None:
        """Flush and close all. Raises HostError for the first that could not be flushed, after closing the others."""
        failed: HostError | None = None
        for disk in self.all:
            try:
                close_disk(disk)
            except HostError as error:
                failed = failed or error
        self.all = []
        if failed is not None:
            raise failed


def close_disk(disk: OpenDisk) -> None:
    """Flush and close one. Raises HostError if it could not be flushed; it is closed then, too."""
    try:
        disk.backend.close()
    except BlockError as error:
        raise HostError(f"{disk.backend.name} may lack what the guest wrote last: {error}") from error


def boots_from(specs: Sequence[DiskSpec]) -> bool:
    """Whether a machine without a kernel of its own boots from these disks: it does unless all are blank.

    Raises ConfigError, with the reason, if there is something on them that does not boot; HostError if one cannot be
    read.
    """
    from manor.backends.block.open import OpenOptions
    from manor.boot.open_disk import are_blank, boot_of_disks

    disks: list[BlockBackend] = []
    try:
        for spec in specs:
            disks.append(_open_image(spec, OpenOptions(format=spec.format, read_only=True, force_share=True)))
        if are_blank(disks):
            return False
        boot_of_disks(disks)
    finally:
        for disk in disks:
            disk.close()
    return True


def _open_image(spec: DiskSpec, options: OpenOptions) -> BlockBackend:
    """Open it, with errors in the words of a machine's description."""
    from manor.backends.block.open import open_image

    try:
        return open_image(spec.source, options)
    except ConfigError as error:
        raise ConfigError("disk", f"{error.path}: {error.message}") from error
    except ProtocolError as error:
        raise HostError(str(error)) from error


def open_disk(spec: DiskSpec) -> BlockBackend:
    """Open the image of a disk. Raises ConfigError and HostError, as `OpenDisks.open`."""
    from manor.backends.block.open import OpenOptions

    options = OpenOptions(format=spec.format, read_only=spec.read_only, cache=spec.cache, snapshot=spec.snapshot)
    backend = _open_image(spec, options)
    problem = ""
    if backend.size < SECTOR:
        problem = f"{spec.source} has {backend.size} bytes, less than a sector of 512; make it larger"
    elif backend.is_read_only and not spec.read_only:
        problem = f"{spec.source} can only be read; add readonly=on"
    if problem:
        backend.close()
        raise ConfigError("disk", problem)
    if spec.throttle == Throttle():
        return backend
    from manor.backends.block.throttle import ThrottledImage

    return ThrottledImage(backend, spec.throttle)


def resize_disk(disks: Sequence[Disk], which: int | str, size: int) -> None:
    """Change the size of one of `disks`, by number or name. Raises ConfigError, and HostError where it cannot be."""
    if isinstance(which, str):
        found = [disk for disk in disks if disk.name == which]
    else:
        found = list(disks[which : which + 1]) if which >= 0 else []
    if not found:
        there = ", ".join(disk.name for disk in disks) or "none"
        raise ConfigError("disk", f"{which!r} is no disk of this machine; there are: {there}")
    if size <= 0 or size % SECTOR:
        raise ConfigError("size", f"{size} bytes is not a positive multiple of {SECTOR}")
    try:
        found[0].resize(size)
    except BlockError as error:
        raise HostError(str(error)) from error
