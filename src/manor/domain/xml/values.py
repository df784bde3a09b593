"""Kinds of values in libvirt's XML: how each is read, checked, shown, and described in the reference."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from manor.base.units import GiB, KiB, MiB, TiB
from manor.spec.mac import parse_mac, show_mac

T = TypeVar("T")


class Support(Enum):
    """What becomes of something that a document asks for."""

    YES = "yes"
    IGNORED = "ignored"
    """Kept in the document, with a warning; it has no effect, and the machine does its work without it."""
    REFUSED = "refused"
    """The machine would not be what was asked for, so it does not start."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Support of a value, with the reason, and what to write instead."""

    support: Support
    text: str = ""
    fix: str = ""


YES: Final = Verdict(Support.YES)


def ignored(text: str = "", fix: str = "") -> Verdict:
    """It stays in the document and has no effect. text: why that does no harm."""
    return Verdict(Support.IGNORED, text, fix)


def refused(text: str, fix: str) -> Verdict:
    """text: what is missing; fix: what to do instead."""
    return Verdict(Support.REFUSED, text, fix)


class Kind(Generic[T]):
    """A kind of value. unit: the attribute, beside the text, that says what the number counts."""

    unit: str | None = None

    def read(self, text: str, unit: str | None = None) -> T:
        """The value. Raises ValueError with what is wrong and what would be right."""
        raise NotImplementedError

    def show(self, value: T) -> str:
        return str(value)

    def describe(self) -> str:
        """For the reference."""
        raise NotImplementedError

    def verdict(self, value: Any) -> Verdict:
        """Support of this value in particular."""
        return YES


class Text(Kind[str]):
    """Any text of at most `limit` characters, or one that `pattern` describes."""

    def __init__(self, limit: int = 65536, pattern: str = "", rule: str = "") -> None:
        self._limit = limit
        self._pattern = re.compile(pattern) if pattern else None
        self._rule = rule

    def read(self, text: str, unit: str | None = None) -> str:
        if len(text) > self._limit:
            raise ValueError(f"{len(text)} characters are too many; at most {self._limit} are accepted")
        if self._pattern and not self._pattern.fullmatch(text):
            raise ValueError(f"{text!r} is not {self._rule}")
        return text

    def describe(self) -> str:
        return self._rule or "text"


class Integer(Kind[int]):
    """A number from `low` to `high`; shown in decimal or, where libvirt does so, in hexadecimal of `digits`."""

    def __init__(self, low: int = 0, high: int = (1 << 64) - 1, digits: int = 0) -> None:
        self.low, self.high, self._digits = low, high, digits

    def read(self, text: str, unit: str | None = None) -> int:
        match = re.fullmatch(r"\s*(-?[0-9]{1,20}|0[xX][0-9a-fA-F]{1,16})\s*", text, re.ASCII)
        if not match:
            raise ValueError(f"{text[:40]!r} is not a number")
        number = int(match[1], 16 if match[1][:2].lower() == "0x" else 10)
        if not self.low <= number <= self.high:
            raise ValueError(f"{number} is out of range; give {self.low} to {self.high}")
        return number

    def show(self, value: int) -> str:
        return f"0x{value:0{self._digits}x}" if self._digits else str(value)

    def describe(self) -> str:
        return f"number, {self.low} to {self.high}" if self.high < 1 << 63 else "number"


class Flag(Kind[bool]):
    """`yes` or `no`, or another pair of words."""

    def __init__(self, true: str = "yes", false: str = "no") -> None:
        self._words = {true: True, false: False}

    def read(self, text: str, unit: str | None = None) -> bool:
        if text not in self._words:
            raise ValueError(f"{text[:40]!r} is neither {' nor '.join(map(repr, self._words))}")
        return self._words[text]

    def show(self, value: bool) -> str:
        return next(word for word, meaning in self._words.items() if meaning is value)

    def describe(self) -> str:
        return " or ".join(f"`{word}`" for word in self._words)


class Present(Kind[bool]):
    """An element without contents that says yes by being there."""

    def read(self, text: str, unit: str | None = None) -> bool:
        return True

    def show(self, value: bool) -> str:
        return ""

    def describe(self) -> str:
        return "empty element"


class Choice(Kind[str]):
    """One of some words, each with its own support. others: the verdict on other words; None: an error."""

    def __init__(
        self, *words: str, judged: Mapping[str, Verdict] | None = None, others: Verdict | None = None
    ) -> None:
        self._words: Mapping[str, Verdict] = {**dict.fromkeys(words, YES), **(judged or {})}
        self._others = others

    @property
    def words(self) -> Mapping[str, Verdict]:
        return self._words

    def read(self, text: str, unit: str | None = None) -> str:
        if text not in self._words and self._others is None:
            known = ", ".join(word for word, verdict in self._words.items() if verdict.support is not Support.REFUSED)
            raise ValueError(f"{text[:40]!r} is unknown; give one of {known or ', '.join(self._words)}")
        return text

    def describe(self) -> str:
        return ", ".join(f"`{word}`" for word, verdict in self._words.items() if verdict.support is Support.YES)

    def verdict(self, value: Any) -> Verdict:
        return self._words.get(value, self._others or YES)


_UNITS: Final[dict[str, int]] = {
    "b": 1, "byte": 1, "bytes": 1,
    "kb": 1000, "k": KiB, "kib": KiB,
    "mb": 1000**2, "m": MiB, "mib": MiB,
    "gb": 1000**3, "g": GiB, "gib": GiB,
    "tb": 1000**4, "t": TiB, "tib": TiB,
    "pb": 1000**5, "p": 1 << 50, "pib": 1 << 50,
    "eb": 1000**6, "e": 1 << 60, "eib": 1 << 60,
}  # fmt: skip
"""Bytes of each unit. Source: libvirt, "Domain XML format", memory/@unit: KB is 1000 bytes, KiB and k are 1024."""


class Size(Kind[int]):
    """An amount in bytes. assumed: the unit without a `unit` attribute; shown: the unit that is written."""

    unit = "unit"

    def __init__(self, assumed: str = "KiB", shown: str = "KiB") -> None:
        self._assumed, self.shown = assumed, shown

    def read(self, text: str, unit: str | None = None) -> int:
        match = re.fullmatch(r"\s*([0-9]{1,20})\s*", text, re.ASCII)
        if not match:
            raise ValueError(f"{text[:40]!r} is not an amount; write a number, and the unit as unit='MiB'")
        factor = _UNITS.get((unit or self._assumed).lower())
        if factor is None:
            raise ValueError(f"unit {unit!r} is unknown; give one of bytes, KiB, MiB, GiB, TiB")
        size = int(match[1]) * factor
        if size >= 1 << 63:
            raise ValueError(f"{match[1]} {unit or self._assumed} is more than any computer has")
        step = _UNITS[self.shown.lower()]
        return -(-size // step) * step

    def show(self, value: int) -> str:
        return str(-(-value // _UNITS[self.shown.lower()]))

    def describe(self) -> str:
        return f"amount in `unit` ({self._assumed} if there is none)"


class Uuid(Kind[str]):
    """A UUID; dashes may be missing or elsewhere, as libvirt allows, and are put where they belong."""

    def read(self, text: str, unit: str | None = None) -> str:
        return normal_uuid(text)

    def describe(self) -> str:
        return "UUID"


def normal_uuid(text: str) -> str:
    """8-4-4-4-12 lower-case digits. Raises ValueError."""
    digits = re.sub(r"[\s-]", "", text)
    if not re.fullmatch(r"[0-9a-fA-F]{32}", digits):
        raise ValueError(f"{text[:60]!r} is not a UUID; write it like {uuid.UUID(int=0x1234)}")
    if digits in ("0" * 32, "f" * 32, "F" * 32):
        raise ValueError(f"{text} is no identity; give another UUID, or none to have one made")
    return str(uuid.UUID(digits))


class Mac(Kind[str]):
    """The MAC address of one interface."""

    def read(self, text: str, unit: str | None = None) -> str:
        return show_mac(parse_mac(text.strip()))

    def describe(self) -> str:
        return "MAC address"
