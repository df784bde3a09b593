"""The text that describes a VMDK: lines of `name = value`, and a line for each extent.

Source: VMware, "Virtual Disk Format 5.0" (2011), "The Descriptor File".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ConfigError, ProtocolError

MAX_EXTENTS: Final = 1024
"""2 TiB in extents of 2 GB. Each holds an open file."""

NO_PARENT: Final = 0xFFFF_FFFF

_EXTENT: Final = re.compile(
    r'(RW|RDONLY|NOACCESS)\s+([0-9]{1,16})\s+([A-Z]+)(?:\s+"([^"]+)"(?:\s+([0-9]{1,16}))?.*)?', re.ASCII
)
_SETTING: Final = re.compile(r'([A-Za-z0-9_.]+)\s*=\s*"?([^"]*)"?')

_KINDS: Final = frozenset({"FLAT", "SPARSE", "ZERO", "VMFS"})


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """One extent. file: beside the descriptor; empty for "ZERO". offset: in sectors, of "FLAT" and "VMFS"."""

    sectors: int
    kind: str
    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What the text says. parent: the file below, empty if unnamed."""

    create_type: str
    cid: int
    parent_cid: int
    parent: str
    extents: tuple[ExtentLine, ...]

    @property
    def has_parent(self) -> bool:
        return self.parent_cid != NO_PARENT


def parse_descriptor(name: str, data: bytes) -> Descriptor:
    """The descriptor of image `name`. Raises ProtocolError, and ConfigError for what Manor does not read."""
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace")
    if "# Disk DescriptorFile" not in text[:512]:
        raise ProtocolError(f"{name}: this is no VMDK descriptor: it does not begin with '# Disk DescriptorFile'")
    settings: dict[str, str] = {}
    extents: list[ExtentLine] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith(("RW ", "RDONLY ", "NOACCESS ")):
            extents.append(_extent(name, line))
            if len(extents) > MAX_EXTENTS:
                raise ProtocolError(f"{name}: the descriptor names more than {MAX_EXTENTS} extents")
        elif not line.startswith("#") and (found := _SETTING.fullmatch(line)):
            settings[found[1].lower()] = found[2]
    return Descriptor(
        settings.get("createtype", ""),
        _hexadecimal(name, "CID", settings.get("cid", "0")),
        _hexadecimal(name, "parentCID", settings.get("parentcid", "ffffffff")),
        settings.get("parentfilenamehint", ""),
        tuple(extents),
    )


def _extent(name: str, line: str) -> ExtentLine:
    found = _EXTENT.fullmatch(line)
    if found is None:
        raise ProtocolError(f"{name}: the descriptor's line {line[:100]!r} describes no extent")
    access, sectors, kind, file, offset = found.groups()
    if access == "NOACCESS":
        raise ConfigError(name, f"its extent {file or kind} is marked as not accessible")
    if kind not in _KINDS:
        raise ConfigError(
            name, f"its extent {file!r} is of type {kind}, which Manor does not read; export the VM or clone its disk"
        )
    if kind != "ZERO" and not file:
        raise ProtocolError(f"{name}: the descriptor's line {line[:100]!r} names no file")
    if file and ("/" in file or "\\" in file or file in (".", "..")):
        # Whoever made the image could otherwise have any file of the host shown to a guest.
        raise ConfigError(name, f"its extent {file!r} is in another folder; put the files of the image into one folder")
    return ExtentLine(int(sectors), kind, file or "", int(offset or 0))


def _hexadecimal(name: str, key: str, text: str) -> int:
    try:
        value = int(text, 16)
    except ValueError:
        raise ProtocolError(f"{name}: the descriptor's {key} is {text[:20]!r}, which is no number") from None
    if not 0 <= value <= NO_PARENT:
        raise ProtocolError(f"{name}: the descriptor's {key} {text[:20]} is too large")
    return value
