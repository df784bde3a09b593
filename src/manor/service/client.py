"""A client as procedures see it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from manor.base.errors import ApiError
from manor.drivers.api import Driver
from manor.drivers.errors import Code, Origin, invalid, invalid_argument, not_running
from manor.drivers.remote import RemoteConnection
from manor.rpc.protocol.own_records import Problem
from manor.rpc.session import Session

if TYPE_CHECKING:
    from manor.service.service import Service


PROBLEMS: Final = 16
"""Errors of one client that it can ask about."""


@dataclass(slots=True)
class Client:
    """One connection. who: for the history. uri: as it was opened, "" before that.

    remote: the other daemon that answers instead of a driver. may_dial: whether this client may name any other daemon,
    because it could reach it without us as well.
    """

    service: Service
    session: Session
    who: str
    uri: str = ""
    opened: Driver | None = None
    remote: RemoteConnection | None = None
    may_dial: bool = False
    is_opening: bool = False
    wants_close_event: bool = False
    problems: deque[tuple[int, str, Problem]] = field(default_factory=lambda: deque(maxlen=PROBLEMS))
    """What its latest calls failed with: code, message, and all that is known of it."""

    def explain(self, code: int, message: str) -> Problem | None:
        """What is known of an error that this client was told of; None if it was not, or long ago."""
        return next(
            (each for known, text, each in reversed(self.problems) if (known, text) == (code, message)), None
        )

    @property
    def driver(self) -> Driver:
        """What it has opened. Raises ApiError before that."""
        if self.opened is None:
            raise ApiError(Code.INTERNAL_ERROR, Origin.REMOTE, "internal error: connection not open")
        return self.opened


def bits(flags: int, **names: int) -> dict[str, bool]:
    """Flags by name."""
    return {name: bool(flags & bit) for name, bit in names.items()}


def affected(flags: int, is_active: bool) -> tuple[bool, bool]:
    """(live, config) that a change affects. Source: libvirt API reference, virDomainModificationImpact."""
    live, config = bool(flags & 1), bool(flags & 2)
    if not live and not config:
        return is_active, not is_active
    return live, config


async def impact(client: Client, a: Any, flags: int | None = None) -> tuple[bool, bool]:
    """(live, config) that a change of `a.domain` affects. Raises ApiError for a description that there is not."""
    found = await client.driver.domains.flags(a.domain.uuid)
    live, config = affected(getattr(a, "flags", 0) if flags is None else flags, found.active)
    if live and not found.active:
        raise not_running()
    if config and not found.persistent:
        raise invalid("cannot modify the persistent config of a transient domain")
    return live, config


async def is_config(client: Client, a: Any, flags: int | None = None) -> bool:
    """Whether a question about `a.domain` is about its configuration, and not about what runs."""
    live, config = await impact(client, a, flags)
    if live and config:
        raise invalid_argument("ask about what runs or about the configuration, not about both")
    if live and not (await client.driver.domains.flags(a.domain.uuid)).active:
        raise not_running()
    return config


def matches(flags: int, *groups: tuple[tuple[int, bool], ...]) -> bool:
    """Whether an object passes a list's filter: of each group of (bit, property), no bit is set, or one that holds."""
    for group in groups:
        wanted = [holds for bit, holds in group if flags & bit]
        if wanted and not any(wanted):
            return False
    return True


def cut(names: list[Any], maximum: int) -> list[Any]:
    """At most as many as the client has room for."""
    return names[: max(0, maximum)]
