"""Unpacking packages as dpkg does, into entries of a file system instead of a running system's root.

The result is what `dpkg --unpack` leaves on an empty system: every file in place, and a package database in which each
package is unpacked and waits for its configuration. No program of a package runs here, so nothing needs rights or the
guest's architecture. Source: deb(5), dpkg(1), deb-triggers(5), Debian Policy 6 (maintainer scripts) and 10.1 (merged
/usr).
"""

from __future__ import annotations

import hashlib
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from manor.base.errors import ProtocolError
from manor.fs.entry import NS_PER_S, Entry, FileData, directory, regular, symlink
from manor.guests.deb import read_control, read_members
from manor.guests.packages import parse_records

MERGED: Final = ("bin", "lib", "lib64", "sbin")
"""Directories of the root that are links into /usr."""
_DATABASE: Final = "var/lib/dpkg"
_SCRIPTS: Final = frozenset({"preinst", "postinst", "prerm", "postrm", "config"})


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A package of the database. script_name: what its files there are called."""

    name: str
    version: str
    architecture: str
    script_name: str
    has_preinst: bool


@dataclass(slots=True)
class Unpacking:
    """One unpacking of packages, in their order; iterate over `entries` once, then read the rest.

    chosen: names that the user asked for; all other packages count as installed for their sake.
    newest: the newest time of any file, in seconds since 1970.
    """

    paths: Sequence[Path]
    chosen: frozenset[str]
    packages: list[Unpacked] = field(default_factory=list)
    newest: int = 0
    _seen: set[str] = field(default_factory=set)
    _owners: dict[str, str] = field(default_factory=dict)
    _status: list[str] = field(default_factory=list)
    _extended: list[str] = field(default_factory=list)
    _file_triggers: list[str] = field(default_factory=list)
    _named_triggers: dict[str, list[str]] = field(default_factory=dict)

    def entries(self) -> Iterator[Entry]:
        """All entries; contents are to be read before the next one is asked for.

        Raises ProtocolError for a damaged package or one that has another's file, OSError if one cannot be read.
        """
        yield from self._fresh([directory(""), directory("usr")])
        for name in MERGED:
            yield from self._fresh([directory(f"usr/{name}")])
            yield symlink(name, f"usr/{name}")
        for path in self.paths:
            yield from self._package(path)
        yield from self._database()

    def _package(self, path: Path) -> Iterator[Entry]:
        control = read_control(path)
        records = parse_records(control.get("control", b"").decode("utf-8", "replace"))
        if len(records) != 1 or not {"package", "version", "architecture"} <= records[0].keys():
            raise ProtocolError(f"the package {path.name} does not say what it is")
        record = records[0]
        architecture = record["architecture"]
        is_same = record.get("multi-arch") == "same"
        script_name = f"{record['package']}:{architecture}" if is_same else record["package"]
        package = Unpacked(record["package"], record["version"], architecture, script_name, "preinst" in control)
        conffiles = [
            line for line in control.get("conffiles", b"").decode("utf-8", "replace").splitlines()
            if line.startswith("/")
        ]  # fmt: skip
        sums: dict[str, str] = {}
        listed = []
        for member, contents in read_members(path):
            name = member.name.removeprefix("./").rstrip("/")
            if name == ".":
                name = ""
            listed.append(f"/{name}" if name else "/.")
            entry = self._entry(package, name, member, contents)
            if entry is None:
                continue
            if f"/{name}" in conffiles and contents is not None:
                data = contents.read()
                sums[f"/{name}"] = hashlib.md5(data, usedforsecurity=False).hexdigest()
                entry = regular(entry.path, data, stat.S_IMODE(entry.mode), mtime=entry.mtime)
            yield from self._fresh([entry])
        yield from self._records(package, control, listed)
        self._note_status(record, control["control"].decode("utf-8", "replace"), conffiles, sums)
        self._note_triggers(package, control.get("triggers", b"").decode("utf-8", "replace"))
        self.packages.append(package)

    def _entry(
        self, package: Unpacked, name: str, member: tarfile.TarInfo, contents: IO[bytes] | None
    ) -> Entry | None:
        """The entry for a member; None for one of the merged directories."""
        path = merged(name)
        if path in MERGED:
            return None
        if ".." in path.split("/"):
            raise ProtocolError(f"{package.name} has a file outside the file system: {member.name}")
        if path in self._owners:
            raise ProtocolError(f"{package.name} and {self._owners[path]} both have the file /{path}")
        if not member.isdir():
            self._owners[path] = package.name
        mtime = int(member.mtime)
        self.newest = max(self.newest, mtime)
        mode = stat.S_IMODE(member.mode)
        common = (member.uid, member.gid, mtime * NS_PER_S)
        if member.isdir():
            return Entry(path, stat.S_IFDIR | mode, *common)
        if member.issym():
            return Entry(path, stat.S_IFLNK | 0o777, *common, data=member.linkname.encode("utf-8", "surrogateescape"))
        if member.islnk():
            return Entry(path, stat.S_IFREG | mode, link=merged(member.linkname.removeprefix("./")))
        if contents is not None:
            stream = contents
            return Entry(path, stat.S_IFREG | mode, *common, data=FileData(member.size, lambda: stream))
        raise ProtocolError(f"{package.name} has a file of an unknown kind: {member.name}")

    def _fresh(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """`entries`, each after the directories it lies in, without directories that are there."""
        for entry in entries:
            if stat.S_ISDIR(entry.mode) and entry.path in self._seen:
                continue
            missing = []
            parent = entry.path.rpartition("/")[0]
            while parent and parent not in self._seen:
                missing.append(parent)
                parent = parent.rpartition("/")[0]
            for path in reversed(missing):
                self._seen.add(path)
                yield directory(path)
            if stat.S_ISDIR(entry.mode):
                self._seen.add(entry.path)
            yield entry

    def _records(self, package: Unpacked, control: dict[str, bytes], listed: list[str]) -> Iterator[Entry]:
        """The package's files in the database."""
        info = f"{_DATABASE}/info/{package.script_name}"
        text = "".join(f"{line}\n" for line in listed)
        yield from self._fresh([regular(f"{info}.list", text.encode("utf-8", "surrogateescape"))])
        for name in sorted(control.keys() - {"control"}):
            yield regular(f"{info}.{name}", control[name], 0o755 if name in _SCRIPTS else 0o644)

    def _note_status(self, record: dict[str, str], text: str, conffiles: list[str], sums: dict[str, str]) -> None:
        first, _, rest = text.strip("\n").partition("\n")
        if not first.lower().startswith("package:"):
            first, rest = f"Package: {record['package']}", text.strip("\n")
            rest = "\n".join(line for line in rest.split("\n") if not line.lower().startswith("package:"))
        lines = [first, "Status: install ok unpacked", rest]
        if conffiles:
            lines.append("Conffiles:")
            lines += [f" {name} {sums.get(name, 'newconffile')}" for name in conffiles]
        self._status.append("\n".join(lines) + "\n")
        if record["package"] not in self.chosen and record.get("priority") != "required":
            self._extended.append(
                f"Package: {record['package']}\nArchitecture: {record['architecture'].replace('all', 'amd64')}\n"
                "Auto-Installed: 1\n"
            )

    def _note_triggers(self, package: Unpacked, text: str) -> None:
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            if len(words) != 2 or not words[0].startswith("interest"):
                continue
            interested = package.name + ("/noawait" if words[0] == "interest-noawait" else "")
            if words[1].startswith("/"):
                self._file_triggers.append(f"{words[1]} {interested}")
            else:
                self._named_triggers.setdefault(words[1], []).append(interested)

    def _database(self) -> Iterator[Entry]:
        """The rest of the database, which is about all packages."""
        yield from self._fresh(
            [
                directory(f"{_DATABASE}/updates"),
                regular(f"{_DATABASE}/info/format", b"1\n"),
                regular(f"{_DATABASE}/status", "\n".join(self._status).encode("utf-8", "surrogateescape")),
                regular(f"{_DATABASE}/available", b""),
                regular(f"{_DATABASE}/diversions", b""),
                regular(f"{_DATABASE}/statoverride", b""),
                regular(f"{_DATABASE}/triggers/File", "".join(f"{t}\n" for t in self._file_triggers).encode()),
                regular(f"{_DATABASE}/triggers/Unincorp", b""),
                *(
                    regular(f"{_DATABASE}/triggers/{name}", "".join(f"{p}\n" for p in packages).encode())
                    for name, packages in sorted(self._named_triggers.items())
                ),
                regular("var/lib/apt/extended_states", "\n".join(self._extended).encode()),
            ]
        )


def merged(path: str) -> str:
    """Where a path really is, as /bin and its like are links into /usr."""
    return f"usr/{path}" if path.partition("/")[0] in MERGED and "/" in path else path
