"""Compressed files, by what they begin with: gzip, xz, zstd, bzip2; unpacked in pieces, with a bound."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from manor.base.errors import HostError, ProtocolError
from manor.images.sparse import SparseWriter

MAGICS: Final = (
    (b"\x1f\x8b", "gzip"),  # RFC 1952, 2.3.1
    (b"\xfd7zXZ\0", "xz"),  # The .xz File Format 1.1.0, 2.1.1.1
    (b"\x28\xb5\x2f\xfd", "zstd"),  # RFC 8878, 3.1.1
    (b"BZh", "bzip2"),
)
_PIECE: Final = 1 << 18
_OUTPUT: Final = 1 << 22
"""Bytes that one step may give: a small piece of input may stand for very many zeros."""
_XZ_MEMORY: Final = 256 << 20
"""The largest preset of xz needs 65 MiB to unpack; who demands more wants our memory."""
_ZSTD_WINDOW: Final = 1 << 27
"""zstd --ultra -22 uses 128 MiB."""
_ZSTD_PIECE: Final = 1 << 12
_DAMAGE: Final = (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


class Decompressor(Protocol):
    """What bz2 and lzma offer; others are wrapped."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def compression_of(path: Path) -> str | None:
    """Name of the compression, None for none that is known. Raises HostError."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise HostError.from_os_error(f"reading {path}", error) from error
    return next((name for magic, name in MAGICS if head.startswith(magic)), None)


def unpack(source: Path, target: Path, limit: int, progress: Callable[[int, int], None]) -> None:
    """Unpack `source` into `target`, zeros as holes. progress: bytes of the source.

    limit: bytes of the result that are too many. Raises ProtocolError if it is damaged, HostError.
    """
    name = compression_of(source)
    if name is None:
        raise ProtocolError(f"{source} is not compressed in a way that is known here")
    try:
        total = source.stat().st_size
        with source.open("rb") as file, SparseWriter(target, limit, f"unpacking {source}") as writer:
            for piece in pieces(file, name, lambda: progress(min(file.tell(), total), total)):
                writer.write(piece)
    except _DAMAGE as error:
        raise ProtocolError(f"the {name}-compressed file {source} is damaged or cut short: {error}") from error


def pieces(file: BinaryIO, name: str, on_input: Callable[[], None]) -> Iterator[bytes]:
    """The unpacked contents. Several streams one after the other are one, as the tools of each format take them."""
    data = file.read(_PIECE)
    while data:
        stream = _new(name)
        while not stream.eof:
            if stream.needs_input and not data:
                data = file.read(_PIECE)
                on_input()
                if not data:
                    raise EOFError("it ends early")
            yield stream.decompress(data, _OUTPUT)
            data = b""
        data = stream.unused_data or file.read(_PIECE)
        # Padding of zeros is allowed after the last stream. Source: The .xz File Format 1.1.0, 2.2; GNU gzip does so,
        # too.
        data = data.lstrip(b"\0")


def _new(name: str) -> Decompressor:
    if name == "zstd":
        return _Zstd()
    if name == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    return _Gzip() if name == "gzip" else bz2.BZ2Decompressor()


class _Zstd:
    """Takes little input at a time: it cannot be told how much to give, and 4 bytes may stand for 128 KiB of zeros."""

    def __init__(self) -> None:
        import zstandard

        self._inner = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        self._error = zstandard.ZstdError
        self._input = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._input

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data + self._input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._input += data
        piece, self._input = self._input[:_ZSTD_PIECE], self._input[_ZSTD_PIECE:]
        try:
            return self._inner.decompress(piece)
        except self._error as error:
            raise ValueError(str(error)) from error
