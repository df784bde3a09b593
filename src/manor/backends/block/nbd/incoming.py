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
        """Where the next bytes may be received without a copy, or None. After it, `filled`."""
        return self._fill[0] if self._fill and not self._buffer else None

    def filled(self, count: int) -> None:
        """`count` bytes have been put into `room`."""
        self._take_room(count)
        if not self._fill:
            self._send(b"")
        self._go_on()

    def receive(self, data: bytes | memoryview) -> None:
        """The next bytes of the stream. Raises ProtocolError, and the connection is then of no more use."""
        self._buffer += data
        self._go_on()

    def _go_on(self) -> None:
        position = 0
        try:
            while not self.is_done:
                if self._fill:
                    count = min(len(self._buffer) - position, self._fill[0].nbytes)
                    if count == 0:
                        break
                    self._fill[0][:count] = self._buffer[position : position + count]
                    position += count
                    self._take_room(count)
                    if not self._fill:
                        self._send(b"")
                elif len(self._buffer) - position >= self._want:
                    data = bytes(self._buffer[position : position + self._want])
                    position += self._want
                    self._send(data)
                else:
                    break
        finally:
            del self._buffer[:position]

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
