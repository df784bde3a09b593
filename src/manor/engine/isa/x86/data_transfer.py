"""Moves, stack, addresses, conversions. Source: SDM volume 2, chapters 3 to 5, by mnemonic."""

from __future__ import annotations

from manor.engine.env import RAX, RBP, RBX, RDX, RSP
from manor.engine.isa.x86.declare import Body, declare, insn
from manor.engine.isa.x86.template import (
    ACCESS_STACK,
    EABASE,
    IMM_ADDRESS_MASK,
    IMM_DISP,
    IMM_IMM,
    IMM_IMM2,
    IMM_STRING,
    Builder,
    Imm,
    Operand,
)


@insn("88 Eb,Gb", "89 Ev,Gv", "8A Gb,Eb", "8B Gv,Ev", "B0+r Zb,Ib", "B8+r Zv,Iv", "C6 /0 Eb,Ib", "C7 /0 Ev,Iz")
def mov(c: Builder, dst: Operand, src: Operand) -> None:
    c.write(dst, c.read(src))


@insn("A0 AL,Ob", "A1 rAX,Ov", "A2 Ob,AL", "A3 Ov,rAX", name="mov")
def mov_offset(c: Builder, dst: Operand, src: Operand) -> None:
    c.write(dst, c.read(src))


@insn("0F B6 Gv,Eb", "0F B7 Gv,Ew")
def movzx(c: Builder, dst: Operand, src: Operand) -> None:
    value = c.read(src)
    assert isinstance(value, int)
    extended = c.zext(value, src.width) if not src.memory else value
    if dst.width >= 32:
        c.mov(extended, dst.code)
    else:
        c.write(dst, extended)


@insn("0F BE Gv,Eb", "0F BF Gv,Ew")
def movsx(c: Builder, dst: Operand, src: Operand) -> None:
    _sign_extend(c, dst, src)


@insn("63 Gv,Ed", mode="64")
def movsxd(c: Builder, dst: Operand, src: Operand) -> None:
    _sign_extend(c, dst, src)


def _sign_extend(c: Builder, dst: Operand, src: Operand) -> None:
    value = c.read(src)
    assert isinstance(value, int)
    if dst.width == 64:
        c.op(f"sext{src.width}", value, d=dst.code)
    elif dst.width == 32 and src.width < 32:
        c.op(f"sext{src.width}to32", value, d=dst.code)
    else:
        c.write(dst, c.op(f"sext{src.width}", value) if src.width < dst.width else value)


@insn("8D Gv,Ms")
def lea(c: Builder, dst: Operand, src: Operand) -> None:
    address = c.op("and64", c.address(), Imm(IMM_ADDRESS_MASK))
    c.write(dst, address)




# ---------------------------------------------------------------------- conditional moves and sets
def _cmov(number: int) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        source = c.read(src)  # a memory source is read even if the condition does not hold
        assert isinstance(source, int)
        taken = c.condition(number)
        value = c.mov(dst.code)
        c.emit("selnz", value, source, taken)
        c.write(dst, value)

    return body


def _setcc(number: int) -> Body:
    def body(c: Builder, dst: Operand) -> None:
        c.write(dst, c.condition(number))

    return body


def _jcc(number: int) -> Body:
    def body(c: Builder, target: Operand) -> None:
        c.branch(number)

    return body


CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
for _number, _suffix in enumerate(CONDITIONS):
    declare("cmov" + _suffix, f"0F {0x40 + _number:02X} Gv,Ev", _cmov(_number))
    declare("set" + _suffix, f"0F {0x90 + _number:02X} Eb", _setcc(_number))
    declare("j" + _suffix, f"{0x70 + _number:02X} Jb", _jcc(_number), default64=True)
    declare("j" + _suffix, f"0F {0x80 + _number:02X} Jz", _jcc(_number), default64=True)


# ---------------------------------------------------------------------- stack
@insn("50+r Zv", default64=True)
def push(c: Builder, src: Operand) -> None:
    value = c.read(src)
    c.push(value, c.opsize)


@insn("68 Iz", "6A Ib", default64=True, name="push")
def push_immediate(c: Builder, src: Operand) -> None:
    c.push(Imm(IMM_IMM), c.opsize)


@insn("FF /6 Ev", default64=True, name="push")
def push_modrm(c: Builder, src: Operand) -> None:
    c.push(c.read(src), c.opsize)


@insn("58+r Zv", default64=True)
def pop(c: Builder, dst: Operand) -> None:
    value = c.pop(c.opsize)
    c.write(dst, value)


@insn("8F /0 Ev", default64=True, name="pop", extra={"pop_ea": True})
def pop_modrm(c: Builder, dst: Operand) -> None:
    value = c.peek(c.opsize)
    if dst.memory:
        # An address based on RSP uses RSP after the pop: the translator adds the size to DISP.
        c.write(dst, value)
        c.drop(c.opsize // 8)
    else:
        c.drop(c.opsize // 8)
        c.write(dst, value)


@insn("C9", default64=True)
def leave(c: Builder) -> None:
    if c.mode64:
        value = c.temp()
        c.emit(f"ld{c.opsize}", value, RBP, x=ACCESS_STACK)
        c.op("add64", RBP, c.const(c.opsize // 8), RSP)
        c.write_register(RBP, c.opsize, value)
        return
    c.call("leave", imm=c.opsize // 8)


@insn("C8 Iw,Ib", default64=True)
def enter(c: Builder, size: Operand, level: Operand) -> None:
    c.call("enter", a=c.movi(Imm(IMM_IMM)), b=c.movi(Imm(IMM_IMM2)), imm=c.opsize // 8)


@insn("60", mode="legacy")
def pusha(c: Builder) -> None:
    c.call("pusha", imm=c.opsize // 8)


@insn("61", mode="legacy")
def popa(c: Builder) -> None:
    c.call("popa", imm=c.opsize // 8)


# ---------------------------------------------------------------------- conversions and flags in AH
@insn("98")
def cbw(c: Builder) -> None:
    """CBW, CWDE, CDQE."""
    half = c.opsize // 2
    c.write_register(RAX, c.opsize, c.sext(RAX, half))


@insn("99")
def cwd(c: Builder) -> None:
    """CWD, CDQ, CQO."""
    sign = c.op("sar64", c.sext(RAX, c.opsize), c.const(63))
    c.write_register(RDX, c.opsize, sign)


@insn("9F")
def lahf(c: Builder) -> None:
    flags = c.op("or64", c.op("and64", c.eflags(), c.const(0xD5)), c.const(2))
    c.op("insert8h", RAX, flags, RAX)


@insn("9E")
def sahf(c: Builder) -> None:
    low = c.op("and64", c.op("extract8h", RAX), c.const(0xD5))
    c.set_eflags(c.op("or64", low, c.op("and64", c.eflags(), c.const(0x800))))


@insn("D7")
def xlat(c: Builder) -> None:
    c.call("xlat", imm=Imm(IMM_STRING))


def _carry_operation(c: Builder, mask: int, operation: str) -> None:
    c.set_eflags(c.op(operation, c.eflags(), c.const(mask)))


@insn("F8")
def clc(c: Builder) -> None:
    _carry_operation(c, ~1, "and64")


@insn("F9")
def stc(c: Builder) -> None:
    _carry_operation(c, 1, "or64")


@insn("F5")
def cmc(c: Builder) -> None:
    _carry_operation(c, 1, "xor64")


@insn("FC")
def cld(c: Builder) -> None:
    c.movi(1, 34)


@insn("FD")
def std(c: Builder) -> None:
    c.movi(-1, 34)


# ---------------------------------------------------------------------- nothing
def _nop(c: Builder, *operands: Operand) -> None:
    """Hints and no-operations; memory operands are not touched."""


declare("nop", "0F 1F Ev", _nop)
for _opcode in (0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E):
    declare("nop", f"0F {_opcode:02X} Ev", _nop)
declare("nop", "0F 0D Ev", _nop)
declare("nop", "90", _nop, extra={"nop90": True})


def _pause(c: Builder) -> None:
    """A spin-wait: the vCPU that it waits for may need this host processor."""
    c.call("pause")


declare("nop", "F3 90", _pause)

__all__ = ["EABASE", "IMM_DISP", "RBX", "RSP"]
