"""Helpers of integer instructions: what each reads, writes and may raise.

They are in `integer_native`, `stack_native`, `string_native` and `decimal_native`.
"""

from __future__ import annotations

from typing import Final

from manor.engine.env import CC_DST, CC_OP, CC_SRC, CC_SRC2, DIRECTION, EA2, RAX, RBX, RCX, RDI, RDX, RSI
from manor.engine.uop.helper import ALL, Helper

CC: Final = (CC_OP, CC_DST, CC_SRC, CC_SRC2)
_STRING_READS: Final = (RAX, RCX, RSI, RDI, DIRECTION, *CC, 28, 29, 30, 31, 32, 33)

HELPERS: Final[tuple[Helper, ...]] = (
    Helper("eflags", reads=CC, pure=True, doc="the six arithmetic flags"),
    Helper("rotate_flags", reads=CC, pure=True, doc="a = result, b = count, imm = width | 256 for right"),
    Helper("rcl", reads=CC, pure=True, doc="a = value, b = masked count, imm = width"),
    Helper("rcr", reads=CC, pure=True),
    Helper("rcl_flags", reads=CC, pure=True),
    Helper("rcr_flags", reads=CC, pure=True),
    Helper("double_shift", reads=(*CC, EA2), pure=True, doc="a, b, EA2 = count, imm = width | 256 for right"),
    Helper("double_shift_flags", reads=(*CC, EA2), pure=True),
    *(
        Helper(f"{name}{width}", reads=(RAX, RDX), writes=(RAX, RDX), faults=True, doc="a = divisor; #DE")
        for name in ("div", "idiv")
        for width in (8, 16, 32, 64)
    ),
    Helper("lock_neg", faults=True, operand=True, doc="a = address, imm = bytes; returns the old value"),
    *(
        Helper(name, reads=(RAX, RBX, RCX, RDX), writes=(RAX, RDX), faults=True, operand=True, doc="returns ZF")
        for name in ("cmpxchg8b", "cmpxchg16b")
    ),
    Helper("unavailable", faults=True, doc="#NM or #UD by CR0 and CR4; imm = 0 x87, 1 SSE, 2 MMX"),
    Helper("set_rip", doc="env.rip = imm"),
    Helper("set_counter", reads=(RCX,), writes=(RCX,), doc="RCX = a at the width of mask imm"),
    Helper("leave", reads=ALL, writes=ALL, faults=True),
    Helper("enter", reads=ALL, writes=ALL, faults=True, doc="a = frame size, b = level, imm = bytes"),
    Helper("pusha", reads=ALL, writes=ALL, faults=True),
    Helper("popa", reads=ALL, writes=ALL, faults=True),
    Helper("xlat", reads=ALL, writes=(RAX,), faults=True, doc="imm = IMM_STRING"),
    *(
        Helper(prefix + name, reads=_STRING_READS, writes=(RAX, RCX, RSI, RDI, *CC), faults=True, doc="IMM_STRING")
        for prefix in ("", "rep_")
        for name in ("movs", "cmps", "stos", "lods", "scas")
    ),
    *(Helper(name, reads=(RAX, *CC), writes=(RAX, *CC), faults=True) for name in
      ("daa", "das", "aaa", "aas", "aam", "aad")),
)  # fmt: skip
