"""Numbers and layouts of the NBD protocol that client and server share.

Source: "The NBD protocol" (proto.md of the NetworkBlockDevice project), sections "Newstyle negotiation",
"Transmission", "Structured reply types", "Metadata querying", "Values". All integers are big-endian.
"""

from __future__ import annotations

import errno
import struct
from enum import IntEnum, IntFlag
from typing import Final

PORT: Final = 10809
"""The port that IANA has assigned."""

NBDMAGIC: Final = 0x4E42444D41474943
IHAVEOPT: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

GREETING: Final = struct.Struct(">QQH")
"""NBDMAGIC, IHAVEOPT, handshake flags."""
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION: Final = struct.Struct(">QII")
"""IHAVEOPT, option, length of its data."""
OPTION_REPLY: Final = struct.Struct(">QIII")
"""magic, option, type, length of its data."""
EXPORT: Final = struct.Struct(">QH")
"""size, transmission flags: the answer to EXPORT_NAME, and NBD_INFO_EXPORT after its type."""
ZEROES_AFTER_EXPORT: Final = 124
BLOCK_SIZES: Final = struct.Struct(">III")
"""minimum, preferred, maximum."""
REQUEST: Final = struct.Struct(">IHHQQI")
"""magic, flags, command, cookie, offset, length."""
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
"""magic, error, cookie."""
STRUCTURED_REPLY: Final = struct.Struct(">IHHQI")
"""magic, flags, type, cookie, length."""
WORD: Final = struct.Struct(">I")
SHORT: Final = struct.Struct(">H")
OFFSET: Final = struct.Struct(">Q")
HOLE: Final = struct.Struct(">QI")
"""offset, size."""
ERROR: Final = struct.Struct(">IH")
"""error, length of the message."""
STATUS: Final = struct.Struct(">II")
"""size, flags of one range of a block status."""

MAX_STRING: Final = 4096
"""Of an export's name or a context's ("Strings")."""
MAX_PAYLOAD: Final = 32 << 20
"""The largest read or write that every peer takes ("Block size constraints")."""
MAX_OPTION: Final = 64 << 10
"""Data of one option or reply: ours and those of all known peers are far smaller."""

BASE_ALLOCATION: Final = "base:allocation"


class HandshakeFlag(IntFlag):
    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(IntEnum):
    """Types of replies to options."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 1 << 31 | 1
    ERR_POLICY = 1 << 31 | 2
    ERR_INVALID = 1 << 31 | 3
    ERR_PLATFORM = 1 << 31 | 4
    ERR_TLS_REQD = 1 << 31 | 5
    ERR_UNKNOWN = 1 << 31 | 6
    ERR_SHUTDOWN = 1 << 31 | 7
    ERR_BLOCK_SIZE_REQD = 1 << 31 | 8
    ERR_TOO_BIG = 1 << 31 | 9


REPLY_IS_ERROR: Final = 1 << 31


class Info(IntEnum):
    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Flag(IntFlag):
    """Transmission flags: what an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


class Chunk(IntEnum):
    """Types of structured replies."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 1 << 15 | 1
    ERROR_OFFSET = 1 << 15 | 2


CHUNK_DONE: Final = 1 << 0
CHUNK_IS_ERROR: Final = 1 << 15

STATE_HOLE: Final = 1 << 0
STATE_ZERO: Final = 1 << 1
"""Flags of base:allocation."""


class Error(IntEnum):
    """What a request may fail with ("Error values"): numbers of the protocol, the same as Linux's."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


def error_text(number: int) -> str:
    """What a peer's error means, for people."""
    return f"{errno.errorcode.get(number, number)}"
