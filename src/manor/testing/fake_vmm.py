"""The other end of a control socket, with answers from a table."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from manor.base.errors import ManorError
from manor.spec.control import Json, Lines, encode, error_to_json, greeting
from manor.vmm.control import listen

Answer = Json | Callable[[Json], Json]


class FakeVmm:
    """Answers conversations, each on a thread of its own, until it is closed; notes what was asked.

    answers: command -> the result, or what makes it of the arguments; a ManorError that it raises is the answer, too.
    """

    def __init__(self, path: Path, answers: Mapping[str, Answer]) -> None:
        self.asked: list[tuple[str, Json]] = []
        self._answers = answers
        self._listener = listen(path)
        self._listener.settimeout(0.02)
        self._is_open = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_open = False
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while self._is_open:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            connection.sendall(encode(greeting("fake", 1)))
            lines = Lines(1 << 20)
            while data := connection.recv(1 << 16):
                for request in lines.feed(data):
                    connection.sendall(encode({"id": request["id"], **self._answer(request)}))

    def _answer(self, request: Json) -> Json:
        command, arguments = request["command"], request["arguments"]
        self.asked.append((command, arguments))
        answer = self._answers[command]
        try:
            return {"result": answer(arguments) if callable(answer) else answer}
        except ManorError as error:
            return {"error": error_to_json(error)}
