"""Who sits at a console: any number may watch, and either all of them write or one alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from manor.base.errors import ApiError
from manor.drivers.api import ByteStream
from manor.drivers.errors import Code, Origin

Place = tuple[bytes, str]
"""UUID of the domain, name of the device."""


class Mode(IntEnum):
    """How a client comes."""

    WATCH = 0
    WRITE = 1
    ALONE = 2
    TAKE_OVER = 3
    """As ALONE; who writes already only watches from then on."""


@dataclass(slots=True, eq=False)
class Seat:
    """One client at one console."""

    place: Place
    who: str
    may_write: bool
    is_alone: bool


class Consoles:
    """All seats of one daemon."""

    def __init__(self) -> None:
        self._seats: dict[Place, list[Seat]] = {}

    def take(self, place: Place, who: str, mode: Mode) -> Seat:
        """Sit down. Raises ApiError if somebody else is in the way."""
        seats = self._seats.setdefault(place, [])
        writers = [seat for seat in seats if seat.may_write]
        if mode is Mode.TAKE_OVER:
            for seat in writers:
                seat.may_write = seat.is_alone = False
        elif mode is not Mode.WATCH:
            blocking = writers if mode is Mode.ALONE else [seat for seat in writers if seat.is_alone]
            if blocking:
                raise ApiError(
                    Code.OPERATION_FAILED, Origin.DOMAIN,
                    f"operation failed: {blocking[0].who} writes to this console; watch it, or take it over",
                )  # fmt: skip
        seat = Seat(place, who, mode is not Mode.WATCH, mode in (Mode.ALONE, Mode.TAKE_OVER))
        seats.append(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        """Get up."""
        seats = self._seats.get(seat.place, [])
        if seat in seats:
            seats.remove(seat)
        if not seats:
            self._seats.pop(seat.place, None)


class Seated:
    """A console of which what is typed counts only while its client may write (ByteStream)."""

    def __init__(self, device: ByteStream, seat: Seat) -> None:
        self._device = device
        self._seat = seat

    async def read(self, size: int) -> bytes:
        return await self._device.read(size)

    async def write(self, data: bytes) -> None:
        if self._seat.may_write:
            await self._device.write(data)

    async def finish(self) -> None:
        await self._device.finish()

    def close(self) -> None:
        self._device.close()
