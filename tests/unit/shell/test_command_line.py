"""The options before the command, the prompt, and how fast it starts."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from manor.shell.catalog import COMMANDS, GROUPS, find
from manor.shell.errors import CommandError, UsageError
from manor.shell.interactive import history_path, prompt_text
from manor.shell.main import OPTIONS, main, parse_options
from manor.shell.session import Session, Settings


def settings_of(*words: str) -> tuple[Settings, list[str]]:
    settings = Settings()
    return settings, parse_options(settings, words, io.StringIO())


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("-c", "a:///"), "uri", "a:///"), (("--connect=a:///",), "uri", "a:///"), (("-d", "2"), "debug", 2),
        (("--debug", "9"), "debug", 4), (("-e", "^A"), "escape", "^A"), (("--escape=x",), "escape", "x"),
        (("-k", "7"), "keepalive", (7, 6)), (("--keepalive-interval", "0"), "keepalive", (0, 6)),
        (("-K", "2"), "keepalive", (5, 2)), (("--keepalive-count=9",), "keepalive", (5, 9)), (("-l", "f"), "log", "f"),
        (("--log", "f"), "log", "f"), (("-q",), "is_quiet", True), (("--quiet",), "is_quiet", True),
        (("-r",), "is_read_only", True), (("--readonly",), "is_read_only", True), (("-t",), "is_timed", True),
        (("--timing",), "is_timed", True), (("--output", "json"), "output", "json"), (("--wait",), "waits", True),
        (("--timeout", "1.5"), "timeout", 1.5),
    ],
)  # fmt: skip
def test_an_option_is_a_setting(words: tuple[str, ...], name: str, value: Any) -> None:
    settings, rest = settings_of(*words, "list", "--all")
    assert getattr(settings, name) == value
    assert rest == ["list", "--all"]


def test_every_option_that_help_tells_of_is_taken() -> None:
    examples = {"SECONDS": "1", "NUM": "1", "CHAR": "x", "FORM": "json"}
    for text, _ in OPTIONS:
        value = text.rpartition(" ")[2]
        for option in text.replace("[=TYPE]", "").replace(",", "").split():
            if not option.startswith("-"):
                continue
            example = "" if value.startswith("-") else examples.get(value, "x")
            words = [option, example] if example else [option]
            out = io.StringIO()
            if option in ("-h", "--help", "-v", "-V", "--version"):
                assert main(words, out=out, err=out) == 0
                assert out.getvalue()
            else:
                assert settings_of(*words, "list")[1] == ["list"], option


def test_help_is_grouped_and_complete() -> None:
    out = io.StringIO()
    assert main(["--help"], out=out) == 0
    text = out.getvalue()
    places = [text.index(f"(help keyword '{group.keyword}')") for group in GROUPS]
    assert places == sorted(places)
    assert all(f"\n    {name} " in text for name in COMMANDS)


def test_errors_are_red_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def said(err: io.StringIO) -> str:
        Session(Settings(), err=err).report(CommandError("no"))
        return err.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert said(Terminal()) == "\x1b[31merror:\x1b[0m no\n"
    assert said(io.StringIO()) == "error: no\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert said(Terminal()) == "error: no\n"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert said(Terminal()) == "error: no\n"


def test_the_prompt_says_whether_changes_are_possible() -> None:
    assert prompt_text(Session(Settings())) == "manor # "
    assert prompt_text(Session(Settings(is_read_only=True))) == "manor > "


def test_the_prompt_on_a_terminal_keeps_a_history(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "manor", "sh", "-q"], environment)
    said, limit, is_typed = b"", time.monotonic() + 30, False
    while time.monotonic() < limit:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                said += os.read(terminal, 65536)
            except OSError:
                break
        if b"manor #" in said and not is_typed:
            os.write(terminal, b"echo from the pro\tmpt\rquit\r")
            is_typed = True
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"from the prompt" in said, said
    assert "+echo from the prompt" in (tmp_path / "manor" / "sh-history").read_text()
    assert history_path().name == "sh-history"


def test_what_may_have_been_meant_is_a_command_or_nothing() -> None:
    for name in COMMANDS:
        with pytest.raises(UsageError) as caught:
            find(f"{name}x")
        assert caught.value.hint == "" or caught.value.hint.split("'")[1] in COMMANDS


def test_it_starts_in_less_than_a_fifth_of_a_second() -> None:
    """Of the processor's time, the best of several: other work of this machine is no fault of the shell's."""
    assert min(_seconds("-m", "manor", "sh", "echo", "x") for _ in range(7)) < 0.2


def _seconds(*words: str) -> float:
    """Of the processor, for one run."""
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
    return used.ru_utime + used.ru_stime


def test_a_command_that_needs_no_daemon_imports_no_client() -> None:
    program = (
        "import sys, io; from manor.shell.main import main; main(['echo', 'x'], out=io.StringIO()); "
        "print([each for each in sys.modules if each.startswith('manor.client') or each == 'asyncio'])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
