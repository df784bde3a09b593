"""A disk on an NBD server as a `BlockBackend`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Final, Literal

from manor.backends.block.api import BlockError, Buffers, Extent
from manor.backends.block.buffers import Cursor, join, total, zeros
from manor.backends.block.nbd.connection import ConnectionLost, NbdConnection, open_connection
from manor.backends.block.nbd.handshake import Export
from manor.backends.block.nbd.transmission import Call
from manor.backends.block.nbd.uri import NbdAddress
from manor.backends.block.nbd.wire import STATE_HOLE, STATE_ZERO, Command, CommandFlag, Error, Flag, error_text
from manor.base.errors import ManorError

RECONNECT_SECONDS: Final = 10.0
"""How long to try to reach a server that went away, before requests fail."""
_RETRY_SECONDS: Final = 0.25
MAX_TRIES: Final = 3
"""Connections that one request may be sent on: a request that makes the server die is not sent for ever."""

MAX_RANGE: Final = 1 << 30
"""Of a request that moves no data. The protocol's field has 32 bits."""
_FULL_PIECES: Final = 512
"""Buffers that go out with one request: sendmsg takes 1024 pieces, one of which is the header."""

Reason = Literal["io", "no-space", "read-only", "unsupported"]
_REASONS: Final[dict[int, Reason]] = {
    Error.ENOSPC: "no-space", Error.EPERM: "read-only", Error.ENOTSUP: "unsupported",
}  # fmt: skip


class NbdImage:
    """An export. When the connection breaks it connects anew and repeats what was not answered: doing a request
    twice does the same as doing it once.

    Except if writes were answered and not flushed: only the lost server knew whether they are on its medium, and a
    flush on a new connection would promise what nobody can know. Then every later call fails, and says so.
    """

    def __init__(self, address: NbdAddress, *, read_only: bool) -> None:
        """Connect. Raises HostError, ProtocolError, ConfigError."""
        self._address = address
        self.name = address.text
        self._lock = threading.Lock()
        self._connection: NbdConnection | None = open_connection(address)
        self._final: str | None = None
        self._has_given_up = False
        self._partial = threading.Lock()
        self._export: Export = self._connection.export
        self.size = self._export.size
        self.is_read_only = read_only or Flag.READ_ONLY in self._export.flags

    @property
    def cluster_size(self) -> int:
        """The unit of I/O that the server prefers."""
        return self._export.preferred_block

    def read(self, offset: int, buffers: Buffers) -> None:
        wanted = total(buffers)
        block = self._export.minimum_block
        if (offset | wanted) & (block - 1):
            self._read_unaligned(offset, wanted, buffers)
            return
        step = self._export.maximum_payload
        cursor = Cursor(buffers)
        for start in range(offset, offset + wanted, step):
            count = min(step, offset + wanted - start)
            self._perform(Call(Command.READ, start, count, cursor.take(count)))

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        """Never: the server is elsewhere."""
        return False

    def write(self, offset: int, buffers: Buffers) -> None:
        self._check_writable()
        wanted = total(buffers)
        block = self._export.minimum_block
        if (offset | wanted) & (block - 1):
            self._write_unaligned(offset, join(buffers))
            return
        step = self._export.maximum_payload
        cursor = Cursor(buffers)
        for start in range(offset, offset + wanted, step):
            count = min(step, offset + wanted - start)
            pieces = cursor.take(count)
            if len(pieces) > _FULL_PIECES:
                pieces = [memoryview(join(pieces))]
            self._perform(Call(Command.WRITE, start, count, pieces))

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        self._check_writable()
        block = self._export.minimum_block
        start = min(-(-offset // block) * block, offset + size)
        end = max((offset + size) // block * block, start)
        if Flag.SEND_WRITE_ZEROES not in self._export.flags:
            start = end = offset
        for edge, count in ((offset, start - offset), (end, offset + size - end)):
            for at in range(edge, edge + count, self._export.maximum_payload):
                self.write(at, zeros(min(self._export.maximum_payload, edge + count - at)))
        flags = CommandFlag(0) if may_unmap else CommandFlag.NO_HOLE
        for at in range(start, end, MAX_RANGE):
            self._perform(Call(Command.WRITE_ZEROES, at, min(MAX_RANGE, end - at), flags=flags))

    def discard(self, offset: int, size: int) -> None:
        self._check_writable()
        if Flag.SEND_TRIM not in self._export.flags:
            return
        block = self._export.minimum_block
        start = -(-offset // block) * block
        end = (offset + size) // block * block
        for at in range(start, end, MAX_RANGE):
            self._perform(Call(Command.TRIM, at, min(MAX_RANGE, end - at)))

    def flush(self) -> None:
        if Flag.SEND_FLUSH in self._export.flags and not self.is_read_only:
            self._perform(Call(Command.FLUSH, 0, 0))

    def resize(self, size: int) -> None:
        raise BlockError(f"{self.name}: the size of an export is its server's to change", "unsupported")

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        end = offset + size
        if self._export.allocation_context is None:
            if size:
                yield Extent(offset, size, "data")
            return
        block = self._export.minimum_block
        while offset < end:
            asked = offset // block * block
            call = Call(Command.BLOCK_STATUS, asked, min(MAX_RANGE, -(-(end - asked) // block) * block))
            self._perform(call)
            for count, flags in call.status:
                stop = min(asked + count, end)
                if stop > offset:
                    # A hole that does not read as zeros has no name here; it is data to whoever copies.
                    kind: Literal["data", "zero", "hole"] = "data"
                    if flags & STATE_ZERO:
                        kind = "hole" if flags & STATE_HOLE else "zero"
                    yield Extent(offset, stop - offset, kind)
                    offset = stop
                asked += count
            if asked <= call.offset:
                raise BlockError(f"{self.name}: the server tells nothing of what is at {call.offset:#x}")

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            has_failed = self._final is not None
            self._final = self._final or "it was closed"
        if connection is None:
            return
        try:
            if connection.has_unflushed and not has_failed and Flag.SEND_FLUSH in self._export.flags:
                call = Call(Command.FLUSH, 0, 0)
                try:
                    connection.perform(call)
                except ConnectionLost as error:
                    raise BlockError(f"{self.name}: what was written last may be lost: {error}") from error
                self._check_error(call)
        finally:
            connection.close()

    def _read_unaligned(self, offset: int, size: int, buffers: Buffers) -> None:
        block = self._export.minimum_block
        start = offset // block * block
        whole = memoryview(bytearray(-(-(offset + size) // block) * block - start))
        self.read(start, [whole])
        cursor = Cursor([whole[offset - start :]])
        for piece in buffers:
            for part in cursor.take(piece.nbytes):
                piece[:] = part

    def _write_unaligned(self, offset: int, data: bytes) -> None:
        """Blocks of which a part is written are read first; such writes exclude each other."""
        block = self._export.minimum_block
        start = offset // block * block
        end = -(-(offset + len(data)) // block) * block
        whole = bytearray(end - start)
        with self._partial, memoryview(whole) as view:
            self.read(start, [view[:block]])
            if end - start > block:
                self.read(end - block, [view[-block:]])
            view[offset - start : offset - start + len(data)] = data
            self.write(start, [view])

    def _check_writable(self) -> None:
        if self.is_read_only:
            raise BlockError(f"{self.name}: the export is read-only", "read-only")

    def _perform(self, call: Call) -> None:
        lost: ConnectionLost | None = None
        for _ in range(MAX_TRIES):
            connection = self._connected()
            try:
                connection.perform(call)
            except ConnectionLost as error:
                self._drop(connection, error)
                lost = error
                call = Call(call.command, call.offset, call.size, call.buffers, call.flags)
                continue
            self._check_error(call)
            return
        raise BlockError(f"{self.name}: the server went away {MAX_TRIES} times during one request ({lost})")

    def _check_error(self, call: Call) -> None:
        if call.error:
            where = f" at {call.offset:#x}" if call.command is not Command.FLUSH else ""
            more = f": {call.message}" if call.message else ""
            text = f"{self.name}: {call.command.name.lower()}{where} failed with {error_text(call.error)}{more}"
            raise BlockError(text, _REASONS.get(call.error, "io"))

    def _connected(self) -> NbdConnection:
        """The connection, made anew if need be. Raises BlockError."""
        with self._lock:
            if self._final is not None:
                raise BlockError(f"{self.name}: {self._final}")
            if self._connection is None:
                self._connection = self._reconnect()
            return self._connection

    def _drop(self, connection: NbdConnection, error: ConnectionLost) -> None:
        with self._lock:
            if self._connection is not connection:
                return
            self._connection = None
            if connection.has_unflushed and not self.is_read_only:
                self._final = (
                    f"the connection broke ({error}) and with it the certainty that what was written since the last"
                    " flush is on the server's disk; restart with the server up and check the guest's file systems"
                )
        connection.close()

    def _reconnect(self) -> NbdConnection:
        # Once a server was waited for in vain, later requests try once: a guest's requests must not queue for ever.
        deadline = time.monotonic() + (0 if self._has_given_up else RECONNECT_SECONDS)
        while True:
            try:
                connection = open_connection(self._address)
            except ManorError as error:
                if time.monotonic() >= deadline:
                    self._has_given_up = True
                    raise BlockError(f"{self.name}: the server went away and does not come back: {error}") from error
                time.sleep(_RETRY_SECONDS)
                continue
            export = connection.export
            if (export.size, export.flags, export.minimum_block) != (
                self._export.size, self._export.flags, self._export.minimum_block,
            ):  # fmt: skip
                connection.close()
                self._final = "after the connection broke the server offered another disk: size or abilities differ"
                raise BlockError(f"{self.name}: {self._final}")
            self._export = export
            self._has_given_up = False
            return connection
