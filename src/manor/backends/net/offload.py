"""The work on a frame that one side of a cable left undone and the other does not take: checksums and segmentation.

Frames come from guests and from other processes, so nothing in them is believed: what does not hold together is not
finished but dropped, and the caller is told.
Sources: VIRTIO 1.2, 5.1.6.2; RFC 791, 3.1 (IPv4); RFC 8200, 3 and 4 (IPv6); RFC 9293, 3.1 (TCP); RFC 768 (UDP);
IEEE 802.1Q-2018, 9.5 (tags).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from manor.backends.net.api import Frame, Offloads, Segmentation
from manor.backends.net.user.checksum import fold, ones_sum, pseudo_sum

ETHERNET_HEADER: Final = 14
FRAME_LIMIT: Final = ETHERNET_HEADER + 8 + 65535
"""The largest frame that can be: two VLAN tags and the largest IP packet."""
SEGMENT_LIMIT: Final = 2400
"""Pieces of one frame: 64 KiB at the 28 bytes that the smallest MTU of IPv4 leaves (RFC 791, 3.2). Without a bound, a
guest could turn a frame into 65535 of them."""

TCP: Final = 6
UDP: Final = 17
TCP_CHECKSUM: Final = 16
UDP_CHECKSUM: Final = 6
"""Offsets of the checksum in the headers."""
_TCP_FLAGS: Final = 13
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80

_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_TAGS: Final = (0x8100, 0x88A8)
_MAX_TAGS: Final = 2
_EXTENSIONS: Final = (0, 43, 60)
"""IPv6 headers that may stand before the transport's: hop-by-hop options, routing, destination options."""
_MAX_EXTENSIONS: Final = 8

EVERYTHING: Final = Offloads(checksum=True, tcpv4=True, tcpv6=True, udp=True)
NOTHING: Final = Offloads()


class Layout(NamedTuple):
    """Where the headers of a frame begin: `network` (IPv4 or IPv6, as `version` says) and `transport`."""

    version: int
    network: int
    transport: int
    protocol: int


def find_layout(data: bytes) -> Layout | None:
    """The headers of an IP packet that is not a fragment; None for anything else, or if one is cut off."""
    network = find_network(data)
    if network is None:
        return None
    ethertype, at = network
    if ethertype == _IPV4:
        if len(data) < at + 20 or data[at] >> 4 != 4:
            return None
        size = (data[at] & 15) * 4
        is_fragment = (data[at + 6] << 8 | data[at + 7]) & 0x3FFF
        if size < 20 or len(data) < at + size or is_fragment:
            return None
        return Layout(4, at, at + size, data[at + 9])
    if ethertype == _IPV6:
        if len(data) < at + 40 or data[at] >> 4 != 6:
            return None
        protocol, position = data[at + 6], at + 40
        for _ in range(_MAX_EXTENSIONS):
            if protocol not in _EXTENSIONS:
                return Layout(6, at, position, protocol)
            if len(data) < position + 8:
                return None
            protocol, position = data[position], position + 8 + 8 * data[position + 1]
            if len(data) < position:
                return None
    return None


def find_network(data: bytes) -> tuple[int, int] | None:
    """EtherType and offset of what a frame carries, behind its VLAN tags; None if it is cut off."""
    position = 12
    for _ in range(_MAX_TAGS + 1):
        if len(data) < position + 2:
            return None
        ethertype = data[position] << 8 | data[position + 1]
        if ethertype not in _TAGS:
            return ethertype, position + 2
        position += 4
    return None


def is_taken(frame: Frame, accepts: Offloads) -> bool:
    """Whether a side with these offloads takes the frame as it is."""
    segmentation = frame.segmentation
    if segmentation is Segmentation.NONE:
        return not frame.checksum_start or accepts.checksum
    if segmentation is Segmentation.TCPV4:
        return accepts.tcpv4
    if segmentation is Segmentation.TCPV6:
        return accepts.tcpv6
    return segmentation is Segmentation.UDP_L4 and accepts.udp


def all_taken(frames: Sequence[Frame], accepts: Offloads) -> bool:
    """`is_taken` of all; asked of every frame, and mostly nothing is undone on one."""
    undone = [frame for frame in frames if frame.checksum_start or frame.segmentation]
    return not undone or all(is_taken(frame, accepts) for frame in undone)


def finish(frame: Frame, accepts: Offloads) -> list[Frame]:
    """The frame with the work done that `accepts` does not cover: itself, or its segments; none if it is malformed."""
    if is_taken(frame, accepts):
        return [frame]
    if frame.segmentation is Segmentation.NONE:
        data = with_checksum(frame)
        return [] if data is None else [Frame(data)]
    return segment(frame, leave_checksum=accepts.checksum)


def with_checksum(frame: Frame) -> bytes | None:
    """The frame's bytes with the checksum filled in; None if its place is not inside the frame."""
    data, start = frame.data, frame.checksum_start
    at = start + frame.checksum_offset
    if start <= 0 or frame.checksum_offset < 0 or at + 2 > len(data):
        return None
    value = 0xFFFF - ones_sum(memoryview(data)[start:])
    if value == 0 and frame.checksum_offset == UDP_CHECKSUM:
        value = 0xFFFF  # 0 means "none" to UDP (RFC 768)
    return b"".join((data[:at], value.to_bytes(2, "big"), data[at + 2 :]))


def segment(frame: Frame, *, leave_checksum: bool = False) -> list[Frame]:
    """Cut a frame into those it stands for; none if its headers do not fit to what it says it is.

    leave_checksum: leave that of TCP or UDP undone in each.
    """
    layout = find_layout(frame.data)
    if layout is None or frame.segment_size <= 0:
        return []
    version, _, at, protocol = layout
    data = frame.data
    if frame.segmentation is Segmentation.UDP_L4:
        if protocol != UDP or len(data) < at + 8:
            return []
        end, checksum_at = at + 8, UDP_CHECKSUM
    else:
        wanted = {Segmentation.TCPV4: 4, Segmentation.TCPV6: 6}.get(frame.segmentation)
        if version != wanted or protocol != TCP or len(data) < at + 20:
            return []
        end, checksum_at = at + (data[at + 12] >> 4) * 4, TCP_CHECKSUM
        if end < at + 20 or end > len(data):
            return []
    count = (len(data) - end + frame.segment_size - 1) // frame.segment_size
    if not 0 < count <= SEGMENT_LIMIT:
        return []
    return list(_segments(data, layout, end, checksum_at, frame.segment_size, leave_checksum))


def _segments(
    data: bytes, layout: Layout, end: int, checksum_at: int, size: int, leave_checksum: bool
) -> Iterator[Frame]:
    """The pieces, each with headers of its own; `end`: of the headers."""
    version, network, transport, protocol = layout
    source = data[network + 12 : network + 16] if version == 4 else data[network + 8 : network + 24]
    target = data[network + 16 : network + 20] if version == 4 else data[network + 24 : network + 40]
    addresses = pseudo_sum(source, target, protocol, 0)
    payload = memoryview(data)[end:]
    header = bytearray(data[:end])
    identification = data[network + 4] << 8 | data[network + 5]
    sequence = int.from_bytes(data[transport + 4 : transport + 8], "big")
    flags = data[transport + _TCP_FLAGS] if protocol == TCP else 0
    for offset in range(0, len(payload), size):
        piece = payload[offset : offset + size]
        transport_size = end - transport + len(piece)
        if version == 4:
            packet_size = end - network + len(piece)
            struct.pack_into(">HH", header, network + 2, packet_size, identification + offset // size & 0xFFFF)
            header[network + 10 : network + 12] = b"\0\0"
            own = 0xFFFF - ones_sum(header[network:transport])
            header[network + 10 : network + 12] = own.to_bytes(2, "big")
        else:
            struct.pack_into(">H", header, network + 4, end - network - 40 + len(piece))
        if protocol == TCP:
            struct.pack_into(">I", header, transport + 4, sequence + offset & 0xFFFF_FFFF)
            is_last = offset + size >= len(payload)
            # FIN and PSH belong to the last byte, CWR to the first segment (RFC 3168, 6.1.2).
            header[transport + _TCP_FLAGS] = flags & ~(0 if is_last else _FIN_PSH) & ~(_CWR if offset else 0)
        else:
            struct.pack_into(">H", header, transport + 4, transport_size)
        at = transport + checksum_at
        pseudo = fold(addresses + transport_size)
        header[at : at + 2] = b"\0\0"
        if leave_checksum:
            header[at : at + 2] = pseudo.to_bytes(2, "big")
            yield Frame(b"".join((header, piece)), transport, checksum_at)
            continue
        # The headers are a multiple of 4 bytes, so the sums of the parts add up.
        value = 0xFFFF - fold(pseudo + ones_sum(header[transport:]) + ones_sum(piece))
        if value == 0 and protocol == UDP:
            value = 0xFFFF
        header[at : at + 2] = value.to_bytes(2, "big")
        yield Frame(b"".join((header, piece)))


def flow_key(data: bytes, *, is_reply: bool) -> bytes:
    """Names the flow that an IPv4 or IPv6 frame without VLAN tags belongs to: addresses and ports, one way round.

    is_reply: the other way round, so that both directions of a flow have one name. b"" for other frames.
    """
    if len(data) < 38:
        return b""
    ethertype = data[12:14]
    if ethertype == b"\x08\x00":
        near, far, at = data[26:30], data[30:34], 14 + (data[14] & 15) * 4
    elif ethertype == b"\x86\xdd" and len(data) >= 58:
        near, far, at = data[22:38], data[38:54], 54
    else:
        return b""
    if is_reply:
        return far + near + data[at + 2 : at + 4] + data[at : at + 2]
    return near + far + data[at : at + 4]
