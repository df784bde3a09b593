"""Open an image by name: its format found or given, its backing chain, its locks.

    open_image("debian.qcow2", OpenOptions(read_only=True))

Formats are rows of `FORMATS`; the module of one is imported when the first such image is opened. An opener gets the
open, locked file and a `Context` through which it opens the other files that the image names: so every chain,
whatever its formats, has one place that bounds its depth and finds its loops.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from manor.backends.block.api import BlockBackend
from manor.backends.block.file import File, HostFile, open_file
from manor.backends.block.probe import NOT_SUPPORTED, PROBE_SIZE, probe
from manor.base.errors import ConfigError, HostError
from manor.spec.block import CacheMode

MAX_DEPTH: Final = 256
"""Images in one chain. More is a mistake or an attack; each holds descriptors and memory."""


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """How to open an image.

    format: None looks at the contents. read_only: and shared with other readers. snapshot: writes go to a temporary
    overlay that nobody sees. force_share: do not mind that somebody else has it (contents may change meanwhile).
    backing: False opens the image alone; what it does not hold itself reads as zeros (for maintenance).
    alone: refuse an image that names another file (for what came from elsewhere, and may name any file of the host).
    """

    format: str | None = None
    read_only: bool = False
    cache: CacheMode = "writeback"
    snapshot: bool = False
    force_share: bool = False
    backing: bool = True
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What the opener of a format may use.

    options: those of this image; `read_only` and `force_share` hold for every file it opens.
    chain: the files from the top image to this one, as (device, inode).
    is_guessed: this is a backing image whose format nobody stated. If its guest once had it as a raw disk, all that it
    says is the guest's word; so it must not make anybody open another file.
    """

    options: OpenOptions
    chain: tuple[tuple[int, int], ...] = ()
    is_guessed: bool = False

    def open_backing(self, image: str, name: str, format: str | None) -> BlockBackend:
        """The image that `image` names as the one below it, read-only. Its name is relative to the folder of `image`.

        format: as `image` states it; None is refused unless the contents are of a format that says so itself, because
        a raw disk's contents belong to its guest, who could name any file of the host in them.
        """
        self._refuse_guess(image, name)
        options = replace(self.options, format=format, read_only=True, snapshot=False)
        return _open(resolve(image, name), options, self.chain, is_guessed=format is None)

    def open_file(self, image: str, name: str) -> File:
        """A further file of `image` (an extent, a data file), locked as `image` itself is."""
        self._refuse_guess(image, name)
        options = self.options
        path = resolve(image, name)
        return open_file(path, read_only=options.read_only, cache=options.cache, force_share=options.force_share)

    def _refuse_guess(self, image: str, name: str) -> None:
        if self.options.alone:
            raise ConfigError(image, f"the image refers to another file ({name!r}), which did not come with it")
        if self.is_guessed:
            raise ConfigError(
                image,
                f"this backing file was opened without its format being known, and it names another file ({name!r});"
                " say what it is in the image above: manor image rebase -u -b FILE -F FORMAT IMAGE",
            )


Opener = Callable[[File, Context], BlockBackend]

FORMATS: Final[dict[str, str]] = {
    "raw": "manor.backends.block.raw:open_raw",
    "qcow2": "manor.backends.block.qcow2.open:open_qcow2",
    "vmdk": "manor.backends.block.vmdk:open_vmdk",
    "vdi": "manor.backends.block.vdi:open_vdi",
    "vhdx": "manor.backends.block.vhdx:open_vhdx",
    "vpc": "manor.backends.block.vpc:open_vpc",
}
"""Format to module:function of its `Opener`. The opener owns the file from then on, and closes it if it fails."""

PROTOCOLS: Final[dict[str, str]] = {
    "nbd": "manor.backends.block.nbd:open_uri",
    "nbds": "manor.backends.block.nbd:open_uri",
    "nbd+unix": "manor.backends.block.nbd:open_uri",
    "nbds+unix": "manor.backends.block.nbd:open_uri",
}
"""URI scheme to module:function, called as function(uri, options), of servers that offer a whole disk."""

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):", re.ASCII)


def open_image(name: str, options: OpenOptions | None = None) -> BlockBackend:
    """The image `name`, a path or a URI of `PROTOCOLS`, with all that backs it.

    Raises ConfigError for what the user should say otherwise, HostError where the host refused (ImageInUse names
    who has the image), ProtocolError for an image that is not well-formed.
    """
    options = options or OpenOptions()
    if options.snapshot:
        base = _open(name, replace(options, read_only=True, snapshot=False), (), is_guessed=False)
        return _overlay(base, options)
    return _open(name, options, (), is_guessed=False)


def is_uri(name: str) -> bool:
    """Whether `name` is of a server and not of a file."""
    scheme = _SCHEME.match(name)
    return scheme is not None and scheme[1] in PROTOCOLS


def resolve(image: str, name: str) -> str:
    """The file that `image` means by `name`."""
    scheme = _SCHEME.match(name)
    if scheme and scheme[1] in PROTOCOLS:
        return name
    if scheme and scheme[1] in ("json", "fat", "vvfat", "host_device", "http", "https", "ssh", "rbd", "iscsi"):
        raise ConfigError(image, f"it names {name!r}, and Manor opens no {scheme[1]}: names; use a file or an nbd: URI")
    if scheme and scheme[1] == "file":
        name = name.removeprefix("file://" if name.startswith("file:///") else "file:")
    return name if os.path.isabs(name) else os.path.join(os.path.dirname(image), name)


def probe_file(file: File) -> str:
    """The format of an open file, by its contents."""
    head = bytearray(min(PROBE_SIZE, file.size()))
    file.read(0, [memoryview(head)])
    return probe(head)


def _open(name: str, options: OpenOptions, chain: tuple[tuple[int, int], ...], *, is_guessed: bool) -> BlockBackend:
    scheme = _SCHEME.match(name)
    if scheme and scheme[1] in PROTOCOLS:
        backend: BlockBackend = _load(PROTOCOLS[scheme[1]])(name, options)
        return backend
    if options.format is not None and options.format not in FORMATS:
        raise ConfigError(name, f"there is no format {options.format!r}; there are {', '.join(FORMATS)}")
    if len(chain) >= MAX_DEPTH:
        raise ConfigError(name, f"the backing chain has more than {MAX_DEPTH} images")
    _refuse_loop(name, chain)  # before its lock, which the image above would already have
    file = open_file(name, read_only=options.read_only, cache=options.cache, force_share=options.force_share)
    try:
        format = options.format or probe_file(file)
        if format in NOT_SUPPORTED:
            raise ConfigError(name, f"this is a {format} image, which Manor does not read; convert it to qcow2 first")
        opener: Opener = _load(FORMATS[format])
        return opener(file, Context(options, (*chain, file.identity), is_guessed))
    except BaseException:
        file.close()
        raise


def _refuse_loop(name: str, chain: tuple[tuple[int, int], ...]) -> None:
    try:
        status = os.stat(name)
    except OSError:
        return  # opening it says what is wrong
    if (status.st_dev, status.st_ino) in chain:
        raise ConfigError(name, "the backing chain is a loop: this image is backed by itself; rebase one of them")


def _load(target: str) -> Callable[..., BlockBackend]:
    module, _, function = target.partition(":")
    loaded: Callable[..., BlockBackend] = getattr(importlib.import_module(module), function)
    return loaded


def _overlay(base: BlockBackend, options: OpenOptions) -> BlockBackend:
    """A qcow2 image over `base` in a file that has no name: it is gone when it closes, however the process ends."""
    from manor.backends.block.qcow2.open import create_overlay

    try:
        return create_overlay(temporary_file(), base)
    except BaseException:
        base.close()
        raise


def temporary_file() -> HostFile:
    """An empty file without a name, in $TMPDIR, else in the user's cache: /tmp may be memory."""
    folder = os.environ.get("TMPDIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "manor"
    )
    try:
        os.makedirs(folder, exist_ok=True)
        fd, path = tempfile.mkstemp(prefix="overlay-", dir=folder)
        os.unlink(path)
    except OSError as error:
        attempt = f"making a temporary file in {folder} (set TMPDIR to a folder with room)"
        raise HostError.from_os_error(attempt, error) from error
    return HostFile(fd, f"temporary overlay in {folder}", read_only=False)
