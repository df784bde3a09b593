"""What all objects of a daemon have in common: a connection, and the record by which the daemon knows them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from manor.client.connection import Connection

T = TypeVar("T", bound=tuple[Any, ...])


class Handle(Generic[T]):
    """An object of a daemon. It stays valid while the object has its name; the daemon is asked anew each time."""

    __slots__ = ("connection", "record")

    def __init__(self, connection: Connection, record: T) -> None:
        self.connection = connection
        self.record = record

    async def _call(self, procedure: str, *arguments: Any) -> Any:
        return await self.connection.call(procedure, self.record, *arguments)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'name', self.record)}>"

    @property
    def _key(self) -> Any:
        return self.record


class UuidHandle(Handle[T]):
    """An object with a name and a UUID; it is the same if the UUID is."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name at the time it was looked up."""
        name: str = self.record.name  # type: ignore[attr-defined]
        return name

    @property
    def uuid(self) -> uuid.UUID:
        """The UUID."""
        return uuid.UUID(bytes=self.record.uuid)  # type: ignore[attr-defined]

    @property
    def _key(self) -> Any:
        return self.record.uuid  # type: ignore[attr-defined]
