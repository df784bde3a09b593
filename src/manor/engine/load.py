"""Put the engine together when a process first needs it: tables and helper addresses."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from manor.engine import cpu_native, interp_native
from manor.engine.isa.x86 import table_native
from manor.engine.isa.x86.helper_catalog import HELPER_NUMBER, HELPERS
from manor.engine.lower import arena_native, copy_native, passes_native, slow_native

HELPER_MODULES: Final = tuple(
    f"manor.engine.isa.x86.{name}_native"
    for name in ("integer", "stack", "string", "decimal", "exception", "segment", "transfer", "syscall", "control",
                 "cpuid", "msr", "io", "system", "debug", "fpu", "sse", "x87")
)  # fmt: skip
"""Native modules whose `addresses()` gives helpers."""


@cache
def load() -> None:
    """Load the instruction tables and register every helper. Raises ImportError if the build is incomplete."""
    table_native.load_tables(Path(__file__).with_name("isa").joinpath("x86", "tables.bin").read_bytes())
    addresses: dict[str, int] = {}
    for name in HELPER_MODULES:
        for helper, address in importlib.import_module(name).addresses().items():
            interp_native.set_helper(HELPER_NUMBER[helper], address)
            addresses[helper] = address
    missing = HELPER_NUMBER.keys() - addresses.keys()
    if missing:
        raise ImportError(f"helpers without code: {', '.join(sorted(missing))}")
    folder = Path(__file__).with_name("lower")
    passes_native.load_ops(folder / "ops.bin")
    passes_native.set_helpers(HELPERS, addresses)
    copy_native.load_stencils(folder / "stencils.bin")
    arena_native.set_slow_paths(slow_native.addresses())


def create_engine(
    regions: Sequence[tuple[int, int, int, bool]], callbacks: Sequence[Any], memory: object, interpret: bool = False
) -> cpu_native.EngineVm:
    """An engine for one VM; see `cpu_native.EngineVm`."""
    load()
    return cpu_native.EngineVm(regions, callbacks, memory, interpret)
