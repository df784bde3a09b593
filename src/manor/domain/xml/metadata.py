"""What applications keep with a domain or a network: one element for each of their namespaces, inside <metadata>.

Source: libvirt, "Domain XML format", General metadata; API reference, virDomainSetMetadata.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final, TypeVar

from manor.base.errors import ConfigError
from manor.domain.xml import tree
from manor.domain.xml.domain import Domain
from manor.domain.xml.network import Network
from manor.domain.xml.tree import Node

D = TypeVar("D", Domain, Network)

_PREFIX: Final = re.compile(r"[^\W\d][\w.-]*")


def read_application(text: str) -> Node:
    """An application's element. Raises ConfigError."""
    return tree.read_any(text, "metadata")


def application_element(domain: Domain | Network, uri: str) -> str | None:
    """The element of namespace `uri`, without the prefix and the declaration; None if there is none."""
    for element in domain.metadata.elements() if domain.metadata else ():
        prefix = _prefix_of(element, uri)
        if prefix is not None:
            return tree.write(_without_namespace(element, prefix))
    return None


def with_application_element(domain: D, uri: str, key: str | None, element: Node | None) -> D:
    """`domain` with that element, in place of one of the same namespace; None removes it.

    key: the prefix of the namespace. Raises ConfigError if it is none.
    """
    old = domain.metadata or Node("metadata")
    kept = tuple(one for one in old.elements() if _prefix_of(one, uri) is None)
    if element is not None:
        if key is None or not _PREFIX.fullmatch(key):
            raise ConfigError("metadata", f"{key!r} is no prefix for a namespace; give a short word as key")
        local = element.name.rpartition(":")[2]
        declared = f"xmlns:{key}"
        left_out = (declared, "xmlns")
        others: tuple[tuple[str, str], ...] = tuple(one for one in element.attributes if one[0] not in left_out)
        kept += (Node(f"{key}:{local}", ((declared, uri), *others), element.children),)
    metadata = replace(old, children=kept)
    return replace(domain, metadata=metadata if kept or old.attributes else None)


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
