"""Builds a disk with Debian on it: `manor image build debian`.

    packages ─resolve, fetch─▶ .deb files ─unpack, configure─▶ tree (kept in the cache) ─customize─▶ disk image

The tree depends on the packages alone; accounts, names and sizes are put in while the disk is written. So a second
image of the same packages takes seconds. Equal inputs give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from manor.base.errors import ConfigError, HostError
from manor.fs.io import ImageFile
from manor.guests.cache import Cache, DamagedEntry, default_root
from manor.guests.deb import read_deb
from manor.guests.packages import Package
from manor.guests.progress import Progress
from manor.images import customize, namespace
from manor.images.apt import SuiteClient, check_names
from manor.images.customize import Settings
from manor.images.disk import BackendSink, DiskPlan, write_disk
from manor.images.sources import AptSource, sources_of
from manor.images.tree import read_archive
from manor.images.worker import Job

SecondStage = Literal["auto", "namespace", "guest"]

FORMATS: Final = ("qcow2", "raw")
SECOND_STAGES: Final[tuple[str, ...]] = get_args(SecondStage)
DEFAULT_SIZE: Final = 4 << 30
CORE: Final = (
    "apt", "ca-certificates", "dbus", "init", "initramfs-tools", "iproute2", "kmod", "less", "libnss-resolve",
    "libpam-systemd", "linux-image-cloud-amd64", "netbase", "openssh-server", "procps", "sudo", "systemd-boot",
    "systemd-resolved", "systemd-sysv", "systemd-timesyncd", "udev", "usr-is-merged", "vim-tiny", "zstd",
)  # fmt: skip
"""What an image has besides Debian's essential and required packages."""

_TREE_VERSION: Final = 3
"""Changed when the same packages would give another tree."""
_ESSENTIAL: Final = ("?essential", "?priority(required)")
_INITRAMFS: Final = "MODULES=most\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\n"
"""For all virtual hardware; without the last percents of size, which take an emulated processor minutes."""
_CMDLINE: Final = "console=ttyS0"
_CODENAME: Final = "VERSION_CODENAME"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to build. suite: None for that of this machine; size: of the disk, in bytes; packages: besides `CORE`.

    epoch: seconds since 1970 for everything that is made; None takes the time of the newest file of the packages.
    second_stage: where packages are configured; "auto" takes a guest where the machine allows no namespace.
    """

    output: Path
    suite: str | None = None
    size: int = DEFAULT_SIZE
    format: str = "qcow2"
    packages: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    epoch: int | None = None
    second_stage: SecondStage = "auto"


@dataclass(frozen=True, slots=True)
class Built:
    """What was built. packages: all that are installed. tree_was_cached: nothing had to be configured."""

    output: Path
    packages: tuple[Package, ...]
    tree_was_cached: bool


def build_debian(options: BuildOptions, progress: Progress, root: Path | None = None) -> Built:
    """Build the disk image `options.output`, replacing an image of that name. root: the cache's directory.

    Raises ConfigError for what should be said otherwise, HostError where the host refused. What was begun is removed.
    """
    customize.check(options.settings)
    check_names(options.packages)
    if options.format not in FORMATS:
        raise ConfigError("format", f"{options.format!r} is not written here; give one of {', '.join(FORMATS)}")
    if not options.output.absolute().parent.is_dir():
        raise ConfigError("output", f"there is no directory {options.output.absolute().parent}")
    DiskPlan(options.size, "", 0, "", "").partitions()
    suite = options.suite or machine_suite()
    sources = sources_of(suite)
    cache = Cache(root if root is not None else default_root())
    with cache.lock():
        tree = _Trees(cache, suite, sources, progress)
        packages = tree.resolve(options.packages)
        archive, epoch, was_cached = tree.get(packages, options)
    _write(options, suite, sources, archive, packages, epoch, progress)
    return Built(options.output, tuple(packages), was_cached)


def machine_suite(os_release: Path = Path("/etc/os-release")) -> str:
    """The suite that this machine itself has. Raises ConfigError if it does not say."""
    try:
        lines = os_release.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise ConfigError("suite", f"this machine does not say which one it has; give one ({error})") from error
    fields = dict(line.partition("=")[::2] for line in lines)
    if fields.get("ID") != "debian" or _CODENAME not in fields:
        raise ConfigError("suite", "this machine is not Debian; say which suite, for example bookworm")
    return fields[_CODENAME].strip('"')


class _Trees:
    """Configured trees of one suite: from the cache, or built."""

    def __init__(self, cache: Cache, suite: str, sources: list[AptSource], progress: Progress) -> None:
        self._cache = cache
        self._suite = suite
        self._progress = progress
        self._client = SuiteClient(cache.root / "images" / f"apt-{suite}", sources)

    def resolve(self, extra: tuple[str, ...]) -> list[Package]:
        """All packages of an image with `extra`."""
        self._client.update(self._progress)
        self._progress.step("resolving packages")
        return self._client.resolve([*_ESSENTIAL, *CORE, *extra])

    def get(self, packages: list[Package], options: BuildOptions) -> tuple[Path, int, bool]:
        """(the archive, its epoch, whether it was there)."""
        key = _key(packages, options)
        entry, note = f"images/{self._suite}/{key}.tar.zst", f"images/{self._suite}/{key}.json"
        try:
            found, about = self._cache.find(entry), self._cache.read(note)
            if found is not None and about is not None:
                return found, int(json.loads(about)["epoch"]), True
        except DamagedEntry as damage:
            self._progress.warn(f"{damage}; building it again")
            self._cache.remove(damage.entry)
        with self._cache.scratch() as directory:
            built, epoch = self._build(packages, options, directory)
            self._progress.step("storing the configured system")
            stored = self._cache.store(entry, built.read_bytes())
            self._cache.store(note, json.dumps({"epoch": epoch}).encode())
        return stored, epoch, False

    def _build(self, packages: list[Package], options: BuildOptions, directory: Path) -> tuple[Path, int]:
        words = self._namespace(options.second_stage)
        debs = self._client.fetch(packages, self._progress)
        output = directory / "tree.tar.zst"
        (directory / "root").mkdir()
        job = Job(
            [str(path) for path in debs], [*CORE, *options.packages], str(directory / "root"), str(output),
            options.epoch or 0, _INITRAMFS,
        )  # fmt: skip
        if words is None:
            return output, configure_in_guest(job, self._busybox(), directory, self._progress)
        description = directory / "job.json"
        description.write_text(json.dumps(asdict(job)))
        return output, _work([*words, sys.executable, "-m", "manor.images.worker", str(description)], self._progress)


    def _namespace(self, second_stage: SecondStage) -> list[str] | None:
        """The words that give a command a namespace; None for a guest instead. Raises HostError."""
        if second_stage == "guest":
            return None
        try:
            return namespace.command()
        except HostError as error:
            if second_stage == "namespace":
                raise
            self._progress.warn(f"{error}; a guest does it instead, which takes minutes")
            return None

    def _busybox(self) -> bytes:
        """A busybox without libraries, for the guest that configures."""
        package = next(each for each in self._client.resolve(["busybox-static"]) if each.name == "busybox-static")
        (path,) = self._client.fetch([package], self._progress)
        return next(iter(read_deb(path, lambda name: name in ("bin/busybox", "usr/bin/busybox")).values()))


def configure_in_guest(job: Job, busybox: bytes, directory: Path, progress: Progress) -> int:
    """`guest_stage.configure`, loaded only where it is needed."""
    from manor.images.guest_stage import configure

    return configure(job, busybox, directory, progress)


def _work(command: list[str], progress: Progress) -> int:
    """Run the worker and pass on what it says; returns the epoch of what it made. Raises HostError."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    epoch: int | None = None
    error = ""
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
            errors="replace", env=environment,
        ) as process:  # fmt: skip
            assert process.stdout is not None  # both are pipes
            assert process.stderr is not None
            try:
                for line in process.stdout:
                    kind, _, text = line.strip().partition(" ")
                    match kind:
                        case "step":
                            progress.step(text)
                        case "error":
                            error = text
                        case "done":
                            epoch = int(text)
                said = process.stderr.read().strip().splitlines()
            except BaseException:
                process.kill()
                raise
    except OSError as failure:
        raise HostError.from_os_error("configure the packages", failure) from failure
    if epoch is None:
        raise HostError(error or f"configuring the packages ended without a word: {said[-1] if said else 'no message'}")
    return epoch


def _key(packages: list[Package], options: BuildOptions) -> str:
    """What a tree is known by: everything that it is made from."""
    content = [
        _TREE_VERSION, _INITRAMFS, options.epoch, sorted([*CORE, *options.packages]),
        [(each.name, each.version, each.sha256) for each in packages],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _write(
    options: BuildOptions, suite: str, sources: list[AptSource], archive: Path, packages: list[Package], epoch: int,
    progress: Progress,
) -> None:  # fmt: skip
    """Write the disk beside its final place, then put it there."""
    progress.step(f"writing {options.output.name}")
    settings = options.settings
    name = hashlib.sha256(
        json.dumps([_key(packages, options), suite, options.size, asdict(settings)], sort_keys=True).encode()
    ).hexdigest()
    plan = DiskPlan(options.size, name, epoch, f"Debian GNU/Linux ({suite})", _CMDLINE)
    stanzas = "\n".join(source.stanza() for source in sources if not source.is_private)
    wanted = customize.changes(settings, plan.identity, plan.cmdline, stanzas, epoch)
    with _replacing(options.output) as temporary, archive.open("rb") as stream:
        entries = customize.apply(read_archive(stream), wanted)
        if options.format == "raw":
            with ImageFile(temporary, size=plan.size) as image:
                write_disk(image, plan, entries)
            return
        _create_qcow2(temporary, plan.size)
        from manor.backends.block.open import OpenOptions, open_image

        backend = open_image(str(temporary), OpenOptions(format="qcow2"))
        try:
            write_disk(BackendSink(backend), plan, entries)
        finally:
            backend.close()


def _create_qcow2(path: Path, size: int) -> None:
    from manor.backends.block.file import open_file
    from manor.backends.block.qcow2.create import create_qcow2

    file = open_file(str(path), read_only=False)
    try:
        create_qcow2(file, size)
    finally:
        file.close()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new file that takes the place of `path` when all went well, and goes away otherwise. Raises HostError."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        os.close(descriptor)
        try:
            yield Path(name)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise HostError.from_os_error(f"write {path}", error) from error
