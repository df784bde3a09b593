"""Programs over the serial console: a real shell behind a real terminal stands for the guest's."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import pytest

from manor.base.errors import HostError
from manor.instances.client import ControlClient
from manor.instances.serial_exec import run_over_serial
from manor.spec.control import Json, decode_bytes, encode_bytes


class Shell:
    """What a ControlClient does, for a shell on a pseudo terminal."""

    prompt = b"# "

    def __init__(self, argv: list[str]) -> None:
        pid, self._master = pty.fork()
        if pid == 0:
            os.environ.update(PS1="guest:~# ", ENV="", LC_ALL="C.UTF-8")
            os.execvp(argv[0], argv)
        self._pid = pid
        self._events: deque[Json] = deque()
        self._log = bytearray()
        self.typed = ""

    def call(self, command: str, **arguments: Any) -> Json:
        if command == "console":
            if not self._log.endswith(self.prompt):
                self._pump(2.0, until=self.prompt)
            self._events.clear()
            return {"data": encode_bytes(bytes(self._log[-arguments["history"] :]))}
        assert command == "input"
        data = decode_bytes(arguments["data"])
        self.typed += data.decode()
        while data:
            data = data[os.write(self._master, data) :]
        return {}

    def next_event(self, timeout: float | None) -> Json | None:
        if not self._events:
            self._pump(10.0 if timeout is None else timeout)
        return self._events.popleft() if self._events else None

    def _pump(self, timeout: float, until: bytes = b"") -> None:
        seen = b""
        limit = time.monotonic() + timeout
        while select.select([self._master], [], [], max(0.0, limit - time.monotonic()))[0]:
            data = os.read(self._master, 4096)
            seen += data
            self._log += data
            self._events.append({"event": "console", "console": "serial", "data": encode_bytes(data)})
            if not until or seen.endswith(until):
                return

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._master)


@pytest.fixture(params=["sh", "bash"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    argv = {"sh": ["sh", "-i"], "bash": ["bash", "--norc", "--noprofile", "-i"]}[request.param]
    if subprocess.run(["which", argv[0]], capture_output=True).returncode:
        pytest.skip(f"there is no {argv[0]} on this machine")
    made = Shell(argv)
    yield made
    made.close()


def run(shell: Shell, *argv: str, user: str = "root") -> tuple[int, str]:
    output = bytearray()
    status = run_over_serial(cast(ControlClient, shell), argv, user, output.extend, 10)
    return status, output.decode()


def test_output_and_status_come_back(shell: Shell) -> None:
    assert run(shell, "sh", "-c", "echo one; echo two >&2; exit 7") == (7, "one\ntwo\n")
    assert run(shell, "printf", "[%s]", "a  b", "$HOME", "it's", "*", "ü") == (0, "[a  b][$HOME][it's][*][ü]")
    assert run(shell, "true") == (0, "")
    assert run(shell, "no-such-program")[0] == 127


def test_output_that_looks_like_a_mark_is_output(shell: Shell) -> None:
    text = "> >> >0123456789abcdef 1; <tag> >"
    assert run(shell, "printf", "%s", text) == (0, text)


def test_much_output_comes_whole(shell: Shell) -> None:
    status, text = run(shell, "seq", "1", "20000")
    assert (status, text) == (0, "".join(f"{number}\n" for number in range(1, 20001)))


def test_program_that_reads_gets_nothing(shell: Shell) -> None:
    assert run(shell, "cat") == (0, "")


@pytest.mark.parametrize("word", ["a\tb", "a\nb", "\x03", "x" * 800])
def test_what_cannot_be_typed_is_refused(shell: Shell, word: str) -> None:
    with pytest.raises(HostError, match="cannot be typed"):
        run(shell, "echo", word)
    assert shell.typed == ""


class Login(Shell):
    """A getty: asks for the name, and for a password unless the name is `free`."""

    prompt = b"login: "

    def __init__(self) -> None:
        script = (
            "printf 'box login: '; read -r name; [ $name = free ] || { printf 'Password: '; read -r p; exit 1; }; "
            "exec sh -i"
        )
        super().__init__(["sh", "-c", script])


def test_login_without_a_password_is_used() -> None:
    getty = Login()
    assert run(getty, "echo", "hello", user="free") == (0, "hello\n")
    assert re.match(r"free\n printf", getty.typed)
    getty.close()


def test_login_that_wants_a_password_is_left() -> None:
    getty = Login()
    with pytest.raises(HostError, match="the console asks for ann's password"):
        run(getty, "echo", "hello", user="ann")
    getty.close()
