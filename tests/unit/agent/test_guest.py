"""The agent as a file of its own: it needs only the standard library, of an old Python too; an image can start it."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import sys
from pathlib import Path

import pytest

from manor.agent import guest, install
from manor.agent.guest import Commands, Program, Session


def ask(session: Session, command: str, **arguments: object) -> object:
    line = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
    [answer] = session.feed(line)
    message = json.loads(answer)
    return message["error"]["desc"] if "error" in message else message["return"]


def test_it_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(guest.__file__).read_text("utf-8"), feature_version=(3, 9))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.partition(".")[0] in sys.stdlib_module_names


def test_image_gets_the_program_and_a_unit() -> None:
    files = install.files()
    assert files[install.PROGRAM][1].startswith(b"#!/usr/bin/env python3\n")
    assert files[install.PROGRAM][0] == 0o755
    unit = files[install.UNIT][1].decode()
    assert f"ExecStart={install.PROGRAM}\n" in unit
    assert 'ATTR{name}=="org.qemu.guest_agent.0"' in files[install.RULE][1].decode()


def test_files_and_programs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "FILES_LIMIT", 1)
    monkeypatch.setattr(guest, "OUTPUT_LIMIT", 10)
    session = Session(Commands())
    path = os.fspath(tmp_path / "file")
    handle = ask(session, "guest-file-open", path=path, mode="w+")
    assert isinstance(handle, int)
    assert "files are open" in str(ask(session, "guest-file-open", path=path))
    assert ask(session, "guest-file-write", handle=handle, **{"buf-b64": "YWJjZA==", "count": 3}) == {
        "count": 3, "eof": False,
    }  # fmt: skip
    assert ask(session, "guest-file-seek", handle=handle, offset=-2, whence="end") == {"position": 1, "eof": False}
    assert ask(session, "guest-file-read", handle=handle) == {"count": 2, "buf-b64": "YmM=", "eof": True}
    assert "invalid for argument count" in str(ask(session, "guest-file-read", handle=handle, count=-1))
    assert ask(session, "guest-file-close", handle=handle) == {}

    more = {"capture-output": True, "arg": ["0123456789abcdef"]}
    started = ask(session, "guest-exec", path="/bin/echo", **more)
    assert isinstance(started, dict)
    while True:
        status = ask(session, "guest-exec-status", pid=started["pid"])
        assert isinstance(status, dict)
        if status["exited"]:
            break
    assert status == {"exited": True, "exitcode": 0, "out-data": "MDEyMzQ1Njc4OQ==", "out-truncated": True}
    assert "no program" in str(ask(session, "guest-exec-status", pid=started["pid"]))


def test_programs_nobody_asks_about_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "PROGRAMS_LIMIT", 1)
    commands = Commands()
    session = Session(commands)
    first = ask(session, "guest-exec", path="/bin/sleep", arg=["20"])
    assert isinstance(first, dict)
    assert "programs run already" in str(ask(session, "guest-exec", path="/bin/true"))
    program: Program = commands._programs[first["pid"]]
    program.process.kill()
    program.process.wait()
    assert isinstance(ask(session, "guest-exec", path="/bin/true"), dict)
    for program in commands._programs.values():
        program.process.wait()


def test_time_is_set_with_or_without_a_clock_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(guest, "_set_clock", done.append)

    def no_hwclock(option: str) -> None:
        done.append(option)
        raise guest.Refusal("there is no hwclock in the guest")

    monkeypatch.setattr(guest, "_hwclock", no_hwclock)
    session = Session(Commands())
    assert ask(session, "guest-set-time", time=5) == {}
    assert "no hwclock" in str(ask(session, "guest-set-time"))
    assert done == [5, "--systohc", "--hctosys"]


def test_freezing_is_undone_when_one_file_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def ioctl(descriptor: int, request: int, argument: int) -> int:
        calls.append(request)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(guest, "_freezable", lambda: [os.fspath(tmp_path)] * 2)
    session = Session(Commands())
    assert "Input/output error" in str(ask(session, "guest-fsfreeze-freeze"))
    assert calls == [guest.FIFREEZE, guest.FIFREEZE, guest.FITHAW]
    assert ask(session, "guest-fsfreeze-status") == "thawed"
    assert ask(session, "guest-fsfreeze-freeze") == 2
    assert "already" in str(ask(session, "guest-fsfreeze-freeze"))
    assert "frozen" in str(ask(session, "guest-get-osinfo"))
    assert ask(session, "guest-fsfreeze-thaw") == 2


def test_shutdown_says_nothing_when_it_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutdown = tmp_path / "shutdown"
    shutdown.write_text('#!/bin/sh\necho "$@" > "$0.asked"\n[ "$1" != -H ] || { echo no >&2; exit 1; }\n')
    shutdown.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    session = Session(Commands())
    assert session.feed(b'{"execute": "guest-shutdown", "arguments": {"mode": "reboot"}}\n') == []
    assert (tmp_path / "shutdown.asked").read_text().startswith("-r +0")
    assert ask(session, "guest-shutdown", mode="halt") == "shutdown: no"
    assert "mode" in str(ask(session, "guest-shutdown", mode="explode"))


def test_request_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "LINE_LIMIT", 100)
    [answer] = Session(Commands()).feed(b"x" * 101)
    assert "longer than 100" in json.loads(answer)["error"]["desc"]


def test_port_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, title in (("vport0p0", "other"), ("vport1p0", guest.PORT_NAME)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(title + "\n")
    monkeypatch.setattr(guest, "DEFAULT_PATHS", (os.fspath(tmp_path / "none"), os.fspath(tmp_path)))
    assert guest.find_port() == "/dev/vport1p0"
    monkeypatch.setattr(guest, "DEFAULT_PATHS", (os.fspath(tmp_path), ""))
    assert guest.find_port() == os.fspath(tmp_path)
