"""TCP segments on the wire: options read, frames written. Source: RFC 9293, 3.1 and 3.2; RFC 7323; RFC 2018."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from manor.backends.net.api import Frame, Offloads, Segmentation
from manor.backends.net.user import ethernet, ip
from manor.backends.net.user.checksum import checksum, ones_sum

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

M32: Final = 0xFFFFFFFF
HEADER: Final = 20
DEFAULT_MSS4: Final = 536  # RFC 9293, 3.7.1
DEFAULT_MSS6: Final = 1220
MAX_SCALE: Final = 14  # RFC 7323, 2.3
MAX_PAYLOAD: Final = 65535 - 60 - 60
"""What a frame that stands for several may hold, with every header at its largest."""
MAX_SACKS: Final = 4

_HEAD4: Final = struct.Struct(">16sH6sH12sIIHHHH")
_HEAD6: Final = struct.Struct(">18sH38sIIHHHH")
_NEW: Final = tuple.__new__


@dataclass(frozen=True, slots=True)
class Options:
    """What the options of a segment say. scale: -1 without. sacks: pairs of sequence numbers, as on the wire."""

    mss: int = 0
    scale: int = -1
    sack_permitted: bool = False
    sacks: tuple[tuple[int, int], ...] = ()


NO_OPTIONS: Final = Options()


def parse_options(data: bytes, start: int, end: int) -> Options:
    """The options in data[start:end]. Unknown ones are skipped, broken ones end the list: nothing is refused."""
    mss, scale, permitted = 0, -1, False
    sacks: tuple[tuple[int, int], ...] = ()
    while start < end:
        kind = data[start]
        if kind == 0:
            break
        if kind == 1:
            start += 1
            continue
        if start + 1 >= end:
            break
        size = data[start + 1]
        if size < 2 or start + size > end:
            break
        if kind == 2 and size == 4:
            mss = int.from_bytes(data[start + 2 : start + 4], "big")
        elif kind == 3 and size == 3:
            scale = min(data[start + 2], MAX_SCALE)
        elif kind == 4 and size == 2:
            permitted = True
        elif kind == 5 and size % 8 == 2:
            words = struct.unpack_from(f">{(size - 2) // 4}I", data, start + 2)
            sacks = tuple(zip(words[::2], words[1::2], strict=True))[:MAX_SACKS]
        start += size
    return Options(mss, scale, permitted, sacks)


def syn_options(mss: int, scale: int, sack: bool) -> bytes:
    """The options of our SYN. scale: -1 for none."""
    options = struct.pack(">BBH", 2, 4, mss)
    if sack:
        options += b"\x01\x01\x04\x02"
    if scale >= 0:
        options += bytes((1, 3, 3, scale))
    return options


def sack_option(blocks: list[tuple[int, int]]) -> bytes:
    """A SACK option of up to three blocks, padded to words."""
    words = [word & M32 for block in blocks[:3] for word in block]
    return b"\x01\x01" + struct.pack(f">BB{len(words)}I", 5, 2 + 4 * len(words), *words)


class Path:
    """Writes the frames of one connection towards the guest.

    Everything that stays the same is put together once: the bytes around the changing fields, and their sums.
    """

    __slots__ = ("_after", "_before", "_ip_sum", "_is_v4", "_pseudo", "_start", "mac")

    def __init__(self, mac: bytes, own_mac: bytes, source: bytes, destination: bytes, ports: bytes) -> None:
        """source, ports: ours, that is the other end's as the guest sees it; ports: both, as in the header."""
        self.mac = mac
        self._is_v4 = len(source) == 4
        self._pseudo = ones_sum(source) + ones_sum(destination) + ip.TCP
        if self._is_v4:
            self._before = mac + own_mac + ethernet.IPV4 + b"\x45\x00"
            # Identification 0: a packet that is never fragmented needs none (RFC 6864, 4.1).
            self._after = b"\x00\x00\x40\x00" + bytes((ip.TTL, ip.TCP))
            self._start = source + destination + ports
            self._ip_sum = 0x4500 + ones_sum(self._after) + ones_sum(source + destination)
        else:
            self._before = mac + own_mac + ethernet.IPV6 + b"\x60\x00\x00\x00"
            self._after = bytes((ip.TCP, ip.TTL)) + source + destination + ports
            self._start = b""
            self._ip_sum = 0

    def frames(
        self,
        out: list[Frame],
        offloads: Offloads,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        payload: bytes | memoryview = b"",
        mss: int = 0,
        options: bytes = b"",
    ) -> None:
        """Append one segment to `out`, whole for the guest to cut, or cut to `mss` where it does not take that.

        seq, ack: any integers; they wrap here. FIN and PSH go on the last of several.
        """
        size = len(payload)
        if size > mss and not (offloads.tcpv4 if self._is_v4 else offloads.tcpv6):
            last = size - (size % mss or mss)
            view = memoryview(payload)
            for offset in range(0, last, mss):
                self._frame(
                    out,
                    offloads,
                    seq + offset,
                    ack,
                    flags & ~(FIN | PSH),
                    window,
                    view[offset : offset + mss],
                    0,
                    options,
                )
            self._frame(out, offloads, seq + last, ack, flags, window, view[last:], 0, options)
        else:
            self._frame(out, offloads, seq, ack, flags, window, payload, mss if size > mss else 0, options)

    def _frame(
        self,
        out: list[Frame],
        offloads: Offloads,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        payload: bytes | memoryview,
        segment: int,
        options: bytes,
    ) -> None:
        size = HEADER + len(options) + len(payload)
        offset_flags = (HEADER + len(options)) << 10 | flags
        pseudo = (self._pseudo + size) % 0xFFFF  # never 0 in one's complement: the protocol is in it
        if offloads.checksum:
            field = pseudo or 0xFFFF
        else:
            field = 0
        if self._is_v4:
            total = ip.HEADER4 + size
            ip_checksum = 0xFFFF - ((self._ip_sum + total) % 0xFFFF or 0xFFFF)
            head = _HEAD4.pack(
                self._before,
                total,
                self._after,
                ip_checksum,
                self._start,
                seq & M32,
                ack & M32,
                offset_flags,
                window,
                field,
                0,
            )
            start = ethernet.HEADER + ip.HEADER4
        else:
            head = _HEAD6.pack(self._before, size, self._after, seq & M32, ack & M32, offset_flags, window, field, 0)
            start = ethernet.HEADER + ip.HEADER6
        data = b"".join((head, options, payload))
        if offloads.checksum:
            kind = Segmentation.NONE
            if segment:
                kind = Segmentation.TCPV4 if self._is_v4 else Segmentation.TCPV6
            out.append(_NEW(Frame, (data, start, 16, False, kind, segment)))
        else:
            field = checksum(memoryview(data)[start:], pseudo)
            data = b"".join((data[: start + 16], field.to_bytes(2, "big"), memoryview(data)[start + 18 :]))
            out.append(Frame(data))
