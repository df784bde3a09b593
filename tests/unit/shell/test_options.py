"""Commands whose options no transcript runs: they need a terminal, or two daemons."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manor.rpc.protocol.catalog import QEMU, REMOTE
from manor.rpc.protocol.records import Domain
from manor.shell import terminal
from manor.shell.link import RemoteError, Stream
from manor.shell.main import main

WEB = Domain("web1", bytes(16), -1)


class FakeLink:
    """Answers from a table, and remembers what it was asked; what is sent has to fit the wire."""

    def __init__(self, uri: str, answers: dict[str, Any], calls: list[tuple[Any, ...]]) -> None:
        self.uri, self.answers, self.calls = uri, answers, calls

    def call(self, name: str, *arguments: Any) -> Any:
        procedure = REMOTE[name] if name in REMOTE else QEMU[name]
        procedure.encode_arguments(arguments)
        self.calls.append((self.uri, name, *arguments))
        answer = self.answers.get(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def call_with_files(self, name: str, *arguments: Any, files: Sequence[int]) -> Any:
        return self.call(name, *arguments)

    def open_stream(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        self.calls.append((self.uri, name, *arguments))
        raise RemoteError("no stream", 1)

    def subscribe(self, kind: str, event: str, about: Any) -> None:
        """Nothing comes."""

    def unsubscribe(self) -> None:
        """Nothing to do."""

    def next_event(self, timeout: float | None) -> tuple[str, Any] | None:
        return None

    def close(self) -> None:
        self.calls.append((self.uri, "close"))


ANSWERS: dict[str, Any] = {
    "domain_lookup_by_name": WEB,
    "domain_get_state": SimpleNamespace(state=1, reason=1),
    "domain_get_info": SimpleNamespace(state=1),
    "domain_create_xml": WEB,
    "connect_supports_feature": 1,
    "domain_migrate_begin3_params": SimpleNamespace(cookie_out=b"1", xml="<domain/>"),
    "domain_migrate_prepare3_params": SimpleNamespace(cookie_out=b"2", uri_out="tcp:there"),
    "domain_migrate_perform3_params": b"3",
    "domain_migrate_finish3_params": SimpleNamespace(domain=WEB, cookie_out=b"4"),
    "secret_lookup_by_uuid": (bytes(16), 0, ""),
}


def run(*words: str, answers: dict[str, Any] | None = None) -> tuple[int, str, list[tuple[Any, ...]]]:
    calls: list[tuple[Any, ...]] = []
    out, err = io.StringIO(), io.StringIO()
    table = {**ANSWERS, **(answers or {})}
    status = main(words, opener=lambda settings: FakeLink(settings.uri, table, calls), out=out, err=err)
    return status, out.getvalue() + err.getvalue(), calls


@pytest.mark.parametrize(
    "words",
    [("console", "--domain", "web1", "--devname", "serial0", "--force", "--safe"), ("start", "web1", "--console"),
     ("create", "d.xml", "--console")],
)  # fmt: skip
def test_a_console_is_attached(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    attached: list[tuple[Any, ...]] = []
    monkeypatch.setattr(terminal, "attach", lambda session, *what, **how: attached.append(what))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.xml").write_text("<domain/>")
    status, said, _ = run(*words)
    assert status == 0, said
    assert attached == [(WEB, "serial0", 3) if words[0] == "console" else (WEB, None, 0)]


@pytest.mark.parametrize(("option", "mode"), [("--watch", 0), ("--alone", 2), ("--take-over", 3)])
def test_a_console_is_shared_as_asked(option: str, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    attached: list[tuple[Any, ...]] = []
    monkeypatch.setattr(terminal, "attach", lambda session, *what: attached.append(what))
    assert run("console", "web1", option)[0] == 0
    assert attached == [(WEB, None, 0, mode)]


def test_another_connection() -> None:
    status, said, calls = run("-c", "a:///1", "connect --name b:///2 --readonly; suspend web1")
    assert status == 0, said
    assert ("b:///2", "domain_suspend", WEB) in calls


def test_a_secret_that_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: "word")
    status, said, calls = run("secret-set-value", "33333333-2222-3333-4444-555555555555", "--interactive")
    assert status == 0, said
    assert calls[-2][1:] == ("secret_set_value", (bytes(16), 0, ""), b"word", 0)


FLAGS = (
    "--live", "--tunnelled", "--persistent", "--undefinesource", "--suspend", "--copy-storage-all",
    "--copy-storage-inc", "--copy-storage-synchronous-writes", "--change-protection", "--unsafe", "--compressed",
    "--auto-converge", "--rdma-pin-all", "--abort-on-error", "--postcopy", "--postcopy-resume", "--zerocopy", "--tls",
    "--parallel",
)  # fmt: skip
VALUES = {
    "--migrateuri": "tcp:x", "--graphicsuri": "vnc:x", "--listen-address": "::", "--dname": "web2", "--xml": "d.xml",
    "--migrate-disks": "vda,vdb", "--disks-port": "7", "--disks-uri": "unix:x", "--comp-methods": "mt,xbzrle",
    "--comp-mt-level": "1", "--comp-mt-threads": "2", "--comp-mt-dthreads": "3", "--comp-xbzrle-cache": "4096",
    "--auto-converge-initial": "20", "--auto-converge-increment": "10", "--persistent-xml": "d.xml",
    "--postcopy-bandwidth": "5", "--parallel-connections": "4", "--bandwidth": "6", "--tls-destination": "host",
}  # fmt: skip


def test_a_migration_that_this_client_leads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.xml").write_text("<domain/>")
    options = [*FLAGS, *(word for pair in VALUES.items() for word in pair)]
    status, said, calls = run("-c", "a:///", "migrate", "web1", "b:///", "--verbose", *options)
    assert status == 0, said
    names = [call[:2] for call in calls if "migrate" in call[1]]
    assert names == [
        ("a:///", "domain_migrate_begin3_params"), ("b:///", "domain_migrate_prepare3_params"),
        ("a:///", "domain_migrate_perform3_params"), ("b:///", "domain_migrate_finish3_params"),
        ("a:///", "domain_migrate_confirm3_params"),
    ]  # fmt: skip
    begin, _, perform, _, confirm = (call for call in calls if "migrate" in call[1])
    assert len(begin[3]) == len(VALUES) + 2  # two disks, two methods
    assert begin[4].bit_count() == len(FLAGS)
    assert perform[5] == b"2"
    assert confirm[-1] == 0


def test_a_migration_that_fails_is_confirmed_as_cancelled() -> None:
    answers = {"domain_migrate_perform3_params": RemoteError("no way", 1)}
    status, said, calls = run("-c", "a:///", "migrate", "web1", "b:///", "--direct", answers=answers)
    assert status == 1
    assert "error: no way" in said
    cancelled = [call[-1] for call in calls if call[1] in ("domain_migrate_finish3_params",
                                                           "domain_migrate_confirm3_params")]  # fmt: skip
    assert cancelled == [1, 1]


def test_a_migration_that_the_daemons_lead() -> None:
    status, said, calls = run("migrate", "web1", "b:///", "--p2p", "--offline")
    assert status == 0, said
    assert calls[-2][1:] == ("domain_migrate_perform3_params", WEB, "b:///", [], b"", 2 | 1024)


@pytest.mark.parametrize(
    ("options", "call"),
    [(("--timeout-suspend",), "domain_suspend"), (("--timeout-postcopy", "--postcopy"),
                                                  "domain_migrate_start_post_copy"),
     (("--postcopy", "--postcopy-after-precopy"), "domain_migrate_start_post_copy")],
)  # fmt: skip
def test_what_a_time_limit_does(options: tuple[str, ...], call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from manor.shell.commands import migration

    monkeypatch.setattr(migration, "POLL", 0.001)
    asked = threading.Event()

    class Link(FakeLink):
        def call(self, name: str, *arguments: Any) -> Any:
            if name == call:
                asked.set()
            if name == "domain_get_job_stats":
                return SimpleNamespace(params=[("memory_iteration", 1, 3), ("data_total", 4, 0)])
            if name == "domain_migrate_perform3_params":
                assert asked.wait(10), f"{call} was not called"
            return super().call(name, *arguments)

    timeout = [] if "--postcopy-after-precopy" in options else ["--timeout", "0"]
    words = ["migrate", "web1", "b:///", "--p2p", *timeout, *options]
    calls: list[tuple[Any, ...]] = []
    out = io.StringIO()
    assert main(words, opener=lambda settings: Link("", ANSWERS, calls), out=out, err=out) == 0, out.getvalue()


def test_descriptors_are_passed_as_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from manor.shell.client_link import ClientLink

    link = object.__new__(ClientLink)
    sent: list[int] = []

    class Connection:
        async def call(self, name: str, *arguments: Any, files: tuple[int, ...]) -> None:
            sent.extend(files)

    link._connection = Connection()  # type: ignore[assignment]
    monkeypatch.setattr(link, "run", lambda work: work.close())
    with pytest.raises(RemoteError, match="descriptor 9999 cannot be passed"):
        link.call_with_files("domain_fd_associate", WEB, "n", 0, files=[0, 9999])
    before = len(os.listdir("/proc/self/fd"))
    link.call_with_files("domain_fd_associate", WEB, "n", 0, files=[])
    assert len(os.listdir("/proc/self/fd")) == before
