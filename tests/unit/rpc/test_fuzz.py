"""Frames that are almost right: what a server makes of them, in what pieces they come, and what that costs."""

from __future__ import annotations

import struct
import tracemalloc

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from manor.base.errors import ProtocolError
from manor.rpc.connection import ServerConnection
from manor.rpc.message import Call, Message
from manor.rpc.packet import HEADER_SIZE, SMALL_MAX, Kind, Packet, Status, encode_packet
from manor.rpc.protocol.catalog import QEMU, REMOTE, Procedure
from manor.rpc.protocol.errors import ErrorCode, ErrorOrigin
from manor.rpc.protocol.records import ErrorRecord
from tests.unit.rpc.test_catalog import tuples

CALLS = [procedure for procedure in (*REMOTE.values(), *QEMU.values()) if not procedure.is_event]
REFUSED = ErrorRecord(ErrorCode.NO_SUPPORT, ErrorOrigin.RPC, "no")
HUGE = (0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x00FFFFFF, 4194304, 4194305)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The frame of a call with arguments that fit, and a few changes."""
    procedure: Procedure = draw(st.sampled_from(CALLS))
    payload = bytes(procedure.encode_arguments(draw(tuples(procedure.arguments))))
    program = procedure.program
    packet = Packet(program.number, program.version, procedure.number, Kind.CALL, 1, Status.OK, payload)
    frame = bytearray(encode_packet(packet).data)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(frame) - 1))
        match draw(st.sampled_from(("bit", "word", "cut", "grow"))):
            case "bit":
                frame[at] ^= 1 << draw(st.integers(0, 7))
            case "word":
                at -= at % 4
                frame[at : at + 4] = struct.pack(">I", draw(st.sampled_from(HUGE) | st.integers(0, 64)))
            case "cut":
                del frame[max(at, 4) :]
            case "grow":
                frame[at:at] = bytes(draw(st.integers(1, 40)))
        if draw(st.booleans()):
            frame[:4] = struct.pack(">I", len(frame))  # so that it is taken for a whole one
    return bytes(frame)


def converse(data: bytes, pieces: int) -> tuple[list[Message], list[bytes], bool]:
    """(calls, answers, whether the connection lives), with the data in pieces of this size."""
    server = ServerConnection()
    said: list[Message] = []
    answers = []
    try:
        for start in range(0, len(data), pieces):
            for message in server.receive(data[start : start + pieces]):
                said.append(message)
                if isinstance(message, Call):
                    server.fail(message, REFUSED)
        is_alive = True
    except ProtocolError:
        is_alive = False
    answers = [each.data for each in server.take_outgoing()]
    server.close()
    return said, answers, is_alive


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames=st.lists(mutated(), min_size=1, max_size=3))
@example(frames=[struct.pack(">I", SMALL_MAX + 1)])
def test_every_whole_frame_is_answered_or_ends_its_connection(frames: list[bytes]) -> None:
    data = b"".join(frames)
    said, answers, is_alive = converse(data, len(data))
    calls = sum(isinstance(message, Call) for message in said)
    assert len(answers) >= calls
    for answer in answers:
        assert struct.unpack_from(">I", answer)[0] == len(answer) >= HEADER_SIZE
    assert (said, answers, is_alive) == converse(data, 7), "in pieces it means the same"


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=mutated())
def test_what_a_frame_claims_costs_no_memory(frame: bytes) -> None:
    converse(frame, len(frame))  # codecs that are made now are not its cost
    tracemalloc.start()
    try:
        converse(frame, len(frame))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000 + 40 * len(frame)


def test_a_long_frame_is_kept_no_longer_than_it_needs() -> None:
    """A peer that trickles the longest frame there is holds that much, and not more."""
    server = ServerConnection()
    frame = struct.pack(">IIIiiIi", SMALL_MAX, 0x20008086, 1, 23, 0, 1, 0) + bytes(SMALL_MAX - HEADER_SIZE)
    tracemalloc.start()
    try:
        for start in range(0, len(frame), 65536):
            assert [each for each in server.receive(frame[start : start + 65536]) if isinstance(each, Call)] == []
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * SMALL_MAX
    assert held < SMALL_MAX // 8
    server.close()
