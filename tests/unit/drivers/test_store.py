"""The state directory, and what is left of it when its process dies."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import uuid as uuid_module
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import HostError
from manor.drivers.archive import VOLUMES, Archive, diff
from manor.drivers.store import Busy, Store

UUID = uuid_module.UUID("6695eb01-f6a4-8304-79aa-97f2502e193f")


def xml(name: str, memory: int = 64, uuid: uuid_module.UUID = UUID) -> str:
    inner = f"  <name>{name}</name>\n  <uuid>{uuid}</uuid>\n  <memory>{memory}</memory>\n"
    return f"<domain type='kvm'>\n{inner}</domain>\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "state")
    made.open()
    yield made
    made.close()


def reopened(store: Store) -> Store:
    store.close()
    store.open()
    return store


def test_what_is_saved_is_found_again(store: Store) -> None:
    store.save("domains", UUID.bytes, "web1", xml("web1"), "ann")
    store.set_autostart("domains", "web1", True)
    (found,) = reopened(store).load("domains")
    assert (found.name, found.xml, found.autostart) == ("web1", xml("web1"), True)
    assert store.load("networks") == []


@pytest.mark.parametrize("name", [".hidden", "..", "a b", "ä", "%41", "x'y&z", "-dash"])
def test_names_stay_inside_their_directory(store: Store, name: str) -> None:
    from xml.sax.saxutils import escape

    store.save("domains", UUID.bytes, name, xml(escape(name)), "ann")
    assert [each.name for each in reopened(store).load("domains")] == [name]
    assert len(list((store.root / "domains").glob("*.xml")) + list((store.root / "domains").glob("%2E*"))) >= 1
    assert {path.name for path in store.root.iterdir()} >= {"domains", "networks", "pools", "lock"}
    store.remove("domains", UUID.bytes, name, xml(escape(name)), "ann")
    assert store.load("domains") == []


def test_a_second_daemon_is_turned_away_and_told_by_whom(store: Store) -> None:
    with pytest.raises(Busy, match=f"in use by process {os.getpid()}") as caught:
        Store(store.root).open()
    assert caught.value.pid == os.getpid()
    assert store.load("domains") == []  # and the first goes on


def test_revisions_say_who_and_what(store: Store) -> None:
    store.save("domains", UUID.bytes, "web1", xml("web1", 64), "ann")
    store.save("domains", UUID.bytes, "web1", xml("web1", 64), "ann")  # the same again is no revision
    store.save("domains", UUID.bytes, "web1", xml("web1", 128), "bob")
    first, second = store.archive.revisions("domains", str(UUID))
    assert (first.number, first.who, second.number, second.who) == (1, "ann", 2, "bob")
    assert "-  <memory>64</memory>" in diff([first, second], 1, 2)
    with pytest.raises(HostError, match="no revision 7; there are 1 to 2"):
        diff([first, second], 1, 7)


def test_what_is_removed_stays_in_the_trash(store: Store) -> None:
    store.save("domains", UUID.bytes, "web1", xml("web1"), "ann")
    store.remove("domains", UUID.bytes, "web1", xml("web1"), "bob")
    (gone,) = reopened(store).archive.trash()
    assert (gone.name, gone.who, gone.xml) == ("web1", "bob", xml("web1"))
    assert store.archive.trashed(gone.id) == gone
    store.save("domains", UUID.bytes, "web1", xml("web1", 128), "bob")  # another of the same identity
    assert reopened(store).archive.trash() == [gone]
    store.archive.forget(gone.id)
    with pytest.raises(HostError, match=f"nothing numbered {gone.id} in the trash"):
        store.archive.trashed(gone.id)
    store.remove("domains", UUID.bytes, "web1", xml("web1", 128), "bob")
    assert store.archive.trash()[0].id > gone.id  # numbers are not used again


def test_autostart_is_remembered_in_the_trash(store: Store) -> None:
    store.save("domains", UUID.bytes, "web1", xml("web1"), "ann")
    store.set_autostart("domains", "web1", True)
    store.remove("domains", UUID.bytes, "web1", xml("web1"), "bob")
    assert store.archive.trash()[0].autostart


def test_revisions_go_with_the_last_trace_of_their_object(store: Store) -> None:
    store.save("domains", UUID.bytes, "web1", xml("web1"), "ann")
    store.remove("domains", UUID.bytes, "web1", xml("web1"), "bob")
    (gone,) = reopened(store).archive.trash()
    assert store.archive.revisions("domains", str(UUID))
    store.archive.forget(gone.id)
    assert reopened(store).archive.revisions("domains", str(UUID)) == []


def test_an_entry_of_a_volume_that_was_not_moved_is_forgotten(store: Store, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    (pool / ".trash").mkdir(parents=True)
    (pool / ".trash" / "1-there").write_text("")
    for name, place in (("there", pool / ".trash" / "1-there"), ("not", pool / ".trash" / "2-not"),
                        ("away", tmp_path / "unmounted" / ".trash" / "3-away")):  # fmt: skip
        store.archive.put(VOLUMES, str(UUID), name, "<volume/>", "ann", False, str(place))
    assert {each.name for each in reopened(store).archive.trash()} == {"there", "away"}


def test_a_file_that_a_user_changed_becomes_a_revision(store: Store) -> None:
    store.save("domains", UUID.bytes, "web1", xml("web1", 64), "ann")
    (store.root / "domains" / "web1.xml").write_text(xml("web1", 256))
    found = reopened(store).archive.revisions("domains", str(UUID))
    assert [each.who for each in found] == ["ann", "found in its file"]


def test_a_damaged_history_is_put_aside(store: Store) -> None:
    store.save("domains", UUID.bytes, "web1", xml("web1"), "ann")
    store.close()
    for suffix in ("", "-wal", "-shm"):
        path = store.root / f"history.sqlite{suffix}"
        if path.exists():
            path.write_bytes(b"this is no database" * 100)
    store.open()
    assert [each.name for each in store.load("domains")] == ["web1"]
    assert (store.root / "history.sqlite.damaged").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="preparing the state directory in .*file/state"):
        Store(tmp_path / "file" / "state").open()


KINDS = ("open", "os.rename", "os.remove", "os.symlink", "os.mkdir", "os.truncate")


def change_all(limit: int, root: Path, report: int) -> None:
    """In a child: change a store, and die at step `limit`."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        first = arguments[0] if arguments else None
        if event in KINDS and isinstance(first, (str, os.PathLike)) and str(root) in os.fspath(first):
            step()

    def around(work: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*given: Any) -> Any:
            step()
            result = work(*given)
            step()
            return result

        return inner

    def acknowledge(text: str) -> None:
        os.write(report, text.encode() + b"\n")

    store = Store(root)
    store.open()
    sys.addaudithook(hook)
    os.fsync = around(os.fsync)
    for name in ("note", "put", "forget"):
        setattr(Archive, name, around(getattr(Archive, name)))
    store.save("domains", UUID.bytes, "a", xml("a", 1), "t")
    acknowledge("defined")
    store.set_autostart("domains", "a", True)
    acknowledge("autostart")
    store.save("domains", UUID.bytes, "a", xml("a", 2), "t")
    acknowledge("changed")
    store.rename("domains", UUID.bytes, "a", "b", xml("b", 2), "t")
    acknowledge("renamed")
    store.remove("domains", UUID.bytes, "b", xml("b", 2), "t")
    acknowledge("removed")
    acknowledge(f"all {count}")


def run_child(limit: int, root: Path) -> list[str]:
    """What it acknowledged. The child is a fork: a hook cannot be taken out again."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            change_all(limit, root, writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read().split("\n")[:-1]
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == (-signal.SIGKILL if limit else 0)
    return said


def test_death_at_any_step_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    steps = int(run_child(0, tmp_path / "all")[-1].split()[1])
    assert steps > 20
    for limit in range(1, steps + 1):
        root = tmp_path / str(limit)
        said = run_child(limit, root)
        last = said[-1] if said else ""
        store = Store(root)
        store.open()  # it always opens
        found = {each.name: each for each in store.load("domains")}
        trash = [each.name for each in store.archive.trash()]
        store.close()
        left = sorted(path.name for path in (root / "domains").iterdir())
        assert not [name for name in left if name.endswith(".tmp")], (limit, left)
        match last:
            case "":
                assert set(found) <= {"a"}, limit
            case "defined" | "autostart":
                assert set(found) == {"a"}, limit
                assert found["a"].xml in (xml("a", 1), xml("a", 2)), limit
                assert found["a"].autostart or last == "defined", limit
            case "changed":
                assert len(found) == 1, (limit, left)
                (only,) = found.values()
                assert only.xml in (xml("a", 2), xml("b", 2)), limit
                assert only.autostart, (limit, left)
            case "renamed":
                assert (set(found) == {"b"} and found["b"].xml == xml("b", 2)) or (not found and trash == ["b"]), limit
            case "removed":
                assert (found, trash) == ({}, ["b"]), limit
        assert not (found and trash), limit


def test_snapshots_are_remembered_in_the_trash_and_an_older_archive_is_brought_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    older = sqlite3.connect(tmp_path / "state" / "history.sqlite")
    older.execute(
        "CREATE TABLE trash (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, uuid TEXT NOT NULL, time REAL NOT NULL,"
        " who TEXT NOT NULL, name TEXT NOT NULL, xml TEXT NOT NULL)"
    )
    older.execute("INSERT INTO trash VALUES (5, 'domains', ?, 1.0, 'ann', 'old', '<domain/>')", (str(UUID),))
    older.commit()
    older.close()
    store = Store(tmp_path / "state")
    store.open()
    assert (store.archive.trashed(5).name, store.archive.trashed(5).snapshots) == ("old", ())
    store.save("domains", UUID.bytes, "web1", xml("web1"), "ann")
    store.save_snapshot(UUID.bytes, "s1", "<domainsnapshot><name>s1</name></domainsnapshot>")
    store.remove("domains", UUID.bytes, "web1", xml("web1"), "bob")
    assert store.archive.trash()[0].snapshots == ("<domainsnapshot><name>s1</name></domainsnapshot>",)
    store.close()
