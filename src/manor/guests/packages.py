"""Packages of the distribution, fetched by its own client as the machine's owner set it up.

Which server, proxy, credentials and keys are used is the client's business. Nothing is installed and no root
rights are needed. Source: apt-get(8), apt-cache(8), apt.conf(5); Debian Policy 5.1 (control fields).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError, HostError
from manor.guests.progress import Progress

ARCHITECTURE: Final = "amd64"
"""Debian's name of the guests' architecture."""

_POLL_S: Final = 0.1
_QUERY_TIMEOUT_S: Final = 120
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")


class FetchError(HostError):
    """The package client could not get a package; says what it said."""


class CorruptedDownload(FetchError):
    """What arrived is not what the package index describes."""


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package, as the package index describes it. size: bytes; sha256: lower-case digits."""

    name: str
    version: str
    size: int
    sha256: str
    depends: tuple[str, ...]


class AptClient:
    """The apt of this machine. own_state: a directory for package lists of our own, used when the machine's
    lists are missing or outdated. Thread: one."""

    def __init__(self, own_state: Path) -> None:
        self._own_state = own_state
        self._options: list[str] = []

    @staticmethod
    def is_present() -> bool:
        """Whether this machine has an apt."""
        return shutil.which("apt-get") is not None and shutil.which("apt-cache") is not None

    def update_own_lists(self, progress: Progress) -> None:
        """Fetch package lists into our own directory and use those from now on. Raises FetchError."""
        state = self._own_state
        try:
            for name in ("lists/partial", "cache/archives/partial"):
                (state / name).mkdir(parents=True, exist_ok=True)
            (state / "status").touch()
        except OSError as error:
            raise HostError.from_os_error(f"create the package lists directory {state}", error) from error
        options = [
            f"Dir::State={state}",
            f"Dir::State::lists={state / 'lists'}",
            f"Dir::State::status={state / 'status'}",
            f"Dir::Cache={state / 'cache'}",
            # Only this architecture's lists: smaller, and right on a machine of another architecture.
            f"APT::Architecture={ARCHITECTURE}",
            f"APT::Architectures={ARCHITECTURE}",
            "Acquire::Languages=none",
            # Clean-up hooks of the machine (container images have some) are about its own state, not ours.
            "APT::Update::Post-Invoke-Success::=true",
        ]
        options = [part for option in options for part in ("-o", option)]
        progress.step("fetching package lists")
        done = self._run(["apt-get", *options, *no_sandbox(), "-q", "update"])
        if done.returncode != 0:
            raise FetchError(f"the package lists could not be fetched: {reason(done.stderr)}")
        self._options = options

    def find(self, name: str) -> Package | None:
        """The version of `name` that would be installed now; None if the lists do not have it."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a package name")
        done = self._run(["apt-cache", *self._options, "show", "--no-all-versions", f"{name}:{ARCHITECTURE}"])
        if done.returncode != 0:
            return None
        for record in parse_records(done.stdout):
            package = package_of(record)
            if package is not None and package.name == name:
                return package
        return None

    def download(self, package: Package, directory: Path, progress: Progress) -> Path:
        """Download `package` into the empty `directory` and check it against the index. Raises FetchError.

        The client leaves the download in the current directory, hence one directory for each.
        """
        progress.step(f"downloading {package.name} {package.version}")
        command = ["apt-get", *self._options, *no_sandbox(), "-q", "download"]
        command.append(f"{package.name}:{ARCHITECTURE}={package.version}")
        errors_path = directory / "errors"
        try:
            with errors_path.open("wb") as errors, subprocess.Popen(
                command, cwd=directory, env=client_environment(), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=errors,
            ) as process:  # fmt: skip
                try:
                    while _wait(process) is None:
                        progress.advance(min(_size_of(directory), package.size), package.size)
                except BaseException:
                    process.terminate()
                    raise
            said = errors_path.read_text("utf-8", "replace")
        except OSError as error:
            raise HostError.from_os_error("run apt-get", error) from error
        found = list(directory.glob("*.deb"))
        if process.returncode != 0 or len(found) != 1:
            raise FetchError(f"{package.name} could not be downloaded: {reason(said)}")
        verify(package, found[0])
        progress.advance(package.size, package.size)
        return found[0]

    @staticmethod
    def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command, env=client_environment(), stdin=subprocess.DEVNULL, capture_output=True,
                encoding="utf-8", errors="replace", timeout=_QUERY_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{command[0]} gave no answer for {_QUERY_TIMEOUT_S} s") from error
        except OSError as error:
            raise HostError.from_os_error(f"run {command[0]}", error) from error


def verify(package: Package, path: Path) -> None:
    """Compare a downloaded file with the package index. Raises CorruptedDownload."""
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise HostError.from_os_error(f"read {path}", error) from error
    if actual != package.sha256:
        raise CorruptedDownload(
            f"the download of {package.name} {package.version} is corrupted: its SHA-256 is {actual}, "
            f"the package index says {package.sha256}; try again"
        )


def require_client() -> None:
    """Raises ConfigError, with what to do instead, where there is no package client."""
    if not AptClient.is_present():
        raise ConfigError(
            "",  # no option is wrong: some are missing
            "this machine has no apt to fetch the default guest with; pass a Linux kernel with --kernel FILE "
            "and an initramfs with --initrd FILE",
        )


def parse_records(text: str) -> list[dict[str, str]]:
    """Paragraphs of control fields; names in lower case, continuation lines joined by newlines."""
    records: list[dict[str, str]] = []
    current: dict[str, str] = {}
    field = ""
    for line in [*text.splitlines(), ""]:
        if not line.strip():
            if current:
                records.append(current)
            current, field = {}, ""
        elif line[0] in " \t":
            if field:
                current[field] += "\n" + line.strip()
        else:
            name, colon, value = line.partition(":")
            if colon:
                field = name.lower()
                current[field] = value.strip()
    return records


def package_of(record: dict[str, str]) -> Package | None:
    """The package a record of the index describes; None if it cannot be downloaded (installed by hand)."""
    sha256 = record.get("sha256", "").lower()
    size = record.get("size", "")
    if "package" not in record or "version" not in record or len(sha256) != 64 or not size.isdecimal():
        return None
    depends = []
    for clause in record.get("depends", "").split(","):
        # Of alternatives the first; version restrictions and architectures are not needed to find the name.
        found = _NAME.match(clause.split("|")[0].strip())
        if found:
            depends.append(found[0])
    return Package(record["package"], record["version"], int(size), sha256, tuple(depends))


def client_environment() -> dict[str, str]:
    """Ours, with messages in the one language we can look at."""
    return {**os.environ, "LC_ALL": "C"}


def no_sandbox() -> list[str]:
    """For root, the client would switch to a user who cannot write into root's own cache directory."""
    return ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return None


def _size_of(directory: Path) -> int:
    """Bytes downloaded so far; files may vanish while we look."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def reason(said: str) -> str:
    """The first error line of the client's messages."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for line in lines:
        if line.startswith(("E:", "Err:")):
            return line.split(":", 1)[1].strip()
    return lines[-1] if lines else "the package client gave no reason"
