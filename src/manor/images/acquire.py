"""Bring an image into the store: fetched or from a file, verified, unpacked, in a format that can be cloned.

file or address ─▶ bytes ─checksum─▶ (gzip, xz, zstd, bzip2)* ─▶ (tar: OCI, Vagrant, raw disk) ─▶ disk ─▶ raw or
qcow2 ─▶ store
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from manor.base.errors import ConfigError, HostError, ProtocolError
from manor.base.units import GiB
from manor.guests.progress import Progress
from manor.images.archive import disk_of_archive, is_archive
from manor.images.download import DownloadError, download, fetch_text
from manor.images.known import Source
from manor.images.reference import Reference
from manor.images.sparse import copy_sparse
from manor.images.store import Metadata, Store, StoredImage
from manor.images.unpacked import compression_of, unpack
from manor.images.verify import NotGenuine, check_file, check_signature, find_checksum, parse_digest

MAX_DOWNLOAD: Final = 64 * GiB
MAX_DISK: Final = 2048 * GiB
"""Bytes of a disk; most of it may be holes."""
_MAX_LAYERS: Final = 4
"""Compressions and archives inside each other: .tar.gz in .xz is odd already."""
_SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of the bytes before they are had. digest: of `parse_digest`, "" for none. user: see Metadata."""

    name: Reference
    digest: str = ""
    user: str = ""


def pull(store: Store, source: Source, wanted: Wanted, progress: Progress, limit: int = MAX_DOWNLOAD) -> StoredImage:
    """Fetch an image. Raises ConfigError, DownloadError, NotGenuine, ProtocolError, HostError; a later call goes on."""
    digest = wanted.digest or _published_digest(source, progress)
    with store.incoming(source.url) as folder:
        part = folder / "part"
        progress.step(f"downloading {source.url}")
        download(source.url, part, limit, progress.advance)
        if digest:
            progress.step("comparing the checksum")
            try:
                check_file(part, digest, source.url, progress.advance)
            except NotGenuine:
                part.unlink()  # going on with it would never end well
                raise
        else:
            progress.warn(f"nothing vouches for {source.url}: no checksum is known; give one with --sha256")
        return _take(store, folder, part, wanted, source.url, progress)


def import_file(store: Store, path: Path, wanted: Wanted, progress: Progress) -> StoredImage:
    """Take a local file, or an OCI layout's folder, into the store; the file stays as it is."""
    try:
        path = path.resolve(strict=True)
    except OSError as error:
        raise ConfigError("", f"{path} cannot be read: {error.strerror}") from error
    with store.incoming(f"file:{path}") as folder:
        _empty(folder)
        if wanted.digest:
            progress.step("comparing the checksum")
            check_file(path, wanted.digest, str(path), progress.advance)
        return _take(store, folder, path, wanted, str(path), progress)


def file_name(url: str) -> str:
    """The name of the file at an address, as lists of checksums have it."""
    return unquote(urlsplit(url).path).rpartition("/")[2]


def _published_digest(source: Source, progress: Progress) -> str:
    """The checksum in the list beside the file; "" if no list is known."""
    if not source.checksums:
        if source.key is not None:
            raise ConfigError(
                "key", "a key checks the signature of a list of checksums; say where it is with --checksums"
            )
        return ""
    progress.step("fetching checksums")
    listing = fetch_text(source.checksums)
    if listing is None:
        raise DownloadError(f"there is no list of checksums at {source.checksums}")
    if source.key is not None:
        _check_list(source, listing)
    name = file_name(source.url)
    digest = find_checksum(listing, name)
    if digest is None:
        raise NotGenuine(f"{source.checksums} has no checksum of {name}")
    return parse_digest(digest)


def _check_list(source: Source, listing: bytes) -> None:
    assert source.key is not None
    for address in [source.signature] if source.signature else [f"{source.checksums}{end}" for end in _SIGNATURES]:
        signature = fetch_text(address)
        if signature is not None:
            check_signature(listing, signature, source.key, source.checksums)
            return
    raise NotGenuine(f"there is no signature beside {source.checksums}; leave --key out to trust the address alone")


_SIGNATURES: Final = (".gpg", ".asc", ".sign", ".sig")
"""How distributions name the signature of a list."""


def _take(store: Store, folder: Path, file: Path, wanted: Wanted, source: str, progress: Progress) -> StoredImage:
    """Unpack as often as needed, then keep the disk that is inside. Files of ours are gone as soon as they are used."""
    disk, user = _unwrap(folder, file, progress)
    disk, info = _as_storable(folder, disk, disk.parent != folder, progress)
    size = disk.stat().st_size
    progress.step("storing")
    metadata = Metadata(info.format, info.virtual_size, size, time.time(), source, user=wanted.user or user)
    return store.add(disk, metadata, wanted.name)


def _unwrap(folder: Path, file: Path, progress: Progress) -> tuple[Path, str]:
    """(the disk, the account to log in with as the archive tells)."""
    user = ""
    for number in range(_MAX_LAYERS):
        if file.is_dir() or is_archive(file):
            progress.step(f"reading {file.name if file.parent != folder else 'the archive'}")
            disk, user = disk_of_archive(file, folder / f"disk{number}", MAX_DISK, progress)
        elif compression_of(file) is not None:
            progress.step(f"unpacking {file.name if file.parent != folder else 'it'}")
            disk = folder / f"unpacked{number}"
            unpack(file, disk, MAX_DISK, progress.advance)
        else:
            return file, user
        if file.parent == folder:
            file.unlink()
        file = disk
    raise ProtocolError("it is an archive in an archive in an archive; unpack it yourself, and import the disk")


@dataclass(frozen=True, slots=True)
class _Info:
    format: str
    virtual_size: int


def _as_storable(folder: Path, disk: Path, is_foreign: bool, progress: Progress) -> tuple[Path, _Info]:
    """The disk as raw or qcow2 image that needs no other file, in `folder`. Raises ConfigError for what can be none."""
    from manor.backends.block.open import OpenOptions, open_image
    from manor.backends.block.operations.info import image_info

    info = image_info(os.fspath(disk))
    if info.is_encrypted:
        raise ConfigError("", f"{disk.name} is encrypted, and nobody here has its key")
    if info.virtual_size < _SECTOR:
        raise ConfigError("", f"{disk.name} has {info.virtual_size} bytes, which is no disk")
    if not is_foreign:
        # What came from elsewhere must not make us read files of this host into an image.
        open_image(os.fspath(disk), OpenOptions(format=info.format, read_only=True, alone=True)).close()
    needs_other_file = info.backing_file is not None or "data file" in info.details
    target = folder / "image"
    if info.format in ("raw", "qcow2") and not needs_other_file and not info.is_dirty:
        if not is_foreign:
            return disk, _Info(info.format, info.virtual_size)
        progress.step(f"copying {disk.name}")
        copy_sparse(disk, target, MAX_DISK, progress.advance)
        return target, _Info(info.format, info.virtual_size)
    from manor.backends.block.operations.convert import convert

    progress.step(f"converting from {info.format}")
    convert(os.fspath(disk), os.fspath(target), target_format="qcow2", progress=progress.advance)
    if not is_foreign:
        disk.unlink()
    return target, _Info("qcow2", info.virtual_size)


def _empty(folder: Path) -> None:
    """What an import was killed over is of no use to the next."""
    try:
        for path in folder.iterdir():
            path.unlink()
    except OSError as error:
        raise HostError.from_os_error(f"cleaning {folder}", error) from error
