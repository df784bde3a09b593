"""Run instruction bodies while the engine is built: each variant becomes a uop template.

A template is a list of items with operand codes instead of virtual registers where the
register is only known when a guest instruction is decoded. `expand_native` copies it,
filling in registers, displacements and immediates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from manor.engine.env import CC_DST, CC_OP, CC_SRC, CC_SRC2, EA, RAX, RCX, RDX, RSP, SEG_BASE, T0, TEMPORARIES, ZERO
from manor.engine.isa.x86.declare import Insn, OperandSpec
from manor.engine.isa.x86.flags import cc
from manor.engine.isa.x86.helper_catalog import HELPER_NUMBER
from manor.engine.uop.table import NUMBER

# operand codes: 0-63 are virtual registers; vector operands below 64 are xmm indexes
REG: Final = 64
"""General register named by ModRM.reg."""
RM: Final = 65
"""General register named by ModRM.rm."""
OPREG: Final = 66
"""General register named by the opcode."""
EABASE: Final = 67
"""The register that, plus DISP, is the effective address."""
XREG: Final = 68
XRM: Final = 69
MREG: Final = 70
"""mmx register of ModRM.reg: vector index 32 + n, physical x87 register n."""
MRM: Final = 71
SEGREG_BASE: Final = 72
"""Base of the segment that an override selects, DS by default (string instructions)."""

# immediate codes: value = base << shift, plus the constant
IMM_CONST, IMM_IMM, IMM_NEXT, IMM_TARGET, IMM_DISP, IMM_IMM2, IMM_PC, IMM_REGNUM, IMM_RMNUM = range(9)
IMM_LENGTH, IMM_SEGMENT, IMM_STACK_MASK, IMM_ADDRESS_MASK, IMM_OPREGNUM, IMM_STRING = range(9, 15)
# IMM_LENGTH: bytes of the instruction. IMM_SEGMENT: number of the effective segment, DS by default.
# IMM_STRING: length << 8 | address size in bytes << 16 | repeat prefix (0, 0xF2, 0xF3) << 24 | segment << 32.
IMM_FLAGS: Final = 15
"""Block flags."""
IMM_IMM_ZX32: Final = 16
"""The immediate, zero-extended from 32 bits."""
IMM_FOP: Final = 17
"""The 11 bits that identify an x87 instruction: low bits of the opcode, ModRM (SDM volume 1, 8.1.9)."""
IMM_COUNT32: Final = 30
"""The immediate modulo 32: a shift count."""
IMM_COUNT64: Final = 31

# pseudo-uops, expanded by the translator
PSEUDO: Final = 0xF000
ACCESS_STACK: Final = 4
"""In `x` of a memory uop: the stack segment (#SS). The same bits as the softmmu's MODE_*."""
ACCESS_UPDATE: Final = 8
"""In `x` of a load: of a read-modify-write, needs write access."""
ACCESS_EA: Final = 16
"""In `x` of a template's memory uop: its address was computed from the effective address. Not in uops."""
ACCESS_WRITES: Final = 1 << 15
"""In `x` of SEGMENT_CHECK and its kind: the access writes; the low bits are its size in bytes."""
PSEUDO_NAMES: Final = (
    "READ8",  # d = low or high byte register `a`
    "WRITE8",  # byte register `d` = a
    "CC",  # CC_OP = imm, known from here on
    "CC_UNKNOWN",  # CC_OP was changed at run time
    "SETCOND",  # d = condition imm, 0 or 1
    "BRCOND",  # terminal: exit 0 if condition imm else exit 1
    "CARRY",  # d = CF, 0 or 1
    "EFLAGS",  # d = the six arithmetic flags at their places
    "EXITPC",  # exit x of the block is imm
    "SET_SP",  # stack pointer = a, at the width of the stack
    "SEGMENT_CHECK",  # offset a, imm = segment, x = ACCESS_*: limit and type, where limits are in force
    "BIT_ADDRESS",  # register a, a linear address in the data segment: wrap at the address size, check as above
    "ACCESS",  # x = what a helper does at the effective address: bytes, ACCESS_WRITES
    "TARGET_CHECK",  # a near jump to imm, taken if d (ZERO: always) is not zero: #GP if it must not go there
    "TARGET_CHECK_VALUE",  # the same, always, to the offset in a
    "UNLESS_ZERO",  # the next imm items only if immediate & x is not zero
    "BYIMM",  # the next uop's number grows by min(immediate & x, imm): one uop for each immediate byte
)
P: Final = {name: PSEUDO + index for index, name in enumerate(PSEUDO_NAMES)}

GPR_KINDS: Final = {"G": REG, "E": RM, "R": RM, "Z": OPREG}
FIXED_CODE: Final = {"AL": RAX, "CL": RCX, "AX": RAX, "DX": RDX, "eAX": RAX, "rAX": RAX}


@dataclass(frozen=True, slots=True)
class Imm:
    """An immediate operand: where it comes from, shifted, plus a constant."""

    code: int
    constant: int = 0
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One template item, in the order in which the build writes it."""

    op: int
    x: int
    d: int
    a: int
    b: int
    imm_code: int
    shift: int
    constant: int


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand of the variant that is being built. width is in bits, 0 if it has none."""

    spec: OperandSpec
    width: int
    memory: bool = False

    @property
    def code(self) -> int:
        """Operand code of the register form."""
        kind = self.spec.kind
        if kind in GPR_KINDS:
            return GPR_KINDS[kind]
        if kind in FIXED_CODE:
            return FIXED_CODE[kind]
        return {"V": XREG, "W": XRM, "U": XRM, "P": MREG, "Q": MRM, "N": MRM}[kind]


class BodyError(Exception):
    """A body asked for something its variant does not have; names the instruction."""


class Builder:
    """What instruction bodies talk to. Values are operand codes (virtual registers) or Imm.

    mode64: the variant for 64-bit mode. opsize: operand size in bits. locked: LOCK variant.
    """

    def __init__(self, insn: Insn, mode64: bool, opsize: int, memory: bool, locked: bool) -> None:
        self.insn = insn
        self.mode64 = mode64
        self.opsize = opsize
        self.memory = memory
        self.locked = locked
        self.items: list[Item] = []
        self._next_temp = 0
        self.operands = tuple(self._operand(spec) for spec in insn.encoding.operands)
        self.width = self.operands[0].width if self.operands else opsize

    def _operand(self, spec: OperandSpec) -> Operand:
        widths = {
            "b": 8, "w": 16, "d": 32, "q": 64, "v": self.opsize, "z": min(self.opsize, 32),
            "y": 64 if self.opsize == 64 else 32, "x": 128, "s": 0, "": 0,
        }  # fmt: skip
        width = widths[spec.size]
        if not spec.size:
            width = {"AL": 8, "CL": 8, "AX": 16, "DX": 16}.get(spec.kind, self.opsize)
        memory = spec.kind in "MO" or (spec.kind in ("E", "W", "Q") and self.memory)
        return Operand(spec, width, memory)

    # -------------------------------------------------------------- emitting
    def temp(self) -> int:
        """A fresh temporary; there are eight an instruction."""
        if self._next_temp >= TEMPORARIES:
            raise BodyError(f"{self.insn.name}: more than {TEMPORARIES} temporaries")
        self._next_temp += 1
        return T0 + self._next_temp - 1

    def emit(self, op: str, d: int = 0, a: int = 0, b: int = 0, imm: Imm | int = 0, x: int = 0) -> None:
        """Append one uop; `op` is a name of the uop table or of a pseudo-uop."""
        if isinstance(imm, int):
            imm = Imm(IMM_CONST, imm)
        number = P[op] if op in P else NUMBER[op]
        self.items.append(Item(number, x, d, a, b, imm.code, imm.shift, imm.constant))

    def op(self, name: str, a: int, b: int | Imm | None = None, d: int | None = None) -> int:
        """d = name(a, b); b may be an immediate. Returns d, a new temporary if not given."""
        if d is None:
            d = self.temp()
        if b is None:
            self.emit(name, d, a)
        elif isinstance(b, Imm):
            self.emit(name + "i", d, a, imm=b)
        else:
            self.emit(name, d, a, b)
        return d

    def at(self, name: str, a: int, b: int | Imm | None = None, d: int | None = None, width: int | None = None) -> int:
        """Like `op`, at the instruction's width: 64 bits, or 32 for everything narrower."""
        width = self.width if width is None else width
        return self.op(f"{name}{64 if width == 64 else 32}", a, b, d)

    def const(self, value: int) -> Imm:
        return Imm(IMM_CONST, value)

    def movi(self, imm: Imm | int, d: int | None = None) -> int:
        d = self.temp() if d is None else d
        self.emit("movi", d, imm=imm)
        return d

    def mov(self, a: int | Imm, d: int | None = None) -> int:
        if isinstance(a, Imm):
            return self.movi(a, d)
        d = self.temp() if d is None else d
        self.emit("mov", d, a)
        return d

    def zext(self, a: int, width: int, d: int | None = None) -> int:
        """Zero-extend from width to 64 bits."""
        if width == 64:
            return a if d is None else self.mov(a, d)
        return self.op(f"zext{width}", a, d=d)

    def sext(self, a: int, width: int, d: int | None = None) -> int:
        if width == 64:
            return a if d is None else self.mov(a, d)
        return self.op(f"sext{width}", a, d=d)

    # -------------------------------------------------------------- operands
    def read(self, operand: Operand, update: bool = False) -> int | Imm:
        """The operand's value. update: it will be written back, so memory must be writable.
 Registers come as they are: above `width` bits there may be garbage
        for 16 and 32; bytes and loads are zero-extended. Immediates are Imm, sign-extended."""
        kind = operand.spec.kind
        if operand.memory:
            return self.load(operand.width, update=update)
        if kind in ("I", "J"):
            return Imm(IMM_IMM)
        if kind == "1":
            return Imm(IMM_CONST, 1)
        if kind in ("AL", "CL"):
            return self.op("zext8", operand.code)
        if operand.width == 8:
            d = self.temp()
            self.emit("READ8", d, operand.code)
            return d
        return operand.code

    def value(self, operand: Operand) -> int:
        """Like `read`, but always in a register."""
        value = self.read(operand)
        return self.movi(value) if isinstance(value, Imm) else value

    def load(self, width: int, d: int | None = None, offset: int = 0, update: bool = False) -> int:
        """Load from the effective address, zero-extended. update: for a read-modify-write."""
        d = self.temp() if d is None else d
        self.emit(f"ld{width}", d, EABASE, imm=Imm(IMM_DISP, offset), x=ACCESS_UPDATE if update else 0)
        return d

    def store(self, width: int, value: int | Imm, offset: int = 0) -> None:
        if isinstance(value, Imm):
            value = self.movi(value)
        self.emit(f"st{width}", a=EABASE, b=value, imm=Imm(IMM_DISP, offset))

    def address(self, d: int | None = None, size: int = 0, write: bool = False) -> int:
        """The effective address in a register (linear: segment base included).

        size, write: what a helper will do there, for the segment's limit and type.
        """
        if size:
            self.emit("ACCESS", x=size | (ACCESS_WRITES if write else 0))
        return self.op("add64", EABASE, Imm(IMM_DISP), d)

    def write(self, operand: Operand, value: int | Imm) -> None:
        """Store to the operand by x86's rules: 32 bits clear the upper half, 8 and 16 keep the rest."""
        if operand.memory:
            self.store(operand.width, value)
            return
        self.write_register(operand.code, operand.width, value, byte_code=operand.spec.kind in "GEZR")

    def write_register(self, code: int, width: int, value: int | Imm, byte_code: bool = False) -> None:
        """Write a general register at a width. byte_code: an encoded byte register (AH rules)."""
        if isinstance(value, Imm):
            if width == 64:
                self.movi(value, code)
                return
            if width == 32:
                zero_extended = Imm(IMM_IMM_ZX32) if value.code == IMM_IMM else value
                self.movi(zero_extended, code)
                return
            value = self.movi(value)
        if width == 64:
            self.mov(value, code)
        elif width == 32:
            self.op("zext32", value, d=code)
        elif width == 16:
            self.op("insert16", code, value, d=code)
        elif byte_code:
            self.emit("WRITE8", code, value)
        else:
            self.op("insert8", code, value, d=code)

    # -------------------------------------------------------------- flags
    def flags(self, kind: str, dst: int | None, src: int | Imm | None = None, src2: int | None = None,
              width: int | None = None) -> None:  # fmt: skip
        """Set the lazy flags (see `flags`). None leaves a cell alone."""
        for cell, value in ((CC_SRC2, src2), (CC_SRC, src), (CC_DST, dst)):
            if value is not None and value != cell:
                self.mov(value, cell)
        self.emit("CC", CC_OP, imm=cc(kind, self.width if width is None else width))

    @contextmanager
    def unless_zero(self, mask: int) -> Iterator[None]:
        """What is emitted inside is left out where immediate & mask is zero."""
        place = len(self.items)
        yield
        count = len(self.items) - place
        self.items.insert(place, Item(P["UNLESS_ZERO"], mask, 0, 0, 0, IMM_CONST, 0, count))

    def eflags(self) -> int:
        """The six arithmetic flags, materialised."""
        d = self.temp()
        self.emit("EFLAGS", d)
        return d

    def set_eflags(self, value: int) -> None:
        """Make `value` (bits at their RFLAGS places, nothing else) the arithmetic flags."""
        self.mov(value, CC_SRC)
        self.emit("CC", CC_OP, imm=cc("EFLAGS", 8))

    def carry(self) -> int:
        d = self.temp()
        self.emit("CARRY", d)
        return d

    def condition(self, number: int) -> int:
        """0 or 1 for condition code `number` of the opcode map."""
        d = self.temp()
        self.emit("SETCOND", d, imm=number)
        return d

    # -------------------------------------------------------------- helpers and control flow
    def call(self, name: str, a: int = 0, b: int = 0, imm: Imm | int = 0, d: int | None = None) -> int:
        """Call a native helper; returns its result's register."""
        d = self.temp() if d is None else d
        self.emit("helper", d, a, b, imm, HELPER_NUMBER[name])
        return d

    def jump(self, imm: Imm) -> None:
        self.emit("EXITPC", imm=imm, x=0)
        self.emit("jump")

    def branch(self, condition: int) -> None:
        """End the block: the relative target if the condition code holds, else the next instruction."""
        self.emit("EXITPC", imm=Imm(IMM_TARGET), x=0)
        self.emit("EXITPC", imm=Imm(IMM_NEXT), x=1)
        self.emit("BRCOND", imm=condition)

    def branch_if(self, op: str, a: int, b: int | Imm, target: Imm | None = None) -> None:
        """End the block with a branch uop on values, e.g. branch_if("br_ne64", t, c.const(0))."""
        self.emit("EXITPC", imm=target or Imm(IMM_TARGET), x=0)
        self.emit("EXITPC", imm=Imm(IMM_NEXT), x=1)
        if isinstance(b, Imm):
            self.emit(op + "i", a=a, imm=b)
        else:
            self.emit(op, a=a, b=b)

    def check_target(self, target: int | Imm, taken: int = ZERO) -> None:
        """Near transfers: #GP(0) if the target lies beyond the limit of CS or, in 64-bit code, is not canonical; before
        anything changes. In 64-bit code `jump_indirect` looks at targets in registers."""
        if isinstance(target, Imm):
            self.emit("TARGET_CHECK", taken, imm=target)
        elif not self.mode64:
            self.emit("TARGET_CHECK_VALUE", a=target)

    def jump_indirect(self, value: int, moved: int | Imm = 0) -> None:
        """End the block. moved: how far the instruction has moved RSP, for a target that is not canonical."""
        self.emit("jump_indirect", a=value, imm=moved)

    def exit(self) -> None:
        """End the block; the dispatcher continues at env.rip, which a helper has set."""
        self.emit("exit")

    def exit_next(self) -> None:
        """End the block and let the dispatcher look at everything before the next instruction."""
        self.call("set_rip", imm=Imm(IMM_NEXT))
        self.exit()

    # -------------------------------------------------------------- stack
    def push(self, value: int | Imm, width: int, stored: int = 0, target: int | Imm | None = None) -> None:
        """Push at a width in bits; precise: the stack pointer moves after the store.

        stored: store only so many bits, in legacy modes. target: of a near call, checked after the store.
        """
        size = width // 8
        stored = stored or width
        if isinstance(value, Imm):
            value = self.movi(value)
        if self.mode64:
            if isinstance(target, Imm):
                self.check_target(target)
            self.emit(f"st{width}", a=RSP, b=value, imm=-size, x=ACCESS_STACK)
            self.op("add64", RSP, self.const(-size), RSP)
            return
        pointer = self.op("and64", self.op("sub32", RSP, self.const(size)), Imm(IMM_STACK_MASK))
        self.emit("SEGMENT_CHECK", a=pointer, imm=2, x=stored // 8 | ACCESS_WRITES)
        address = self.op("add32", pointer, SEG_BASE + 2)
        self.emit(f"st{stored}", a=address, b=value, x=ACCESS_STACK)
        if target is not None:
            self.check_target(target)
        self.emit("SET_SP", a=pointer)

    def peek(self, width: int, offset: int = 0, d: int | None = None) -> int:
        """Load from the stack at the stack pointer + offset."""
        d = self.temp() if d is None else d
        if self.mode64:
            self.emit(f"ld{width}", d, RSP, imm=offset, x=ACCESS_STACK)
            return d
        pointer = self.op("and64", self.op("add32", RSP, self.const(offset)), Imm(IMM_STACK_MASK))
        self.emit("SEGMENT_CHECK", a=pointer, imm=2, x=width // 8)
        self.emit(f"ld{width}", d, self.op("add32", pointer, SEG_BASE + 2), x=ACCESS_STACK)
        return d

    def drop(self, size: int | Imm) -> None:
        """Move the stack pointer up by `size` bytes."""
        imm = self.const(size) if isinstance(size, int) else size
        if self.mode64:
            self.op("add64", RSP, imm, RSP)
        else:
            self.emit("SET_SP", a=self.op("add32", RSP, imm))

    def pop(self, width: int) -> int:
        value = self.peek(width)
        self.drop(width // 8)
        return value


@dataclass(frozen=True, slots=True)
class Variant:
    """Key of one template of an instruction form."""

    mode64: bool
    opsize: int
    memory: bool
    locked: bool


def variants(insn: Insn) -> list[Variant]:
    """All variants that an instruction form can be decoded to."""
    kinds = {o.kind for o in insn.encoding.operands}
    if kinds & set("MO"):
        forms = [(True, False)]
    elif kinds & set("EWQ"):
        forms = [(False, False), (True, False)]
    else:
        forms = [(False, False)]
    if insn.lock:
        forms.append((True, True))
    modes = {"any": (True, False), "64": (True,), "legacy": (False,)}[insn.mode]
    return [
        Variant(mode64, opsize, memory, locked)
        for mode64 in modes
        for opsize in ((16, 32, 64) if mode64 else (16, 32))
        for memory, locked in forms
    ]


def build(insn: Insn, variant: Variant) -> tuple[Item, ...]:
    """Run the body for one variant."""
    builder = Builder(insn, variant.mode64, variant.opsize, variant.memory, variant.locked)
    try:
        insn.body(builder, *builder.operands)
    except (BodyError, KeyError, TypeError) as error:
        raise BodyError(f"{insn.name} ({insn.encoding.text}) {variant}: {error}") from error
    return tuple(builder.items)


__all__ = ["CC_DST", "CC_SRC", "EA", "Builder", "Imm", "Item", "Operand", "Variant", "build", "variants"]
