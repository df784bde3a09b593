"""NBD as conversations: each side against bytes written down here, and both sides against each other."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.backends.block.nbd.handshake import ClientHandshake, Export, Offer, Refused
from manor.backends.block.nbd.serving import Offered, ServerSession
from manor.backends.block.nbd.transmission import Call, Transmission
from manor.backends.block.nbd.uri import NbdAddress, parse_address
from manor.backends.block.nbd.wire import Chunk, Command, CommandFlag, Error, Flag, Option, Reply
from manor.base.errors import ConfigError, ManorError, ProtocolError
from manor.base.units import MiB

GREETING = b"NBDMAGIC" + b"IHAVEOPT" + b"\x00\x03"
FLAGS = b"\x00\x00\x00\x03"
OFFERS = {"disk": Offered(1 * MiB, description="a disk"), "rom": Offered(4096, read_only=True)}


def option(number: int, data: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def reply(number: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x0003E889045565A9, number, kind, len(data)) + data


def request(command: int, offset: int, size: int, *, flags: int = 0, cookie: int = 7, data: bytes = b"") -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, size) + data


def chunk(kind: int, data: bytes = b"", *, cookie: int = 1, flags: int = 1) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, flags, kind, cookie, len(data)) + data


def named(text: str) -> bytes:
    return struct.pack(">I", len(text.encode())) + text.encode()


def talk(client: ClientHandshake, server: ServerSession) -> None:
    """Carry bytes between the two until nobody has more to say."""
    while (to_server := client.take_output()) or (to_client := server.take_output()):
        if to_server:
            server.receive(to_server)
        else:
            client.receive(to_client)


def chosen(name: str = "disk", *, structured: bool = True) -> ServerSession:
    """A server whose client has its export."""
    server = ServerSession(OFFERS)
    server.receive(FLAGS)
    if structured:
        server.receive(option(Option.STRUCTURED_REPLY))
        server.receive(option(Option.SET_META_CONTEXT, named(name) + b"\0\0\0\1" + named("base:allocation")))
    server.receive(option(Option.GO, named(name) + b"\0\0"))
    assert server.export == name
    server.take_output()
    return server


# ---------------------------------------------------------------------- both
def test_both_sides_agree_on_everything() -> None:
    client, server = ClientHandshake("disk"), ServerSession(OFFERS)
    talk(client, server)
    export = client.outcome.export
    assert export is not None
    assert (export.size, export.structured, export.minimum_block, export.maximum_payload) == (MiB, True, 1, 32 * MiB)
    assert export.allocation_context is not None
    assert Flag.SEND_WRITE_ZEROES | Flag.SEND_TRIM | Flag.SEND_FUA | Flag.SEND_FLUSH in export.flags
    assert Flag.READ_ONLY not in export.flags
    assert export.description == "a disk"
    assert client.incoming.is_done
    assert server.export == "disk"


def test_empty_name_is_the_first_export() -> None:
    client, server = ClientHandshake(""), ServerSession(OFFERS)
    talk(client, server)
    assert server.export == "disk"


def test_list() -> None:
    client, server = ClientHandshake("", list_only=True), ServerSession(OFFERS)
    talk(client, server)
    assert client.outcome.offers == [Offer("disk", "a disk"), Offer("rom", "")]
    assert server.is_over


def test_unknown_export_is_refused_in_words() -> None:
    client, server = ClientHandshake("disc"), ServerSession(OFFERS)
    with pytest.raises(Refused, match="'disc': the server has no export of that name"):
        talk(client, server)


def test_tls_is_asked_for_by_its_name() -> None:
    client, server = ClientHandshake("disk"), ServerSession(OFFERS, requires_tls=True)
    with pytest.raises(Refused, match="the server wants TLS; write nbds:"):
        talk(client, server)


def test_tls_starts_before_anything_else_is_said() -> None:
    client, server = ClientHandshake("disk", tls=True), ServerSession(OFFERS, requires_tls=True)
    talk(client, server)
    assert client.outcome.wants_tls
    assert server.wants_tls
    server.tls_started()
    client.tls_started()
    talk(client, server)
    assert client.outcome.export is not None
    assert server.export == "disk"


def test_bytes_smuggled_before_tls_end_the_connection() -> None:
    """What comes before TLS must not count inside it."""
    server = ServerSession(OFFERS, requires_tls=True)
    server.receive(FLAGS + option(Option.STARTTLS) + option(Option.LIST))
    assert server.wants_tls
    with pytest.raises(ProtocolError, match="between STARTTLS"):
        server.tls_started()
    client = ClientHandshake("disk", tls=True)
    client.receive(GREETING)
    client.receive(reply(Option.STARTTLS, Reply.ACK) + b"x")
    with pytest.raises(ProtocolError, match="between its answer to STARTTLS"):
        client.tls_started()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80))
def test_any_cut_of_the_stream_gives_the_same(cuts: list[int]) -> None:
    whole, parts = ServerSession(OFFERS), ServerSession(OFFERS)
    stream = FLAGS + option(Option.STRUCTURED_REPLY) + option(Option.LIST) + option(Option.GO, named("disk") + b"\0\0")
    stream += request(Command.WRITE, 0, 5, data=b"hello") + request(Command.READ, 3, 9) + request(Command.FLUSH, 0, 0)
    whole.receive(stream)
    position = 0
    for size in [*cuts, len(stream)]:
        room = parts.incoming.room()
        piece = stream[position : position + size]
        if room is not None:
            piece = piece[: room.nbytes]
            room[: len(piece)] = piece
            if piece:
                parts.incoming.filled(len(piece))
        else:
            parts.receive(piece)
        position += len(piece)
    parts.receive(stream[position:])
    assert parts.take_output() == whole.take_output()
    assert [(one.command, one.offset, one.size, bytes(one.payload or b"")) for one in parts.requests] == [
        (Command.WRITE, 0, 5, b"hello"),
        (Command.READ, 3, 9, b""),
        (Command.FLUSH, 0, 0, b""),
    ]
    assert len(whole.requests) == 3


# ---------------------------------------------------------------------- server
def test_oldest_way_to_ask_has_its_zeroes() -> None:
    server = ServerSession(OFFERS)
    server.take_output()
    server.receive(b"\0\0\0\1" + option(Option.EXPORT_NAME, b"rom"))
    answer = server.take_output()
    assert struct.unpack_from(">QH", answer) == (
        4096,
        Flag.HAS_FLAGS | Flag.READ_ONLY | Flag.SEND_FLUSH | Flag.SEND_FUA | Flag.CAN_MULTI_CONN | Flag.SEND_DF,
    )
    assert answer[10:] == bytes(124)
    with pytest.raises(ProtocolError, match="not here"):
        ServerSession(OFFERS).receive(FLAGS + option(Option.EXPORT_NAME, b"none"))


@pytest.mark.parametrize(
    ("asked", "data", "answer"),
    [
        (Option.LIST, b"x", Reply.ERR_INVALID),
        (Option.GO, b"\0\0\1\0disk", Reply.ERR_INVALID),
        (Option.GO, named("disk") + b"\0\5", Reply.ERR_INVALID),
        (Option.INFO, named("none") + b"\0\0", Reply.ERR_UNKNOWN),
        (Option.INFO, named("\N{SNOWMAN}") + b"\0\0", Reply.ERR_UNKNOWN),
        (Option.STRUCTURED_REPLY, b"x", Reply.ERR_INVALID),
        (Option.STARTTLS, b"", Reply.ERR_POLICY),
        (Option.SET_META_CONTEXT, named("disk") + b"\0\0\0\1" + named("base:allocation"), Reply.ERR_INVALID),
        (99, b"anything", Reply.ERR_UNSUP),
    ],
)
def test_wrong_options_are_answered_and_the_talk_goes_on(asked: int, data: bytes, answer: int) -> None:
    server = ServerSession(OFFERS)
    server.receive(FLAGS)
    server.take_output()
    server.receive(option(asked, data))
    found = struct.unpack_from(">QIII", server.take_output())
    assert found[:3] == (0x0003E889045565A9, asked, answer)
    server.receive(option(Option.GO, named("disk") + b"\0\0"))
    assert server.export == "disk"


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (request(Command.READ, MiB - 1, 2), Error.EINVAL),
        (request(Command.READ, 1 << 63, 1), Error.EINVAL),
        (request(Command.READ, 0, 0xFFFF_FFFF), Error.EINVAL),
        (request(Command.WRITE, MiB, 1, data=b"x"), Error.ENOSPC),
        (request(Command.WRITE_ZEROES, MiB, 1), Error.ENOSPC),
        (request(Command.TRIM, MiB, 1), Error.EINVAL),
        (request(Command.FLUSH, 0, 1), Error.EINVAL),
        (request(Command.BLOCK_STATUS, 0, 0), Error.EINVAL),
        (request(Command.READ, 0, 1, flags=CommandFlag.NO_HOLE), Error.EINVAL),
        (request(Command.WRITE_ZEROES, 0, 1, flags=CommandFlag.FAST_ZERO), Error.EINVAL),
        (request(Command.READ, 0, 1, flags=0x100), Error.EINVAL),
        (request(77, 0, 1), Error.EINVAL),
    ],
)
def test_wrong_requests_have_their_errors(sent: bytes, error: int) -> None:
    server = chosen()
    server.receive(sent)
    (found,) = server.requests
    assert found.error == error
    answer = b"".join(server.failed(found, found.error, found.message))
    assert struct.unpack_from(">IHHQI", answer)[2:4] == (Chunk.ERROR, 7)


def test_read_only_export_takes_no_writes() -> None:
    server = chosen("rom")
    server.receive(request(Command.WRITE, 0, 1, data=b"x") + request(Command.TRIM, 0, 1) + request(Command.READ, 0, 1))
    assert [one.error for one in server.requests] == [Error.EPERM, Error.EPERM, 0]


@pytest.mark.parametrize(
    "stream",
    [
        b"\xff\0\0\0",
        FLAGS + b"IHAVEOPU" + bytes(8),
        FLAGS + option(Option.LIST)[:12] + b"\x7f\xff\xff\xff",
        FLAGS + option(Option.GO, named("disk") + b"\0\0") + bytes(28),
        FLAGS + option(Option.GO, named("disk") + b"\0\0") + request(Command.WRITE, 0, 0x7FFF_FFFF),
        FLAGS + option(99) * 1001,
    ],
)
def test_what_nobody_can_answer_ends_the_connection(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        ServerSession(OFFERS).receive(stream)


@given(st.binary(max_size=200), st.booleans())
def test_server_survives_any_bytes(data: bytes, is_chosen: bool) -> None:
    server = chosen() if is_chosen else ServerSession(OFFERS)
    if not is_chosen:
        server.receive(FLAGS)
    try:
        server.receive(data)
    except ProtocolError:
        return
    assert all(one.error or one.offset + one.size <= MiB for one in server.requests)


def test_context_of_another_export_is_forgotten() -> None:
    server = ServerSession(OFFERS)
    server.receive(FLAGS + option(Option.STRUCTURED_REPLY))
    server.receive(option(Option.SET_META_CONTEXT, named("disk") + b"\0\0\0\1" + named("base:allocation")))
    server.receive(option(Option.GO, named("rom") + b"\0\0") + request(Command.BLOCK_STATUS, 0, 1))
    assert server.requests[0].error == Error.EINVAL


# ---------------------------------------------------------------------- client
def test_server_without_structured_replies_or_go() -> None:
    """As servers of 2015 answer."""
    client = ClientHandshake("disk")
    client.receive(GREETING)
    assert client.take_output() == FLAGS + option(Option.STRUCTURED_REPLY)
    client.receive(reply(Option.STRUCTURED_REPLY, Reply.ERR_UNSUP))
    go = client.take_output()
    assert go.startswith(b"IHAVEOPT\0\0\0\x07")
    client.receive(reply(Option.GO, Reply.ERR_UNSUP, b"what?"))
    assert client.take_output() == option(Option.EXPORT_NAME, b"disk")
    client.receive(struct.pack(">QH", 12345, 1))
    export = client.outcome.export
    assert export is not None
    assert (export.size, export.flags, export.structured) == (12345, Flag.HAS_FLAGS, False)


def test_block_sizes_are_kept_within_reason() -> None:
    def negotiated(*sizes: int) -> Export:
        client = ClientHandshake("")
        client.receive(GREETING + reply(Option.STRUCTURED_REPLY, Reply.ERR_UNSUP))
        client.receive(reply(Option.GO, Reply.INFO, struct.pack(">HQH", 0, 4096, 1)))
        client.receive(reply(Option.GO, Reply.INFO, struct.pack(">HIII", 3, *sizes)))
        client.receive(reply(Option.GO, Reply.ACK))
        assert client.outcome.export is not None
        return client.outcome.export

    assert negotiated(512, 65536, 0xFFFF_FFFF).maximum_payload == 32 * MiB
    assert negotiated(4096, 512, MiB).preferred_block == 4096
    for sizes in ((3, 4096, MiB), (0, 4096, MiB), (1 << 17, 1 << 17, 1 << 20), (4096, 4096, 512)):
        with pytest.raises(ProtocolError, match="block sizes"):
            negotiated(*sizes)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"<html>" + bytes(20), "greeting"),
        (b"NBDMAGIC" + b"\x00\x00\x42\x02\x81\x86\x12\x53" + b"\0\0", "negotiation"),
        (b"NBDMAGIC" + b"IHAVEOPT" + b"\0\0", "before 2011"),
        (GREETING + reply(Option.GO, Reply.ACK), "about option"),
        (GREETING + reply(Option.STRUCTURED_REPLY, Reply.ACK)[:16] + b"\xff\xff\xff\xff", "bytes about option"),
    ],
)
def test_servers_that_do_not_speak_nbd(stream: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        ClientHandshake("disk").receive(stream)


def test_endless_list_ends() -> None:
    client = ClientHandshake("", list_only=True)
    client.receive(GREETING)
    with pytest.raises(ProtocolError, match="more than"):
        client.receive(reply(Option.LIST, Reply.SERVER, named("a")) * 10_001)


def transmission(structured: bool = True) -> Transmission:
    return Transmission(Export(size=MiB, structured=structured, allocation_context=1 if structured else None))


def reading(size: int) -> tuple[Call, bytearray]:
    data = bytearray(b"?" * size)
    half = size // 2
    return Call(Command.READ, 100, size, [memoryview(data)[:half], memoryview(data)[half:]]), data


def test_structured_read_in_pieces_out_of_order() -> None:
    sent = transmission()
    call, data = reading(10)
    assert sent.begin(call) == request(Command.READ, 100, 10, cookie=1)
    sent.receive(chunk(Chunk.OFFSET_DATA, struct.pack(">Q", 106) + b"abcd", flags=0))
    sent.receive(chunk(Chunk.OFFSET_HOLE, struct.pack(">QI", 102, 4), flags=0))
    sent.receive(chunk(Chunk.OFFSET_DATA, struct.pack(">Q", 100) + b"xy"))
    assert data == b"xy\0\0\0\0abcd"
    assert sent.completed == [call]
    assert not sent.pending


def test_answers_come_in_any_order() -> None:
    sent = transmission(structured=False)
    calls = [reading(4) for _ in range(3)]
    for call, _ in calls:
        sent.begin(call)
    for cookie, text in ((3, b"3333"), (1, b"1111"), (2, b"2222")):
        sent.receive(struct.pack(">IIQ", 0x67446698, 0, cookie) + text)
    assert [bytes(data) for _, data in calls] == [b"1111", b"2222", b"3333"]
    assert [call.is_done for call, _ in calls] == [True] * 3


def test_errors_of_both_kinds() -> None:
    sent = transmission()
    call, _ = reading(10)
    sent.begin(call)
    sent.receive(chunk(Chunk.OFFSET_DATA, struct.pack(">Q", 100) + b"abc", flags=0))
    sent.receive(chunk(Chunk.ERROR_OFFSET, struct.pack(">IHQ", Error.EIO, 0, 103)))
    assert (call.is_done, call.error) == (True, Error.EIO)
    write = Call(Command.WRITE, 0, 1, [memoryview(b"x")])
    sent.begin(write)
    sent.receive(chunk(Chunk.ERROR, struct.pack(">IH", Error.ENOSPC, 4) + b"full", cookie=2))
    assert (write.error, write.message) == (Error.ENOSPC, "full")
    flush = Call(Command.FLUSH, 0, 0)
    sent.begin(flush)
    sent.receive(struct.pack(">IIQ", 0x67446698, Error.EIO, 3))
    assert flush.error == Error.EIO


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (bytes(16), "none of NBD's marks"),
        (struct.pack(">IIQ", 0x67446698, 0, 99), "does not have"),
        (struct.pack(">IIQ", 0x67446698, 0, 1) + bytes(10), "agreed on a structured"),
        (chunk(Chunk.OFFSET_DATA, struct.pack(">Q", 99) + b"ab"), "nobody had asked"),
        (chunk(Chunk.OFFSET_DATA, struct.pack(">Q", 108) + b"abc"), "nobody had asked"),
        (chunk(Chunk.OFFSET_DATA, struct.pack(">Q", 100)), "a chunk of 8 bytes"),
        (chunk(Chunk.OFFSET_HOLE, struct.pack(">QI", 100, 0)), "nobody had asked"),
        (chunk(Chunk.OFFSET_HOLE, bytes(11)), "11 bytes of description"),
        (chunk(Chunk.OFFSET_DATA, struct.pack(">Q", 100) + b"ab"), "2 bytes of 10"),
        (chunk(Chunk.BLOCK_STATUS, struct.pack(">III", 1, 10, 0)), "nobody had asked"),
        (chunk(Chunk.NONE, b"x"), "not known"),
        (chunk(77), "not known"),
        (chunk(Chunk.ERROR, b"x"), "described an error"),
    ],
)
def test_servers_that_break_the_rules(stream: bytes, message: str) -> None:
    sent = transmission()
    sent.begin(reading(10)[0])
    with pytest.raises(ProtocolError, match=message):
        sent.receive(stream)


def test_block_status() -> None:
    sent = transmission()
    call = Call(Command.BLOCK_STATUS, 0, 100)
    sent.begin(call)
    sent.receive(chunk(Chunk.BLOCK_STATUS, struct.pack(">IIIII", 1, 60, 0, 40, 3)))
    assert call.status == [(60, 0), (40, 3)]
    for body in (struct.pack(">III", 2, 60, 0), struct.pack(">I", 1), b"123"):
        again = transmission()
        again.begin(Call(Command.BLOCK_STATUS, 0, 100))
        with pytest.raises(ProtocolError):
            again.receive(chunk(Chunk.BLOCK_STATUS, body))


@given(st.binary(max_size=120))
def test_client_survives_any_bytes(data: bytes) -> None:
    for receiver in (ClientHandshake("disk"), transmission()):
        if isinstance(receiver, Transmission):
            receiver.begin(reading(10)[0])
        with suppress(ManorError):
            receiver.receive(data)


# ---------------------------------------------------------------------- addresses
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nbd:unix:/run/a", NbdAddress("", socket="/run/a")),
        ("nbd:unix:/run/a:exportname=b c", NbdAddress("", socket="/run/a", export="b c")),
        ("nbd:host:1234", NbdAddress("", host="host", port=1234)),
        ("nbd:[::1]:1234:exportname=x", NbdAddress("", host="::1", port=1234, export="x")),
        ("nbd://host", NbdAddress("", host="host")),
        ("nbd://[::1]:9/a%20b/c", NbdAddress("", host="::1", port=9, export="a b/c")),
        ("nbd+unix:///disk?socket=/run/s", NbdAddress("", socket="/run/s", export="disk")),
        ("nbds+unix:///?socket=s", NbdAddress("", socket="s", tls=True)),
        ("nbds://h/e?tls-certificates=/c", NbdAddress("", host="h", export="e", tls=True, tls_certificates="/c")),
    ],
)
def test_addresses(text: str, expected: NbdAddress) -> None:
    found = parse_address(text)
    assert NbdAddress(**{name: getattr(found, name) for name in found.__slots__} | {"text": ""}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "nbd:", "nbd:unix:", "nbd:host", "nbd:host:99999", "nbd:host:x", "nbd:///disk", "nbd+unix:///disk", "http://host/x",
        "nbd+unix://host/disk?socket=s", "nbd://host/x?socket=s", "nbd://host/x?colour=red", "nbd://host:77777/",
        "nbd://host/" + "x" * 5000, "nbd:unix:/a\0b",
    ],
)  # fmt: skip
def test_wrong_addresses_are_explained(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)
