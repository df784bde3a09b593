"""A sandbox for uops, with slow paths and helpers in Python."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from manor.engine import load, lower
from manor.engine.env import OFFSETS
from manor.engine.lower import arena_native, copy_native, passes_native, sandbox_native
from manor.engine.lower.layout import SLOW_PATHS
from manor.engine.uop.helper import ALL, Helper

FUNCTION: Final = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 4)
STENCILS: Final = Path(os.environ.get("MANOR_STENCILS", Path(lower.__file__).parent / "stencils.bin"))
HELPERS: Final = (
    Helper("plain"),
    Helper("sees_all", reads=ALL, writes=ALL, faults=True),
    Helper("pure", pure=True),
    Helper("reads_rcx", reads=(1,), writes=(2,)),
)


class _World:
    """What the callbacks share: calls seen, values to give, whether to fault."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int, int]] = []
        self.helper_calls: list[tuple[str, int, int, int]] = []
        self.result = 0
        self.fault = 0
        self.on_helper: Any = None
        self.keep: list[Any] = []

    def slow_path(self, name: str) -> int:
        def called(env: int, gva: int, value: int, meta: int) -> int:
            self.calls.append((name, gva, value, meta))
            ctypes.c_uint32.from_address(env + OFFSETS["fault"]).value = self.fault
            return self.result

        return self._address(called)

    def helper(self, name: str) -> int:
        def called(env: int, a: int, b: int, imm: int) -> int:
            self.helper_calls.append((name, a, b, imm))
            return self.on_helper(env) if self.on_helper else 0

        return self._address(called)

    def _address(self, function: Any) -> int:
        callback = FUNCTION(function)
        self.keep.append(callback)
        address = ctypes.cast(callback, ctypes.c_void_p).value
        assert address is not None
        return address


class Box(sandbox_native.Sandbox):
    """The sandbox, and knobs of the Python slow paths."""

    world: _World

    @property
    def slow_result(self) -> int:
        return self.world.result

    @slow_result.setter
    def slow_result(self, value: int) -> None:
        self.world.result = value

    @property
    def slow_fault(self) -> int:
        return self.world.fault

    @slow_fault.setter
    def slow_fault(self, value: int) -> None:
        self.world.fault = value


@pytest.fixture(scope="module")
def world() -> Iterator[_World]:
    """Python slow paths and helpers in place of the engine's, which are put back afterwards."""
    if not STENCILS.exists():
        pytest.skip("the stencils are not built")
    w = _World()
    passes_native.load_ops(STENCILS.with_name("ops.bin"))
    copy_native.load_stencils(STENCILS)
    arena_native.set_slow_paths({name: w.slow_path(name) for name in SLOW_PATHS})
    passes_native.set_helpers(HELPERS, {h.name: w.helper(h.name) for h in HELPERS})
    yield w
    load.load.cache_clear()
    load.load()


@pytest.fixture(scope="module")
def shared_box(world: _World) -> Box:
    box = Box()
    box.world = world
    return box


@pytest.fixture
def box(shared_box: Box) -> Box:
    shared_box.reset()
    shared_box.write("fault", 0)
    shared_box.write("interrupt", 0)
    shared_box.world.on_helper = None
    shared_box.world.helper_calls.clear()
    return shared_box


@pytest.fixture
def slow_calls(world: _World) -> list[tuple[str, int, int, int]]:
    return world.calls
