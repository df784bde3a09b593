"""Entries of the Boot Loader Specification: type #1 (a text file for each) and type #2 (unified kernel images).

Source: UAPI Group, "Boot Loader Specification" and "Unified Kernel Image"; systemd loader.conf(5); the GRUB variables
that Fedora's entries use, GNU GRUB manual 2.06, "The GRUB environment block".
"""

from __future__ import annotations

import fnmatch
import re
from typing import Final

from manor.boot.grub import environment
from manor.boot.menu import MAX_CONFIG, MAX_ENTRIES, MenuEntry, version_key
from manor.fs.reading import FileSystem, PathNotFound, list_directory, read_file

_PLACES: Final = ("/loader", "/boot/loader")
_VARIABLE: Final = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")
_TRIES: Final = re.compile(r"(?P<name>.*?)\+(?P<left>\d+)(-\d+)?")


def entries(system: FileSystem) -> list[MenuEntry]:
    """The entries of one file system, the default first, then by version. Raises ProtocolError."""
    found: list[MenuEntry] = []
    for place in _PLACES:
        found += _entries(system, place)
    return found


def _entries(system: FileSystem, place: str) -> list[MenuEntry]:
    try:
        names = [node.name for node in list_directory(system, f"{place}/entries") if node.kind in ("file", "link")]
    except PathNotFound:
        return []
    variables = environment(system)
    wanted = _default(system, place, variables)
    found: list[tuple[object, str, MenuEntry]] = []
    for name in [each for each in names if each.endswith(".conf")][:MAX_ENTRIES]:
        text = read_file(system, f"{place}/entries/{name}", MAX_CONFIG).decode("utf-8", "replace")
        fields = _fields(text)
        if "linux" not in fields or fields.get("architecture", ["x64"])[0].lower() not in ("x64", "x86_64"):
            continue
        stem = name.removesuffix(".conf")
        tries = _TRIES.fullmatch(stem)
        is_bad = tries is not None and int(tries["left"]) == 0
        stem = tries["name"] if tries is not None else stem
        options = _VARIABLE.sub(lambda match: variables.get(match[1], ""), " ".join(fields.get("options", [])))
        entry = MenuEntry(
            fields.get("title", [stem])[0],
            fields["linux"][0],
            tuple(path for line in fields.get("initrd", []) for path in line.split()),
            " ".join(options.split()),
        )
        key = (
            not is_bad,
            any(fnmatch.fnmatchcase(each, wanted) for each in (stem, name)),
            fields.get("sort-key", [""])[0] == "",
            version_key(fields.get("version", [""])[0]),
            version_key(stem),
        )
        found.append((key, stem, entry))
    found.sort(key=lambda each: each[0], reverse=True)  # type: ignore[arg-type,return-value]
    return [entry for _, _, entry in found]


def _fields(text: str) -> dict[str, list[str]]:
    """The lines of an entry by their key; a key may come more than once."""
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        if key and not key.startswith("#"):
            fields.setdefault(key, []).append(rest.strip())
    return fields


def _default(system: FileSystem, place: str, variables: dict[str, str]) -> str:
    """The pattern of the default entry's name: by loader.conf, or what GRUB saved; a pattern of nothing else."""
    try:
        text = read_file(system, f"{place}/loader.conf", MAX_CONFIG).decode("utf-8", "replace")
    except PathNotFound:
        text = ""
    fields = _fields(text)
    default = fields.get("default", [""])[-1]
    if default and not default.startswith("@"):
        return default
    return variables.get("saved_entry", "")
