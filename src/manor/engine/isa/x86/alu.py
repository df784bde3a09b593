"""Integer arithmetic and logic. Source: SDM volume 2, chapters 3 to 5, by mnemonic."""

from __future__ import annotations

from manor.engine.env import CC_DST, CC_SRC, CC_SRC2, RAX, RDX
from manor.engine.isa.x86.declare import Body, declare, insn
from manor.engine.isa.x86.template import (
    ACCESS_EA,
    ACCESS_UPDATE,
    ACCESS_WRITES,
    EABASE,
    IMM_COUNT32,
    IMM_COUNT64,
    IMM_DISP,
    IMM_IMM,
    Builder,
    Imm,
    Operand,
)


def _register(c: Builder, value: int | Imm) -> int:
    return c.movi(value) if isinstance(value, Imm) else value


def _finish(c: Builder, dst: Operand, result: int, kind: str, cc_dst: int, cc_src: int | Imm | None = None,
            cc_src2: int | None = None) -> None:  # fmt: skip
    """Write the result and set the flags, in the order that keeps a faulting store precise."""
    if dst.memory:
        if not c.locked:
            c.write(dst, result)
        c.flags(kind, cc_dst, cc_src, cc_src2)
    else:
        c.flags(kind, cc_dst, cc_src, cc_src2)
        c.write(dst, CC_DST if cc_dst == result else result)


def _locked_old(c: Builder, operation: str, dst: Operand, operand: int) -> int:
    """Atomic read-modify-write of the memory operand; returns the old value."""
    old = c.temp()
    c.emit(f"rmw_{operation}{dst.width}", old, c.address(), operand, x=ACCESS_EA)
    return old


def add(c: Builder, dst: Operand, src: Operand) -> None:
    b = c.read(src)
    if c.locked:
        b = _register(c, b)
        a: int | Imm = _locked_old(c, "add", dst, b)
    else:
        a = c.read(dst, update=True)
    _finish(c, dst, c.at("add", _register(c, a), b), "ADD", _last(c), b)


def _last(c: Builder) -> int:
    """Destination of the uop emitted last."""
    return c.items[-1].d


def sub(c: Builder, dst: Operand, src: Operand) -> None:
    b = c.read(src)
    if c.locked:
        b = _register(c, b)
        a: int | Imm = _locked_old(c, "add", dst, c.op("neg64", b))
    else:
        a = c.read(dst, update=True)
    a = _register(c, a)
    if dst.memory and not c.locked:
        c.write(dst, c.at("sub", a, b))
        c.flags("SUB", a, b)
    elif c.locked:
        c.flags("SUB", a, b)
    else:
        result = c.at("sub", a, b)
        c.flags("SUB", a, b)
        c.write(dst, result)


def cmp(c: Builder, dst: Operand, src: Operand) -> None:
    a, b = _register(c, c.read(dst)), c.read(src)
    c.flags("SUB", a, b)


def adc(c: Builder, dst: Operand, src: Operand) -> None:
    b = _register(c, c.read(src))
    carry = c.carry()
    if c.locked:
        old = _locked_old(c, "add", dst, c.op("add64", b, carry))
    else:
        old = _register(c, c.read(dst, update=True))
    result = c.at("add", c.at("add", old, b), carry)
    _finish(c, dst, result, "ADC", result, b, carry)


def sbb(c: Builder, dst: Operand, src: Operand) -> None:
    b = _register(c, c.read(src))
    borrow = c.carry()
    if c.locked:
        old = _locked_old(c, "add", dst, c.op("neg64", c.op("add64", b, borrow)))
    else:
        old = _register(c, c.read(dst, update=True))
    result = c.at("sub", c.at("sub", old, b), borrow)
    _finish(c, dst, result, "SBB", result, b, borrow)


def _logic(operation: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        b = c.read(src)
        if c.locked:
            b = _register(c, b)
            a: int | Imm = _locked_old(c, operation, dst, b)
        else:
            a = c.read(dst, update=True)
        result = c.at(operation, _register(c, a), b)
        _finish(c, dst, result, "LOGIC", result)

    return body


def _test(c: Builder, a: Operand, b: Operand) -> None:
    c.flags("LOGIC", c.at("and", _register(c, c.read(a)), c.read(b)))


_GROUP1 = (("add", add), ("or", _logic("or")), ("adc", adc), ("sbb", sbb),
           ("and", _logic("and")), ("sub", sub), ("xor", _logic("xor")), ("cmp", cmp))  # fmt: skip
for _number, (_name, _body) in enumerate(_GROUP1):
    _base = _number * 8
    _locks = {"lock": _name != "cmp"}
    _undefined = {"undefined": ("af",)} if _name in ("or", "and", "xor") else {}
    declare(_name, f"{_base:02X} Eb,Gb", _body, **_locks, **_undefined)
    declare(_name, f"{_base + 1:02X} Ev,Gv", _body, **_locks, **_undefined)
    declare(_name, f"{_base + 2:02X} Gb,Eb", _body, **_undefined)
    declare(_name, f"{_base + 3:02X} Gv,Ev", _body, **_undefined)
    declare(_name, f"{_base + 4:02X} AL,Ib", _body, **_undefined)
    declare(_name, f"{_base + 5:02X} rAX,Iz", _body, **_undefined)
    declare(_name, f"80 /{_number} Eb,Ib", _body, **_locks, **_undefined)
    declare(_name, f"81 /{_number} Ev,Iz", _body, **_locks, **_undefined)
    declare(_name, f"82 /{_number} Eb,Ib", _body, mode="legacy", **_locks, **_undefined)
    declare(_name, f"83 /{_number} Ev,Ib", _body, **_locks, **_undefined)
for _encoding in ("84 Eb,Gb", "85 Ev,Gv", "A8 AL,Ib", "A9 rAX,Iz", "F6 /0 Eb,Ib", "F7 /0 Ev,Iz", "F6 /1 Eb,Ib",
                  "F7 /1 Ev,Iz"):  # fmt: skip
    declare("test", _encoding, _test, undefined=("af",))


def _step(kind: str, delta: int) -> Body:
    """INC and DEC: CF stays as it was."""

    def body(c: Builder, dst: Operand) -> None:
        carry = c.carry()
        if c.locked:
            old = _locked_old(c, "add", dst, c.movi(delta))
        else:
            old = _register(c, c.read(dst, update=True))
        result = c.at("add", old, c.const(delta))
        _finish(c, dst, result, kind, result, carry)

    return body


for _reg, _name, _body in ((0, "inc", _step("INC", 1)), (1, "dec", _step("DEC", -1))):
    declare(_name, f"FE /{_reg} Eb", _body, lock=True)
    declare(_name, f"FF /{_reg} Ev", _body, lock=True)
    declare(_name, f"4{_reg * 8:X}+r Zv", _body, mode="legacy")


@insn("F6 /2 Eb", "F7 /2 Ev", lock=True)
def not_(c: Builder, dst: Operand) -> None:
    if c.locked:
        _locked_old(c, "xor", dst, c.movi(-1))
        return
    c.write(dst, c.op("not64" if dst.width == 64 else "not32", _register(c, c.read(dst, update=True))))


@insn("F6 /3 Eb", "F7 /3 Ev", lock=True)
def neg(c: Builder, dst: Operand) -> None:
    if c.locked:
        old = c.call("lock_neg", a=c.address(size=dst.width // 8, write=True), imm=dst.width // 8)
        c.flags("SUB", c.movi(0), old)
        return
    old = _register(c, c.read(dst, update=True))
    result = c.op("neg64" if dst.width == 64 else "neg32", old)
    if dst.memory:
        c.write(dst, result)
        c.flags("SUB", c.movi(0), old)
    else:
        c.flags("SUB", c.movi(0), old)
        c.write(dst, result)


# ---------------------------------------------------------------------- multiply and divide
@insn("F6 /4 Eb", "F7 /4 Ev", undefined=("sf", "zf", "af", "pf"))
def mul(c: Builder, src: Operand) -> None:
    _multiply(c, src, signed=False)


@insn("F6 /5 Eb", "F7 /5 Ev", name="imul", undefined=("sf", "zf", "af", "pf"))
def imul1(c: Builder, src: Operand) -> None:
    _multiply(c, src, signed=True)


def _multiply(c: Builder, src: Operand, signed: bool) -> None:
    """One-operand form: double-width product in AX or DX:AX, EDX:EAX, RDX:RAX."""
    b = _register(c, c.read(src))
    width = src.width
    if width == 64:
        low = c.op("mul64", RAX, b)
        high = c.op("mulhs64" if signed else "mulhu64", RAX, b)
        overflow = c.op("sub64", high, c.op("sar64", low, c.const(63))) if signed else high
        c.flags("MUL", low, overflow)
        c.mov(CC_DST, RAX)
        c.mov(high, RDX)
        return
    extend = c.sext if signed else c.zext
    product = c.op("mul64", extend(RAX, width), extend(b, width))
    overflow = c.op("sub64", product, extend(product, width))
    c.flags("MUL", product, overflow)
    if width == 8:
        c.write_register(RAX, 16, CC_DST)
    else:
        c.write_register(RDX, width, c.op("shr64", CC_DST, c.const(width)))
        c.write_register(RAX, width, CC_DST)


@insn("0F AF Gv,Ev", name="imul", undefined=("sf", "zf", "af", "pf"))
def imul2(c: Builder, dst: Operand, src: Operand) -> None:
    _multiply_truncated(c, dst, _register(c, c.read(dst, update=True)), _register(c, c.read(src)))


@insn("69 Gv,Ev,Iz", "6B Gv,Ev,Ib", name="imul", undefined=("sf", "zf", "af", "pf"))
def imul3(c: Builder, dst: Operand, src: Operand, imm: Operand) -> None:
    _multiply_truncated(c, dst, _register(c, c.read(src)), c.movi(Imm(IMM_IMM)))


def _multiply_truncated(c: Builder, dst: Operand, a: int, b: int) -> None:
    c.flags("IMUL", c.op("mul64" if dst.width == 64 else "mul32", a, b), a, b)
    c.write(dst, CC_DST)


_ALL_FLAGS = ("cf", "pf", "af", "zf", "sf", "of")


@insn("F6 /6 Eb", "F7 /6 Ev", undefined=_ALL_FLAGS)
def div(c: Builder, src: Operand) -> None:
    c.call(f"div{src.width}", a=_register(c, c.read(src)))


@insn("F6 /7 Eb", "F7 /7 Ev", undefined=_ALL_FLAGS)
def idiv(c: Builder, src: Operand) -> None:
    c.call(f"idiv{src.width}", a=_register(c, c.read(src)))


# ---------------------------------------------------------------------- exchange and compare
@insn("86 Eb,Gb", "87 Ev,Gv", lock=True)
def xchg(c: Builder, dst: Operand, src: Operand) -> None:
    if dst.memory:
        c.write(src, _locked_old(c, "xchg", dst, _register(c, c.read(src))))
        return
    a, b = c.mov(c.read(dst, update=True)), c.mov(c.read(src))
    c.write(dst, b)
    c.write(src, a)


@insn("90+r Zv,rAX", name="xchg")
def xchg_accumulator(c: Builder, dst: Operand, src: Operand) -> None:
    a, b = c.mov(c.read(dst, update=True)), c.mov(RAX)
    c.write(dst, b)
    c.write(src, a)


@insn("0F C0 Eb,Gb", "0F C1 Ev,Gv", lock=True)
def xadd(c: Builder, dst: Operand, src: Operand) -> None:
    b = c.mov(_register(c, c.read(src)))
    if c.locked:
        a = _locked_old(c, "add", dst, b)
    else:
        a = c.mov(_register(c, c.read(dst, update=True)))
    result = c.at("add", a, b)
    if dst.memory and not c.locked:
        c.write(dst, result)
    c.flags("ADD", result, b)
    c.write(src, a)
    if not dst.memory:
        c.write(dst, result)


@insn("0F B0 Eb,Gb", "0F B1 Ev,Gv", lock=True)
def cmpxchg(c: Builder, dst: Operand, src: Operand) -> None:
    width = dst.width
    new = _register(c, c.read(src))
    if dst.memory:
        # Also without LOCK the destination is always written, so one atomic form serves both.
        old = c.zext(RAX, width, c.temp())
        expected = c.mov(old)
        c.emit(f"cmpxchg{width}", old, c.address(), new, x=ACCESS_EA)
    else:
        old = c.zext(_register(c, c.read(dst, update=True)), width, c.temp())
        expected = c.zext(RAX, width, c.temp())
    equal = c.op(f"set_eq{width}_", expected, old)
    c.flags("SUB", expected, old)
    if not dst.memory:
        # The register is written only if equal: at 32 bits its upper half shows the difference.
        value = c.mov(dst.code if width == 32 else old)
        full = c.op("zext32", new) if width == 32 else new
        c.emit("selnz", value, full, equal)
    if width == 32:
        # A successful compare leaves the upper half of RAX alone.
        accumulator = c.mov(old)
        c.emit("selnz", accumulator, RAX, equal)
        c.mov(accumulator, RAX)
    elif width == 64:
        c.mov(old, RAX)
    else:
        c.op(f"insert{width}", RAX, old, RAX)
    if not dst.memory:
        if width == 32:
            c.mov(value, dst.code)
        else:
            c.write(dst, value)


@insn("0F C7 /1 Ms", lock=True)
def cmpxchg8b(c: Builder, dst: Operand) -> None:
    bits = 16 if c.opsize == 64 else 8
    zero = c.call(f"cmpxchg{bits}b", a=c.address(size=bits, write=True))
    flags = c.op("and64", c.eflags(), c.const(~0x40))
    c.set_eflags(c.op("or64", flags, c.op("shl64", zero, c.const(6))))


# ---------------------------------------------------------------------- shifts and rotates
def _count(c: Builder, src: Operand, width: int) -> int | Imm:
    """The masked shift count."""
    value = c.read(src)
    mask = 63 if width == 64 else 31
    if isinstance(value, Imm):
        return value if src.spec.kind == "1" else Imm(IMM_COUNT64 if width == 64 else IMM_COUNT32)
    return c.op("and64", value, c.const(mask))


def _shift(operation: str, kind: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        width = dst.width
        value = _register(c, c.read(dst, update=True))
        if operation == "sar" and width < 32:
            value = c.sext(value, width)
        elif operation == "shr" and width < 32:
            value = c.zext(value, width)
        count = _count(c, src, width)
        result = c.at(operation, value, count)
        by_one = isinstance(count, Imm) and src.spec.kind == "1"
        if dst.memory:
            c.write(dst, result)
        if by_one:
            c.flags(kind, result, value)
        elif isinstance(count, Imm):
            with c.unless_zero(63 if width == 64 else 31):
                c.flags(f"{operation.upper()}I", result, value, c.movi(count))
        else:
            before = c.at(operation, value, c.op("sub64", count, c.const(1)))
            known = c.movi(_cc(kind, width))
            c.emit("selnz", CC_SRC, before, count)
            c.emit("selnz", CC_DST, result, count)
            c.emit("selnz", _CC_OP, known, count)
            c.emit("CC_UNKNOWN")
        if not dst.memory:
            c.write(dst, result)

    return body


def _cc(kind: str, width: int) -> int:
    from manor.engine.isa.x86.flags import cc

    return cc(kind, width)


_CC_OP = 16

for _reg, _name, _body in ((4, "shl", _shift("shl", "SHL")), (5, "shr", _shift("shr", "SHR")),
                           (6, "shl", _shift("shl", "SHL")), (7, "sar", _shift("sar", "SHR"))):  # fmt: skip
    for _encoding in (f"C0 /{_reg} Eb,Ib", f"C1 /{_reg} Ev,Ib", f"D0 /{_reg} Eb,1", f"D1 /{_reg} Ev,1",
                      f"D2 /{_reg} Eb,CL", f"D3 /{_reg} Ev,CL"):  # fmt: skip
        declare(_name, _encoding, _body, undefined=("af", "of"))


def _rotate(operation: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        width = dst.width
        value = _register(c, c.read(dst, update=True))
        count = _count(c, src, width)
        result = c.op(f"{operation}{width}", value, count)
        if dst.memory:
            c.write(dst, result)
        flags = c.call("rotate_flags", a=result, b=c.movi(count) if isinstance(count, Imm) else count,
                       imm=width | (256 if operation == "ror" else 0))  # fmt: skip
        c.set_eflags(flags)
        if not dst.memory:
            c.write(dst, result)

    return body


def _rotate_carry(operation: str) -> Body:
    def body(c: Builder, dst: Operand, src: Operand) -> None:
        value = _register(c, c.read(dst, update=True))
        count = _count(c, src, dst.width)
        register = c.movi(count) if isinstance(count, Imm) else count
        result = c.call(operation, a=value, b=register, imm=dst.width)
        flags = c.call(operation + "_flags", a=value, b=register, imm=dst.width)
        if dst.memory:
            c.write(dst, result)
        c.set_eflags(flags)
        if not dst.memory:
            c.write(dst, result)

    return body


for _reg, _name, _body in ((0, "rol", _rotate("rol")), (1, "ror", _rotate("ror")),
                           (2, "rcl", _rotate_carry("rcl")), (3, "rcr", _rotate_carry("rcr"))):  # fmt: skip
    for _encoding in (f"C0 /{_reg} Eb,Ib", f"C1 /{_reg} Ev,Ib", f"D0 /{_reg} Eb,1", f"D1 /{_reg} Ev,1",
                      f"D2 /{_reg} Eb,CL", f"D3 /{_reg} Ev,CL"):  # fmt: skip
        declare(_name, _encoding, _body, undefined=("of",))


def _double_shift(left: bool) -> Body:
    """SHLD and SHRD."""

    def body(c: Builder, dst: Operand, src: Operand, count_operand: Operand) -> None:
        width = dst.width
        a = _register(c, c.read(dst, update=True))
        b = _register(c, c.read(src))
        count = _count(c, count_operand, width)
        register = c.movi(count) if isinstance(count, Imm) else count
        direction = 0 if left else 256
        # A helper has two register arguments: the third, the count, goes through a cell that it reads.
        c.mov(register, _COUNT_CELL)
        result = c.call("double_shift", a=a, b=b, imm=width | direction)
        flags = c.call("double_shift_flags", a=a, b=b, imm=width | direction)
        if dst.memory:
            c.write(dst, result)
        c.set_eflags(flags)
        if not dst.memory:
            # A count of zero leaves a 32-bit destination's upper half as it is after any write: cleared.
            c.write(dst, result)

    return body


_COUNT_CELL = 37
"""EA2: the third argument of the double-shift helpers."""

for _encoding, _left in (("0F A4 Ev,Gv,Ib", True), ("0F A5 Ev,Gv,CL", True), ("0F AC Ev,Gv,Ib", False),
                         ("0F AD Ev,Gv,CL", False)):  # fmt: skip
    declare("shld" if _left else "shrd", _encoding, _double_shift(_left), undefined=("af", "of"))


# ---------------------------------------------------------------------- bits
def _bit_operation(operation: str) -> Body:
    """BT, BTS, BTR, BTC. A register bit offset reaches beyond a memory operand."""

    def body(c: Builder, dst: Operand, src: Operand) -> None:
        width = dst.width
        bit = _register(c, c.read(src))
        index = c.op("and64", bit, c.const(width - 1))
        address = EABASE
        displacement = Imm(IMM_DISP)
        if dst.memory:
            if src.spec.kind == "G":
                words = c.sext(bit, width, c.temp())
                words = c.op("sar64", words, c.const({16: 4, 32: 5, 64: 6}[width]), words)
                shift = {16: 1, 32: 2, 64: 3}[width]
                words = c.op(f"addsl{shift}", EABASE, words, words)
                address = c.op("add64", words, Imm(IMM_DISP), words)
                c.emit("BIT_ADDRESS", a=address, x=width // 8 | (ACCESS_WRITES if operation else 0))
                displacement = c.const(0)
            if not c.locked:
                value = c.temp()
                access = ACCESS_EA | (ACCESS_UPDATE if operation else 0)
                c.emit(f"ld{width}", value, address, imm=displacement, x=access)
        else:
            value = _register(c, c.read(dst, update=True))
        if c.locked:
            mask = c.movi(1)
            c.op("shl64", mask, index, mask)
            if operation == "and":
                c.op("not64", mask, d=mask)
            if src.spec.kind != "G":
                address = c.address()
            value = c.temp()
            c.emit(f"rmw_{operation}{width}", value, address, mask, x=ACCESS_EA)
        selected = c.op("shr64", value, index)
        c.op("and64", selected, c.const(1), selected)
        result = None
        if operation and not c.locked:
            mask = c.movi(1)
            c.op("shl64", mask, index, mask)
            if operation == "and":
                c.op("not64", mask, d=mask)
            result = c.op(f"{operation}64", value, mask, d=mask)
            if dst.memory:
                c.emit(f"st{width}", a=address, b=result, imm=displacement, x=ACCESS_EA)
        flags = c.eflags()
        c.op("and64", flags, c.const(~1), flags)
        c.set_eflags(c.op("or64", flags, selected, flags))
        if result is not None and not dst.memory:
            c.write(dst, result)

    return body


for _number, (_name, _operation) in enumerate((("bt", ""), ("bts", "or"), ("btr", "and"), ("btc", "xor"))):
    _bits = {"undefined": ("of", "sf", "af", "pf"), "lock": bool(_operation)}
    declare(_name, f"0F {0xA3 + _number * 8:02X} Ev,Gv", _bit_operation(_operation), **_bits)
    declare(_name, f"0F BA /{4 + _number} Ev,Ib", _bit_operation(_operation), **_bits)


def _bit_scan(count: str, reverse: bool) -> Body:
    """BSF and BSR: for a zero source the destination stays (as processors do) and ZF is set."""

    def body(c: Builder, dst: Operand, src: Operand) -> None:
        width = dst.width
        value = c.zext(_register(c, c.read(src)), width, c.temp())
        index = c.op(f"{count}{width}", value)
        if reverse:
            index = c.op("sub64", c.movi(width - 1), index)
        result = c.mov(_register(c, c.read(dst, update=True)))
        c.emit("selnz", result, index, value)
        c.flags("LOGIC", value)
        if width == 32:
            # Intel leaves the whole register alone for a zero source; so must we.
            upper = c.op("zext32", result)
            kept = c.mov(dst.code)
            c.emit("selnz", kept, upper, value)
            c.mov(kept, dst.code)
        else:
            c.write(dst, result)

    return body


_SCAN_UNDEFINED = ("cf", "of", "sf", "af", "pf")
declare("bsf", "0F BC Gv,Ev", _bit_scan("cttz", False), undefined=_SCAN_UNDEFINED)
declare("bsr", "0F BD Gv,Ev", _bit_scan("ctlz", True), undefined=_SCAN_UNDEFINED)


@insn("F3 0F B8 Gv,Ev")
def popcnt(c: Builder, dst: Operand, src: Operand) -> None:
    value = c.zext(_register(c, c.read(src)), dst.width, c.temp())
    count = c.op(f"ctpop{dst.width}", value)
    zero = c.op("set_eq64_", value, c.const(0))
    c.set_eflags(c.op("shl64", zero, c.const(6)))
    c.write(dst, count)


@insn("0F C8+r Zv")
def bswap(c: Builder, dst: Operand) -> None:
    # 16-bit BSWAP is undefined; processors clear the register half.
    if dst.width == 16:
        c.write(dst, c.const(0))
    else:
        c.op(f"bswap{dst.width}", dst.code, d=dst.code)


__all__ = ["CC_SRC", "CC_SRC2", "RDX"]
