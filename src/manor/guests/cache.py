"""Files kept between runs, each with a checksum beside it.

Source of the location: XDG Base Directory Specification 0.8 ($XDG_CACHE_HOME, else ~/.cache).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError, HostError, ManorError

_SUM: Final = ".sha256"


class DamagedEntry(ManorError):
    """A cached file does not have the contents that were stored. entry: its name."""

    def __init__(self, entry: str, path: Path) -> None:
        super().__init__(f"the cached file {path} is damaged (its checksum differs)")
        self.entry = entry
        self.path = path


def default_root() -> Path:
    """Where the cache of this user is. A relative $XDG_CACHE_HOME is ignored, as the specification demands."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):
        return Path(configured) / "manor"
    try:
        return Path.home() / ".cache" / "manor"
    except RuntimeError as error:
        raise ConfigError("cache", "there is no home directory; set XDG_CACHE_HOME") from error


class Cache:
    """A directory of named, checksummed files. Names are relative paths with `/`.

    Thread: one; several processes may use one cache under `lock`, and each entry is replaced atomically.
    Raises HostError where the directory or a file cannot be read or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, entry: str) -> Path:
        """Where `entry` is or would be."""
        parts = entry.split("/")
        if not entry or any(part in ("", ".", "..") for part in parts) or entry.endswith(_SUM):
            raise ValueError(f"{entry!r} is not a cache entry name")
        return self.root.joinpath(*parts)

    def find(self, entry: str) -> Path | None:
        """Path of a stored file whose contents are as stored; None if there is none. Raises DamagedEntry."""
        path = self.path(entry)
        try:
            stored = path.with_name(path.name + _SUM).read_text("ascii").strip()
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            # A file without its checksum was never completely stored.
            return None
        except UnicodeDecodeError as error:
            raise DamagedEntry(entry, path) from error
        except OSError as error:
            raise self._refused("read", error) from error
        if stored != actual:
            raise DamagedEntry(entry, path)
        return path

    def read(self, entry: str) -> bytes | None:
        """Contents of `entry`, checked; None if there is none. Raises DamagedEntry."""
        path = self.find(entry)
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise self._refused("read", error) from error

    def store(self, entry: str, data: bytes) -> Path:
        """Keep `data` as `entry`, replacing what is there; complete or not at all."""
        path = self.path(entry)
        sum_path = path.with_name(path.name + _SUM)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The checksum goes last: without it the entry does not exist, so a crash leaves no half entry.
            sum_path.unlink(missing_ok=True)
            _replace(path, data)
            _replace(sum_path, hashlib.sha256(data).hexdigest().encode() + b"\n")
        except OSError as error:
            raise self._refused("write", error) from error
        return path

    def remove(self, entry: str) -> None:
        """Forget `entry`; no error if there is none."""
        path = self.path(entry)
        try:
            path.with_name(path.name + _SUM).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._refused("write", error) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process at a time fill the cache; waits for the other one."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / "lock").open("wb")
        except OSError as error:
            raise self._refused("write", error) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory in the cache's file system that is removed afterwards."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            directory = tempfile.TemporaryDirectory(prefix="scratch-", dir=self.root, ignore_cleanup_errors=True)
        except OSError as error:
            raise self._refused("write", error) from error
        with directory as name:
            yield Path(name)

    def _refused(self, verb: str, error: OSError) -> HostError:
        return HostError(
            f"cannot {verb} the cache {error.filename or self.root}: {error.strerror or error}; "
            "make it accessible or point XDG_CACHE_HOME elsewhere",
            error.errno,
            str(error.filename or self.root),
        )


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that others see the old or the new contents, never a part."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
