"""A part of a network's description: added, changed or taken away.

Source: libvirt API reference, virNetworkUpdateCommand, virNetworkUpdateSection; "Network XML format".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from manor.drivers.errors import Origin, invalid, invalid_argument, unsupported, xml_error
from manor.drivers.xml import MAX_XML, child, format_xml, parse

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
    """The changed description. parent_index: which <ip>, -1 for the first that fits. Raises ApiError."""
    section = SECTIONS.get(section_number)
    if section is None:
        known = ", ".join(each.name for each in SECTIONS.values())
        raise unsupported(f"section {section_number} cannot be updated; define the network anew, or update {known}",
                          Origin.NETWORK)  # fmt: skip
    wanted = _element(text, section)
    root = parse(document, "network", Origin.NETWORK)
    parent = _parent(root, section, parent_index)
    same = [each for each in parent.findall(section.tag) if _is_same(each, wanted, section)]
    if command in (ADD_LAST, ADD_FIRST):
        if same:
            raise invalid(f"there is an existing {section.tag} entry in network that matches {_shown(wanted)}",
                          Origin.NETWORK)  # fmt: skip
        places = [index for index, each in enumerate(parent) if each.tag == section.tag]
        first, last = (places[0], places[-1] + 1) if places else (len(parent), len(parent))
        parent.insert(first if command == ADD_FIRST else last, wanted)
    elif command in (MODIFY, DELETE):
        if not same:
            raise invalid(f"couldn't locate a matching {section.tag} entry: {_shown(wanted)}", Origin.NETWORK)
        if len(same) > 1:
            raise invalid(f"more than one {section.tag} entry matches {_shown(wanted)}", Origin.NETWORK)
        place = list(parent).index(same[0])
        parent.remove(same[0])
        if command == MODIFY:
            parent.insert(place, wanted)
    else:
        raise invalid_argument(f"unrecognized network update command code {command}", Origin.NETWORK)
    return format_xml(root)


def _element(text: str, section: Section) -> Element:
    if len(text) > MAX_XML or "<!" in text:
        raise xml_error("(network_update): one element without a document type is wanted", Origin.NETWORK)
    try:
        made = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise xml_error(f"(network_update): {error}", Origin.NETWORK) from error
    if made.tag != section.tag:
        raise xml_error(
            f"unexpected element <{made.tag}>, expecting <{section.tag}>, while updating network", Origin.NETWORK
        )
    if not any(made.get(key) for key in section.keys):
        raise xml_error(f"<{section.tag}>: give one of {', '.join(section.keys)}", Origin.NETWORK)
    return made


def _parent(root: Element, section: Section, index: int) -> Element:
    if section.parent != "ip/dhcp":
        return child(root, section.parent) if section.parent else root
    ips = root.findall("ip")
    if not -1 <= index < len(ips):
        raise invalid_argument(f"the network has {len(ips)} <ip> elements; there is no number {index}", Origin.NETWORK)
    if index < 0:
        with_dhcp = [each for each in ips if each.find("dhcp") is not None]
        if not ips:
            raise invalid("the network has no <ip> element to give addresses from", Origin.NETWORK)
        return child((with_dhcp or ips)[0], "dhcp")
    return child(ips[index], "dhcp")


def _is_same(found: Element, wanted: Element, section: Section) -> bool:
    given = [key for key in section.keys if wanted.get(key)]
    equal = [(found.get(key) or "").lower() == str(wanted.get(key)).lower() for key in given]
    return all(equal) if section.needs_all_keys else any(equal)


def _shown(element: Element) -> str:
    return "<" + " ".join([element.tag, *(f"{key}='{value}'" for key, value in element.items())]) + ">"
