"""The shell against a connection in memory: status, output forms, waiting, the prompt's completion."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manor.rpc.protocol.records import Domain
from manor.shell.completion import complete
from manor.shell.link import RemoteError, Stream
from manor.shell.main import main
from manor.shell.session import Session, Settings
from manor.shell.terminal import copy, escape_byte

WEB = Domain("web1", bytes(range(16)), 3)
DB = Domain("db", bytes(16), -1)


class FakeLink:
    """Two domains, one of which runs until it is shut down, two looks later."""

    uri = "test:///default"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.states = [1, 1, 5]

    def call(self, name: str, *arguments: Any) -> Any:
        self.calls.append((name, *arguments))
        if name == "connect_list_all_domains":
            return _Listed([DB, WEB])
        if name == "domain_lookup_by_name":
            found = {"web1": WEB, "db": DB}.get(arguments[0])
            if found is None:
                raise RemoteError("Domain not found", 42)
            return found
        if name == "domain_get_state":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return SimpleNamespace(state=state, reason=1)
        if name in ("domain_shutdown", "domain_suspend"):
            return None
        raise RemoteError(f"this function is not supported by the connection driver: {name}", 3)

    def call_with_files(self, name: str, *arguments: Any, files: Sequence[int]) -> Any:
        self.calls.append((name, *arguments, tuple(files)))
        return WEB

    def open_stream(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        raise RemoteError("no streams", 3)

    def subscribe(self, kind: str, event: str, about: Any) -> None:
        raise RemoteError("no events", 3)

    def unsubscribe(self) -> None:
        """Nothing to do."""

    def next_event(self, timeout: float | None) -> tuple[str, Any] | None:
        return None

    def close(self) -> None:
        self.calls.append(("close",))


class _Listed(tuple[Any, ...]):
    def __new__(cls, domains: list[Domain]) -> _Listed:
        return super().__new__(cls, (domains, len(domains)))

    @property
    def domains(self) -> list[Domain]:
        return list(self[0])


def run(*words: str) -> tuple[int, str, str, FakeLink]:
    link, out, err = FakeLink(), io.StringIO(), io.StringIO()
    status = main(words, opener=lambda settings: link, out=out, err=err)
    return status, out.getvalue(), err.getvalue(), link


def test_a_table_as_virsh_draws_it() -> None:
    assert run("list", "--all")[:3] == (
        0, " Id   Name   State\n-----------------------\n 3    web1   running\n -    db     shut off\n\n", "",
    )  # fmt: skip


def test_output_for_programs() -> None:
    _, out, _, _ = run("list", "--all", "--output", "json")
    assert json.loads(out) == [
        {"id": "3", "name": "web1", "state": "running"}, {"id": "-", "name": "db", "state": "shut off"},
    ]  # fmt: skip
    assert run("--output", "name", "list", "--all")[1] == "web1\ndb\n"
    assert run("--output=yaml", "list", "--all")[1].splitlines()[:2] == ["- id: '3'", "  name: web1"]


class Terminal(io.StringIO):
    """Somebody looks."""

    def isatty(self) -> bool:
        return True


def test_people_are_told_what_of_a_definition_has_no_effect(tmp_path: Path) -> None:
    class Warning(FakeLink):
        def call(self, name: str, *arguments: Any) -> Any:
            if name == "domain_define_xml_flags":
                return WEB
            if name == "domain_get_messages":
                return ["ignored configuration: domain/devices/video: there is no display", "tainted: by a test"]
            return super().call(name, *arguments)

    path = tmp_path / "web1.xml"
    path.write_text("<domain/>", encoding="utf-8")
    for err, told in ((Terminal(), "warning: domain/devices/video: there is no display\n"), (io.StringIO(), "")):
        out = io.StringIO()
        assert main(("define", str(path)), opener=lambda settings: Warning(), out=out, err=err) == 0
        assert (out.getvalue(), err.getvalue()) == (f"Domain 'web1' defined from {path}\n\n", told)


def test_several_messages_are_one_fact() -> None:
    facts = [("Id", "3"), ("Messages", "one"), ("", "two")]
    shown = {}
    for output in ("table", "json"):
        session = Session(Settings(), lambda settings: FakeLink(), out=io.StringIO(), output=output)
        session.fields(facts)
        shown[output] = session.out.getvalue()  # type: ignore[attr-defined]
    assert shown["table"] == "Id:             3\nMessages:       one\n                two\n"
    assert json.loads(shown["json"]) == {"id": "3", "messages": ["one", "two"]}


def test_quiet_leaves_out_headings_and_notes() -> None:
    assert run("-q", "list")[1] == " 3   web1   running\n -   db     shut off\n"
    assert run("-q", "suspend web1")[1] == ""


def test_what_follows_a_failure_is_not_run() -> None:
    status, out, err, link = run("suspend nope; suspend web1")
    assert (status, out, err) == (1, "\n", "error: failed to get domain 'nope'\n")
    assert ("domain_suspend", WEB) not in link.calls


def test_a_string_with_a_mistake_is_not_run_at_all() -> None:
    status, _, err, link = run("suspend web1; bogus")
    assert (status, err, link.calls) == (1, "error: unknown command: 'bogus'\n", [])


def test_wait_looks_until_the_state_is_there() -> None:
    status, _, _, link = run("shutdown", "web1", "--wait", "--timeout", "30")
    assert status == 0
    assert sum(call[0] == "domain_get_state" for call in link.calls) == 3


def test_wait_gives_up_in_time_with_its_own_status() -> None:
    status, _, err, _ = run("--wait", "--timeout=0", "shutdown web1")
    assert status == 124
    assert "'shutdown' of domain 'web1' did not finish in 0 seconds" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--bogus",), "error: unsupported option '--bogus'. See --help.\n"),
        (("-c",), "error: option '-c' requires an argument\n"),
        (("-d", "x", "uri"), "error: option -d takes a numeric argument\n"),
        (("-e", "xx", "uri"), "error: Invalid string 'xx' for escape sequence\n"),
    ],
)
def test_mistakes_in_options(words: tuple[str, ...], message: str) -> None:
    assert run(*words)[:3] == (1, "", message)


def test_help_and_version_need_no_connection() -> None:
    for words in (("-h",), ("-V",), ("-v",), ("--version",), ("help",), ("help", "domain"), ("help", "list")):
        status, out, err, link = run(*words)
        assert (status, err, link.calls) == (0, "", [])
        assert out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dominf", ["dominfo"]),
        ("list --with-s", ["--with-snapshot"]),
        ("dominfo w", ["web1"]),
        ("pwd; start --domain ", ["db", "web1"]),
        ("nonsense ", []),
        ('echo "', []),
    ],
)
def test_completion(text: str, words: list[str]) -> None:
    session = Session(Settings(), lambda settings: FakeLink())
    assert complete(session, text) == words


def test_escape_characters() -> None:
    assert (escape_byte("^]"), escape_byte("^a"), escape_byte("q")) == (0x1D, 0x01, 0x71)


def test_the_log_tells_of_commands_calls_and_errors(tmp_path: Path) -> None:
    log = tmp_path / "log"
    status, _, err, _ = run("-l", str(log), "-d", "0", "suspend web1; suspend nope")
    assert status == 1
    lines = [line.split(": ", 1)[1] for line in log.read_text("utf-8").splitlines()]
    assert lines == [
        "command suspend", "call domain_lookup_by_name", "call domain_suspend", "command suspend",
        "call domain_lookup_by_name", "error: failed to get domain 'nope'",
    ]  # fmt: skip
    assert "call domain_suspend" in err
    assert run("-l", str(tmp_path / "no" / "log"), "suspend web1")[0] == 1


def test_a_console_is_copied_both_ways_until_the_escape() -> None:
    keyboard, typed = os.pipe()
    shown, screen = os.pipe()

    class Console:
        def __init__(self) -> None:
            self.sent = b""
            self.is_over = threading.Event()
            self.chunks = [b"login: "]

        def receive(self, timeout: float | None = None) -> bytes | None:
            if self.chunks:
                return self.chunks.pop()
            self.is_over.wait(10)
            return b""

        def receive_piece(self) -> bytes | int:
            raise RemoteError("a console has no holes", 1)

        def send_hole(self, size: int) -> None:
            raise RemoteError("a console has no holes", 1)

        def send(self, data: bytes) -> None:
            self.sent += data

        def finish(self) -> None:
            """Nothing to do."""

        def abort(self) -> None:
            self.is_over.set()

    console = Console()
    os.write(typed, b"root\r\x1dnot sent")
    copy(console, keyboard, screen, 0x1D)
    assert console.sent == b"root\r"
    assert os.read(shown, 100) == b"login: "
    for file in (keyboard, typed, shown, screen):
        os.close(file)
