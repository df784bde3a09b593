"""Decompresses the kernel inside a bzImage on the host, which saves the guest from doing it.

Source: Linux Documentation/arch/x86/boot.rst, fields payload_offset and payload_length: the format is known
by its magic number, and the last four bytes are the uncompressed size.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from typing import Final

import lz4.block
import zstandard

from manor.base.errors import ProtocolError
from manor.boot import elf, lzo

MAX_KERNEL: Final = 1 << 30
"""An uncompressed kernel larger than the kernel's own address range (1 GiB with KASLR) cannot be one."""

_LZ4_LEGACY: Final = b"\x02\x21\x4c\x18"
_MAGICS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x1f\x9e", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (_LZ4_LEGACY, "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (lzo.LZOP_MAGIC, "lzo"),
    (elf.MAGIC, "none"),
)
"""How a payload begins -> its compression. Source: Linux lib/decompress.c; `none`: CONFIG_KERNEL_UNCOMPRESSED."""
_LZ4_CHUNK: Final = 8 << 20
"""Each chunk of the legacy format unpacks to at most this. Source: LZ4 Frame Format 1.6.2, "Legacy frame"."""
_ZSTD_WINDOW: Final = 1 << 27
"""Kernels are packed with `zstd -22 --ultra`, whose window is 128 MiB."""

_DAMAGE: Final = (zlib.error, lzma.LZMAError, zstandard.ZstdError, lz4.block.LZ4BlockError, OSError, EOFError)
"""What the libraries raise for damaged data; bz2 raises OSError."""


def compression_of(payload: bytes) -> str | None:
    """Name of the compression, `none` for a plain ELF file, None if it is unknown."""
    for magic, name in _MAGICS:
        if payload.startswith(magic):
            return name
    return None


def decompress(payload: bytes) -> bytes:
    """The uncompressed kernel. Raises ProtocolError if the payload is damaged or its compression unknown."""
    name = compression_of(payload)
    if name is None:
        known = ", ".join(dict.fromkeys(name for _, name in _MAGICS if name != "none"))
        start = payload[:4].hex(" ")
        raise ProtocolError(f"its compression is unknown (it begins with {start}, which is none of {known})")
    if name == "none":
        return payload
    if len(payload) < 8:
        raise ProtocolError("the compressed kernel is truncated")
    (size,) = struct.unpack_from("<I", payload, len(payload) - 4)
    if size > MAX_KERNEL:
        raise ProtocolError(f"the compressed kernel claims {size:#x} bytes: it is damaged or truncated")
    try:
        result = _decompress(name, payload, size)
    except _DAMAGE as error:
        raise ProtocolError(f"the {name}-compressed kernel is damaged or truncated: {error}") from error
    if len(result) != size:
        raise ProtocolError(f"the {name}-compressed kernel is truncated: {len(result)} of {size} bytes")
    return result


def _decompress(name: str, payload: bytes, size: int) -> bytes:
    match name:
        case "gzip":
            return zlib.decompressobj(wbits=31).decompress(payload, size)
        case "xz":
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload, size)
        case "lzma":
            return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload, size)
        case "bzip2":
            return bz2.BZ2Decompressor().decompress(payload, size)
        case "zstd":
            with zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(payload) as reader:
                return reader.read(size)
        case "lz4":
            return _decompress_lz4_legacy(payload, size)
        case "lzo":
            return lzo.decompress_lzop(payload, size)
        case _:
            raise ValueError(f"unknown compression {name}")


def _decompress_lz4_legacy(payload: bytes, size: int) -> bytes:
    chunks: list[bytes] = []
    position = len(_LZ4_LEGACY)
    left = size
    end = len(payload) - 4
    while left > 0 and position + 4 <= end:
        (packed_size,) = struct.unpack_from("<I", payload, position)
        position += 4
        if packed_size > end - position:
            raise ProtocolError("an LZ4 chunk reaches behind the end: the kernel is truncated", position)
        room = min(left, _LZ4_CHUNK)
        packed = payload[position : position + packed_size]
        chunks.append(lz4.block.decompress(packed, uncompressed_size=room))
        left -= len(chunks[-1])
        position += packed_size
    return b"".join(chunks)
