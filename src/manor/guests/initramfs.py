"""Builds the initramfs of the default guest: busybox, /init, kernel modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final

from manor.guests import cpio
from manor.guests.init_script import DHCP_SCRIPT, DHCP_SCRIPT_PATH, INIT, UEVENT_SCRIPT, UEVENT_SCRIPT_PATH

WANTED_MODULES: Final = ("virtio_pci", "virtio_console", "virtio_rng")
"""Drivers that the default guest loads, if its kernel does not contain them; their dependencies follow."""
DEVICE_MODULES: Final[Mapping[int, str]] = {
    1: "virtio_net", 2: "virtio_blk", 19: "vmw_vsock_virtio_transport", 26: "virtiofs"
}  # fmt: skip
"""Drivers loaded only if there is a virtio device of that ID (VIRTIO 1.2, section 5): most guests have none."""
LATER_MODULES: Final = ("virtio_balloon",)
"""Drivers loaded in the background when the shell is there: nobody waits for them."""
MODULE_DIRECTORIES: Final = ("/drivers/", "/fs/fuse/", "/net/core/", "/net/vmw_vsock/")
"""Parts of the kernel's module tree in which all of these, and what they need, are found."""

_DIRECTORIES: Final = (
    "bin", "dev", "etc", "lib", "lib/modules", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin",
    "usr/sbin",
)  # fmt: skip
_MODULE_SUFFIX: Final = re.compile(r"\.ko(\.[a-z0-9]+)?$")
_DEPENDS: Final = re.compile(rb"\0depends=([A-Za-z0-9_,-]*)\0")


def module_name(path: str) -> str:
    """The kernel's name of the module in file `path`: without directory and suffix, `-` as `_`."""
    return _MODULE_SUFFIX.sub("", PurePosixPath(path).name).replace("-", "_")


def is_module(path: str) -> bool:
    """Whether `path` names a kernel module, compressed or not."""
    return _MODULE_SUFFIX.search(path) is not None


def module_dependencies(module: bytes) -> list[str]:
    """Modules that `module` (uncompressed) needs. Source: Linux scripts/mod, section .modinfo, `depends=`."""
    found = _DEPENDS.search(module)
    if found is None:
        return []
    return [name.replace("-", "_") for name in found[1].decode("ascii").split(",") if name]


def load_order(wanted: Iterable[str], modules: Mapping[str, bytes]) -> list[str]:
    """`wanted` and what they need, dependencies first. Names not in `modules` are built into the kernel."""
    order: list[str] = []
    visited: set[str] = set()

    def visit(name: str) -> None:
        if name in visited or name not in modules:
            return
        visited.add(name)
        for needed in module_dependencies(modules[name]):
            visit(needed)
        order.append(name)

    for name in wanted:
        visit(name)
    return order


def build_initramfs(
    busybox: bytes, modules: Mapping[str, bytes], files: Mapping[str, tuple[int, bytes]] | None = None
) -> bytes:
    """An uncompressed initramfs; equal input gives equal bytes.

    modules: name to contents; they are loaded in the order of their dependencies, those of DEVICE_MODULES and
    LATER_MODULES only when they are needed.
    files: further files, absolute path to (permissions, contents); they replace ours of the same name.
    Uncompressed because copying costs the guest less than unpacking.
    """
    lists = {f"for-0x{number:04x}": load_order([name], modules) for number, name in DEVICE_MODULES.items()}
    lists["later"] = load_order(LATER_MODULES, modules)
    special = {name for names in lists.values() for name in names}
    # What a special one needs is loaded early only if another wants it as well.
    wanted = sorted(name for name in modules if name not in special or name in WANTED_MODULES)
    lists["order"] = load_order(wanted, modules)
    entries = {name: cpio.directory(name) for name in _DIRECTORIES}
    for entry in (
        # The kernel opens the console before /init can mount anything.
        # Source of the numbers: Linux Documentation/admin-guide/devices.txt.
        cpio.character_device("dev/console", 5, 1),
        cpio.regular("bin/busybox", busybox, 0o755),
        cpio.regular("init", INIT.encode(), 0o755),
        cpio.regular(DHCP_SCRIPT_PATH.lstrip("/"), DHCP_SCRIPT.encode(), 0o755),
        cpio.regular(UEVENT_SCRIPT_PATH.lstrip("/"), UEVENT_SCRIPT.encode(), 0o755),
        # The shell looks up the home directory for its prompt, `ls -l` and `id` the names.
        cpio.regular("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        cpio.regular("etc/group", b"root:x:0:\ntty:x:5:\n"),
        *(
            cpio.regular(f"lib/modules/{title}", "".join(f"{name}.ko\n" for name in names).encode())
            for title, names in lists.items()
        ),
        *(cpio.regular(f"lib/modules/{name}.ko", data) for name, data in modules.items()),
        *(cpio.regular(path.lstrip("/"), data, mode) for path, (mode, data) in (files or {}).items()),
    ):
        for parent in reversed(PurePosixPath(entry.name).parents[:-1]):
            entries.setdefault(str(parent), cpio.directory(str(parent)))
        entries[entry.name] = entry
    # A parent's name is a prefix of its children's, so sorting puts directories first.
    return cpio.write_archive(entries[name] for name in sorted(entries))
