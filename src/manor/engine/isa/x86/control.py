"""Jumps, calls, returns and loops. Source: SDM volume 2, chapters 3 to 5, by mnemonic."""

from __future__ import annotations

from manor.engine.env import RCX
from manor.engine.isa.x86.declare import Body, declare, insn
from manor.engine.isa.x86.template import (
    IMM_ADDRESS_MASK,
    IMM_IMM,
    IMM_LENGTH,
    IMM_NEXT,
    IMM_TARGET,
    Builder,
    Imm,
    Operand,
)


@insn("EB Jb", "E9 Jz", default64=True)
def jmp(c: Builder, target: Operand) -> None:
    c.check_target(Imm(IMM_TARGET))
    c.jump(Imm(IMM_TARGET))


@insn("E8 Jz", default64=True)
def call(c: Builder, target: Operand) -> None:
    c.push(c.movi(Imm(IMM_NEXT)), c.opsize, target=Imm(IMM_TARGET))
    c.jump(Imm(IMM_TARGET))


def _target(c: Builder, operand: Operand) -> int:
    value = c.read(operand)
    assert isinstance(value, int)
    return c.zext(value, operand.width, c.temp())


@insn("FF /4 Ev", default64=True, name="jmp")
def jmp_indirect(c: Builder, target: Operand) -> None:
    destination = _target(c, target)
    c.check_target(destination)
    c.jump_indirect(destination)


@insn("FF /2 Ev", default64=True, name="call")
def call_indirect(c: Builder, target: Operand) -> None:
    destination = _target(c, target)
    c.push(c.movi(Imm(IMM_NEXT)), c.opsize, target=destination)
    c.jump_indirect(destination, -c.opsize // 8)


@insn("C3", default64=True)
def ret(c: Builder) -> None:
    target = c.peek(c.opsize)
    c.check_target(target)
    c.drop(c.opsize // 8)
    c.jump_indirect(target, c.opsize // 8)


@insn("C2 Iw", default64=True, name="ret")
def ret_immediate(c: Builder, extra: Operand) -> None:
    target = c.peek(c.opsize)
    c.check_target(target)
    size = Imm(IMM_IMM, constant=c.opsize // 8)
    c.drop(size)
    c.jump_indirect(target, size)


# ---------------------------------------------------------------------- far transfers
@insn("EA Av", mode="legacy", name="jmp")
def jmp_far(c: Builder, target: Operand) -> None:
    from manor.engine.isa.x86.template import IMM_IMM2

    c.call("far_jump", a=c.movi(Imm(IMM_IMM2)), b=c.movi(Imm(IMM_IMM)), imm=Imm(IMM_LENGTH, c.opsize // 8, 8))
    c.exit()


@insn("9A Av", mode="legacy", name="call")
def call_far(c: Builder, target: Operand) -> None:
    from manor.engine.isa.x86.template import IMM_IMM2

    c.call("far_call", a=c.movi(Imm(IMM_IMM2)), b=c.movi(Imm(IMM_IMM)), imm=Imm(IMM_LENGTH, c.opsize // 8, 8))
    c.exit()


def _far_indirect(helper: str) -> Body:
    def body(c: Builder, target: Operand) -> None:
        size = c.opsize // 8
        offset = c.load(c.opsize)
        selector = c.load(16, offset=size)
        c.call(helper, a=selector, b=offset, imm=Imm(IMM_LENGTH, size, 8))
        c.exit()

    return body


declare("jmp", "FF /5 Ms", _far_indirect("far_jump"))
declare("call", "FF /3 Ms", _far_indirect("far_call"))


@insn("CB", name="retf")
def retf(c: Builder) -> None:
    c.call("far_return", imm=c.opsize // 8)
    c.exit()


@insn("CA Iw", name="retf")
def retf_immediate(c: Builder, size: Operand) -> None:
    c.call("far_return", imm=Imm(IMM_IMM, c.opsize // 8, 16))
    c.exit()


@insn("CF")
def iret(c: Builder) -> None:
    c.call("iret", imm=Imm(IMM_LENGTH, c.opsize // 8, 8))
    c.exit()


# ---------------------------------------------------------------------- loops
def _loop(condition: int | None) -> Body:
    """LOOP, LOOPE, LOOPNE: count down the counter of the address size; flags stay."""

    def body(c: Builder, target: Operand) -> None:
        mask = Imm(IMM_ADDRESS_MASK)
        count = c.op("and64", c.op("sub64", RCX, c.const(1)), mask)
        taken = c.op("set_ne64_", count, c.const(0))
        if condition is not None:
            taken = c.op("and64", taken, c.condition(condition))
        c.check_target(Imm(IMM_TARGET), taken)
        c.call("set_counter", a=count, imm=mask)
        c.branch_if("br_ne64", taken, c.const(0))

    return body


for _opcode, _name, _condition in ((0xE0, "loopne", 5), (0xE1, "loope", 4), (0xE2, "loop", None)):
    declare(_name, f"{_opcode:02X} Jb", _loop(_condition), default64=True)


@insn("E3 Jb", default64=True)
def jrcxz(c: Builder, target: Operand) -> None:
    taken = c.op("set_eq64_", c.op("and64", RCX, Imm(IMM_ADDRESS_MASK)), c.const(0))
    c.check_target(Imm(IMM_TARGET), taken)
    c.branch_if("br_ne64", taken, c.const(0), Imm(IMM_TARGET))
