"""Files that pass for kernels, for machines whose guest is a Python program."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from manor.base.address import PAGE_SIZE
from manor.base.units import MiB

ENTRY: Final = 16 * MiB
_EM_X86_64: Final = 62


def kernel_file(directory: Path, code: bytes = b"\xf4") -> Path:
    """A new ELF file in `directory`, as small as one can be: one page with `code`, by default a HLT, at ENTRY.

    Source: System V ABI, chapter 4 "Object Files".
    """
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, _EM_X86_64, 1, ENTRY, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, PAGE_SIZE, ENTRY, ENTRY, PAGE_SIZE, PAGE_SIZE, PAGE_SIZE)
    path = directory / "kernel"
    path.write_bytes((header + segment).ljust(PAGE_SIZE, b"\0") + code.ljust(PAGE_SIZE, b"\0"))
    return path
