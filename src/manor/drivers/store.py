"""The state directory: descriptions as XML files that a user can read, and what they were before in SQLite.

    lock                       held by the daemon, with its number
    format                     number of this layout, and the version of Manor that used it last; a daemon that knows
                               only older layouts leaves it alone
    domains/NAME.xml           and networks/, pools/
    domains/NAME.xml.damaged   one that could not be used; nothing reads it any more
    domains/autostart/NAME.xml a link to it
    snapshots/UUID/NAME.xml
    history.sqlite             revisions of every description, and the trash
    run/UUID/                  of a VM that runs (drivers.local)

A description is written completely and to the disk, or not at all, before its client hears of it; the history follows.
What a death between two steps leaves is put right at the next start (`open`).
Thread: any one at a time; the drivers call it from one thread of their own.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote
from uuid import UUID

from manor import __version__
from manor.base import process_lock
from manor.base.errors import HostError
from manor.base.files import create_synced, sync_directory, write_atomically
from manor.drivers.archive import VOLUMES, Archive
from manor.drivers.errors import uuid_text

logger = logging.getLogger(__name__)

FORMAT: Final = 1
KINDS: Final = ("domains", "networks", "pools")
MAX_FILE: Final = 8 << 20
_UUID: Final = re.compile(r"<uuid>\s*([0-9a-fA-F-]{32,36})\s*</uuid>")


class Busy(HostError):
    """Another daemon has the state directory. pid: its number, None if not known."""

    def __init__(self, root: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{root} is in use by {who}; end that manord first, or give this one another --state")
        self.pid = pid


@dataclass(frozen=True, slots=True)
class Stored:
    """A description as it was found. is_known: a daemon wrote it, and nobody has changed it since. is_own: that was
    this version of Manor."""

    name: str
    xml: str
    autostart: bool
    path: Path = Path()
    is_known: bool = False
    is_own: bool = False


class Store:
    """One state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = -1
        self.archive = Archive(root / "history.sqlite")
        self._syncer: ThreadPoolExecutor | None = None
        self._is_same_version = False
        self._found: dict[str, list[Stored]] = {}
        """What `open` has found, until it is asked for, or changed."""

    # --- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Lock it, and put right what a death left. Raises Busy, HostError."""
        with self._writing("preparing the state directory"):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._take_lock()
            try:
                self._check_format()
                for kind in KINDS:
                    (self.root / kind / "autostart").mkdir(parents=True, exist_ok=True, mode=0o700)
                for name in ("snapshots", "run"):
                    (self.root / name).mkdir(exist_ok=True, mode=0o700)
                sync_directory(self.root)
                self._syncer = ThreadPoolExecutor(1, "store-sync")
                self._sweep()
                self.archive.open()
                self._reconcile()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let another daemon have it."""
        self.archive.close()
        if self._syncer is not None:
            self._syncer.shutdown()
            self._syncer = None
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

    def _check_format(self) -> None:
        """Raise HostError if a newer version has written here: what it means by its files is not known."""
        path = self.root / "format"
        ours = f"{FORMAT} {__version__}"
        try:
            found = path.read_bytes()[:64].decode(errors="replace").strip()
        except FileNotFoundError:
            found = ""
        number = found.partition(" ")[0]
        if found and not (number.isdecimal() and 1 <= int(number) <= FORMAT):
            raise HostError(
                f"{self.root} has the format {number!r}, and this manord knows {FORMAT}: a newer version has used it; "
                f"start that one, or give this one another --state"
            )
        self._is_same_version = found == ours
        if found != ours:
            write_atomically(path, f"{ours}\n".encode())

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

    def set_aside(self, path: Path, reason: str) -> None:
        """Keep a file that cannot be used from being used, or written over. reason: for the log."""
        for number in range(1, 1000):
            kept = path.with_name(f"{path.name}.damaged{number if number > 1 else ''}")
            if not kept.exists():
                break
        try:
            os.rename(path, kept)
        except OSError as error:
            logger.error("%s cannot be used (%s), nor renamed: %s", path, reason, error.strerror)
        else:
            logger.error("%s cannot be used: %s; it is kept as %s: mend it and define it again", path, reason, kept)

    def _reconcile(self) -> None:
        """Note states that the archive has missed, and forget trash that is none: a deletion that got half way."""
        latest = self.archive.latest()
        trash = self.archive.trash()
        trashed = {(each.kind, each.uuid, each.xml): each.id for each in trash}
        there = set()
        for kind in KINDS:
            loaded = self.load(kind)
            self._found[kind] = []
            for stored in loaded:
                found = _UUID.search(stored.xml)
                uuid = found[1] if found else ""
                is_known = latest.get((kind, uuid)) == hash(stored.xml)
                is_own = is_known and self._is_same_version
                self._found[kind].append(replace(stored, is_known=is_known, is_own=is_own))
                if not uuid:
                    continue
                there.add((kind, uuid))
                if (kind, uuid, stored.xml) in trashed:
                    self.archive.forget(trashed[kind, uuid, stored.xml])
                if not is_known:
                    self.archive.note(kind, uuid, stored.name, stored.xml, "found in its file")
        for each in trash:
            # A volume's entry is written before its file is moved. Where the whole pool is away, nothing is known.
            if each.kind == VOLUMES and not os.path.lexists(each.place) and os.path.isdir(_pool_of(each.place)):
                self.archive.forget(each.id)
        if not any(self.root.glob("*/*.damaged*")):  # whose they are is not known
            self.archive.forget_revisions(there)

    # --- descriptions -------------------------------------------------------------------------------------------------

    def load(self, kind: str) -> list[Stored]:
        """All of `kind`, in the order of names; a file that is no text of a description's size is set aside."""
        if kind in self._found:
            return self._found.pop(kind)
        folder = self.root / kind
        found = []
        marked = set(os.listdir(folder / "autostart"))
        for path in sorted(folder.glob("*.xml")):
            text, reason = _examine(path)
            if text is None:
                self.set_aside(path, reason)
            else:
                found.append(Stored(_name_in(text) or path.stem, text, path.name in marked, path))
        # Of a file and its copy under another name, the copy is the one too many.
        return sorted(found, key=lambda each: each.path.name != _file_name(each.name))

    def save(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        """Write a description; the disk has it when this returns. Raises HostError."""
        self._found.pop(kind, None)
        with self._writing(f"writing the description of {name}"):
            path, data = self.root / kind / _file_name(name), xml.encode("utf-8", "surrogateescape")
            if path.exists():
                write_atomically(path, data)
            else:
                # What a power cut in between may leave is no XML, and is set aside at the next start.
                assert self._syncer is not None, "the store is not open"
                create_synced(path, data, self._syncer)
            self._note(kind, uuid_text(uuid), name, xml, who)

    def rename(self, kind: str, uuid: bytes, old: str, new: str, xml: str, who: str) -> None:
        """Give it another name; xml: with that name in it."""
        folder = self.root / kind
        self._found.pop(kind, None)
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

    def _note(self, kind: str, uuid: str, name: str, xml: str, who: str) -> None:
        """Into the archive. What it misses now it gets at the next start; the description itself is kept already."""
        try:
            self.archive.note(kind, uuid, name, xml, who)
        except sqlite3.Error as error:
            logger.warning("the history in %s misses a state of %s: %s", self.root, name, error)

    def remove(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        """Delete a description; it goes to the trash first."""
        folder = self.root / kind
        self._found.pop(kind, None)
        with self._writing(f"removing the description of {name}"):
            link = folder / "autostart" / _file_name(name)
            snapshots = self.load_snapshots(uuid) if kind == "domains" else []
            self.archive.put(kind, uuid_text(uuid), name, xml, who, link.is_symlink(), "", snapshots)
            link.unlink(missing_ok=True)
            (folder / _file_name(name)).unlink(missing_ok=True)
            sync_directory(folder)

    def set_autostart(self, kind: str, name: str, on: bool) -> None:
        """Whether it is started with the daemon."""
        folder = self.root / kind / "autostart"
        link = folder / _file_name(name)
        self._found.pop(kind, None)
        with self._writing(f"changing the autostart of {name}"):
            if on:
                with suppress(FileExistsError):
                    os.symlink(f"../{_file_name(name)}", link)
            else:
                link.unlink(missing_ok=True)
            sync_directory(folder)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def snapshot_owners(self) -> set[bytes]:
        """UUIDs of the domains that have any."""
        found = set()
        for name in os.listdir(self.root / "snapshots"):
            with suppress(ValueError):
                found.add(UUID(name).bytes)
        return found

    def load_snapshots(self, uuid: bytes) -> list[str]:
        """The XML of a domain's snapshots."""
        found = (_read(path) for path in sorted((self.root / "snapshots" / uuid_text(uuid)).glob("*.xml")))
        return [text for text in found if text is not None]

    def save_snapshot(self, uuid: bytes, name: str, xml: str) -> None:
        """Write one."""
        folder = self.root / "snapshots" / uuid_text(uuid)
        with self._writing(f"writing the snapshot {name}"):
            folder.mkdir(exist_ok=True, mode=0o700)
            sync_directory(folder.parent)
            write_atomically(folder / _file_name(name), xml.encode("utf-8", "surrogateescape"))

    def remove_snapshot(self, uuid: bytes, name: str | None) -> None:
        """Delete one, None for all."""
        folder = self.root / "snapshots" / uuid_text(uuid)
        with self._writing("removing a snapshot"):
            if name is None:
                shutil.rmtree(folder, ignore_errors=True)
                sync_directory(folder.parent)
            elif folder.is_dir():
                (folder / _file_name(name)).unlink(missing_ok=True)
                sync_directory(folder)

    @contextmanager
    def archived(self, attempt: str) -> Iterator[Archive]:
        """The archive, for a while. attempt: in words, for the error. Raises HostError."""
        with self._writing(attempt):
            yield self.archive

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


def _pool_of(place: str) -> str:
    """The directory of the pool whose trash `place` is in."""
    return os.path.dirname(os.path.dirname(place))


def _read(path: Path) -> str | None:
    return _examine(path)[0]


def _examine(path: Path) -> tuple[str | None, str]:
    """(text, why there is none)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        return None, error.strerror or str(error)
    if not data:
        return None, "it is empty"
    if len(data) > MAX_FILE:
        return None, f"it has more than {MAX_FILE} bytes"
    if b"\0" in data:
        return None, "it is no text; the host may have lost power while it was written"
    return data.decode("utf-8", "surrogateescape"), ""


def _name_in(text: str | None) -> str | None:
    """The object's own name in its XML."""
    found = None if text is None else re.search(r"<name>([^<]*)</name>", text)
    if found is None:
        return None
    from xml.sax.saxutils import unescape

    return unescape(found[1], {"&apos;": "'", "&quot;": '"'}).strip()
