"""Native helpers that uops call: name, and what the caller must know about each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALL: Final = None
"""In `reads` or `writes`: every virtual register."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A native function `uint64_t name(Env *env, uint64_t a, uint64_t b, uint64_t imm)`.

    reads, writes: virtual registers it takes from or leaves in `env.regs` besides its arguments
    and result; ALL means any. faults: it may raise an exception or otherwise set `env.fault`.
    pure: only its result matters, so a call whose result is dead is dropped.
    operand: `a` is the address of the instruction's memory operand; `operand_mode` of the softmmu says from
    `imm` how it is accessed (on the stack or not), so all else in `imm` stays below bit OPERAND_SHIFT.
    """

    name: str
    reads: tuple[int, ...] | None = ()
    writes: tuple[int, ...] | None = ()
    faults: bool = False
    pure: bool = False
    operand: bool = False
    doc: str = ""
