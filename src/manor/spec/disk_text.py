"""A disk written in one line: `FILE[,NAME=VALUE...]`, as `manor run --disk` takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from manor.base.errors import ConfigError
from manor.base.units import parse_size
from manor.spec.block import CACHE_MODES, DISK_BUSES, DiskSpec

_SWITCH: Final = {"on": True, "off": False}

FORMAT: Final = "FILE[,NAME=VALUE...]"


def parse_disk(text: str, where: str = "disk") -> DiskSpec:
    """The disk that `text` describes. A comma that belongs to the file's name is written twice.

    where: what the error names. Raises ConfigError; what does not depend on the line alone, `spec.check` finds.
    """
    source, *words = split_commas(text)
    if not source:
        raise ConfigError(where, f"{text!r} begins with no file; write {FORMAT}")
    spec = DiskSpec(source)
    seen: set[str] = set()
    for word in words:
        name, equals, value = word.partition("=")
        if name not in OPTIONS:
            hint = "; a comma in a file's name is written twice" if not equals else ""
            raise ConfigError(where, f"{name!r} is no option of a disk; there are: {', '.join(OPTIONS)}{hint}")
        if not equals or not value:
            raise ConfigError(where, f"{name} has no value; write {name}={OPTIONS[name].example}")
        if name in seen:
            raise ConfigError(where, f"{name} is given twice")
        seen.add(name)
        try:
            spec = OPTIONS[name].apply(spec, value)
        except ValueError as error:
            raise ConfigError(where, f"{name}={value}: {error}") from error
    return spec


def split_commas(text: str) -> list[str]:
    """The parts between single commas; two commas are one comma of a part."""
    parts = [""]
    position = 0
    while position < len(text):
        if text.startswith(",,", position):
            parts[-1] += ","
            position += 2
        elif text[position] == ",":
            parts.append("")
            position += 1
        else:
            parts[-1] += text[position]
            position += 1
    return parts


class _Option:
    """One option: how its value is read and where it goes. example: for the message when the value is missing."""

    def __init__(self, field: str, read: Callable[[str], object], example: str, in_throttle: bool = False) -> None:
        self.example = example
        self._field = field
        self._read = read
        self._in_throttle = in_throttle

    def apply(self, spec: DiskSpec, value: str) -> DiskSpec:
        change: dict[str, Any] = {self._field: self._read(value)}
        if self._in_throttle:
            return replace(spec, throttle=replace(spec.throttle, **change))
        return replace(spec, **change)


def _switch(value: str) -> bool:
    if value not in _SWITCH:
        raise ValueError("write on or off")
    return _SWITCH[value]


def _one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in names:
            raise ValueError(f"write {' or '.join(names)}")
        return value

    return read


def _count(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 12):
        raise ValueError("write a whole number")
    return int(value)


OPTIONS: Final[dict[str, _Option]] = {
    "format": _Option("format", str, "raw"),
    "bus": _Option("bus", _one_of(DISK_BUSES), DISK_BUSES[0]),
    "readonly": _Option("read_only", _switch, "on"),
    "snapshot": _Option("snapshot", _switch, "on"),
    "serial": _Option("serial", str, "S1"),
    "cache": _Option("cache", _one_of(CACHE_MODES), CACHE_MODES[0]),
    "discard": _Option("discard", _switch, "on"),
    "queues": _Option("queues", _count, "1"),
    "id": _Option("id", str, "data"),
    "iops": _Option("operations_per_second", _count, "500", in_throttle=True),
    "iops-burst": _Option("burst_operations", _count, "1000", in_throttle=True),
    "bps": _Option("bytes_per_second", parse_size, "50M", in_throttle=True),
    "bps-burst": _Option("burst_bytes", parse_size, "200M", in_throttle=True),
}
"""Name in the line to what it means."""
