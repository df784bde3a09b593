"""A command's words, matched with its options; values checked when they are asked for.

The messages are virsh's, which scripts compare.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from manor.shell.declare import Command, Kind, Option
from manor.shell.errors import CommandError, UsageError

COMMON = {"output": Kind.STRING, "wait": Kind.FLAG, "timeout": Kind.NUMBER}
"""Options that every command takes unless it has its own of that name."""

_POWERS = "bkmgtpe"


class Arguments:
    """What the user gave a command. An option's name is a key; flags are True or False."""

    def __init__(self, command: Command, values: dict[str, str | list[str] | bool]) -> None:
        self.command = command
        self._values = values

    @property
    def given(self) -> list[str]:
        """The names of the options that were given, by name or by place."""
        return list(self._values)

    def flag(self, name: str) -> bool:
        """Whether the flag was given."""
        self._declared(name)
        return bool(self._values.get(name))

    def flags(self, **bits: int) -> int:
        """The sum of `bits` whose flags were given; underscores stand for dashes."""
        return sum(bit for name, bit in bits.items() if self.flag(name.replace("_", "-")))

    def get(self, name: str) -> str | None:
        """The string, None if it was not given."""
        self._declared(name)
        value = self._values.get(name)
        return value if isinstance(value, str) else None

    def text(self, name: str) -> str:
        """A string that must be there. Raises CommandError."""
        value = self.get(name)
        if value is None:
            raise CommandError(f"command '{self.command.name}' requires <{name}> option")
        return value

    def words(self, name: str) -> list[str]:
        """All strings of an option that takes several."""
        self._declared(name)
        value = self._values.get(name, [])
        return value if isinstance(value, list) else []

    def number(self, name: str, default: int = -1, low: int = 0, high: int = 2**64 - 1) -> int:
        """A whole number within limits. Raises CommandError."""
        value = self.get(name)
        if value is None:
            return default
        try:
            number = int(value, 0)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise CommandError(f"Numeric value '{value}' for <{name}> option is malformed or out of range")
        return number

    def scaled(self, name: str, scale: int = 1) -> int | None:
        """A size in bytes; one without a unit is in units of `scale`. Raises CommandError."""
        value = self.get(name)
        if value is None:
            return None
        size = parse_size(value, scale)
        if size is None:
            raise CommandError(f"Scaled numeric value '{value}' for <{name}> option is malformed or out of range")
        return size

    def exclusive(self, first: str, second: str) -> None:
        """Raises CommandError if both flags or values were given."""
        if self._values.get(first) and self._values.get(second):
            raise CommandError(f"Options --{first} and --{second} are mutually exclusive")

    def require(self, needed: str, by: str) -> None:
        """Raises CommandError if `by` was given without `needed`."""
        if self._values.get(by) and not self._values.get(needed):
            raise CommandError(f"Option --{needed} is required by option --{by}")

    def affect(self) -> int:
        """--live 1, --config 2, --current 0, as libvirt's calls take them. Raises CommandError."""
        self.exclusive("current", "live")
        self.exclusive("current", "config")
        return self.flags(live=1, config=2)

    def common(self, name: str) -> str | bool | None:
        """An option that every command takes; None where the command's own of that name is meant."""
        if self.command.option(name) is not None:
            return None
        value = self._values.get(name)
        return None if isinstance(value, list) else value

    def _declared(self, name: str) -> None:
        if self.command.option(name) is None:
            raise KeyError(f"{self.command.name} declares no option {name}")


def parse_size(text: str, scale: int) -> int | None:
    """A size with a unit: b, k or KiB, KB (1000) and so on; None if it is none or does not fit 64 bits."""
    digits = len(text) - len(text.lstrip("0123456789"))
    unit = text[digits:].lower()
    if not digits:
        return None
    if unit in ("byte", "bytes", "b"):
        scale = 1
    elif unit:
        power = _POWERS.find(unit[0])
        if power < 1 or unit[1:] not in ("", "b", "ib"):
            return None
        scale = (1000 if unit[1:] == "b" else 1024) ** power
    size = int(text[:digits]) * scale
    return size if size < 2**64 else None


def bind(command: Command, words: Sequence[str]) -> Arguments:
    """Match the words after a command's name with its options. Raises UsageError."""
    values: dict[str, str | list[str] | bool] = {}
    at, only_data = 0, False
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--" and not only_data:
            only_data = True
        elif word.startswith("--") and len(word) > 2 and not only_data:
            name, equals, value = word[2:].partition("=")
            option = _named(command, name)
            if option.kind is not Kind.WORDS and option.name in values:
                raise UsageError(f"option --{option.name} already seen")
            if option.kind is Kind.FLAG:
                if equals:
                    raise UsageError(f"invalid '=' after option --{option.name}")
                values[option.name] = True
                continue
            if not equals:
                if at == len(words):
                    kind = "number" if option.kind is Kind.NUMBER else "string"
                    raise UsageError(f"expected syntax: --{option.name} <{kind}>")
                value = words[at]
                at += 1
            _put(values, option, value)
        else:
            option = _next_positional(command, values, word)
            _put(values, option, word)
            if option.takes_rest:
                for rest in words[at:]:
                    _put(values, option, rest)
                break
    for option in command.options:
        if option.is_required and option.name not in values:
            if option.kind is Kind.WORDS:
                raise UsageError(f"command '{command.name}' requires --{option.name} option")
            raise UsageError(f"command '{command.name}' requires <{option.name}> option")
    return Arguments(command, values)


def _named(command: Command, name: str) -> Option:
    option = command.option(name)
    if option is None and name in COMMON:
        option = Option(name, COMMON[name])
    if option is None:
        known = [option.name for option in command.options]
        close = difflib.get_close_matches(name, known, 1, 0.7)
        hint = f"did you mean --{close[0]}?" if close else ""
        raise UsageError(f"command '{command.name}' doesn't support option --{name}", hint)
    return option


def _next_positional(command: Command, values: dict[str, str | list[str] | bool], word: str) -> Option:
    for option in command.options:
        if option.needs_name or option.kind is Kind.FLAG:
            continue
        if option.kind is Kind.WORDS or option.name not in values:
            return option
    raise UsageError(f"unexpected data '{word}'")


def _put(values: dict[str, str | list[str] | bool], option: Option, value: str) -> None:
    if option.kind is Kind.WORDS:
        found = values.setdefault(option.name, [])
        assert isinstance(found, list)
        found.append(value)
    else:
        values[option.name] = value
