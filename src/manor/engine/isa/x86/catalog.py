"""Every declared instruction: the modules that declare them, and the list after importing them."""

from __future__ import annotations

import importlib
from typing import Final

from manor.engine.isa.x86.declare import INSNS, Insn

CHAPTERS: Final = ("alu", "data_transfer", "control", "string", "decimal", "system", "sse", "mmx", "x87")


def instructions() -> tuple[Insn, ...]:
    """All declared instruction forms, in a stable order."""
    for chapter in CHAPTERS:
        importlib.import_module(f"manor.engine.isa.x86.{chapter}")
    return tuple(INSNS)
