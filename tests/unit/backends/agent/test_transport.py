"""The agent's port: what waits, what is dropped, and an agent that comes and goes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from manor.backends.agent import transport as transport_module
from manor.backends.agent.client import AgentNotThere
from manor.backends.agent.transport import PortTransport, SocketTransport


class Port:
    """A device's port with room for `room` bytes."""

    def __init__(self, room: int) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.on_open: Callable[[bool], None] = lambda is_open: None
        self.room = room
        self.got = bytearray()
        self.guest_open = False

    def can_receive(self) -> int:
        return self.room

    def receive(self, data: bytes) -> int:
        assert len(data) <= self.room
        self.got += data
        self.room -= len(data)
        return len(data)


def connected(room: int = 1 << 20) -> tuple[PortTransport, Port]:
    transport, port = PortTransport(), Port(room)
    transport.connect(port, threading.RLock())
    return transport, port


def test_nobody_has_opened_the_port() -> None:
    with pytest.raises(AgentNotThere, match="opened the port"):
        PortTransport().send(b"x")
    with pytest.raises(AgentNotThere, match="opened the port"):
        connected()[0].send(b"x")


def test_both_ways() -> None:
    transport, port = connected()
    opened: list[bool] = []
    transport.on_opened = lambda: opened.append(True)
    port.on_open(True)
    assert opened == [True]
    transport.send(b"question")
    assert port.got == b"question"
    assert transport.receive(0.01) == b""
    transport.write(b"ans")
    transport.write(b"wer")
    assert transport.receive(0.01) == b"answer"


def test_port_that_is_full_gets_the_rest_when_it_has_room() -> None:
    transport, port = connected(room=3)
    port.on_open(True)
    sender = threading.Thread(target=transport.send, args=(b"abcdef",))
    sender.start()
    while len(port.got) < 3:
        pass
    port.room = 100
    port.on_room()
    sender.join(5)
    assert port.got == b"abcdef"


def test_guest_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "SEND_S", 0.02)
    transport, port = connected(room=2)
    port.on_open(True)
    with pytest.raises(AgentNotThere, match="does not read"):
        transport.send(b"abc")
    port.room = 100
    port.on_room()
    assert port.got == b"ab"


def test_agent_that_closes_the_port_ends_the_wait_and_leaves_nothing() -> None:
    transport, port = connected()
    port.on_open(True)
    transport.write(b"rest")
    port.on_open(False)
    with pytest.raises(AgentNotThere, match="closed"):
        transport.receive(5)
    port.on_open(True)
    assert transport.receive(0.01) == b""
    transport.disconnect()
    with pytest.raises(AgentNotThere, match="opened the port"):
        transport.send(b"x")


def test_guest_that_talks_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "RECEIVE_LIMIT", 10)
    transport, port = connected()
    port.on_open(True)
    for _ in range(10):
        transport.write(b"1234")
    assert transport.receive(0) == b"12341234"


def test_socket() -> None:
    ours, theirs = socket.socketpair()
    transport = SocketTransport(ours)
    transport.send(b"x")
    assert theirs.recv(10) == b"x"
    assert transport.receive(0.01) == b""
    theirs.close()
    with pytest.raises(AgentNotThere, match="closed"):
        transport.receive(1)
    transport.close()
