"""XML documents of clients: read with limits, changed in place, written the way clients are used to.

Elements that nobody here knows stay where they are.
"""

from __future__ import annotations

import uuid as uuid_module
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from manor.drivers.errors import Origin, xml_error

MAX_XML: Final = 4 << 20
"""Characters of a document; the protocol carries no longer string."""
_UNITS: Final = {
    "b": 1, "bytes": 1, "KB": 1000, "k": 1024, "KiB": 1024, "MB": 1000**2, "M": 1024**2, "MiB": 1024**2,
    "GB": 1000**3, "G": 1024**3, "GiB": 1024**3, "TB": 1000**4, "T": 1024**4, "TiB": 1024**4,
    "PiB": 1024**5, "P": 1024**5, "EiB": 1024**6, "E": 1024**6,
}  # fmt: skip
"""Source: libvirt, "Domain XML format", memory: units."""


def parse(text: str, tag: str, origin: int = Origin.DOMAIN) -> Element:
    """The document's root, which has to be a `tag`. Raises ApiError."""
    if len(text) > MAX_XML:
        raise xml_error(f"the document has more than {MAX_XML} characters", origin)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise xml_error("a document type is not allowed here; remove <!DOCTYPE ...>", origin)
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise xml_error(f"(the document): {error}", origin) from error
    if root.tag != tag:
        raise xml_error(f"unexpected root element <{root.tag}>, expecting <{tag}>", origin)
    _strip(root)
    return root


def format_xml(root: Element) -> str:
    """The document with two spaces a level and quotes as libvirt writes them."""
    out: list[str] = []
    _write(root, 0, out)
    return "".join(out)


def text_of(parent: Element, path: str, default: str = "") -> str:
    """The text of the first element at `path`."""
    found = parent.find(path)
    return default if found is None or found.text is None else found.text.strip()


def bytes_of(element: Element | None, default_unit: str, origin: int = Origin.DOMAIN) -> int | None:
    """A size with a unit, in bytes; None if the element is missing. Raises ApiError."""
    if element is None:
        return None
    unit = element.get("unit", default_unit)
    factor = _UNITS.get(unit)
    if factor is None:
        raise invalid_value(element, f"unknown unit '{unit}'; use one of {', '.join(_UNITS)}", origin)
    return integer(element, origin) * factor


def integer(element: Element, origin: int = Origin.DOMAIN) -> int:
    """The element's text as a number from 0. Raises ApiError."""
    text = (element.text or "").strip()
    if not text.isdecimal() or len(text) > 19:
        raise invalid_value(element, f"'{text}' is not a whole number from 0", origin)
    return int(text)


def invalid_value(element: Element, message: str, origin: int) -> Exception:
    """The error for an element's value."""
    return xml_error(f"<{element.tag}>: {message}", origin)


def take_uuid(root: Element, after: str, origin: int) -> bytes:
    """The document's UUID; writes a new one after the element `after` if it has none. Raises ApiError."""
    text = text_of(root, "uuid")
    if text:
        try:
            return uuid_module.UUID(text).bytes
        except ValueError as error:
            raise xml_error(f"<uuid>: malformed uuid element '{text}'", origin) from error
    made = uuid_module.uuid4()
    element = root.find("uuid")
    if element is None:
        element = Element("uuid")
        place = root.find(after)
        root.insert(0 if place is None else list(root).index(place) + 1, element)
    element.text = str(made)
    return made.bytes


def take_name(root: Element, origin: int) -> str:
    """The document's name. Raises ApiError if it is missing, or could be no file's name."""
    name = text_of(root, "name")
    if not name:
        raise xml_error(f"<{root.tag}> needs a <name>", origin)
    check_name(name, origin)
    return name


def check_name(name: str, origin: int) -> None:
    """Raise ApiError for a name that could be no file's."""
    if not name or name in (".", "..") or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        raise xml_error(
            f"<name>: '{name}' is no name; use at most 200 bytes of printable characters without '/'", origin
        )


def child(parent: Element, tag: str, text: str | None = None) -> Element:
    """The first `tag` of `parent`; appended if there is none. text: replaces its text."""
    found = parent.find(tag)
    if found is None:
        found = ElementTree.SubElement(parent, tag)
    if text is not None:
        found.text = text
    return found


def escape(text: str) -> str:
    """`text` inside an element or between single quotes."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("'", "&apos;")


def _strip(element: Element) -> None:
    for each in element.iter():
        if len(each) and each.text is not None and not each.text.strip():
            each.text = None
        each.tail = None


def _write(element: Element, depth: int, out: list[str]) -> None:
    pad = "  " * depth
    names: dict[str, str] = {}
    tag = _qualified(element.tag, names, element)
    attributes = "".join(
        f" {_qualified(key, names, element)}='{escape(value)}'" for key, value in element.attrib.items()
    )
    spaces = "".join(f" xmlns:{prefix}='{escape(uri)}'" for uri, prefix in names.items())
    head = f"{pad}<{tag}{spaces}{attributes}"
    if len(element):
        out.append(f"{head}>{escape(element.text.strip()) if element.text else ''}\n")
        for each in element:
            _write(each, depth + 1, out)
        out.append(f"{pad}</{tag}>\n")
    elif element.text:
        out.append(f"{head}>{escape(element.text)}</{tag}>\n")
    else:
        out.append(f"{head}/>\n")


def _qualified(name: str, names: dict[str, str], element: Element) -> str:
    """A name with the prefix of its namespace, which is declared on the element itself."""
    if not name.startswith("{"):
        return name
    uri, _, local = name[1:].partition("}")
    prefix = names.setdefault(uri, f"ns{len(names)}")
    return f"{prefix}:{local}"
