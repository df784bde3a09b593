"""What was: every state of every description, and what was deleted. One sqlite file, or memory alone.

Thread: one at a time. Every method raises sqlite3.Error if the file cannot be used; `Store` turns that into HostError.
"""

from __future__ import annotations

import difflib
import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manor.base.errors import HostError

VOLUMES: Final = "volumes"
"""The kind of trash that is a file; the others are descriptions."""
TRASH_SECONDS: Final = 7 * 24 * 3600
"""How long something deleted is kept."""
MAX_REVISIONS: Final = 100
"""Of one object; the oldest go."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS revision (
    kind TEXT NOT NULL, uuid TEXT NOT NULL, number INTEGER NOT NULL, time REAL NOT NULL, who TEXT NOT NULL,
    name TEXT NOT NULL, xml TEXT NOT NULL, PRIMARY KEY (kind, uuid, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trash (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, uuid TEXT NOT NULL, time REAL NOT NULL, who TEXT NOT NULL,
    name TEXT NOT NULL, xml TEXT NOT NULL);
"""
_ADDED: Final = {
    "autostart": "INTEGER NOT NULL DEFAULT 0", "place": "TEXT NOT NULL DEFAULT ''",
    "snapshots": "TEXT NOT NULL DEFAULT '[]'",
}  # fmt: skip
"""Columns of the trash that came later; a file of an earlier version gets them when it is opened."""
_TRASH: Final = "id, kind, uuid, time, who, name, xml, autostart, place, snapshots"


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of a description. time: seconds since the Epoch."""

    number: int
    time: float
    who: str
    name: str
    xml: str


@dataclass(frozen=True, slots=True)
class Trashed:
    """What was deleted. uuid: the object's, or its pool's for a volume. place: where a volume's file is now.

    snapshots: descriptions of a domain's snapshots, which are inside its disks.
    """

    id: int
    kind: str
    uuid: str
    time: float
    who: str
    name: str
    xml: str
    autostart: bool = False
    place: str = ""
    snapshots: tuple[str, ...] = ()


class Archive:
    """Revisions and trash. Open it first."""

    def __init__(self, path: Path | None) -> None:
        """path: of the file, None to forget everything at the end."""
        self._path = path
        self._database: sqlite3.Connection | None = None

    def open(self) -> None:
        """A damaged file is put aside: what was is worth less than what is."""
        if self._path is None:
            self._database = _connect(":memory:")
            return
        try:
            self._database = _connect(self._path)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            put_aside(self._path)
            self._database = _connect(self._path)

    def close(self) -> None:
        """Nothing happens the second time."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._database is None and self._path is None:
            self.open()  # there is nothing that could go wrong
        assert self._database is not None, "the archive is not open"
        return self._database

    # --- revisions ----------------------------------------------------------------------------------------------------

    def note(self, kind: str, uuid: str, name: str, xml: str, who: str) -> None:
        """Remember a new state; one that is the same as the latest is no new one."""
        row = self._db.execute(
            "SELECT number, xml FROM revision WHERE kind = ? AND uuid = ? ORDER BY number DESC LIMIT 1", (kind, uuid)
        ).fetchone()
        if row is not None and row[1] == xml:
            return
        number = 1 if row is None else row[0] + 1
        self._db.execute(
            "INSERT INTO revision VALUES (?, ?, ?, ?, ?, ?, ?)", (kind, uuid, number, time.time(), who, name, xml)
        )
        if number > MAX_REVISIONS:
            self._db.execute(
                "DELETE FROM revision WHERE kind = ? AND uuid = ? AND number <= ?",
                (kind, uuid, number - MAX_REVISIONS),
            )

    def revisions(self, kind: str, uuid: str) -> list[Revision]:
        """All that are kept, the oldest first."""
        rows = self._db.execute(
            "SELECT number, time, who, name, xml FROM revision WHERE kind = ? AND uuid = ? ORDER BY number",
            (kind, uuid),
        )
        return [Revision(*row) for row in rows]

    def latest(self) -> dict[tuple[str, str], int]:
        """(kind, UUID) -> `hash` of its latest state: thousands of them are looked at at each start."""
        rows = self._db.execute(
            "SELECT kind, uuid, xml FROM revision r WHERE number ="
            " (SELECT max(number) FROM revision WHERE kind = r.kind AND uuid = r.uuid)"
        )
        return {(kind, uuid): hash(xml) for kind, uuid, xml in rows}

    def forget_revisions(self, keep: Collection[tuple[str, str]]) -> None:
        """Drop those of objects that are neither in `keep`, as (kind, UUID), nor in the trash."""
        there = {*keep, *self._db.execute("SELECT kind, uuid FROM trash")}
        for row in self._db.execute("SELECT DISTINCT kind, uuid FROM revision").fetchall():
            if row not in there:
                self._db.execute("DELETE FROM revision WHERE kind = ? AND uuid = ?", row)

    # --- trash --------------------------------------------------------------------------------------------------------

    def put(
        self,
        kind: str,
        uuid: str,
        name: str,
        xml: str,
        who: str,
        autostart: bool = False,
        place: str = "",
        snapshots: Sequence[str] = (),
    ) -> int:
        """Into the trash; its number there, which is never used again. The disk has it when this returns."""
        self._db.execute("PRAGMA synchronous=FULL")
        try:
            cursor = self._db.execute(
                "INSERT INTO trash (kind, uuid, time, who, name, xml, autostart, place, snapshots)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (kind, uuid, time.time(), who, name, xml, autostart, place, json.dumps(list(snapshots))),
            )
        finally:
            self._db.execute("PRAGMA synchronous=NORMAL")
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def trash(self) -> list[Trashed]:
        """What was deleted, the latest first."""
        return _trashed(self._db.execute(f"SELECT {_TRASH} FROM trash ORDER BY id DESC"))

    def trashed(self, number: int) -> Trashed:
        """One entry. Raises HostError if there is none."""
        found = _trashed(self._db.execute(f"SELECT {_TRASH} FROM trash WHERE id = ?", (number,)))
        if not found:
            raise HostError(f"there is nothing numbered {number} in the trash; `trash` lists what there is")
        return found[0]

    def forget(self, number: int) -> None:
        """Delete an entry; the file of a volume is not touched."""
        self._db.execute("DELETE FROM trash WHERE id = ?", (number,))

    def expired(self, now: float) -> list[Trashed]:
        """What has been kept long enough."""
        return _trashed(self._db.execute(f"SELECT {_TRASH} FROM trash WHERE time < ?", (now - TRASH_SECONDS,)))


def diff(revisions: Sequence[Revision], old: int, new: int) -> str:
    """What changed between two revisions, as a unified diff. Raises HostError for a number that is not kept."""
    first, second = find(revisions, old), find(revisions, new)
    return "".join(
        difflib.unified_diff(
            first.xml.splitlines(True), second.xml.splitlines(True), f"revision {old}", f"revision {new}"
        )
    )


def find(revisions: Sequence[Revision], number: int) -> Revision:
    """Raises HostError for a number that is not kept."""
    found = next((each for each in revisions if each.number == number), None)
    if found is None:
        known = f"{revisions[0].number} to {revisions[-1].number}" if revisions else "none"
        raise HostError(f"there is no revision {number}; there are {known}")
    return found


def put_aside(path: Path) -> None:
    """Rename a database that cannot be read, and drop what belongs to it."""
    os.replace(path, path.with_name(f"{path.name}.damaged"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _connect(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(_SCHEMA)
        there = {row[1] for row in database.execute("PRAGMA table_info(trash)")}
        for column, kind in _ADDED.items():
            if column not in there:
                database.execute(f"ALTER TABLE trash ADD COLUMN {column} {kind}")
    except BaseException:
        database.close()
        raise
    return database


def _trashed(rows: Iterable[tuple[Any, ...]]) -> list[Trashed]:
    return [
        Trashed(number, kind, uuid, when, who, name, xml, bool(autostart), place, tuple(json.loads(snapshots)))
        for number, kind, uuid, when, who, name, xml, autostart, place, snapshots in rows
    ]
