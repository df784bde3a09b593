"""Run a program in a guest by its serial console: the way that needs nothing in the guest but a shell or a login there.

What is typed is seen by whoever is attached to the console. Standard input is not passed on, and standard error arrives
with the output: a serial line has one channel.
"""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Callable
from typing import Final

from manor.base.errors import HostError
from manor.instances.client import ControlClient
from manor.spec.control import Json, decode_bytes, encode_bytes

_HISTORY: Final = 512
_MAX_COMMAND: Final = 700
"""Bytes. Line editors of small shells take 1024 with what is typed around it."""
_PROMPT: Final = re.compile(rb"(?:^|[\r\n]|\x1b\[[0-9;?]*[a-zA-Z])[^\r\n]*[#$] (?:\x1b\[[0-9;?]*[a-zA-Z])*$")
_LOGIN: Final = re.compile(rb"login: $")
_PASSWORD: Final = re.compile(rb"[Pp]assword: ?$")
_LOGIN_WAIT: Final = 20.0
_QUIET: Final = 0.3
"""Seconds without output after which a prompt counts as the last thing that was printed."""


def run_over_serial(
    client: ControlClient, argv: tuple[str, ...], user: str, write: Callable[[bytes], None], timeout: float | None
) -> int:
    """Run `argv` as whoever is logged in on the console, or as `user` if that needs no password; returns its exit
    status.

    write: gets the output as it comes. timeout: seconds without any output that are too many; None for no limit.
    Raises HostError if there is no shell on the console, VmGone if the VM ends.
    """
    line = _Line(client)
    line.need_shell(user)
    return line.run(argv, write, timeout)


class _Line:
    """The console from the side of who types."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client
        answer = client.call("console", console="serial", history=_HISTORY)
        self._seen = decode_bytes(answer["data"])

    def need_shell(self, user: str) -> None:
        """Return when a shell waits for a command."""
        self._wait(lambda: None, _QUIET)
        if _LOGIN.search(self._seen):
            self._type(f"{user}\n")
            self._wait(self._found(_PROMPT, _PASSWORD), _LOGIN_WAIT)
            if _PASSWORD.search(self._seen):
                self._type("\n")
                raise HostError(f"the console asks for {user}'s password; log in there first, or use ssh")
        if not _PROMPT.search(self._seen):
            raise HostError("there is no shell on the serial console")

    def run(self, argv: tuple[str, ...], write: Callable[[bytes], None], timeout: float | None) -> int:
        """Type the command between two marks, and pass on what comes between them."""
        mark = secrets.token_hex(8)
        # The marks are typed in two parts, so that the echo of the command does not hold them.
        first, second = mark[:8], mark[8:]
        program = shlex.join(argv)
        if not program.isprintable() or len(program.encode()) > _MAX_COMMAND:
            raise HostError("a command with control characters, or of more than 700 bytes, cannot be typed; use ssh")
        self._type(
            f" printf '\\n%s%s<' {first} {second}; ( {program} ) </dev/null 2>&1; "
            f"printf '>%s%s %d;\\n' {first} {second} $?\n"
        )
        begin = f"{mark}<".encode()
        end = re.compile(rb">" + mark.encode() + rb" (\d+);")
        self._wait(lambda: begin in self._seen or None, timeout)
        if begin not in self._seen:
            raise HostError("the shell on the serial console does not answer")
        pending = self._seen.partition(begin)[2]
        while True:
            found = end.search(pending)
            if found:
                write(_plain(pending[: found.start()]))
                return int(found[1])
            keep = pending.rfind(b">")
            keep = keep if keep >= 0 and len(pending) - keep < 64 else len(pending)
            # A carriage return and its line feed stay together.
            keep -= pending[:keep].endswith(b"\r")
            write(_plain(pending[:keep]))
            pending = pending[keep:]
            self._seen = b""
            self._wait(lambda: self._seen or None, timeout)
            if not self._seen:
                raise HostError(f"the program has printed nothing for {timeout:g} s; it may still run")
            pending += self._seen

    def _found(self, *patterns: re.Pattern[bytes]) -> Callable[[], object]:
        return lambda: any(pattern.search(self._seen) for pattern in patterns) or None

    def _wait(self, is_enough: Callable[[], object], timeout: float | None) -> None:
        """Take output until `is_enough` gives something, or nothing comes for `timeout` seconds."""
        limit = None if timeout is None else time.monotonic() + timeout
        while is_enough() is None:
            left = None if limit is None else max(0.0, limit - time.monotonic())
            event = self._client.next_event(left)
            if event is None:
                return
            if self._take(event) and timeout is not None:
                limit = time.monotonic() + timeout

    def _take(self, event: Json) -> bool:
        if event.get("event") != "console" or event.get("console") != "serial":
            return False
        self._seen += decode_bytes(event.get("data"))
        return True

    def _type(self, text: str) -> None:
        self._seen = b""
        self._client.call("input", console="serial", data=encode_bytes(text.encode()))


def _plain(data: bytes) -> bytes:
    """Line ends as the program wrote them: the terminal's driver in the guest put carriage returns before them."""
    return data.replace(b"\r\n", b"\n")
