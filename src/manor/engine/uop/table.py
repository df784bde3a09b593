"""All uops, numbered: the integer and control table, then the vector table."""

from __future__ import annotations

from typing import Final

from manor.engine.uop.ops import INTEGER_OPS, Op
from manor.engine.uop.vector_ops import VECTOR_OPS

OPS: Final[tuple[Op, ...]] = INTEGER_OPS + VECTOR_OPS
NUMBER: Final[dict[str, int]] = {op.name: index for index, op in enumerate(OPS)}
