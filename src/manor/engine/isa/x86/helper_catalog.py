"""All native helpers, numbered. A new table of helpers is added to TABLES."""

from __future__ import annotations

import importlib
from typing import Final

from manor.engine.uop.helper import Helper

TABLES: Final = (
    "manor.engine.isa.x86.integer_helpers",
    "manor.engine.isa.x86.system_helpers",
    "manor.engine.isa.x86.fpu_helpers",
)


def _collect() -> tuple[Helper, ...]:
    helpers: list[Helper] = []
    for table in TABLES:
        helpers.extend(importlib.import_module(table).HELPERS)
    names = [h.name for h in helpers]
    if len(names) != len(set(names)):
        raise ValueError(f"helpers declared twice: {sorted({n for n in names if names.count(n) > 1})}")
    return tuple(helpers)


HELPERS: Final = _collect()
HELPER_NUMBER: Final[dict[str, int]] = {h.name: number for number, h in enumerate(HELPERS)}
