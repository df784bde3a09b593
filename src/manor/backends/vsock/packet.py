"""Packets of virtio-vsock. Source: VIRTIO 1.2, section 5.10.6 "Device Operation"."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

HOST_CID: Final = 2
"""The host's context ID. 0, 1 and 2**32 - 1 are reserved (5.10.4)."""
TYPE_STREAM: Final = 1
HEADER_SIZE: Final = 44
MAX_PAYLOAD: Final = 64 << 10
"""Bytes of one packet; drivers send no more (Linux, VIRTIO_VSOCK_MAX_PKT_BUF_SIZE)."""

_HEADER: Final = struct.Struct("<QQIIIHHIII")


class Op(IntEnum):
    """Operations (5.10.6)."""

    INVALID = 0
    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Shutdown(IntFlag):
    """Flags of SHUTDOWN: the sender of the packet will receive, send no more (5.10.6.6)."""

    RECEIVE = 1
    SEND = 2


BOTH: Final = Shutdown.RECEIVE | Shutdown.SEND


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. op and type are numbers: a guest may send any. length: of the payload, as the header says it."""

    source_cid: int
    target_cid: int
    source_port: int
    target_port: int
    op: int
    type: int = TYPE_STREAM
    flags: int = 0
    buffer_size: int = 0
    forwarded: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """Header and payload."""
        return (
            _HEADER.pack(
                self.source_cid, self.target_cid, self.source_port, self.target_port, len(self.payload), self.type,
                self.op, self.flags, self.buffer_size, self.forwarded,
            )
            + self.payload
        )  # fmt: skip


def payload_size(header: bytes) -> int:
    """What a header of HEADER_SIZE bytes says that follows."""
    return int(_HEADER.unpack(header)[4])


def decode(header: bytes, payload: bytes) -> Packet:
    """A packet from its header of HEADER_SIZE bytes."""
    source_cid, target_cid, source_port, target_port, _, kind, op, flags, size, forwarded = _HEADER.unpack(header)
    return Packet(source_cid, target_cid, source_port, target_port, op, kind, flags, size, forwarded, payload)
