"""A part of a network's description: added, changed or taken away.

Source: libvirt API reference, virNetworkUpdateCommand, virNetworkUpdateSection; "Network XML format".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from manor.domain.xml import network as network_xml
from manor.domain.xml import tree
from manor.domain.xml.tree import Node
from manor.drivers.errors import Origin, invalid, invalid_argument, reading, unsupported, xml_error

MODIFY, DELETE, ADD_LAST, ADD_FIRST = range(1, 5)


@dataclass(frozen=True, slots=True)
class Section:
    """parent: where its elements are, with `ip` for the one that the caller counts. keys: attributes, each of which
    names one element; needs_all_keys: only together do they."""

    name: str
    parent: str
    tag: str
    keys: tuple[str, ...]
    needs_all_keys: bool = False


SECTIONS: Final = {
    4: Section("ip-dhcp-host", "ip/dhcp", "host", ("mac", "id", "name", "ip")),
    5: Section("ip-dhcp-range", "ip/dhcp", "range", ("start", "end"), needs_all_keys=True),
    7: Section("forward-interface", "forward", "interface", ("dev",)),
    9: Section("portgroup", "", "portgroup", ("name",)),
    10: Section("dns-host", "dns", "host", ("ip",)),
    11: Section("dns-txt", "dns", "txt", ("name",)),
    12: Section("dns-srv", "dns", "srv", ("service", "protocol", "domain", "target"), needs_all_keys=True),
}


def update(document: str, command: int, section_number: int, parent_index: int, text: str) -> str:
    """The changed description. parent_index: which <ip>, -1 for the first that fits. Raises ApiError, ConfigError."""
    section = SECTIONS.get(section_number)
    if section is None:
        known = ", ".join(each.name for each in SECTIONS.values())
        raise unsupported(f"section {section_number} cannot be updated; define the network anew, or update {known}",
                          Origin.NETWORK)  # fmt: skip
    wanted = _element(text, section)
    root = tree.read(document, network_xml.ROOT)
    if section.parent == "ip/dhcp":
        changed = _in_dhcp(root, parent_index, lambda parent: _changed(parent, command, wanted, section))
    elif section.parent:
        changed = _in_child(root, section.parent, lambda parent: _changed(parent, command, wanted, section))
    else:
        changed = _changed(root, command, wanted, section)
    return tree.write(changed)


def _changed(parent: Node, command: int, wanted: Node, section: Section) -> Node:
    """The element with one of its children added, changed or gone."""
    children = [each for each in parent.children if not isinstance(each, str)]
    same = [each for each in children if each.name == section.tag and _is_same(each, wanted, section)]
    if command in (ADD_LAST, ADD_FIRST):
        if same:
            raise invalid(f"there is an existing {section.tag} entry in network that matches {_shown(wanted)}",
                          Origin.NETWORK)  # fmt: skip
        places = [index for index, each in enumerate(children) if each.name == section.tag]
        first, last = (places[0], places[-1] + 1) if places else (len(children), len(children))
        children.insert(first if command == ADD_FIRST else last, wanted)
    elif command in (MODIFY, DELETE):
        if not same:
            raise invalid(f"couldn't locate a matching {section.tag} entry: {_shown(wanted)}", Origin.NETWORK)
        if len(same) > 1:
            raise invalid(f"more than one {section.tag} entry matches {_shown(wanted)}", Origin.NETWORK)
        place = next(index for index, each in enumerate(children) if each is same[0])
        children[place : place + 1] = [wanted] if command == MODIFY else []
    else:
        raise invalid_argument(f"unrecognized network update command code {command}", Origin.NETWORK)
    return replace(parent, children=tuple(children))


def _element(text: str, section: Section) -> Node:
    with reading(Origin.NETWORK):
        made = tree.read_any(text, section.tag)
    if made.name != section.tag:
        raise xml_error(
            f"unexpected element <{made.name}>, expecting <{section.tag}>, while updating network", Origin.NETWORK
        )
    if not any(made.get(key) for key in section.keys):
        raise xml_error(f"<{section.tag}>: give one of {', '.join(section.keys)}", Origin.NETWORK)
    return made


def _in_child(parent: Node, name: str, change: Callable[[Node], Node]) -> Node:
    """The element with one child changed, which is made if it is missing."""
    found = parent.find(name)
    if found is None:
        return replace(parent, children=(*parent.children, change(Node(name))))
    return _with(parent, found, change(found))


def _in_dhcp(root: Node, index: int, change: Callable[[Node], Node]) -> Node:
    ips = [each for each in root.elements() if each.name == "ip"]
    if not -1 <= index < len(ips):
        raise invalid_argument(f"the network has {len(ips)} <ip> elements; there is no number {index}", Origin.NETWORK)
    if not ips:
        raise invalid("the network has no <ip> element to give addresses from", Origin.NETWORK)
    ip = ips[index] if index >= 0 else next((each for each in ips if each.find("dhcp") is not None), ips[0])
    return _with(root, ip, _in_child(ip, "dhcp", change))


def _with(parent: Node, old: Node, new: Node) -> Node:
    return replace(parent, children=tuple(new if each is old else each for each in parent.children))


def _is_same(found: Node, wanted: Node, section: Section) -> bool:
    given = [key for key in section.keys if wanted.get(key)]
    equal = [(found.get(key) or "").lower() == str(wanted.get(key)).lower() for key in given]
    return all(equal) if section.needs_all_keys else any(equal)


def _shown(element: Node) -> str:
    return "<" + " ".join([element.name, *(f"{key}='{value}'" for key, value in element.attributes)]) + ">"
