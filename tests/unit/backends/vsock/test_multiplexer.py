"""Conversations between a guest's driver and the multiplexer: VIRTIO 1.2, 5.10.6."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.vsock.connection import BUFFER_SIZE, Connection
from manor.backends.vsock.multiplexer import CONNECTION_LIMIT, FIRST_HOST_PORT, REFUSAL_LIMIT, Multiplexer
from manor.backends.vsock.packet import BOTH, HEADER_SIZE, HOST_CID, Op, Packet, Shutdown, decode, payload_size
from manor.base.errors import HostError
from manor.trace.sink import RingSink, disable, enable

CID, PORT, GUEST_PORT = 42, 1000, 2000
ROOM = 1 << 16


class FakeStream:
    """A program of the host: what it wrote for the guest, and what it got."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.connection: Connection | None = None
        self.output = bytearray()
        self.got = bytearray()
        self.room: int | None = room
        self.at_end = False
        self.events: list[str] = []

    def read(self, limit: int) -> bytes | None:
        data = bytes(self.output[:limit])
        del self.output[:limit]
        return data or (None if self.at_end else b"")

    def write(self, data: bytes) -> int | None:
        if self.room is None:
            return None
        taken = data[: self.room]
        self.room -= len(taken)
        self.got += taken
        return len(taken)

    def end_of_data(self) -> None:
        self.events.append("end")

    def opened(self, host_port: int) -> None:
        self.events.append(f"opened {host_port}")

    def closed(self, was_refused: bool) -> None:
        self.events.append("refused" if was_refused else "closed")


class Bench:
    def __init__(self) -> None:
        self.streams: list[FakeStream] = []
        self.wakes = 0
        self.room = 1 << 30
        self.mux = Multiplexer(CID, self._accept)
        self.mux.on_packets = self._wake

    def _accept(self, host_port: int, guest_port: int) -> FakeStream | None:
        if host_port != PORT:
            return None
        self.streams.append(FakeStream(self.room))
        return self.streams[-1]

    def _wake(self) -> None:
        self.wakes += 1

    def send(self, op: int, payload: bytes = b"", **fields: int) -> None:
        values = {
            "source_cid": CID, "target_cid": HOST_CID, "source_port": GUEST_PORT, "target_port": PORT,
            "buffer_size": 1 << 20,
        } | fields  # fmt: skip
        self.mux.receive(Packet(op=op, payload=payload, **values))

    def replies(self, room: int = ROOM) -> list[Packet]:
        found = []
        while (packet := self.mux.next_packet(room)) is not None:
            found.append(packet)
        return found

    def ops(self) -> list[int]:
        return [packet.op for packet in self.replies()]

    def open(self) -> FakeStream:
        self.send(Op.REQUEST)
        assert self.ops() == [Op.RESPONSE]
        return self.streams[-1]

    def readable(self, stream: FakeStream) -> None:
        assert stream.connection is not None
        self.mux.readable(stream.connection)

    def writable(self, stream: FakeStream) -> None:
        assert stream.connection is not None
        self.mux.writable(stream.connection)


@pytest.fixture
def ring() -> Iterator[RingSink]:
    sink = RingSink(1000)
    enable("*", sink)
    yield sink
    disable("*", sink)


def test_packet_as_bytes() -> None:
    packet = Packet(3, 2, 7, 8, Op.RW, payload=b"abc", buffer_size=9, forwarded=10)
    data = packet.encode()
    assert data[:HEADER_SIZE].hex() == (
        "0300000000000000" "0200000000000000" "07000000" "08000000" "03000000" "0100" "0500" "00000000" "09000000"
        "0a000000"
    )  # fmt: skip
    assert payload_size(data[:HEADER_SIZE]) == 3
    assert decode(data[:HEADER_SIZE], data[HEADER_SIZE:]) == packet


def test_guest_connects_talks_and_closes(ring: RingSink) -> None:
    bench = Bench()
    bench.send(Op.REQUEST)
    [response] = bench.replies()
    assert (response.op, response.source_cid, response.target_cid) == (Op.RESPONSE, HOST_CID, CID)
    assert (response.source_port, response.target_port) == (PORT, GUEST_PORT)
    assert (response.buffer_size, response.forwarded) == (BUFFER_SIZE, 0)
    stream = bench.streams[0]
    assert stream.events == [f"opened {PORT}"]
    bench.send(Op.RW, b"hello")
    assert stream.got == b"hello"
    stream.output += b"world"
    bench.readable(stream)
    [data] = bench.replies()
    assert (data.op, data.payload, data.forwarded) == (Op.RW, b"world", 5)
    bench.send(Op.SHUTDOWN, flags=int(Shutdown.SEND))
    assert stream.events[1:] == ["end"]
    assert bench.ops() == []
    bench.send(Op.SHUTDOWN, flags=int(Shutdown.RECEIVE))
    assert bench.ops() == [Op.RST]
    assert stream.events[2:] == ["closed"]
    assert ("vsock_open", (PORT, GUEST_PORT, True)) in ring.events
    assert ("vsock_close", (PORT, GUEST_PORT)) in ring.events


def test_host_connects(ring: RingSink) -> None:
    bench = Bench()
    stream = FakeStream()
    stream.output += b"early"
    stream.connection = bench.mux.connect(22, stream)
    [request] = bench.replies()
    assert (request.op, request.source_port, request.target_port) == (Op.REQUEST, FIRST_HOST_PORT, 22)
    bench.send(Op.RESPONSE, source_port=22, target_port=FIRST_HOST_PORT)
    assert stream.events == [f"opened {FIRST_HOST_PORT}"]
    assert [packet.payload for packet in bench.replies()] == [b"early"]
    # The next one has a port of its own.
    bench.mux.connect(22, FakeStream())
    assert bench.replies()[0].source_port == FIRST_HOST_PORT + 1


def test_guest_refuses() -> None:
    bench = Bench()
    stream = FakeStream()
    stream.connection = bench.mux.connect(22, stream)
    assert bench.ops() == [Op.REQUEST]
    bench.send(Op.RST, source_port=22, target_port=FIRST_HOST_PORT)
    assert stream.events == ["refused"]
    assert bench.ops() == []


def test_nobody_listens_on_the_host() -> None:
    bench = Bench()
    bench.send(Op.REQUEST, target_port=1)
    [refusal] = bench.replies()
    assert (refusal.op, refusal.source_port) == (Op.RST, 1)


@pytest.mark.parametrize("op", [Op.RW, Op.RESPONSE, Op.SHUTDOWN, Op.CREDIT_REQUEST, 77])
def test_packet_of_no_connection_is_answered_by_rst_and_rst_by_nothing(op: int) -> None:
    bench = Bench()
    bench.send(op)
    assert bench.ops() == [Op.RST]
    bench.send(Op.RST)
    assert bench.ops() == []


def test_unknown_type_is_refused() -> None:
    bench = Bench()
    bench.send(Op.REQUEST, type=2)
    assert bench.ops() == [Op.RST]
    assert not bench.streams


def test_foreign_addresses_are_dropped(ring: RingSink) -> None:
    bench = Bench()
    bench.send(Op.REQUEST, source_cid=CID + 1)
    bench.send(Op.REQUEST, target_cid=CID)
    assert bench.ops() == []
    assert len([1 for name, _ in ring.events if name == "guest_error"]) == 2


@pytest.mark.parametrize("op", [Op.REQUEST, Op.RESPONSE, Op.INVALID, 200])
def test_operation_out_of_place_ends_the_connection(op: int) -> None:
    bench = Bench()
    stream = bench.open()
    bench.send(op)
    assert bench.ops() == [Op.RST]
    assert stream.events[-1] == "closed"


def test_no_more_is_sent_than_the_guest_has_room_for() -> None:
    bench = Bench()
    bench.send(Op.REQUEST, buffer_size=10)
    assert bench.ops() == [Op.RESPONSE]
    stream = bench.streams[0]
    stream.output += b"0123456789abcdef"
    bench.readable(stream)
    assert [packet.payload for packet in bench.replies()] == [b"0123456789"]
    assert not bench.mux.has_packets
    bench.send(Op.CREDIT_UPDATE, buffer_size=10, forwarded=4)
    assert [packet.payload for packet in bench.replies(room=3)] == [b"abc", b"d"]
    # A guest that has passed on what was never sent, or whose room shrank below what is under way, gets nothing.
    for forwarded, size in ((1000, 10), (4, 1)):
        bench.send(Op.CREDIT_UPDATE, buffer_size=size, forwarded=forwarded)
        assert bench.ops() == []
    bench.send(Op.CREDIT_UPDATE, buffer_size=10, forwarded=14)
    assert [packet.payload for packet in bench.replies()] == [b"ef"]


def test_slow_program_holds_back_the_guest_and_room_is_told() -> None:
    bench = Bench()
    bench.room = 0
    stream = bench.open()
    piece = b"x" * (BUFFER_SIZE // 4)
    for _ in range(4):
        bench.send(Op.RW, piece)
    bench.send(Op.CREDIT_REQUEST)
    [update] = bench.replies()
    assert (update.op, update.forwarded) == (Op.CREDIT_UPDATE, 0)
    stream.room = BUFFER_SIZE // 4
    bench.writable(stream)
    assert bench.ops() == []  # a quarter is not worth a packet
    stream.room = BUFFER_SIZE
    bench.writable(stream)
    [update] = bench.replies()
    assert (update.op, update.forwarded) == (Op.CREDIT_UPDATE, BUFFER_SIZE)
    assert len(stream.got) == BUFFER_SIZE


def test_guest_that_sends_without_credit_is_cut_off() -> None:
    bench = Bench()
    bench.room = 0
    stream = bench.open()
    bench.send(Op.RW, b"x" * BUFFER_SIZE)
    assert bench.ops() == []
    bench.send(Op.RW, b"x")
    assert bench.ops() == [Op.RST]
    assert stream.events[-1] == "closed"


def test_data_after_the_end_of_data_is_cut_off() -> None:
    bench = Bench()
    bench.open()
    bench.send(Op.SHUTDOWN, flags=int(Shutdown.SEND))
    bench.send(Op.RW, b"x")
    assert bench.ops() == [Op.RST]


def test_what_was_sent_before_closing_is_delivered() -> None:
    bench = Bench()
    bench.room = 2
    stream = bench.open()
    bench.send(Op.RW, b"abcdef")
    bench.send(Op.SHUTDOWN, flags=int(BOTH))
    assert bench.ops() == []
    assert stream.got == b"ab"
    stream.room = 100
    bench.writable(stream)
    assert stream.got == b"abcdef"
    assert bench.ops() == [Op.RST]


def test_end_of_the_programs_data_is_told_after_the_data() -> None:
    bench = Bench()
    stream = bench.open()
    stream.output += b"last"
    stream.at_end = True
    bench.readable(stream)
    packets = bench.replies()
    assert [(packet.op, packet.flags) for packet in packets] == [(Op.RW, 0), (Op.SHUTDOWN, Shutdown.SEND)]
    bench.send(Op.RW, b"answer")  # the other direction is still open
    assert stream.got == b"answer"


def test_program_that_reads_no_more() -> None:
    bench = Bench()
    stream = bench.open()
    stream.room = None
    bench.send(Op.RW, b"x")
    [shutdown] = bench.replies()
    assert (shutdown.op, shutdown.flags) == (Op.SHUTDOWN, BOTH)
    bench.send(Op.RW, b"more")  # under way before the guest knew
    assert bench.ops() == []
    bench.send(Op.RST)
    assert stream.events[-1] == "closed"


def test_both_close_at_once() -> None:
    bench = Bench()
    stream = bench.open()
    stream.room = None
    bench.send(Op.RW, b"x")
    assert bench.ops() == [Op.SHUTDOWN]
    bench.send(Op.SHUTDOWN, flags=int(BOTH))
    assert bench.ops() == [Op.RST]
    assert stream.events[-1] == "closed"


def test_guest_that_never_says_that_it_closed() -> None:
    bench = Bench()
    stream = bench.open()
    assert stream.connection is not None
    bench.mux.abandon(stream.connection)
    assert bench.ops() == [Op.RST]
    bench.mux.abandon(stream.connection)
    assert bench.ops() == []
    assert stream.events[1:] == ["closed"]


def test_reset_ends_everything_without_a_packet() -> None:
    bench = Bench()
    stream = bench.open()
    other = FakeStream()
    bench.mux.connect(5, other)
    bench.send(Op.RW, source_port=9)
    bench.mux.reset()
    assert stream.events[-1] == "closed"
    assert other.events == ["refused"]
    assert bench.ops() == []


def test_connections_take_turns() -> None:
    bench = Bench()
    for port in (1, 2):
        bench.send(Op.REQUEST, source_port=port)
    bench.replies()
    for stream in bench.streams:
        stream.output += b"x" * 40
        bench.readable(stream)
    assert [packet.target_port for packet in bench.replies(room=10)] == [1, 2] * 4


def test_connections_are_bounded() -> None:
    bench = Bench()
    for port in range(CONNECTION_LIMIT):
        bench.send(Op.REQUEST, source_port=port)
    bench.replies()
    bench.send(Op.REQUEST, source_port=CONNECTION_LIMIT)
    assert bench.ops() == [Op.RST]
    with pytest.raises(HostError, match="close some"):
        bench.mux.connect(1, FakeStream())


def test_refusals_are_bounded() -> None:
    bench = Bench()
    for port in range(REFUSAL_LIMIT):
        assert not bench.mux.is_congested
        bench.send(Op.RW, source_port=port)
    assert bench.mux.is_congested
    for port in range(5 * REFUSAL_LIMIT):
        bench.send(Op.RW, source_port=port)
    assert len(bench.replies()) <= 2 * REFUSAL_LIMIT


def test_device_is_woken_once() -> None:
    bench = Bench()
    bench.send(Op.REQUEST)
    bench.send(Op.REQUEST, source_port=5)
    assert bench.wakes == 1
    bench.replies()
    bench.send(Op.RW, target_port=99)
    assert bench.wakes == 2


@given(
    st.lists(
        st.tuples(
            st.integers(0, 8), st.integers(0, 2), st.binary(max_size=30), st.integers(0, 7), st.integers(0, 40),
            st.integers(0, 40),
        )
    )
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_any_conversation_ends_well(steps: list[tuple[int, int, bytes, int, int, int]]) -> None:
    bench = Bench()
    for op, port, payload, flags, size, forwarded in steps:
        for stream in bench.streams:
            stream.output += payload
            if stream.connection is not None:
                bench.readable(stream)
        bench.send(op, payload, source_port=port, flags=flags, buffer_size=size, forwarded=forwarded)
        for packet in bench.replies(room=8):
            assert len(packet.payload) <= 8
            assert packet.op in {Op.RESPONSE, Op.RST, Op.SHUTDOWN, Op.RW, Op.CREDIT_UPDATE}
