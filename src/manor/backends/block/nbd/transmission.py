"""The client's side after the negotiation, without a socket: requests out, replies in, several at once.

Source: "The NBD protocol" (proto.md), "Transmission", "Structured replies".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from manor.backends.block.api import Buffers
from manor.backends.block.buffers import cut, zero_fill
from manor.backends.block.nbd.handshake import Export
from manor.backends.block.nbd.incoming import Incoming, Parser
from manor.backends.block.nbd.wire import (
    CHUNK_DONE,
    CHUNK_IS_ERROR,
    ERROR,
    HOLE,
    MAX_OPTION,
    MAX_PAYLOAD,
    OFFSET,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STATUS,
    STRUCTURED_REPLY,
    STRUCTURED_REPLY_MAGIC,
    WORD,
    Chunk,
    Command,
    CommandFlag,
    Error,
)
from manor.base.errors import ProtocolError

NO_FLAGS: Final = CommandFlag(0)


@dataclass(slots=True, eq=False)
class Call:
    """One request. buffers: to fill by READ, to send by WRITE. After `is_done`: error, 0 or a number of `Error`;
    status: (size, flags) of the ranges that BLOCK_STATUS told of, from `offset` on."""

    command: Command
    offset: int
    size: int
    buffers: Buffers = ()
    flags: CommandFlag = NO_FLAGS
    is_done: bool = False
    error: int = 0
    message: str = ""
    status: list[tuple[int, int]] = field(default_factory=list)
    received: int = 0


class Transmission:
    """Requests and replies of one connection. Not thread-safe: `begin` and `receive` are called one at a time."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._calls: dict[int, Call] = {}
        self._next_cookie = 1
        self.completed: list[Call] = []
        """Calls that were answered and that nobody has taken out of this list yet."""
        self.incoming = Incoming(self._replies())

    @property
    def pending(self) -> Sequence[Call]:
        """Calls without their whole answer."""
        return tuple(self._calls.values())

    def begin(self, call: Call) -> bytes:
        """What to send for `call`, before its buffers if it is a WRITE."""
        cookie = self._next_cookie
        self._next_cookie += 1
        self._calls[cookie] = call
        return REQUEST.pack(REQUEST_MAGIC, call.flags, call.command, cookie, call.offset, call.size)

    def receive(self, data: bytes | memoryview) -> None:
        """The next bytes of the server. Raises ProtocolError: then the connection is of no more use."""
        self.incoming.receive(data)

    def _replies(self) -> Parser:
        while True:
            start = yield WORD.size
            (magic,) = WORD.unpack(start)
            if magic == SIMPLE_REPLY_MAGIC:
                yield from self._simple(start)
            elif magic == STRUCTURED_REPLY_MAGIC and self._export.structured:
                yield from self._structured(start)
            else:
                raise ProtocolError(f"a reply of the server begins with {magic:#x}, which is none of NBD's marks")

    def _simple(self, start: bytes) -> Parser:
        _, error, cookie = SIMPLE_REPLY.unpack(start + (yield SIMPLE_REPLY.size - WORD.size))
        call = self._call(cookie)
        if call.received or call.status or (self._export.structured and call.command is Command.READ and not error):
            raise ProtocolError("the server gave a simple reply where it had agreed on a structured one")
        call.error = error
        if call.command is Command.READ and not error:
            yield call.buffers
            call.received = call.size
        self._complete(cookie)

    def _structured(self, start: bytes) -> Parser:
        _, flags, kind, cookie, size = STRUCTURED_REPLY.unpack(start + (yield STRUCTURED_REPLY.size - WORD.size))
        call = self._call(cookie)
        if kind == Chunk.OFFSET_DATA:
            yield from self._data(call, size)
        elif kind == Chunk.OFFSET_HOLE:
            if size != HOLE.size:
                raise ProtocolError(f"the server's hole has {size} bytes of description")
            offset, count = HOLE.unpack((yield size))
            zero_fill(self._part(call, offset, count))
        elif kind == Chunk.BLOCK_STATUS:
            yield from self._block_status(call, size)
        elif kind & CHUNK_IS_ERROR:
            if not ERROR.size <= size <= MAX_OPTION:
                raise ProtocolError(f"the server described an error in {size} bytes")
            data = yield size
            number, length = ERROR.unpack_from(data)
            call.error = call.error or number or Error.EIO
            call.message = data[ERROR.size : ERROR.size + length][:200].decode("utf-8", "replace")
        elif kind != Chunk.NONE or size:
            raise ProtocolError(f"the server sent a chunk of type {kind}, which is not known")
        if flags & CHUNK_DONE:
            self._complete(cookie)

    def _data(self, call: Call, size: int) -> Parser:
        if not OFFSET.size < size <= MAX_PAYLOAD + OFFSET.size:
            raise ProtocolError(f"the server sent a chunk of {size} bytes")
        (offset,) = OFFSET.unpack((yield OFFSET.size))
        yield self._part(call, offset, size - OFFSET.size)

    def _part(self, call: Call, offset: int, size: int) -> list[memoryview]:
        """The buffers of a part of a read that the server gives now."""
        start = offset - call.offset
        if call.command is not Command.READ or start < 0 or size == 0 or start + size > call.size:
            raise ProtocolError(f"the server sent {size} bytes at {offset:#x}, for which nobody had asked")
        call.received += size
        return list(cut(call.buffers, start, size))

    def _block_status(self, call: Call, size: int) -> Parser:
        if call.command is not Command.BLOCK_STATUS or size % STATUS.size != WORD.size or size > MAX_PAYLOAD:
            raise ProtocolError(f"the server sent a block status of {size} bytes, for which nobody had asked")
        data = yield size
        if WORD.unpack_from(data)[0] != self._export.allocation_context or size == WORD.size:
            raise ProtocolError("the server sent an empty block status, or one of an unknown context")
        call.status = list(STATUS.iter_unpack(data[WORD.size :]))

    def _call(self, cookie: int) -> Call:
        call = self._calls.get(cookie)
        if call is None:
            raise ProtocolError(f"the server answered request {cookie}, which it does not have")
        return call

    def _complete(self, cookie: int) -> None:
        call = self._calls.pop(cookie)
        if not call.error:
            if call.command is Command.READ and call.received != call.size:
                raise ProtocolError(f"the server sent {call.received} bytes of {call.size} and called that all")
            if call.command is Command.BLOCK_STATUS and not call.status:
                raise ProtocolError("the server answered a block status with nothing")
        call.is_done = True
        self.completed.append(call)
