"""The monitor's protocol as conversations: the specification's examples, pieces of any size, nonsense."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.errors import ProtocolError
from manor.drivers.qemu import qmp
from manor.drivers.qemu.qmp import Answer, Greeting, QmpEvent, QmpReader, request

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, '
GREETING += b'"capabilities": ["oob"]}}\r\n'
# Source: QEMU 7.2, qmp-spec, "Server Greeting", "Simple 'stop' execution", "KVM information", "Parsing error",
# "Powerdown event"; the second error is the specification's, with the id that each of our commands has.
CONVERSATION = (
    b'{"return": {}, "id": 0}\r\n'
    b'{"return": {"enabled": true, "present": true}, "id": 1}\r\n'
    b'{"error": {"class": "CommandNotFound", "desc": "The command foo has not been found"}, "id": 2}\r\n'
    b'{"timestamp": {"seconds": 1258551470, "microseconds": 802384}, "event": "POWERDOWN"}\r\n'
)
MESSAGES = [
    Answer(0, {}),
    Answer(1, {"enabled": True, "present": True}),
    Answer(2, None, ("CommandNotFound", "The command foo has not been found")),
    QmpEvent("POWERDOWN", {}, 1258551470.802384),
]


def greeted() -> QmpReader:
    reader = QmpReader()
    assert list(reader.feed(GREETING)) == [Greeting((7, 2, 22))]
    return reader


def test_the_examples_of_the_specification() -> None:
    assert list(greeted().feed(CONVERSATION)) == MESSAGES


@given(st.lists(st.integers(0, len(CONVERSATION))))
def test_pieces_of_any_size(cuts: list[int]) -> None:
    reader = greeted()
    found = []
    at = 0
    for cut in [*sorted(cuts), len(CONVERSATION)]:
        found += list(reader.feed(CONVERSATION[at:cut]))
        at = cut
    assert found == MESSAGES


KEYS = st.sampled_from(["event", "return", "error", "id", "data", "timestamp", "seconds", "microseconds", "class"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner), max_leaves=8))
def test_any_json_is_a_message_or_an_error(value: Any) -> None:
    try:
        for message in greeted().feed(json.dumps(value).encode() + b"\n"):
            assert isinstance(message, Answer | QmpEvent)
    except ProtocolError:
        pass


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_an_error(data: bytes) -> None:
    with suppress(ProtocolError):
        list(QmpReader().feed(data + b"\n"))


@pytest.mark.parametrize(
    "line",
    [
        b"{}", b"[]", b"nonsense", b'{"QMP": 1}', b'{"QMP": {"version": {"qemu": {"major": "x"}}}}',
        b'{"return": {}, "id": 0}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_does_not_greet_is_no_qemu(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(QmpReader().feed(line + b"\n"))


@pytest.mark.parametrize(
    "line", [b"{}", b'{"id": 1}', b'{"return": 1}', b'{"return": 1, "id": true}', b'{"id": 1, "error": 3}']
)
def test_answers_that_answer_nothing_end_the_conversation(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(greeted().feed(line + b"\n"))


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        ({"seconds": -1, "microseconds": -1}, 0.0), ({"seconds": 1 << 80, "microseconds": 0}, 0.0), (None, 0.0),
        ({"seconds": 3, "microseconds": 500_000}, 3.5), ({"seconds": "3"}, 0.0),
    ],
)  # fmt: skip
def test_clocks_that_cannot_be_read(stamp: Any, time: float) -> None:
    (event,) = greeted().feed(json.dumps({"event": "STOP", "data": [], "timestamp": stamp}).encode() + b"\n")
    assert event == QmpEvent("STOP", {}, time)


def test_a_line_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "MAX_LINE", 100)
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        list(QmpReader().feed(b" " * 101))


def test_commands() -> None:
    assert json.loads(request(5, "stop")) == {"execute": "stop", "id": 5}
    assert json.loads(request(6, "balloon", {"value": 1})) == {"execute": "balloon", "id": 6, "arguments": {"value": 1}}
    assert request(7, "x").endswith(b"\n")
