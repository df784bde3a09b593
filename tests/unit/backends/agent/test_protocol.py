"""The agent's line protocol: sessions, halves, and answers that are none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.backends.agent import protocol as protocol_module
from manor.backends.agent.protocol import AgentProtocol, Answer
from manor.base.errors import ProtocolError


def synchronized() -> AgentProtocol:
    protocol = AgentProtocol()
    assert protocol.synchronize(5) == b'\xff{"execute": "guest-sync-delimited", "arguments": {"id": 5}}\n'
    assert protocol.feed(b'\xff{"return": 5}\n') == []
    assert protocol.is_synchronized
    return protocol


def test_request() -> None:
    assert AgentProtocol.request("guest-ping") == b'{"execute": "guest-ping"}\n'
    assert json.loads(AgentProtocol.request("x", {"a": "é"})) == {"execute": "x", "arguments": {"a": "é"}}


def test_what_an_earlier_session_left_is_dropped() -> None:
    protocol = AgentProtocol()
    protocol.synchronize(7)
    assert protocol.feed(b'n": 3}\n{"return": 7}\n') == []
    assert not protocol.is_synchronized  # without the delimiter it may be anybody's
    assert protocol.feed(b'rest\xff{"return": 6}\n\xff{"ret') == []
    assert not protocol.is_synchronized
    assert protocol.feed(b'urn": 7}\n{"return": {}}\n') == [Answer({})]
    assert protocol.is_synchronized


def test_answers() -> None:
    protocol = synchronized()
    assert protocol.feed(b'\n {"return": [1, 2]}\r\n{"error": {"class": "GenericError", "desc": "no"}}\n') == [
        Answer([1, 2]), Answer(None, "no"),
    ]  # fmt: skip
    assert protocol.feed(b'{"error": {}}\n') == [Answer(None, "it does not say why")]


@pytest.mark.parametrize("line", [b"[]", b"{}", b"nonsense", b'{"error": 1}', b"\x80", b"[" * 100_000])
def test_lines_that_are_no_answer(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="the agent's answer"):
        synchronized().feed(line + b"\n")


def test_answer_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_module, "LINE_LIMIT", 100)
    protocol = synchronized()
    assert protocol.feed(b"x" * 100) == []
    with pytest.raises(ProtocolError, match="longer than 100"):
        protocol.feed(b"x")
    assert not protocol.is_synchronized


@given(st.lists(st.binary(max_size=20)))
def test_any_bytes_before_a_session_do_no_harm(pieces: list[bytes]) -> None:
    protocol = AgentProtocol()
    protocol.synchronize(5)
    try:
        for piece in pieces:
            protocol.feed(piece)
    except ProtocolError:
        protocol.synchronize(5)
    protocol.synchronize(6)
    assert protocol.feed(b'\xff{"return": 6}\n{"return": 1}\n') == [Answer(1)]
