"""What networks and pools have in common: a description, whether they are active, kept, and started with the daemon."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ApiError
from manor.drivers.activity import Activity
from manor.drivers.api import ObjectFlags
from manor.drivers.errors import invalid, uuid_text
from manor.drivers.keeper import Keeper

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Described:
    """What a description says. place: a pool's path, a network's bridge."""

    name: str
    uuid: bytes
    xml: str
    place: str = ""


@dataclass(slots=True)
class Object:
    """One network or pool. place: as in Described."""

    name: str
    uuid: bytes
    xml: str
    place: str = ""
    is_active: bool = False
    is_persistent: bool = False
    autostart: bool = False
    was_active: bool = False
    """Whether an earlier daemon left it so, and it is not again yet."""

    def flags(self) -> ObjectFlags:
        return ObjectFlags(self.is_active, self.is_persistent, self.autostart)


@dataclass(frozen=True, slots=True)
class Manner:
    """How one kind differs. kind: of the store. word: in messages. read: XML to what it says, and completed.
    missing, exists: their errors."""

    kind: str
    word: str
    origin: int
    read: Callable[[str], Described]
    missing: Callable[[str], ApiError]
    exists: int
    changes_while_active: bool = False
    """Whether an active one may get another description: what uses it already goes on as it was."""


class ObjectTable:
    """All objects of one kind."""

    def __init__(self, manner: Manner, keeper: Keeper, activity: Activity) -> None:
        self.manner: Final = manner
        self._keeper = keeper
        self._activity = activity
        self._objects: dict[bytes, Object] = {}

    async def load(self) -> None:
        """What is kept, and what is active."""
        for stored in await self._keeper.load(self.manner.kind):
            try:
                said = self.manner.read(stored.xml)
            except ApiError as error:
                await self._keeper.set_aside(stored, str(error))
                continue
            if any(said.name == each.name or said.uuid == each.uuid for each in self):
                await self._keeper.set_aside(stored, "another has the same name or UUID")
                continue
            made = Object(said.name, said.uuid, said.xml, said.place, False, True, stored.autostart)
            self._objects[said.uuid] = made
        for uuid, xml in self._activity.of(self.manner.kind).items():
            found = self._objects.get(uuid)
            if found is None:
                try:
                    found = self.create(xml)
                except ApiError as error:
                    logger.warning("a %s that was active is left out: %s", self.manner.word, error)
                    continue
            found.was_active = True

    async def activate(self, found: Object) -> None:
        """It is active from now on."""
        found.is_active, found.was_active = True, False
        await self._activity.note(self.manner.kind, found.uuid, found.xml)

    async def deactivate(self, found: Object) -> None:
        """It is not active any more, and gone if it is not kept."""
        found.is_active = found.was_active = False
        self.drop(found)
        await self._activity.note(self.manner.kind, found.uuid, None)

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._objects.values()))

    def get(self, uuid: bytes) -> Object:
        """Raises ApiError."""
        found = self._objects.get(uuid)
        if found is None:
            raise self.manner.missing(f"with matching uuid '{uuid_text(uuid)}'")
        return found

    def named(self, name: str) -> Object:
        """Raises ApiError."""
        found = next((each for each in self._objects.values() if each.name == name), None)
        if found is None:
            raise self.manner.missing(f"with matching name '{name}'")
        return found

    async def define(self, text: str, who: str) -> tuple[Object, bool]:
        """(object, whether it is new)."""
        said = self.manner.read(text)
        self._check_unique(said.name, said.uuid)
        found = self._objects.get(said.uuid)
        if found is not None and found.is_active and not self.manner.changes_while_active:
            raise invalid(
                f"{self.manner.word} '{said.name}' is active; stop it before it is changed", self.manner.origin
            )
        await self._keeper.save(self.manner.kind, said.uuid, said.name, said.xml, who)
        if found is not None:
            found.xml, found.place, found.is_persistent = said.xml, said.place, True
            if found.is_active:
                await self._activity.note(self.manner.kind, found.uuid, found.xml)
            return found, False
        made = Object(said.name, said.uuid, said.xml, said.place, False, True)
        self._objects[said.uuid] = made
        return made, True

    async def edit(self, uuid: bytes, change: Callable[[str], str], who: str) -> Object:
        """Change a description in place; its name and UUID stay."""
        found = self.get(uuid)
        said = self.manner.read(change(found.xml))
        if (said.name, said.uuid) != (found.name, found.uuid):
            raise invalid(f"the name and UUID of {self.manner.word} '{found.name}' stay", self.manner.origin)
        if found.is_persistent:
            await self._keeper.save(self.manner.kind, uuid, said.name, said.xml, who)
        found.xml, found.place = said.xml, said.place
        if found.is_active:
            await self._activity.note(self.manner.kind, uuid, found.xml)
        return found

    def create(self, text: str) -> Object:
        """One that is gone when it stops."""
        said = self.manner.read(text)
        self._check_unique(said.name, said.uuid)
        found = self._objects.get(said.uuid)
        if found is None:
            found = Object(said.name, said.uuid, said.xml, said.place)
            self._objects[said.uuid] = found
        return found

    def drop(self, found: Object) -> None:
        """Forget one that is neither active nor kept."""
        if not found.is_active and not found.is_persistent:
            self._objects.pop(found.uuid, None)

    async def undefine(self, uuid: bytes, who: str) -> Object:
        """Keep it no longer."""
        found = self.get(uuid)
        if not found.is_persistent:
            raise invalid(f"{self.manner.word} '{found.name}' is transient; stop it", self.manner.origin)
        await self._keeper.remove(self.manner.kind, uuid, found.name, found.xml, who)
        found.is_persistent = found.autostart = False
        self.drop(found)
        return found

    async def set_autostart(self, uuid: bytes, on: bool) -> None:
        found = self.get(uuid)
        if not found.is_persistent:
            raise invalid(f"cannot set autostart for transient {self.manner.word}", self.manner.origin)
        await self._keeper.set_autostart(self.manner.kind, found.name, on)
        found.autostart = on

    def need(self, found: Object, is_active: bool) -> None:
        """Raise ApiError unless it is so."""
        if found.is_active != is_active:
            state = "not active" if is_active else "already active"
            raise invalid(f"{self.manner.word} '{found.name}' is {state}", self.manner.origin)

    def _check_unique(self, name: str, uuid: bytes) -> None:
        for each in self._objects.values():
            if (each.name == name) != (each.uuid == uuid):
                raise ApiError(
                    self.manner.exists,
                    self.manner.origin,
                    f"operation failed: {self.manner.word} '{each.name}' already exists with uuid "
                    f"{uuid_text(each.uuid)}",
                )
