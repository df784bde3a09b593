"""The guest agent's protocol: lines of JSON, one request at a time. No I/O.

Source: QEMU Guest Agent Protocol Reference, https://qemu.readthedocs.io/en/v7.2.0/interop/qemu-ga-ref.html.

The line may carry what an earlier session left: half a request, late answers. `synchronize` begins a session: a byte
that is in no JSON text (0xFF) makes the agent drop what it has, and its answer begins with the same byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from manor.base.errors import ProtocolError

PORT_NAME: Final = "org.qemu.guest_agent.0"
"""Name of the virtio-serial port that agents open."""
LINE_LIMIT: Final = 64 << 20
"""Bytes of one answer. QEMU's agent gives at most 48 MiB of a file and 16 MiB of output, as base64."""
_DELIMITER: Final = 0xFF

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent returned; if `error` is not None it refused, and says why."""

    value: Any
    error: str | None = None


class AgentProtocol:
    """One end of the conversation: requests to bytes, bytes to answers."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._awaited: int | None = None
        self._is_aligned = False
        self.is_synchronized = False
        """Whether an answer belongs to the request sent last."""

    def synchronize(self, number: int) -> bytes:
        """Begin a session; number: one that no earlier session used. Send it, and feed until `is_synchronized`."""
        self._buffer.clear()
        self._awaited = number
        self._is_aligned = self.is_synchronized = False
        return b"\xff" + self.request("guest-sync-delimited", {"id": number})

    @staticmethod
    def request(command: str, arguments: Json | None = None) -> bytes:
        """A request as bytes."""
        message: Json = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        return json.dumps(message).encode() + b"\n"

    def feed(self, data: bytes) -> list[Answer]:
        """Answers that are complete now. Raises ProtocolError for what is none, or too long; then synchronize anew."""
        self._buffer += data
        answers: list[Answer] = []
        if not self._is_aligned:
            position = self._buffer.find(_DELIMITER)
            if position < 0:
                self._buffer.clear()
                return answers
            del self._buffer[: position + 1]
            self._is_aligned = True
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).replace(b"\xff", b"").strip()
            del self._buffer[: end + 1]
            if line:
                self._take(line, answers)
        if len(self._buffer) > LINE_LIMIT:
            self._buffer.clear()
            self.is_synchronized = False
            raise ProtocolError(f"the agent's answer is longer than {LINE_LIMIT} bytes")
        return answers

    def _take(self, line: bytes, answers: list[Answer]) -> None:
        answer = _parse(line)
        if self.is_synchronized:
            answers.append(answer)
        elif answer.error is None and answer.value == self._awaited:
            self.is_synchronized = True


def _parse(line: bytes) -> Answer:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the agent's answer is no JSON: {error}") from error
    if isinstance(message, dict):
        refusal = message.get("error")
        if isinstance(refusal, dict):
            return Answer(None, str(refusal.get("desc") or refusal.get("class") or "it does not say why"))
        if "return" in message:
            return Answer(message["return"])
    raise ProtocolError("the agent's answer is neither a result nor an error")
