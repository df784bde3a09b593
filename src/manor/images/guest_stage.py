"""The second stage inside a guest: for machines that allow no namespace to configure packages in.

The unpacked tree becomes a disk, a guest with the packages' own kernel runs their scripts on it, and the tree is read
back. It takes minutes where a namespace takes half of one, needs no rights at all, and leaves the same tree.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor.accel.choose import choose
from manor.base.errors import HostError
from manor.base.units import GiB
from manor.fs.entry import Entry
from manor.fs.ext4.reader import Ext4Reader
from manor.fs.ext4.writer import Ext4Writer
from manor.fs.io import ImageFile
from manor.guests import cpio
from manor.guests.default import uncompressed_module
from manor.guests.initramfs import is_module, load_order, module_name
from manor.guests.progress import Progress
from manor.images.second_stage import CONFIGURING, DONE, SCRIPT, additions, is_kept, normalised
from manor.images.tree import write_archive
from manor.images.unpack import Unpacking
from manor.images.worker import Job
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec

_DISK_SIZE: Final = 8 * GiB
"""Of a sparse file: room for any set of packages."""
_MEMORY: Final = 1 * GiB
_SILENCE_S: Final = 900.0
"""The longest that a script may say nothing, on a slow and busy machine."""
_MODULES: Final = ("crc32c_generic", "virtio_pci", "virtio_blk", "ext4")
_KERNEL: Final = re.compile(r"boot/vmlinuz-[^/]+")
_LINE: Final = re.compile(rf"(?m)^(Setting up \S+ .*|{re.escape(DONE)}|manor: second stage failed)\r?\n")
"""With the line's end: what is there so far may be the half of one."""
_TAIL: Final = 1200
"""Characters of the scripts' output that an error shows."""
_INIT: Final = f"""\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -e /dev/null ] || mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
# A crash loses a build, which begins anew then; so nothing waits for the disk.
mount -t ext4 -o nobarrier,data=writeback /dev/vda /root
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/shm
mount -t proc proc /root/proc
mount -t tmpfs -o mode=755 run /root/run
mount -t tmpfs -o mode=1777 tmp /root/tmp
date -s @"$EPOCH" > /dev/null
chroot /root /{SCRIPT} < /dev/null 2>&1 || echo "manor: second stage failed"
umount /root/tmp /root/run /root/proc /root/dev
umount /root && sync
poweroff -f
"""


def configure(job: Job, busybox: bytes, directory: Path, progress: Progress) -> int:
    """Unpack the job's packages onto a disk in `directory`, configure them in a guest, and keep the tree.

    busybox: a static one. Returns the time that bounds those of all files. Raises HostError, ProtocolError.
    """
    disk = directory / "second-stage.raw"
    unpacking = Unpacking([Path(deb) for deb in job.debs], frozenset(job.chosen))
    progress.step(f"unpacking {len(job.debs)} packages")
    found = _Collected()
    with ImageFile(disk, size=_DISK_SIZE) as image:
        writer = Ext4Writer(image, _DISK_SIZE, identity=uuid.uuid4(), label="root")
        there: set[str] = set()
        for entry in found.watch(unpacking.entries()):
            there.add(entry.path)
            writer.add(entry)
        epoch = job.epoch or unpacking.newest
        for entry in additions(unpacking.packages, epoch, job.initramfs):
            if entry.path not in there:
                writer.add(entry)
        writer.finish()
    kernel, initrd = directory / "kernel", directory / "initrd"
    kernel.write_bytes(found.kernel)
    initrd.write_bytes(_initrd(busybox, found.modules))
    _run(kernel, initrd, disk, epoch, len(unpacking.packages), progress)
    progress.step("keeping the configured system")
    with ImageFile(disk) as image, Path(job.output).open("wb") as stream:
        reader = Ext4Reader(image)
        tree = reader.walk(lambda path: is_kept(path) and path != "lost+found")
        write_archive(normalised(tree, epoch), stream)
    return epoch


@dataclass(slots=True)
class _Collected:
    """What the guest boots, picked up while it passes by."""

    kernel: bytes = b""
    modules: dict[str, bytes] | None = None

    def watch(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        self.modules = {}
        for entry in entries:
            is_driver = entry.path.startswith("usr/lib/modules/") and is_module(entry.path)
            if entry.link is None and (is_driver or _KERNEL.fullmatch(entry.path)):
                with entry.open() as stream:
                    data = stream.read(entry.size)
                entry = Entry(entry.path, entry.mode, entry.uid, entry.gid, entry.mtime, data)
                if is_driver:
                    self.modules[module_name(entry.path)] = uncompressed_module(entry.path, data)
                else:
                    self.kernel = data
            yield entry


def _initrd(busybox: bytes, modules: Mapping[str, bytes] | None) -> bytes:
    """The initramfs: busybox, the drivers of the disk and its file system, and what runs the scripts."""
    found = modules or {}
    order = load_order(_MODULES, found)
    return cpio.write_archive(
        [
            *(cpio.directory(name) for name in ("bin", "dev", "modules", "proc", "root", "sys")),
            cpio.character_device("dev/console", 5, 1),
            cpio.regular("bin/busybox", busybox, 0o755),
            cpio.regular("init", _INIT.encode(), 0o755),
            cpio.regular("modules/order", "".join(f"{name}\n" for name in order).encode()),
            *(cpio.regular(f"modules/{name}.ko", found[name]) for name in order),
        ]
    )


def _run(kernel: Path, initrd: Path, disk: Path, epoch: int, count: int, progress: Progress) -> None:
    """Boot, watch, and wait for the power-off. Raises HostError if the scripts failed."""
    from manor.vmm.console import TextNotSeen
    from manor.vmm.vm import Vm

    append = f"console=ttyS0 quiet panic=-1 EPOCH={epoch}"
    spec = MachineSpec(kernel, initrd, append, _MEMORY, disks=(DiskSpec(str(disk), format="raw"),))
    progress.step("starting a guest to configure the packages in")
    configured = 0
    with Vm(spec, choose("auto").accel, reboot=False) as vm:
        vm.start()
        try:
            while True:
                line = vm.serial.wait_for(_LINE, timeout=_SILENCE_S).rstrip().rpartition("\n")[2].strip()
                if line == DONE:
                    break
                match = CONFIGURING.match(line)
                if match is None:
                    raise HostError("the packages could not be configured: " + vm.serial.text[-_TAIL:].strip())
                configured += 1
                progress.step(f"configuring {match[1]} ({configured} of {count})")
            vm.wait(_SILENCE_S)
        except TextNotSeen as error:
            raise HostError(
                f"the packages could not be configured in a guest: {vm.serial.text[-_TAIL:].strip()}"
            ) from error
        if vm.end is None:
            raise HostError("the guest that configured the packages does not power off")
