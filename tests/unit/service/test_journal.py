"""Events that keep their numbers: over restarts, deaths, power cuts and full disks."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import HostError
from manor.drivers.api import Kind, Notice
from manor.rpc.protocol.catalog import MANOR
from manor.rpc.protocol.own_records import EventEntry
from manor.rpc.protocol.records import Domain, Network, Secret
from manor.service import journal as journal_module
from manor.service.event_words import entry_of
from manor.service.events import EventHub
from manor.service.journal import SKIPPED, Journal

DOMAIN = Domain("web1", bytes(16), 3)


def entry(name: str = "web1") -> EventEntry:
    return EventEntry(0, 1.5, "u", "domain", name, bytes(16), "lifecycle", "started", "booted")


def numbers(found: tuple[bool, list[EventEntry]]) -> tuple[bool, list[int]]:
    return found[0], [each.sequence for each in found[1]]


def test_who_was_away_resumes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state" / "events.sqlite")
    for _ in range(5):
        journal.append(entry())
    assert numbers(journal.since(3, 100)) == (True, [4, 5])
    assert numbers(journal.since(0, 2)) == (True, [1, 2])
    assert numbers(journal.since(5, 100)) == (True, [])
    assert numbers(journal.since(9, 100)) == (False, [])  # of another journal
    journal.close()
    again = Journal(tmp_path / "state" / "events.sqlite")
    assert again.append(entry("web2")).sequence == 6
    assert again.since(4, 100)[1] == [entry()._replace(sequence=5), entry("web2")._replace(sequence=6)]
    asyncio.run(again.checkpoint())
    again.close()


def test_what_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "KEPT", 50)
    monkeypatch.setattr(journal_module, "RECENT", 10)
    monkeypatch.setattr(journal_module, "_PRUNE", 5)
    journal = Journal()
    for _ in range(120):
        journal.append(entry())
    is_whole, found = journal.since(3, 1000)
    assert not is_whole
    assert 50 <= len(found) < 55
    assert found[-1].sequence == 120
    assert journal.since(found[0].sequence - 1, 1000)[0]


def in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_death_loses_no_event_and_no_number(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"

    def die() -> None:
        journal = Journal(path)
        for _ in range(3):
            journal.append(entry())
        os.kill(os.getpid(), signal.SIGKILL)

    for round_ in range(3):
        assert in_child(die) == -signal.SIGKILL
        journal = Journal(path)
        assert numbers(journal.since(0, 100)) == (True, list(range(1, 3 * (round_ + 1) + 1)))
        journal._database.close()  # as a death would
    journal = Journal(path)
    assert journal.append(entry()).sequence == 10


def test_a_power_cut_leaves_a_gap_of_numbers_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, boot = tmp_path / "events.sqlite", tmp_path / "boot"
    monkeypatch.setattr(journal_module, "BOOT_ID", boot)
    boot.write_text("first\n")
    journal = Journal(path)
    journal.append(entry())
    journal._database.close()
    boot.write_text("second\n")
    journal = Journal(path)
    assert journal.append(entry()).sequence == 2 + SKIPPED
    assert numbers(journal.since(1, 100)) == (False, [2 + SKIPPED])
    journal.close()
    boot.write_text("third\n")
    assert Journal(path).append(entry()).sequence == 3 + SKIPPED  # it was closed in order


def test_a_full_disk_stops_no_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "events.sqlite")
    journal.append(entry())
    journal._database.execute("PRAGMA max_page_count=1")

    class Full:
        def execute(self, text: str, *arguments: Any) -> Any:
            if text.startswith("INSERT"):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(text, *arguments)

    real = journal._database
    journal._database = Full()  # type: ignore[assignment]
    for _ in range(3):
        journal.append(entry())
    assert numbers(journal.since(0, 100)) == (True, [1, 2, 3, 4])
    assert caplog.text.count("not written down any more") == 1
    journal._database = real
    journal.close()
    journal = Journal(tmp_path / "events.sqlite")
    assert journal.latest == 4
    assert numbers(journal.since(0, 100)) == (False, [1])


def test_a_damaged_file_is_put_aside_and_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    path.write_bytes(b"this is no database" * 100)
    assert Journal(path).append(entry()).sequence == 1
    assert (tmp_path / "events.sqlite.damaged").exists()
    with pytest.raises(HostError, match="cannot be read or written"):
        Journal(path / "x" / "events.sqlite")


class Watcher:
    """In a session's place."""

    def __init__(self) -> None:
        self.sent: list[EventEntry] = []

    def send_event(self, procedure: Any, *arguments: Any) -> None:
        assert procedure is MANOR["manor_event"]
        procedure.encode_arguments(arguments)  # it has to fit the wire
        self.sent.append(arguments[0])


def test_watchers_get_every_event_once(tmp_path: Path) -> None:
    hub, watcher = EventHub(), Watcher()
    hub.publish("u", Notice(Kind.LIFECYCLE, DOMAIN, (2, 0)))  # before the journal is there
    hub.begin(Journal())
    assert [(each.sequence, each.what) for each in hub.journal.since(0, 9)[1]] == [(1, "started")]
    session: Any = watcher
    hub.watch(session)
    hub.watch(session)
    hub.publish("u", Notice(Kind.LIFECYCLE, DOMAIN, (5, 1)))
    assert [(each.sequence, each.what, each.detail) for each in watcher.sent] == [(2, "stopped", "destroyed")]
    hub.forget(session)
    hub.publish("u", Notice(Kind.REBOOT, DOMAIN))
    assert len(watcher.sent) == 1


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_notice_has_words(kind: Kind) -> None:
    values: dict[Kind, tuple[object, ...]] = {
        Kind.LIFECYCLE: (0, 2), Kind.BALLOON: (1 << 20,), Kind.DEVICE_ADDED: ("disk0",),
        Kind.DEVICE_REMOVED: ("disk0",), Kind.DEVICE_REMOVAL_FAILED: ("disk0",), Kind.METADATA: (1, None),
        Kind.AGENT: (1, 1), Kind.NETWORK: (2, 0),
        Kind.POOL: (4, 0), Kind.SECRET: (0, 0),
    }  # fmt: skip
    subject: Any = Network("net1", bytes(16)) if kind in (Kind.NETWORK, Kind.POOL, Kind.POOL_REFRESH) else DOMAIN
    if kind in (Kind.SECRET, Kind.SECRET_VALUE):
        subject = Secret(bytes(16), 2, "client.x")
    made = entry_of("u", Notice(kind, subject, values.get(kind, ())), 2.5)
    assert made.name == getattr(subject, "name", "client.x")
    assert made.time == 2.5
    assert made.what
    MANOR["manor_event"].encode_arguments((made,))


def test_what_a_foreign_daemon_tells_is_kept_as_it_is() -> None:
    made = entry_of("u", Notice(Kind.LIFECYCLE, DOMAIN, (77, 1)), 0.0)
    assert (made.what, made.detail) == ("", "77 1")
