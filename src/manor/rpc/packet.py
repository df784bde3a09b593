"""Packets: a header of seven words, a payload, and file descriptors that follow as bytes of their own.

    size program version procedure kind serial status payload

`size` counts itself. A packet with file descriptors has their count before its payload; then each descriptor follows as
the ancillary data of one byte that belongs to no packet, in a message of its own: bytes sent together with one would
be taken for it. Source: libvirt, "Details of the libvirt RPC protocol" (https://libvirt.org/kbase/internals/rpc.html).
"""

from __future__ import annotations

import enum
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from manor.base.errors import ProtocolError
from manor.rpc.xdr import EncodeError

HEADER = struct.Struct(">IIIiiIi")
HEADER_SIZE = HEADER.size
SMALL_MAX = 4 * 1024 * 1024 + 64 * 1024
"""The longest packet a server takes: the longest string and what stands beside it."""

LARGE_MAX = 32 * 1024 * 1024 + HEADER_SIZE
"""The longest packet a client takes. Source: libvirt 9.0 refuses longer ones."""

FILES_MAX = 32
"""File descriptors with one packet. Source: libvirt 9.0 refuses more."""

_COUNT = struct.Struct(">I")


class Kind(enum.IntEnum):
    """What a packet is. Source: the document above, "Message types"."""

    CALL = 0
    REPLY = 1
    MESSAGE = 2
    STREAM = 3
    CALL_WITH_FILES = 4
    REPLY_WITH_FILES = 5
    STREAM_HOLE = 6


class Status(enum.IntEnum):
    """How a reply or a stream stands."""

    OK = 0
    ERROR = 1
    CONTINUE = 2


class Packet(NamedTuple):
    """A packet. files: descriptors, owned by whoever holds the packet."""

    program: int
    version: int
    procedure: int
    kind: int
    serial: int
    status: int
    payload: bytes | bytearray = b""
    files: tuple[int, ...] = ()


class Outgoing(NamedTuple):
    """Bytes to send, then each of `files` with a byte of its own in a message of its own; then they are closed."""

    data: bytes
    files: tuple[int, ...] = ()


def encode_packet(packet: Packet, limit: int = LARGE_MAX) -> Outgoing:
    """Raises EncodeError for a packet the other end would refuse for its size."""
    program, version, procedure, kind, serial, status, payload, files = packet
    count = _COUNT.pack(len(files)) if kind in (Kind.CALL_WITH_FILES, Kind.REPLY_WITH_FILES) else b""
    size = HEADER_SIZE + len(count) + len(payload)
    if size > limit:
        raise EncodeError(f"a packet of {size} bytes, where the protocol allows {limit}")
    if len(files) > FILES_MAX:
        raise EncodeError(f"{len(files)} file descriptors, where the protocol allows {FILES_MAX}")
    header = HEADER.pack(size, program, version, procedure, kind, serial, status)
    return Outgoing(b"".join((header, count, payload)), files)


class PacketReader:
    """Bytes and file descriptors as they arrive -> packets. Holds at most one packet beyond what it was given."""

    def __init__(self, limit: int = SMALL_MAX) -> None:
        """limit: of a packet, in bytes."""
        self._limit = limit
        self._buffer = bytearray()
        self._files: deque[int] = deque()
        self._waiting: Packet | None = None
        self._missing = 0

    def receive(self, data: bytes, files: Iterable[int] = ()) -> Iterator[Packet]:
        """The packets that are complete now. Raises ProtocolError: nothing after it can be understood.

        files: descriptors that came with `data`, which become the reader's, or the packet's they are yielded with.
        """
        self._files.extend(files)
        self._buffer += data
        buffer = self._buffer
        at = 0
        try:
            while True:
                if self._waiting is not None:
                    skipped = min(self._missing, len(buffer) - at)
                    at += skipped
                    self._missing -= skipped
                    if self._missing:
                        return
                    packet, self._waiting = self._waiting, None
                    yield packet._replace(files=self._take(packet.files[0]))
                    continue
                if len(buffer) - at < 4:
                    break
                size = int.from_bytes(buffer[at : at + 4], "big")
                if not HEADER_SIZE <= size <= self._limit:
                    raise ProtocolError(f"a packet of {size} bytes; allowed are {HEADER_SIZE} to {self._limit}")
                if len(buffer) - at < size:
                    break
                packet = self._packet(bytes(memoryview(buffer)[at : at + size]))
                at += size
                if self._waiting is None:
                    yield packet
        finally:
            del buffer[:at]
        if self._files:
            raise ProtocolError(f"{len(self._files)} file descriptors that no packet announced")

    def _packet(self, raw: bytes) -> Packet:
        _, program, version, procedure, kind, serial, status = HEADER.unpack_from(raw)
        if not 0 <= kind <= Kind.STREAM_HOLE or not 0 <= status <= Status.CONTINUE:
            raise ProtocolError(f"a packet of kind {kind} with status {status}")
        if kind not in (Kind.CALL_WITH_FILES, Kind.REPLY_WITH_FILES):
            return Packet(program, version, procedure, kind, serial, status, raw[HEADER_SIZE:])
        if len(raw) < HEADER_SIZE + 4:
            raise ProtocolError("a packet that should have file descriptors does not say how many")
        (count,) = _COUNT.unpack_from(raw, HEADER_SIZE)
        if count > FILES_MAX:
            raise ProtocolError(f"{count} file descriptors, where the protocol allows {FILES_MAX}")
        packet = Packet(program, version, procedure, kind, serial, status, raw[HEADER_SIZE + 4 :])
        if count:
            # Until they are here, `files` holds how many they are.
            self._waiting, self._missing = packet._replace(files=(count,)), count
        return packet

    def _take(self, count: int) -> tuple[int, ...]:
        if len(self._files) < count:
            raise ProtocolError(f"{count} file descriptors announced, {len(self._files)} sent")
        return tuple(self._files.popleft() for _ in range(count))

    def close(self) -> None:
        """Close descriptors that no packet was yielded with."""
        while self._files:
            os.close(self._files.popleft())
