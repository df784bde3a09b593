"""Checksums and segmentation in software, against slow arithmetic and against what a receiver would make of it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.net.api import Frame, Offloads, Segmentation
from manor.backends.net.offload import (
    EVERYTHING,
    NOTHING,
    SEGMENT_LIMIT,
    find_layout,
    finish,
    flow_key,
    is_taken,
    segment,
    with_checksum,
)
from manor.testing.net_frames import MAC_A, MAC_B, checksum_problem, eth, ipv4, ipv6, tcp, udp

OPTIONS = b"\x01\x01\x08\x0a" + bytes(8)
HOP_BY_HOP = bytes([6, 1]) + bytes(14)


def tso4(payload: bytes, size: int, flags: int = 0x18, options: bytes = OPTIONS, tags: bytes = b"") -> Frame:
    data = eth(MAC_A, MAC_B, 0x0800, ipv4(tcp(1, 2, payload, 0xFFFF_FFF0, flags, options), protocol=6))
    return Frame(data[:12] + tags + data[12:], 34 + len(tags), 16, False, Segmentation.TCPV4, size)


def tso6(payload: bytes, size: int, extensions: bytes = b"") -> Frame:
    packet = ipv6(tcp(1, 2, payload), protocol=6, extensions=extensions, first=0 if extensions else None)
    return Frame(eth(MAC_A, MAC_B, 0x86DD, packet), 54 + len(extensions), 16, False, Segmentation.TCPV6, size)


def uso(payload: bytes, size: int, version: int = 4) -> Frame:
    datagram = udp(1, 2, payload)
    data = eth(MAC_A, MAC_B, 0x0800, ipv4(datagram)) if version == 4 else eth(MAC_A, MAC_B, 0x86DD, ipv6(datagram))
    return Frame(data, 34 if version == 4 else 54, 6, False, Segmentation.UDP_L4, size)


# --- checksums ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([4, 6]), st.sampled_from([6, 17]))
def test_checksum_is_what_a_receiver_expects(payload: bytes, version: int, protocol: int) -> None:
    build, ethertype, start = (ipv4, 0x0800, 34) if version == 4 else (ipv6, 0x86DD, 54)
    transport = tcp(1, 2, payload) if protocol == 6 else udp(1, 2, payload)
    frame = Frame(eth(MAC_A, MAC_B, ethertype, build(transport, protocol=protocol)), start, 16 if protocol == 6 else 6)
    (done,) = finish(frame, NOTHING)
    assert done == Frame(eth(MAC_A, MAC_B, ethertype, build(transport, protocol=protocol, finished=True)))
    assert checksum_problem(done.data) is None


def test_a_sum_of_zero_is_written_as_ones_for_udp_alone() -> None:
    # Payload that makes the sum of everything 0xFFFF.
    base = ipv4(udp(1, 2, b"\0\0"), finished=True)
    value = struct.unpack_from(">H", base, 26)[0]
    packet = ipv4(udp(1, 2, struct.pack(">H", value)))
    data = with_checksum(Frame(eth(MAC_A, MAC_B, 0x0800, packet), 34, 6))
    assert data is not None
    assert data[40:42] == b"\xff\xff"
    as_tcp = with_checksum(Frame(bytes(14) + b"\xff\xff" + bytes(20), 14, 16))
    assert as_tcp is not None
    assert as_tcp[30:32] == b"\0\0"


@pytest.mark.parametrize(("start", "offset"), [(0, 0), (14, 200), (0xFFFF, 0), (99, 0), (-1, 20)])
def test_a_checksum_outside_the_frame_is_not_written(start: int, offset: int) -> None:
    assert with_checksum(Frame(bytes(100), start, offset)) is None


# --- segmentation ---------------------------------------------------------------------------------------------------


def check_segments(frame: Frame, pieces: list[Frame], header: int, payload: bytes) -> None:
    size = frame.segment_size
    assert len(pieces) == -(-len(payload) // size)
    assert b"".join(piece.data[header:] for piece in pieces) == payload
    assert all(len(piece.data) == header + size for piece in pieces[:-1])
    for piece in pieces:
        assert piece == Frame(piece.data)


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=1, max_size=5000), st.integers(100, 1500), st.integers(0, 255))
def test_tcp_over_ipv4(payload: bytes, size: int, flags: int) -> None:
    frame = tso4(payload, size, flags)
    pieces = finish(frame, NOTHING)
    check_segments(frame, pieces, 66, payload)
    for index, piece in enumerate(pieces):
        assert checksum_problem(piece.data) is None
        ident, sequence = struct.unpack_from(">H", piece.data, 18)[0], struct.unpack_from(">I", piece.data, 38)[0]
        assert ident == 7 + index
        assert sequence == (0xFFFF_FFF0 + index * size) & 0xFFFF_FFFF
        expected = flags
        if index + 1 < len(pieces):
            expected &= ~0x09
        if index > 0:
            expected &= ~0x80
        assert piece.data[47] == expected
        assert piece.data[54:66] == OPTIONS


@settings(deadline=None, max_examples=30)
@given(st.binary(min_size=1, max_size=5000), st.integers(100, 1500), st.sampled_from([b"", HOP_BY_HOP]))
def test_tcp_over_ipv6(payload: bytes, size: int, extensions: bytes) -> None:
    frame = tso6(payload, size, extensions)
    pieces = finish(frame, NOTHING)
    check_segments(frame, pieces, 74 + len(extensions), payload)
    assert [checksum_problem(piece.data) for piece in pieces] == [None] * len(pieces)


@settings(deadline=None, max_examples=30)
@given(st.binary(min_size=1, max_size=5000), st.integers(100, 1500), st.sampled_from([4, 6]))
def test_datagrams(payload: bytes, size: int, version: int) -> None:
    frame = uso(payload, size, version)
    pieces = finish(frame, NOTHING)
    check_segments(frame, pieces, 42 if version == 4 else 62, payload)
    assert [checksum_problem(piece.data) for piece in pieces] == [None] * len(pieces)


@pytest.mark.parametrize("tags", [b"\x81\x00\x00\x05", b"\x88\xa8\x00\x05\x81\x00\x00\x06"])
def test_tags_stay_in_front(tags: bytes) -> None:
    frame = tso4(bytes(3000), 1400, tags=tags)
    pieces = segment(frame)
    assert len(pieces) == 3
    for piece in pieces:
        assert piece.data[12 : 12 + len(tags)] == tags
        assert checksum_problem(piece.data[:12] + piece.data[12 + len(tags) :]) is None


def test_checksums_can_be_left_to_the_receiver() -> None:
    pieces = finish(tso4(bytes(range(200)) * 20, 1000), Offloads(checksum=True))
    assert len(pieces) == 4
    for piece in pieces:
        assert (piece.checksum_start, piece.checksum_offset, piece.segmentation) == (34, 16, Segmentation.NONE)
        (done,) = finish(piece, NOTHING)
        assert checksum_problem(done.data) is None


def test_what_is_accepted_is_left_alone() -> None:
    for frame in (tso4(b"x" * 4000, 1000), tso6(b"x" * 4000, 1000), uso(b"x" * 4000, 1000), Frame(bytes(60), 14, 2)):
        assert is_taken(frame, EVERYTHING)
        assert finish(frame, EVERYTHING) == [frame]
        assert not is_taken(frame, NOTHING)


@pytest.mark.parametrize(
    "frame",
    [
        tso4(b"x" * 4000, 0),
        tso4(b"", 1000),
        tso4(b"x" * 60000, 24)._replace(segment_size=1),
        tso4(b"x" * 4000, 1000)._replace(segmentation=Segmentation.TCPV6),
        tso4(b"x" * 4000, 1000)._replace(segmentation=Segmentation.UDP),
        tso4(b"x" * 4000, 1000)._replace(segmentation=Segmentation.UDP_L4),
        uso(b"x" * 4000, 1000)._replace(segmentation=Segmentation.TCPV4),
        tso6(b"x" * 4000, 1000)._replace(segmentation=Segmentation.TCPV4),
        tso4(b"x" * 4000, 1000)._replace(data=tso4(b"x" * 4000, 1000).data[:50]),
        Frame(bytes(60), 34, 16, False, Segmentation.TCPV4, 1000),
        Frame(b"", 34, 16, False, Segmentation.TCPV4, 1000),
    ],
)
def test_what_does_not_fit_together_gives_nothing(frame: Frame) -> None:
    assert finish(frame, NOTHING) == []


def test_fragments_are_not_cut() -> None:
    data = bytearray(tso4(b"x" * 4000, 1000).data)
    data[20] |= 0x20
    assert segment(Frame(bytes(data), 34, 16, False, Segmentation.TCPV4, 1000)) == []


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_frames_never_raise(data: st.DataObject) -> None:
    kinds = [tso4(b"x" * 3000, 500), tso6(b"x" * 3000, 500, HOP_BY_HOP), uso(b"x" * 3000, 500)]
    frame = data.draw(st.sampled_from(kinds))
    raw = bytearray(frame.data)
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(12, 90))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    size = data.draw(st.integers(0, 65535))
    pieces = finish(frame._replace(data=cut, segment_size=size), NOTHING)
    assert len(pieces) <= SEGMENT_LIMIT
    assert all(is_taken(piece, NOTHING) for piece in pieces)


# --- headers --------------------------------------------------------------------------------------------------------


def test_extension_headers_are_followed_only_so_far() -> None:
    chain = b"".join(bytes([0, 0]) + bytes(6) for _ in range(20))
    assert find_layout(eth(MAC_A, MAC_B, 0x86DD, ipv6(tcp(1, 2, b""), protocol=6, extensions=chain, first=0))) is None


@pytest.mark.parametrize("build", [ipv4, ipv6])
def test_both_directions_of_a_flow_have_one_name(build: object) -> None:
    assert callable(build)
    ethertype = 0x0800 if build is ipv4 else 0x86DD
    out = eth(MAC_A, MAC_B, ethertype, build(udp(1000, 53, b"x"), source=1, target=2))
    back = eth(MAC_B, MAC_A, ethertype, build(udp(53, 1000, b"y"), source=2, target=1))
    other = eth(MAC_B, MAC_A, ethertype, build(udp(53, 1001, b"y"), source=2, target=1))
    assert flow_key(out, is_reply=False) == flow_key(back, is_reply=True) != flow_key(other, is_reply=True)
    assert flow_key(b"", is_reply=False) == flow_key(bytes(60), is_reply=True) == b""
