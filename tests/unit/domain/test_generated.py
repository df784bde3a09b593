"""Models made from the declarations alone: whatever they say is written, and read as it was."""

from __future__ import annotations

import random
import string
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.domain.xml.network import Ip
from manor.domain.xml.property import Element, Property, schema
from manor.domain.xml.storage import Mode
from manor.domain.xml.tree import Node
from manor.domain.xml.tuning import CpuSet
from manor.domain.xml.values import Choice, Flag, Integer, Kind, Mac, Present, Size, Text, Uuid
from tests.unit.domain.documents import KINDS


def value(kind: Kind[Any], dice: random.Random) -> Any:
    if isinstance(kind, Flag):
        return dice.choice((True, False))
    if isinstance(kind, Choice):
        return dice.choice(sorted(kind.words))
    if isinstance(kind, Integer):
        return dice.choice((kind.low, kind.high, dice.randint(kind.low, kind.high)))
    if isinstance(kind, Size):
        return dice.randrange(1 << 40) * kind.read("1", kind.shown)
    if isinstance(kind, Present):
        return True
    if isinstance(kind, Uuid):
        return str(uuid.UUID(int=dice.getrandbits(127) + 1))
    if isinstance(kind, Mac):
        return (b"\x52" + dice.randbytes(5)).hex(":")
    if isinstance(kind, Ip):
        return ".".join(str(dice.randrange(256)) for _ in range(4))
    if isinstance(kind, CpuSet):
        return str(dice.randrange(64))
    if isinstance(kind, Mode):
        return dice.randrange(0o10000)
    assert isinstance(kind, Text)
    return "v" + "".join(dice.choices(string.ascii_lowercase, k=dice.randrange(8)))


def of(declared: Property, dice: random.Random) -> Any:
    if declared.cls:
        if not declared.many:
            return element(declared.cls, dice)
        return tuple(element(declared.cls, dice) for _ in range(dice.randrange(3)))
    if declared.raw:
        return Node(declared.steps[-1], (), (Node("kept", (("by", "us"),)),))
    assert declared.kind is not None
    return value(declared.kind, dice)


def element(cls: type[Element], dice: random.Random) -> Any:
    """An element with some of its properties. What nobody needs is mostly left out."""
    chosen = [one for one in schema(cls).properties if one.required or dice.random() < 0.4]
    values = {one.name: of(one, dice) for one in chosen}
    for one in schema(cls).properties:
        # What is inside an element says that it is there.
        inside = [other for other in chosen if other.path.startswith(f"{one.path}/") and values[other.name] != ()]
        if isinstance(one.kind, Present) and inside:
            values[one.name] = True
    return cls(**values)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 64))
def test_any_model_comes_back(name: str, seed: int) -> None:
    cls, parse, format_, check = KINDS[name]
    model = element(cls, random.Random(seed))
    text = format_(model)
    again = parse(text)
    assert again == model
    assert format_(again) == text
    check(again)
