"""Booting from open disk images: the bridge between `BlockBackend` and what reads partitions and file systems."""

from __future__ import annotations

from collections.abc import Sequence

from manor.backends.block.api import BlockBackend, BlockError
from manor.base.errors import ConfigError, ProtocolError
from manor.boot.disk import DiskBoot, find_boot, is_blank
from manor.fs.io import check_range


class BackendSource:
    """An open image as what partitions and file systems are read from."""

    def __init__(self, backend: BlockBackend) -> None:
        self._backend = backend

    @property
    def size(self) -> int:
        return self._backend.size

    def read(self, offset: int, size: int) -> bytes:
        check_range(self, offset, size)
        data = bytearray(size)
        try:
            if size:
                self._backend.read(offset, [memoryview(data)])
        except BlockError as error:
            raise ProtocolError(f"{self._backend.name}: {error}") from error
        return bytes(data)


def boot_of_disks(disks: Sequence[BlockBackend]) -> DiskBoot:
    """What the first disk that has something to boot boots. Raises ConfigError with the first disk's reason."""
    reason: ConfigError | None = None
    for disk in disks:
        try:
            return find_boot(BackendSource(disk), disk.name)
        except ConfigError as error:
            reason = reason or error
    raise reason or ConfigError("kernel", "there is neither a kernel nor a disk to boot from")


def are_blank(disks: Sequence[BlockBackend]) -> bool:
    """Whether no disk has anything on it, as far as its start tells."""
    return all(is_blank(BackendSource(disk)) for disk in disks)
