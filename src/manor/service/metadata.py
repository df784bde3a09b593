"""Title, description and applications' own elements in a description: of domains and of networks.

Source of the numbers: libvirt API reference, virDomainMetadataType.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from manor.domain.xml.domain import Domain
from manor.domain.xml.metadata import application_element, read_application, with_application_element
from manor.domain.xml.network import Network
from manor.drivers.errors import Origin, invalid_argument, reading

DESCRIPTION, TITLE, ELEMENT = range(3)
T = TypeVar("T", Domain, Network)


def read(document: Domain | Network, kind: int, uri: str | None) -> str | None:
    """One of them, None if it is not there. uri: of the namespace of an element."""
    if kind == ELEMENT and uri:
        return application_element(document.metadata, uri)
    return {DESCRIPTION: document.description, TITLE: document.title}.get(kind) or None


def writer(cls: type[T], kind: int, text: str | None, key: str | None, uri: str | None) -> Callable[[T], T]:
    """What changes one of them in documents of `cls`; without text it is removed. Raises ApiError for what makes no
    sense."""
    origin = Origin.NETWORK if cls is Network else Origin.DOMAIN
    if kind not in (DESCRIPTION, TITLE, ELEMENT):
        raise invalid_argument(f"unknown metadata type {kind}", origin)
    if kind == TITLE and text and "\n" in text:
        raise invalid_argument("Domain title can't contain newlines", origin)
    if kind == ELEMENT and not uri:
        raise invalid_argument("an element of metadata needs a namespace", origin)
    if kind == ELEMENT and text and not key:
        raise invalid_argument("an element of metadata needs a key, the prefix of its namespace", origin)
    element = None
    if kind == ELEMENT and text:
        with reading(origin):
            element = read_application(text)

    def change(document: T) -> T:
        if kind == ELEMENT:
            with reading(origin):
                metadata = with_application_element(document.metadata, str(uri), key, element)
            return replace(document, metadata=metadata)
        if kind == TITLE:
            return replace(document, title=text or None)
        return replace(document, description=text or None)

    return change
