"""One connection of the client: any number of threads with requests, no thread of its own.

Who waits for an answer while nobody receives does it for all. So a single request costs no switch of threads, and many
at once share one reader.
"""

from __future__ import annotations

import ssl
import threading
from contextlib import suppress
from typing import Final

from manor.backends.block.nbd.handshake import ClientHandshake, Export, Offer, Refused
from manor.backends.block.nbd.incoming import CHUNK
from manor.backends.block.nbd.transmission import Call, Transmission
from manor.backends.block.nbd.transport import HANDSHAKE_SECONDS, Transport, client_context, connect
from manor.backends.block.nbd.uri import NbdAddress
from manor.backends.block.nbd.wire import Command, Reply
from manor.base.errors import HostError, ManorError, ProtocolError

MAX_NAMES: Final = 20
"""Exports that an error lists."""

_CHANGES: Final = frozenset({Command.WRITE, Command.WRITE_ZEROES, Command.TRIM})


class ConnectionLost(HostError):
    """The connection ended, or is of no more use. Whether the server did what was asked is not known."""


class NbdConnection:
    """A negotiated connection. Any thread."""

    def __init__(self, address: NbdAddress, transport: Transport, export: Export) -> None:
        self._address = address
        self._transport = transport
        self.export = export
        self._transmission = Transmission(export)
        self._receive_buffer = memoryview(bytearray(CHUNK))
        self._condition = threading.Condition()
        self._is_receiving = False
        self._failure: str | None = None
        self._changes = 0
        self._flushed = 0

    @property
    def has_unflushed(self) -> bool:
        """Changes were answered that no flush has covered: they are gone if the server is."""
        with self._condition:
            return self._changes > self._flushed

    def perform(self, call: Call) -> None:
        """Do `call`; its answer is in it. Raises ConnectionLost."""
        with self._condition:
            self._check()
            changes = self._changes
            header = self._transmission.begin(call)
        try:
            self._transport.send([memoryview(header), *(call.buffers if call.command is Command.WRITE else ())])
        except OSError as error:
            self._fail(f"the connection broke while sending: {error}")
        self._wait(call)
        with self._condition:
            if call.error == 0 and call.command is Command.FLUSH:
                self._flushed = max(self._flushed, changes)

    def _wait(self, call: Call) -> None:
        with self._condition:
            while True:
                if call.is_done:
                    return
                if not self._is_receiving:
                    # Only now: after a failure the one who receives may still be filling this call's buffers.
                    self._check()
                    break
                self._condition.wait()
            self._is_receiving = True
        try:
            while not call.is_done:
                self._receive()
        except OSError as error:
            self._fail(f"the connection broke: {error}")
        except ProtocolError as error:
            self._fail(f"the server does not follow the protocol: {error}")
        except BaseException:
            # An interrupt between receiving and understanding: what follows would be taken for something else.
            self._fail("it was interrupted")
            raise
        finally:
            with self._condition:
                self._is_receiving = False
                # The next one who waits takes over.
                self._condition.notify_all()
        with self._condition:
            if not call.is_done:
                self._check()

    def _receive(self) -> None:
        """Receive once and hand out what is complete. Only the thread that set `_is_receiving`."""
        incoming = self._transmission.incoming
        room = incoming.room()
        count = self._transport.receive_into(room if room is not None else self._receive_buffer)
        if count == 0:
            raise ConnectionResetError("the server closed it")
        with self._condition:
            if room is not None:
                incoming.filled(count)
            else:
                incoming.receive(self._receive_buffer[:count])
            completed = self._transmission.completed
            if completed:
                self._changes += sum(call.command in _CHANGES and not call.error for call in completed)
                completed.clear()
                self._condition.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise ConnectionLost(f"{self._address.text}: {self._failure}")

    def _fail(self, reason: str) -> None:
        with self._condition:
            if self._failure is None:
                self._failure = reason
            self._condition.notify_all()
        self._transport.shutdown()

    def close(self) -> None:
        """Say goodbye and close. Requests that are under way fail."""
        with self._condition:
            is_usable = self._failure is None
            goodbye = self._transmission.begin(Call(Command.DISC, 0, 0))
        if is_usable:
            with suppress(OSError):  # the server may have been first
                self._transport.send([memoryview(goodbye)])
        self._fail("it was closed")
        self._transport.close()


def open_connection(address: NbdAddress) -> NbdConnection:
    """Connect and agree on the export. Raises HostError, ProtocolError, ConfigError."""
    handshake = ClientHandshake(address.export, tls=address.tls)
    try:
        transport = negotiate(address, handshake)
    except Refused as error:
        raise HostError(f"{address.text}: {error}{_what_there_is(address, error)}") from error
    try:
        export = handshake.outcome.export
        if export is None or not handshake.incoming.is_between:
            raise ProtocolError(f"{address.text}: the server sent something before it was asked")
        return NbdConnection(address, transport, export)
    except BaseException:
        transport.close()
        raise


def list_exports(address: NbdAddress) -> list[Offer]:
    """The exports that the server offers. Raises HostError, ProtocolError, ConfigError."""
    handshake = ClientHandshake("", tls=address.tls, list_only=True)
    try:
        negotiate(address, handshake).close()
    except Refused as error:
        raise HostError(f"{address.text}: {error}") from error
    return handshake.outcome.offers or []


def _what_there_is(address: NbdAddress, error: Refused) -> str:
    """The names that would have been right, if it is the name that was wrong and the server tells them."""
    if error.reply != Reply.ERR_UNKNOWN:
        return ""
    try:
        names = [repr(offer.name) for offer in list_exports(address)[:MAX_NAMES]]
    except ManorError:
        return ""
    return f"; it has {', '.join(names)}" if names else ""


def negotiate(address: NbdAddress, handshake: ClientHandshake) -> Transport:
    """Connect and carry the negotiation's bytes until it is over. The transport is the caller's.

    Raises HostError, of which Refused; ProtocolError, ConfigError.
    """
    transport: Transport = connect(address)
    try:
        transport.set_timeout(HANDSHAKE_SECONDS)
        buffer = memoryview(bytearray(CHUNK))
        while True:
            if output := handshake.take_output():
                transport.send([memoryview(output)])
            if handshake.outcome.wants_tls:
                host = address.tls_hostname or address.host or "localhost"
                transport = transport.start_tls(client_context(address), host)
                handshake.tls_started()
                continue
            if handshake.incoming.is_done:
                transport.set_timeout(None)
                return transport
            count = transport.receive_into(buffer)
            if count == 0:
                raise ConnectionResetError("the server closed the connection; it may not have the export")
            handshake.receive(buffer[:count])
    except ssl.SSLCertVerificationError as error:
        transport.close()
        raise HostError(
            f"{address.text}: the server's certificate is not trusted ({error.verify_message}); check the host's name,"
            " or name the folder that has the authority's ca-cert.pem: ?tls-certificates=FOLDER"
        ) from error
    except OSError as error:
        transport.close()
        raise HostError(f"{address.text}: negotiating with the server: {error}", error.errno) from error
    except ManorError as error:
        transport.close()
        if isinstance(error, ProtocolError):
            raise ProtocolError(f"{address.text}: {error}") from error
        raise
    except BaseException:
        transport.close()
        raise
