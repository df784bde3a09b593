"""The protocol's two ends without sockets: bytes and descriptors in, messages out; calls in, bytes out.

A `ProtocolError` ends a connection: what was sent before it may still be flushed, then the transport is to be closed.
Everything else that goes wrong is an answer. Streams are known by the serial of the call that opened them. Not
thread-safe: one task or thread owns a connection.

Source: libvirt, "Details of the libvirt RPC protocol", and the traffic of virsh 9.0 and libvirtd 9.0.
"""

from __future__ import annotations

import enum
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from manor.base.errors import ProtocolError
from manor.base.states import StateTable
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
from manor.rpc.packet import LARGE_MAX, SMALL_MAX, Kind, Outgoing, Packet, PacketReader, Status, encode_packet
from manor.rpc.protocol.catalog import KEEPALIVE_PROGRAM, MANOR, QEMU, REMOTE, Procedure, Program
from manor.rpc.protocol.codec import TupleCodec
from manor.rpc.protocol.errors import ErrorCode, ErrorLevel, ErrorOrigin, rpc_error
from manor.rpc.protocol.records import LAYOUTS, ErrorRecord
from manor.rpc.xdr import EncodeError

CHUNK_SIZE = 262120
"""Bytes of stream data in a packet. Source: libvirt 9.0 sends no more."""

KEEPALIVE_VERSION = 1
_PING, _PONG = 1, 2

_PROGRAMS = {program.number: program for program in (REMOTE, QEMU, MANOR)}
_ERROR = TupleCodec("error", LAYOUTS["ErrorRecord"][1])
_HOLE = struct.Struct(">qI")


class StreamState(enum.Enum):
    """A stream, seen from either end."""

    OPENING = "opening"
    OPEN = "open"
    FINISHING = "finishing"
    ABORTING = "aborting"
    CLOSED = "closed"


class StreamStep(enum.Enum):
    """What happens to a stream. FINISH and ABORT come from the client, CONFIRM from the server, FAIL from either."""

    REPLY = "reply"
    FINISH = "finish"
    ABORT = "abort"
    CONFIRM = "confirm"
    FAIL = "fail"


STREAM = StateTable(
    "stream",
    StreamState.OPENING,
    {
        (StreamState.OPENING, StreamStep.REPLY): StreamState.OPEN,
        (StreamState.OPENING, StreamStep.FAIL): StreamState.CLOSED,
        (StreamState.OPEN, StreamStep.FINISH): StreamState.FINISHING,
        (StreamState.OPEN, StreamStep.ABORT): StreamState.ABORTING,
        (StreamState.OPEN, StreamStep.FAIL): StreamState.CLOSED,
        (StreamState.FINISHING, StreamStep.CONFIRM): StreamState.CLOSED,
        (StreamState.FINISHING, StreamStep.FAIL): StreamState.CLOSED,
        (StreamState.ABORTING, StreamStep.CONFIRM): StreamState.CLOSED,
        (StreamState.ABORTING, StreamStep.FAIL): StreamState.CLOSED,
    },
)


class _Stream:
    __slots__ = ("procedure", "state")

    def __init__(self, procedure: Procedure) -> None:
        self.procedure = procedure
        self.state = StreamState.OPENING


class _Connection(ABC):
    """What both ends do: packets, streams, keepalive."""

    def __init__(self, receive_limit: int, send_limit: int) -> None:
        self._reader = PacketReader(receive_limit)
        self._send_limit = send_limit
        self._outgoing: list[Outgoing] = []
        self._streams: dict[int, _Stream] = {}

    def receive(self, data: bytes, files: Iterable[int] = ()) -> Iterator[Message]:
        """What the bytes mean, one message after the other. Raises ProtocolError: the connection is over.

        files: descriptors that came along; they become this connection's until a message hands them on.
        """
        for packet in self._reader.receive(data, files):
            message = self._keepalive(packet) if packet.program == KEEPALIVE_PROGRAM else self._accept(packet)
            if message is not None:
                yield message

    def take_outgoing(self) -> list[Outgoing]:
        """What is to be sent, in order; it is the caller's now."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def send_ping(self) -> None:
        """Ask whether the other end lives; a `Pong` says so."""
        self._put(Packet(KEEPALIVE_PROGRAM, KEEPALIVE_VERSION, _PING, Kind.MESSAGE, 0, Status.OK))

    def send_stream_data(self, serial: int, data: bytes) -> None:
        """Send data, in as many packets as it takes. Raises StateError unless the stream is open."""
        stream = self._open_stream(serial)
        for start in range(0, len(data), CHUNK_SIZE):
            self._put_stream(stream, serial, Status.CONTINUE, data[start : start + CHUNK_SIZE])

    def send_stream_hole(self, serial: int, size: int) -> None:
        """Send `size` bytes of zeros without their bytes. The other end must have asked for sparse streams."""
        stream = self._open_stream(serial)
        self._put_stream(stream, serial, Status.CONTINUE, _HOLE.pack(size, 0), Kind.STREAM_HOLE)

    def end_stream_data(self, serial: int) -> None:
        """Say that no more data will come this way. Raises StateError unless the stream is open."""
        self._put_stream(self._open_stream(serial), serial, Status.CONTINUE)

    def has_stream(self, serial: int) -> bool:
        """Whether the stream is there: opened, or about to be, and not closed."""
        return serial in self._streams

    def stream_state(self, serial: int) -> StreamState:
        """The state of a stream; CLOSED for one that is not there."""
        stream = self._streams.get(serial)
        return StreamState.CLOSED if stream is None else stream.state

    def close(self) -> None:
        """Close descriptors that were received or to be sent and that nobody has taken."""
        self._reader.close()
        for outgoing in self.take_outgoing():
            _close_files(outgoing.files)

    @abstractmethod
    def _accept(self, packet: Packet) -> Message | None: ...

    def _keepalive(self, packet: Packet) -> Message:
        if packet.kind != Kind.MESSAGE or packet.version != KEEPALIVE_VERSION or packet.payload:
            raise ProtocolError("a keepalive message that is none")
        if packet.procedure == _PING:
            self._put(packet._replace(procedure=_PONG))
            return Ping()
        if packet.procedure == _PONG:
            return Pong()
        raise ProtocolError(f"keepalive procedure {packet.procedure}")

    def _put(self, packet: Packet) -> None:
        self._outgoing.append(encode_packet(packet, self._send_limit))

    def _put_stream(
        self, stream: _Stream, serial: int, status: Status, payload: bytes | bytearray = b"", kind: Kind = Kind.STREAM
    ) -> None:
        procedure = stream.procedure
        program = procedure.program
        self._put(Packet(program.number, program.version, procedure.number, kind, serial, status, payload))

    def _open_stream(self, serial: int) -> _Stream:
        stream = self._streams.get(serial)
        if stream is None or stream.state is not StreamState.OPEN:
            STREAM.next(self.stream_state(serial), StreamStep.FINISH)
        assert stream is not None
        return stream

    def _step(self, serial: int, step: StreamStep) -> _Stream:
        """Take a step. Raises StateError if the stream cannot."""
        stream = self._streams.get(serial)
        state = STREAM.next(self.stream_state(serial), step)
        assert stream is not None
        stream.state = state
        if state is StreamState.CLOSED:
            del self._streams[serial]
        return stream

    def _stream_of(self, packet: Packet) -> _Stream | None:
        stream = self._streams.get(packet.serial)
        if stream is None:
            # Data is not acknowledged: what was under way when a stream died arrives after its end.
            return None
        procedure = stream.procedure
        if (packet.program, packet.procedure) != (procedure.program.number, procedure.number):
            raise ProtocolError(f"stream {packet.serial} is {procedure.name}'s, not {packet.procedure}'s")
        return stream

    def _data(self, packet: Packet) -> Message:
        if packet.kind == Kind.STREAM_HOLE:
            if len(packet.payload) != _HOLE.size:
                raise ProtocolError("a hole in a stream that does not say how long it is")
            size, _ = _HOLE.unpack(packet.payload)
            if size < 0:
                raise ProtocolError(f"a hole of {size} bytes")
            return StreamHole(packet.serial, size)
        if packet.payload:
            return StreamData(packet.serial, bytes(packet.payload))
        return StreamEnd(packet.serial)


class ClientConnection(_Connection):
    """The end that calls. Replies may come in any order; `Reply` and `CallFailed` say which call they answer."""

    def __init__(self, receive_limit: int = LARGE_MAX) -> None:
        super().__init__(receive_limit, LARGE_MAX)
        self._serial = 0
        self._pending: dict[int, Procedure] = {}

    def call(self, procedure: Procedure, arguments: Iterable[Any] = (), files: tuple[int, ...] = ()) -> int:
        """Send a call; its serial. files: descriptors, which become the connection's. Raises EncodeError."""
        payload = procedure.encode_arguments(arguments)
        serial = self._serial
        kind = Kind.CALL_WITH_FILES if files else Kind.CALL
        program = procedure.program
        self._put(Packet(program.number, program.version, procedure.number, kind, serial, Status.OK, payload, files))
        self._serial = serial + 1 & 0xFFFFFFFF
        self._pending[serial] = procedure
        if procedure.stream:
            self._streams[serial] = _Stream(procedure)
        return serial

    @property
    def pending(self) -> int:
        """Calls without an answer."""
        return len(self._pending)

    def finish_stream(self, serial: int) -> None:
        """Close the stream in good order; `StreamFinished` confirms. Raises StateError unless it is open."""
        self._put_stream(self._step(serial, StreamStep.FINISH), serial, Status.OK)

    def abort_stream(self, serial: int) -> None:
        """Give the stream up; `StreamFinished` confirms. Raises StateError unless it is open."""
        self._put_stream(self._step(serial, StreamStep.ABORT), serial, Status.ERROR)

    def _accept(self, packet: Packet) -> Message | None:
        if packet.kind in (Kind.REPLY, Kind.REPLY_WITH_FILES):
            return self._on_reply(packet)
        if packet.kind == Kind.MESSAGE:
            return self._on_event(packet)
        if packet.kind in (Kind.STREAM, Kind.STREAM_HOLE):
            return self._on_stream(packet)
        raise ProtocolError(f"a server sends no packets of kind {packet.kind}")

    def _on_reply(self, packet: Packet) -> Message:
        try:
            procedure = self._pending.pop(packet.serial, None)
            if procedure is None:
                raise ProtocolError(f"a reply to call {packet.serial}, which is not waiting for one")
            if (packet.program, packet.procedure) != (procedure.program.number, procedure.number):
                raise ProtocolError(f"a reply of procedure {packet.procedure} to a call of {procedure.name}")
            if packet.status == Status.ERROR:
                _close_files(packet.files)
                self._streams.pop(packet.serial, None)
                return CallFailed(packet.serial, procedure, _decode_error(packet.payload))
            if packet.status != Status.OK:
                raise ProtocolError(f"a reply with status {packet.status}")
            value = procedure.decode_result(bytes(packet.payload))
        except ProtocolError:
            _close_files(packet.files)
            raise
        # libvirtd sends a stream's data, or its failure, from another thread: it may be here before the reply.
        if packet.serial in self._streams:
            self._step(packet.serial, StreamStep.REPLY)
        return Reply(packet.serial, procedure, value, packet.files)

    def _on_event(self, packet: Packet) -> Message | None:
        program = _PROGRAMS.get(packet.program)
        procedure = None if program is None else program.by_number.get(packet.procedure)
        if procedure is None:
            return None  # an event of a newer server
        if not procedure.is_event:
            raise ProtocolError(f"{procedure.name} is no event")
        return Event(procedure, procedure.decode_arguments(bytes(packet.payload)))

    def _on_stream(self, packet: Packet) -> Message | None:
        stream = self._stream_of(packet)
        if stream is None:
            return None
        if packet.status == Status.ERROR:
            self._step(packet.serial, StreamStep.FAIL)
            return StreamAborted(packet.serial, _decode_error(packet.payload))
        if packet.status == Status.OK:
            if stream.state in (StreamState.OPENING, StreamState.OPEN):
                raise ProtocolError(f"stream {packet.serial} is confirmed, but was not finished")
            self._step(packet.serial, StreamStep.CONFIRM)
            return StreamFinished(packet.serial)
        return self._data(packet)


class ServerConnection(_Connection):
    """The end that answers. A call it cannot understand, or may not make, is answered here and never seen outside."""

    def __init__(
        self,
        *,
        is_read_only: bool = False,
        programs: Iterable[Program] = (REMOTE, QEMU, MANOR),
        receive_limit: int = SMALL_MAX,
    ) -> None:
        """is_read_only: calls that change or reveal too much are refused; may be set while the connection lives."""
        super().__init__(receive_limit, LARGE_MAX)
        self.is_read_only = is_read_only
        self._programs = {program.number: program for program in programs}
        self._calls: dict[int, Call] = {}

    @property
    def pending(self) -> int:
        """Calls that have not been answered."""
        return len(self._calls)

    def reply(self, call: Call, value: Any = None, files: tuple[int, ...] = ()) -> None:
        """Answer. A value that does not fit the protocol becomes an error reply, and the EncodeError is raised.

        files: descriptors, which become the connection's. Raises KeyError if the call was answered before.
        """
        try:
            payload = call.procedure.encode_result(value)
            kind = Kind.REPLY_WITH_FILES if files else Kind.REPLY
            outgoing = encode_packet(_answer(call, Status.OK, payload, kind, files), self._send_limit)
        except EncodeError as error:
            _close_files(files)
            self.fail(call, ErrorRecord(ErrorCode.INTERNAL_ERROR, ErrorOrigin.RPC, f"internal error: {error}"))
            raise
        del self._calls[call.serial]
        self._outgoing.append(outgoing)
        if call.procedure.stream:
            stream = self._streams[call.serial] = _Stream(call.procedure)
            stream.state = StreamState.OPEN

    def fail(self, call: Call, error: ErrorRecord) -> None:
        """Answer with an error; one that does not fit the protocol is cut until it does.

        Raises KeyError if the call was answered before.
        """
        del self._calls[call.serial]
        self._put(_answer(call, Status.ERROR, encode_error(error)))

    def send_event(self, procedure: Procedure, arguments: Iterable[Any]) -> None:
        """Send an event message. Raises EncodeError."""
        program = procedure.program
        payload = procedure.encode_arguments(arguments)
        self._put(Packet(program.number, program.version, procedure.number, Kind.MESSAGE, 1, Status.OK, payload))

    def confirm_stream(self, serial: int) -> None:
        """Answer `StreamFinished` or `StreamAborted`; the stream is gone. Raises StateError if neither came."""
        self._put_stream(self._step(serial, StreamStep.CONFIRM), serial, Status.OK)

    def fail_stream(self, serial: int, error: ErrorRecord) -> None:
        """End the stream with an error. Raises StateError if it is not there."""
        self._put_stream(self._step(serial, StreamStep.FAIL), serial, Status.ERROR, encode_error(error))

    def _accept(self, packet: Packet) -> Message | None:
        if packet.kind in (Kind.CALL, Kind.CALL_WITH_FILES):
            return self._on_call(packet)
        if packet.kind in (Kind.STREAM, Kind.STREAM_HOLE):
            return self._on_stream(packet)
        raise ProtocolError(f"a client sends no packets of kind {packet.kind}")

    def _on_call(self, packet: Packet) -> Message | None:
        if packet.status != Status.OK or packet.serial in self._calls or packet.serial in self._streams:
            _close_files(packet.files)
            raise ProtocolError(f"call {packet.serial} has status {packet.status}, or its serial is in use")
        message = self._understand(packet)
        if isinstance(message, Call):
            self._calls[packet.serial] = message
            return message
        _close_files(packet.files)
        self._put(
            Packet(
                packet.program, packet.version, packet.procedure, Kind.REPLY, packet.serial, Status.ERROR,
                encode_error(message),
            )
        )  # fmt: skip
        return None

    def _understand(self, packet: Packet) -> Call | ErrorRecord:
        program = self._programs.get(packet.program)
        if program is None or program.version != packet.version:
            return rpc_error(f"there is no program {packet.program:#x} version {packet.version} here")
        procedure = program.by_number.get(packet.procedure)
        if procedure is None or procedure.is_event:
            # go-libvirt looks for these two words.
            return rpc_error(f"unknown procedure: {packet.procedure}")
        if packet.files and procedure.files != "fds-in":
            return rpc_error(f"{procedure.name} takes no file descriptors")
        try:
            arguments = procedure.decode_arguments(bytes(packet.payload))
        except ProtocolError as error:
            return rpc_error(f"cannot decode the arguments of {error}")
        if self.is_read_only:
            missing = procedure.missing_for_read_only(arguments)
            if missing is not None:
                message = f"operation {procedure.name} forbidden: a read-only connection has no {missing}"
                return rpc_error(message, ErrorCode.OPERATION_DENIED)
        return Call(packet.serial, procedure, arguments, packet.files)

    def _on_stream(self, packet: Packet) -> Message | None:
        stream = self._stream_of(packet)
        if stream is None or stream.state is not StreamState.OPEN:
            return None
        if packet.status == Status.ERROR:
            self._step(packet.serial, StreamStep.ABORT)
            return StreamAborted(packet.serial, None)
        if packet.status == Status.OK:
            self._step(packet.serial, StreamStep.FINISH)
            return StreamFinished(packet.serial)
        return self._data(packet)


def encode_error(error: ErrorRecord) -> bytearray:
    """An error record's payload, whatever is in it: a reply that cannot be sent leaves a client waiting for ever."""
    try:
        return _ERROR.encode(error)
    except EncodeError:
        message = str(error.message).replace("\0", "")[:1000]
        code, origin = (value if isinstance(value, int) else ErrorCode.INTERNAL_ERROR for value in error[:2])
        return _ERROR.encode(
            ErrorRecord(code & 0x7FFFFFFF, origin & 0x7FFFFFFF, message, ErrorLevel.ERROR, str1="%s", str2=message)
        )


def _decode_error(payload: bytes | bytearray) -> ErrorRecord:
    values = _ERROR.decode(bytes(payload))
    return ErrorRecord(*values)


def _answer(
    call: Call, status: Status, payload: bytearray, kind: Kind = Kind.REPLY, files: tuple[int, ...] = ()
) -> Packet:
    program = call.procedure.program
    return Packet(program.number, program.version, call.procedure.number, kind, call.serial, status, payload, files)


def _close_files(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)
