"""XML text to a tree and back, without what makes XML dangerous. Names keep their prefixes as they were written.

Refused: document type declarations, and with them entities and XML bombs; anything beyond the limits below. Comments,
processing instructions and white space between elements are not kept.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from manor.base.errors import ConfigError
from manor.base.units import MiB

MAX_TEXT: Final = 4 * MiB
"""Bytes of a document; the longest string that libvirt's RPC carries."""
MAX_DEPTH: Final = 64
MAX_NODES: Final = 20_000
"""Elements of a document; a large domain has some hundreds, and all clients wait while one is read."""
MAX_ATTRIBUTES: Final = 256
"""Of one element."""

_FORBIDDEN: Final = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""Characters that no XML document can contain. Source: XML 1.0, fifth edition, 2.2, Char."""
_NAME: Final = re.compile(r"[^\W\d][\w.-]*(:[^\W\d][\w.-]*)?")
_PLAIN: Final = re.compile("[\\x20-%(-;=?-\ud7ff\ue000-\ufffd]*")
"""Texts that are written as they are: nothing to escape, nothing forbidden."""
_TEXT_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
_ATTRIBUTE_ESCAPES: Final = {**_TEXT_ESCAPES, "'": "&apos;", "\n": "&#10;", "\t": "&#9;"}


@dataclass(frozen=True, slots=True)
class Node:
    """An element. children: elements, and texts where there are any but white space."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()
    children: tuple[Node | str, ...] = ()

    @property
    def text(self) -> str:
        """The texts directly inside, joined."""
        return "".join(child for child in self.children if isinstance(child, str))

    def elements(self) -> Iterator[Node]:
        return (child for child in self.children if isinstance(child, Node))

    def get(self, attribute: str) -> str | None:
        return next((value for name, value in self.attributes if name == attribute), None)

    def find(self, name: str) -> Node | None:
        """The first element of that name directly inside."""
        return next((child for child in self.elements() if child.name == name), None)


@dataclass(slots=True)
class _Open:
    """An element whose end has not come yet."""

    name: str
    attributes: tuple[tuple[str, str], ...]
    children: list[Node | str] = field(default_factory=list)

    def close(self) -> Node:
        children = self.children
        if any(isinstance(child, Node) for child in children):
            children = [child for child in children if isinstance(child, Node) or child.strip()]
        return Node(self.name, self.attributes, tuple(children))


class _Builder:
    """Handlers of one expat parser."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._stack: list[_Open] = []
        self._nodes = 0
        self.root: Node | None = None
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.ordered_attributes = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._doctype

    def refuse(self, message: str) -> ConfigError:
        return ConfigError(self._what, f"line {self.parser.CurrentLineNumber}: {message}")

    def _doctype(self, *_: object) -> None:
        raise self.refuse("a document type declaration is not accepted; remove <!DOCTYPE ...>")

    def _start(self, name: str, flat: list[str]) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self.refuse(f"more than {MAX_NODES} elements")
        if len(self._stack) >= MAX_DEPTH:
            raise self.refuse(f"elements nested more than {MAX_DEPTH} deep")
        if len(flat) > 2 * MAX_ATTRIBUTES:
            raise self.refuse(f"<{name}> has more than {MAX_ATTRIBUTES} attributes")
        self._stack.append(_Open(name, tuple(zip(flat[::2], flat[1::2], strict=True))))

    def _end(self, _: str) -> None:
        node = self._stack.pop().close()
        if self._stack:
            self._stack[-1].children.append(node)
        else:
            self.root = node

    def _characters(self, text: str) -> None:
        self._stack[-1].children.append(text)


def read(text: str, root: str) -> Node:
    """The tree of a document whose outermost element is `root`. Raises ConfigError with the line of what is wrong."""
    node = read_any(text, root)
    if node.name != root:
        raise ConfigError(root, f"the document is a <{node.name}>; a <{root}> is needed here")
    return node


def read_any(text: str, root: str) -> Node:
    """The same for any outermost element. root: what errors call it."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(root, "the text has half a surrogate pair, which is not a character") from error
    if len(data) > MAX_TEXT:
        raise ConfigError(root, f"{len(data)} bytes of XML are too much; at most {MAX_TEXT} are read")
    builder = _Builder(root)
    try:
        builder.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ConfigError(root, f"line {error.lineno}: this is not XML: {expat.ErrorString(error.code)}") from error
    if builder.root is None:
        raise ConfigError(root, "the document is empty")
    return builder.root


def write(node: Node, indent: int = 0) -> str:
    """`node` as text in libvirt's manner: two spaces a level, single quotes, a line end after each element.

    Raises ConfigError for characters that XML has no way to write.
    """
    out: list[str] = []
    _write(node, "  " * indent, out)
    return "".join(out)


def _write(node: Node, indent: str, out: list[str]) -> None:
    out.append(f"{indent}<{_checked_name(node.name)}")
    for name, value in node.attributes:
        out.append(f" {_checked_name(name)}='{_escape(value, _ATTRIBUTE_ESCAPES, name)}'")
    if not node.children:
        out.append("/>\n")
    elif any(isinstance(child, str) for child in node.children):
        out.append(">")
        _write_inline(node, out)
        out.append(f"</{node.name}>\n")
    else:
        out.append(">\n")
        for child in node.elements():
            _write(child, indent + "  ", out)
        out.append(f"{indent}</{node.name}>\n")


def _write_inline(node: Node, out: list[str]) -> None:
    """The inside of an element with text: white space counts there, so none is added."""
    for child in node.children:
        if isinstance(child, str):
            out.append(_escape(child, _TEXT_ESCAPES, node.name))
            continue
        inner: list[str] = []
        _write(Node(child.name, child.attributes), "", inner)
        if not child.children:
            out.append("".join(inner).rstrip("\n"))
            continue
        out.append("".join(inner)[: -len("/>\n")] + ">")
        _write_inline(child, out)
        out.append(f"</{child.name}>")


@functools.lru_cache(maxsize=4096)
def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError("", f"{name!r} is not a name in XML")
    return name


def escape(text: str) -> str:
    """`text` inside an element, or between single quotes. Raises ConfigError for what XML has no way to write."""
    return _escape(text, _ATTRIBUTE_ESCAPES, "")


def _escape(text: str, escapes: dict[str, str], where: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    found = _FORBIDDEN.search(text)
    if found:
        raise ConfigError(where, f"{found[0]!r} is a character that XML cannot contain")
    for character, escaped in escapes.items():
        if character in text:
            text = text.replace(character, escaped)
    return text
