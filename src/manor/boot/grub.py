"""Menus of GRUB: entries are read from the text, the script is not run.

A grub.cfg is a shell script; what installers write (menuentry blocks with `linux` and `initrd` lines, `set` of plain
values) is understood, conditions are not: both branches of an `if` count, and of several values of a variable the
first that is not empty.

Source: GNU GRUB manual 2.06: "Configuration" (menuentry, submenu, default), "The GRUB environment block".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Final

from manor.boot.menu import MAX_CONFIG, MAX_ENTRIES, MenuEntry
from manor.fs.reading import FileSystem, PathNotFound, read_file

_PLACES: Final = ("/boot/grub", "/boot/grub2", "/grub", "/grub2", "/EFI/debian", "/EFI/fedora", "/EFI/BOOT")
_VARIABLE: Final = re.compile(r"\$(?:\{(?P<long>[^}]*)\}|(?P<short>[A-Za-z_][A-Za-z0-9_]*))")
_LINUX: Final = frozenset({"linux", "linux16", "linuxefi"})
_INITRD: Final = frozenset({"initrd", "initrd16", "initrdefi"})
_DEVICE: Final = re.compile(r"\([^)]*\)")
_SEPARATOR: Final = re.compile(r">")
_ENVIRONMENT: Final = b"# GRUB Environment Block\n"


def entries(system: FileSystem) -> list[MenuEntry]:
    """The entries of the first menu of one file system, the default first. Raises ProtocolError."""
    for place in _PLACES:
        try:
            text = read_file(system, f"{place}/grub.cfg", MAX_CONFIG).decode("utf-8", "replace")
        except PathNotFound:
            continue
        found = parse(text, environment(system))
        if found:
            return found
    return []


def environment(system: FileSystem) -> dict[str, str]:
    """The variables that GRUB saved; none if there is no file of them. Raises ProtocolError."""
    for place in _PLACES:
        try:
            data = read_file(system, f"{place}/grubenv", MAX_CONFIG)
        except PathNotFound:
            continue
        if not data.startswith(_ENVIRONMENT):
            continue
        lines = data[len(_ENVIRONMENT) :].decode("utf-8", "replace").splitlines()
        pairs = [line.partition("=") for line in lines if not line.startswith("#")]
        return {name: value for name, equals, value in pairs if equals}
    return {}


def parse(text: str, saved: dict[str, str]) -> list[MenuEntry]:
    """The entries of a menu, the default first. saved: the environment block's variables."""
    variables = dict(saved)
    variables.pop("default", None)
    found: list[tuple[tuple[str, ...], tuple[int, ...], MenuEntry]] = []
    _Menu(_statements(text), variables, found).read((), ())
    chosen = _find(found, variables.get("default", "0"))
    return [entry for _, _, entry in ([chosen] if chosen else []) + [each for each in found if each is not chosen]]


class _Menu:
    """Walks the statements of a menu once. names: of the entries above; places: their numbers."""

    def __init__(
        self,
        statements: Iterator[list[str]],
        variables: dict[str, str],
        found: list[tuple[tuple[str, ...], tuple[int, ...], MenuEntry]],
    ) -> None:
        self._statements = statements
        self._variables = variables
        self._found = found

    def read(self, names: tuple[str, ...], places: tuple[int, ...]) -> None:
        """Until the block's end; deeper blocks of other kinds (functions, conditions) are walked through."""
        number = 0
        for words in self._statements:
            match words[0]:
                case "}":
                    return
                case "menuentry" | "submenu" if words[-1] == "{" and len(places) < 8:
                    title = words[1] if len(words) > 2 else ""
                    if words[0] == "submenu":
                        self.read((*names, title), (*places, number))
                    else:
                        self._entry(title, _identity(words), (*places, number))
                    number += 1
                case "set":
                    self._set(words)
                case _ if words[-1] == "{":
                    self.read((*names, ""), (*places, -1))

    def _entry(self, title: str, identity: str, places: tuple[int, ...]) -> None:
        kernel = options = ""
        initrds: tuple[str, ...] = ()
        for words in self._statements:
            if words[0] == "}":
                break
            if words[0] in _LINUX and len(words) > 1:
                kernel = self._path(words[1])
                options = " ".join(each for word in words[2:] if (each := _expand(word, self._variables)))
            elif words[0] in _INITRD:
                initrds = tuple(self._path(word) for word in words[1:])
            elif words[0] == "set":
                self._set(words)
        if kernel and len(self._found) < MAX_ENTRIES:
            self._found.append(((title, identity), places, MenuEntry(title, kernel, initrds, options)))

    def _set(self, words: list[str]) -> None:
        """The first value that is not empty stays: what comes later is another branch's."""
        name, equals, value = " ".join(words[1:]).partition("=")
        value = _expand(value, self._variables)
        if equals and value:
            self._variables.setdefault(name, value)

    def _path(self, word: str) -> str:
        return _DEVICE.sub("", _expand(word, self._variables))


def _identity(words: list[str]) -> str:
    """The value of an entry's --id, or of what Debian's generator writes instead."""
    for name in ("--id", "$menuentry_id_option"):
        if name in words[:-1]:
            return words[words.index(name) + 1]
    return ""


def _find(
    found: list[tuple[tuple[str, ...], tuple[int, ...], MenuEntry]], default: str
) -> tuple[tuple[str, ...], tuple[int, ...], MenuEntry] | None:
    """The entry that `default` names: by number, title or id, each step of a submenu divided by `>`."""
    parts = _SEPARATOR.split(default)
    if all(part.isdigit() for part in parts):
        numbers = tuple(map(int, parts))
        return next((each for each in found if each[1] == numbers), None)
    return next((each for each in found if parts[-1] in each[0]), None)


def _expand(word: str, variables: dict[str, str]) -> str:
    """A word with the variables that are known put in; unknown ones are empty, as in GRUB."""
    return _VARIABLE.sub(lambda match: variables.get(match["long"] or match["short"] or "", ""), word)


def _statements(text: str) -> Iterator[list[str]]:
    """The words of each statement. A closing brace is one of its own."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()
        statement: list[str] = []
        for word in words:
            if word == ";" or word == "}":
                if statement:
                    yield statement
                    statement = []
                if word == "}":
                    yield ["}"]
            else:
                statement.append(word)
        if statement:
            yield statement
