"""MMX, and the instructions of SSE to SSSE3 on mmx registers.

An mmx register is the mantissa of a physical x87 register. Its value is moved into the low half of a
scratch xmm register, the xmm uop does the work, and the low half is moved back: lanes do not
depend on each other, except for the few bodies below that first put both operands side by side.

Source: SDM volume 1, chapter 9; volume 2, by mnemonic.
"""

from __future__ import annotations

from manor.engine.isa.x86.declare import Body, declare, insn
from manor.engine.isa.x86.sse import (
    ABSOLUTE,
    FP,
    PACKED_INTEGER,
    PACKED_SSSE3,
    S0,
    S1,
    SHIFT_GROUPS,
    choose,
    get64,
    load128,
)
from manor.engine.isa.x86.template import IMM_IMM, IMM_REGNUM, IMM_RMNUM, IMM_STRING, Builder, Imm, Operand

SIDE_BY_SIDE = frozenset(
    ("packsswb", "packssdw", "packuswb", "phaddw", "phaddd", "phaddsw", "phsubw", "phsubd", "phsubsw")
)
"""The low half of f(b:a, b:a) is the result for 64-bit a and b."""


def _get(c: Builder, number: int) -> int:
    """mmx register `number` (an immediate code); checks for a pending x87 exception and enters MMX mode."""
    return c.call("mmx_get", imm=Imm(number))


def _put(c: Builder, number: int, value: int) -> None:
    c.call("mmx_put", value, imm=Imm(number))


def _source(c: Builder, src: Operand, number: int = IMM_RMNUM) -> int:
    """Value of a P, Q or N operand. A memory operand is read before anything changes."""
    return c.load(src.width) if src.memory else _get(c, number)


def _low_interleave(c: Builder, src: Operand) -> int:
    """PUNPCKL reads only 32 bits of a memory operand."""
    return c.load(32) if src.memory else _get(c, IMM_RMNUM)


def _binary(name: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        low = name.startswith("punpckl")
        high = name.startswith("punpckh")
        b = _low_interleave(c, src) if low else _source(c, src)
        a = _get(c, IMM_REGNUM)
        if name in SIDE_BY_SIDE:
            c.emit("xset", S0, a, b)
            c.emit(name, S0, S0, S0)
        else:
            if name == "pshufb":  # indexes modulo 8
                mask = c.movi(0x8787_8787_8787_8787)
                b = c.op("and64", b, mask)
            c.emit("xset64", S0, a)
            c.emit("xset64", S1, b)
            c.emit(name.replace("punpckh", "punpckl"), S0, S0, S1)
        _put(c, IMM_REGNUM, get64(c, S0, 1 if high else 0))

    return body


def _unary(name: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.emit("xset64", S0, _enter_and_source(c, src))
        c.emit(name, S0, S0)
        _put(c, IMM_REGNUM, get64(c, S0, 0))

    return body


def _enter_and_source(c: Builder, src: Operand) -> int:
    if src.memory:
        value = c.load(src.width)
        c.call("mmx_enter")
        return value
    return _get(c, IMM_RMNUM)


for _opcode, _name in PACKED_INTEGER.items():
    declare(_name, f"NP 0F {_opcode:02X} Pq,Qq", _binary(_name), gate="mmx")
for _opcode, _name in PACKED_SSSE3.items():
    declare(_name, f"NP 0F 38 {_opcode:02X} Pq,Qq", _binary(_name), gate="mmx")
for _opcode, _name in ABSOLUTE.items():
    declare(_name, f"NP 0F 38 {_opcode:02X} Pq,Qq", _unary(_name), gate="mmx")


def _shift_immediate(op: str) -> Body:
    def body(c: Builder, dst: Operand, immediate: Operand) -> None:
        c.emit("xset64", S0, _get(c, IMM_RMNUM))
        c.emit(op, S0, S0, imm=Imm(IMM_IMM))
        _put(c, IMM_RMNUM, get64(c, S0, 0))

    return body


for _opcode, _digit, _name in SHIFT_GROUPS:
    declare(_name, f"NP 0F {_opcode:02X} /{_digit} Nq,Ib", _shift_immediate(_name + "i"), gate="mmx")


@insn("NP 0F 70 Pq,Qq,Ib", gate="mmx")
def pshufw(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
    c.emit("xset64", S0, _enter_and_source(c, src))
    choose(c, "pshuflw_0", S0, S0)
    _put(c, IMM_REGNUM, get64(c, S0, 0))


@insn("NP 0F 3A 0F Pq,Qq,Ib", gate="mmx")
def palignr(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
    b = _source(c, src)
    c.emit("xset", S0, b, _get(c, IMM_REGNUM))
    choose(c, "psrldq_0", S0, S0, mask=0xFF, most=16)
    _put(c, IMM_REGNUM, get64(c, S0, 0))


@insn("NP 0F 6E Pq,Ey", gate="mmx", name="movd")
def movd_load(c: Builder, dst: Operand, src: Operand) -> None:
    value = c.value(src)
    if src.width == 32 and not src.memory:
        value = c.zext(value, 32)
    c.call("mmx_enter")
    _put(c, IMM_REGNUM, value)


@insn("NP 0F 7E Ey,Pq", gate="mmx", name="movd")
def movd_store(c: Builder, dst: Operand, src: Operand) -> None:
    value = c.call("mmx_peek", imm=Imm(IMM_REGNUM))
    c.write(dst, value if dst.width == 64 else c.zext(value, 32))
    c.call("mmx_enter")


@insn("NP 0F 6F Pq,Qq", gate="mmx", name="movq")
def movq_load(c: Builder, dst: Operand, src: Operand) -> None:
    _put(c, IMM_REGNUM, _enter_and_source(c, src))


@insn("NP 0F 7F Qq,Pq", "NP 0F E7 Mq,Pq", gate="mmx", name="movq")
def movq_store(c: Builder, dst: Operand, src: Operand) -> None:
    if dst.memory:
        c.store(64, c.call("mmx_peek", imm=Imm(IMM_REGNUM)))
        c.call("mmx_enter")
    else:
        _put(c, IMM_RMNUM, _get(c, IMM_REGNUM))


@insn("F3 0F D6 Vx,Nq", gate="mmx")
def movq2dq(c: Builder, dst: Operand, src: Operand) -> None:
    c.emit("xset64", dst.code, _get(c, IMM_RMNUM))


@insn("F2 0F D6 Pq,Ux", gate="mmx")
def movdq2q(c: Builder, dst: Operand, src: Operand) -> None:
    c.call("mmx_enter")
    _put(c, IMM_REGNUM, get64(c, src.code, 0))


@insn("NP 0F D7 Gd,Nq", gate="mmx")
def pmovmskb(c: Builder, dst: Operand, src: Operand) -> None:
    c.emit("xset64", S0, _get(c, IMM_RMNUM))
    c.emit("pmovmskb", dst.code, S0)


def _insert_word(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
    value = c.value(src)
    c.emit("xset64", S0, _get(c, IMM_REGNUM))
    choose(c, "xput16_0", S0, value, mask=3)
    _put(c, IMM_REGNUM, get64(c, S0, 0))


declare("pinsrw", "NP 0F C4 Pq,Rd,Ib", _insert_word, gate="mmx")
declare("pinsrw", "NP 0F C4 Pq,Mw,Ib", _insert_word, gate="mmx")


@insn("NP 0F C5 Gd,Nq,Ib", gate="mmx")
def pextrw(c: Builder, dst: Operand, src: Operand, immediate: Operand) -> None:
    c.emit("xset64", S0, _get(c, IMM_RMNUM))
    choose(c, "xget16_0", dst.code, S0, mask=3)


@insn("NP 0F F7 Pq,Nq", gate="mmx")
def maskmovq(c: Builder, data: Operand, mask: Operand) -> None:
    """Unlike other stores, it has entered MMX mode when it faults: so do Intel's and AMD's processors."""
    data_value = _get(c, IMM_REGNUM)
    mask_value = _get(c, IMM_RMNUM)
    c.call("maskmovq", data_value, mask_value, Imm(IMM_STRING))


@insn("NP 0F 77", gate="mmx")
def emms(c: Builder) -> None:
    c.call("emms")


# ---------------------------------------------------------------------- conversions to and from xmm
@insn("NP 0F 2A Vx,Qq", gate="mmx", extra=FP)
def cvtpi2ps(c: Builder, dst: Operand, src: Operand) -> None:
    """From memory it does not touch the x87 state."""
    c.emit("xset64", S0, c.load(64) if src.memory else _get(c, IMM_RMNUM))
    c.emit("cvtdq2ps", S0, S0)
    c.emit("xmove64", dst.code, S0)


@insn("66 0F 2A Vx,Qq", gate="sse", extra=FP)
def cvtpi2pd(c: Builder, dst: Operand, src: Operand) -> None:
    """From memory it does not touch the x87 state."""
    c.emit("xset64", S0, c.load(64) if src.memory else _get(c, IMM_RMNUM))
    c.emit("cvtdq2pd", dst.code, S0)


def _to_mmx(op: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        if src.memory and src.width == 128:
            x = load128(c)
        elif src.memory:
            c.emit("xset64", S0, c.load(64))
            x = S0
        elif src.width == 64:  # without the upper half: its conversion must raise no flags
            c.emit("xset64", S0, get64(c, src.code, 0))
            x = S0
        else:
            x = src.code
        c.call("mmx_enter")
        c.emit(op, S0, x)
        c.call("mmx_put_converted", get64(c, S0, 0), imm=Imm(IMM_REGNUM))

    return body


for _prefix, _suffix, _size in (("NP", "ps2", "q"), ("66", "pd2", "x")):
    for _opcode, _t in ((0x2C, "t"), (0x2D, "")):
        declare(
            f"cvt{_t}{_suffix}pi", f"{_prefix} 0F {_opcode:02X} Pq,W{_size}", _to_mmx(f"cvt{_t}{_suffix}dq"),
            gate="mmx", extra=FP,
        )  # fmt: skip
