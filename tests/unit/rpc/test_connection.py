"""Conversations between the two ends, without a socket."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.errors import ProtocolError, StateError
from manor.rpc.connection import CHUNK_SIZE, ClientConnection, ServerConnection, StreamState, encode_error
from manor.rpc.message import (
    Call,
    CallFailed,
    Event,
    Message,
    Ping,
    Pong,
    Reply,
    StreamAborted,
    StreamData,
    StreamEnd,
    StreamFinished,
    StreamHole,
)
from manor.rpc.packet import Kind, Packet, Status, encode_packet
from manor.rpc.protocol.catalog import KEEPALIVE_PROGRAM, REMOTE
from manor.rpc.protocol.errors import ErrorCode, ErrorOrigin
from manor.rpc.protocol.records import Domain, ErrorRecord, StorageVol
from manor.rpc.xdr import EncodeError

DOMAIN = Domain("web1", bytes(range(16)), 3)
VOLUME = StorageVol("default", "a.img", "/a.img")
NO_DOMAIN = ErrorRecord(ErrorCode.NO_DOMAIN, ErrorOrigin.QEMU, "Domain not found")


class Conversation:
    """A client and a server that hear each other at once."""

    def __init__(self, **server: Any) -> None:
        self.client = ClientConnection()
        self.server = ServerConnection(**server)

    def to_server(self) -> list[Message]:
        return [
            message
            for outgoing in self.client.take_outgoing()
            for message in self._arrive(self.server, outgoing.data, outgoing.files)
        ]

    def to_client(self) -> list[Message]:
        return [
            message
            for outgoing in self.server.take_outgoing()
            for message in self._arrive(self.client, outgoing.data, outgoing.files)
        ]

    def _arrive(self, end: Any, data: bytes, files: tuple[int, ...]) -> list[Message]:
        return list(end.receive(data)) + [message for file in files for message in end.receive(b"\0", [file])]

    def call(self, name: str, *arguments: Any) -> Call:
        self.client.call(REMOTE[name], arguments)
        (message,) = self.to_server()
        assert isinstance(message, Call)
        return message

    def open_stream(self, name: str, *arguments: Any) -> int:
        call = self.call(name, *arguments)
        self.server.reply(call)
        (reply,) = self.to_client()
        assert isinstance(reply, Reply)
        return call.serial


def test_a_call_is_answered() -> None:
    talk = Conversation()
    call = talk.call("domain_lookup_by_name", "web1")
    assert call.procedure.name == "domain_lookup_by_name"
    assert call.arguments == ("web1",)
    talk.server.reply(call, DOMAIN)
    assert talk.to_client() == [Reply(call.serial, call.procedure, DOMAIN)]
    assert talk.client.pending == talk.server.pending == 0


def test_answers_come_in_any_order() -> None:
    talk = Conversation()
    first, second = talk.call("domain_lookup_by_name", "a"), talk.call("connect_get_hostname")
    talk.server.reply(second, "host")
    talk.server.fail(first, NO_DOMAIN)
    assert talk.to_client() == [
        Reply(second.serial, second.procedure, "host"),
        CallFailed(first.serial, first.procedure, NO_DOMAIN),
    ]


def test_a_call_is_answered_once() -> None:
    talk = Conversation()
    call = talk.call("connect_get_hostname")
    talk.server.reply(call, "host")
    with pytest.raises(KeyError):
        talk.server.fail(call, NO_DOMAIN)


def test_a_reply_that_does_not_fit_becomes_an_error() -> None:
    talk = Conversation()
    call = talk.call("connect_get_hostname")
    with pytest.raises(EncodeError):
        talk.server.reply(call, 7)
    (failed,) = talk.to_client()
    assert isinstance(failed, CallFailed)
    assert failed.error.code == ErrorCode.INTERNAL_ERROR
    assert "connect_get_hostname" in str(failed.error.message)


@pytest.mark.parametrize(
    "record",
    [
        ErrorRecord(1, 1, "a\0b"),
        ErrorRecord(1, 1, "x" * (5 * 1024 * 1024)),
        ErrorRecord(2**40, -(2**40), "m"),
        ErrorRecord(1, 1, "m", domain=Domain("a", b"short")),
        ErrorRecord(1, 1, 5),  # type: ignore[arg-type]
        ErrorRecord("a", None, None),  # type: ignore[arg-type]
    ],
)
def test_an_error_can_always_be_sent(record: ErrorRecord) -> None:
    talk = Conversation()
    talk.server.fail(talk.call("connect_get_hostname"), record)
    (failed,) = talk.to_client()
    assert isinstance(failed, CallFailed)
    assert failed.error.message


def test_an_error_carries_all_that_libvirt_has() -> None:
    talk = Conversation()
    record = ErrorRecord(1, 2, "m", 1, DOMAIN, "a", None, "c", 5, 6, None)
    talk.server.fail(talk.call("connect_get_hostname"), record)
    (failed,) = talk.to_client()
    assert isinstance(failed, CallFailed)
    assert failed.error == record


def raw_call(procedure: int = 1, payload: bytes = b"", *, program: int = 0x20008086, version: int = 1) -> bytes:
    return encode_packet(Packet(program, version, procedure, Kind.CALL, 5, Status.OK, payload)).data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (raw_call(9999), "unknown procedure: 9999"),
        (raw_call(318), "unknown procedure: 318"),
        (raw_call(program=5), "no program 0x5 version 1"),
        (raw_call(version=2), "no program 0x20008086 version 2"),
        (raw_call(23, b"\0\0\0\7"), "cannot decode the arguments of domain_lookup_by_name"),
    ],
)
def test_a_call_that_cannot_be_understood_is_answered(data: bytes, words: str) -> None:
    server, client = ServerConnection(), ClientConnection()
    assert list(server.receive(data)) == []
    (answer,) = server.take_outgoing()
    program, version, procedure, kind, serial, status = struct.unpack_from(">IIiiIi", answer.data, 4)
    assert (kind, serial, status) == (Kind.REPLY, 5, Status.ERROR)
    assert (program, version, procedure) == struct.unpack_from(">IIi", data, 4)
    assert words.encode() in answer.data
    assert list(server.receive(raw_call(59))) != [], "the connection lives on"
    client.close()


def test_read_only_is_enforced_whatever_the_client_thinks() -> None:
    talk = Conversation(is_read_only=True)
    talk.client.call(REMOTE["domain_destroy"], [DOMAIN])
    assert talk.to_server() == []
    (failed,) = talk.to_client()
    assert isinstance(failed, CallFailed)
    assert failed.error.code == ErrorCode.OPERATION_DENIED
    assert "domain:stop" in str(failed.error.message)
    assert talk.call("domain_get_info", DOMAIN).arguments == (DOMAIN,)


def test_events_arrive_between_answers() -> None:
    talk = Conversation()
    talk.server.send_event(REMOTE["domain_event_callback_lifecycle"], (1, DOMAIN, 4, 0))
    (event,) = talk.to_client()
    assert isinstance(event, Event)
    assert event.arguments.domain == DOMAIN
    assert event.arguments.event == 4


def test_an_event_of_a_newer_server_is_passed_over() -> None:
    client = ClientConnection()
    assert list(client.receive(encode_packet(Packet(0x20008086, 1, 9999, Kind.MESSAGE, 1, 0)).data)) == []


def test_pings_are_answered_both_ways() -> None:
    talk = Conversation()
    talk.client.send_ping()
    assert talk.to_server() == [Ping()]
    assert talk.to_client() == [Pong()]
    talk.server.send_ping()
    assert talk.to_client() == [Ping()]
    assert talk.to_server() == [Pong()]


def test_a_download() -> None:
    talk = Conversation()
    serial = talk.open_stream("storage_vol_download", VOLUME, 0, 0, 0)
    data = os.urandom(CHUNK_SIZE + 5)
    talk.server.send_stream_data(serial, data)
    talk.server.send_stream_hole(serial, 4096)
    talk.server.end_stream_data(serial)
    assert talk.to_client() == [
        StreamData(serial, data[:CHUNK_SIZE]), StreamData(serial, data[CHUNK_SIZE:]), StreamHole(serial, 4096),
        StreamEnd(serial),
    ]  # fmt: skip
    talk.client.finish_stream(serial)
    assert talk.to_server() == [StreamFinished(serial)]
    talk.server.confirm_stream(serial)
    assert talk.to_client() == [StreamFinished(serial)]
    assert not talk.client.has_stream(serial)
    assert not talk.server.has_stream(serial)


def test_an_upload_that_fails_at_its_end() -> None:
    talk = Conversation()
    serial = talk.open_stream("storage_vol_upload", VOLUME, 0, 0, 0)
    talk.client.send_stream_data(serial, b"abc")
    talk.client.finish_stream(serial)
    assert talk.to_server() == [StreamData(serial, b"abc"), StreamFinished(serial)]
    talk.server.fail_stream(serial, NO_DOMAIN)
    assert talk.to_client() == [StreamAborted(serial, NO_DOMAIN)]
    assert talk.client.stream_state(serial) is StreamState.CLOSED


def test_a_stream_that_the_client_aborts() -> None:
    talk = Conversation()
    serial = talk.open_stream("domain_open_console", DOMAIN, None, 0)
    talk.client.abort_stream(serial)
    talk.server.send_stream_data(serial, b"under way")
    assert talk.to_client() == [StreamData(serial, b"under way")]
    assert talk.to_server() == [StreamAborted(serial, None)]
    with pytest.raises(StateError):
        talk.server.send_stream_data(serial, b"too late")
    talk.server.confirm_stream(serial)
    assert talk.to_client() == [StreamFinished(serial)]


def test_data_for_a_stream_that_is_gone_is_passed_over() -> None:
    talk = Conversation()
    serial = talk.open_stream("storage_vol_upload", VOLUME, 0, 0, 0)
    talk.server.fail_stream(serial, NO_DOMAIN)
    talk.client.send_stream_data(serial, b"under way")
    assert talk.to_server() == []
    assert talk.to_client() == [StreamAborted(serial, NO_DOMAIN)]
    with pytest.raises(StateError):
        talk.client.finish_stream(serial)


def test_a_call_that_fails_opens_no_stream() -> None:
    talk = Conversation()
    talk.server.fail(talk.call("domain_open_console", DOMAIN, None, 0), NO_DOMAIN)
    (failed,) = talk.to_client()
    assert isinstance(failed, CallFailed)
    assert not talk.client.has_stream(failed.serial)


def test_data_that_overtakes_the_reply_is_kept() -> None:
    """libvirtd 9.0 does so now and then: a screenshot was empty, or its reader waited for ever."""
    client = ClientConnection()
    serial = client.call(REMOTE["storage_vol_download"], [VOLUME, 0, 0, 0])
    data = packet(Kind.STREAM, 209, serial, Status.CONTINUE, b"early")
    assert list(client.receive(data)) == [StreamData(serial, b"early")]
    assert list(client.receive(packet(Kind.REPLY, 209, serial))) == [
        Reply(serial, REMOTE["storage_vol_download"], None)
    ]
    assert client.stream_state(serial) is StreamState.OPEN


def test_a_failure_that_overtakes_the_reply_closes_the_stream() -> None:
    client = ClientConnection()
    serial = client.call(REMOTE["storage_vol_download"], [VOLUME, 0, 0, 0])
    failure = packet(Kind.STREAM, 209, serial, Status.ERROR, bytes(encode_error(NO_DOMAIN)))
    assert list(client.receive(failure)) == [StreamAborted(serial, NO_DOMAIN)]
    assert len(list(client.receive(packet(Kind.REPLY, 209, serial)))) == 1
    assert not client.has_stream(serial)


def test_descriptors_go_both_ways() -> None:
    talk = Conversation()
    ours, theirs = os.pipe()
    try:
        talk.client.call(REMOTE["domain_create_with_files"], [DOMAIN, 0], (ours,))
        (call,) = talk.to_server()
        assert isinstance(call, Call)
        assert call.files == (ours,)
        talk.server.reply(call, DOMAIN)
        talk.to_client()
        graphics = talk.call("domain_open_graphics_fd", DOMAIN, 0, 0)
        talk.server.reply(graphics, None, (theirs,))
        assert talk.to_client() == [Reply(graphics.serial, graphics.procedure, None, (theirs,))]
    finally:
        os.close(ours)
        os.close(theirs)


def test_descriptors_for_a_procedure_that_takes_none_are_closed() -> None:
    talk = Conversation()
    file = os.open(os.devnull, os.O_RDONLY)
    talk.client.call(REMOTE["connect_get_hostname"], (), (file,))
    assert talk.to_server() == []
    (failed,) = talk.to_client()
    assert isinstance(failed, CallFailed)
    assert "takes no file descriptors" in str(failed.error.message)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def packet(kind: int, procedure: int = 59, serial: int = 0, status: int = 0, payload: bytes = b"") -> bytes:
    return encode_packet(Packet(0x20008086, 1, procedure, kind, serial, status, payload)).data


@pytest.mark.parametrize(
    "data",
    [
        packet(Kind.REPLY, serial=77),
        packet(Kind.REPLY, procedure=60),
        packet(Kind.REPLY, status=Status.CONTINUE),
        packet(Kind.REPLY, payload=b"abc"),
        packet(Kind.REPLY, status=Status.ERROR, payload=b"abc"),
        packet(Kind.CALL),
        packet(Kind.MESSAGE),
        packet(Kind.MESSAGE, procedure=318, payload=b"abc"),
        encode_packet(Packet(KEEPALIVE_PROGRAM, 1, 3, Kind.MESSAGE, 0, 0)).data,
        encode_packet(Packet(KEEPALIVE_PROGRAM, 2, 1, Kind.MESSAGE, 0, 0)).data,
        encode_packet(Packet(KEEPALIVE_PROGRAM, 1, 1, Kind.CALL, 0, 0)).data,
    ],
)
def test_what_a_server_never_says_ends_a_clients_connection(data: bytes) -> None:
    client = ClientConnection()
    client.call(REMOTE["connect_get_hostname"])
    with pytest.raises(ProtocolError):
        list(client.receive(data))


@pytest.mark.parametrize(
    "data",
    [
        packet(Kind.REPLY),
        packet(Kind.MESSAGE),
        packet(Kind.CALL, status=Status.CONTINUE),
        packet(Kind.CALL, serial=0) * 2,
    ],
)
def test_what_a_client_never_says_ends_a_servers_connection(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(ServerConnection().receive(data))


@pytest.mark.parametrize("payload", [b"", bytes(11), struct.pack(">qI", -1, 0)])
def test_a_hole_says_how_long_it_is(payload: bytes) -> None:
    talk = Conversation()
    serial = talk.open_stream("storage_vol_upload", VOLUME, 0, 0, 0)
    with pytest.raises(ProtocolError, match="hole"):
        list(talk.server.receive(packet(Kind.STREAM_HOLE, 208, serial, Status.CONTINUE, payload)))


def test_a_stream_belongs_to_its_procedure() -> None:
    talk = Conversation()
    serial = talk.open_stream("storage_vol_upload", VOLUME, 0, 0, 0)
    with pytest.raises(ProtocolError, match="storage_vol_upload"):
        list(talk.server.receive(packet(Kind.STREAM, 209, serial, Status.CONTINUE, b"x")))


HEADERS = st.builds(
    lambda program, version, procedure, kind, serial, status, payload: (
        struct.pack(">IIIiiIi", 28 + len(payload), program, version, procedure, kind, serial, status) + payload
    ),
    st.sampled_from([0x20008086, 0x20008087, KEEPALIVE_PROGRAM, 7]),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(-1, 455),
    st.integers(-1, 8),
    st.integers(0, 3),
    st.integers(-1, 3),
    st.binary(max_size=80),
)


@settings(max_examples=400, deadline=None)
@given(frames=st.lists(HEADERS | st.binary(max_size=40), max_size=6), is_server=st.booleans())
def test_no_bytes_do_more_than_end_the_connection(frames: list[bytes], is_server: bool) -> None:
    talk = Conversation()
    serial = talk.open_stream("domain_open_console", DOMAIN, None, 0)
    end = talk.server if is_server else talk.client
    try:
        for frame in frames:
            for message in end.receive(frame):
                if isinstance(message, Call):
                    talk.server.fail(message, NO_DOMAIN)
                elif isinstance(message, StreamFinished | StreamAborted) and is_server:
                    talk.server.confirm_stream(serial)
    except ProtocolError:
        pass
    end.close()


def test_the_error_of_a_stream_and_of_a_call_are_one_layout() -> None:
    assert bytes(encode_error(NO_DOMAIN))[:8] == struct.pack(">ii", 42, 10)
