"""The key with which this user's commands log in to guests: one for all, made by ssh-keygen at its first use."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manor.base.errors import ConfigError, HostError
from manor.base.files import data_directory, sync_directory


def private_key() -> Path:
    """The file of the private key; makes it if there is none. Raises ConfigError without ssh-keygen, HostError."""
    path = data_directory() / "ssh" / "id_ed25519"
    if not path.exists():
        _make(path)
    return path


def public_key() -> str:
    """The public key as one line."""
    path = private_key()
    public = path.with_name(path.name + ".pub")
    try:
        return public.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"{public} cannot be read; remove it and {path} for a new key", file=str(public)) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    """Make the pair beside its place and move it there, the private key last; one process at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(path.parent), tempfile.TemporaryDirectory(prefix=".key.", dir=path.parent) as folder:
            if path.exists():
                return
            new = Path(folder) / "key"
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "manor", "-f", os.fspath(new)]
            made = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if made.returncode:
                raise HostError(f"ssh-keygen could not make a key: {made.stderr.strip()}")
            os.replace(new.with_name("key.pub"), path.with_name(path.name + ".pub"))
            os.replace(new, path)
        sync_directory(path.parent)
    except FileNotFoundError as error:
        raise ConfigError(
            "", "there is no ssh-keygen on this machine; install OpenSSH's client (openssh-client)"
        ) from error
    except OSError as error:
        raise HostError.from_os_error(f"making an ssh key in {path.parent}", error) from error
