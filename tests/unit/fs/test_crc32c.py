"""CRC-32C against its definition and the check values of RFC 3720, B.4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.fs.crc32c import crc32c

START = 0xFFFF_FFFF


def by_definition(crc: int, data: bytes) -> int:
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data: bytes, checksum: int) -> None:
    assert crc32c(START, data) ^ START == checksum


@given(st.integers(0, START), st.binary(max_size=70), st.integers(0, 5000))
def test_trailing_zeros_are_not_walked_through_but_count(crc: int, data: bytes, zeros: int) -> None:
    assert crc32c(crc, data + bytes(zeros)) == by_definition(crc, data + bytes(zeros))


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_data_may_come_in_pieces(first: bytes, second: bytes) -> None:
    assert crc32c(crc32c(START, first), second) == crc32c(START, first + second)
