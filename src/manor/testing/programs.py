"""C programs for guests: compiled on the host, without shared libraries, and put into an initramfs beside it.

The kernel unpacks archives that follow each other, so ours is appended and the original stays as it is.
Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from manor.base.errors import HostError
from manor.guests import cpio

PLAIN_CPU: Final = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-FMA,-AVX512F"}
"""Environment in which the C library takes the variants of its functions that it also takes in the guest.

Some differ in the last bit of a result: those with fused multiply-add round once less.
"""

_OPTIONS: Final = ("-std=gnu11", "-O2", "-static", "-pthread")
_OPTIONS_32: Final = (
    "-std=gnu11", "-O2", "-m32", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pic",
    "-no-pie", "-fno-asynchronous-unwind-tables",
)  # fmt: skip
_COMPILE_TIMEOUT_S: Final = 120


def has_compiler() -> bool:
    """Whether this machine can compile the programs."""
    return shutil.which("gcc") is not None


def compile_program(source: Path, directory: Path) -> Path:
    """Compile one C file into `directory`; a name that ends in 32 becomes a 32-bit program without a library.

    Raises HostError with the compiler's messages.
    """
    target = directory / source.stem
    is_32_bit = source.stem.endswith("32")
    options = [*_OPTIONS_32] if is_32_bit else [*_OPTIONS]
    libraries = [] if is_32_bit else ["-lm"]
    done = subprocess.run(
        ["gcc", *options, "-o", str(target), str(source), *libraries],
        capture_output=True, encoding="utf-8", errors="replace", timeout=_COMPILE_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise HostError(f"{source} cannot be compiled:\n{done.stderr}")
    return target


def extend_initrd(initrd: Path, files: Mapping[str, tuple[int, bytes]], target: Path) -> Path:
    """Write `initrd` with further files to `target`. files: absolute path to (permissions, contents)."""
    entries: dict[str, cpio.Entry] = {}
    for path, (mode, data) in files.items():
        name = path.lstrip("/")
        for parent in PurePosixPath(name).parents:
            if str(parent) != ".":
                entries[str(parent)] = cpio.directory(str(parent))
        entries[name] = cpio.regular(name, data, mode)
    original = initrd.read_bytes()
    addition = cpio.write_archive(entries[name] for name in sorted(entries))
    target.write_bytes(original + bytes(-len(original) % 512) + addition)
    return target
