"""Compressed clusters. Source: qcow2 specification, "Additional fields" (types) and "Compressed Clusters
Descriptor"."""

from __future__ import annotations

import io
import zlib
from typing import Final

from manor.backends.block.api import BlockError

_WINDOW: Final = -12
"""Raw deflate with a window of 4 KiB, which is what every reader of the format is seen to expect."""


def compress(data: bytes | memoryview, kind: int) -> bytes | None:
    """`data`, one cluster, compressed; None if that does not make it smaller. kind: 0 zlib, 1 zstd. Any thread."""
    if kind == 0:
        packer = zlib.compressobj(wbits=_WINDOW)
        packed = packer.compress(data) + packer.flush()
    else:
        import zstandard

        packed = zstandard.ZstdCompressor().compress(data)
    return packed if len(packed) < len(data) else None


def decompress(data: bytes | bytearray, size: int, kind: int, name: str, offset: int) -> bytes:
    """The `size` bytes of a cluster; `data` may go on after them. name and offset: of the file, for the message."""
    try:
        plain = _inflate(data, size) if kind == 0 else _read_zstd(bytes(data), size)
    except (zlib.error, EOFError) as error:
        raise BlockError(f"{name}: the compressed cluster at {offset:#x} is damaged: {error}") from error
    if len(plain) != size:
        raise BlockError(f"{name}: the compressed cluster at {offset:#x} holds {len(plain)} bytes instead of {size}")
    return plain


def _inflate(data: bytes | bytearray, size: int) -> bytes:
    # The largest window costs nothing and reads what a writer with another window made.
    return zlib.decompressobj(wbits=-15).decompress(data, size)


def _read_zstd(data: bytes, size: int) -> bytes:
    import zstandard

    try:
        # A window is at most a cluster; a frame that asks for more memory is damaged.
        with zstandard.ZstdDecompressor(max_window_size=max(size, 1 << 10)).stream_reader(io.BytesIO(data)) as reader:
            return reader.read(size)
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from error
