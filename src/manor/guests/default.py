"""The default guest: Debian's kernel and busybox with our initramfs, prepared once and then kept.

    packages --(apt, SHA-256)--> kernel, modules, busybox --> initramfs
                                     |                          |
                                     +------- cache ------------+     later starts: only the cache

"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import zstandard

from manor.base.errors import HostError, ProtocolError
from manor.guests import cpio
from manor.guests.cache import Cache, DamagedEntry, default_root
from manor.guests.deb import read_deb
from manor.guests.initramfs import (
    DEVICE_MODULES,
    LATER_MODULES,
    MODULE_DIRECTORIES,
    WANTED_MODULES,
    build_initramfs,
    is_module,
    module_dependencies,
    module_name,
)
from manor.guests.packages import AptClient, CorruptedDownload, FetchError, Package, require_client
from manor.guests.progress import Progress

KernelVariant = Literal["cloud", "generic"]

CMDLINE: Final = "console=ttyS0"
"""The default guest's console is the first serial port."""

_KERNEL_PACKAGES: Final[dict[KernelVariant, str]] = {
    "cloud": "linux-image-cloud-amd64",
    "generic": "linux-image-amd64",
}
_BUSYBOX_PACKAGE: Final = "busybox-static"
_KERNEL_FILE: Final = re.compile(r"boot/vmlinuz-[^/]+")
_BUSYBOX_FILES: Final = ("bin/busybox", "usr/bin/busybox")
"""Before and after the distribution merged /bin into /usr/bin."""
MANIFEST_VERSION: Final = 5
"""Raise it when the set of cached files changes; older caches are then filled anew."""
_MANIFEST_KEYS: Final = frozenset(("version", "kernel", "parts"))
_MAX_MODULE: Final = 64 << 20
"""A compressed module that claims more is not a module."""


@dataclass(frozen=True, slots=True)
class DefaultGuest:
    """What to boot. Files are in the cache: use them, do not change them. version: of the kernel package."""

    kernel: Path
    initrd: Path
    cmdline: str
    version: str


def default_guest(
    progress: Progress, kernel_variant: KernelVariant = "cloud", root: Path | None = None
) -> DefaultGuest:
    """The default guest, from the cache or, the first time, from the distribution's packages.

    root: the cache directory instead of the user's own.
    Raises ConfigError where there is no package client, HostError (FetchError) where fetching or the cache fails.
    """
    cache = Cache(root if root is not None else default_root())
    guest = _from_cache(cache, kernel_variant, progress)
    if guest is not None:
        return guest
    require_client()
    with cache.lock():
        # Another process may have filled the cache while we waited.
        guest = _from_cache(cache, kernel_variant, progress)
        if guest is not None:
            return guest
        _fetch(cache, kernel_variant, progress)
    guest = _from_cache(cache, kernel_variant, progress)
    if guest is None:
        raise HostError(f"the cache {cache.root} does not keep what is stored in it")
    return guest


def cached_version(kernel_variant: KernelVariant = "cloud", root: Path | None = None) -> str | None:
    """Version of the kernel package if the cache has all that a start needs. Nothing is fetched, and nothing written.

    Raises DamagedEntry for a damaged file, HostError where the cache cannot be read.
    """
    cache = Cache(root if root is not None else default_root())
    manifest = _read_manifest(cache, kernel_variant)
    if manifest is None or any(cache.find(manifest[part]) is None for part in ("kernel", "parts")):
        return None
    return manifest["version"]


# --- from the cache -----------------------------------------------------------------------------------------------


def _from_cache(cache: Cache, variant: KernelVariant, progress: Progress) -> DefaultGuest | None:
    """The guest if the cache has all of it; a damaged file is reported, forgotten, and counts as missing."""
    try:
        manifest = _read_manifest(cache, variant)
        if manifest is None:
            return None
        kernel = cache.find(manifest["kernel"])
        if kernel is None:
            return None
        initrd = _initrd(cache, variant, manifest)
        if initrd is None:
            return None
    except DamagedEntry as damage:
        progress.warn(f"{damage}; fetching it again")
        cache.remove(damage.entry)
        return None
    return DefaultGuest(kernel, initrd, CMDLINE, manifest["version"])


def _initrd(cache: Cache, variant: KernelVariant, manifest: dict[str, str]) -> Path | None:
    """The initramfs that this version of Manor builds from the cached parts."""
    parts = cache.read(manifest["parts"])
    if parts is None:
        return None
    files = {entry.name: entry.data for entry in cpio.read_archive(parts)}
    modules = {name: data for name, data in files.items() if name != "busybox"}
    initramfs = build_initramfs(files["busybox"], modules)
    entry = f"guest/{variant}/initrd-{hashlib.sha256(initramfs).hexdigest()[:16]}.cpio"
    try:
        found = cache.find(entry)
    except DamagedEntry:
        # Nothing is lost: the contents were just built.
        found = None
    return found if found is not None else cache.store(entry, initramfs)


def _read_manifest(cache: Cache, variant: KernelVariant) -> dict[str, str] | None:
    data = cache.read(_manifest_entry(variant))
    if data is None:
        return None
    manifest = json.loads(data)
    if manifest.get("format") != MANIFEST_VERSION or not manifest.keys() >= _MANIFEST_KEYS:
        return None
    return {key: str(manifest[key]) for key in _MANIFEST_KEYS}


def _manifest_entry(variant: KernelVariant) -> str:
    return f"guest/{variant}/manifest.json"


# --- from packages ------------------------------------------------------------------------------------------------


def _fetch(cache: Cache, variant: KernelVariant, progress: Progress) -> None:
    """Fill the cache. First with the machine's own package lists; if they are missing or outdated, with ours."""
    with cache.scratch() as own_state:
        client = AptClient(own_state)
        try:
            files = _download(client, cache, variant, progress)
        except CorruptedDownload:
            # Newer package lists would not help.
            raise
        except FetchError:
            client.update_own_lists(progress)
            files = _download(client, cache, variant, progress)
    progress.step("preparing the guest")
    _store(cache, variant, files)


@dataclass(frozen=True, slots=True)
class _Files:
    version: str
    kernel_name: str
    kernel: bytes
    busybox: bytes
    modules: dict[str, bytes]


def _download(client: AptClient, cache: Cache, variant: KernelVariant, progress: Progress) -> _Files:
    """Find, download and unpack the packages. Raises FetchError if one cannot be had from these lists."""
    image = _resolve_image(client, _KERNEL_PACKAGES[variant])
    busybox_package = _require(client, _BUSYBOX_PACKAGE)
    from_image = _unpack(client, cache, image, _is_wanted_of_image, progress)
    from_busybox = _unpack(client, cache, busybox_package, _BUSYBOX_FILES.__contains__, progress)
    kernels = [name for name in from_image if _KERNEL_FILE.fullmatch(name)]
    if len(kernels) != 1 or not from_busybox:
        raise HostError(f"{image.name} or {busybox_package.name} does not contain the expected files")
    return _Files(
        image.version,
        PurePosixPath(kernels[0]).name,
        from_image[kernels[0]],
        next(iter(from_busybox.values())),
        _select_modules(from_image),
    )


def _is_wanted_of_image(name: str) -> bool:
    """The kernel; and the modules that we want or that may be needed by them: which, their contents tell."""
    return bool(_KERNEL_FILE.fullmatch(name)) or (
        is_module(name) and any(directory in name for directory in MODULE_DIRECTORIES)
    )


def _resolve_image(client: AptClient, name: str) -> Package:
    """The package with the kernel itself, which the distribution's `name` depends on."""
    package = _require(client, name)
    for needed in package.depends:
        if needed.startswith("linux-image-"):
            return _require(client, needed)
    return package


def _require(client: AptClient, name: str) -> Package:
    package = client.find(name)
    if package is None:
        raise FetchError(
            f"the package sources of this machine have no {name}; pass a Linux kernel with --kernel FILE "
            "and an initramfs with --initrd FILE"
        )
    return package


def _unpack(
    client: AptClient, cache: Cache, package: Package, wanted: Callable[[str], bool], progress: Progress
) -> dict[str, bytes]:
    with cache.scratch() as directory:
        path = client.download(package, directory, progress)
        progress.step(f"unpacking {package.name}")
        try:
            return read_deb(path, wanted)
        except OSError as error:
            raise HostError.from_os_error(f"read {path}", error) from error


def _select_modules(files: dict[str, bytes]) -> dict[str, bytes]:
    """The modules we want and all they depend on, uncompressed, by name."""
    paths = {module_name(path): path for path in files if is_module(path)}
    selected: dict[str, bytes] = {}
    wanted = (*WANTED_MODULES, *DEVICE_MODULES.values(), *LATER_MODULES)
    todo: list[str] = [name for name in wanted if name in paths]
    while todo:
        name = todo.pop()
        if name in selected:
            continue
        selected[name] = uncompressed_module(paths[name], files[paths[name]])
        todo += [needed for needed in module_dependencies(selected[name]) if needed in paths]
    return selected


def _store(cache: Cache, variant: KernelVariant, files: _Files) -> None:
    modules = [cpio.regular(name, files.modules[name]) for name in sorted(files.modules)]
    parts = cpio.write_archive([cpio.regular("busybox", files.busybox), *modules])
    kernel_entry = f"guest/{variant}/{files.kernel_name}"
    parts_entry = f"guest/{variant}/parts.cpio"
    cache.store(kernel_entry, files.kernel)
    cache.store(parts_entry, parts)
    manifest = {
        "format": MANIFEST_VERSION,
        "version": files.version,
        "kernel": kernel_entry,
        "parts": parts_entry,
    }
    # Last: a manifest exists only when all it names does.
    cache.store(_manifest_entry(variant), json.dumps(manifest, indent=1).encode())


def uncompressed_module(path: str, data: bytes) -> bytes:
    """A kernel module as an ELF file. Raises ProtocolError if it is damaged or too large."""
    try:
        match PurePosixPath(path).suffix:
            case ".ko":
                return data
            case ".xz":
                result = lzma.LZMADecompressor().decompress(data, _MAX_MODULE)
            case ".gz":
                result = zlib.decompressobj(wbits=31).decompress(data, _MAX_MODULE)
            case ".zst":
                result = zstandard.ZstdDecompressor().stream_reader(data).read(_MAX_MODULE)
            case suffix:
                raise ProtocolError(f"the module {path} is compressed as {suffix}, which is not known")
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise ProtocolError(f"the module {path} is damaged: {error}") from error
    if len(result) == _MAX_MODULE:
        raise ProtocolError(f"the module {path} is larger than any module")
    return result
