"""Each compression a kernel may have."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct

import lz4.block
import pytest
import zstandard

from manor.base.errors import ProtocolError
from manor.boot import lzo, payload

KERNEL = b"\x7fELF" + b"The quick brown fox. " * 3000

LZOP_TEXT = (
    b"The quick brown fox jumps over the lazy dog, the quick brown fox and the lazy dog: " + b"a" * 81 + b".\n"
)
# Output of `lzop -9` (version 1.04) for the text of 174 bytes whose tail is below.
LZOP_STREAM = bytes.fromhex(
    "894c5a4f000d0a1a0a104020a0094003090300000d000000006b039501000000000027be027a000000ae00000044ac093f92"
    "3154686520717569636b2062726f776e20666f78206a756d7073206f76657220745803066c617a7920646f672c94012eb300"
    "616e642b97003a2061203702002e0a11000000000000"
)


def with_size(packed: bytes, size: int = len(KERNEL)) -> bytes:
    return packed + struct.pack("<I", size)


def lz4_legacy(data: bytes, chunk: int = 1 << 14) -> bytes:
    """Chunks smaller than the format's 8 MiB are legal only at the end; ours is a single one."""
    packed = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(packed)) + packed


PACKED = {
    "gzip": gzip.compress(KERNEL),
    "xz": with_size(lzma.compress(KERNEL, lzma.FORMAT_XZ)),
    "lzma": with_size(lzma.compress(KERNEL, lzma.FORMAT_ALONE)),
    "bzip2": with_size(bz2.compress(KERNEL)),
    "zstd": with_size(zstandard.ZstdCompressor(write_content_size=False).compress(KERNEL)),
    "lz4": with_size(lz4_legacy(KERNEL)),
    "none": KERNEL,
}


@pytest.mark.parametrize("name", PACKED)
def test_round_trip(name: str) -> None:
    assert payload.compression_of(PACKED[name]) == name
    assert payload.decompress(PACKED[name]) == KERNEL


@pytest.mark.parametrize("name", sorted(PACKED.keys() - {"none"}))
def test_damaged_payload_is_one_error(name: str) -> None:
    packed = PACKED[name]
    middle = len(packed) // 2
    for damaged in (packed[:middle], with_size(packed[: middle - 4]), packed[:12] + bytes(middle) + packed[-4:]):
        with pytest.raises(ProtocolError):
            payload.decompress(damaged)


def test_claimed_size_is_bounded() -> None:
    with pytest.raises(ProtocolError, match="claims"):
        payload.decompress(with_size(lzma.compress(KERNEL), 0xFFFF_FFFF))


def test_unknown_compression() -> None:
    with pytest.raises(ProtocolError, match="compression is unknown"):
        payload.decompress(b"\x01\x02\x03\x04" * 8)


def test_lzo_stream_of_the_reference_program() -> None:
    text = lzo.decompress_lzop(LZOP_STREAM, 1000)
    assert len(text) == 174
    assert text.startswith(b"The quick brown fox jumps over the lazy dog, the quick brown fox and the lazy dog: a")
    assert text.endswith(b"aaa.\n")
    assert text.count(b"a") == 174 - len(text.replace(b"a", b""))
    assert payload.decompress(with_size(LZOP_STREAM, 174)) == text


def test_damaged_lzo_is_one_error() -> None:
    for length in range(len(LZOP_STREAM) - 1):
        with pytest.raises(ProtocolError):
            lzo.decompress_lzop(LZOP_STREAM[:length], 1000)
    with pytest.raises(ProtocolError, match="fit"):
        lzo.decompress_lzop(LZOP_STREAM, 100)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        # 21 = 17 + 4 literals; 0x11 0 0 is the end.
        (b"\x15abcd\x11\x00\x00", b"abcd"),
        # A match of 3 at distance 1 (01LDDDSS), then one literal.
        (b"\x15abcd\x41\x00X\x11\x00\x00", b"abcddddX"),
        # 001LLLLL with a long length: 2 + 31 + 255 + 1 bytes at distance 4.
        (b"\x15abcd\x20\x00\x01\x0c\x00\x11\x00\x00", b"abcd" + (b"abcd" * 100)[:289]),
        # A long run of literals: 3 + 15 + 2, then 3 bytes at distance 2049 are impossible here.
        (b"\x12a\x00\x02" + b"x" * 20 + b"\x11\x00\x00", None),
    ],
)
def test_lzo_instructions(block: bytes, text: bytes | None) -> None:
    if text is None:
        with pytest.raises(ProtocolError):
            lzo.decompress_block(block, 21)
    else:
        assert lzo.decompress_block(block, len(text)) == text
