"""From a tree to declared elements, with errors that name the path."""

from __future__ import annotations

from typing import Any

from manor.base.errors import ConfigError
from manor.domain.xml.property import Branch, E, Element, Extra, ExtraAttribute, Property, schema
from manor.domain.xml.tree import Node
from manor.domain.xml.values import Present


def read_element(cls: type[E], node: Node, path: str) -> E:
    """`node`, which stands at `path`, as a `cls`. Raises ConfigError."""
    reader = _Reader()
    reader.walk(schema(cls).branch, node, path, ())
    values = reader.values
    for declared in schema(cls).properties:
        if declared.required and declared.name not in values:
            where = path if declared.path == "." else f"{path}/{declared.path}"
            raise ConfigError(where, f"it is missing; it says {declared.doc}")
        if declared.many and declared.name in values:
            values[declared.name] = tuple(values[declared.name])
    return cls(extras=tuple(reader.extras), extra_attributes=tuple(reader.extra_attributes), **values)


class _Reader:
    """Gathers the values of one element."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.extras: list[Extra] = []
        self.extra_attributes: list[ExtraAttribute] = []

    def walk(self, at: Branch, node: Node, path: str, where: tuple[str, ...]) -> None:
        unit_name = at.text.kind.unit if at.text and at.text.kind else None
        for name, value in node.attributes:
            declared = at.attributes.get(name)
            if declared:
                self.values[declared.name] = _value(declared, value, None, f"{path}/@{name}")
            elif name != unit_name:
                self.extra_attributes.append(ExtraAttribute(where, name, value))
        if at.text:
            self._text(at.text, node, path, unit_name)
        seen: dict[str, int] = {}
        names = [child.name for child in node.elements()]
        last = ("", 0)
        for child in node.elements():
            name = child.name
            known = at.children.get(name)
            if known is None:
                self.extras.append(Extra(where, last, child))
                continue
            before = seen.get(name, 0)
            last = (name, before)
            seen[name] = before + 1
            inside = f"{path}/{name}[{before + 1}]" if before or names.count(name) > 1 else f"{path}/{name}"
            many = isinstance(known, Property) and known.many
            if before and not many:
                raise ConfigError(inside, "it is there twice; keep one")
            if isinstance(known, Branch):
                self.walk(known, child, inside, (*where, name))
            elif known.raw:
                self.values[known.name] = child
            elif known.cls:
                element: Element = read_element(known.cls, child, inside)
                if many:
                    self.values.setdefault(known.name, []).append(element)
                else:
                    self.values[known.name] = element

    def _text(self, declared: Property, node: Node, path: str, unit_name: str | None) -> None:
        text = node.text
        # An element that only carries attributes has no text of its own.
        if text.strip() or isinstance(declared.kind, Present) or (declared.required and not node.attributes):
            unit = node.get(unit_name) if unit_name else None
            self.values[declared.name] = _value(declared, text, unit, path)


def _value(declared: Property, text: str, unit: str | None, path: str) -> Any:
    assert declared.kind is not None
    try:
        return declared.kind.read(text, unit)
    except ValueError as error:
        raise ConfigError(path, str(error)) from error
