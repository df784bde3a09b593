"""Where host code lies in the process."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

from manor.engine.load import create_engine
from manor.engine.testing import NullCallbacks

LARGE_PAGE = 1 << 21


def views() -> dict[str, set[int]]:
    """Addresses of the mappings of code arenas in this process, by their rights."""
    found: dict[str, set[int]] = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "manor-code" in line:
            span, rights = line.split()[:2]
            found.setdefault(rights, set()).add(int(span.split("-")[0], 16))
    return found


def test_a_large_page_can_begin_where_the_executable_view_does() -> None:
    """And no page is writable and executable."""
    memory = mmap.mmap(-1, 1 << 20)
    before = views()
    engine = create_engine(
        [(0, 1 << 20, ctypes.addressof(ctypes.c_char.from_buffer(memory)), False)], [NullCallbacks()], memory
    )
    made = {rights: addresses - before.get(rights, set()) for rights, addresses in views().items()}
    assert set(made) == {"rw-s", "r-xs"}
    assert [address % LARGE_PAGE for address in made["r-xs"]] == [0]
    assert engine.code_used() == 0
