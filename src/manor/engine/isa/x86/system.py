"""System instructions: segments, descriptor tables, control registers, flags, I/O, MSRs, system calls.

The work is done by native helpers (`system_helpers`); a body says which, with what operands, and whether
the block may go on. Source: SDM volume 2, chapters 3 to 5, by mnemonic.
"""

from __future__ import annotations

from typing import Final

from manor.engine.env import RAX, RDX
from manor.engine.isa.x86.declare import Body, declare, insn
from manor.engine.isa.x86.template import (
    IMM_IMM,
    IMM_LENGTH,
    IMM_REGNUM,
    IMM_STRING,
    Builder,
    Imm,
    Operand,
)

ES, CS, SS, DS, FS, GS = range(6)
_VECTOR_UD: Final = 6


def _length(size: int = 0) -> Imm:
    """imm of a helper: operand size in bytes, instruction length in bits 8-15."""
    return Imm(IMM_LENGTH, size, 8)


# ---------------------------------------------------------------------- plain: one helper, and how it ends
def _stay(helper: str) -> Body:
    def body(c: Builder) -> None:
        c.call(helper)

    return body


def _next(helper: str) -> Body:
    """Modes, flags or memory changed: the dispatcher looks before the next instruction."""

    def body(c: Builder) -> None:
        c.call(helper)
        c.exit_next()

    return body


def _leave(helper: str) -> Body:
    """The helper sets RIP."""

    def body(c: Builder) -> None:
        c.call(helper, imm=_length(8 if c.opsize == 64 else 4))
        c.exit()

    return body


for _helper, _encoding in (
    ("wbinvd", "0F 09"), ("invd", "0F 08"), ("cli", "FA"), ("rdtsc", "0F 31"), ("rdpmc", "0F 33"),
    ("cpuid", "0F A2"), ("rdmsr", "0F 32"), ("xgetbv", "NP 0F 01 /2 rm=0"), ("rdtscp", "0F 01 /7 rm=1"),
):  # fmt: skip
    declare(_helper, _encoding, _stay(_helper))
for _helper, _encoding in (
    ("clts", "0F 06"), ("sti", "FB"), ("wrmsr", "0F 30"), ("xsetbv", "NP 0F 01 /2 rm=1"),
    ("clac", "NP 0F 01 /1 rm=2"), ("stac", "NP 0F 01 /1 rm=3"),
):  # fmt: skip
    declare(_helper, _encoding, _next(_helper))
for _helper, _encoding in (
    ("syscall", "0F 05"), ("sysret", "0F 07"), ("sysenter", "0F 34"), ("sysexit", "0F 35"), ("hlt", "F4"),
    ("int3", "CC"), ("int1", "F1"),
):  # fmt: skip
    declare(_helper, _encoding, _leave(_helper))
declare("into", "CE", _leave("into"), mode="legacy")
declare("swapgs", "0F 01 /7 rm=0", _stay("swapgs"), mode="64")


@insn("CD Ib", name="int")
def int_n(c: Builder, vector: Operand) -> None:
    c.call("int_n", a=c.movi(Imm(IMM_IMM)), imm=_length())
    c.exit()


@insn("62 Gv,Ms", mode="legacy")
def bound(c: Builder, index: Operand, bounds: Operand) -> None:
    c.call("bound", a=c.address(size=c.opsize // 4), b=c.value(index), imm=c.opsize // 8)


@insn("0F 0B", name="ud2")
def ud2(c: Builder) -> None:
    c.call("raise", a=c.movi(0), imm=_VECTOR_UD)
    c.exit()


@insn("0F B9 Gv,Ev", "0F FF Gv,Ev")
def ud(c: Builder, a: Operand, b: Operand) -> None:
    c.call("raise", a=c.movi(0), imm=_VECTOR_UD)
    c.exit()


# ---------------------------------------------------------------------- segment registers
def _load_segment(c: Builder, selector: int, seg: int) -> None:
    c.call("load_segment", a=selector, imm=seg)


def _after_segment(c: Builder, seg: int) -> None:
    """In 64-bit mode only SS matters to what follows (it holds interrupts off)."""
    if seg == SS or not c.mode64:
        c.exit_next()


def _mov_to_segment(seg: int) -> Body:
    def body(c: Builder, src: Operand) -> None:
        _load_segment(c, c.value(src), seg)
        _after_segment(c, seg)

    return body


def _mov_from_segment(seg: int) -> Body:
    def body(c: Builder, dst: Operand) -> None:
        selector = c.call("read_segment", imm=seg)
        if dst.memory:
            c.store(16, selector)
        else:
            c.write(dst, selector)

    return body


def _push_segment(seg: int) -> Body:
    def body(c: Builder) -> None:
        # With 32 bits, recent processors move 16 and leave the upper half of the cell alone (SDM, PUSH).
        c.push(c.call("read_segment", imm=seg), c.opsize, stored=16 if c.opsize == 32 else 0)

    return body


def _pop_segment(seg: int) -> Body:
    def body(c: Builder) -> None:
        _load_segment(c, c.peek(16 if c.opsize == 32 else c.opsize), seg)
        c.drop(c.opsize // 8)
        _after_segment(c, seg)

    return body


def _load_pointer(seg: int) -> Body:
    """LDS and its kind: offset, then selector, from memory."""

    def body(c: Builder, dst: Operand, src: Operand) -> None:
        offset = c.load(c.opsize)
        selector = c.load(16, offset=c.opsize // 8)
        _load_segment(c, selector, seg)
        c.write(dst, offset)
        _after_segment(c, seg)

    return body


for _seg in range(6):
    declare("mov", f"8C /{_seg} Ev", _mov_from_segment(_seg))
    if _seg != CS:
        declare("mov", f"8E /{_seg} Ew", _mov_to_segment(_seg))
for _seg, _push, _pop in ((ES, "06", "07"), (CS, "0E", ""), (SS, "16", "17"), (DS, "1E", "1F")):
    declare("push", _push, _push_segment(_seg), mode="legacy")
    if _pop:
        declare("pop", _pop, _pop_segment(_seg), mode="legacy")
for _seg, _push, _pop in ((FS, "0F A0", "0F A1"), (GS, "0F A8", "0F A9")):
    declare("push", _push, _push_segment(_seg), default64=True)
    declare("pop", _pop, _pop_segment(_seg), default64=True)
for _seg, _name, _encoding, _mode in (
    (ES, "les", "C4", "legacy"), (DS, "lds", "C5", "legacy"),
    (SS, "lss", "0F B2", "any"), (FS, "lfs", "0F B4", "any"), (GS, "lgs", "0F B5", "any"),
):  # fmt: skip
    declare(_name, f"{_encoding} Gv,Ms", _load_pointer(_seg), mode=_mode)


def _read_base(helper: str) -> Body:
    def body(c: Builder, dst: Operand) -> None:
        c.write(dst, c.call(helper, imm=dst.width // 8))

    return body


def _write_base(helper: str) -> Body:
    def body(c: Builder, src: Operand) -> None:
        c.call(helper, a=c.value(src), imm=src.width // 8)

    return body


declare("rdfsbase", "F3 0F AE /0 Ry", _read_base("rdfsbase"), mode="64")
declare("rdgsbase", "F3 0F AE /1 Ry", _read_base("rdgsbase"), mode="64")
declare("wrfsbase", "F3 0F AE /2 Ry", _write_base("wrfsbase"), mode="64")
declare("wrgsbase", "F3 0F AE /3 Ry", _write_base("wrgsbase"), mode="64")


# ---------------------------------------------------------------------- descriptor tables
def _table(helper: str, load: bool) -> Body:
    def body(c: Builder, operand: Operand) -> None:
        c.call(helper, a=c.address(size=10 if c.mode64 else 6, write=not load), imm=8 if c.mode64 else c.opsize // 8)
        if load:
            c.exit_next()

    return body


declare("sgdt", "0F 01 /0 Ms", _table("sgdt", False))
declare("sidt", "0F 01 /1 Ms", _table("sidt", False))
declare("lgdt", "0F 01 /2 Ms", _table("lgdt", True))
declare("lidt", "0F 01 /3 Ms", _table("lidt", True))


def _store_word(helper: str) -> Body:
    """SLDT, STR, SMSW: 16 bits to memory, the operand size to a register."""

    def body(c: Builder, dst: Operand) -> None:
        value = c.call(helper)
        if dst.memory:
            c.store(16, value)
        else:
            c.write(dst, value)

    return body


def _from_word(helper: str, ends: bool) -> Body:
    def body(c: Builder, src: Operand) -> None:
        c.call(helper, a=c.value(src))
        if ends:
            c.exit_next()

    return body


declare("sldt", "0F 00 /0 Ev", _store_word("sldt"))
declare("str", "0F 00 /1 Ev", _store_word("str"))
declare("lldt", "0F 00 /2 Ew", _from_word("lldt", True), extra={"cpl0": True})
declare("ltr", "0F 00 /3 Ew", _from_word("ltr", True), extra={"cpl0": True})
declare("verr", "0F 00 /4 Ew", _from_word("verr", False))
declare("verw", "0F 00 /5 Ew", _from_word("verw", False))
declare("smsw", "0F 01 /4 Ev", _store_word("smsw"))
declare("lmsw", "0F 01 /6 Ew", _from_word("lmsw", True), extra={"cpl0": True})


def _descriptor_question(helper: str) -> Body:
    """LAR, LSL: the helper returns the whole destination register, unchanged when ZF is clear."""

    def body(c: Builder, dst: Operand, src: Operand) -> None:
        result = c.call(helper, a=c.value(src), b=dst.code, imm=c.opsize // 8)
        c.mov(result, dst.code)

    return body


declare("lar", "0F 02 Gv,Ew", _descriptor_question("lar"))
declare("lsl", "0F 03 Gv,Ew", _descriptor_question("lsl"))


@insn("63 Ew,Gw", mode="legacy")
def arpl(c: Builder, dst: Operand, src: Operand) -> None:
    """Memory is written only when the RPL rises, as the manual has it: a selector in a read-only page may stay."""
    if dst.memory:
        c.call("arpl_memory", a=c.address(size=2, write=True), b=c.value(src))
    else:
        c.write(dst, c.call("arpl", a=c.value(dst), b=c.value(src)))


@insn("0F 01 /7 Ms")
def invlpg(c: Builder, operand: Operand) -> None:
    c.call("invlpg", a=c.address())
    c.exit_next()


@insn("NP 0F AE /7 Mb")
def clflush(c: Builder, operand: Operand) -> None:
    c.call("clflush", a=c.address(size=1))


# ---------------------------------------------------------------------- control and debug registers
def _read_special(helper: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.write(dst, c.call(helper, imm=Imm(IMM_REGNUM)))

    return body


def _write_special(helper: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        c.call(helper, a=c.value(src), imm=Imm(IMM_REGNUM))
        c.exit_next()

    return body


for _size, _mode in (("q", "64"), ("d", "legacy")):
    declare("mov", f"0F 20 R{_size},C{_size}", _read_special("read_cr"), mode=_mode)
    declare("mov", f"0F 22 C{_size},R{_size}", _write_special("write_cr"), mode=_mode)
    declare("mov", f"0F 21 R{_size},D{_size}", _read_special("read_dr"), mode=_mode)
    declare("mov", f"0F 23 D{_size},R{_size}", _write_special("write_dr"), mode=_mode)


# ---------------------------------------------------------------------- flags
@insn("9C", default64=True)
def pushf(c: Builder) -> None:
    c.push(c.call("read_flags", imm=c.opsize // 8), c.opsize)


@insn("9D", default64=True)
def popf(c: Builder) -> None:
    c.call("write_flags", a=c.peek(c.opsize), imm=c.opsize // 8)
    c.drop(c.opsize // 8)
    c.exit_next()


# ---------------------------------------------------------------------- ports
def _port(c: Builder, immediate: bool) -> int:
    return c.op("and64", c.movi(Imm(IMM_IMM)), c.const(0xFF)) if immediate else RDX


def _in(byte: bool, immediate: bool) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        width = 8 if byte else min(c.opsize, 32)
        value = c.call("in_port", a=_port(c, immediate), imm=width // 8)
        c.write_register(RAX, width, value)

    return body


def _out(byte: bool, immediate: bool) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        width = 8 if byte else min(c.opsize, 32)
        c.call("out_port", a=_port(c, immediate), b=RAX, imm=width // 8)

    return body


declare("in", "E4 AL,Ib", _in(True, True))
declare("in", "E5 eAX,Ib", _in(False, True))
declare("in", "EC AL,DX", _in(True, False))
declare("in", "ED eAX,DX", _in(False, False))
declare("out", "E6 Ib,AL", _out(True, True))
declare("out", "E7 Ib,eAX", _out(False, True))
declare("out", "EE DX,AL", _out(True, False))
declare("out", "EF DX,eAX", _out(False, False))


def _port_string(helper: str, byte: bool) -> Body:
    def body(c: Builder) -> None:
        c.call(helper, imm=Imm(IMM_STRING, 1 if byte else min(c.opsize, 32) // 8))
        c.exit()

    return body


declare("ins", "6C", _port_string("ins", True))
declare("ins", "6D", _port_string("ins", False))
declare("outs", "6E", _port_string("outs", True))
declare("outs", "6F", _port_string("outs", False))
