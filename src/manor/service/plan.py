"""What a change of a domain would do, item by item, before anybody does it.

A change is a call of libvirt's: define, attach, set memory, ... It is made on a copy of the domain (drivers.rehearsal)
by the very code that would make it, and what is different afterwards is the plan. There is no second opinion here.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from uuid import UUID

from manor.base.errors import ApiError, ConfigError, ManorError
from manor.domain.xml import changes
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.changes import Change, differences
from manor.drivers.api import Driver
from manor.drivers.errors import Code, invalid_argument, unsupported
from manor.drivers.rehearsal import rehearse
from manor.rpc.protocol.catalog import REMOTE, Procedure
from manor.rpc.protocol.own_records import Plan, PlanItem, Problem
from manor.service.client import Client
from manor.service.events import EventHub
from manor.service.jobs import Jobs
from manor.service.problem import problem_of

VERBS: Final = ("write", "save", "delete")
"""Permissions of procedures that change a domain's description."""
DEFINING: Final = ("domain_define_xml", "domain_define_xml_flags")
"""Those that do not name their domain apart from its description."""


class When(Enum):
    """When an item takes effect; the values go over the wire."""

    LIVE = "live"
    BOOT = "boot"
    OFF = "off"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class _State:
    """One domain at one moment. config, live: XML, None where there is none."""

    config: str | None = None
    live: str | None = None
    autostart: bool = False


async def plan(client: Client, number: int, payload: bytes) -> Plan:
    """What a call of libvirt's procedure `number` would do. payload: its arguments, as on the wire.

    Raises ApiError if it is no change of a domain, or cannot be told for this driver.
    """
    procedure, arguments = _call_of(number, payload)
    try:
        before, after = await _rehearse(client, procedure, arguments, is_off=False)
    except ManorError as error:
        if isinstance(error, ApiError) and error.code == Code.NO_DOMAIN:
            raise
        problem = problem_of(error)
        return Plan(await _if_it_were_off(client, procedure, arguments, problem), "", "", problem)
    items = _items(before, after)
    return Plan(items, _diff(before.config, after.config), _diff(before.live, after.live), None)


def _call_of(number: int, payload: bytes) -> tuple[Procedure, Any]:
    procedure = REMOTE.by_number.get(number)
    if procedure is None:
        raise invalid_argument(f"libvirt's program has no procedure {number}")
    permissions = [each for each in procedure.permissions if each.condition is None]
    is_change = any(each.object == "domain" and each.verb in VERBS for each in permissions)
    is_one = any(field.name == "domain" for field in procedure.arguments) or procedure.name in DEFINING
    if not is_change or not is_one or procedure.stream or procedure.files:
        raise invalid_argument(f"{procedure.name} does not change a domain's description; there is nothing to plan")
    return procedure, procedure.decode_arguments(payload)


async def _rehearse(client: Client, procedure: Procedure, arguments: Any, is_off: bool) -> tuple[_State, _State]:
    """(before, after). Raises what the call would."""
    from manor.service.dispatch import PROCEDURES

    work = PROCEDURES.get(procedure.name)
    if work is None:
        raise unsupported(procedure.name)
    real, meant = client.driver, _meant(arguments)
    trial = rehearse(real, meant, is_off)
    service = copy.copy(client.service)
    service.events = EventHub()
    service.jobs = Jobs(service.events)
    result = work(dataclasses.replace(client, opened=trial, service=service), arguments)
    if inspect.isawaitable(result):
        result = await result
    uuid: bytes = result.uuid if meant is None else meant
    return await _state(rehearse(real, uuid, is_off), uuid), await _state(trial, uuid)


def _meant(arguments: Any) -> bytes | None:
    """UUID of the domain that a call is about, None for a description without one."""
    if hasattr(arguments, "domain"):
        uuid: bytes = arguments.domain.uuid
        return uuid
    try:
        text = domain_xml.parse(arguments.xml).uuid
        return None if text is None else UUID(text).bytes
    except (ConfigError, ValueError):
        return None  # the call itself says what is wrong


async def _state(driver: Driver, uuid: bytes) -> _State:
    try:
        flags = await driver.domains.flags(uuid)
    except ApiError as error:
        if error.code == Code.NO_DOMAIN:
            return _State()
        raise
    return _State(
        await driver.domains.xml(uuid, True, True) if flags.persistent else None,
        await driver.domains.xml(uuid, False, True) if flags.active else None,
        flags.autostart,
    )


async def _if_it_were_off(
    client: Client, procedure: Procedure, arguments: Any, problem: Problem
) -> Sequence[PlanItem]:
    """The items of a refused change, if it would be accepted from a domain that does not run."""
    try:
        before, after = await _rehearse(client, procedure, arguments, is_off=True)
    except ManorError:
        return ()
    return [item._replace(when=When.OFF.value, why=problem.cause) for item in _items(before, after)]


def _items(before: _State, after: _State) -> list[PlanItem]:
    live = {(each.path, each.after): each for each in _changes(before.live, after.live)}
    config = _changes(before.config, after.config)
    later = "" if before.live is None else "the domain runs; it goes on as it is until it is started again"
    items = [
        PlanItem(each.path, each.before, each.after, When.BOOT.value, later)
        for each in config
        if (each.path, each.after) not in live
    ]
    kept = {(each.path, each.after) for each in config}
    for key, each in live.items():
        why = "" if key in kept or before.config is None else "until it stops: the definition stays as it is"
        items.append(PlanItem(each.path, each.before, each.after, When.LIVE.value, why))
    if before.autostart != after.autostart:
        was, is_now = ("yes" if each.autostart else "no" for each in (before, after))
        items.append(PlanItem("autostart", was, is_now, When.BOOT.value, "of the host"))
    return sorted(items, key=lambda item: item.path)


def _changes(before: str | None, after: str | None) -> Sequence[Change]:
    if before == after:
        return ()
    if before is None or after is None:
        old, new = (None if each is None else domain_xml.parse(each).name for each in (before, after))
        return (Change("domain", old, new, changes.When.NEXT_BOOT),)
    return differences(domain_xml.parse(before), domain_xml.parse(after))


def _diff(before: str | None, after: str | None) -> str:
    old, new = ((each or "").splitlines(True) for each in (before, after))
    return "".join(difflib.unified_diff(old, new, "before", "after"))
