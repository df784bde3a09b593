"""Synthetic Debian packages for tests."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping

import zstandard

COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def build_deb(files: Mapping[str, bytes], suffix: str = ".xz") -> bytes:
    """A package with `files` (names without `./`), its data archive compressed as `suffix` says."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("./boot/link")
        link.type = tarfile.SYMTYPE
        link.linkname = "vmlinuz"
        archive.addfile(link)
    compress = COMPRESSORS[suffix]
    return b"!<arch>\n" + b"".join(
        _member(name, data)
        for name, data in (
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", lzma.compress(b"odd")),
            (f"data.tar{suffix}", compress(stream.getvalue())),
        )
    )


def _member(name: str, data: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return header + data + b"\n" * (len(data) % 2)
