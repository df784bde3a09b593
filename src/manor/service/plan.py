"""What a change of a domain would do, item by item, before anybody does it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from manor.base.errors import ManorError
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.changes import Change, When, differences
from manor.drivers.api import Driver
from manor.drivers.errors import invalid_argument, reading, uuid_text
from manor.service.problem import Problem, problem_of

_RUNS = "the domain runs; it goes on as it is until it is started again"
_RENAME = "a name is changed by renaming"
_RENAME_OFF = "the domain runs; shut it down, then rename it"


@dataclass(frozen=True, slots=True)
class Item:
    """One difference. path: `domain/devices/disk[vda]/source/@file`; old, new: "" where it is not there."""

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
    old_text = await driver.domains.xml(uuid, True, True)
    old = domain_xml.parse(old_text)
    try:
        with reading():
            given = domain_xml.parse(xml)
        if given.uuid is not None and given.uuid != uuid_text(uuid):
            raise invalid_argument("the UUID of a domain cannot be changed; define another domain")
        named = replace(given, uuid=uuid_text(uuid))
        new_text = await driver.domains.completed(domain_xml.format(named))
    except ManorError as error:
        return Plan((), "", problem_of(error))
    new = domain_xml.parse(new_text)
    items = tuple(_item(change, flags.active) for change in differences(old, new))
    diff = "".join(difflib.unified_diff(old_text.splitlines(True), new_text.splitlines(True), "before", "after"))
    return Plan(items, diff)


def _item(change: Change, is_active: bool) -> Item:
    when, why = change.when, change.text
    if when is When.OFF:
        when, why = When.REFUSED, _RENAME_OFF if is_active else _RENAME
    elif when is When.LIVE and not is_active:
        when = When.NEXT_BOOT
    elif when is When.NEXT_BOOT and is_active:
        why = why or _RUNS
    return Item(change.path, change.before or "", change.after or "", when, why)
