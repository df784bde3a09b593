"""The x87 instructions. Source: SDM volume 2, by mnemonic; opcode map appendix A.5."""

from __future__ import annotations

from manor.engine.env import RAX
from manor.engine.isa.x86.declare import Body, declare, insn
from manor.engine.isa.x86.template import IMM_FOP, Builder, Imm, Operand
from manor.engine.isa.x86.x87_ops import describe


def _register(description: int, condition: int | None = None, flags: bool = False) -> Body:
    """Register form: ModRM.rm names ST(i)."""

    def body(c: Builder) -> None:
        a = 0 if condition is None else c.condition(condition)
        result = c.call("x87", a=a, imm=Imm(IMM_FOP, description))
        if flags:
            c.set_eflags(result)

    return body


def _memory(description: int) -> Body:
    """The operand is loaded first, so a page fault changes nothing."""

    def body(c: Builder, source: Operand) -> None:
        c.call("x87", a=c.load(source.width), b=c.address(), imm=Imm(IMM_FOP, description))

    return body


def _address(description: int, size: int, write: bool) -> Body:
    def body(c: Builder, operand: Operand) -> None:
        c.call("x87_memory", a=c.address(size=size, write=write), imm=Imm(IMM_FOP, description))

    return body


def _reg(
    name: str, opcode: int, digit: int, description: int, condition: int | None = None, flags: bool = False
) -> None:
    declare(
        name, f"{opcode:02X} /{digit}", _register(description, condition, flags), gate="x87", extra={"reg": True},
    )  # fmt: skip


def _fixed(name: str, opcode: int, modrm: int, description: int) -> None:
    def body(c: Builder) -> None:
        c.call("x87", imm=Imm(IMM_FOP, description))

    encoding = f"{opcode:02X} /{modrm >> 3 & 7} rm={modrm & 7}"
    declare(name, encoding, body, gate="x87", extra={"reg": True})


# ---------------------------------------------------------------------- arithmetic and comparison
_SIZES = ((0xD8, "f32", "Md"), (0xDC, "f64", "Mq"), (0xDA, "i32", "Md"), (0xDE, "i16", "Mw"))
for _digit, _name in enumerate(("fadd", "fmul", "fcom", "fcomp", "fsub", "fsubr", "fdiv", "fdivr")):
    _compare = _name.startswith("fcom")
    for _opcode, _form, _operand in _SIZES:
        _text = _name if _form[0] == "f" else "fi" + _name[1:]
        if _compare:
            _what = describe("COMPARE_MEMORY", f"fcom_{_form}", pops=int(_name == "fcomp"))
        else:
            _what = describe("ARITHMETIC_MEMORY", f"{_name}_{_form}")
        declare(_text, f"{_opcode:02X} /{_digit} {_operand}", _memory(_what), gate="x87")
    if _compare:
        _reg(_name, 0xD8, _digit, describe("COMPARE", "fcom", pops=int(_name == "fcomp")))
        continue
    _reg(_name, 0xD8, _digit, describe("ARITHMETIC", _name))
    # DC and DE with destination ST(i): the digits of FSUB and FSUBR, FDIV and FDIVR are exchanged.
    _to = {4: 5, 5: 4, 6: 7, 7: 6}.get(_digit, _digit)
    _reg(_name, 0xDC, _to, describe("ARITHMETIC", _name, to_sti=True))
    _reg(_name + "p", 0xDE, _to, describe("ARITHMETIC", _name, to_sti=True, pops=1))
_reg("fcom", 0xDC, 2, describe("COMPARE", "fcom"))
_reg("fcomp", 0xDC, 3, describe("COMPARE", "fcom", pops=1))
_reg("fcomp", 0xDE, 2, describe("COMPARE", "fcom", pops=1))
_fixed("fcompp", 0xDE, 0xD9, describe("COMPARE", "fcom", pops=2))
_fixed("fucompp", 0xDA, 0xE9, describe("COMPARE", "fucom", pops=2))
_reg("fucom", 0xDD, 4, describe("COMPARE", "fucom"))
_reg("fucomp", 0xDD, 5, describe("COMPARE", "fucom", pops=1))
_reg("fcomi", 0xDB, 6, describe("COMPARE_FLAGS", "fcom"), flags=True)
_reg("fucomi", 0xDB, 5, describe("COMPARE_FLAGS", "fucom"), flags=True)
_reg("fcomip", 0xDF, 6, describe("COMPARE_FLAGS", "fcom", pops=1), flags=True)
_reg("fucomip", 0xDF, 5, describe("COMPARE_FLAGS", "fucom", pops=1), flags=True)
for _digit, (_name, _condition) in enumerate((("b", 2), ("e", 4), ("be", 6), ("u", 10))):
    _reg(f"fcmov{_name}", 0xDA, _digit, describe("FCMOV"), _condition)
    _reg(f"fcmovn{_name}", 0xDB, _digit, describe("FCMOV"), _condition + 1)

# ---------------------------------------------------------------------- D9 F0-FF, E0-EF and other fixed forms
for _modrm, _name in enumerate(
    ("f2xm1", "fyl2x", "fptan", "fpatan", "fxtract", "fprem1", "fdecstp", "fincstp",
     "fprem", "fyl2xp1", "fsqrt", "fsincos", "frndint", "fscale", "fsin", "fcos"), 0xF0,
):  # fmt: skip
    if _name in ("fdecstp", "fincstp"):
        _what = describe(_name.upper())
    elif _name in ("fyl2x", "fyl2xp1", "fpatan"):
        _what = describe("BINARY_POP", _name)
    elif _name in ("fprem", "fprem1", "fscale"):
        _what = describe("BINARY", _name)
    elif _name in ("fptan", "fsincos", "fxtract"):
        _what = describe("UNARY_PUSH", _name)
    else:
        _what = describe("UNARY", _name)
    _fixed(_name, 0xD9, _modrm, _what)
for _modrm, _name in enumerate(("fld1", "fldl2t", "fldl2e", "fldpi", "fldlg2", "fldln2", "fldz"), 0xE8):
    _fixed(_name, 0xD9, _modrm, describe("CONSTANT", _name))
_fixed("fchs", 0xD9, 0xE0, describe("UNARY", "fchs"))
_fixed("fabs", 0xD9, 0xE1, describe("UNARY", "fabs"))
_fixed("ftst", 0xD9, 0xE4, describe("TEST", "ftst"))
_fixed("fxam", 0xD9, 0xE5, describe("FXAM", "fxam"))
_fixed("fnop", 0xD9, 0xD0, describe("FNOP"))

# ---------------------------------------------------------------------- loads, stores, exchange
_reg("fld", 0xD9, 0, describe("FLD"))
for _opcode, _digit in ((0xD9, 1), (0xDD, 1), (0xDF, 1)):
    _reg("fxch", _opcode, _digit, describe("FXCH"))
_reg("fst", 0xDD, 2, describe("FST"))
for _opcode, _digit in ((0xDD, 3), (0xDF, 2), (0xDF, 3)):  # all but the first are undocumented aliases
    _reg("fstp", _opcode, _digit, describe("FST", pops=1))
_reg("fstpnce", 0xD9, 3, describe("FSTPNCE", pops=1))  # undocumented: "no check of empty"
_reg("ffree", 0xDD, 0, describe("FFREE"))
_reg("ffreep", 0xDF, 0, describe("FFREE", pops=1))
for _opcode, _digit, _operand, _name, _op in (
    (0xD9, 0, "Md", "fld", "fld_f32"), (0xDD, 0, "Mq", "fld", "fld_f64"), (0xDF, 0, "Mw", "fild", "fild_i16"),
    (0xDB, 0, "Md", "fild", "fild_i32"), (0xDF, 5, "Mq", "fild", "fild_i64"),
):  # fmt: skip
    declare(_name, f"{_opcode:02X} /{_digit} {_operand}", _memory(describe("LOAD", _op)), gate="x87")
declare("fld", "DB /5 Ms", _address(describe("LOAD_80"), 10, False), gate="x87")
declare("fbld", "DF /4 Ms", _address(describe("LOAD_BCD", "fbld"), 10, False), gate="x87")
for _opcode, _digit, _name, _op, _size, _pops in (
    (0xD9, 2, "fst", "fst_f32", 4, 0), (0xD9, 3, "fstp", "fst_f32", 4, 1),
    (0xDD, 2, "fst", "fst_f64", 8, 0), (0xDD, 3, "fstp", "fst_f64", 8, 1),
    (0xDF, 2, "fist", "fist_i16", 2, 0), (0xDF, 3, "fistp", "fist_i16", 2, 1),
    (0xDB, 2, "fist", "fist_i32", 4, 0), (0xDB, 3, "fistp", "fist_i32", 4, 1),
    (0xDF, 7, "fistp", "fist_i64", 8, 1),
    (0xDF, 1, "fisttp", "fisttp_i16", 2, 1), (0xDB, 1, "fisttp", "fisttp_i32", 4, 1),
    (0xDD, 1, "fisttp", "fisttp_i64", 8, 1),
):  # fmt: skip
    _what = describe("STORE", _op, pops=_pops, size=_size)
    declare(_name, f"{_opcode:02X} /{_digit} Ms", _address(_what, _size, True), gate="x87")
declare("fstp", "DB /7 Ms", _address(describe("STORE_80", pops=1), 10, True), gate="x87")
declare("fbstp", "DF /6 Ms", _address(describe("STORE_BCD", "fbstp", pops=1), 10, True), gate="x87")


# ---------------------------------------------------------------------- control
@insn("D9 /5 Mw", gate="x87")
def fldcw(c: Builder, source: Operand) -> None:
    c.call("fldcw", a=c.load(16))


@insn("D9 /7 Mw", gate="x87")
def fnstcw(c: Builder, target: Operand) -> None:
    c.write(target, c.call("x87_control"))


@insn("DD /7 Mw", gate="x87")
def fnstsw(c: Builder, target: Operand) -> None:
    c.write(target, c.call("x87_status"))


@insn("DF /4 rm=0", name="fnstsw", gate="x87", extra={"reg": True})
def fnstsw_ax(c: Builder) -> None:
    c.op("insert16", RAX, c.call("x87_status"), RAX)


def _plain(name: str) -> Body:
    def body(c: Builder) -> None:
        c.call(name)

    return body


def _environment(name: str) -> Body:
    def body(c: Builder, operand: Operand) -> None:
        size = (14 if c.opsize == 16 else 28) + 80 * (name in ("frstor", "fnsave"))
        c.call(name, a=c.address(size=size, write=name in ("fnstenv", "fnsave")), imm=2 if c.opsize == 16 else 4)

    return body


declare("fnclex", "DB /4 rm=2", _plain("fnclex"), gate="x87", extra={"reg": True})
declare("fninit", "DB /4 rm=3", _plain("fninit"), gate="x87", extra={"reg": True})
for _rm, _name in ((0, "fneni"), (1, "fndisi"), (4, "fnsetpm")):  # 8087 and 287 instructions, now no-operations
    declare(_name, f"DB /4 rm={_rm}", lambda c: None, gate="x87", extra={"reg": True})
declare("fwait", "9B", _plain("fwait"))
declare("fldenv", "D9 /4 Ms", _environment("fldenv"), gate="x87")
declare("fnstenv", "D9 /6 Ms", _environment("fnstenv"), gate="x87")
declare("frstor", "DD /4 Ms", _environment("frstor"), gate="x87")
declare("fnsave", "DD /6 Ms", _environment("fnsave"), gate="x87")
