"""SSE, SSE2, SSE3, SSSE3, SSE4.1 and SSE4.2 on xmm registers.

Memory operands of 16 bytes must be aligned (#GP) except where the instruction says otherwise; they go
through a scratch register. Instructions that can raise an SSE exception carry `extra={"fp": True}`: with
FLAG_FPU_TRAP the translator puts `sse_trap_begin` and `sse_trap_check` around them.

Source: SDM volume 2, by mnemonic; opcode map appendix A.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from manor.engine.env import XMM_SCRATCH
from manor.engine.isa.x86.declare import Body, declare, insn
from manor.engine.isa.x86.template import (
    EABASE,
    IMM_DISP,
    IMM_IMM,
    IMM_REGNUM,
    IMM_RMNUM,
    IMM_STRING,
    Builder,
    Imm,
    Operand,
)

S0: Final = XMM_SCRATCH
S1: Final = XMM_SCRATCH + 1
"""Scratch registers of bodies. The two above belong to `sse_trap_begin`."""


def load128(c: Builder, aligned: bool = True, d: int = S0) -> int:
    """The 16 bytes at the effective address, in a scratch register."""
    c.emit("ldxa" if aligned else "ldx", d, EABASE, imm=Imm(IMM_DISP))
    return d


def store128(c: Builder, x: int, aligned: bool = True) -> None:
    c.emit("stxa" if aligned else "stx", a=EABASE, b=x, imm=Imm(IMM_DISP))


def source(c: Builder, operand: Operand, aligned: bool = True) -> int:
    """xmm register that holds the operand: 128 bits, or a narrower memory operand zero-extended."""
    if not operand.memory:
        return operand.code
    if operand.width == 128:
        return load128(c, aligned)
    c.emit("xset64", S0, c.load(operand.width))
    return S0


def choose(c: Builder, first: str, d: int, a: int, b: int = 0, mask: int = 0xFF, most: int = 0xFF) -> None:
    """Emit the uop that stands min(immediate & mask, most) places behind `first`."""
    c.emit("BYIMM", imm=most, x=mask)
    c.emit(first, d, a, b)


# ---------------------------------------------------------------------- d = f(d, source) and d = f(source)
def _binary(op: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.emit(op, dst.code, dst.code, source(c, src))

    return body


def _unary(op: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.emit(op, dst.code, source(c, src))

    return body


def _scalar(op: str) -> Body:
    """d.low = f([d.low,] source.low); a memory operand goes through a general register."""

    def body(c: Builder, dst: Operand, src: Operand) -> None:
        if src.memory:
            c.emit(op + "_m", dst.code, c.load(src.width))
        else:
            c.emit(op, dst.code, src.code)

    return body


FP: Final = {"fp": True}

PACKED_INTEGER: Final = {
    0x60: "punpcklbw", 0x61: "punpcklwd", 0x62: "punpckldq", 0x63: "packsswb", 0x64: "pcmpgtb", 0x65: "pcmpgtw",
    0x66: "pcmpgtd", 0x67: "packuswb", 0x68: "punpckhbw", 0x69: "punpckhwd", 0x6A: "punpckhdq", 0x6B: "packssdw",
    0x74: "pcmpeqb", 0x75: "pcmpeqw", 0x76: "pcmpeqd", 0xD1: "psrlw", 0xD2: "psrld", 0xD3: "psrlq", 0xD4: "paddq",
    0xD5: "pmullw", 0xD8: "psubusb", 0xD9: "psubusw", 0xDA: "pminub", 0xDB: "pand", 0xDC: "paddusb",
    0xDD: "paddusw", 0xDE: "pmaxub", 0xDF: "pandn", 0xE0: "pavgb", 0xE1: "psraw", 0xE2: "psrad", 0xE3: "pavgw",
    0xE4: "pmulhuw", 0xE5: "pmulhw", 0xE8: "psubsb", 0xE9: "psubsw", 0xEA: "pminsw", 0xEB: "por", 0xEC: "paddsb",
    0xED: "paddsw", 0xEE: "pmaxsw", 0xEF: "pxor", 0xF1: "psllw", 0xF2: "pslld", 0xF3: "psllq", 0xF4: "pmuludq",
    0xF5: "pmaddwd", 0xF6: "psadbw", 0xF8: "psubb", 0xF9: "psubw", 0xFA: "psubd", 0xFB: "psubq", 0xFC: "paddb",
    0xFD: "paddw", 0xFE: "paddd",
}  # fmt: skip
"""0F xx that exist for mmx (no prefix) and xmm (66)."""
PACKED_SSSE3: Final = {
    0x00: "pshufb", 0x01: "phaddw", 0x02: "phaddd", 0x03: "phaddsw", 0x04: "pmaddubsw", 0x05: "phsubw",
    0x06: "phsubd", 0x07: "phsubsw", 0x08: "psignb", 0x09: "psignw", 0x0A: "psignd", 0x0B: "pmulhrsw",
}  # fmt: skip
"""0F 38 xx, mmx and xmm."""
ABSOLUTE: Final = {0x1C: "pabsb", 0x1D: "pabsw", 0x1E: "pabsd"}
_ONLY_XMM = {0x6C: "punpcklqdq", 0x6D: "punpckhqdq"}
_SSE41 = {
    0x28: "pmuldq", 0x29: "pcmpeqq", 0x2B: "packusdw", 0x37: "pcmpgtq", 0x38: "pminsb", 0x39: "pminsd",
    0x3A: "pminuw", 0x3B: "pminud", 0x3C: "pmaxsb", 0x3D: "pmaxsd", 0x3E: "pmaxuw", 0x3F: "pmaxud", 0x40: "pmulld",
}  # fmt: skip
_EXTENSIONS = (("bw", "q"), ("bd", "d"), ("bq", "w"), ("wd", "q"), ("wq", "d"), ("dq", "q"))

for _opcode, _name in (PACKED_INTEGER | _ONLY_XMM).items():
    if _name == "pxor":
        continue
    declare(_name, f"66 0F {_opcode:02X} Vx,Wx", _binary(_name), gate="sse")
for _opcode, _name in (PACKED_SSSE3 | _SSE41).items():
    declare(_name, f"66 0F 38 {_opcode:02X} Vx,Wx", _binary(_name), gate="sse")
for _opcode, _name in (ABSOLUTE | {0x41: "phminposuw"}).items():
    declare(_name, f"66 0F 38 {_opcode:02X} Vx,Wx", _unary(_name), gate="sse")
for _index, (_name, _size) in enumerate(_EXTENSIONS):
    declare(f"pmovsx{_name}", f"66 0F 38 {0x20 + _index:02X} Vx,W{_size}", _unary(f"pmovsx{_name}"), gate="sse")
    declare(f"pmovzx{_name}", f"66 0F 38 {0x30 + _index:02X} Vx,W{_size}", _unary(f"pmovzx{_name}"), gate="sse")
for _opcode, _name, _op in (
    (0x14, "unpcklp", "punpckl"), (0x15, "unpckhp", "punpckh"), (0x54, "andp", "pand"), (0x55, "andnp", "pandn"),
    (0x56, "orp", "por"), (0x57, "xorp", "pxor"),
):  # fmt: skip
    for _prefix, _letter, _suffix in (("NP", "s", "dq"), ("66", "d", "qdq")):
        _uop = _op + _suffix if _op.startswith("punpck") else _op
        declare(_name + _letter, f"{_prefix} 0F {_opcode:02X} Vx,Wx", _binary(_uop), gate="sse")
declare("pxor", "66 0F EF Vx,Wx", _binary("pxor"), gate="sse")

for _opcode, _name in ((0x58, "add"), (0x59, "mul"), (0x5C, "sub"), (0x5D, "min"), (0x5E, "div"), (0x5F, "max")):
    declare(f"{_name}ps", f"NP 0F {_opcode:02X} Vx,Wx", _binary(f"{_name}ps"), gate="sse", extra=FP)
    declare(f"{_name}pd", f"66 0F {_opcode:02X} Vx,Wx", _binary(f"{_name}pd"), gate="sse", extra=FP)
    declare(f"{_name}ss", f"F3 0F {_opcode:02X} Vx,Wd", _scalar(f"{_name}ss"), gate="sse", extra=FP)
    declare(f"{_name}sd", f"F2 0F {_opcode:02X} Vx,Wq", _scalar(f"{_name}sd"), gate="sse", extra=FP)
declare("sqrtps", "NP 0F 51 Vx,Wx", _unary("sqrtps"), gate="sse", extra=FP)
declare("sqrtpd", "66 0F 51 Vx,Wx", _unary("sqrtpd"), gate="sse", extra=FP)
declare("sqrtss", "F3 0F 51 Vx,Wd", _scalar("sqrtss"), gate="sse", extra=FP)
declare("sqrtsd", "F2 0F 51 Vx,Wq", _scalar("sqrtsd"), gate="sse", extra=FP)
for _opcode, _name in ((0x52, "rsqrt"), (0x53, "rcp")):
    declare(f"{_name}ps", f"NP 0F {_opcode:02X} Vx,Wx", _unary(f"{_name}ps"), gate="sse")
    declare(f"{_name}ss", f"F3 0F {_opcode:02X} Vx,Wd", _scalar(f"{_name}ss"), gate="sse")
for _opcode, _name in ((0x7C, "hadd"), (0x7D, "hsub"), (0xD0, "addsub")):
    declare(f"{_name}pd", f"66 0F {_opcode:02X} Vx,Wx", _binary(f"{_name}pd"), gate="sse", extra=FP)
    declare(f"{_name}ps", f"F2 0F {_opcode:02X} Vx,Wx", _binary(f"{_name}ps"), gate="sse", extra=FP)


def _compare_packed(op: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
        x = source(c, src)
        choose(c, op, dst.code, dst.code, x, mask=7)

    return body


def _chosen_scalar(op: str, mask: int) -> Body:
    def body(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
        if src.memory:
            value = c.load(src.width)
            choose(c, op + "_m", dst.code, value, mask=mask)
        else:
            choose(c, op, dst.code, src.code, mask=mask)

    return body


def _chosen_unary(op: str, mask: int = 0xFF) -> Body:
    def body(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
        x = source(c, src)
        choose(c, op, dst.code, x, mask=mask)

    return body


def _chosen_binary(op: str, mask: int = 0xFF, most: int = 0xFF) -> Body:
    def body(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
        x = source(c, src)
        choose(c, op, dst.code, dst.code, x, mask, most)

    return body


declare("cmpps", "NP 0F C2 Vx,Wx,Ib", _compare_packed("cmpps_0"), gate="sse", extra=FP)
declare("cmppd", "66 0F C2 Vx,Wx,Ib", _compare_packed("cmppd_0"), gate="sse", extra=FP)
declare("cmpss", "F3 0F C2 Vx,Wd,Ib", _chosen_scalar("cmpss_0", 7), gate="sse", extra=FP)
declare("cmpsd", "F2 0F C2 Vx,Wq,Ib", _chosen_scalar("cmpsd_0", 7), gate="sse", extra=FP)
declare("roundps", "66 0F 3A 08 Vx,Wx,Ib", _chosen_unary("roundps_0", 15), gate="sse", extra=FP)
declare("roundpd", "66 0F 3A 09 Vx,Wx,Ib", _chosen_unary("roundpd_0", 15), gate="sse", extra=FP)
declare("roundss", "66 0F 3A 0A Vx,Wd,Ib", _chosen_scalar("roundss_0", 15), gate="sse", extra=FP)
declare("roundsd", "66 0F 3A 0B Vx,Wq,Ib", _chosen_scalar("roundsd_0", 15), gate="sse", extra=FP)
declare("pshufd", "66 0F 70 Vx,Wx,Ib", _chosen_unary("pshufd_0"), gate="sse")
declare("pshufhw", "F3 0F 70 Vx,Wx,Ib", _chosen_unary("pshufhw_0"), gate="sse")
declare("pshuflw", "F2 0F 70 Vx,Wx,Ib", _chosen_unary("pshuflw_0"), gate="sse")
declare("shufps", "NP 0F C6 Vx,Wx,Ib", _chosen_binary("shufps_0"), gate="sse")
declare("shufpd", "66 0F C6 Vx,Wx,Ib", _chosen_binary("shufpd_0", 3), gate="sse")
declare("blendps", "66 0F 3A 0C Vx,Wx,Ib", _chosen_binary("blendps_0", 15), gate="sse")
declare("blendpd", "66 0F 3A 0D Vx,Wx,Ib", _chosen_binary("blendpd_0", 3), gate="sse")
declare("palignr", "66 0F 3A 0F Vx,Wx,Ib", _chosen_binary("palignr_0", 0xFF, 32), gate="sse")


# ---------------------------------------------------------------------- shifts by an immediate
def _shift_immediate(op: str) -> Body:
    def body(c: Builder, dst: Operand, immediate: Operand) -> None:
        # Sign extension of the immediate is harmless: a count of 128 or more is too large either way.
        c.emit(op, dst.code, dst.code, imm=Imm(IMM_IMM))

    return body


def _shift_bytes(op: str) -> Body:
    def body(c: Builder, dst: Operand, immediate: Operand) -> None:
        choose(c, op, dst.code, dst.code, mask=0xFF, most=16)

    return body


SHIFT_GROUPS: Final = (
    (0x71, 2, "psrlw"), (0x71, 4, "psraw"), (0x71, 6, "psllw"), (0x72, 2, "psrld"), (0x72, 4, "psrad"),
    (0x72, 6, "pslld"), (0x73, 2, "psrlq"), (0x73, 6, "psllq"),
)  # fmt: skip
for _opcode, _digit, _name in SHIFT_GROUPS:
    declare(_name, f"66 0F {_opcode:02X} /{_digit} Ux,Ib", _shift_immediate(_name + "i"), gate="sse")
declare("psrldq", "66 0F 73 /3 Ux,Ib", _shift_bytes("psrldq_0"), gate="sse")
declare("pslldq", "66 0F 73 /7 Ux,Ib", _shift_bytes("pslldq_0"), gate="sse")


# ---------------------------------------------------------------------- conversions
def _half_source(op: str) -> Body:
    """The source is the low half; a memory operand has 8 bytes and may lie anywhere."""
    return _unary(op)


declare("cvtps2pd", "NP 0F 5A Vx,Wq", _half_source("cvtps2pd"), gate="sse", extra=FP)
declare("cvtpd2ps", "66 0F 5A Vx,Wx", _unary("cvtpd2ps"), gate="sse", extra=FP)
declare("cvtss2sd", "F3 0F 5A Vx,Wd", _scalar("cvtss2sd"), gate="sse", extra=FP)
declare("cvtsd2ss", "F2 0F 5A Vx,Wq", _scalar("cvtsd2ss"), gate="sse", extra=FP)
declare("cvtdq2ps", "NP 0F 5B Vx,Wx", _unary("cvtdq2ps"), gate="sse", extra=FP)
declare("cvtps2dq", "66 0F 5B Vx,Wx", _unary("cvtps2dq"), gate="sse", extra=FP)
declare("cvttps2dq", "F3 0F 5B Vx,Wx", _unary("cvttps2dq"), gate="sse", extra=FP)
declare("cvttpd2dq", "66 0F E6 Vx,Wx", _unary("cvttpd2dq"), gate="sse", extra=FP)
declare("cvtdq2pd", "F3 0F E6 Vx,Wq", _half_source("cvtdq2pd"), gate="sse")
declare("cvtpd2dq", "F2 0F E6 Vx,Wx", _unary("cvtpd2dq"), gate="sse", extra=FP)


def _from_integer(letter: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.emit(f"cvtsi{src.width}_s{letter}", dst.code, c.value(src))

    return body


def _to_integer(op: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        # The uop's 32-bit result is zero-extended, as the register's is.
        c.emit(f"{op}_si{dst.width}", dst.code, source(c, src))

    return body


for _prefix, _letter, _size in (("F3", "s", "d"), ("F2", "d", "q")):
    declare(f"cvtsi2s{_letter}", f"{_prefix} 0F 2A Vx,Ey", _from_integer(_letter), gate="sse", extra=FP)
    declare(f"cvtts{_letter}2si", f"{_prefix} 0F 2C Gy,W{_size}", _to_integer(f"cvtts{_letter}"), gate="sse", extra=FP)
    declare(f"cvts{_letter}2si", f"{_prefix} 0F 2D Gy,W{_size}", _to_integer(f"cvts{_letter}"), gate="sse", extra=FP)


def _compare_flags(op: str) -> Body:
    def body(c: Builder, first: Operand, second: Operand) -> None:
        flags = c.temp()
        if second.memory:
            c.emit(op + "_m", flags, first.code, c.load(second.width))
        else:
            c.emit(op, flags, first.code, second.code)
        c.set_eflags(flags)

    return body


for _opcode, _name in ((0x2E, "ucomi"), (0x2F, "comi")):
    declare(f"{_name}ss", f"NP 0F {_opcode:02X} Vx,Wd", _compare_flags(f"{_name}ss"), gate="sse", extra=FP)
    declare(f"{_name}sd", f"66 0F {_opcode:02X} Vx,Wq", _compare_flags(f"{_name}sd"), gate="sse", extra=FP)


@insn("66 0F 38 17 Vx,Wx", gate="sse")
def ptest(c: Builder, first: Operand, second: Operand) -> None:
    flags = c.temp()
    c.emit("ptest", flags, first.code, source(c, second))
    c.set_eflags(flags)


def _sign_mask(op: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.emit(op, dst.code, src.code)

    return body


declare("movmskps", "NP 0F 50 Gd,Ux", _sign_mask("movmskps"), gate="sse")
declare("movmskpd", "66 0F 50 Gd,Ux", _sign_mask("movmskpd"), gate="sse")
declare("pmovmskb", "66 0F D7 Gd,Ux", _sign_mask("pmovmskb"), gate="sse")


# ---------------------------------------------------------------------- moves
def _move(aligned: bool) -> Body:
    """Whole registers, either direction."""

    def body(c: Builder, dst: Operand, src: Operand) -> None:
        if src.memory:
            load128(c, aligned, dst.code)
        elif dst.memory:
            store128(c, src.code, aligned)
        else:
            c.emit("xmove", dst.code, src.code)

    return body


for _name, _prefix, _load, _store, _aligned in (
    ("movups", "NP", "10", "11", False), ("movupd", "66", "10", "11", False), ("movaps", "NP", "28", "29", True),
    ("movapd", "66", "28", "29", True), ("movdqa", "66", "6F", "7F", True), ("movdqu", "F3", "6F", "7F", False),
):  # fmt: skip
    declare(_name, f"{_prefix} 0F {_load} Vx,Wx", _move(_aligned), gate="sse")
    declare(_name, f"{_prefix} 0F {_store} Wx,Vx", _move(_aligned), gate="sse")
declare("lddqu", "F2 0F F0 Vx,Mx", _move(False), gate="sse")
declare("movntdqa", "66 0F 38 2A Vx,Mx", _move(True), gate="sse")
declare("movntps", "NP 0F 2B Mx,Vx", _move(True), gate="sse")
declare("movntpd", "66 0F 2B Mx,Vx", _move(True), gate="sse")
declare("movntdq", "66 0F E7 Mx,Vx", _move(True), gate="sse")


def _move_scalar(bits: int) -> Body:
    """MOVSS, MOVSD: a load clears the rest of the register, a register move keeps it."""

    def body(c: Builder, dst: Operand, src: Operand) -> None:
        if src.memory:
            c.emit("xset64", dst.code, c.load(bits))
        elif dst.memory:
            value = c.temp()
            c.emit(f"xget{bits}_0", value, src.code)
            c.store(bits, value)
        else:
            c.emit(f"xmove{bits}", dst.code, src.code)

    return body


for _name, _prefix, _size, _bits in (("movss", "F3", "d", 32), ("movsd", "F2", "q", 64)):
    declare(_name, f"{_prefix} 0F 10 Vx,W{_size}", _move_scalar(_bits), gate="sse")
    declare(_name, f"{_prefix} 0F 11 W{_size},Vx", _move_scalar(_bits), gate="sse")


def get64(c: Builder, x: int, index: int) -> int:
    """A 64-bit lane in a temporary."""
    value = c.temp()
    c.emit(f"xget64_{index}", value, x)
    return value


def _load_half(index: int) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.emit(f"xput64_{index}", dst.code, c.load(64))

    return body


def _store_half(index: int) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.store(64, get64(c, src.code, index))

    return body


for _prefix, _letter in (("NP", "s"), ("66", "d")):
    declare(f"movlp{_letter}", f"{_prefix} 0F 12 Vx,Mq", _load_half(0), gate="sse")
    declare(f"movlp{_letter}", f"{_prefix} 0F 13 Mq,Vx", _store_half(0), gate="sse")
    declare(f"movhp{_letter}", f"{_prefix} 0F 16 Vx,Mq", _load_half(1), gate="sse")
    declare(f"movhp{_letter}", f"{_prefix} 0F 17 Mq,Vx", _store_half(1), gate="sse")


@insn("NP 0F 12 Vx,Ux", gate="sse")
def movhlps(c: Builder, dst: Operand, src: Operand) -> None:
    c.emit("xput64_0", dst.code, get64(c, src.code, 1))


@insn("NP 0F 16 Vx,Ux", gate="sse")
def movlhps(c: Builder, dst: Operand, src: Operand) -> None:
    c.emit("punpcklqdq", dst.code, dst.code, src.code)


@insn("F2 0F 12 Vx,Wq", gate="sse")
def movddup(c: Builder, dst: Operand, src: Operand) -> None:
    value = c.load(64) if src.memory else get64(c, src.code, 0)
    c.emit("xset", dst.code, value, value)


declare("movsldup", "F3 0F 12 Vx,Wx", _unary(f"pshufd_{0b10_10_00_00}"), gate="sse")
declare("movshdup", "F3 0F 16 Vx,Wx", _unary(f"pshufd_{0b11_11_01_01}"), gate="sse")


@insn("66 0F 6E Vx,Ey", gate="sse", name="movd")
def movd_load(c: Builder, dst: Operand, src: Operand) -> None:
    value = c.value(src)
    if src.width == 32 and not src.memory:
        value = c.zext(value, 32)
    c.emit("xset64", dst.code, value)


@insn("66 0F 7E Ey,Vx", gate="sse", name="movd")
def movd_store(c: Builder, dst: Operand, src: Operand) -> None:
    value = c.temp()
    c.emit(f"xget{dst.width}_0", value, src.code)
    c.write(dst, value)


@insn("F3 0F 7E Vx,Wq", gate="sse", name="movq")
def movq_load(c: Builder, dst: Operand, src: Operand) -> None:
    c.emit("xset64", dst.code, c.load(64) if src.memory else get64(c, src.code, 0))


@insn("66 0F D6 Wq,Vx", gate="sse", name="movq")
def movq_store(c: Builder, dst: Operand, src: Operand) -> None:
    value = get64(c, src.code, 0)
    if dst.memory:
        c.store(64, value)
    else:
        c.emit("xset64", dst.code, value)


@insn("NP 0F C3 My,Gy")
def movnti(c: Builder, dst: Operand, src: Operand) -> None:
    c.write(dst, c.read(src))


# ---------------------------------------------------------------------- lanes
def _insert(bits: int) -> Body:
    def body(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
        value = c.value(src)
        choose(c, f"xput{bits}_0", dst.code, value, mask=128 // bits - 1)

    return body


def _extract(bits: int) -> Body:
    def body(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
        value = c.temp()
        choose(c, f"xget{bits}_0", value, src.code, mask=128 // bits - 1)
        if dst.memory:
            c.store(bits, value)
        else:
            c.mov(value, dst.code)

    return body


def _by_width(make: Callable[[int], Body]) -> Body:
    """PEXTRD and PEXTRQ (PINSRD, PINSRQ) differ in REX.W only."""

    def body(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
        make(64 if c.opsize == 64 else 32)(c, dst, src, immediate)

    return body


declare("pinsrw", "66 0F C4 Vx,Rd,Ib", _insert(16), gate="sse")
declare("pinsrw", "66 0F C4 Vx,Mw,Ib", _insert(16), gate="sse")
declare("pextrw", "66 0F C5 Gd,Ux,Ib", _extract(16), gate="sse")
declare("pinsrb", "66 0F 3A 20 Vx,Rd,Ib", _insert(8), gate="sse")
declare("pinsrb", "66 0F 3A 20 Vx,Mb,Ib", _insert(8), gate="sse")
declare("pinsrd", "66 0F 3A 22 Vx,Ey,Ib", _by_width(_insert), gate="sse")
declare("pextrb", "66 0F 3A 14 Rd,Vx,Ib", _extract(8), gate="sse")
declare("pextrb", "66 0F 3A 14 Mb,Vx,Ib", _extract(8), gate="sse")
declare("pextrw", "66 0F 3A 15 Rd,Vx,Ib", _extract(16), gate="sse")
declare("pextrw", "66 0F 3A 15 Mw,Vx,Ib", _extract(16), gate="sse")
declare("pextrd", "66 0F 3A 16 Ey,Vx,Ib", _by_width(_extract), gate="sse")
declare("extractps", "66 0F 3A 17 Ed,Vx,Ib", _extract(32), gate="sse")


def _blend_by_xmm0(op: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.emit(op, dst.code, source(c, src), 0)

    return body


for _opcode, _name in ((0x10, "pblendvb"), (0x14, "blendvps"), (0x15, "blendvpd")):
    declare(_name, f"66 0F 38 {_opcode:02X} Vx,Wx", _blend_by_xmm0(_name), gate="sse")


# ---------------------------------------------------------------------- rare ones, by helper
def _source_number(c: Builder, src: Operand, aligned: bool = True) -> int:
    """Number of the xmm register that holds the operand, in a temporary."""
    if src.memory:
        return c.movi(source(c, src, aligned))
    return c.movi(Imm(IMM_RMNUM))


def _by_helper(name: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
        number = _source_number(c, src)
        c.call(name, c.movi(Imm(IMM_REGNUM)), number, Imm(IMM_IMM))

    return body


for _opcode, _name, _extra in ((0x0E, "pblendw", {}), (0x40, "dpps", FP), (0x41, "dppd", FP), (0x42, "mpsadbw", {})):
    declare(_name, f"66 0F 3A {_opcode:02X} Vx,Wx,Ib", _by_helper(_name), gate="sse", extra=dict(_extra))


@insn("66 0F 3A 21 Vx,Wd,Ib", gate="sse")
def insertps(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
    """A memory operand is one float: the helper takes lane 0 when the source is a scratch register."""
    number = _source_number(c, src)
    c.call("insertps", c.movi(Imm(IMM_REGNUM)), number, Imm(IMM_IMM))


def _string(name: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
        number = _source_number(c, src, aligned=False)
        if c.opsize == 64:
            c.op("or64", number, c.const(0x100), number)
        c.set_eflags(c.call(name, c.movi(Imm(IMM_REGNUM)), number, Imm(IMM_IMM)))

    return body


for _opcode, _name in enumerate(("pcmpestrm", "pcmpestri", "pcmpistrm", "pcmpistri"), 0x60):
    declare(_name, f"66 0F 3A {_opcode:02X} Vx,Wx,Ib", _string(_name), gate="sse")


@insn("66 0F F7 Vx,Ux", gate="sse")
def maskmovdqu(c: Builder, data: Operand, mask: Operand) -> None:
    c.call("maskmovdqu", c.movi(Imm(IMM_REGNUM)), c.movi(Imm(IMM_RMNUM)), Imm(IMM_STRING))


@insn("F2 0F 38 F0 Gy,Eb", "F2 0F 38 F1 Gy,Ev")
def crc32(c: Builder, dst: Operand, src: Operand) -> None:
    c.call("crc32", dst.code, c.value(src), src.width // 8, d=dst.code)


# ---------------------------------------------------------------------- state and fences
@insn("NP 0F AE /2 Md", gate="sse")
def ldmxcsr(c: Builder, src: Operand) -> None:
    c.call("ldmxcsr", c.load(32))
    c.exit_next()


@insn("NP 0F AE /3 Md", gate="sse")
def stmxcsr(c: Builder, dst: Operand) -> None:
    c.store(32, c.call("stmxcsr"))


def _area(name: str, restores: bool) -> Body:
    def body(c: Builder, area: Operand) -> None:
        size = 576 if name.startswith("x") else 512
        c.call(name, c.address(size=size, write=not restores), imm=int(c.opsize == 64))
        if restores:
            c.exit_next()

    return body


# The gate of the FXSAVE area is that of x87: it needs no CR4.OSFXSR.
declare("fxsave", "NP 0F AE /0 Ms", _area("fxsave", False), gate="x87")
declare("fxrstor", "NP 0F AE /1 Ms", _area("fxrstor", True), gate="x87")
declare("xsave", "NP 0F AE /4 Ms", _area("xsave", False))
declare("xrstor", "NP 0F AE /5 Ms", _area("xrstor", True))


def _fence(c: Builder) -> None:
    c.call("memory_fence")


def _nothing(c: Builder) -> None:
    """x86 hosts order loads and stores as x86 guests expect."""


declare("lfence", "NP 0F AE /5", _nothing, extra={"reg": True})
declare("mfence", "NP 0F AE /6", _fence, extra={"reg": True})
declare("sfence", "NP 0F AE /7", _nothing, extra={"reg": True})
