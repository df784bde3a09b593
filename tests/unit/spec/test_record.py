"""Records to JSON and back: every kind of field, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from manor.base.errors import ProtocolError
from manor.spec.cpu_state import CpuState, Segment
from manor.spec.record import plain, read


@dataclass(frozen=True, slots=True)
class Inner:
    number: int = 7
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Outer:
    flag: bool = True
    big: int = 1 << 255
    data: bytes = b"\0\xff"
    share: float = 0.5
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    all: tuple[Inner, ...] = (Inner(), Inner(8, "x"))
    pair: tuple[int, str] = (1, "a")
    numbers: list[int] = field(default_factory=lambda: [1, 2])
    by_number: dict[int, int] = field(default_factory=lambda: {0x174: 1})
    by_name: Mapping[str, int | str] = field(default_factory=lambda: {"a": 1, "@bank": "data"})
    word: Literal["on", "off"] = "on"
    own: object = field(default_factory=Inner)


def through_json(value: object) -> Any:
    return json.loads(json.dumps(plain(value)))


def test_round_trip() -> None:
    outer = Outer()
    assert read(Outer, through_json(outer), "outer", outer) == outer
    other = Outer(maybe=Inner(3), own=(1, Inner(5)))
    assert read(Outer, through_json(other), "outer", Outer(own=(2, Inner()))) == other


def test_a_processor() -> None:
    state = CpuState(msrs={0xC0000082: 1 << 63}, fpu=bytes(512), cs=Segment(8, 0, 0xFFFF_FFFF, 0xA09B))
    assert read(CpuState, through_json(state), "cpu") == state


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("flag", 1, r"outer\.flag: '1' is not of type bool"),
        ("big", True, r"outer\.big: 'True' is not of type int"),
        ("big", "1", "not of type int"),
        ("data", {"hex": "0"}, "is not bytes"),
        ("data", "00", "is not bytes"),
        ("inner", {"number": 1}, r"outer\.inner: .* is not an object of number, name"),
        ("inner", {"number": 1, "name": 2}, r"outer\.inner\.name: '2'"),
        ("maybe", 3, r"outer\.maybe"),
        ("all", {}, "is not a list"),
        ("all", [3], r"outer\.all\[0\]"),
        ("pair", [1], "is not a list of 2"),
        ("numbers", [1.5], r"outer\.numbers\[0\]"),
        ("by_number", {"1": 2}, "is not a list of pairs"),
        ("by_number", [["1", 2]], "key"),
        ("by_name", [["a", None]], r"by_name\[a\]"),
        ("word", "maybe", "is not one of on, off"),
        ("own", [1], r"outer\.own"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: object, message: str) -> None:
    outer = Outer()
    with pytest.raises(ProtocolError, match=message):
        read(Outer, through_json(outer) | {name: value}, "outer", outer)


def test_nothing_in_a_file_chooses_a_type() -> None:
    with pytest.raises(TypeError, match="nothing says what it is"):
        read(Outer, through_json(Outer()), "outer")
    with pytest.raises(TypeError, match="no part of a record"):
        plain(object())
