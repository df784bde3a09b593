"""Tables, lists of fields and documents, as text or for programs (`--output`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

FORMATS = ("table", "json", "yaml", "name")
"""What `--output` takes."""


def width(text: str) -> int:
    """Columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """virsh's tables: a space before and two behind each column, but nothing behind the last; a rule of dashes."""
    widths = [max(map(width, column)) for column in zip(headings, *rows, strict=True)]
    lines = [_line(headings, widths), "-" * sum(size + 3 for size in widths)]
    lines += [_line(row, widths) for row in rows]
    return "\n".join(lines) + "\n"


def bare_table(rows: Sequence[Sequence[str]]) -> str:
    """The rows of a table without its headings, aligned among themselves."""
    if not rows:
        return ""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return "".join(_line(row, widths) + "\n" for row in rows)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [f" {cell}{' ' * (size - width(cell))}  " for cell, size in zip(cells, widths, strict=True)]
    return "".join(padded[:-1]) + " " + cells[-1]


def key(heading: str) -> str:
    """A heading as a key: `CPU time` is `cpu_time`, `CPU(s)` is `cpus`."""
    text = heading.strip().rstrip(":").replace("(s)", "s").lower()
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_")


def structured(value: Any, form: str) -> str:
    """A value of dicts, lists, strings and numbers as JSON or YAML."""
    if form == "json":
        import json

        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1 << 16)


def pretty_size(size: int) -> tuple[float, str]:
    """A size in the largest binary unit that leaves one or more: (number, unit)."""
    number, units = float(size), ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    for unit in units:
        if number < 1024 or unit == units[-1]:
            return number, unit
        number /= 1024
    raise AssertionError
