"""How an element of libvirt's XML is declared: a frozen dataclass whose fields say where they stand in the document.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Balloon(Element):
        model: str = prop("@model", Choice("virtio", "none"), "the device", default="virtio")
        NOTES = (note("@autodeflate", "...", ignored("...")),)

A path is relative to the element: `a/b` the text of <b> in <a>, `a/@c` an attribute, `.` the element's own text. What
no field and no note declares is kept in its place (`Element.extras`), and named by `check`. Order of fields = order in
the written document.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from manor.domain.xml.tree import Node
from manor.domain.xml.values import YES, Kind, Support, Verdict

_KEY: Final = "manor.xml"


@dataclass(frozen=True, slots=True)
class Property:
    """One value or element inside. one: a value of `kind`; part, parts: one element, or any number, of class `cls`."""

    path: str
    doc: str
    kind: Kind[Any] | None = None
    cls: type[Element] | None = None
    many: bool = False
    raw: bool = False
    default: Any = None
    required: bool = False
    verdict: Verdict = YES
    name: str = ""
    """The dataclass' field."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the elements on the way, the property's own element included."""
        return tuple(step for step in self.path.split("/") if step != "." and not step.startswith("@"))

    @property
    def attribute(self) -> str | None:
        last = self.path.rsplit("/", 1)[-1]
        return last[1:] if last.startswith("@") else None


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of an element or attribute that no field holds: it is kept, and this is its support."""

    path: str
    doc: str
    verdict: Verdict


def prop(
    path: str, kind: Kind[Any], doc: str, *, default: Any = None, required: bool = False, verdict: Verdict = YES
) -> Any:
    """A value. default: what a document without it means, and what is then written; None: nothing is."""
    declared = Property(path, doc, kind=kind, default=default, required=required, verdict=verdict)
    return dataclasses.field(default=default, metadata={_KEY: declared})


def part(path: str, cls: type[Element], doc: str, *, verdict: Verdict = YES) -> Any:
    """An element that is there once or not at all; None if not."""
    return dataclasses.field(default=None, metadata={_KEY: Property(path, doc, cls=cls, verdict=verdict)})


def parts(path: str, cls: type[Element], doc: str, *, verdict: Verdict = YES) -> Any:
    """Any number of elements, as a tuple in the document's order."""
    return dataclasses.field(default=(), metadata={_KEY: Property(path, doc, cls=cls, many=True, verdict=verdict)})


def raw(path: str, doc: str) -> Any:
    """An element whose contents belong to others, kept as a `Node`."""
    return dataclasses.field(default=None, metadata={_KEY: Property(path, doc, raw=True)})


def note(path: str, doc: str, verdict: Verdict) -> Note:
    return Note(path, doc, verdict)


@dataclass(frozen=True, slots=True)
class Extra:
    """An element that no field declares. where: the path to its parent inside the declared element; after: name and
    number (from 0) of the nearest declared sibling before it, ("", 0) at the start."""

    where: tuple[str, ...]
    after: tuple[str, int]
    node: Node


@dataclass(frozen=True, slots=True)
class ExtraAttribute:
    where: tuple[str, ...]
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """Base of all declared elements. extras, extra_attributes: what the document had that is not declared."""

    NOTES: ClassVar[tuple[Note, ...]] = ()

    extras: tuple[Extra, ...] = ()
    extra_attributes: tuple[ExtraAttribute, ...] = ()


E = TypeVar("E", bound=Element)
Values = Callable[[Element], tuple[Any, ...]]


def values_of(names: Iterable[str]) -> Values:
    """What gets these fields of an element at once: most of the many that are declared are not there."""
    wanted = tuple(names)
    if len(wanted) > 1:
        return operator.attrgetter(*wanted)
    return lambda element: tuple(getattr(element, name) for name in wanted)


class Branch:
    """An element on the way to properties, as a node of the tree that their paths make."""

    def __init__(self) -> None:
        self.attributes: dict[str, Property] = {}
        self.text: Property | None = None
        self.children: dict[str, Branch | Property] = {}
        self._inside: Values | None = None
        self._attributes: Values | None = None

    def is_empty(self, element: Element) -> bool:
        """Whether `element` has no value for anything in this branch."""
        if self._inside is None:
            self._inside = values_of(self._all_names())
        found = self._inside(element)
        return found.count(None) + found.count(()) == len(found)

    def attributes_of(self, element: Element) -> Iterator[tuple[str, Property, Any]]:
        """(attribute, its declaration, its value) of those that `element` has."""
        if self._attributes is None:
            self._attributes = values_of(declared.name for declared in self.attributes.values())
        found = self._attributes(element)
        if found.count(None) < len(found):
            for (attribute, declared), value in zip(self.attributes.items(), found, strict=True):
                if value is not None:
                    yield attribute, declared, value

    def _all_names(self) -> Iterator[str]:
        for prop in self.attributes.values():
            yield prop.name
        if self.text:
            yield self.text.name
        for child in self.children.values():
            if isinstance(child, Property):
                yield child.name
            else:
                yield from child._all_names()

    def add(self, prop: Property) -> None:
        branch = self
        steps = prop.steps
        for step in steps[:-1] if prop.cls or prop.raw else steps:
            child = branch.children.setdefault(step, Branch())
            if isinstance(child, Property):
                raise ValueError(f"{prop.path}: {step} is declared as an element of its own")
            branch = child
        if prop.cls or prop.raw:
            taken: object = branch.children.get(steps[-1])
            branch.children[steps[-1]] = prop
        elif prop.attribute:
            taken = branch.attributes.get(prop.attribute)
            branch.attributes[prop.attribute] = prop
        else:
            taken, branch.text = branch.text, prop
        if taken:
            raise ValueError(f"{prop.path} is declared twice")


@dataclass(frozen=True, slots=True)
class Schema:
    """What a class of elements declares. notes: by path."""

    properties: tuple[Property, ...]
    branch: Branch
    notes: dict[str, Note]
    values: Values


_LAST: Final = ("alias/@name", "address")
"""Where libvirt writes these, whatever class declares them."""
_SCHEMAS: Final[dict[type, Schema]] = {}


def schema(cls: type[Element]) -> Schema:
    """The declarations of `cls`. Raises ValueError if they contradict each other."""
    found = _SCHEMAS.get(cls)
    if found is None:
        fields = [field for field in dataclasses.fields(cls) if _KEY in field.metadata]
        declared = tuple(dataclasses.replace(field.metadata[_KEY], name=field.name) for field in fields)
        declared = tuple(sorted(declared, key=lambda one: _LAST.index(one.path) if one.path in _LAST else -1))
        root = Branch()
        for one in declared:
            root.add(one)
        found = _SCHEMAS[cls] = Schema(
            declared, root, {one.path: one for one in cls.NOTES}, values_of(one.name for one in declared)
        )  # fmt: skip
    return found


def declarations(cls: type[Element], path: str) -> Iterator[tuple[str, Property | Note]]:
    """(full path, declaration) of all that a document with root class `cls` at `path` may contain, depth first."""
    for declared in schema(cls).properties:
        full = path if declared.path == "." else f"{path}/{declared.path}"
        yield full, declared
        if declared.cls:
            yield from declarations(declared.cls, full)
    for one in cls.NOTES:
        yield f"{path}/{one.path}", one


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a document that does not become what it says. path: `domain/devices/disk[2]/target/@bus`."""

    path: str
    verdict: Support
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" + (f"; {self.fix}" if self.fix else "")
