"""The control protocol of a VMM process: lines of JSON over a unix socket, without the socket.

    server   {"manor": 1, "name": "debian", "pid": 4711}                    the greeting; the number is the version
    client   {"id": 7, "command": "status", "arguments": {}}
    server   {"id": 7, "result": {...}}   or   {"id": 7, "error": {"kind": "config", "message": "...", "path": ""}}
    server   {"event": "stage", ...}                                        only what the client subscribed to

Requests are answered in any order; `id` tells which. A line longer than the limit, or one that is no JSON object, ends
the conversation: there is no way to know where the next one begins. Bytes inside JSON are base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from manor.base.errors import ConfigError, HostError, InternalError, ManorError, ProtocolError, StateError

VERSION: Final = 1
"""Raised when an old client would misunderstand a new server; new commands and new fields do not raise it."""
MAX_REQUEST: Final = 1 << 18
"""Bytes of one line to the server. Bounds what a client can make it keep; the longest carry pieces of files."""
MAX_ANSWER: Final = 4 << 20
"""Bytes of one line to the client; the longest are statistics and the console's history."""
_MAX_ID: Final = (1 << 53) - 1
"""Every JSON parser agrees on whole numbers up to here. Source: RFC 8259, section 6."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One command of a client."""

    id: int
    command: str
    arguments: Json = field(default_factory=dict)


class Lines:
    """Bytes in any pieces to JSON objects. After a ProtocolError nothing more can be read."""

    def __init__(self, limit: int) -> None:
        """limit: bytes of the longest line, its end included."""
        self._limit = limit
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Json]:
        """The objects that are complete now. Raises ProtocolError."""
        self._pending += data
        found = []
        while (end := self._pending.find(b"\n")) >= 0:
            if end >= self._limit:
                break
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            found.append(_parse(line))
        if len(self._pending) >= self._limit:
            raise ProtocolError(f"a line has more than {self._limit} bytes")
        return found


def _parse(line: bytes) -> Json:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a line is not JSON: {line[:60]!r}") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"a line is not a JSON object: {line[:60]!r}")
    return value


def encode(message: Mapping[str, Any]) -> bytes:
    """`message` as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def encode_bytes(data: bytes) -> str:
    """Bytes as a JSON string."""
    return base64.b64encode(data).decode()


def decode_bytes(text: object, path: str = "data") -> bytes:
    """The inverse of `encode_bytes`. Raises ConfigError, naming `path`."""
    try:
        return base64.b64decode(text if isinstance(text, str) else "*", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(path, "it is not base64 text") from error


def greeting(name: str, pid: int) -> Json:
    """What a server says first."""
    return {"manor": VERSION, "name": name, "pid": pid}


def check_greeting(message: Json) -> Json:
    """The greeting, if it is one that this client understands. Raises ProtocolError."""
    version = message.get("manor")
    if not isinstance(version, int) or not isinstance(message.get("pid"), int):
        raise ProtocolError("what answers is no VMM: it does not greet")
    if version != VERSION:
        raise ProtocolError(
            f"the VM speaks version {version} of the control protocol and this command version {VERSION}; "
            "stop the VM and start it again, or use the program that started it"
        )
    return message


def parse_request(message: Json) -> Request:
    """The request in `message`. Raises ProtocolError for what cannot be answered, having no id."""
    number = message.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _MAX_ID:
        raise ProtocolError("a request has no id that is a whole number")
    command, arguments = message.get("command"), message.get("arguments", {})
    if not isinstance(command, str) or not isinstance(arguments, dict):
        raise ProtocolError("a request needs a command, and arguments only as an object")
    return Request(number, command, arguments)


# --- errors over the wire ---------------------------------------------------------------------------------------------


def error_to_json(error: ManorError) -> Json:
    """An error as the client gets it."""
    match error:
        case ConfigError():
            return {"kind": "config", "message": error.message, "path": error.path}
        case StateError():
            return {"kind": "state", "message": str(error), "operation": error.operation, "state": error.state}
        case HostError():
            return {"kind": "host", "message": str(error)}
        case ProtocolError():
            return {"kind": "protocol", "message": str(error)}
        case _:
            return {"kind": "internal", "message": str(error)}


def error_from_json(value: object) -> ManorError:
    """The error that the server sent, to be raised at the client."""
    if not isinstance(value, dict) or not isinstance(value.get("message"), str):
        return ProtocolError("the VM answered with an error that has no message")
    message = value["message"]
    match value.get("kind"):
        case "config":
            return ConfigError(str(value.get("path", "")), message)
        case "state":
            return StateError(str(value.get("operation", message)), str(value.get("state", "")))
        case "host":
            return HostError(message)
        case "protocol":
            return ProtocolError(message)
        case _:
            return InternalError(message)


# --- arguments --------------------------------------------------------------------------------------------------------

Kinds = Mapping[str, "type | tuple[type, ...]"]


def check_arguments(command: str, arguments: Json, needed: Kinds, optional: Kinds) -> None:
    """Raise ConfigError if arguments are missing, unknown or of the wrong type."""
    for name in needed:
        if name not in arguments:
            raise ConfigError(name, f"{command} needs it")
    for name, value in arguments.items():
        kind = needed.get(name, optional.get(name))
        if kind is None:
            raise ConfigError(name, f"{command} has no such argument")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ConfigError(name, f"{value!r} is not of type {' or '.join(each.__name__ for each in kinds)}")
