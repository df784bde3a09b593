"""What all boot menus come to: entries with a kernel, initrds and options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_CONFIG: Final = 1 << 20
"""Bytes of a menu; more is refused."""
MAX_ENTRIES: Final = 256
"""Entries of a menu that are looked at."""


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """One entry. kernel, initrds: paths in some file system of the disk."""

    title: str
    kernel: str
    initrds: tuple[str, ...]
    options: str


def version_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts versions as people do: numbers by value, `~` before everything."""
    parts: list[tuple[int, int | str]] = []
    for part in re.findall(r"\d+|[a-zA-Z]+|~", text):
        parts.append((-1, part) if part == "~" else (2, int(part)) if part.isdigit() else (1, part))
    return (*parts, (0, ""))
