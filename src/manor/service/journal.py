"""What happened, numbered for good: a bounded file of events that outlives the daemon.

Numbers only grow, and none is used twice. An event is in the file before anybody hears of it, so that nothing that was
told is lost when the daemon dies; only what the host itself had not yet written when it lost its power is, and then the
numbers go on beyond all that can have been lost. Who asks from a number is told if there is a gap behind it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.base.errors import HostError
from manor.base.host_boot import BOOT_ID
from manor.drivers.archive import put_aside
from manor.rpc.protocol.own_records import EventEntry

logger = logging.getLogger(__name__)

KEPT: Final = 50_000
"""Events in the file; the oldest go."""
RECENT: Final = 1000
"""Events in memory besides, for the time of a full disk."""
SKIPPED: Final = 1 << 20
"""Numbers that are left out after a power cut: more than can have been given out since the last write to the disk."""
_PRUNE: Final = 1000
"""Events beyond KEPT from which on the oldest are deleted."""
_COLUMNS: Final = "sequence, time, source, object, name, uuid, kind, what, detail"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS event (
    sequence INTEGER PRIMARY KEY, time REAL NOT NULL, source TEXT NOT NULL, object TEXT NOT NULL, name TEXT NOT NULL,
    uuid BLOB, kind TEXT NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Journal:
    """One daemon's. Thread: the event loop's; writing an event takes some 30 us and waits for no disk."""

    def __init__(self, path: Path | None = None) -> None:
        """path: of the file, None to forget everything at the end. Raises HostError if it cannot be used."""
        self._path = path
        self._recent: deque[EventEntry] = deque(maxlen=RECENT)
        self._has_failed = False
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._database = self._open()
            self.latest = self._number()
        except (OSError, sqlite3.Error) as error:
            raise HostError(f"the events in {path} cannot be read or written: {error}") from error
        self._count = self._database.execute("SELECT count(*) FROM event").fetchone()[0]

    def _open(self) -> sqlite3.Connection:
        if self._path is None:
            return _connect(":memory:")
        try:
            return _connect(self._path)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            logger.warning("%s is damaged; it was renamed, and the events in it are gone", self._path)
            put_aside(self._path)
            return _connect(self._path)

    def _number(self) -> int:
        """The number of the latest event, or where to go on after a power cut. It is written down for the next one."""
        state = dict(self._database.execute("SELECT name, value FROM state"))
        latest: int = self._database.execute("SELECT coalesce(max(sequence), 0) FROM event").fetchone()[0]
        latest = max(latest, int(state.get("latest", 0)))
        boot = BOOT_ID.read_text().strip()
        if state.get("boot", boot) != boot and state.get("closed") != "yes":
            latest += SKIPPED
        self._note(latest=str(latest), boot=boot, closed="no")
        return latest

    def append(self, entry: EventEntry) -> EventEntry:
        """Give an event its number, and keep it; what it is then."""
        self.latest += 1
        entry = entry._replace(sequence=self.latest)
        self._recent.append(entry)
        try:
            self._database.execute(f"INSERT INTO event ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", entry)
        except sqlite3.Error as error:
            if not self._has_failed:
                logger.error("events are not written down any more: %s (%s)", error, self._path)
            self._has_failed = True
            return entry
        self._has_failed = False
        self._count += 1
        if self._count >= KEPT + _PRUNE:
            with suppress(sqlite3.Error):
                self._database.execute("DELETE FROM event WHERE sequence <= ?", (self.latest - KEPT,))
                self._count = self._database.execute("SELECT count(*) FROM event").fetchone()[0]
        return entry

    def since(self, sequence: int, limit: int) -> tuple[bool, list[EventEntry]]:
        """(whether none is missing, the first `limit` events after number `sequence`).

        A number that was never given out is of another journal, and all are missing that were before.
        """
        try:
            rows = self._database.execute(
                f"SELECT {_COLUMNS} FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (min(sequence, self.latest), limit),
            ).fetchall()
        except sqlite3.Error:
            rows = []
        found = {row[0]: EventEntry(*row) for row in rows}
        found.update({each.sequence: each for each in self._recent if each.sequence > sequence})
        entries = [found[number] for number in sorted(found)][:limit]
        if sequence > self.latest:
            return False, entries
        last = entries[-1].sequence if len(entries) == limit and entries else self.latest
        return len(entries) == last - sequence, entries

    async def checkpoint(self) -> None:
        """Bring to the disk what is only in the host's memory; the loop goes on meanwhile."""
        if self._path is not None:
            await asyncio.to_thread(_checkpoint, self._path)

    def close(self) -> None:
        """The next daemon goes on with the next number."""
        with suppress(sqlite3.Error):
            self._database.execute("PRAGMA synchronous=FULL")
            self._note(latest=str(self.latest), closed="yes")
        self._database.close()

    def _note(self, **values: str) -> None:
        self._database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", list(values.items()))


def _connect(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        # A checkpoint waits for the disk, so none happens by itself: `checkpoint` does it in a thread.
        database.execute("PRAGMA wal_autocheckpoint=0")
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


_checkpointing: Final = threading.Lock()


def _checkpoint(path: Path) -> None:
    with _checkpointing, suppress(sqlite3.Error):
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            database.close()
