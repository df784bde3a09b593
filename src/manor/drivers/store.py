"""The state directory: descriptions as XML files that a user can read, and their history in SQLite.

    lock                       held by the daemon, with its number
    domains/NAME.xml           and networks/, pools/
    domains/autostart/NAME.xml a link to it
    snapshots/UUID/NAME.xml
    history.sqlite             revisions of every description, and the trash
    run/UUID/                  of a VM that runs (drivers.local)

A description is written completely and to the disk, or not at all, before its client hears of it; the history follows.
What a death between two steps leaves is put right at the next start (`open`).
Thread: any one at a time; the drivers call it from one thread of their own.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from manor.base import process_lock
from manor.base.errors import HostError
from manor.base.files import sync_directory, write_atomically
from manor.drivers.errors import uuid_text

KINDS: Final = ("domains", "networks", "pools")
TRASH_SECONDS: Final = 7 * 24 * 3600
"""How long a deleted description is kept."""
MAX_REVISIONS: Final = 100
"""Of one object; the oldest go."""
MAX_FILE: Final = 8 << 20
_UUID: Final = re.compile(r"<uuid>\s*([0-9a-fA-F-]{32,36})\s*</uuid>")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS revision (
    kind TEXT NOT NULL, uuid TEXT NOT NULL, number INTEGER NOT NULL, time REAL NOT NULL, who TEXT NOT NULL,
    name TEXT NOT NULL, xml TEXT NOT NULL, PRIMARY KEY (kind, uuid, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trash (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, uuid TEXT NOT NULL, time REAL NOT NULL, who TEXT NOT NULL,
    name TEXT NOT NULL, xml TEXT NOT NULL);
"""


class Busy(HostError):
    """Another daemon has the state directory. pid: its number, None if not known."""

    def __init__(self, root: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{root} is in use by {who}; end that manord first, or give this one another --state")
        self.pid = pid


@dataclass(frozen=True, slots=True)
class Stored:
    """A description as it was found."""

    name: str
    xml: str
    autostart: bool


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
    """A description that was deleted."""

    id: int
    kind: str
    uuid: str
    time: float
    who: str
    name: str
    xml: str


class Store:
    """One state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = -1
        self._history: sqlite3.Connection | None = None

    # --- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Lock it, and put right what a death left. Raises Busy, HostError."""
        with self._writing("preparing the state directory"):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for kind in KINDS:
                (self.root / kind / "autostart").mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("snapshots", "run"):
                (self.root / name).mkdir(exist_ok=True, mode=0o700)
            self._take_lock()
            try:
                self._sweep()
                self._open_history()
                self._reconcile()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let another daemon have it."""
        if self._history is not None:
            self._history.close()
            self._history = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        descriptor = process_lock.open_lock(self.root / "lock")
        if not process_lock.try_lock(descriptor):
            pid = process_lock.noted_pid(descriptor)
            os.close(descriptor)
            raise Busy(self.root, pid)
        process_lock.note_pid(descriptor)
        self._lock = descriptor

    def _sweep(self) -> None:
        """Half-written files; links to nothing; a rename that got half way."""
        for kind in KINDS:
            folder = self.root / kind
            for path in folder.glob(".*.tmp"):
                path.unlink()
            for path in list(folder.glob("*.xml")):
                name = _name_in(_read(path))
                if name is not None and path.name != _file_name(name) and not (folder / _file_name(name)).exists():
                    os.rename(path, folder / _file_name(name))
                    link = folder / "autostart" / path.name
                    if link.is_symlink():
                        with suppress(FileExistsError):
                            os.symlink(f"../{_file_name(name)}", folder / "autostart" / _file_name(name))
                        link.unlink()
            for link in (folder / "autostart").iterdir():
                if not (folder / link.name).exists():
                    link.unlink()
        for path in (self.root / "snapshots").glob("*/.*.tmp"):
            path.unlink()

    def _open_history(self) -> None:
        path = self.root / "history.sqlite"
        try:
            self._history = self._connect(path)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            # The history is worth less than the daemon: the descriptions themselves are whole.
            os.replace(path, path.with_name("history.sqlite.damaged"))
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._history = self._connect(path)

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        history = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            history.execute("PRAGMA journal_mode=WAL")
            history.execute("PRAGMA synchronous=NORMAL")
            history.executescript(_SCHEMA)
        except BaseException:
            history.close()
            raise
        return history

    def _reconcile(self) -> None:
        """Note descriptions that the history has missed, and forget trash that is not."""
        history = self._db()
        history.execute("DELETE FROM trash WHERE time < ?", (time.time() - TRASH_SECONDS,))
        latest = {
            (kind, uuid): xml
            for kind, uuid, xml in history.execute(
                "SELECT kind, uuid, xml FROM revision r WHERE number ="
                " (SELECT max(number) FROM revision WHERE kind = r.kind AND uuid = r.uuid)"
            )
        }
        for kind in KINDS:
            for stored in self.load(kind):
                found = _UUID.search(stored.xml)
                if found is None:
                    continue
                uuid = found[1]
                history.execute("DELETE FROM trash WHERE kind = ? AND uuid = ?", (kind, uuid))
                if latest.get((kind, uuid)) != stored.xml:
                    self._note(kind, uuid, stored.name, stored.xml, "found in its file")

    # --- descriptions -------------------------------------------------------------------------------------------------

    def load(self, kind: str) -> list[Stored]:
        """All of `kind`, in the order of names; a file that cannot be read is left out."""
        folder = self.root / kind
        found = []
        for path in sorted(folder.glob("*.xml")):
            text = _read(path)
            if text is not None:
                name = _name_in(text) or path.stem
                found.append(Stored(name, text, (folder / "autostart" / path.name).is_symlink()))
        return found

    def save(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        """Write a description; the disk has it when this returns. Raises HostError."""
        with self._writing(f"writing the description of {name}"):
            write_atomically(self.root / kind / _file_name(name), xml.encode("utf-8", "surrogateescape"))
            self._note(kind, uuid_text(uuid), name, xml, who)

    def rename(self, kind: str, uuid: bytes, old: str, new: str, xml: str, who: str) -> None:
        """Give it another name; xml: with that name in it."""
        folder = self.root / kind
        with self._writing(f"renaming {old}"):
            # With the new name under the old file's name first: whoever finds that knows how to go on.
            write_atomically(folder / _file_name(old), xml.encode("utf-8", "surrogateescape"))
            link = folder / "autostart" / _file_name(old)
            if link.is_symlink():
                self.set_autostart(kind, new, True)
            os.rename(folder / _file_name(old), folder / _file_name(new))
            sync_directory(folder)
            link.unlink(missing_ok=True)
            self._note(kind, uuid_text(uuid), new, xml, who)

    def remove(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        """Delete a description; it goes to the trash first."""
        folder = self.root / kind
        with self._writing(f"removing the description of {name}"):
            self._db().execute(
                "INSERT INTO trash (kind, uuid, time, who, name, xml) VALUES (?, ?, ?, ?, ?, ?)",
                (kind, uuid_text(uuid), time.time(), who, name, xml),
            )
            (folder / "autostart" / _file_name(name)).unlink(missing_ok=True)
            (folder / _file_name(name)).unlink(missing_ok=True)
            sync_directory(folder)

    def set_autostart(self, kind: str, name: str, on: bool) -> None:
        """Whether it is started with the daemon."""
        folder = self.root / kind / "autostart"
        link = folder / _file_name(name)
        with self._writing(f"changing the autostart of {name}"):
            if on:
                with suppress(FileExistsError):
                    os.symlink(f"../{_file_name(name)}", link)
            else:
                link.unlink(missing_ok=True)
            sync_directory(folder)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def load_snapshots(self, uuid: bytes) -> list[str]:
        """The XML of a domain's snapshots."""
        found = (_read(path) for path in sorted((self.root / "snapshots" / uuid_text(uuid)).glob("*.xml")))
        return [text for text in found if text is not None]

    def save_snapshot(self, uuid: bytes, name: str, xml: str) -> None:
        """Write one."""
        folder = self.root / "snapshots" / uuid_text(uuid)
        with self._writing(f"writing the snapshot {name}"):
            folder.mkdir(exist_ok=True, mode=0o700)
            write_atomically(folder / _file_name(name), xml.encode("utf-8", "surrogateescape"))

    def remove_snapshot(self, uuid: bytes, name: str | None) -> None:
        """Delete one, None for all."""
        folder = self.root / "snapshots" / uuid_text(uuid)
        with self._writing("removing a snapshot"):
            if name is None:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                (folder / _file_name(name)).unlink(missing_ok=True)

    # --- history ------------------------------------------------------------------------------------------------------

    def revisions(self, kind: str, uuid: bytes) -> list[Revision]:
        """All that are kept, the oldest first."""
        rows = self._db().execute(
            "SELECT number, time, who, name, xml FROM revision WHERE kind = ? AND uuid = ? ORDER BY number",
            (kind, uuid_text(uuid)),
        )
        return [Revision(*row) for row in rows]

    def diff(self, kind: str, uuid: bytes, old: int, new: int) -> str:
        """What changed between two revisions, as a unified diff. Raises HostError for a number that is not kept."""
        found = {each.number: each for each in self.revisions(kind, uuid)}
        for number in (old, new):
            if number not in found:
                raise HostError(f"there is no revision {number}; there are {', '.join(map(str, found)) or 'none'}")
        first, second = found[old], found[new]
        return "".join(
            difflib.unified_diff(
                first.xml.splitlines(True), second.xml.splitlines(True), f"revision {old}", f"revision {new}"
            )
        )

    def trash(self) -> list[Trashed]:
        """What was deleted, the latest first."""
        rows = self._db().execute("SELECT id, kind, uuid, time, who, name, xml FROM trash ORDER BY id DESC")
        return [Trashed(*row) for row in rows]

    def take_from_trash(self, number: int) -> Trashed:
        """One entry, which is to be defined again (defining forgets it). Raises HostError if there is none."""
        found = next((each for each in self.trash() if each.id == number), None)
        if found is None:
            raise HostError(f"there is nothing numbered {number} in the trash")
        return found

    def forget_trash(self, number: int) -> None:
        """Delete an entry for good."""
        self._db().execute("DELETE FROM trash WHERE id = ?", (number,))

    def _note(self, kind: str, uuid: str, name: str, xml: str, who: str) -> None:
        history = self._db()
        row = history.execute(
            "SELECT number, xml FROM revision WHERE kind = ? AND uuid = ? ORDER BY number DESC LIMIT 1", (kind, uuid)
        ).fetchone()
        if row is not None and row[1] == xml:
            return
        number = 1 if row is None else row[0] + 1
        history.execute(
            "INSERT INTO revision VALUES (?, ?, ?, ?, ?, ?, ?)", (kind, uuid, number, time.time(), who, name, xml)
        )
        if number > MAX_REVISIONS:
            history.execute(
                "DELETE FROM revision WHERE kind = ? AND uuid = ? AND number <= ?",
                (kind, uuid, number - MAX_REVISIONS),
            )

    def _db(self) -> sqlite3.Connection:
        assert self._history is not None, "the store is not open"
        return self._history

    @contextmanager
    def _writing(self, attempt: str) -> Iterator[None]:
        """Say clearly what the host refused."""
        try:
            yield
        except OSError as error:
            raise HostError(
                f"{attempt} in {self.root}: {error.strerror or error}; nothing was changed", error.errno, str(self.root)
            ) from error
        except sqlite3.Error as error:
            raise HostError(f"{attempt}: the history in {self.root} cannot be written: {error}") from error


def _file_name(name: str) -> str:
    """A file's name that no object's name can escape from: neither a path nor a hidden file."""
    quoted = quote(name, safe=" !#$&'()+,;=@[]^_`{}~")
    return f"%2E{quoted[1:]}.xml" if quoted.startswith(".") else f"{quoted}.xml"


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError:
        return None
    return data.decode("utf-8", "surrogateescape") if 0 < len(data) <= MAX_FILE else None


def _name_in(text: str | None) -> str | None:
    """The object's own name in its XML."""
    found = None if text is None else re.search(r"<name>([^<]*)</name>", text)
    if found is None:
        return None
    from xml.sax.saxutils import unescape

    return unescape(found[1], {"&apos;": "'", "&quot;": '"'}).strip()
