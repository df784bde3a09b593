"""Boots an x86-64 kernel directly, without firmware: bzImage or ELF, by the 64-bit protocol or PVH.

A bzImage is unpacked on the host and its ELF file entered at the address that the kernel is linked for, as
the kernel's own decompressor would do.

Source: Linux Documentation/arch/x86/boot.rst; see also the modules of this package that are used here.
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from manor.base.address import PAGE_SIZE, align_down, align_up
from manor.base.errors import ConfigError, ProtocolError
from manor.base.units import MiB
from manor.boot import boot_params, bzimage, entry_x86, payload, pvh
from manor.boot import elf as elf_file
from manor.boot.memory_map import PC_RESERVED, RAM, MapEntry, memory_map
from manor.mem.guest_memory import GuestMemory
from manor.spec.cpu_state import CpuState

Protocol = Literal["auto", "linux64", "pvh"]

_DEFAULT_CMDLINE_SIZE: Final = 2047
"""COMMAND_LINE_SIZE - 1 of x86, for kernels without a setup header to say so."""
_DEFAULT_INITRD_MAX: Final = 0x7FFF_FFFF
"""boot.rst, initrd_addr_max: what current kernels state."""
_MAX_FILE: Final = 4 << 30
"""Files are read into memory; nothing that boots is larger."""
_LOW_END: Final = 1 * MiB
"""A kernel is loaded above the area that our tables and the legacy devices use."""
_WORKING_MEMORY: Final = 16 * MiB
"""What Linux needs besides its image and the initramfs in order to come up at all."""
_INLINE: Final = Path("the disk's kernel")
"""What messages call a kernel that did not come as a file."""
_HEAD: Final = 4096
"""Bytes by which a kernel is told from other files."""
_ZERO_PAGE: Final = bytes(PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class BootedKernel:
    """What was loaded. state: for the boot processor. kernel, initrd: [start, end) guest-physical."""

    state: CpuState
    protocol: Literal["linux64", "pvh"]
    compression: str
    kernel: tuple[int, int]
    initrd: tuple[int, int] | None
    memory_map: tuple[MapEntry, ...]


@dataclass(frozen=True, slots=True)
class _Image:
    """A kernel ready to be placed. pieces: (address, contents, size in memory)."""

    pieces: tuple[tuple[int, memoryview, int], ...]
    entry: int
    pvh_entry: int | None
    is_linux: bool
    compression: str
    header: bytes | None = None
    initrd_addr_max: int = _DEFAULT_INITRD_MAX
    cmdline_size: int = _DEFAULT_CMDLINE_SIZE

    @property
    def start(self) -> int:
        return min(address for address, _, _ in self.pieces)

    @property
    def end(self) -> int:
        return max(address + size for address, _, size in self.pieces)


def load_linux(
    memory: GuestMemory,
    kernel: Path | bytes,
    initrd: Path | bytes | None,
    cmdline: str,
    acpi_rsdp: int | None,
    *,
    reserved: Sequence[tuple[int, int]] = PC_RESERVED,
    protocol: Protocol = "auto",
    rng_seed: bytes | None = None,
) -> BootedKernel:
    """Load `kernel` and `initrd` into `memory` and say how to enter.

    acpi_rsdp: guest-physical address of the RSDP, which the caller wrote.
    reserved: (start, size) ranges that the guest must not take for RAM.
    rng_seed: random bytes for the kernel's generator (64-bit protocol).
    Raises ConfigError, one sentence, for anything that cannot boot; nothing is written before all is checked.
    """
    path = _INLINE if isinstance(kernel, bytes) else kernel
    image = _read_kernel(path, kernel if isinstance(kernel, bytes) else None)
    ramdisk = _read_initrd(initrd)
    chosen = _choose(image, protocol, path)
    ranges = memory_map(memory, reserved)
    line = _encode(cmdline, image)
    usable = _check_room(image, ramdisk, ranges)
    place = _place_initrd(image, len(ramdisk), usable) if ramdisk else None

    for address, contents, size in image.pieces:
        _load(memory, address, contents, size)
    if place is not None:
        memory.write(place, ramdisk)
    memory.write(entry_x86.COMMAND_LINE, line)
    span = None if place is None else (place, len(ramdisk))
    if chosen == "pvh":
        state = _enter_pvh(memory, image, ranges, span, acpi_rsdp)
    else:
        state = _enter_linux64(memory, image, ranges, span, acpi_rsdp, rng_seed)
    return BootedKernel(
        state,
        chosen,
        image.compression,
        (image.start, image.end),
        None if place is None else (place, place + len(ramdisk)),
        tuple(ranges),
    )


# --- reading ------------------------------------------------------------------------------------------------------


def check_files(kernel: Path, initrd: Path | None) -> None:
    """Raise ConfigError as `load_linux` would for what a glance tells: a file is missing, unreadable or no kernel."""
    if kernel.is_fifo():
        return  # what is read from it would be missing later
    data = _read_file(kernel, "kernel", _HEAD)
    if _kind(data, kernel) == "elf":
        _read_kernel(kernel)
    if initrd is not None and not initrd.is_fifo():
        _read_file(initrd, "initrd", 1)


def _read_file(path: Path, what: str, limit: int = -1) -> bytes:
    """The file, or its first `limit` bytes."""
    try:
        if path.is_dir():
            raise ConfigError(what, f"{path} is a directory, not a file")
        status = path.stat()
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            # Some of them never end.
            raise ConfigError(what, f"{path} is a device, not a file")
        if status.st_size > _MAX_FILE:
            raise ConfigError(what, f"{path} is larger than 4 GiB")
        with path.open("rb") as file:
            data = file.read(limit)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise ConfigError(what, f"{path} does not exist") from error
        raise ConfigError(what, f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise ConfigError(what, f"{path} is empty")
    return data


def _read_initrd(initrd: Path | bytes | None) -> bytes:
    if initrd is None:
        return b""
    return initrd if isinstance(initrd, bytes) else _read_file(initrd, "initrd")


def _read_kernel(path: Path, data: bytes | None = None) -> _Image:
    """data: the contents, where they are known already; then `path` is only a name for messages."""
    if data is None:
        data = _read_file(path, "kernel")
    try:
        if _kind(data, path) == "bzimage":
            return _from_bzimage(bzimage.parse(data), path)
        return _from_elf(data, path, "none")
    except ProtocolError as error:
        raise ConfigError("kernel", f"{path} cannot be booted: {error.message}") from error


def _kind(data: bytes, path: Path) -> Literal["bzimage", "elf"]:
    """What a file that begins with `data` is. Raises ConfigError if it is no kernel."""
    if bzimage.is_bzimage(data):
        return "bzimage"
    if elf_file.is_elf(data):
        return "elf"
    foreign = _foreign_kernel(data)
    if foreign is not None:
        raise ConfigError("kernel", f"{path} is {foreign}; an x86-64 guest needs an x86-64 kernel")
    compression = payload.compression_of(data)
    if compression is not None:
        message = f"{path} is a {compression}-compressed file, not a kernel; unpack it first"
        raise ConfigError("kernel", message)
    raise ConfigError("kernel", f"{path} is not a kernel: neither a bzImage nor an ELF file")


def _foreign_kernel(data: bytes) -> str | None:
    """What the file is, if it is a kernel image of another architecture.

    Source: Linux Documentation/arch: arm64/booting.rst, arm/booting.rst, riscv/boot-image-header.rst.
    """
    if data[0x38:0x3C] == b"ARM\x64":
        return "a kernel for AArch64"
    if data[0x38:0x3C] == b"RSC\x05":
        return "a kernel for RISC-V"
    if data[0x24:0x28] == struct.pack("<I", 0x016F_2818):
        return "a kernel for 32-bit Arm"
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        return "a compressed EFI kernel for another architecture"
    return None


def _from_bzimage(header: bzimage.BzImage, path: Path) -> _Image:
    if not header.is_64_bit:
        raise ConfigError("kernel", f"{path} is a 32-bit kernel; an x86-64 guest needs an x86-64 kernel")
    data = payload.decompress(header.payload)
    image = _from_elf(data, path, payload.compression_of(header.payload) or "none")
    return replace(
        image,
        is_linux=True,
        header=header.header,
        initrd_addr_max=header.initrd_addr_max or _DEFAULT_INITRD_MAX,
        cmdline_size=header.cmdline_size or _DEFAULT_CMDLINE_SIZE,
    )


def _from_elf(data: bytes, path: Path, compression: str) -> _Image:
    elf_class, machine = elf_file.describe_machine(data)
    if machine != elf_file.EM_X86_64 or elf_class != elf_file.CLASS_64:
        name = elf_file.MACHINES.get(machine, f"ELF machine {machine}")
        raise ConfigError("kernel", f"{path} is a kernel for {name}; an x86-64 guest needs an x86-64 kernel")
    elf = elf_file.parse(data)
    if elf.is_program:
        raise ConfigError("kernel", f"{path} is a program or library, not a kernel")
    view = memoryview(data)
    pieces = tuple(
        (segment.physical, view[segment.offset : segment.offset + segment.file_size], segment.memory_size)
        for segment in elf.segments
    )
    entry = elf.physical_entry
    pvh_entry = pvh.entry_point(elf)
    for address in (entry, pvh_entry):
        if address is not None and not any(start <= address < start + size for start, _, size in pieces):
            message = f"{path} cannot be booted: its entry point {address:#x} is not part of it"
            raise ConfigError("kernel", message)
    return _Image(pieces, entry, pvh_entry, pvh.is_linux(elf), compression)


# --- choosing and placing -----------------------------------------------------------------------------------------


def _choose(image: _Image, wanted: Protocol, path: Path) -> Literal["linux64", "pvh"]:
    if wanted == "pvh" and image.pvh_entry is None:
        raise ConfigError("kernel", f"{path} has no PVH entry point")
    if wanted != "auto":
        return wanted
    return "pvh" if image.pvh_entry is not None and not image.is_linux else "linux64"


def _encode(cmdline: str, image: _Image) -> bytes:
    line = cmdline.encode("utf-8", "surrogateescape")
    limit = min(image.cmdline_size, entry_x86.COMMAND_LINE_END - entry_x86.COMMAND_LINE - 1)
    if b"\0" in line:
        raise ConfigError("append", "the kernel command line contains a NUL character")
    if len(line) > limit:
        raise ConfigError("append", f"the kernel command line has {len(line)} bytes; this kernel takes {limit}")
    return line + b"\0"


def _check_room(image: _Image, ramdisk: bytes, ranges: Sequence[MapEntry]) -> MapEntry:
    """The RAM range that holds the kernel and has room for the rest."""
    if image.start < _LOW_END:
        raise ConfigError("kernel", f"the kernel wants to be loaded at {image.start:#x}, below 1 MiB")
    working = _WORKING_MEMORY if image.is_linux else 0
    # The initramfs is there twice while the kernel unpacks it.
    needed = image.end + 2 * align_up(len(ramdisk), PAGE_SIZE) + working
    for entry in ranges:
        if entry.type == RAM and entry.start <= image.start < entry.end:
            if needed <= entry.end:
                return entry
            break
    ram = sum(entry.size for entry in ranges if entry.type == RAM)
    raise ConfigError(
        "memory",
        f"{ram // MiB + (ram % MiB > 0)} MiB are too small for this kernel"
        f"{' and initrd' if ramdisk else ''}; at least {align_up(needed, MiB) // MiB} MiB are needed",
    )


def _place_initrd(image: _Image, size: int, usable: MapEntry) -> int:
    """As high as the kernel allows: away from where it puts its early tables."""
    place = align_down(min(usable.end, image.initrd_addr_max + 1) - size, PAGE_SIZE)
    if place < image.end:
        raise ConfigError("initrd", f"its {size} bytes do not fit below {image.initrd_addr_max + 1:#x}")
    return place


def _load(memory: GuestMemory, address: int, contents: memoryview, size: int) -> None:
    """Write `contents`, then zeros up to `size`, without touching pages that are zero already.

    A kernel image has megabytes of zeros (bss, alignment); pages that nobody touches cost the host nothing.
    """
    target = memory.view(address, size)
    for offset in range(0, size, PAGE_SIZE):
        page = bytes(contents[offset : offset + PAGE_SIZE])
        count = min(PAGE_SIZE, size - offset)
        if len(page) < count:
            page = page.ljust(count, b"\0")
        if page != _ZERO_PAGE[:count] or target[offset : offset + count].tobytes() != page:
            target[offset : offset + count] = page
    memory.written(address, size)


# --- entering -----------------------------------------------------------------------------------------------------


def _enter_linux64(
    memory: GuestMemory,
    image: _Image,
    ranges: Sequence[MapEntry],
    initrd: tuple[int, int] | None,
    acpi_rsdp: int | None,
    rng_seed: bytes | None,
) -> CpuState:
    setup_data = None
    if rng_seed:
        record = boot_params.rng_seed_record(rng_seed)
        if entry_x86.SETUP_DATA + len(record) > entry_x86.MODULE_LIST:
            raise ValueError(f"a seed of {len(rng_seed)} bytes is more than a kernel uses")
        memory.write(entry_x86.SETUP_DATA, record)
        setup_data = entry_x86.SETUP_DATA
    page = boot_params.build(image.header, ranges, entry_x86.COMMAND_LINE, initrd, acpi_rsdp, setup_data)
    memory.write(entry_x86.BOOT_PARAMS, page)
    return entry_x86.long_mode_state(memory, image.entry, entry_x86.BOOT_PARAMS)


def _enter_pvh(
    memory: GuestMemory,
    image: _Image,
    ranges: Sequence[MapEntry],
    initrd: tuple[int, int] | None,
    acpi_rsdp: int | None,
) -> CpuState:
    if image.pvh_entry is None:
        raise ValueError("the kernel has no PVH entry point")
    if initrd is not None:
        memory.write(entry_x86.MODULE_LIST, pvh.module(*initrd))
    memory.write(entry_x86.MEMORY_MAP, pvh.map_table(ranges))
    info = pvh.start_info(
        entry_x86.COMMAND_LINE,
        entry_x86.MODULE_LIST,
        1 if initrd is not None else 0,
        entry_x86.MEMORY_MAP,
        len(ranges),
        acpi_rsdp,
    )
    memory.write(entry_x86.START_INFO, info)
    return entry_x86.protected_mode_state(memory, image.pvh_entry, entry_x86.START_INFO)
