"""Finds what a disk boots: a kernel, its initrd and its command line, without running the disk's boot loader.

Looked for, in this order, in every file system of the disk: entries of the Boot Loader Specification, a menu of GRUB,
one of extlinux, and at last a kernel by its usual name. The words of a menu are read, none of its programs are run.

Source: UAPI Group, "Boot Loader Specification"; GNU GRUB manual 2.06 (simple configuration, environment block);
Syslinux wiki, "Config".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ConfigError, ProtocolError
from manor.base.units import MiB
from manor.boot import bls, extlinux, grub
from manor.boot.menu import MenuEntry, version_key
from manor.fs.io import Source, SourceWindow
from manor.fs.partitions import Partition, read_partitions
from manor.fs.probe import describe, open_file_system
from manor.fs.reading import FileSystem, PathNotFound, list_directory, read_file

MAX_KERNEL: Final = 512 * MiB
MAX_INITRD: Final = 1024 * MiB
_CONSOLES: Final = ("ttyS", "hvc")
_SERIAL: Final = "console=ttyS0"


@dataclass(frozen=True, slots=True)
class DiskBoot:
    """What to boot. title: the entry's, for people; where: the partition that it was found on."""

    kernel: bytes
    initrd: bytes | None
    cmdline: str
    title: str
    where: str


@dataclass(frozen=True, slots=True)
class _Volume:
    """One file system of the disk. name: for people."""

    system: FileSystem
    name: str
    partition: Partition | None


def find_boot(disk: Source, name: str) -> DiskBoot:
    """What the disk `name` boots by default. Raises ConfigError, one sentence, if there is nothing to boot."""
    try:
        partitions = read_partitions(disk)
    except ProtocolError as error:
        raise ConfigError("disk", f"nothing can be booted from {name}: {error.message}") from error
    volumes, others = _volumes(disk, partitions)
    reasons: list[str] = []
    for entry, volume in _candidates(volumes, reasons):
        try:
            return _load(entry, volume, volumes)
        except (PathNotFound, ProtocolError) as error:
            reasons.append(f"{entry.title}: {error}")
    raise ConfigError("disk", f"nothing can be booted from {name}: {_why(disk, partitions, others, reasons)}; "
                      "give a kernel with --kernel FILE")  # fmt: skip


def is_blank(disk: Source) -> bool:
    """Whether there is neither a partition table nor anything else that is known at the start of the disk."""
    try:
        return not read_partitions(disk) and describe(disk) == "unknown" and not any(disk.read(0, min(disk.size, MiB)))
    except ProtocolError:
        return False


def _volumes(disk: Source, partitions: Sequence[Partition]) -> tuple[list[_Volume], list[str]]:
    """The file systems, the EFI system partition first; and words for what is none."""
    volumes: list[_Volume] = []
    others: list[str] = []
    ranges: list[tuple[str, Source, Partition | None]] = [
        (f"partition {number}", SourceWindow(disk, each.start, each.size), each)
        for number, each in enumerate(partitions, 1)
    ]
    for label, source, partition in ranges or [("the whole disk", disk, None)]:
        try:
            system = open_file_system(source)
        except ProtocolError as error:
            others.append(f"{label} is damaged ({error.message})")
            continue
        if system is None:
            others.append(f"{label} is {describe(source)}")
        else:
            volumes.append(_Volume(system, label, partition))
    volumes.sort(key=lambda volume: not (volume.partition is not None and volume.partition.is_esp))
    return volumes, others


def _candidates(volumes: list[_Volume], reasons: list[str]) -> list[tuple[MenuEntry, _Volume]]:
    """Entries in the order in which they are tried: the default of each menu, then its others."""
    found: list[tuple[MenuEntry, _Volume]] = []
    for finder in (bls.entries, grub.entries, extlinux.entries, _plain):
        for volume in volumes:
            try:
                found += [(entry, volume) for entry in finder(volume.system)]
            except (ProtocolError, PathNotFound) as error:
                reasons.append(f"{volume.name}: {error}")
    return found


def _plain(system: FileSystem) -> list[MenuEntry]:
    """Kernels by their usual names in /boot or the root, the newest first, for the file system that they are on."""
    found: list[MenuEntry] = []
    for directory in ("/boot", "/"):
        try:
            names = [node.name for node in list_directory(system, directory) if node.kind in ("file", "link")]
        except PathNotFound:
            continue
        kernels = sorted((each for each in names if each.startswith("vmlinuz")), key=version_key, reverse=True)
        for kernel in kernels:
            version = kernel.removeprefix("vmlinuz")
            candidates = (f"initrd.img{version}", f"initramfs{version}.img", f"initrd{version}", f"initrd{version}.img")
            initrd = next((each for each in candidates if each in names), None)
            base = directory.rstrip("/")
            found.append(
                MenuEntry(
                    kernel, f"{base}/{kernel}", (f"{base}/{initrd}",) if initrd else (), f"root=UUID={system.uuid} ro"
                )
            )
    return found


def _load(entry: MenuEntry, volume: _Volume, volumes: list[_Volume]) -> DiskBoot:
    """Read the files of an entry: from its own file system, or the first that has them."""
    order = [volume, *(each for each in volumes if each is not volume)]
    for each in order:
        try:
            kernel = read_file(each.system, entry.kernel, MAX_KERNEL)
            initrds = [read_file(each.system, path, MAX_INITRD) for path in entry.initrds]
        except PathNotFound:
            continue
        # The kernel's unpacker wants each archive at a multiple of four bytes.
        initrd = b"".join(data + bytes(-len(data) % 4) for data in initrds)
        return DiskBoot(kernel, initrd or None, _with_console(entry.options), entry.title, each.name)
    raise PathNotFound(f"there is no {entry.kernel}" + "".join(f" or {path}" for path in entry.initrds))


def _with_console(options: str) -> str:
    """The options with a console that this machine has, if they name none."""
    for word in options.split():
        if word.startswith("console=") and word.removeprefix("console=").startswith(_CONSOLES):
            return options
    return f"{options} {_SERIAL}".strip()


def _why(disk: Source, partitions: Sequence[Partition], others: list[str], reasons: list[str]) -> str:
    if reasons:
        return reasons[0]
    if others and len(others) == max(len(partitions), 1):
        return ", ".join(others)
    told = f" ({', '.join(others)})" if others else ""
    return f"it has no boot entries and no kernel{told}"
