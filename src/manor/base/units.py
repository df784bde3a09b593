"""Sizes in bytes, written for people."""

from __future__ import annotations

import re
from typing import Final

KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30
TiB: Final = 1 << 40

_FACTORS: Final = {
    "": 1, "b": 1,
    "k": KiB, "kb": KiB, "kib": KiB,
    "m": MiB, "mb": MiB, "mib": MiB,
    "g": GiB, "gb": GiB, "gib": GiB,
    "t": TiB, "tb": TiB, "tib": TiB,
}  # fmt: skip
_PATTERN: Final = re.compile(r"\s*(0[xX][0-9a-fA-F]+|[0-9]{1,20})\s*([a-zA-Z]{0,3})\s*", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes meant by `text`: a number and an optional K, M, G or T (binary; `KiB` and `KB` mean the same).

    Raises ValueError, with what is accepted, for anything else.
    """
    match = _PATTERN.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size; write a number with an optional K, M, G or T, like 256M")
    return int(match[1], 0 if match[1][:2].lower() == "0x" else 10) * factor


def format_size(size: int) -> str:
    """`size` in the largest binary unit that divides it: `256 MiB`, `1536 KiB`, `100 B`."""
    for unit, factor in (("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"
