"""Title, description and applications' own elements in a description: of domains and of networks.

Source of the numbers: libvirt API reference, virDomainMetadataType.
"""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from manor.drivers.api import Change
from manor.drivers.errors import Origin, invalid_argument, xml_error
from manor.drivers.xml import MAX_XML, format_xml, parse

DESCRIPTION, TITLE, ELEMENT = range(3)
_TAGS: Final = ("description", "title")


def read(root: Element, kind: int, uri: str | None) -> str | None:
    """One of them, None if it is not there. uri: of the namespace of an element."""
    if kind in (DESCRIPTION, TITLE):
        return root.findtext(_TAGS[kind]) or None
    for each in root.findall("metadata/*"):
        if each.tag.startswith(f"{{{uri}}}"):
            each.tag = each.tag.partition("}")[2]
            return format_xml(each)
    return None


def writer(root_tag: str, kind: int, text: str | None, key: str | None, uri: str | None) -> Change:
    """What changes one of them; without text it is removed. Raises ApiError for what makes no sense."""
    if kind not in (DESCRIPTION, TITLE, ELEMENT):
        raise invalid_argument(f"unknown metadata type {kind}")
    if kind == TITLE and text and "\n" in text:
        raise invalid_argument("Domain title can't contain newlines")
    if kind == ELEMENT and not uri:
        raise invalid_argument("an element of metadata needs a namespace")
    if kind == ELEMENT and text and not key:
        raise invalid_argument("an element of metadata needs a key, the prefix of its namespace")
    element = _element(text) if kind == ELEMENT and text else None

    def change(document: str) -> str:
        root = parse(document, root_tag, Origin.NETWORK if root_tag == "network" else Origin.DOMAIN)
        if kind == ELEMENT:
            _put_element(root, element, str(uri))
        else:
            _put_text(root, _TAGS[kind], text)
        return format_xml(root)

    return change


def _put_element(root: Element, element: Element | None, uri: str) -> None:
    metadata = root.find("metadata")
    if metadata is None:
        metadata = Element("metadata")
        root.insert(2, metadata)
    for each in [each for each in metadata if each.tag.startswith(f"{{{uri}}}")]:
        metadata.remove(each)
    if element is not None:
        element.tag = f"{{{uri}}}{element.tag.rpartition('}')[2]}"
        metadata.append(element)
    elif not len(metadata):
        root.remove(metadata)


def _put_text(root: Element, tag: str, text: str | None) -> None:
    found = root.find(tag)
    if found is not None:
        root.remove(found)
    if text:
        made = Element(tag)
        made.text = text
        root.insert(2, made)


def _element(text: str) -> Element:
    if len(text) > MAX_XML or "<!" in text:
        raise xml_error("(metadata_xml): metadata is one element without a document type")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise xml_error(f"(metadata_xml): {error}") from error
