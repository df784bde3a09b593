"""Packets out of bytes, however they are cut, and file descriptors beside them."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.errors import ProtocolError
from manor.rpc.packet import FILES_MAX, HEADER_SIZE, Kind, Packet, PacketReader, Status, encode_packet
from manor.rpc.xdr import EncodeError

CALL = Packet(0x20008086, 1, 1, Kind.CALL, 0, Status.OK, b"\0\0\0\1")
# The header of the document's example: a call of procedure 1, serial 0, with four bytes of payload.
CALL_BYTES = bytes.fromhex("00000020 20008086 00000001 00000001 00000000 00000000 00000000 00000001")


def is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def test_a_call_is_seven_words_and_its_payload() -> None:
    assert encode_packet(CALL).data == CALL_BYTES
    assert list(PacketReader().receive(CALL_BYTES)) == [CALL]


@given(cuts=st.lists(st.integers(0, 3 * len(CALL_BYTES)), max_size=8))
def test_packets_are_found_however_the_bytes_are_cut(cuts: list[int]) -> None:
    reader = PacketReader()
    data = CALL_BYTES * 3
    found = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        found += list(reader.receive(data[start:end]))
    assert found == [CALL] * 3


@pytest.mark.parametrize("size", [0, 4, HEADER_SIZE - 1, 5 * 1024 * 1024, 2**32 - 1])
def test_a_size_that_cannot_be_is_refused_at_once(size: int) -> None:
    with pytest.raises(ProtocolError, match="a packet of"):
        list(PacketReader().receive(struct.pack(">I", size)))


@pytest.mark.parametrize(("kind", "status"), [(7, 0), (-1, 0), (0, 3), (0, -1)])
def test_an_unknown_kind_or_status_is_refused(kind: int, status: int) -> None:
    with pytest.raises(ProtocolError, match=f"kind {kind} with status {status}"):
        list(PacketReader().receive(struct.pack(">IIIiiIi", 28, 1, 1, 1, kind, 0, status)))


def test_packets_before_a_broken_one_are_still_delivered() -> None:
    packets = PacketReader().receive(CALL_BYTES + bytes(4))
    assert next(packets) == CALL
    with pytest.raises(ProtocolError):
        next(packets)


def test_descriptors_follow_their_packet_with_a_byte_each() -> None:
    first, second = os.pipe()
    try:
        outgoing = encode_packet(Packet(1, 1, 1, Kind.CALL_WITH_FILES, 0, Status.OK, b"", (first, second)))
        assert outgoing.data[HEADER_SIZE:] == b"\0\0\0\2"
        reader = PacketReader()
        assert list(reader.receive(outgoing.data)) == []
        assert list(reader.receive(b"\0", [first])) == []
        packet, other = reader.receive(b"\0" + CALL_BYTES, [second])
        assert packet.files == (first, second)
        assert packet.payload == b""
        assert other == CALL
    finally:
        os.close(first)
        os.close(second)


def test_a_packet_with_descriptors_but_without_their_count_is_refused() -> None:
    with pytest.raises(ProtocolError, match="does not say how many"):
        list(PacketReader().receive(struct.pack(">IIIiiIi", 28, 1, 1, 1, Kind.CALL_WITH_FILES, 0, 0)))


def test_a_packet_with_no_descriptors_is_complete() -> None:
    data = struct.pack(">IIIiiIiI", 32, 1, 1, 1, Kind.CALL_WITH_FILES, 0, 0, 0)
    assert [packet.files for packet in PacketReader().receive(data)] == [()]


def test_too_many_descriptors_are_refused() -> None:
    data = struct.pack(">IIIiiIiI", 32, 1, 1, 1, Kind.CALL_WITH_FILES, 0, 0, FILES_MAX + 1)
    with pytest.raises(ProtocolError, match=f"allows {FILES_MAX}"):
        list(PacketReader().receive(data))
    with pytest.raises(EncodeError, match=f"allows {FILES_MAX}"):
        encode_packet(Packet(1, 1, 1, Kind.CALL_WITH_FILES, 0, 0, b"", tuple(range(FILES_MAX + 1))))


def test_a_descriptor_that_no_packet_announced_is_refused_and_closed() -> None:
    file = os.open(os.devnull, os.O_RDONLY)
    reader = PacketReader()
    with pytest.raises(ProtocolError, match="no packet announced"):
        list(reader.receive(CALL_BYTES, [file]))
    reader.close()
    assert not is_open(file)


def test_a_byte_without_its_descriptor_is_refused() -> None:
    data = struct.pack(">IIIiiIiI", 32, 1, 1, 1, Kind.CALL_WITH_FILES, 0, 0, 1)
    with pytest.raises(ProtocolError, match="1 file descriptors announced, 0 sent"):
        list(PacketReader().receive(data + b"\0"))


def test_a_packet_that_is_too_long_for_the_other_end_is_not_sent() -> None:
    with pytest.raises(EncodeError, match="where the protocol allows"):
        encode_packet(CALL._replace(payload=bytes(100)), limit=100)
