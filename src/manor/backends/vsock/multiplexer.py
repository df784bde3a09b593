"""All connections of one guest: the rules for packets that belong to one, or to none. No I/O.

Source: VIRTIO 1.2, section 5.10.6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from manor.backends.vsock.connection import BUFFER_SIZE, Connection, State, Stream
from manor.backends.vsock.packet import HOST_CID, TYPE_STREAM, Op, Packet
from manor.base.errors import HostError
from manor.trace.event import declare, guest_error

CONNECTION_LIMIT: Final = 512
"""Connections at a time: each may hold BUFFER_SIZE bytes and a descriptor of the host."""
REFUSAL_LIMIT: Final = 256
"""Refusals waiting for the guest; with more its packets wait (5.10.6.1.1)."""
FIRST_HOST_PORT: Final = 1 << 30
"""Our own ports count from here: lower ones are for services."""
_PORTS: Final = 1 << 31

vsock_open = declare("vsock_open", host_port=int, guest_port=int, by_guest=bool)
vsock_close = declare("vsock_close", host_port=int, guest_port=int)

Accept = Callable[[int, int], Stream | None]
"""(host port, guest port) -> the program of the host that listens there, None if none does."""


class Multiplexer:
    """backends.vsock.api.VsockBackend. Thread: the I/O loop's."""

    def __init__(self, cid: int, accept: Accept) -> None:
        self.cid = cid
        self.on_packets: Callable[[], None] = _do_nothing
        self._accept = accept
        self._connections: dict[tuple[int, int], Connection] = {}
        self._ready: deque[tuple[int, int]] = deque()
        self._refusals: dict[tuple[int, int], None] = {}
        self._next_port = FIRST_HOST_PORT

    # --- the host's side --------------------------------------------------------------------------------------

    def connect(self, guest_port: int, stream: Stream) -> Connection:
        """Ask the guest; `stream.opened` or `stream.closed` follows. Raises HostError if there are too many."""
        if len(self._connections) >= CONNECTION_LIMIT:
            raise HostError(f"the guest has {CONNECTION_LIMIT} vsock connections; close some")
        while (self._next_port, guest_port) in self._connections:
            self._next_port += 1
        connection = Connection(self._next_port, guest_port, stream, is_accepted=False)
        self._next_port = FIRST_HOST_PORT + (self._next_port + 1 - FIRST_HOST_PORT) % (_PORTS - 1)
        self._add(connection)
        return connection

    def readable(self, connection: Connection) -> None:
        """The stream may have bytes again."""
        if self._owns(connection) and connection.state is State.OPEN:
            connection.is_readable = True
            self._wake(connection)

    def writable(self, connection: Connection) -> None:
        """The stream may take bytes again."""
        if self._owns(connection):
            connection.flush()
            self._wake(connection)

    def abandon(self, connection: Connection) -> None:
        """The program of the host is gone, or waited long enough."""
        if self._owns(connection):
            self._remove(connection, refuse=True)

    def _owns(self, connection: Connection) -> bool:
        return self._connections.get((connection.host_port, connection.guest_port)) is connection

    # --- backends.vsock.api.VsockBackend ----------------------------------------------------------------------

    @property
    def has_packets(self) -> bool:
        return bool(self._refusals) or bool(self._ready)

    @property
    def is_congested(self) -> bool:
        return len(self._refusals) >= REFUSAL_LIMIT

    def reset(self) -> None:
        connections, self._connections = list(self._connections.values()), {}
        self._ready.clear()
        self._refusals.clear()
        for connection in connections:
            connection.reset()

    def receive(self, packet: Packet) -> None:
        key = (packet.target_port, packet.source_port)
        if packet.source_cid != self.cid or packet.target_cid != HOST_CID:
            self._report(f"packet from CID {packet.source_cid} to CID {packet.target_cid}")
            return
        connection = self._connections.get(key)
        if packet.type != TYPE_STREAM or (connection is None and packet.op != Op.REQUEST):
            if packet.op != Op.RST:
                self._refuse(key)
        elif connection is None:
            self._requested(key, packet)
        else:
            connection.note_credit(packet)
            if not self._deliver(connection, packet):
                self._report(f"operation {packet.op} on {key} in state {connection.state.value}, or without credit")
                self._remove(connection, refuse=True)
            elif self._owns(connection):
                self._wake(connection)

    def _deliver(self, connection: Connection, packet: Packet) -> bool:
        """False if the packet is out of place."""
        match packet.op:
            case Op.RESPONSE:
                return connection.accepted()
            case Op.RST:
                self._remove(connection, refuse=False)
            case Op.SHUTDOWN:
                connection.shut_down(packet.flags)
            case Op.RW:
                return connection.take(packet.payload)
            case Op.CREDIT_UPDATE:
                pass
            case Op.CREDIT_REQUEST:
                connection.answer_credit_request()
            case _:
                return False  # a second REQUEST, or a number that means nothing
        return True

    def next_packet(self, room: int) -> Packet | None:
        if self._refusals:
            host_port, guest_port = next(iter(self._refusals))
            del self._refusals[host_port, guest_port]
            return Packet(HOST_CID, self.cid, host_port, guest_port, Op.RST)
        while self._ready:
            key = self._ready.popleft()
            connection = self._connections.get(key)
            found = None if connection is None else connection.next(room)
            if connection is None or found is None:
                continue
            op, flags, payload = found
            packet = Packet(
                HOST_CID, self.cid, connection.host_port, connection.guest_port, op, TYPE_STREAM, flags, BUFFER_SIZE,
                connection.forwarded, payload,
            )  # fmt: skip
            if op is Op.RST:
                self._remove(connection, refuse=False)
            elif connection.has_packets:
                self._ready.append(key)  # the others come first
            return packet
        return None

    # --- inside -----------------------------------------------------------------------------------------------

    def _requested(self, key: tuple[int, int], packet: Packet) -> None:
        """The guest wants to connect."""
        stream = self._accept(*key) if len(self._connections) < CONNECTION_LIMIT else None
        if stream is None:
            self._refuse(key)
            return
        connection = Connection(*key, stream, is_accepted=True)
        stream.connection = connection
        connection.note_credit(packet)
        self._add(connection, by_guest=True)
        stream.opened(key[0])

    def _add(self, connection: Connection, by_guest: bool = False) -> None:
        self._connections[connection.host_port, connection.guest_port] = connection
        if vsock_open.on:
            vsock_open(connection.host_port, connection.guest_port, by_guest)
        self._wake(connection)

    def _remove(self, connection: Connection, refuse: bool) -> None:
        key = (connection.host_port, connection.guest_port)
        del self._connections[key]
        if vsock_close.on:
            vsock_close(*key)
        if refuse:
            self._refuse(key)
        connection.reset()

    def _refuse(self, key: tuple[int, int]) -> None:
        had = self.has_packets
        if len(self._refusals) < 2 * REFUSAL_LIMIT:
            self._refusals[key] = None
        if not had:
            self.on_packets()

    def _wake(self, connection: Connection) -> None:
        key = (connection.host_port, connection.guest_port)
        if connection.has_packets and key not in self._ready:
            had = self.has_packets
            self._ready.append(key)
            if not had:
                self.on_packets()

    def _report(self, message: str) -> None:
        if guest_error.on:
            guest_error("vsock", message)


def _do_nothing() -> None:
    """No device yet."""
