"""Ethernet frames for tests, with checksums computed the slow and obvious way."""

from __future__ import annotations

import struct
from typing import Final

MAC_A: Final = bytes.fromhex("020000000001")
MAC_B: Final = bytes.fromhex("020000000002")
_CHECKSUM_AT: Final = {6: 16, 17: 6, 58: 2}


def eth(target: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    return target + source + struct.pack(">H", ethertype) + payload


def sum_words(data: bytes) -> int:
    """One's complement sum of 16-bit words (RFC 1071)."""
    total = 0
    for high, low in zip(data[::2], (data + b"\0")[1::2], strict=False):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    return total


def address4(host: int) -> bytes:
    return bytes((192, 0, 2, host))


def address6(host: int) -> bytes:
    return bytes.fromhex("20010db8000000000000000000000000")[:15] + bytes([host])


def udp(source: int, target: int, payload: bytes) -> bytes:
    return struct.pack(">HHHH", source, target, 8 + len(payload), 0) + payload


def tcp(
    source: int, target: int, payload: bytes, sequence: int = 1000, flags: int = 0x18, options: bytes = b""
) -> bytes:
    return (
        struct.pack(">HHIIBBHHH", source, target, sequence, 1, (20 + len(options)) // 4 << 4, flags, 1000, 0, 0)
        + options
        + payload
    )


def ipv4(
    segment: bytes, source: int = 1, target: int = 2, protocol: int = 17, *, finished: bool = False, ident: int = 7
) -> bytes:
    """A packet; the segment's checksum field holds the pseudo header's sum, or all of it if `finished`."""
    near, far = address4(source), address4(target)
    pseudo = near + far + struct.pack(">BBH", 0, protocol, len(segment) & 0xFFFF)
    segment = _with_checksum(segment, protocol, pseudo, finished)
    size = (20 + len(segment)) & 0xFFFF
    header = struct.pack(">BBHHHBBH", 0x45, 0, size, ident, 0x4000, 64, protocol, 0) + near + far
    header = header[:10] + (0xFFFF - sum_words(header)).to_bytes(2, "big") + header[12:]
    return header + segment


def ipv6(
    segment: bytes, source: int = 1, target: int = 2, protocol: int = 17, *, finished: bool = False,
    extensions: bytes = b"", first: int | None = None,
) -> bytes:  # fmt: skip
    """As `ipv4`. extensions: headers before the segment's, of which the first has the number `first`."""
    near, far = address6(source), address6(target)
    pseudo = near + far + struct.pack(">IHBB", len(segment), 0, 0, protocol)
    segment = _with_checksum(segment, protocol, pseudo, finished)
    size = (len(extensions) + len(segment)) & 0xFFFF
    header = struct.pack(">IHBB", 0x6000_0000, size, protocol if first is None else first, 64) + near + far
    return header + extensions + segment


def _with_checksum(segment: bytes, protocol: int, pseudo: bytes, finished: bool) -> bytes:
    at = _CHECKSUM_AT[protocol]
    value = sum_words(pseudo)
    if finished:
        value = 0xFFFF - sum_words(pseudo + segment)
        if value == 0 and protocol == 17:
            value = 0xFFFF
    return segment[:at] + value.to_bytes(2, "big") + segment[at + 2 :]


def checksum_problem(frame: bytes) -> str | None:
    """What is wrong with the checksums and lengths of an IPv4 or IPv6 frame with TCP or UDP, if anything."""
    ethertype = struct.unpack_from(">H", frame, 12)[0]
    packet = frame[14:]
    if ethertype == 0x0800:
        header = (packet[0] & 15) * 4
        if sum_words(packet[:header]) != 0xFFFF:
            return "IPv4 header checksum"
        if int.from_bytes(packet[2:4], "big") != len(packet):
            return "IPv4 length"
        protocol, segment = packet[9], packet[header:]
        pseudo = packet[12:20] + struct.pack(">BBH", 0, protocol, len(segment))
    else:
        if int.from_bytes(packet[4:6], "big") != len(packet) - 40:
            return "IPv6 length"
        protocol, position = packet[6], 40
        while protocol in (0, 43, 60):
            protocol, position = packet[position], position + 8 + 8 * packet[position + 1]
        segment = packet[position:]
        pseudo = packet[8:40] + struct.pack(">IHBB", len(segment), 0, 0, protocol)
    if protocol == 17 and int.from_bytes(segment[4:6], "big") != len(segment):
        return "UDP length"
    return None if sum_words(pseudo + segment) == 0xFFFF else "TCP or UDP checksum"
