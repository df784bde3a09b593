"""Disks for QEMU: block nodes, and the devices that show them to the guest.

Each disk is a chain of named nodes: ALIAS-storage (the file), ALIAS-format (what it means), and with limits
ALIAS-throttle. Source: QEMU 7.2, "QMP Reference Manual", BlockdevOptions; qemu(1), "-device".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError
from manor.domain.xml.disk import Disk, IoTune
from manor.drivers.qemu.words import Part

ResolveVolume = Callable[[str, str], Path]
"""(pool, volume) -> path. Raises ApiError or ConfigError."""
_FORMATS: Final = {"vhd": "vpc", "iso": "raw"}
FORMATS: Final = frozenset({
    "raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels", "bochs", "cloop", "dmg",
})  # fmt: skip
_LIMITS: Final = {
    "total_bytes": "bps-total", "read_bytes": "bps-read", "write_bytes": "bps-write", "total_iops": "iops-total",
    "read_iops": "iops-read", "write_iops": "iops-write", "total_bytes_max": "bps-total-max",
    "total_iops_max": "iops-total-max",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class DiskParts:
    """One disk. nodes: lowest first; they are added in this order and removed in the other. node: the topmost, "" for
    an empty drive."""

    objects: tuple[Part, ...]
    nodes: tuple[Part, ...]
    node: str
    device: Part


def disk_parts(disk: Disk, where: str, place: Part, boot: int | None, volume: ResolveVolume) -> DiskParts:
    """where: path of the disk in the document. place: bus and number, as `Buses` gives them. Raises ConfigError."""
    alias = disk.alias or disk.target or ""
    objects: list[Part] = []
    nodes: list[Part] = []
    if _has_medium(disk):
        read_only = disk.readonly or disk.device == "cdrom"
        nodes = [_storage(disk, alias, where, volume), _format(disk, alias, where, read_only)]
        limits = {} if disk.iotune is None else _limits(disk.iotune)
        if limits:
            objects.append({"qom-type": "throttle-group", "id": f"{alias}-limits", "limits": limits})
            nodes.append({
                "driver": "throttle", "node-name": f"{alias}-throttle", "throttle-group": f"{alias}-limits",
                "file": f"{alias}-format",
            })  # fmt: skip
    node = nodes[-1]["node-name"] if nodes else ""
    device: Part = {**place, "id": alias}
    if node:
        device["drive"] = node
    if disk.serial:
        device["serial"] = disk.serial
    elif place["driver"] == "nvme":
        device["serial"] = alias
    if disk.wwn and place["driver"].startswith(("ide-", "scsi-")):
        device["wwn"] = f"0x{disk.wwn.removeprefix('0x')}"
    if boot is not None:
        device["bootindex"] = boot
    if disk.queues and place["driver"] == "virtio-blk-pci":
        device["num-queues"] = disk.queues
    if disk.error_policy and disk.device != "cdrom":
        device["werror"] = {"enospace": "enospc"}.get(disk.error_policy, disk.error_policy)
        device["rerror"] = {"enospace": "report"}.get(disk.error_policy, disk.error_policy)
    return DiskParts(tuple(objects), tuple(nodes), node, device)


def top_node(disk: Disk) -> str:
    """The topmost node of a disk that runs."""
    limited = disk.iotune is not None and _limits(disk.iotune)
    return f"{disk.alias}-{'throttle' if limited else 'format'}"


def _has_medium(disk: Disk) -> bool:
    return bool(disk.file or disk.dev or disk.protocol or disk.volume)


def _cache(disk: Disk) -> Part:
    return {"direct": disk.cache in ("none", "directsync"), "no-flush": disk.cache == "unsafe"}


def _storage(disk: Disk, alias: str, where: str, volume: ResolveVolume) -> Part:
    node: Part = {"node-name": f"{alias}-storage", "auto-read-only": True, "discard": "unmap", "cache": _cache(disk)}
    if disk.protocol:
        if disk.protocol != "nbd" or not disk.hosts:
            raise ConfigError(f"{where}/source", "network disks are NBD, with a <host>; export the image by NBD")
        host = disk.hosts[0]
        server: Part = {"type": "inet", "host": host.name or "localhost", "port": str(host.port or 10809)}
        if host.transport == "unix":
            server = {"type": "unix", "path": host.socket or ""}
        return {**node, "driver": "nbd", "server": server, "export": disk.export or ""}
    if disk.volume:
        return {**node, "driver": "file", "filename": str(volume(disk.pool or "", disk.volume))}
    if disk.dev:
        driver = "host_cdrom" if disk.device == "cdrom" else "host_device"
        return {**node, "driver": driver, "filename": disk.dev}
    return {**node, "driver": "file", "filename": disk.file or ""}


def _format(disk: Disk, alias: str, where: str, read_only: bool) -> Part:
    # Never guessed: a guest could write another format's header into its raw disk.
    kind = _FORMATS.get(disk.format or "raw", disk.format or "raw")
    if kind not in FORMATS:
        raise ConfigError(f"{where}/driver/@type", f"{kind!r} is no format of QEMU; convert the image")
    node: Part = {
        "driver": kind, "node-name": f"{alias}-format", "file": f"{alias}-storage", "read-only": read_only,
        "discard": "ignore" if disk.discard == "ignore" else "unmap", "cache": _cache(disk),
    }  # fmt: skip
    if disk.detect_zeroes:
        node["detect-zeroes"] = disk.detect_zeroes
    return node


def _limits(tune: IoTune) -> Part:
    return {name: value for field, name in _LIMITS.items() if (value := getattr(tune, field))}


class Buses:
    """Gives disks their places, and says which controllers that takes."""

    def __init__(self, is_q35: bool) -> None:
        self._is_q35 = is_q35
        self._next: dict[str, int] = {}
        self.controllers: list[Part] = []

    def place(self, disk: Disk, where: str) -> Part:
        """Driver, bus and number for a disk. Raises ConfigError."""
        is_cd = disk.device == "cdrom"
        if disk.device not in ("disk", "cdrom"):
            raise ConfigError(f"{where}/@device", f"device='{disk.device}' is not made; use disk or cdrom")
        if disk.bus == "virtio" or disk.bus is None:
            return {"driver": "virtio-blk-pci"}
        if disk.bus == "nvme":
            return {"driver": "nvme"}
        if disk.bus == "ide":
            return self._ide(where, is_cd)
        if disk.bus == "sata":
            return self._sata(where, is_cd)
        if disk.bus == "scsi":
            if not self._next.get("scsi"):
                self.controllers.append({"driver": "virtio-scsi-pci", "id": "scsi0"})
            number = self._count("scsi", where, 255)
            return {"driver": "scsi-cd" if is_cd else "scsi-hd", "bus": "scsi0.0", "scsi-id": number}
        raise ConfigError(f"{where}/target/@bus", f"bus='{disk.bus}' is not made; use virtio, sata, scsi, ide or nvme")

    def _ide(self, where: str, is_cd: bool) -> Part:
        if self._is_q35:
            raise ConfigError(f"{where}/target/@bus", "the machine q35 has no IDE; write bus='sata'")
        number = self._count("ide", where, 4)
        return {"driver": "ide-cd" if is_cd else "ide-hd", "bus": f"ide.{number // 2}", "unit": number % 2}

    def _sata(self, where: str, is_cd: bool) -> Part:
        # q35 has a SATA controller of its own, whose ports are ide.0 to ide.5.
        if not self._is_q35 and not self._next.get("sata"):
            self.controllers.append({"driver": "ich9-ahci", "id": "sata0"})
        number = self._count("sata", where, 6)
        bus = f"ide.{number}" if self._is_q35 else f"sata0.{number}"
        return {"driver": "ide-cd" if is_cd else "ide-hd", "bus": bus}

    def _count(self, bus: str, where: str, limit: int) -> int:
        number = self._next.get(bus, 0)
        if number >= limit:
            raise ConfigError(f"{where}/target/@bus", f"there are more than {limit} disks on {bus}; use virtio")
        self._next[bus] = number + 1
        return number
