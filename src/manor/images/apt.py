"""A suite's packages, resolved and fetched by this machine's apt with a state of its own.

The machine's own package lists, its status and its archives are neither used nor changed; which server, proxy,
credentials and keys are used is its configuration's business. Source: apt-get(8), apt.conf(5), apt-patterns(7).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError, HostError
from manor.guests.packages import (
    ARCHITECTURE,
    AptClient,
    CorruptedDownload,
    FetchError,
    Package,
    client_environment,
    no_sandbox,
    package_of,
    parse_records,
    reason,
    verify,
)
from manor.guests.progress import Progress
from manor.images.sources import AptSource

_POLL_S: Final = 0.2
_TIMEOUT_S: Final = 600
_URI_LINE: Final = re.compile(r"'(?P<uri>[^']*)' (?P<file>\S+) (?P<size>\d+)(?: .*)?")
_PACKAGE_WORD: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9]+)?")


class SuiteClient:
    """apt for one suite. state: a directory that is kept between runs. Thread: one."""

    def __init__(self, state: Path, sources: Sequence[AptSource]) -> None:
        """Raises ConfigError where there is no apt, HostError if `state` cannot be written."""
        if not AptClient.is_present():
            raise ConfigError(
                "", "this machine has no apt to fetch Debian's packages with; build on a machine with Debian or Ubuntu"
            )
        self._state = state
        self.archives = state / "cache" / "archives"
        try:
            for name in ("lists/partial", "cache/archives/partial", "empty"):
                (state / name).mkdir(parents=True, exist_ok=True)
            (state / "status").write_bytes(b"")
            (state / "suite.sources").write_text("\n".join(source.stanza() for source in sources), "utf-8")
        except OSError as error:
            raise HostError.from_os_error(f"create the package state directory {state}", error) from error
        settings = [
            f"Dir::State={state}",
            f"Dir::State::lists={state / 'lists'}",
            f"Dir::State::status={state / 'status'}",
            f"Dir::State::extended_states={state / 'extended_states'}",
            f"Dir::Cache={state / 'cache'}",
            f"Dir::Etc::sourcelist={state / 'suite.sources'}",
            f"Dir::Etc::sourceparts={state / 'empty'}",
            # The machine's pins are about the machine.
            "Dir::Etc::preferences=/dev/null",
            f"Dir::Etc::preferencesparts={state / 'empty'}",
            f"APT::Architecture={ARCHITECTURE}",
            f"APT::Architectures={ARCHITECTURE}",
            "APT::Install-Recommends=false",
            "APT::Install-Suggests=false",
            "APT::Get::Assume-Yes=true",
            "Acquire::Languages=none",
            "APT::Update::Post-Invoke-Success::=true",
        ]
        self._options = [part for setting in settings for part in ("-o", setting)] + no_sandbox()

    def update(self, progress: Progress) -> None:
        """Fetch the suite's lists; without a network those of last time do, with a warning. Raises FetchError."""
        progress.step("fetching package lists")
        done = self._run(["apt-get", *self._options, "-q", "--error-on=any", "update"])
        if done.returncode == 0:
            return
        said = reason(done.stderr)
        if not any((self._state / "lists").glob("*_Packages*")):
            raise FetchError(f"the package lists could not be fetched: {said}")
        progress.warn(f"the package lists could not be fetched ({said}); those of last time are used")

    def resolve(self, wanted: Sequence[str]) -> list[Package]:
        """Every package that an installation of `wanted` (names or patterns) on an empty system needs, in the order in
        which they would be unpacked. Raises ConfigError for an unknown name, FetchError."""
        # A file that is in the cache would not be printed; what is fetched is looked for here.
        cache = ["-o", f"Dir::Cache::archives={self._state / 'empty'}"]
        done = self._run(["apt-get", *self._options, *cache, "-q", "--print-uris", "install", *wanted])
        if done.returncode != 0:
            raise ConfigError("packages", reason(done.stderr + "\n" + done.stdout))
        files = [match for line in done.stdout.splitlines() if (match := _URI_LINE.fullmatch(line))]
        names = [_archive_name(match["file"]) for match in files]
        described = self._run(["apt-cache", *self._options, "show", *(f"{name}={v}" for name, v in names)])
        known: dict[tuple[str, str], Package] = {}
        for record in parse_records(described.stdout):
            package = package_of(record)
            if package is not None:
                known[package.name, package.version] = package
        missing = [name for name in names if name not in known]
        if not names or missing:
            raise FetchError(f"the package lists do not describe {missing[0][0] if missing else 'any package'}")
        return [known[name] for name in names]

    def fetch(self, packages: Sequence[Package], progress: Progress) -> list[Path]:
        """The packages' files, checked; downloads those that are not there. Raises FetchError."""
        missing = [package for package in packages if self._find(package) is None]
        if missing:
            self._download(missing, progress)
        progress.step("checking the packages")
        paths = []
        for package in packages:
            path = self._find(package)
            if path is None:
                raise FetchError(f"{package.name} {package.version} could not be downloaded")
            try:
                verify(package, path)
            except CorruptedDownload:
                path.unlink(missing_ok=True)
                raise
            paths.append(path)
        return paths

    def _find(self, package: Package) -> Path | None:
        version = package.version.replace(":", "%3a")
        for architecture in (ARCHITECTURE, "all"):
            path = self.archives / f"{package.name}_{version}_{architecture}.deb"
            if path.is_file() and path.stat().st_size == package.size:
                return path
        return None

    def _download(self, packages: Sequence[Package], progress: Progress) -> None:
        total = sum(package.size for package in packages)
        progress.step(f"downloading {len(packages)} packages")
        wanted = [f"{package.name}:{ARCHITECTURE}={package.version}" for package in packages]
        before = _size_of(self.archives)
        command = ["apt-get", *self._options, "-q", "download", *wanted]
        errors_path = self._state / "errors"
        try:
            with errors_path.open("wb") as errors, subprocess.Popen(
                command, cwd=self.archives, env=client_environment(), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=errors,
            ) as process:  # fmt: skip
                try:
                    while process.poll() is None:
                        progress.advance(min(max(_size_of(self.archives) - before, 0), total), total)
                        try:
                            process.wait(_POLL_S)
                        except subprocess.TimeoutExpired:
                            continue
                except BaseException:
                    process.terminate()
                    raise
            said = errors_path.read_text("utf-8", "replace")
        except OSError as error:
            raise HostError.from_os_error("run apt-get", error) from error
        if process.returncode != 0:
            raise FetchError(f"the packages could not be downloaded: {reason(said)}")

    @staticmethod
    def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command, env=client_environment(), stdin=subprocess.DEVNULL, capture_output=True,
                encoding="utf-8", errors="replace", timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{command[0]} gave no answer for {_TIMEOUT_S} s") from error
        except OSError as error:
            raise HostError.from_os_error(f"run {command[0]}", error) from error


def check_names(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that no package can have."""
    for name in names:
        if not _PACKAGE_WORD.fullmatch(name):
            raise ConfigError("packages", f"{name!r} is not the name of a package")


def _archive_name(file: str) -> tuple[str, str]:
    """(package, version) of an archive's file name: name_version_architecture.deb, with %3a for a colon."""
    name, _, rest = file.partition("_")
    return name, rest.rpartition("_")[0].replace("%3a", ":")


def _size_of(directory: Path) -> int:
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                total += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
    return total
