"""Tables, lists of fields and documents, as text or for programs (`--output`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
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
    return "\n".join(_yaml(value)) + "\n"


def _yaml(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return _yaml_mapping(value) or ["{}"]
    if isinstance(value, list):
        lines = []
        for item in value:
            first, *rest = _yaml(item)
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        return lines or ["[]"]
    return [_yaml_scalar(value)]


def _yaml_mapping(value: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, item in value.items():
        if isinstance(item, (Mapping, list)) and item:
            lines += [f"{_yaml_scalar(name)}:", *(f"  {line}" for line in _yaml(item))]
        else:
            lines.append(f"{_yaml_scalar(name)}: {_yaml(item)[0]}")
    return lines


def _yaml_scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value)
    if re.fullmatch(r"[A-Za-z_/][\w./ -]*\w|[A-Za-z]", text) and text.lower() not in _YAML_WORDS:
        return text
    import json

    return json.dumps(text, ensure_ascii=False)  # a JSON string is a YAML string


_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def pretty_size(size: int) -> tuple[float, str]:
    """A size in the largest binary unit that leaves one or more: (number, unit)."""
    number, units = float(size), ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    for unit in units:
        if number < 1024 or unit == units[-1]:
            return number, unit
        number /= 1024
    raise AssertionError
