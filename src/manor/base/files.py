"""Files that others see complete or not at all, and the user's own directories.

Source of the locations: XDG Base Directory Specification 0.8. Relative paths in the variables are ignored, as it
demands.
"""

from __future__ import annotations

import os
import stat
import tempfile
from concurrent.futures import Executor
from pathlib import Path

from manor.base.errors import ConfigError, HostError


def xdg_directory(variable: str, fallback: str) -> Path:
    """`manor` in the directory that `variable` names; `fallback` is relative to the home directory.

    Raises ConfigError where there is no home directory.
    """
    configured = os.environ.get(variable, "")
    if os.path.isabs(configured):
        return Path(configured) / "manor"
    try:
        return Path.home() / fallback / "manor"
    except RuntimeError as error:
        raise ConfigError("", f"there is no home directory; set {variable}") from error


def data_directory() -> Path:
    """Where images are kept."""
    return xdg_directory("XDG_DATA_HOME", ".local/share")


def state_directory() -> Path:
    """Where VMs keep their disks and configurations."""
    return xdg_directory("XDG_STATE_HOME", ".local/state")


def config_directory() -> Path:
    """What the user writes."""
    return xdg_directory("XDG_CONFIG_HOME", ".config")


def runtime_directory() -> Path:
    """For sockets: of this user alone, and gone after a restart of the host. Makes it. Raises HostError.

    Without $XDG_RUNTIME_DIR it is a directory of mode 0700 in $TMPDIR, which is refused if somebody else made it.
    """
    configured = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(configured) and os.access(configured, os.W_OK | os.X_OK):
        path = Path(configured) / "manor"
    else:
        path = Path(tempfile.gettempdir()) / f"manor-{os.geteuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise HostError(
            f"cannot make {path}: {error.strerror}; point XDG_RUNTIME_DIR to a directory of yours",
            error.errno,
            str(path),
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise HostError(f"{path} is not a directory that you alone can use; remove it, or set XDG_RUNTIME_DIR")
    return path


def sync_directory(path: Path) -> None:
    """Make names in `path` survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that others, and whoever comes after a crash, see the old or the new contents, never a part.

    Raises OSError; then nothing changed, and nothing is left behind.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync_directory(path.parent)


def create_synced(path: Path, data: bytes, beside: Executor, mode: int = 0o600) -> None:
    """Write a file that is not there; the disk has it when this returns.

    Its contents and its name go to the disk at the same time, the latter by `beside`: together they take hardly longer
    than one of them. Others see it whole or not at all. After a power cut before this returned it may be there without
    its contents, or with a part, so they must show whether they are whole. Raises OSError; then it is not there.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.rename(name, path)
            name = os.fspath(path)
            synced = beside.submit(sync_directory, path.parent)
            try:
                os.fsync(file.fileno())
            finally:
                synced.result()
    except BaseException:
        os.unlink(name)
        raise
