"""Make an empty image."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Final, cast

from manor.backends.block.file import HostFile, fill_with_zeros, open_file, sync_folder
from manor.backends.block.open import FORMATS, OpenOptions, open_image, resolve
from manor.backends.block.qcow2.create import PREALLOCATIONS, Preallocation, Qcow2Options, check_options, create_qcow2
from manor.base.errors import ConfigError, HostError
from manor.base.units import parse_size

CREATE_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "raw": {"preallocation": "off, falloc or full: space set aside at once (off)"},
    "qcow2": {
        "cluster_size": "unit of allocation: a power of two from 512 to 2M (64K)",
        "compat": "0.10 for version 2 of the format, 1.1 for version 3 (1.1)",
        "lazy_refcounts": "on postpones reference counts; after a crash they are repaired (off)",
        "refcount_bits": "width of a reference count: 1, 2, 4, 8, 16, 32 or 64 (16)",
        "compression_type": "zlib or zstd, for compressed clusters (zlib)",
        "extended_l2": "on allocates in 32nds of a cluster (off)",
        "preallocation": "off, metadata, falloc or full (off)",
        "data_file": "name of a raw file that holds the data, while this one holds the tables",
        "data_file_raw": "on keeps the data file readable as a raw image (off)",
    },
}
"""Format -> option -> what it does (default), as `-o OPTION=VALUE` takes them."""

_SECTOR: Final = 512


def create(
    path: str,
    size: int | None,
    *,
    format: str = "qcow2",
    options: Mapping[str, str] | None = None,
    backing_file: str | None = None,
    backing_format: str | None = None,
    overwrite: bool = False,
) -> None:
    """Create an image whose guest sees `size` bytes (rounded up to 512); None takes the backing image's size.

    options: keys and values of `CREATE_OPTIONS`, as text. backing_file: relative to the folder of `path`; its format
    must be given. overwrite: replace a file that exists (refused while somebody uses it). What was begun is removed
    again if it fails.
    """
    options = options or {}
    _check_names(format, options)
    if backing_file is not None:
        if format != "qcow2":
            raise ConfigError("backing file", f"a {format} image cannot have one; create a qcow2 image")
        backing_size = _backing_size(path, backing_file, backing_format)
        size = backing_size if size is None else size
    if size is None or size < 0:
        raise ConfigError("size", "say how large the disk is, for example 20G")
    size = (size + _SECTOR - 1) & -_SECTOR
    if format == "raw":
        _create_raw(path, size, options.get("preallocation", "off"), overwrite)
        return
    parsed = parse_qcow2_options(options)
    check_options(size, parsed, backing_file, backing_format)
    _create_qcow2(path, size, parsed, backing_file, backing_format, overwrite)


def _check_names(format: str, options: Mapping[str, str]) -> None:
    if format not in CREATE_OPTIONS:
        known = "Manor reads this format, it does not write it" if format in FORMATS else "there is no such format"
        raise ConfigError("format", f"{format}: {known}; create {' or '.join(CREATE_OPTIONS)}")
    for name in options:
        if name not in CREATE_OPTIONS[format]:
            raise ConfigError(name, f"{format} has no such option; it has: {', '.join(CREATE_OPTIONS[format])}")


def _backing_size(path: str, backing_file: str, backing_format: str | None) -> int:
    if not backing_format:
        raise ConfigError("backing file", f"say what format {backing_file} has (-F FORMAT); guessing it is not safe")
    below = resolve(path, backing_file)
    if os.path.exists(path) and os.path.exists(below) and os.path.samefile(path, below):
        raise ConfigError("backing file", f"{path} cannot be backed by itself")
    backing = open_image(below, OpenOptions(format=backing_format, read_only=True, force_share=True))
    try:
        return backing.size
    finally:
        backing.close()


def parse_qcow2_options(options: Mapping[str, str]) -> Qcow2Options:
    """Options as text to what the format takes. Raises ConfigError naming the option."""
    version = {"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}.get(options.get("compat", "1.1"))
    if version is None:
        raise ConfigError("compat", f"{options['compat']!r} is neither 0.10 nor 1.1")
    try:
        cluster_size = parse_size(options.get("cluster_size", "64K"))
    except ValueError as error:
        raise ConfigError("cluster_size", str(error)) from error
    bits = options.get("refcount_bits", "16")
    if not (bits.isascii() and bits.isdecimal()):
        raise ConfigError("refcount_bits", f"{bits!r} is not 1, 2, 4, 8, 16, 32 or 64")
    compression = options.get("compression_type", "zlib")
    if compression not in ("zlib", "zstd"):
        raise ConfigError("compression_type", f"{compression!r} is neither zlib nor zstd")
    preallocation = options.get("preallocation", "off")
    if preallocation not in PREALLOCATIONS:
        raise ConfigError("preallocation", f"{preallocation!r} is none of {', '.join(PREALLOCATIONS)}")
    return Qcow2Options(
        cluster_size=cluster_size,
        version=2 if version == 2 else 3,
        lazy_refcounts=_switch("lazy_refcounts", options),
        refcount_bits=int(bits),
        compression_type="zstd" if compression == "zstd" else "zlib",
        extended_l2=_switch("extended_l2", options),
        preallocation=cast(Preallocation, preallocation),
        data_file=options.get("data_file"),
        data_file_raw=_switch("data_file_raw", options),
    )


def _switch(name: str, options: Mapping[str, str]) -> bool:
    text = options.get(name, "off")
    if text not in ("on", "off", "true", "false", "yes", "no"):
        raise ConfigError(name, f"{text!r} is neither on nor off")
    return text in ("on", "true", "yes")


def new_file(path: str, overwrite: bool) -> HostFile:
    """An empty locked file. Raises ConfigError if there is one that may not be replaced."""
    try:
        return open_file(path, read_only=False, create="replace" if overwrite else "new")
    except HostError as error:
        if not overwrite and os.path.exists(path):
            raise ConfigError(path, "this file exists already; delete it or say that it may be overwritten") from error
        raise


def remove_quietly(path: str) -> None:
    """Take away what was begun; never a device."""
    if os.path.isfile(path):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _create_raw(path: str, size: int, preallocation: str, overwrite: bool) -> None:
    if preallocation not in ("off", "falloc", "full"):
        raise ConfigError("preallocation", f"{preallocation!r} is none of off, falloc, full")
    file = new_file(path, overwrite)
    try:
        file.truncate(size)
        if preallocation == "falloc" and size:
            file.allocate(0, size)
        elif preallocation == "full" and size:
            fill_with_zeros(file, 0, size)
    except BaseException:
        file.close()
        remove_quietly(path)
        raise
    file.close()
    sync_folder(path)


def _create_qcow2(
    path: str,
    size: int,
    options: Qcow2Options,
    backing_file: str | None,
    backing_format: str | None,
    overwrite: bool,
) -> None:
    file = new_file(path, overwrite)
    data: HostFile | None = None
    data_path = resolve(path, options.data_file) if options.data_file is not None else None
    try:
        if data_path is not None:
            data = new_file(data_path, overwrite)
        create_qcow2(file, size, options, backing_file=backing_file, backing_format=backing_format, data=data)
    except BaseException:
        file.close()
        remove_quietly(path)
        if data is not None and data_path is not None:
            data.close()
            remove_quietly(data_path)
        raise
    file.close()
    if data is not None:
        data.close()
    sync_folder(path)
