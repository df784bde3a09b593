"""Kinds of values: what is read, and what errors say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.domain.xml.values import Choice, Flag, Integer, Kind, Mac, Size, Text, Uuid, refused

MIB = 1 << 20


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Integer(), "12", 12), (Integer(), " 0x1F ", 31), (Integer(-1), "-1", -1), (Flag(), "yes", True),
        (Flag("on", "off"), "off", False), (Choice("a", "b"), "b", "b"),
        (Mac(), "52-54-00-AB-CD-EF", "52:54:00:ab:cd:ef"),
        (Uuid(), "6695EB01f6a4830479aa97f2502e193f", "6695eb01-f6a4-8304-79aa-97f2502e193f"),
        (Size(), "1", 1024), (Size("bytes", "bytes"), "1", 1),
    ],
)  # fmt: skip
def test_read(kind: Kind[Any], text: str, value: object) -> None:
    assert kind.read(text) == value
    assert kind.read(kind.show(value)) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Integer(1, 5), "6", "6 is out of range; give 1 to 5"), (Integer(), "twelve", "'twelve' is not a number"),
        (Integer(), "٣", "is not a number"), (Integer(), "", "'' is not a number"),
        (Integer(), "9" * 40, "is not a number"), (Flag(), "true", "neither 'yes' nor 'no'"),
        (Choice("a", judged={"c": refused("x", "y")}), "b", "'b' is unknown; give one of a"),
        (Text(3), "long", "4 characters are too many"), (Mac(), "01:00:00:00:00:00", "multicast"),
        (Uuid(), "x", "is not a UUID"), (Uuid(), "0" * 32, "is no identity"), (Size(), "-1", "is not an amount"),
        (Size(), str(1 << 62), "more than any computer has"),
    ],
)  # fmt: skip
def test_errors_say_what_would_be_right(kind: Kind[Any], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        kind.read(text)


@pytest.mark.parametrize(
    ("unit", "size"), [("b", 2048), ("KB", 2048 * 1000), ("KiB", 2048 * 1024), ("M", 2048 * MIB), ("GB", 2048 * 10**9)]
)
def test_units(unit: str, size: int) -> None:
    # Memory is counted in whole KiB, and what is between is rounded up.
    assert Size().read("2048", unit) == -(-size // 1024) * 1024
    assert Size("bytes", "bytes").read("2048", unit) == size


def test_an_unknown_unit_is_an_error() -> None:
    with pytest.raises(ValueError, match="unit 'parsec' is unknown"):
        Size().read("1", "parsec")


@given(st.integers(0, (1 << 52) - 1))
def test_sizes_come_back(kib: int) -> None:
    assert Size().read(Size().show(kib * 1024), "KiB") == kib * 1024
