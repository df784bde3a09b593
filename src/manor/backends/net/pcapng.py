"""Files of captured frames, as Wireshark and tcpdump read them.

Source: draft-ietf-opsawg-pcapng-02, "PCAP Next Generation (pcapng) Capture File Format": 4.1 section header, 4.2
interface description, 4.3 enhanced packet, 3.5 options. Blocks are written in the host's byte order, as allowed.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError, HostError

INWARD: Final = 1
OUTWARD: Final = 2
"""Direction in the flags of a packet (4.3.1): as the interface sees it."""

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_BYTE_ORDER: Final = 0x1A2B3C4D
_LINKTYPE_ETHERNET: Final = 1
_OPT_APPLICATION: Final = 4
_IF_NAME: Final = 2
_IF_MAC: Final = 6
_IF_SPEED_RESOLUTION: Final = 9
_EPB_FLAGS: Final = 2
_NANOSECONDS: Final = b"\x09"
"""Time stamps in 10**-9 s."""

_HEAD: Final = struct.Struct("<IIIIIII")
_FLAGS: Final = struct.Struct("<HHIHHI")
"""The flags as an option, the end of options, and the block's length again."""
_LENGTHS: Final = struct.Struct("<II")


class PcapngWriter:
    """Appends a section to `path`; a file that is there already must be a capture too, and keeps what is in it."""

    def __init__(self, path: Path, interface: str, mac: bytes) -> None:
        """Raises ConfigError or HostError."""
        self.path = path
        self.frames = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise ConfigError("net", f"the capture {path} cannot be written: {error.strerror}") from error
        try:
            problem = _problem(self._fd)
            if problem:
                raise ConfigError("net", f"the capture {path} {problem}; give another name")
            application = _option(_OPT_APPLICATION, b"Manor")
            self._write(
                _block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + application + _option(0, b""))
                + _block(
                    _INTERFACE,
                    struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, 0)
                    + _option(_IF_NAME, interface.encode())
                    + _option(_IF_MAC, mac)
                    + _option(_IF_SPEED_RESOLUTION, _NANOSECONDS)
                    + _option(0, b""),
                )
            )
        except OSError as error:
            os.close(self._fd)
            raise HostError.from_os_error(f"write the capture {path}", error) from error
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, frames: Sequence[bytes], direction: int, wall_ns: int) -> None:
        """Append frames that passed at `wall_ns` (since 1970). Raises OSError; the file then ends with whole blocks."""
        pieces: list[bytes] = []
        high, low = wall_ns >> 32, wall_ns & 0xFFFF_FFFF
        for data in frames:
            size = len(data)
            padding = -size % 4
            total = _HEAD.size + size + padding + _FLAGS.size
            pieces += (
                _HEAD.pack(_PACKET, total, 0, high, low, size, size),
                data,
                bytes(padding),
                _FLAGS.pack(_EPB_FLAGS, 4, direction, 0, 0, total),
            )
        self._write(b"".join(pieces))
        self.frames += len(frames)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, data: bytes) -> None:
        """All of it or, if the disk is full, nothing."""
        start = os.lseek(self._fd, 0, os.SEEK_END)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, start)
            raise


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    total = 12 + len(body)
    return _LENGTHS.pack(kind, total) + body + struct.pack("<I", total)


def _problem(fd: int) -> str | None:
    """Why a section cannot be appended, if so: the file's first and last block are looked at."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        return "is not a file"
    if found.st_size == 0:
        return None
    first, order = struct.unpack("<I4xI", os.pread(fd, 12, 0).ljust(12, b"\0"))
    if first != _SECTION or order != _BYTE_ORDER:
        return "exists and is not a pcapng file"
    (size,) = struct.unpack("<I", os.pread(fd, 4, found.st_size - 4).ljust(4, b"\0"))
    if found.st_size % 4 or not 12 <= size <= found.st_size:
        return "ends in the middle of a block"
    _, again = _LENGTHS.unpack(os.pread(fd, 8, found.st_size - size))
    return None if again == size else "ends in the middle of a block"
