"""Every example comes back as it was, and together they use every declared property."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.domain.xml.checker import UNKNOWN
from manor.domain.xml.property import Element, Note, declarations, schema
from manor.domain.xml.values import Present, Support
from tests.unit.domain.documents import ALL, EXAMPLES, KINDS, kind


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_written_again_it_means_the_same(path: Path) -> None:
    _, parse, format_, _ = KINDS[kind(path)]
    model = parse(path.read_text("utf-8"))
    text = format_(model)
    assert parse(text) == model
    assert format_(parse(text)) == text


@pytest.mark.parametrize("path", [one for one in ALL if one.stem != "domain-small"], ids=lambda path: path.stem)
def test_a_complete_document_comes_back_to_the_letter(path: Path) -> None:
    _, parse, format_, _ = KINDS[kind(path)]
    text = path.read_text("utf-8")
    assert format_(parse(text)).splitlines() == text.splitlines()


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_nothing_documented_is_unknown(path: Path) -> None:
    _, parse, _, check = KINDS[kind(path)]
    assert [str(one) for one in check(parse(path.read_text("utf-8"))) if one.text == UNKNOWN] == []


REFUSED = {
    "domain-windows": {
        "domain/cpu/numa", "domain/devices/disk[1]/target/@bus", "domain/devices/hostdev",
        "domain/devices/interface/model/@type", "domain/devices/tpm", "domain/devices/watchdog", "domain/genid",
        "domain/os/loader",
    },
    "network-open": {"network/forward/@mode"},
    "network-isolated": set(),
    "network-ports": {"network/virtualport"},
    "pool-netfs": {"pool/@type"},
    "volume-luks": {"volume/target/encryption"},
    "domainsnapshot-memory": set(),
}  # fmt: skip
"""What no machine here can be, of documents for other hypervisors."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_of_documents_for_others(name: str) -> None:
    path = EXAMPLES / f"{name}.xml"
    _, parse, _, check = KINDS[kind(path)]
    found = [one for one in check(parse(path.read_text("utf-8"))) if one.verdict is Support.REFUSED]
    assert {one.path for one in found} == REFUSED[name]
    assert all(one.fix for one in found)


@pytest.mark.parametrize("name", KINDS)
def test_every_declared_property_is_in_an_example(name: str) -> None:
    cls, parse, _, _ = KINDS[name]
    used: set[tuple[type, str]] = set()
    for path in ALL:
        if kind(path) == name:
            used |= set(properties(parse(path.read_text("utf-8"))))
    wanted = {(owner, one.name): one.path for owner in classes(cls) for one in schema(owner).properties}
    assert not [f"{key[0].__name__}: {path}" for key, path in wanted.items() if key not in used]


def properties(element: Element) -> Iterator[tuple[type, str]]:
    """Class and field of each property that `element`, or what is inside, has a value for."""
    for declared in schema(type(element)).properties:
        value = getattr(element, declared.name)
        if value is None or value == () or (value is False and isinstance(declared.kind, Present)):
            continue
        yield type(element), declared.name
        if declared.cls:
            for one in value if declared.many else (value,):
                yield from properties(one)


def classes(cls: type[Element]) -> set[type[Element]]:
    """All classes of elements inside a document."""
    inner = [one.cls for one in schema(cls).properties if one.cls]
    return {cls}.union(*(classes(one) for one in inner))


@pytest.mark.parametrize("name", KINDS)
def test_declarations_are_sound(name: str) -> None:
    cls = KINDS[name][0]
    for path, declared in declarations(cls, name):
        assert declared.doc, path
        if isinstance(declared, Note) or declared.kind is None:
            continue
        assert declared.kind.describe() or path == "domain/os/@firmware", path
        if declared.default not in (None, False):
            assert declared.kind.read(declared.kind.show(declared.default)) == declared.default, path


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_declared_twice(name: str) -> None:
    for cls in classes(KINDS[name][0]):
        declared = schema(cls)
        listed = [one.path for one in cls.NOTES]
        assert len(set(listed)) == len(listed), cls
        values = {one.path for one in declared.properties}
        assert not values & set(listed), cls


def test_models_are_frozen_and_hashable() -> None:
    for path in ALL:
        model = KINDS[kind(path)][1](path.read_text("utf-8"))
        assert len({model, model}) == 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            model.name = "other"
