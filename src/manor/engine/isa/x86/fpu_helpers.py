"""The helpers of `fpu_native`: x87, MMX, SSE state, and SSE instructions too rare for a uop.

Helpers touch env.xmm, env.fpr and the control fields, which are no virtual registers.
"""

from __future__ import annotations

from typing import Final

from manor.engine.env import RAX, RCX, RDI, RDX
from manor.engine.uop.helper import ALL, Helper

HELPERS: Final[tuple[Helper, ...]] = (
    Helper("ldmxcsr", faults=True, doc="a = value; #GP; the block's flags may change"),
    Helper("stmxcsr", doc="returns MXCSR with the flags that the host has raised"),
    Helper("fxsave", faults=True, operand=True, doc="a = address, imm = 1 for the 64-bit form"),
    Helper("fxrstor", faults=True, operand=True, doc="a, imm as fxsave; the block's flags may change"),
    Helper("xsave", reads=(RAX, RDX), faults=True, operand=True, doc="a = address, imm = 1 for the 64-bit form"),
    Helper("xrstor", reads=(RAX, RDX), faults=True, operand=True, doc="a, imm as xsave; the block's flags may change"),
    Helper("sse_trap_begin", reads=ALL, doc="imm = ModRM.reg: remember the destination, clear the host's flags"),
    Helper("sse_trap_check", writes=ALL, faults=True, doc="imm = ModRM.reg: #XM with the destination restored"),
    Helper("pblendw", doc="a = destination xmm, b = source xmm, imm = immediate"),
    Helper("insertps", doc="like pblendw"),
    Helper("dpps", doc="like pblendw"),
    Helper("dppd", doc="like pblendw"),
    Helper("mpsadbw", doc="like pblendw"),
    *(
        Helper(name, reads=(RAX, RDX), writes=(RCX,), doc="a, b = xmm, b bit 8: 64-bit lengths; returns EFLAGS")
        for name in ("pcmpestri", "pcmpestrm", "pcmpistri", "pcmpistrm")
    ),
    Helper("maskmovdqu", reads=(RDI, 28, 29, 30, 31, 32, 33), faults=True, doc="a = data, b = mask, IMM_STRING"),
    Helper("maskmovq", reads=(RDI, 28, 29, 30, 31, 32, 33), faults=True, doc="a = data, b = mask, IMM_STRING"),
    Helper("crc32", pure=True, doc="a = CRC, b = value, imm = bytes"),
    Helper("memory_fence", doc="MFENCE"),
    Helper("mmx_get", faults=True, doc="value of mmx register imm; enters MMX mode; #MF"),
    Helper("mmx_peek", faults=True, doc="value of mmx register imm; #MF; does not enter MMX mode"),
    Helper("mmx_put", doc="mmx register imm = a"),
    Helper("mmx_put_converted", doc="mmx register imm = a, unless an unmasked SSE exception is pending"),
    Helper("mmx_enter", faults=True, doc="#MF, then TOP = 0 and all registers valid"),
    Helper("emms", faults=True),
    Helper("fwait", faults=True, doc="#NM, #MF"),
    Helper("x87", faults=True, doc="a = memory operand or condition, b = its address, imm = x87_ops.describe"),
    Helper("x87_memory", faults=True, operand=True, doc="a = address; stores and 80-bit loads; imm = x87_ops.describe"),
    Helper("x87_status", doc="status word, TOP included"),
    Helper("x87_control", doc="control word"),
    Helper("fldcw", faults=True, doc="a = control word"),
    Helper("fnclex"),
    Helper("fninit"),
    Helper("fnstenv", faults=True, operand=True, doc="a = address, imm = operand size in bytes"),
    Helper("fldenv", faults=True, operand=True, doc="a = address, imm = operand size in bytes"),
    Helper("fnsave", faults=True, operand=True, doc="a = address, imm = operand size in bytes"),
    Helper("frstor", faults=True, operand=True, doc="a = address, imm = operand size in bytes"),
)
