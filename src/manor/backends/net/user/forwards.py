"""Ports of the host that lead into the guest."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from manor.backends.net.user.host_socket import OUT_OF_DESCRIPTORS, from_host, to_host
from manor.backends.net.user.host_tcp import TcpFlow
from manor.backends.net.user.host_udp import BUFFER
from manor.backends.net.user.mappings import ForwardedPeer
from manor.base.clock import MILLISECOND
from manor.base.errors import ConfigError, HostError
from manor.spec.net import PortForward

if TYPE_CHECKING:
    from manor.backends.net.user.host import HostSide

logger = logging.getLogger(__name__)

_BACKLOG: Final = 128
_TURNS: Final = 16
_REST: Final = 100 * MILLISECOND
"""How long a listener sleeps when the process has no descriptor left for what it would accept."""
_CHOICES: Final = 16
"""Ports tried where the host chooses one that has to be free on two addresses."""


class _Listener:
    """A listening TCP socket."""

    def __init__(self, host: HostSide, forward: PortForward, guest: bytes, sock: socket.socket) -> None:
        self._host = host
        self._forward = forward
        self._guest = guest
        self._socket = sock
        self._is_open = True
        sock.listen(_BACKLOG)
        self._watch = host.loop.watch(sock.fileno(), host.in_turn(self._readable))
        self._watch.want(read=True)

    def _readable(self) -> None:
        for _ in range(_TURNS):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    self._rest()
                return  # others concern the connection, which is gone (accept(2))
            sock.setblocking(False)
            flow = TcpFlow(self._host, sock)
            endpoint = self._host.core.connect(flow, self._guest, self._forward.guest_port, from_host(address)[1])
            if endpoint is None:
                flow.drop()
            else:
                flow.endpoint = endpoint

    def _rest(self) -> None:
        """Readiness would be reported again at once, for ever."""
        self._host.no_descriptors()
        self._watch.want()
        self._host.loop.at(self._host.clock.now_ns() + _REST, self._wake)

    def _wake(self) -> None:
        if self._is_open:
            self._watch.want(read=True)

    def close(self) -> None:
        self._is_open = False
        self._watch.close()
        self._socket.close()


class UdpPort:
    """A bound UDP socket; its peers and their mappings are the core's."""

    def __init__(self, host: HostSide, forward: PortForward, guest: bytes, sock: socket.socket) -> None:
        self._host = host
        self._forward = forward
        self._guest = guest
        self._socket = sock
        self._watch = host.loop.watch(sock.fileno(), host.in_turn(self._readable))
        self._watch.want(read=True)

    def _readable(self) -> None:
        for _ in range(_TURNS):
            try:
                size, address = self._socket.recvfrom_into(BUFFER)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an answer: the peer is gone
            payload = bytes(memoryview(BUFFER)[:size])
            if not self._host.is_full():
                self._host.core.forward_udp(
                    self, address, from_host(address)[1], self._guest, self._forward.guest_port, payload
                )

    def send(self, peer: ForwardedPeer, payload: bytes) -> None:
        with suppress(OSError):  # lost, as on any wire
            self._socket.sendto(payload, peer.peer)  # type: ignore[call-overload]

    def close(self) -> None:
        self._host.core.udp.forget_forward(self)
        self._watch.close()
        self._socket.close()


class Forwards:
    """The forwarded ports, added and removed at any time. Thread: the loop's, or any before it starts."""

    def __init__(self, host: HostSide) -> None:
        self._host = host
        self._open: dict[PortForward, list[_Listener | UdpPort]] = {}

    def all(self) -> tuple[PortForward, ...]:
        """As they were asked for, with the port that the host chose."""
        return tuple(self._open)

    def add(self, forward: PortForward) -> PortForward:
        """Listen; returns the forward with its actual host port. Raises ConfigError or HostError, which name the
        port."""
        guest = _guest_address(forward)
        for name, port, least in (("host", forward.host_port, 0), ("guest", forward.guest_port, 1)):
            if not least <= port <= 65535:
                raise ConfigError("forward", f"{name} port {port} is not from {least} to 65535")
        addresses = _addresses(forward.host_address)
        sockets = self._bind(forward, addresses)
        actual = replace(forward, host_port=sockets[0].getsockname()[1])
        make: Callable[..., _Listener | UdpPort] = _Listener if forward.protocol == "tcp" else UdpPort
        self._open[actual] = [make(self._host, actual, guest, sock) for sock in sockets]
        return actual

    def remove(self, protocol: str, host_port: int, host_address: str = "") -> PortForward:
        """Listen no more; connections that are open stay. Raises HostError if there is no such forward."""
        for forward in self._open:
            if (forward.protocol, forward.host_port, forward.host_address) == (protocol, host_port, host_address):
                for listener in self._open.pop(forward):
                    listener.close()
                return forward
        known = ", ".join(f"{forward.protocol} {forward.host_port}" for forward in self._open) or "none"
        raise HostError(f"{protocol} port {host_port} is not forwarded; forwarded are: {known}")

    def close(self) -> None:
        for listeners in self._open.values():
            for listener in listeners:
                listener.close()
        self._open.clear()

    def _bind(self, forward: PortForward, addresses: list[bytes]) -> list[socket.socket]:
        for attempt in range(_CHOICES):
            sockets: list[socket.socket] = []
            port = forward.host_port
            try:
                for index, address in enumerate(addresses):
                    try:
                        sockets.append(_bound(forward.protocol, address, port))
                    except OSError as error:
                        # The loopback of IPv6 is a convenience: hosts without IPv6 do without.
                        missing = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                        if not (index and missing):
                            raise
                    port = sockets[0].getsockname()[1]
                return sockets
            except OSError as error:
                for sock in sockets:
                    sock.close()
                if error.errno == errno.EADDRINUSE and forward.host_port == 0 and attempt < _CHOICES - 1:
                    continue
                raise _refusal(forward, error) from error
        raise HostError(f"no free {forward.protocol} port found to forward to port {forward.guest_port} of the guest")


def _bound(protocol: str, address: bytes, port: int) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET if len(address) == 4 else socket.AF_INET6, kind | socket.SOCK_NONBLOCK)
    try:
        if protocol == "tcp":
            # The port is free as soon as nobody listens, whatever old connections there were (ip(7)).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if len(address) == 16:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(to_host(address, port))
    except OSError:
        sock.close()
        raise
    return sock


def _addresses(text: str) -> list[bytes]:
    if not text:
        return [bytes((127, 0, 0, 1)), bytes(15) + b"\x01"]
    try:
        return [ipaddress.ip_address(text).packed]
    except ValueError as error:
        raise ConfigError("forward", f"{text!r} is not an address of this host; use for example 127.0.0.1") from error


def _guest_address(forward: PortForward) -> bytes:
    if not forward.guest_address:
        return b""
    try:
        return ipaddress.ip_address(forward.guest_address).packed
    except ValueError as error:
        raise ConfigError("forward", f"{forward.guest_address!r} is not an IP address of the guest") from error


def _refusal(forward: PortForward, error: OSError) -> HostError:
    where = f"{forward.protocol} port {forward.host_port} of {forward.host_address or 'the loopback'}"
    attempt = {
        errno.EADDRINUSE: f"{where} is taken by another program; choose another host port, or 0 for any that is free",
        errno.EACCES: f"{where} is reserved for root; choose a host port from 1024",
        errno.EADDRNOTAVAIL: f"{where}: no such address here; leave it out for the loopback, or use 0.0.0.0 for all",
    }.get(error.errno or 0)
    if attempt is None:
        return HostError.from_os_error(f"cannot listen on {where}", error)
    return HostError(attempt, error.errno)
