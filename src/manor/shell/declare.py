"""Commands as records, and the notation that declares them.

A line of a table: `name | summary | options`, continued by lines that start with a space. An option is one of

    domain      a string that must be given, in its place or as --domain
    device?     a string that may be given, in its place or as --device
    codeset=    a string that may be given, but only as --codeset; `holdtime=#` a number
    count#      a number that must be given; `count?#` one that may
    --all       a flag
    keycode*    any number of strings; `keycode+` one at least
    command...  the rest of the line from the first string on, whatever it looks like

What a name means wherever it occurs is said once, in `catalog.meanings`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property


class Kind(enum.Enum):
    """What follows an option's name."""

    FLAG = "flag"
    STRING = "string"
    NUMBER = "number"
    WORDS = "words"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command. is_required: a flag never is."""

    name: str
    kind: Kind
    is_required: bool = False
    needs_name: bool = False
    """Whether a value without the name before it is never this option's."""
    takes_rest: bool = False
    """Whether it takes everything from its first string on."""

    @property
    def usage(self) -> str:
        """How the synopsis shows it."""
        if self.kind is Kind.FLAG:
            return f"[--{self.name}]"
        if self.kind is Kind.WORDS:
            inner = f"[--{self.name}] <string>"
            return f"{{{inner}}}..." if self.is_required else f"[{inner}]..."
        return f"<{self.name}>" if self.is_required else f"[--{self.name} <{self.kind.value}>]"


@dataclass(frozen=True)
class Command:
    """A command. module: where its function is; notation: its options as the table has them."""

    name: str
    group: str
    summary: str
    notation: str
    module: str

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """The options, in their order."""
        return tuple(_option(word) for word in self.notation.split())

    @property
    def synopsis(self) -> str:
        """The command and its options."""
        return " ".join([self.name, *(option.usage for option in self.options)])

    @property
    def function(self) -> str:
        """The name of its function; one that Python itself uses has an underscore behind it."""
        return self.name.replace("-", "_") + ("_" if self.name in _TAKEN else "")

    def option(self, name: str) -> Option | None:
        """The option of that name."""
        return next((option for option in self.options if option.name == name), None)


_TAKEN = ("exit", "help", "list", "quit")


@dataclass(frozen=True, slots=True)
class Group:
    """Commands about one thing. keyword: its name for `help`."""

    keyword: str
    title: str


def parse_table(group: str, module: str, table: str) -> Iterator[Command]:
    """The commands of a table."""
    for line in table.replace("\n ", " ").splitlines():
        if line:
            name, summary, notation = line.split("|")
            yield Command(name.strip(), group, summary.strip(), notation.strip(), module)


def _option(word: str) -> Option:
    if word.startswith("--"):
        return Option(word[2:], Kind.FLAG)
    if word.endswith("..."):
        return Option(word[:-3], Kind.WORDS, True, takes_rest=True)
    if word[-1] in "*+":
        return Option(word[:-1], Kind.WORDS, word.endswith("+"))
    kind = Kind.NUMBER if word.endswith("#") else Kind.STRING
    name = word.rstrip("#")
    return Option(name.rstrip("?="), kind, name[-1] not in "?=", name.endswith("="))
