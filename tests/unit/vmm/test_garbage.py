"""Python's search for cyclic garbage in a process of one VM."""

from __future__ import annotations

import gc

from manor.vmm import garbage


def test_what_lives_is_left_alone_and_new_garbage_is_found_rarely() -> None:
    before = gc.get_threshold()
    kept: list[list[int]] = [[] for _ in range(100)]
    try:
        garbage.settle()
        assert gc.get_freeze_count() > len(kept)
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
