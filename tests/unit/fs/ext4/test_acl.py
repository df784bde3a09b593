"""Access control lists in their two forms."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.errors import ConfigError, ProtocolError
from manor.fs.ext4 import acl

NAMED = (2, 8)
entries = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(NAMED), st.integers(0, 7), st.integers(0, 2**32 - 1)),
        st.tuples(st.sampled_from((1, 4, 16, 32)), st.integers(0, 7), st.just(2**32 - 1)),
    )
)


@given(entries)
def test_both_ways(found: list[tuple[int, int, int]]) -> None:
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in found)
    stored = acl.to_disk(value)
    assert len(stored) == 4 + sum(8 if tag in NAMED else 4 for tag, _, _ in found)
    assert acl.from_disk(stored) == value


@pytest.mark.parametrize("value", [b"", b"\1\0\0\0", b"\2\0\0\0x", b"\2\0\0"])
def test_what_is_no_list_is_not_written(value: bytes) -> None:
    with pytest.raises(ConfigError, match="is not an access control list"):
        acl.to_disk(value)


@pytest.mark.parametrize("value", [b"", b"\2\0\0\0", b"\1\0\0\0\1", b"\1\0\0\0\2\0\7\0\1"])
def test_damaged_lists_are_an_error(value: bytes) -> None:
    with pytest.raises(ProtocolError):
        acl.from_disk(value)
