"""Datagram sockets of the host: one for each UDP port, and each echo identifier, of the guest."""

from __future__ import annotations

import socket
import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from manor.backends.net.user.host_socket import (
    family_of,
    from_host,
    queued_errors,
    report_errors,
    set_ttl,
    to_host,
)
from manor.backends.net.user.icmp import ECHO_REPLY4, ECHO_REPLY6, ECHO_REQUEST4, ECHO_REQUEST6, Reason, reason_of
from manor.backends.net.user.mappings import EchoMapping, UdpMapping

if TYPE_CHECKING:
    from manor.backends.net.user.host import HostSide

_TURNS: Final = 16
"""Datagrams from one socket before the others get their turn."""
_MAX_DATAGRAM: Final = 65535
BUFFER: Final = bytearray(_MAX_DATAGRAM + 1)
"""Where datagrams are received, on the loop's thread alone; a copy of the size that came goes on."""


class DatagramFlow(ABC):
    """A socket whose peers change. Thread: the owner's."""

    __slots__ = ("_host", "_is_v6", "_socket", "_ttl", "_watch")

    def __init__(self, host: HostSide, address: bytes, protocol: int) -> None:
        """address: any of the family wanted. Raises OSError."""
        self._host = host
        self._is_v6 = len(address) == 16
        self._socket = host.make_socket(family_of(address), socket.SOCK_DGRAM, protocol)
        self._ttl = 0
        report_errors(self._socket)
        self._watch = host.loop.watch(self._socket.fileno(), host.in_turn(self._readable))
        self._watch.want(read=True)

    def _send(self, payload: bytes, address: bytes, port: int, ttl: int) -> Reason | None:
        sock = self._socket
        target = to_host(address, port)
        try:
            if ttl != self._ttl:
                set_ttl(sock, ttl)
                self._ttl = ttl
            try:
                sock.sendto(payload, target)
            except ConnectionRefusedError:
                # An error about an earlier datagram; the queue has its details. This one was not sent.
                self._errors()
                sock.sendto(payload, target)
        except BlockingIOError:
            return None  # no room: lost, as on any wire
        except OSError as error:
            return reason_of(error.errno or 0)
        return None

    def _readable(self) -> None:
        for _ in range(_TURNS):
            try:
                size, address = self._socket.recvfrom_into(BUFFER)
            except BlockingIOError:
                return
            except OSError:
                self._errors()
                continue
            source, port = from_host(address)
            self._received(source, port, bytes(memoryview(BUFFER)[:size]))

    @abstractmethod
    def _received(self, source: bytes, port: int, payload: bytes) -> None: ...

    @abstractmethod
    def _errors(self) -> None: ...

    def close(self) -> None:
        self._watch.close()
        self._socket.close()


class UdpFlow(DatagramFlow):
    """The socket of one UdpMapping."""

    __slots__ = ("_mapping",)

    def __init__(self, host: HostSide, mapping: UdpMapping) -> None:
        super().__init__(host, mapping.address, 0)
        self._mapping = mapping

    def send(self, address: bytes, port: int, payload: bytes, ttl: int) -> Reason | None:
        return self._send(payload, address, port, ttl)

    def _received(self, source: bytes, port: int, payload: bytes) -> None:
        core = self._host.core
        if not self._host.is_full():
            core.udp_received(self._mapping, core.guest_view(source), port, payload)

    def _errors(self) -> None:
        core = self._host.core
        for error in queued_errors(self._socket):
            core.udp_failed(
                self._mapping,
                error.reason,
                self._host.reporter(error.reporter),
                core.guest_view(error.destination),
                error.port,
                error.mtu,
            )


class EchoFlow(DatagramFlow):
    """The ping socket of one EchoMapping (icmp(7); needs the user's group in net.ipv4.ping_group_range)."""

    __slots__ = ("_mapping",)

    def __init__(self, host: HostSide, mapping: EchoMapping) -> None:
        super().__init__(host, mapping.address, socket.IPPROTO_ICMPV6 if mapping.is_v6 else socket.IPPROTO_ICMP)
        self._mapping = mapping

    def send(self, address: bytes, sequence: int, data: bytes, ttl: int) -> Reason | None:
        # The kernel fills in identifier and checksum.
        kind = ECHO_REQUEST6 if self._is_v6 else ECHO_REQUEST4
        return self._send(struct.pack(">BBHHH", kind, 0, 0, 0, sequence) + data, address, 0, ttl)

    def _received(self, source: bytes, port: int, payload: bytes) -> None:
        if len(payload) < 8 or payload[0] != (ECHO_REPLY6 if self._is_v6 else ECHO_REPLY4):
            return
        sequence = int.from_bytes(payload[6:8], "big")
        core = self._host.core
        core.echo_received(self._mapping, core.guest_view(source), sequence, payload[8:])

    def _errors(self) -> None:
        core = self._host.core
        for error in queued_errors(self._socket):
            sequence = int.from_bytes(error.data[6:8], "big")
            destination = core.guest_view(error.destination)
            core.echo_failed(
                self._mapping, error.reason, self._host.reporter(error.reporter), destination, sequence, error.mtu
            )
