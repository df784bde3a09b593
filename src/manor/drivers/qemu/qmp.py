"""QEMU's monitor protocol without the socket: bytes to messages, commands to bytes.

    server   {"QMP": {"version": {"qemu": {"major": 7, ...}}, "capabilities": ["oob"]}}      the greeting
    client   {"execute": "qmp_capabilities", "id": 0}                                        ends negotiation
    server   {"return": {}, "id": 0}
    server   {"event": "RESET", "data": {"guest": true}, "timestamp": {"seconds": 1, "microseconds": 2}}

Source: QEMU 7.2, "QEMU Machine Protocol Specification" (docs/interop/qmp-spec).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from manor.base.errors import ManorError, ProtocolError
from manor.spec.control import Json, Lines, encode

MAX_LINE: Final = 16 << 20
"""Bytes of one message; the longest are lists of block nodes. Bounds what a QEMU gone mad can make us keep."""
_MAX_TEXT: Final = 2000
"""Characters of an error's description that are passed on."""


class QmpError(ManorError):
    """What QEMU answered to a command that failed. kind: its class, for example `DeviceNotFound`."""

    def __init__(self, command: str, kind: str, description: str) -> None:
        super().__init__(f"QEMU refused {command}: {description}")
        self.command = command
        self.kind = kind
        self.description = description


@dataclass(frozen=True, slots=True)
class Greeting:
    """The first message. version: (major, minor, micro)."""

    version: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to command `number`: its value, or the (class, description) of its error."""

    number: int
    value: Any = None
    error: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """Something that happened to the machine. time: seconds since the Epoch."""

    name: str
    data: Json = field(default_factory=dict)
    time: float = 0.0


Message = Greeting | Answer | QmpEvent


class QmpReader:
    """Bytes in any pieces to messages. After a ProtocolError nothing more can be read."""

    def __init__(self) -> None:
        self._lines = Lines(MAX_LINE)
        self._is_greeted = False

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete now. Raises ProtocolError."""
        for value in self._lines.feed(data):
            if self._is_greeted:
                yield _message(value)
            else:
                yield _greeting(value)
                self._is_greeted = True


def request(number: int, command: str, arguments: Mapping[str, object] | None = None) -> bytes:
    """A command as bytes."""
    value: Json = {"execute": command, "id": number}
    if arguments:
        value["arguments"] = arguments
    return encode(value)


def _greeting(value: Json) -> Greeting:
    try:
        version = value["QMP"]["version"]["qemu"]
        return Greeting((int(version["major"]), int(version["minor"]), int(version["micro"])))
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("what answers is no QEMU monitor: it does not greet") from error


def _message(value: Json) -> Message:
    if isinstance(name := value.get("event"), str):
        data, stamp = value.get("data"), value.get("timestamp")
        return QmpEvent(name, data if isinstance(data, dict) else {}, _seconds(stamp))
    number = value.get("id")
    # An error without an id answers what QEMU could not read: we send nothing of the kind.
    if not isinstance(number, int) or isinstance(number, bool):
        raise ProtocolError(f"a message of QEMU that is neither an event nor an answer: {str(value)[:100]}")
    if "return" in value:
        return Answer(number, value["return"])
    error = value.get("error")
    if not isinstance(error, dict):
        raise ProtocolError("an answer of QEMU with neither a result nor an error")
    return Answer(number, None, (str(error.get("class", "GenericError")), str(error.get("desc", ""))[:_MAX_TEXT]))


def _seconds(stamp: object) -> float:
    if not isinstance(stamp, dict):
        return 0.0
    seconds, micros = stamp.get("seconds"), stamp.get("microseconds")
    if not isinstance(seconds, int) or not isinstance(micros, int) or not 0 <= seconds < 1 << 40:
        return 0.0  # QEMU says -1 where its clock cannot be read
    return seconds + micros % 1_000_000 / 1e6
