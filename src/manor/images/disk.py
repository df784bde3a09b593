"""A configured tree onto a disk that boots: with Manor's direct boot, and with any UEFI firmware.

The disk has a GPT with an EFI system partition, which holds the boot loader, the kernel and its initrd, and a root
partition with ext4. Source: UAPI Group, "Boot Loader Specification" (type #1 entries) and "Discoverable Partitions
Specification"; UEFI 2.10, 3.5.1.1 (removable media boot path).
"""

from __future__ import annotations

import re
import stat
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from manor.backends.block.api import BlockBackend
from manor.base.errors import ConfigError
from manor.base.units import MiB
from manor.fs.entry import Entry, directory, regular
from manor.fs.ext4.writer import Ext4Writer
from manor.fs.fat.writer import Fat32Writer
from manor.fs.io import Sink, SinkWindow
from manor.fs.partitions import ESP, LINUX_ROOT_X86_64, SECTOR, Partition, usable, write_gpt
from manor.images.customize import Identity

ESP_SIZE: Final = 256 * MiB
"""Room for three kernels with their initrds."""
MIN_SIZE: Final = 1024 * MiB

_KERNEL: Final = re.compile(r"boot/vmlinuz-(?P<version>[A-Za-z0-9.+~_-]+)")
_INITRD: Final = re.compile(r"boot/initrd\.img-(?P<version>[A-Za-z0-9.+~_-]+)")
_LOADER: Final = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_TOKEN: Final = "debian"


class BackendSink:
    """An open image as what file systems are written into."""

    def __init__(self, backend: BlockBackend) -> None:
        self._backend = backend

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._backend.write(offset, [memoryview(data)])


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """A disk's numbers. name: what its identity is derived from; created: seconds since 1970."""

    size: int
    name: str
    created: int
    title: str
    cmdline_words: str

    def _uuid(self, part: str) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_OID, f"manor image {self.name} {part}")

    @property
    def identity(self) -> Identity:
        return Identity(self._uuid("root file system"), self._uuid("esp").int & 0xFFFF_FFFF)

    @property
    def cmdline(self) -> str:
        """The kernel's command line."""
        return f"root=UUID={self.identity.root} ro {self.cmdline_words}".strip()

    def partitions(self) -> tuple[Partition, Partition]:
        """The EFI system partition and the root."""
        if self.size < MIN_SIZE:
            raise ConfigError("size", f"the disk needs at least {MIN_SIZE // MiB} MiB")
        start, end = usable(self.size)
        root = start + ESP_SIZE
        return (
            Partition(start, ESP_SIZE, ESP, self._uuid("esp partition"), "esp", True),
            Partition(root, end - root, LINUX_ROOT_X86_64, self._uuid("root partition"), "root"),
        )


def write_disk(sink: Sink, plan: DiskPlan, entries: Iterable[Entry]) -> None:
    """Write the whole disk onto `sink`, whose bytes must read as zeros.

    Raises ConfigError if the tree does not fit or has nothing to boot.
    """
    esp, root = plan.partitions()
    write_gpt(sink, plan.size, plan._uuid("disk"), (esp, root))
    created = plan.created
    system = Ext4Writer(
        SinkWindow(sink, root.start, root.size), root.size, identity=plan.identity.root, label="root", created=created
    )
    files: dict[str, bytes] = {}
    for entry in entries:
        if stat.S_ISREG(entry.mode) and _is_for_boot(entry.path):
            with entry.open() as stream:
                data = stream.read(entry.size)
            files[entry.path] = data
            entry = Entry(entry.path, entry.mode, entry.uid, entry.gid, entry.mtime, data, xattrs=entry.xattrs)
        system.add(entry)
    system.finish()
    _write_esp(SinkWindow(sink, esp.start, esp.size), esp, plan, files)


def _is_for_boot(path: str) -> bool:
    return bool(_KERNEL.fullmatch(path) or _INITRD.fullmatch(path)) or path == _LOADER


def _write_esp(sink: Sink, esp: Partition, plan: DiskPlan, files: dict[str, bytes]) -> None:
    """The boot loader, and an entry for each kernel."""
    kernels = sorted(match["version"] for path in files if (match := _KERNEL.fullmatch(path)))
    if not kernels:
        raise ConfigError("packages", "the built system has no kernel; add linux-image-cloud-amd64")
    mtime = plan.created * 10**9
    writer = Fat32Writer(
        sink, esp.size, volume_id=plan.identity.esp_serial, label="ESP", hidden=esp.start // SECTOR
    )  # fmt: skip

    def put(path: str, data: bytes) -> None:
        writer.add(regular(path, data, mtime=mtime))

    for path in ("EFI", "EFI/BOOT", "EFI/systemd", "loader", "loader/entries", _TOKEN):
        writer.add(directory(path, mtime=mtime))
    loader = files.get(_LOADER)
    if loader is not None:
        put("EFI/BOOT/BOOTX64.EFI", loader)
        put("EFI/systemd/systemd-bootx64.efi", loader)
    put("loader/loader.conf", b"timeout 0\ndefault debian-*\nconsole-mode keep\n")
    put("loader/entries.srel", b"type1\n")
    for version in kernels:
        writer.add(directory(f"{_TOKEN}/{version}", mtime=mtime))
        put(f"{_TOKEN}/{version}/linux", files[f"boot/vmlinuz-{version}"])
        lines = [
            f"title      {plan.title}", f"version    {version}",
            f"options    {plan.cmdline}", f"linux      /{_TOKEN}/{version}/linux",
        ]  # fmt: skip
        initrd = files.get(f"boot/initrd.img-{version}")
        if initrd is not None:
            put(f"{_TOKEN}/{version}/initrd.img", initrd)
            lines.append(f"initrd     /{_TOKEN}/{version}/initrd.img")
        put(f"loader/entries/{_TOKEN}-{version}.conf", "".join(f"{line}\n" for line in lines).encode())
    writer.finish()
