"""From declared elements to a tree. What was not declared goes back to its place."""

from __future__ import annotations

from typing import Any

from manor.domain.xml.property import Branch, Element, Extra, Property, schema
from manor.domain.xml.tree import Node
from manor.domain.xml.values import Present, Size


def write_element(element: Element, name: str) -> Node:
    """`element` as an element called `name`."""
    node = _build(schema(type(element)).branch, element, name, ())
    return node if node is not None else Node(name)


def _build(at: Branch, element: Element, name: str, where: tuple[str, ...]) -> Node | None:
    """None if there is nothing to say about an element on the way."""
    attributes: list[tuple[str, str]] = []
    for attribute, declared, value in at.attributes_of(element):
        attributes.append((attribute, _show(declared, value)))
    children: list[Node | str] = []
    exists = False
    if at.text:
        value = getattr(element, at.text.name)
        if isinstance(at.text.kind, Present):
            exists = bool(value)
        elif value is not None:
            exists = True
            if isinstance(at.text.kind, Size):
                attributes.insert(0, ("unit", at.text.kind.shown))
            shown = _show(at.text, value)
            if shown:
                children.append(shown)
    if element.extra_attributes:
        attributes += [(one.name, one.value) for one in element.extra_attributes if one.where == where]
    is_plain = not element.extras and not element.extra_attributes
    for step, child in at.children.items():
        if isinstance(child, Property):
            children += _children(step, child, getattr(element, child.name))
        elif not (is_plain and child.is_empty(element)):
            built = _build(child, element, step, (*where, step))
            if built is not None:
                children.append(built)
    if element.extras:
        for extra in reversed([extra for extra in element.extras if extra.where == where]):
            children.insert(_place(extra, children), extra.node)
    if where and not (attributes or children or exists):
        return None
    return Node(name, tuple(attributes), tuple(children))


def _children(step: str, child: Property, value: Any) -> list[Node]:
    """The elements of a declared part."""
    if value is None:
        return []
    if child.raw:
        return [value]
    return [write_element(one, step) for one in (value if child.many else (value,))]


def _place(extra: Extra, children: list[Node | str]) -> int:
    """Index at which `extra` goes: after the sibling that it followed, or at the end if that is no more."""
    name, number = extra.after
    if not name:
        return 0
    found = [index for index, child in enumerate(children) if isinstance(child, Node) and child.name == name]
    return found[number] + 1 if number < len(found) else len(children)


def _show(declared: Property, value: Any) -> str:
    assert declared.kind is not None
    return declared.kind.show(value)
