"""The x87 operations that the host's own FPU executes, and how instructions are passed to the x87 helpers.

Each host operation loads raw operands from a frame, runs one real instruction under the guest's
control word (all exceptions masked), and leaves result and status word in the frame; so results are
bit-exact, transcendental functions included. `x87_host` turns this table into the C declaration file
of `fpu_native`. A host of another architecture needs a software version of the same table.

Source: Intel SDM volume 1, chapter 8; volume 2, the instruction pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class HostOp:
    """One host operation.

    code: AT&T instructions between loading and `fnstsw`; {m} is the 64-bit memory cell, {r} the 80-bit
    result. loads: frame operands pushed, in order ("b a": a ends in ST0). results: popped into r (and r2).
    drop: further pops.
    """

    name: str
    code: str
    loads: str = "a"
    results: int = 1
    drop: int = 0


_OPS: list[HostOp] = []
for _name in ("fadd", "fmul", "fsub", "fsubr", "fdiv", "fdivr"):
    # Two-operand register form with destination ST0. (AT&T swaps the names fsub and fsubr only where the
    # destination is not ST0.)
    _OPS.append(HostOp(_name, f"{_name} %%st(1), %%st", "b a", 1, 1))
    _OPS.append(HostOp(f"{_name}_f32", f"{_name}s {{m}}"))
    _OPS.append(HostOp(f"{_name}_f64", f"{_name}l {{m}}"))
    _OPS.append(HostOp(f"{_name}_i16", f"fi{_name[1:]}s {{m}}"))
    _OPS.append(HostOp(f"{_name}_i32", f"fi{_name[1:]}l {{m}}"))
for _name in ("fcom", "fucom"):
    _OPS.append(HostOp(_name, f"{_name} %%st(1)", "b a", 0, 2))
for _suffix, _code in (("f32", "fcoms"), ("f64", "fcoml"), ("i16", "ficoms"), ("i32", "ficoml")):
    _OPS.append(HostOp(f"fcom_{_suffix}", f"{_code} {{m}}", "a", 0, 1))
for _name in ("ftst", "fxam"):
    _OPS.append(HostOp(_name, _name, "a", 0, 1))
for _name in ("fsqrt", "frndint", "f2xm1", "fabs", "fchs", "fsin", "fcos"):
    _OPS.append(HostOp(_name, _name))
for _name in ("fsincos", "fptan", "fxtract"):
    _OPS.append(HostOp(_name, _name, "a", 2))
for _name in ("fpatan", "fyl2x", "fyl2xp1"):
    _OPS.append(HostOp(_name, _name, "b a"))
for _name in ("fprem", "fprem1", "fscale"):
    _OPS.append(HostOp(_name, _name, "b a", 1, 1))
for _name, _code in (
    ("fld_f32", "flds {m}"), ("fld_f64", "fldl {m}"), ("fild_i16", "filds {m}"), ("fild_i32", "fildl {m}"),
    ("fild_i64", "fildll {m}"), ("fbld", "fbld {a}"),
):  # fmt: skip
    _OPS.append(HostOp(_name, _code, ""))
for _name in ("fld1", "fldl2t", "fldl2e", "fldpi", "fldlg2", "fldln2", "fldz"):
    _OPS.append(HostOp(_name, _name, ""))
for _name, _code in (
    ("fist_i16", "fistps {m}"), ("fist_i32", "fistpl {m}"),
    ("fist_i64", "fistpll {m}"), ("fisttp_i16", "fisttps {m}"), ("fisttp_i32", "fisttpl {m}"),
    ("fisttp_i64", "fisttpll {m}"), ("fbstp", "fbstp {r}"),
):  # fmt: skip
    _OPS.append(HostOp(_name, _code, "a", 0))
for _name, _code in (("fst_f32", "fsts {m}"), ("fst_f64", "fstl {m}")):
    # Not popping: after an unmasked overflow or underflow the value would stay on the host's stack.
    _OPS.append(HostOp(_name, _code, "a", 0, 1))

HOST_OPS: Final[tuple[HostOp, ...]] = tuple(_OPS)
HOST_NUMBER: Final[dict[str, int]] = {op.name: number for number, op in enumerate(HOST_OPS)}

KINDS: Final = (
    "ARITHMETIC", "ARITHMETIC_MEMORY", "COMPARE", "COMPARE_MEMORY", "COMPARE_FLAGS", "TEST", "UNARY", "UNARY_PUSH",
    "BINARY_POP", "BINARY", "LOAD", "CONSTANT", "FLD", "FXCH", "FST", "FSTPNCE", "FFREE", "FINCSTP", "FDECSTP", "FNOP",
    "FXAM", "FCMOV", "STORE", "STORE_80", "STORE_BCD", "LOAD_80", "LOAD_BCD",
)  # fmt: skip
"""What a helper does around the host operation."""

SHIFT_KIND: Final = 11
SHIFT_OP: Final = 16
SHIFT_POPS: Final = 24
TO_STI: Final = 1 << 26
"""The destination is ST(i), not ST0."""
SHIFT_SIZE: Final = 28
"""Bytes of the memory operand of a store."""


def describe(kind: str, op: str = "", pops: int = 0, to_sti: bool = False, size: int = 0) -> int:
    """The constant part of a helper's immediate; bits 0-10 are the opcode as FOP has it, of which 0-2 name ST(i)."""
    number = HOST_NUMBER[op] if op else 0
    return (
        KINDS.index(kind) << SHIFT_KIND | number << SHIFT_OP | pops << SHIFT_POPS | (TO_STI if to_sti else 0)
        | size << SHIFT_SIZE
    )  # fmt: skip
