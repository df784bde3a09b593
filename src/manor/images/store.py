"""The store of images: files named by their SHA-256, names that point to them, and who backs on what.

    blobs/sha256/HEX         an image, read-only; never changed
    meta/HEX.json            what it is; an image without this does not exist
    names/NAME/TAG.json      a name: {"digest": HEX}
    users/HEX/KEY.json       a disk elsewhere that backs on the image: {"path": ...}
    incoming/KEY/            what is being fetched; KEY.lock says by whom
    lock                     shared by who begins to use an image, exclusive for who removes one

Each step is made durable before the next one that relies on it: bytes, then the blob's name, then its metadata, then a
name. So a process that is killed between two of them leaves an older store, or an image that no name points to.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from manor.base.errors import ConfigError, HostError
from manor.base.files import data_directory, sync_directory, write_atomically
from manor.images.reference import Reference, parse_digest, parse_reference

META_VERSION: Final = 1
MAX_JSON: Final = 1 << 20
"""Bytes of a file of ours; more is not one."""
SHORT: Final = 12
"""Hexadecimal digits of a digest that people are shown."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of an image beside its bytes. Sizes in bytes, created in seconds since the Epoch.

    source: where it came from, for people. backing: digest of the image that this one backs on. user: the account to
    log in with, "" if the first boot makes one. extra: further facts, plain values, kept as they are.
    """

    format: str
    virtual_size: int
    file_size: int
    created: float
    source: str = ""
    backing: str = ""
    user: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image of the store. path: its file; read it, never write it."""

    digest: str
    path: Path
    metadata: Metadata
    names: tuple[Reference, ...] = ()

    def __str__(self) -> str:
        return str(self.names[0]) if self.names else self.digest[:SHORT]


class Store:
    """The images of one user. Several processes may use one store at once; a Store belongs to one thread.

    Raises ConfigError for what the user should say otherwise, HostError where the host refuses.
    """

    def __init__(self, root: Path | None = None) -> None:
        """root: instead of $XDG_DATA_HOME/manor/images."""
        self.root = root if root is not None else data_directory() / "images"

    # --- looking ------------------------------------------------------------------------------------------------------

    def images(self) -> list[StoredImage]:
        """All images, those with names first, by name."""
        names: dict[str, list[Reference]] = {}
        for reference, digest in self._names():
            names.setdefault(digest, []).append(reference)
        with self._reporting("read"):
            digests = sorted(path.stem for path in self._folder("meta").glob("*.json"))
        found = [self._load(digest, tuple(sorted(names.get(digest, [])))) for digest in digests]
        return sorted(found, key=lambda image: (not image.names, image.names, image.digest))

    def find(self, text: str) -> StoredImage:
        """The image that a name or the beginning of a digest means. Raises ConfigError."""
        image = self.find_or_none(text)
        if image is None:
            known = ", ".join(str(name) for each in self.images() for name in each.names)
            have = f"there are: {known}" if known else "the store is empty"
            raise ConfigError("", f"there is no image {text!r}; {have}; fetch one with: manor image pull NAME")
        return image

    def find_or_none(self, text: str) -> StoredImage | None:
        """As `find`, None if there is none. Raises ConfigError for what can be no name, or is ambiguous."""
        digits = parse_digest(text)
        if digits is None:
            reference = parse_reference(text)
            return next((image for image in self.images() if reference in image.names), None)
        images = self.images()
        named = [image for image in images if any(str(name) == text for name in image.names)]
        found = named or [image for image in images if image.digest.startswith(digits)]
        if len(found) > 1:
            raise ConfigError("", f"{text!r} is the beginning of {len(found)} digests; write more of it")
        return found[0] if found else None

    def users(self, image: StoredImage) -> list[str]:
        """Who backs on `image`, in words: other images, and disks of VMs that exist."""
        users = [f"image {other}" for other in self.images() if other.metadata.backing == image.digest]
        with self._reporting("read"):
            for path in sorted(self._folder("users", image.digest).glob("*.json")):
                user = Path(str(self._read_json(path).get("path", "")))
                if user.exists():
                    users.append(str(user))
        return users

    # --- adding -------------------------------------------------------------------------------------------------------

    @contextmanager
    def incoming(self, key: str) -> Iterator[Path]:
        """A folder for what is being fetched under `key`; kept if the block fails, so that it can be resumed.

        One process at a time has it: another waits. It is empty, or holds what a process before left in it.
        """
        name = hashlib.sha256(key.encode()).hexdigest()[:24]
        folder = self._folder("incoming")
        with self._reporting("write"):
            folder.mkdir(parents=True, exist_ok=True)
        with self._locked(folder / f"{name}.lock", fcntl.LOCK_EX):
            with self._reporting("write"):
                (folder / name).mkdir(exist_ok=True)
            yield folder / name
            shutil.rmtree(folder / name, ignore_errors=True)

    def add(
        self, file: Path, metadata: Metadata, name: Reference | None = None, digest: str | None = None
    ) -> StoredImage:
        """Take `file`, of the folder of `incoming`, into the store; it is gone from there.

        name: points to it afterwards. digest: its SHA-256 if it is known already. An image that is there keeps its
        metadata.
        """
        with self._reporting("write"):
            digest = digest or file_digest(file)
            blob = self._blob(digest)
            blob.parent.mkdir(parents=True, exist_ok=True)
            self._folder("meta").mkdir(parents=True, exist_ok=True)
            with self._locked(self.root / "lock", fcntl.LOCK_SH):
                meta = self._meta(digest)
                if meta.exists() and blob.exists():
                    file.unlink()
                else:
                    file.chmod(0o444)
                    _sync(file)
                    os.replace(file, blob)
                    sync_directory(blob.parent)
                    write_atomically(meta, _encode({"version": META_VERSION, **_as_json(metadata)}))
                if name is not None:
                    self._point(name, digest)
        return self.find(digest)

    def tag(self, image: StoredImage, name: Reference) -> None:
        """Let `name` point to `image`, whatever it pointed to before."""
        with self._reporting("write"), self._locked(self.root / "lock", fcntl.LOCK_SH):
            if not self._meta(image.digest).exists():
                raise ConfigError("", f"the image {image} was removed meanwhile")
            self._point(name, image.digest)

    @contextmanager
    def use(self, image: StoredImage, disk: Path) -> Iterator[Path]:
        """Note that `disk` will back on `image`, and keep the image there while the block makes it. Gives its file.

        The note counts for as long as `disk` exists.
        """
        with self._reporting("write"), self._locked(self.root / "lock", fcntl.LOCK_SH):
            if not self._meta(image.digest).exists():
                raise ConfigError("", f"the image {image} was removed meanwhile")
            folder = self._folder("users", image.digest)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._user(image.digest, disk), _encode({"path": str(disk)}))
        # The lock is taken anew, as errors of the block are not those of the store.
        with self._locked(self.root / "lock", fcntl.LOCK_SH):
            if not self._meta(image.digest).exists():
                raise ConfigError("", f"the image {image} was removed meanwhile")
            yield image.path

    def forget_user(self, digest: str, disk: Path) -> None:
        """`disk` is gone. Nothing happens if it was not noted."""
        with self._reporting("write"):
            self._user(digest, disk).unlink(missing_ok=True)

    # --- removing -----------------------------------------------------------------------------------------------------

    def remove(self, text: str) -> list[str]:
        """Remove a name; with its last name the image itself, or all of it if `text` is a digest.

        Returns what was removed, in words. Raises ConfigError if something backs on the image: it says what.
        """
        with self._locked(self.root / "lock", fcntl.LOCK_EX):
            image = self.find(text)
            is_digest = parse_digest(text) is not None and not any(str(name) == text for name in image.names)
            gone = list(image.names) if is_digest else [parse_reference(text)]
            if len(gone) == len(image.names):
                self._refuse_used(image)
            with self._reporting("write"):
                for name in gone:
                    self._name(name).unlink()
                    with suppress(OSError):  # other tags are there
                        self._name(name).parent.rmdir()
                removed = [str(name) for name in gone]
                if len(gone) == len(image.names):
                    self._delete(image.digest)
                    removed.append(f"sha256:{image.digest}")
            return removed

    def prune(self, unused_too: bool = False) -> tuple[list[str], int]:
        """Remove images without a name, what killed processes left, and with `unused_too` all that nothing backs on.

        Returns (what was removed, bytes of disk given back).
        """
        removed: list[str] = []
        size = 0
        with self._locked(self.root / "lock", fcntl.LOCK_EX):
            # Top images first: what they back on may then be unused.
            while True:
                found = [image for image in self.images() if (unused_too or not image.names) and not self.users(image)]
                if not found:
                    break
                for image in found:
                    with self._reporting("write"):
                        for name in image.names:
                            self._name(name).unlink(missing_ok=True)
                        size += _allocated(image.path)
                        self._delete(image.digest)
                    removed.append(str(image))
            size += self._sweep(removed)
        return removed, size

    def _sweep(self, removed: list[str]) -> int:
        """Remove blobs without metadata, notes of disks that are gone, and downloads that nobody works on."""
        size = 0
        with self._reporting("write"):
            for blob in self._folder("blobs", "sha256").glob("*"):
                if not self._meta(blob.name).exists():
                    size += _allocated(blob)
                    blob.unlink()
                    removed.append(f"unfinished sha256:{blob.name[:SHORT]}")
            for note in self._folder("users").glob("*/*.json"):
                if not Path(str(self._read_json(note).get("path", ""))).exists():
                    note.unlink()
            for temporary in [*self.root.glob("*/.*.tmp"), *self.root.glob("*/*/.*.tmp")]:
                temporary.unlink()
            for lock in self._folder("incoming").glob("*.lock"):
                with lock.open("rb") as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    folder = lock.with_suffix("")
                    if folder.exists():
                        size += sum(_allocated(path) for path in folder.rglob("*") if path.is_file())
                        shutil.rmtree(folder)
                        removed.append("an unfinished download")
                    lock.unlink()
        return size

    def _refuse_used(self, image: StoredImage) -> None:
        users = self.users(image)
        if users:
            raise ConfigError("", f"{image} is in use: {', '.join(users)} backs on it; remove that first")

    def _delete(self, digest: str) -> None:
        """Metadata first: without it there is no image."""
        self._meta(digest).unlink(missing_ok=True)
        sync_directory(self._folder("meta"))
        self._blob(digest).unlink(missing_ok=True)
        shutil.rmtree(self._folder("users", digest), ignore_errors=True)

    # --- files --------------------------------------------------------------------------------------------------------

    def _folder(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def _blob(self, digest: str) -> Path:
        return self._folder("blobs", "sha256", digest)

    def _meta(self, digest: str) -> Path:
        return self._folder("meta", f"{digest}.json")

    def _name(self, name: Reference) -> Path:
        return self._folder("names", name.name, f"{name.tag}.json")

    def _user(self, digest: str, disk: Path) -> Path:
        return self._folder("users", digest, hashlib.sha256(os.fsencode(disk)).hexdigest()[:24] + ".json")

    def _point(self, name: Reference, digest: str) -> None:
        path = self._name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _encode({"digest": digest, "time": time.time()}))

    def _names(self) -> Iterator[tuple[Reference, str]]:
        with self._reporting("read"):
            for path in sorted(self._folder("names").glob("*/*.json")):
                if not path.name.startswith("."):
                    yield Reference(path.parent.name, path.stem), str(self._read_json(path).get("digest", ""))

    def _load(self, digest: str, names: tuple[Reference, ...]) -> StoredImage:
        path = self._meta(digest)
        with self._reporting("read"):
            value = self._read_json(path)
        return StoredImage(digest, self._blob(digest), _from_json(value, path), names)

    def _read_json(self, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            data = file.read(MAX_JSON + 1)
        try:
            value = json.loads(data) if len(data) <= MAX_JSON else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise HostError(f"the file {path} of the image store is damaged; remove it", file=str(path))
        return value

    @contextmanager
    def _locked(self, path: Path, kind: int) -> Iterator[None]:
        """flock `path` for a block; waits. A file that was removed meanwhile is locked anew under its name."""
        while True:
            with self._reporting("write"):
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, kind)
                if _is_at(path, descriptor):
                    yield
                    return
            finally:
                os.close(descriptor)

    @contextmanager
    def _reporting(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HostError(
                f"cannot {verb} the image store {error.filename or self.root}: {error.strerror or error}; "
                "make room or make it accessible, or point XDG_DATA_HOME elsewhere",
                error.errno,
                str(error.filename or self.root),
            ) from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _as_json(metadata: Metadata) -> dict[str, Any]:
    return {name: getattr(metadata, name) for name in Metadata.__slots__}


_KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "format": str, "virtual_size": int, "file_size": int, "created": (int, float), "source": str, "backing": str,
    "user": str, "extra": dict,
}  # fmt: skip


def _from_json(value: dict[str, Any], path: Path) -> Metadata:
    known = {name: value[name] for name in _KINDS if name in value}
    if value.get("version") != META_VERSION:
        raise HostError(f"{path} is of another version of Manor", file=str(path))
    try:
        metadata = Metadata(**known)
    except TypeError as error:
        raise HostError(f"the file {path} of the image store is damaged; remove it", file=str(path)) from error
    if not all(isinstance(getattr(metadata, name), kind) for name, kind in _KINDS.items()):
        raise HostError(f"the file {path} of the image store is damaged; remove it", file=str(path))
    return metadata
