"""What applications keep with a domain or a network: one element for each of their namespaces, inside <metadata>.

Source: libvirt, "Domain XML format", General metadata; API reference, virDomainSetMetadata.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from manor.base.errors import ConfigError
from manor.domain.xml import tree
from manor.domain.xml.tree import Node

_PREFIX: Final = re.compile(r"[^\W\d][\w.-]*")


def read_application(text: str) -> Node:
    """An application's element. Raises ConfigError."""
    return tree.read_any(text, "metadata")


def application_element(metadata: Node | None, uri: str) -> str | None:
    """The element of namespace `uri` in <metadata>, without the prefix and the declaration; None if there is none."""
    for element in metadata.elements() if metadata else ():
        prefix = _prefix_of(element, uri)
        if prefix is not None:
            return tree.write(_without_namespace(element, prefix))
    return None


def with_application_element(metadata: Node | None, uri: str, key: str | None, element: Node | None) -> Node | None:
    """<metadata> with that element, in place of one of the same namespace; None removes it.

    key: the prefix of the namespace. Raises ConfigError if it is none.
    """
    old = metadata or Node("metadata")
    kept = tuple(one for one in old.elements() if _prefix_of(one, uri) is None)
    if element is not None:
        if key is None or not _PREFIX.fullmatch(key):
            raise ConfigError("metadata", f"{key!r} is no prefix for a namespace; give a short word as key")
        local = element.name.rpartition(":")[2]
        declared = f"xmlns:{key}"
        others = tuple(one for one in element.attributes if one[0] not in (declared, "xmlns"))
        kept += (Node(f"{key}:{local}", ((declared, uri), *others), element.children),)
    return replace(old, children=kept) if kept or old.attributes else None


def _prefix_of(element: Node, uri: str) -> str | None:
    """The prefix of `element`, "" for none, if its namespace is `uri`."""
    prefix, colon, _ = element.name.partition(":")
    declared = f"xmlns:{prefix}" if colon else "xmlns"
    return (prefix if colon else "") if element.get(declared) == uri else None


def _without_namespace(node: Node, prefix: str) -> Node:
    name = node.name
    if prefix and name.startswith(f"{prefix}:"):
        name = name[len(prefix) + 1 :]
    declared = f"xmlns:{prefix}" if prefix else "xmlns"
    return Node(
        name,
        tuple(one for one in node.attributes if one[0] != declared),
        tuple(one if isinstance(one, str) else _without_namespace(one, prefix) for one in node.children),
    )
