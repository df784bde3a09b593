"""The coarse statistics of a week, in a file: what a restart of the daemon does not forget."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from manor.drivers.archive import put_aside
from manor.service.history import COARSE_SECONDS, COARSE_STEP, WIDTH, Bucket

logger = logging.getLogger(__name__)

MAX_ROWS: Final = 1_000_000
"""Of all domains together, some 100 MB: 100 domains for a week. The oldest go."""
_PRUNE_EVERY: Final = 60
"""Writes between two looks for what is too old."""
_ROW: Final = struct.Struct(f"<{WIDTH}f")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS bucket (
    uuid BLOB NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (uuid, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS bucket_number ON bucket (number);
"""


class HistoryFile:
    """One daemon's. What cannot be written is lost, and said once: statistics stop nothing else."""

    def __init__(self, path: Path | None) -> None:
        """path: None for memory."""
        self._path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._writes = 0
        self._has_failed = False

    async def save(self, rows: Sequence[tuple[bytes, Bucket]]) -> None:
        """Write buckets down."""
        if rows:
            await asyncio.to_thread(self._guarded, lambda database: self._save(database, rows), None)

    async def buckets(self, uuid: bytes, start: float, end: float) -> list[Bucket]:
        """Of one domain, in the order of time."""
        return await asyncio.to_thread(
            self._guarded,
            lambda database: [
                Bucket(number, _ROW.unpack(data))
                for number, data in database.execute(
                    "SELECT number, data FROM bucket WHERE uuid = ? AND number BETWEEN ? AND ? ORDER BY number",
                    (uuid, int(start // COARSE_STEP), int(min(end, 1e12) // COARSE_STEP)),
                )
                if len(data) == _ROW.size
            ],
            [],
        )

    def close(self) -> None:
        """Nothing happens the second time."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _save(self, database: sqlite3.Connection, rows: Sequence[tuple[bytes, Bucket]]) -> None:
        with database:
            database.executemany(
                "INSERT OR REPLACE INTO bucket VALUES (?, ?, ?)",
                [(uuid, bucket.number, _ROW.pack(*bucket.values)) for uuid, bucket in rows],
            )
            self._writes += 1
            if (self._writes - 1) % _PRUNE_EVERY == 0:
                newest = max(bucket.number for _, bucket in rows)
                database.execute("DELETE FROM bucket WHERE number < ?", (newest - COARSE_SECONDS // COARSE_STEP,))
                count = database.execute("SELECT count(*) FROM bucket").fetchone()[0]
                if count > MAX_ROWS:
                    (limit,) = database.execute(
                        "SELECT number FROM bucket ORDER BY number LIMIT 1 OFFSET ?", (count - MAX_ROWS,)
                    ).fetchone()
                    database.execute("DELETE FROM bucket WHERE number < ?", (limit,))

    def _guarded(self, work, otherwise):  # type: ignore[no-untyped-def]
        with self._lock:
            try:
                if self._database is None:
                    self._database = self._open()
                found = work(self._database)
                self._has_failed = False
                return found
            except (sqlite3.Error, OSError) as error:
                if not self._has_failed:
                    logger.error("the statistics in %s cannot be kept: %s", self._path, error)
                self._has_failed = True
                return otherwise

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self._path or ":memory:")
        except sqlite3.DatabaseError as error:
            damaged = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
            if self._path is None or getattr(error, "sqlite_errorcode", None) not in damaged:
                raise
            put_aside(self._path)
            return _connect(self._path)


def _connect(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
