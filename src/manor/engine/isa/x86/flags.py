"""Lazy flags: what CC_OP says about CC_DST, CC_SRC and CC_SRC2.

CC_OP = kind * 4 + log2(width / 8). The six arithmetic flags are computed only when someone
looks. Kinds and what the cells hold (r = result, a and b = operands):

    EFLAGS  src = the flags themselves at their places in RFLAGS
    ADD     dst = r, src = b            ADC  dst = r, src = b, src2 = carry in
    SUB     dst = a, src = b            SBB  dst = r, src = b, src2 = borrow in
    LOGIC   dst = r                     MUL  dst = r, src = 0 unless CF = OF = 1
    INC     dst = r, src = CF before    DEC  dst = r, src = CF before
    SHL     dst = r, src = a << (count - 1)
    SHR     dst = r, src = a >> (count - 1), logical or arithmetic
    IMUL    dst = r, src = a, src2 = b: the forms with a truncated result
    SHLI, SHRI, SARI   dst = r, src = a, src2 = count, not 0: an immediate

SUB keeps the left operand instead of the result so that `cmp` computes nothing and a
following conditional jump compares the two cells directly.
"""

from __future__ import annotations

from typing import Final

CC_KINDS: Final = (
    "EFLAGS", "ADD", "ADC", "SUB", "SBB", "LOGIC", "INC", "DEC", "SHL", "SHR", "MUL", "IMUL", "SHLI", "SHRI", "SARI",
)  # fmt: skip
CC_DYNAMIC: Final = 255
"""Translation time only: CC_OP is not known."""

CF: Final = 0x001
PF: Final = 0x004
AF: Final = 0x010
ZF: Final = 0x040
SF: Final = 0x080
OF: Final = 0x800
ARITHMETIC: Final = CF | PF | AF | ZF | SF | OF


def cc(kind: str, width: int) -> int:
    """The CC_OP value of a kind at a width in bits."""
    return CC_KINDS.index(kind) * 4 + {8: 0, 16: 1, 32: 2, 64: 3}[width]
