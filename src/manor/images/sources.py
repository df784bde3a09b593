"""The package sources of this machine, reduced to those of one suite.

Source: sources.list(5): the one-line style and the deb822 style.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError, HostError
from manor.guests.packages import parse_records

APT_DIRECTORY: Final = Path("/etc/apt")
_ONE_LINE: Final = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")
_POCKETS: Final = ("", "-updates", "-security")
_MAIN: Final = "main"
"""The component that Debian itself consists of; sources without it are others' archives."""


@dataclass(frozen=True, slots=True)
class AptSource:
    """One source of binary packages. options: the other fields, as deb822 names them."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_private(self) -> bool:
        """Whether its address holds a password, or it is a place of this machine."""
        return any("@" in uri or not uri.startswith(("http:", "https:")) for uri in self.uris)

    def stanza(self) -> str:
        """In deb822 style."""
        fields = [
            ("Types", "deb"), ("URIs", " ".join(self.uris)), ("Suites", " ".join(self.suites)),
            ("Components", " ".join(self.components)), *self.options,
        ]  # fmt: skip
        return "".join(f"{name}: {_folded(value)}\n" for name, value in fields)


def sources_of(suite: str, directory: Path = APT_DIRECTORY) -> list[AptSource]:
    """This machine's sources of `suite` and of its updates. Raises ConfigError, with what there is, if none has it."""
    wanted = {suite + pocket for pocket in _POCKETS}
    found = []
    others: set[str] = set()
    for source in configured(directory):
        if _MAIN not in source.components:
            continue
        suites = tuple(each for each in source.suites if each in wanted)
        others.update(source.suites)
        if suites:
            found.append(AptSource(source.uris, suites, source.components, source.options))
    if not any(suite in source.suites for source in found):
        there = ", ".join(sorted(each for each in others if not each.endswith(_POCKETS[1:])))
        raise ConfigError(
            "suite", f"the package sources of this machine have no {suite}; they have {there or 'nothing'}"
        )
    return found


def configured(directory: Path = APT_DIRECTORY) -> Iterator[AptSource]:
    """All sources of binary packages that apt would use, file by file in its order."""
    try:
        paths = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
        for path in paths:
            if path.suffix not in (".list", ".sources") or not path.is_file():
                continue
            text = path.read_text("utf-8", "replace")
            yield from _deb822(text) if path.suffix == ".sources" else _one_line(text)
    except OSError as error:
        raise HostError.from_os_error("read the package sources", error) from error


def _one_line(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None:
            continue
        options = []
        for word in (match["options"] or "").split():
            name, equals, value = word.partition("=")
            if equals:
                options.append(("-".join(part.capitalize() for part in name.split("-")), value.replace(",", " ")))
        yield AptSource((match["uri"],), (match["suite"],), tuple(match["components"].split()), tuple(options))


def _deb822(text: str) -> Iterator[AptSource]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for record in parse_records("\n".join(lines)):
        if "deb" not in record.get("types", "").split() or record.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        known = ("types", "uris", "suites", "components", "enabled")
        options = [
            ("-".join(part.capitalize() for part in name.split("-")), value)
            for name, value in record.items()
            if name not in known
        ]
        yield AptSource(
            tuple(record.get("uris", "").split()), tuple(record.get("suites", "").split()),
            tuple(record.get("components", "").split()), tuple(options),
        )  # fmt: skip


def _folded(value: str) -> str:
    """A value of several lines with the blanks that mark its further lines."""
    first, *further = value.split("\n")
    return "\n ".join([first, *(line or "." for line in further)])
