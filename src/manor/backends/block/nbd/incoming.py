"""Between a stream of bytes and a parser that wants them in pieces."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeVar

from manor.backends.block.api import Buffers
from manor.base.errors import ProtocolError

T = TypeVar("T")
ParserOf = Generator["int | Buffers", bytes, T]
Parser = ParserOf[None]
"""Yields how many bytes it wants next and is sent them; or yields buffers, goes on when they are full and gets b""."""

MIN_ROOM: Final = 32 << 10
"""Bytes of a piece that is worth a call of its own."""

CHUNK: Final = 256 << 10
"""Bytes to receive at once where the parser has not said where they belong."""


class Incoming:
    """Gives a parser its bytes. No thread, no socket: whoever has these calls one method at a time."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self._buffer = bytearray()
        self._fill: list[memoryview] = []
        self._want = 0
        self.is_done = False
        """The parser has come to its end and takes no more."""
        self._ask(next(parser))

    @property
    def is_between(self) -> bool:
        """Nothing is received that the parser has not had."""
        return not self._buffer and not self._fill

    def room(self) -> memoryview | None:
        """Where the next bytes may be received without a copy, or None. After it, `filled`.

        None for small pieces: one call that receives many of them and copies costs less than a call for each.
        """
        return self._fill[0] if self._fill and not self._buffer and self._fill[0].nbytes >= MIN_ROOM else None

    def filled(self, count: int) -> None:
        """`count` bytes have been put into `room`."""
        self._take_room(count)
        if not self._fill:
            self._send(b"")

    def receive(self, data: bytes | memoryview) -> None:
        """The next bytes of the stream. Raises ProtocolError, and the connection is then of no more use."""
        if self._buffer:
            self._buffer += data
            with memoryview(self._buffer) as view:
                position = self._parse(view)
            del self._buffer[:position]
        else:
            with memoryview(data) as view:
                position = self._parse(view)
                self._buffer += view[position:]

    def _parse(self, data: memoryview) -> int:
        """Give the parser what it wants of `data`; returns how much that was."""
        position = 0
        while not self.is_done:
            if self._fill:
                count = min(len(data) - position, self._fill[0].nbytes)
                if count == 0:
                    break
                self._fill[0][:count] = data[position : position + count]
                position += count
                self._take_room(count)
                if not self._fill:
                    self._send(b"")
            elif len(data) - position >= self._want:
                piece = bytes(data[position : position + self._want])
                position += self._want
                self._send(piece)
            else:
                break
        return position

    def _take_room(self, count: int) -> None:
        rest = self._fill[0][count:]
        if rest.nbytes:
            self._fill[0] = rest
        else:
            del self._fill[0]

    def _send(self, data: bytes) -> None:
        try:
            self._ask(self._parser.send(data))
        except StopIteration:
            self.is_done = True

    def _ask(self, wish: int | Buffers) -> None:
        while not isinstance(wish, int):
            self._fill = [piece.cast("B") for piece in wish if piece.nbytes]
            if self._fill:
                return
            wish = self._parser.send(b"")
        self._want = wish


def check_magic(found: int, expected: int, what: str) -> None:
    """Raise ProtocolError unless they are equal."""
    if found != expected:
        raise ProtocolError(f"{what} begins with {found:#x} where NBD has {expected:#x}")
