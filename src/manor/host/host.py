"""The host as the checks see it: files below a root, and who asks. Tests give another root."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

READ_WRITE: Final = 0o6
"""One class's bits of a file's mode, for reading and writing."""


@dataclass(frozen=True, slots=True)
class Node:
    """Who may open a device. mode: permission bits."""

    mode: int
    uid: int
    gid: int

    @property
    def group_may_open(self) -> bool:
        return self.mode >> 3 & READ_WRITE == READ_WRITE


@dataclass(frozen=True, slots=True)
class Host:
    """Paths are absolute, and taken below `root`. What cannot be read counts as not there."""

    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    gids: frozenset[int] = field(default_factory=lambda: frozenset({os.getegid(), *os.getgroups()}))
    system: str = field(default_factory=lambda: os.uname().sysname)
    release: str = field(default_factory=lambda: os.uname().release)
    machine: str = field(default_factory=lambda: os.uname().machine)

    def path(self, path: str) -> Path:
        """Where `path` of this host really is."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str | None:
        """Contents of a small text file without the white space around it; None if it cannot be read."""
        try:
            return self.path(path).read_text("utf-8", "replace").strip()
        except OSError:
            return None

    def names(self, path: str) -> list[str]:
        """Names in a directory, sorted; none if it cannot be read."""
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(self.path(path))

    def node(self, path: str) -> Node | None:
        """Rights of a file; None if there is none."""
        try:
            status = os.stat(self.path(path))
        except OSError:
            return None
        return Node(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def can_write(self, path: str) -> bool:
        return os.access(self.path(path), os.W_OK)

    def group_name(self, gid: int) -> str | None:
        """Name of a group. Source: group(5)."""
        return next((name for name, number, _ in self._groups() if number == gid), None)

    def has_group(self, name: str) -> bool:
        return any(name == known for known, _, _ in self._groups())

    def is_member(self, gid: int) -> bool:
        """Whether this user is entered in the group, which only counts from the next login on."""
        user = self._user_name()
        return any(number == gid and user in members for _, number, members in self._groups())

    def _groups(self) -> list[tuple[str, int, list[str]]]:
        found = []
        for line in (self.read("/etc/group") or "").splitlines():
            fields = line.split(":")
            if len(fields) == 4 and fields[2].isdecimal():
                found.append((fields[0], int(fields[2]), fields[3].split(",")))
        return found

    def _user_name(self) -> str | None:
        """Source: passwd(5)."""
        for line in (self.read("/etc/passwd") or "").splitlines():
            fields = line.split(":")
            if len(fields) == 7 and fields[2] == str(self.uid):
                return fields[0]
        return None
