"""Menus of extlinux and its kin. Source: Syslinux wiki, "Config" and "SYSLINUX" (directives)."""

from __future__ import annotations

from typing import Final

from manor.boot.menu import MAX_CONFIG, MAX_ENTRIES, MenuEntry
from manor.fs.reading import FileSystem, PathNotFound, read_file

_PLACES: Final = (
    "/boot/extlinux", "/extlinux", "/boot/syslinux", "/syslinux", "/isolinux", "/boot",
)  # fmt: skip
_NAMES: Final = ("extlinux.conf", "syslinux.cfg", "isolinux.cfg")


def entries(system: FileSystem) -> list[MenuEntry]:
    """The entries of the first menu of one file system, the default first. Raises ProtocolError."""
    for place in _PLACES:
        for name in _NAMES:
            try:
                text = read_file(system, f"{place}/{name}", MAX_CONFIG).decode("utf-8", "replace")
            except PathNotFound:
                continue
            return parse(text, place)
    return []


def parse(text: str, place: str) -> list[MenuEntry]:
    """The entries of a menu in the directory `place`, the default first."""
    default = ""
    labels: list[dict[str, str]] = []
    common: dict[str, str] = {}
    for line in text.splitlines():
        word, _, rest = line.strip().replace("\t", " ").partition(" ")
        rest = rest.strip()
        match word.lower():
            case "default" | "ontimeout" if not labels or word.lower() == "default":
                default = default or rest
            case "label":
                labels.append({"label": rest})
            case "kernel" | "linux" | "initrd" | "append" | "menu" as key:
                target = labels[-1] if labels else common
                if key == "menu":
                    kind, _, title = rest.partition(" ")
                    if kind.lower() == "label":
                        target["title"] = title.strip().replace("^", "")
                    elif kind.lower() == "default" and labels:
                        default = labels[-1]["label"]
                else:
                    target["kernel" if key == "linux" else key] = rest
    found = []
    for fields in labels[:MAX_ENTRIES]:
        if "kernel" not in fields or fields["kernel"].endswith((".c32", ".com", ".0")):
            continue
        options = fields.get("append", common.get("append", ""))
        words = [] if options == "-" else options.split()
        initrds = fields.get("initrd", common.get("initrd", ""))
        for word in words:
            if word.startswith("initrd="):
                initrds = word.removeprefix("initrd=")
        entry = MenuEntry(
            fields.get("title", fields["label"]),
            _path(fields["kernel"], place),
            tuple(_path(each, place) for each in initrds.split(",") if each),
            " ".join(word for word in words if not word.startswith("initrd=")),
        )
        found.append((fields["label"] != default, entry))
    found.sort(key=lambda each: each[0])
    return [entry for _, entry in found]


def _path(path: str, place: str) -> str:
    return path if path.startswith("/") else f"{place}/{path}"
