"""The control protocol: lines in any pieces, what ends a conversation, errors over the wire."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.errors import ConfigError, HostError, InternalError, ManorError, ProtocolError, StateError
from manor.spec.control import (
    Json,
    Lines,
    check_arguments,
    check_greeting,
    decode_bytes,
    encode,
    encode_bytes,
    error_from_json,
    error_to_json,
    greeting,
    parse_request,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(), PLAIN, max_size=4), max_size=5), st.data())
def test_messages_come_out_whole_however_they_are_cut(messages: list[Json], data: st.DataObject) -> None:
    stream = b"".join(map(encode, messages))
    lines = Lines(1 << 20)
    found = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += lines.feed(stream[:size])
        stream = stream[size:]
    assert found == messages


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_objects_or_a_protocol_error(pieces: list[bytes]) -> None:
    lines = Lines(100)
    try:
        for piece in pieces:
            assert all(isinstance(value, dict) for value in lines.feed(piece))
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "line", [b"\n", b"[]\n", b"7\n", b"{\n", b"\xff\n", b"[" * 5000 + b"\n", b"x" * 10_000, b'{"a":"' + b"x" * 10_000]
)
def test_line_that_is_no_object_or_too_long_ends_the_conversation(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        Lines(10_000).feed(line)


def test_line_of_exactly_the_limit_is_taken() -> None:
    line = encode({"a": "x" * 50})
    assert Lines(len(line)).feed(line) == [{"a": "x" * 50}]
    with pytest.raises(ProtocolError):
        Lines(len(line) - 1).feed(line)


@pytest.mark.parametrize(
    "message",
    [
        {}, {"id": "1", "command": "status"}, {"id": True, "command": "status"}, {"id": -1, "command": "x"},
        {"id": 1 << 60, "command": "x"}, {"id": 1}, {"id": 1, "command": 7}, {"id": 1, "command": "x", "arguments": []},
    ],
)  # fmt: skip
def test_request_without_id_or_command_is_refused(message: Json) -> None:
    with pytest.raises(ProtocolError):
        parse_request(message)


def test_request() -> None:
    request = parse_request({"id": 3, "command": "stop", "arguments": {"force": True}, "later": 1})
    assert (request.id, request.command, request.arguments) == (3, "stop", {"force": True})


def test_greeting_of_another_version_says_what_to_do() -> None:
    assert check_greeting(greeting("debian", 7))["name"] == "debian"
    with pytest.raises(ProtocolError, match="stop the VM and start it again"):
        check_greeting({"manor": 2, "pid": 7})
    with pytest.raises(ProtocolError, match="no VMM"):
        check_greeting({"hello": 1})


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("disk", "there is none"), HostError("no room"), StateError("pause", "ended"), ProtocolError("odd"),
        InternalError("bug"),
    ],
)  # fmt: skip
def test_error_arrives_as_it_was(error: ManorError) -> None:
    back = error_from_json(json.loads(json.dumps(error_to_json(error))))
    assert type(back) is type(error)
    assert str(back) == str(error)


@settings(deadline=None)
@given(PLAIN)
def test_any_error_value_is_some_error(value: object) -> None:
    assert isinstance(error_from_json(value), ManorError)


def test_arguments_are_checked() -> None:
    check_arguments("c", {"a": 1}, {"a": int}, {"b": str})
    for arguments, path in (({}, "a"), ({"a": True}, "a"), ({"a": "1"}, "a"), ({"a": 1, "c": 2}, "c")):
        with pytest.raises(ConfigError) as caught:
            check_arguments("c", arguments, {"a": int}, {"b": str})
        assert caught.value.path == path


@settings(deadline=None)
@given(st.binary())
def test_bytes_round_trip(data: bytes) -> None:
    assert decode_bytes(encode_bytes(data)) == data


@pytest.mark.parametrize("text", ["*", "a", 7, None, "aGk=\n!"])
def test_what_is_not_base64_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="base64"):
        decode_bytes(text)
