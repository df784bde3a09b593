"""What a change of a domain would do, item by item, before anybody does it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from typing import Final
from xml.etree.ElementTree import Element

from manor.base.errors import ApiError, ManorError
from manor.drivers.api import Driver
from manor.drivers.definition import read_definition
from manor.drivers.xml import parse
from manor.service.problem import Problem, problem_of

_DEVICE_KEYS: Final = {"disk": "target", "interface": "mac", "filesystem": "target", "channel": "target"}
_AT_ONCE: Final = ("currentMemory", "title", "description", "metadata")
"""Elements whose change a running domain takes."""


class When(Enum):
    """When an item takes effect."""

    LIVE = "live"
    BOOT = "at next boot"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Item:
    """One difference. path: like `devices.disk[vda].source.file`; old, new: "" where it is not there."""

    path: str
    old: str
    new: str
    when: When
    why: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """All of them. diff: of the XML, unified. problem: why nothing of it can be done."""

    items: tuple[Item, ...]
    diff: str
    problem: Problem | None = None


async def plan(driver: Driver, uuid: bytes, xml: str) -> Plan:
    """What defining `xml` for the domain would do. Raises ApiError if there is no such domain."""
    flags = await driver.domains.flags(uuid)
    old = read_definition(await driver.domains.xml(uuid, True, True))
    try:
        new = read_definition(xml)
        await driver.domains.check(xml)
    except ManorError as error:
        return Plan((), "", problem_of(error))
    if new.uuid != uuid:
        return Plan((), "", problem_of(ApiError(8, 20, "invalid argument: the UUID of a domain cannot be changed; "
                                                       "define another domain")))  # fmt: skip
    before, after = (_flat(parse(text, "domain")) for text in (old.text, new.text))
    items = []
    for path in sorted({*before, *after}):
        first, second = before.get(path, ""), after.get(path, "")
        if first != second or (path in before) != (path in after):
            items.append(_item(path, first, second, flags.active))
    diff = "".join(difflib.unified_diff(old.text.splitlines(True), new.text.splitlines(True), "before", "after"))
    return Plan(tuple(items), diff)


def _item(path: str, old: str, new: str, is_active: bool) -> Item:
    top = path.partition(".")[0].partition("[")[0].partition("@")[0]
    if path == "name":
        why = "the domain runs; shut it down, then rename it" if is_active else "a name is changed by renaming"
        return Item(path, old, new, When.REFUSED, why)
    if is_active and top not in _AT_ONCE:
        return Item(path, old, new, When.BOOT, "the domain runs; it goes on as it is until it is started again")
    return Item(path, old, new, When.LIVE if is_active else When.BOOT)


def _flat(root: Element, prefix: str = "") -> dict[str, str]:
    """Path -> text of every element and attribute."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for each in root:
        key = _key(each)
        if key is None and len(root.findall(each.tag)) > 1:
            key = str(counts.get(each.tag, 0))
            counts[each.tag] = counts.get(each.tag, 0) + 1
        path = f"{prefix}{each.tag}" + (f"[{key}]" if key is not None else "")
        if each.text and not len(each):
            found[path] = each.text
        elif not len(each) and not each.attrib:
            found[path] = "present"
        for name, value in each.attrib.items():
            found[f"{path}@{name}"] = value
        found.update(_flat(each, f"{path}."))
    return found


def _key(element: Element) -> str | None:
    tag = _DEVICE_KEYS.get(element.tag)
    found = None if tag is None else element.find(tag)
    if found is None:
        return None
    return next((found.get(name) for name in ("dev", "address", "dir", "name") if found.get(name)), None)
