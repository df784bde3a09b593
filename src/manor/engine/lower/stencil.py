"""Stencils: host code of uops with holes, made by LLVM from the uop table while the engine is built.

Every stencil is a function of the `ghccc` convention (no callee-saved registers, arguments in
registers): env and the slots. It ends in a tail call to NEXT, which is dropped when stencils are
copied one after the other. Holes are addresses of external symbols that never get linked.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from llvmlite import binding, ir

from manor.engine.env import (
    FAULT_ONE_INSN,
    JUMP_CACHE_ENTRIES,
    JUMP_HASH_SHIFT,
    JUMP_KEY_SHIFT,
    OFFSETS,
    RSP,
    TLB_BITS,
    TLB_ENTRY_SIZE,
)
from manor.engine.lower.elf_object import Function, read_functions
from manor.engine.lower.forms import (
    MUST_ALIGN,
    SHIFT_AMOUNT,
    SLOTS,
    SPECIAL_ARITY,
    THUNK_CALL,
    THUNK_CALL_ALL,
    THUNK_CMPXCHG,
    THUNK_HEAD_SIZE,
    THUNK_LOAD,
    THUNK_LOADX,
    THUNK_RMW,
    THUNK_STORE,
    THUNK_STOREX,
    XSLOTS,
    Form,
    Shape,
    Special,
    describe,
    forms_of,
    shape,
)
from manor.engine.lower.llvm_context import I8, I32, I64, PTR, Immediate, LlvmContext
from manor.engine.uop.ops import Kind, Op
from manor.engine.uop.table import OPS
from manor.engine.uop.vector_ops import VectorOp

CONVENTION: Final = "ghccc"
THUNK_CONVENTION: Final = "preserve_mostcc"
THUNK_ALL_CONVENTION: Final = "preserve_allcc"
HOST_CPU: Final = "x86-64-v2"
STENCILS_PER_MODULE: Final = 500
PAGE_MASK: Final = -4096
RFLAGS_TF: Final = 0x100
DR7_ENABLED: Final = 0xFF
"""Local and global enable bits of the four breakpoints. Source: SDM volume 3, 17.2.4."""

_X128: Final = ir.VectorType(I64, 2)
_STENCIL_TYPE: Final = ir.FunctionType(ir.VoidType(), [PTR] + [I64] * (SLOTS + 1) + [_X128] * XSLOTS)
"""env, slots, instructions executed since the run loop was left, xmm slots."""
_THUNK_TYPE: Final = ir.FunctionType(I64, [PTR, I64, I64, I64, PTR])
_HELPER_TYPE: Final = ir.FunctionType(I64, [PTR, I64, I64, I64])

# symbol -> range of its address; None: any 64-bit value
_HOLES: Final[dict[str, tuple[int, int] | None]] = {
    "IMM": (-(1 << 31), 1 << 31), "IMM32": (0, 1 << 32), "IMM16": (0, 1 << 16), "IMM8": (0, 1 << 8),
    "VALUE": (-(1 << 31), 1 << 31), "VALUE32": (0, 1 << 32), "VALUE16": (0, 1 << 16), "VALUE8": (0, 1 << 8),
    "IMM64": None, "LOW": (0, 1 << 32), "HIGH": (0, 1 << 32),
    "D": (0, 1 << 31), "A": (0, 1 << 31), "B": (0, 1 << 31), "TLB": (0, 1 << 31), "META": (0, 1 << 31),
    "PC_LOW": (0, 1 << 32), "PC_HIGH": (0, 1 << 32), "COUNT": (0, 1 << 31), "CALLEE": None, "FLAGS": None,
}  # fmt: skip
SHIFT_PROBES: Final[dict[int, tuple[int, int]]] = {8: (3, 5), 16: (9, 11), 32: (17, 19), 64: (17, 43)}
"""Shift amounts that a stencil is compiled with; the byte that differs is the hole."""


IMMEDIATE_PROBES: Final = (0x9E3779B9, 0xB5297A4D)
"""Low halves of two immediates that a stencil is compiled with, where LLVM would not fold a symbol into the
instruction; the four bytes that differ are the hole. Negative, so that no 64-bit operation is narrowed; no
multiplication by them is cheaper done by shifts."""
_PROBED: Final = re.compile(r"(add|and|or|xor|mul)(32|64)i|sub32i")
"""sub64i is not among them: LLVM turns it into an addition, and -imm need not fit 32 bits."""


class _Callee:
    """A function pointer as llvmlite's `call` wants it."""

    def __init__(self, value: ir.Value, function_type: ir.FunctionType) -> None:
        self.value = value
        self.function_type = function_type
        self.type = value.type
        self.calling_convention = ""

    def get_reference(self) -> str:
        reference: str = self.value.get_reference()
        return reference


class StencilModule:
    """One LLVM module of stencils."""

    def __init__(self) -> None:
        self.module = ir.Module("stencils")
        self.module.triple = binding.get_process_triple()
        self._symbols: dict[str, Any] = {}

    def target(self, name: str) -> ir.Function:
        """A place outside the stencil that control can go to."""
        if name not in self._symbols:
            function = ir.Function(self.module, _STENCIL_TYPE, name)
            function.linkage = "external dso_local"
            function.calling_convention = CONVENTION
            self._symbols[name] = function
        return self._symbols[name]

    def hole(self, name: str, type: ir.Type = I64) -> ir.Value:
        """A value that is filled in when the stencil is copied. Do not store a 64-bit hole: LLVM
        narrows such stores to 32 bits; store two halves."""
        if name not in self._symbols:
            variable = ir.GlobalVariable(self.module, I8, name)
            variable.linkage = "external"
            variable.storage_class = "dso_local"
            limits = _HOLES[name] or (0, (1 << 63) - 1)
            metadata = self.module.add_metadata([ir.Constant(I64, limit) for limit in limits])
            variable.set_metadata("absolute_symbol", metadata)
            self._symbols[name] = variable
        return self._symbols[name].ptrtoint(type)

    def compile(self, machine: binding.TargetMachine) -> dict[str, Function]:
        """Host code of all stencils of the module."""
        text = str(self.module)
        wide = "|".join(name for name, limits in _HOLES.items() if limits is None)
        text = re.sub(
            rf'^(@"?(?:{wide})"? = external dso_local global i8)', r'\1, code_model "large"', text, flags=re.MULTILINE
        )
        module = binding.parse_assembly(text)
        module.verify()
        options = binding.create_pipeline_tuning_options(speed_level=1)
        builder = binding.create_pass_builder(machine, options)
        passes = binding.create_new_module_pass_manager()
        passes.add_instruction_combine_pass()
        passes.run(module, builder)
        return read_functions(machine.emit_object(module))


class StencilBuilder:
    """Builds one stencil. Slot values are in `slots`; an operation replaces the one it writes."""

    def __init__(self, module: StencilModule, name: str) -> None:
        self.module = module
        function = ir.Function(module.module, _STENCIL_TYPE, name)
        function.linkage = "dso_local"
        function.calling_convention = CONVENTION
        for attribute in ("nounwind", "optsize"):
            function.attributes.add(attribute)
        self.function = function
        self.env = function.args[0]
        self.slots: list[ir.Value] = list(function.args[1 : 1 + SLOTS])
        self.counter: ir.Value = function.args[1 + SLOTS]
        self.xslots: list[ir.Value] = list(function.args[2 + SLOTS :])
        self.use(ir.IRBuilder(function.append_basic_block()))

    def use(self, builder: ir.IRBuilder) -> None:
        """Continue in another basic block."""
        self.builder = builder
        self.context = LlvmContext(builder)

    def hole(self, name: str, type: ir.Type = I64) -> ir.Value:
        return self.module.hole(name, type)

    def const(self, value: int) -> ir.Value:
        return ir.Constant(I64, value)

    def immediate(self) -> Immediate:
        names = {64: "IMM", 32: "IMM32", 16: "IMM16", 8: "IMM8"}
        return Immediate(lambda bits: self.hole(names[bits], ir.IntType(bits)))

    # -------------------------------------------------------------- env
    def at(self, base: ir.Value, offset: int | ir.Value) -> ir.Value:
        """Pointer `offset` bytes after `base`."""
        if isinstance(offset, int):
            offset = self.const(offset)
        return self.builder.gep(base, [offset], source_etype=I8)

    def field(self, name: str, offset: int = 0) -> ir.Value:
        """Pointer to a field of env."""
        return self.at(self.env, OFFSETS[name] + offset)

    def cell(self, hole: str) -> ir.Value:
        """Pointer to the cell of env whose offset is a hole."""
        return self.at(self.env, self.hole(hole))

    def load(self, pointer: ir.Value, type: ir.Type = I64, align: int | None = None) -> ir.Value:
        return self.builder.load(pointer, typ=type, align=align)

    def settle(self, value: ir.Value) -> ir.Value:
        """`value`, of which LLVM must not know where it comes from: it is computed here, once, in full."""
        identity = ir.InlineAsm(ir.FunctionType(value.type, [value.type]), "", "=r,0")
        return self.builder.call(identity, [value])

    def store_halves(self, pointer: ir.Value, low: str, high: str) -> None:
        """Store a 64-bit hole."""
        self.builder.store(self.hole(low, I32), pointer)
        self.builder.store(self.hole(high, I32), self.at(pointer, 4))

    # -------------------------------------------------------------- control
    def go(self, target: str | _Callee) -> None:
        """Leave to another stencil, keeping env and the slots."""
        callee = self.module.target(target) if isinstance(target, str) else target
        arguments = [self.env, *self.slots, self.counter, *self.xslots]
        self.builder.call(callee, arguments, cconv=CONVENTION, tail="musttail")
        self.builder.ret_void()

    def leave(self) -> None:
        """Return to the run loop."""
        total = self.field("insn_count")
        self.builder.store(self.builder.add(self.load(total), self.counter), total)
        self.builder.ret_void()

    def next(self) -> None:
        self.go("NEXT")

    def split(self, condition: ir.Value, likely: bool = True) -> tuple[ir.IRBuilder, ir.IRBuilder]:
        """Builders of the blocks for true and false; true is the likely one if `likely`."""
        yes, no = self.function.append_basic_block(), self.function.append_basic_block()
        branch = self.builder.cbranch(condition, yes, no)
        if likely:
            branch.set_weights([100000, 1])
        return ir.IRBuilder(yes), ir.IRBuilder(no)

    def guard(self, condition: ir.Value, otherwise: str) -> None:
        """Continue if the condition holds, else go to `otherwise`."""
        yes, no = self.split(condition)
        self.use(no)
        self.go(otherwise)
        self.use(yes)

    def call_native(
        self, callee: ir.Value, a: ir.Value, b: ir.Value, imm: ir.Value, keep_vectors: bool = False
    ) -> ir.Value:
        """Call a C function through the thunk, which keeps all slots; the xmm slots only if keep_vectors."""
        cell, convention = (
            (THUNK_CALL_ALL, THUNK_ALL_CONVENTION) if keep_vectors else (THUNK_CALL, THUNK_CONVENTION)
        )
        thunk = self.load(self.field("thunks", 8 * cell), PTR)
        if not keep_vectors:
            self.xslots = [ir.Constant(_X128, ir.Undefined)] * XSLOTS
        return self.builder.call(_Callee(thunk, _THUNK_TYPE), [self.env, a, b, imm, callee], cconv=convention)

    def set_rip(self) -> None:
        self.store_halves(self.field("rip"), "PC_LOW", "PC_HIGH")

    def leave_if_fault(self) -> None:
        """Return to the run loop if env.fault is set."""
        clear = self.builder.icmp_unsigned("==", self.load(self.field("fault"), I32), ir.Constant(I32, 0))
        yes, no = self.split(clear)
        self.use(no)
        self.leave_at_fault()
        self.use(yes)

    def leave_at_fault(self) -> None:
        """Return to the run loop; the instructions not executed are taken back."""
        counter = self.counter
        self.counter = self.builder.sub(counter, self.hole("COUNT"))
        self.leave()
        self.counter = counter

    # -------------------------------------------------------------- memory
    def look_up(self, address: ir.Value, size: int, tag_offset: int, aligned: bool = False) -> ir.Value:
        """Host pointer for an access, by the TLB; goes to COLD if the entry does not allow it.

        The tag is compared with the page of the last byte: an access that crosses the page's end never
        matches. aligned: nor does one that is not naturally aligned.
        """
        b = self.builder
        index_mask = (1 << TLB_BITS) - 1
        shift = TLB_ENTRY_SIZE.bit_length() - 1
        index = b.and_(b.lshr(address, self.const(12 - shift)), self.const(index_mask << shift))

        def entry(offset: int) -> ir.Value:
            return self.load(self.at(self.at(self.at(self.env, index), self.hole("TLB")), offset))

        tag = entry(tag_offset)
        if aligned:
            page = b.and_(address, self.const(PAGE_MASK | size - 1))
        else:
            page = b.and_(b.add(address, self.const(size - 1)) if size > 1 else address, self.const(PAGE_MASK))
        self.guard(b.icmp_unsigned("==", tag, page), "COLD")
        return self.builder.inttoptr(self.builder.add(address, entry(16)), PTR)

    def slow_path(self, thunk: int, address: ir.Value, value: ir.Value | None = None) -> ir.Value:
        """Call a slow path at the current instruction, and leave if it faults."""
        self.set_rip()
        callee = self.load(self.field("thunks", 8 * thunk), PTR)
        result = self.call_native(callee, address, self.const(0) if value is None else value, self.hole("META"), True)
        self.leave_if_fault()
        return result

    def address(self, slot: int) -> ir.Value:
        return self.settle(self.builder.add(self.slots[slot], self.hole("IMM")))

    def extend(self, value: ir.Value, op: Op) -> ir.Value:
        """What a load of `op` puts into its 64-bit register."""
        if op.signed_to:
            value = self.builder.sext(value, ir.IntType(op.signed_to))
        return value if value.type.width == 64 else self.builder.zext(value, I64)

    def narrow(self, value: ir.Value, bits: int) -> ir.Value:
        return value if value.type.width == bits else self.builder.trunc(value, ir.IntType(bits))


TAG_READ: Final = 0
TAG_WRITE: Final = 8


# ---------------------------------------------------------------- one function for each kind of uop
def _unary(s: StencilBuilder, op: Op, d: int, a: int) -> None:
    assert op.body is not None
    s.slots[d] = op.body(s.context, s.slots[a])
    s.next()


def _binary(s: StencilBuilder, op: Op, d: int, b: Any) -> None:
    assert op.body is not None
    result = op.body(s.context, s.slots[d], b)
    s.slots[d] = result
    s.next()


def _update(s: StencilBuilder, op: Op, d: int, a: int, b: int) -> None:
    assert op.body is not None
    s.slots[d] = op.body(s.context, s.slots[d], s.slots[a], s.slots[b])
    s.next()


def _branch(s: StencilBuilder, op: Op, a: int, b: Any) -> None:
    assert op.body is not None
    yes, no = s.split(op.body(s.context, s.slots[a], b), likely=False)
    for builder, exit_name in ((yes, "EXIT0"), (no, "EXIT1")):
        s.use(builder)
        s.go(exit_name)


def _load(s: StencilBuilder, op: Op, d: int, a: int) -> None:
    pointer = s.look_up(s.address(a), op.bits // 8, TAG_READ)
    s.slots[d] = s.extend(s.load(pointer, ir.IntType(op.bits), align=1), op)
    s.next()


def _load_cold(s: StencilBuilder, op: Op, d: int, a: int) -> None:
    value = s.slow_path(THUNK_LOAD, s.address(a))
    s.slots[d] = s.extend(s.narrow(value, op.bits), op)
    s.next()


def _store(s: StencilBuilder, op: Op, value: ir.Value, a: int) -> None:
    pointer = s.look_up(s.address(a), op.bits // 8, TAG_WRITE)
    s.builder.store(s.narrow(value, op.bits), pointer, align=1)
    s.next()


def _store_immediate(s: StencilBuilder, op: Op, a: int) -> None:
    """The immediate of the uop is the displacement, so the value goes by another hole."""
    pointer = s.look_up(s.address(a), op.bits // 8, TAG_WRITE)
    s.builder.store(_stored_constant(s, op.bits), pointer, align=1)
    s.next()


def _stored_constant(s: StencilBuilder, bits: int) -> ir.Value:
    if bits == 64:
        return s.hole("VALUE")
    names = {32: "VALUE32", 16: "VALUE16", 8: "VALUE8"}
    return s.hole(names[bits], ir.IntType(bits))


def _store_cold(s: StencilBuilder, op: Op, value: ir.Value, a: int) -> None:
    s.slow_path(THUNK_STORE, s.address(a), value)
    s.next()


def _rmw(s: StencilBuilder, op: Op) -> None:
    bits = op.bits
    b = s.load(s.cell("B"))
    pointer = s.look_up(s.load(s.cell("A")), bits // 8, TAG_WRITE, aligned=True)
    operation = op.name.removeprefix("rmw_").rstrip("0123456789")
    old = s.builder.atomic_rmw(operation, pointer, s.narrow(b, bits), "seq_cst")
    s.builder.store(s.extend(old, op), s.cell("D"))
    s.next()


def _rmw_cold(s: StencilBuilder, op: Op) -> None:
    old = s.slow_path(THUNK_RMW, s.load(s.cell("A")), s.load(s.cell("B")))
    s.builder.store(s.extend(s.narrow(old, op.bits), op), s.cell("D"))
    s.next()


def _cmpxchg(s: StencilBuilder, op: Op) -> None:
    bits = op.bits
    new, expected = s.load(s.cell("B")), s.load(s.cell("D"))
    pointer = s.look_up(s.load(s.cell("A")), bits // 8, TAG_WRITE, aligned=True)
    pair = s.builder.cmpxchg(pointer, s.narrow(expected, bits), s.narrow(new, bits), "seq_cst", "seq_cst")
    s.builder.store(s.extend(s.builder.extract_value(pair, 0), op), s.cell("D"))
    s.next()


def _cmpxchg_cold(s: StencilBuilder, op: Op) -> None:
    s.builder.store(s.load(s.cell("D")), s.field("scratch"))
    old = s.slow_path(THUNK_CMPXCHG, s.load(s.cell("A")), s.load(s.cell("B")))
    s.builder.store(s.extend(s.narrow(old, op.bits), op), s.cell("D"))
    s.next()


def _vector_memory(s: StencilBuilder, op: Op, a: int) -> None:
    store = op.kind is Kind.VECTOR_STORE
    aligned = bool(describe(op).flags & MUST_ALIGN)
    pointer = s.look_up(s.address(a), 16, TAG_WRITE if store else TAG_READ, aligned)
    cell = s.cell("B" if store else "D")
    source, target = (cell, pointer) if store else (pointer, cell)
    vector = ir.VectorType(I64, 2)
    s.builder.store(s.load(source, vector, align=1), target, align=1)
    s.next()


def _vector_memory_cold(s: StencilBuilder, op: Op, a: int) -> None:
    store = op.kind is Kind.VECTOR_STORE
    s.slow_path(THUNK_STOREX if store else THUNK_LOADX, s.address(a), s.hole("B" if store else "D"))
    s.next()


def _vector_memory_slots(s: StencilBuilder, op: Op, x: int, a: int) -> None:
    """Like `_vector_memory`, with an xmm slot: 16 bytes in one access, which the pointer's lack of alignment allows."""
    store = op.kind is Kind.VECTOR_STORE
    aligned = bool(describe(op).flags & MUST_ALIGN)
    pointer = s.look_up(s.address(a), 16, TAG_WRITE if store else TAG_READ, aligned)
    if store:
        s.builder.store(s.xslots[x], pointer, align=1)
    else:
        s.xslots[x] = s.load(pointer, _X128, align=1)
    s.next()


def _vector_memory_slots_cold(s: StencilBuilder, op: Op, x: int, a: int) -> None:
    """The slow path works on the cell: dirty slots have been stored before."""
    store = op.kind is Kind.VECTOR_STORE
    s.slow_path(THUNK_STOREX if store else THUNK_LOADX, s.address(a), s.hole("B" if store else "D"))
    if not store:
        s.xslots[x] = s.load(s.cell("D"), _X128, align=8)
    s.next()


def _vector_slots(s: StencilBuilder, op: Op, slots: tuple[int, ...]) -> None:
    from manor.engine.lower.llvm_vector import emit_in_slots

    assert isinstance(op, VectorOp)
    d = a = b = None
    match shape(op):
        case Shape.DB:
            d = a = s.xslots[slots[0]]
            b = s.xslots[slots[1]]
        case Shape.DA:
            d, a = s.xslots[slots[0]], s.xslots[slots[1]]
        case Shape.DR:
            d, a = s.xslots[slots[0]], s.slots[slots[1]]
        case Shape.RA:
            a = s.xslots[slots[1]]
        case Shape.AB:
            a, b = s.xslots[slots[0]], s.xslots[slots[1]]
        case Shape.AR:
            a, b = s.xslots[slots[0]], s.slots[slots[1]]
        case _:
            d = a = s.xslots[slots[0]]
    result = emit_in_slots(op, s.builder, d, a, b, s.hole("IMM"))
    if op.d == "x":
        s.xslots[slots[0]] = result
    elif shape(op) is Shape.RA:
        s.slots[slots[0]] = result
    else:
        s.builder.store(result, s.cell("D"))
    s.next()


def _vector(s: StencilBuilder, op: Op) -> None:
    from manor.engine.lower.llvm_vector import emit_vector

    assert isinstance(op, VectorOp)

    def operand(kind: str, hole: str) -> Any:
        if kind == "x":
            return s.cell(hole)
        return s.load(s.cell(hole)) if kind else None

    d = s.cell("D") if op.d == "x" else None
    result = emit_vector(op, s.builder, d, operand(op.a, "A"), operand(op.b, "B"), s.hole("IMM"))
    if op.d == "r":
        s.builder.store(result, s.cell("D"))
    s.next()


def _helper(s: StencilBuilder, d: int | None, wide: bool) -> None:
    s.set_rip()
    callee = s.builder.inttoptr(s.hole("CALLEE"), PTR)
    result = s.call_native(callee, s.load(s.cell("A")), s.load(s.cell("B")), s.hole("IMM64" if wide else "IMM"))
    s.leave_if_fault()
    if d is not None:
        s.slots[d] = result
    s.next()


def _jump_index(s: StencilBuilder, rip: ir.Value) -> ir.Value:
    """Offset of `rip`'s entry in the jump cache: `jump_slot` of engine.cache_native, times the size of an entry."""
    b = s.builder
    mixed = b.xor(rip, b.lshr(rip, s.const(JUMP_HASH_SHIFT)))
    return b.and_(b.shl(mixed, s.const(4)), s.const((JUMP_CACHE_ENTRIES - 1) << 4))


def _jump_indirect(s: StencilBuilder, a: int) -> None:
    """Through the jump cache. Only a canonical rip may hit: else the flags mixed into the key could be forged."""
    b = s.builder
    rip = s.slots[a]
    index = _jump_index(s, rip)
    entry = s.at(s.at(s.env, index), OFFSETS["jump_cache"])
    key = b.xor(rip, s.hole("FLAGS"))
    hit = b.icmp_unsigned("==", s.load(entry), key)
    yes, miss = s.split(hit)
    fault, leave = (ir.IRBuilder(s.function.append_basic_block()) for _ in range(2))
    canonical = yes.icmp_unsigned("==", yes.ashr(yes.shl(rip, s.const(16)), s.const(16)), rip)
    branch = yes.cbranch(canonical, fast := s.function.append_basic_block(), fault.block)
    branch.set_weights([100000, 1])
    canonical = miss.icmp_unsigned("==", miss.ashr(miss.shl(rip, s.const(16)), s.const(16)), rip)
    miss.cbranch(canonical, leave.block, fault.block).set_weights([100000, 1])
    s.use(leave)
    s.builder.store(rip, s.field("rip"))
    s.leave()
    s.use(fault)
    _fault_at_branch(s)
    s.use(ir.IRBuilder(fast))
    s.go(_Callee(s.load(s.at(entry, 8), PTR), _STENCIL_TYPE))


def _fault_at_branch(s: StencilBuilder) -> None:
    """#GP(0), found by the interpreter: back to the branch, as if it had not moved RSP by IMM."""
    b = s.builder
    s.set_rip()
    stack_pointer = s.field("regs", 8 * RSP)
    b.store(b.sub(s.load(stack_pointer), s.hole("IMM")), stack_pointer)
    b.store(ir.Constant(I32, FAULT_ONE_INSN), s.field("fault"))
    s.leave_at_fault()


def _dispatch(s: StencilBuilder) -> None:
    """Where the run loop would go on, without leaving: only if it had nothing to do before the next block."""
    b = s.builder
    reasons = b.or_(s.load(s.field("irq_pending"), I32), s.load(s.field("nmi_pending"), I32))
    reasons = b.or_(reasons, b.and_(s.load(s.field("rflags"), I32), ir.Constant(I32, RFLAGS_TF)))
    reasons = b.or_(reasons, b.and_(s.load(s.field("dr", 8 * 7), I32), ir.Constant(I32, DR7_ENABLED)))
    quiet, leave = s.split(b.icmp_unsigned("==", reasons, ir.Constant(I32, 0)))
    s.use(quiet)
    b = s.builder
    rip = s.load(s.field("rip"))
    index = _jump_index(s, rip)
    entry = s.at(s.at(s.env, index), OFFSETS["jump_cache"])
    flags = b.shl(b.zext(s.load(s.field("block_flags"), I32), I64), s.const(JUMP_KEY_SHIFT))
    hit = _likely(s, b.icmp_unsigned("==", s.load(entry), b.xor(rip, flags)), leave)
    s.use(hit)
    b = s.builder
    canonical = b.icmp_unsigned("==", b.ashr(b.shl(rip, s.const(16)), s.const(16)), rip)
    go = _likely(s, canonical, leave)
    s.use(leave)
    s.leave()
    s.use(go)
    # in an interrupt shadow the next block is entered behind its look for interrupts
    b = s.builder
    shadow = b.icmp_unsigned("!=", s.load(s.field("shadow"), I32), ir.Constant(I32, 0))
    skipped = b.and_(b.sext(shadow, I64), s.load(s.field("thunks", 8 * THUNK_HEAD_SIZE)))
    b.store(ir.Constant(I32, 0), s.field("shadow"))
    s.go(_Callee(s.at(s.load(s.at(entry, 8), PTR), skipped), _STENCIL_TYPE))


def _likely(s: StencilBuilder, condition: ir.Value, otherwise: ir.IRBuilder) -> ir.IRBuilder:
    """Builder of the block for true, the likely one; false goes to the block of `otherwise`."""
    yes = s.function.append_basic_block()
    s.builder.cbranch(condition, yes, otherwise.block).set_weights([100000, 1])
    return ir.IRBuilder(yes)


def _special(s: StencilBuilder, special: Special, *slots: int) -> None:
    b = s.builder
    match special:
        case Special.HEAD:
            s.guard(b.icmp_unsigned("==", s.load(s.field("interrupt"), I32), ir.Constant(I32, 0)), "COLD")
            s.counter = s.builder.add(s.counter, s.hole("COUNT"))
        case Special.UNCOUNT:
            s.counter = s.builder.sub(s.counter, s.hole("COUNT"))
        case Special.EXIT_STUB:
            s.store_halves(s.field("block_exit"), "LOW", "HIGH")
            s.leave()
            return
        case Special.LEAVE:
            s.leave()
            return
        case Special.DISPATCH:
            _dispatch(s)
            return
        case Special.LOAD_X:
            s.xslots[slots[0]] = s.load(s.cell("A"), _X128, align=8)
        case Special.STORE_X:
            b.store(s.xslots[slots[0]], s.cell("D"), align=8)
        case Special.MOVE_X:
            s.xslots[slots[0]] = s.xslots[slots[1]]
        case Special.LOAD_SLOT:
            s.slots[slots[0]] = s.load(s.cell("A"))
        case Special.STORE_SLOT:
            b.store(s.slots[slots[0]], s.cell("D"))
        case Special.STORE_CONST32:
            b.store(s.hole("IMM"), s.cell("D"))
        case Special.STORE_CONST64:
            s.store_halves(s.cell("D"), "LOW", "HIGH")
        case Special.MOVE:
            s.slots[slots[0]] = s.slots[slots[1]]
        case Special.CONST_ZERO:
            s.slots[slots[0]] = s.const(0)
        case Special.CONST_U32:
            s.slots[slots[0]] = b.zext(s.hole("IMM32", I32), I64)
        case Special.CONST_S32:
            s.slots[slots[0]] = s.hole("IMM")
        case Special.CONST_64:
            s.slots[slots[0]] = s.hole("IMM64")
        case _:
            raise ValueError(f"{special.name} is not a stencil of slots")
    s.next()


def build_enter(module: StencilModule) -> None:
    """void enter(env, code): called by native code; the generated code returns to it."""
    function = ir.Function(module.module, ir.FunctionType(ir.VoidType(), [PTR, PTR]), Special.ENTER.name)
    function.linkage = "dso_local"
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block())
    env, code = function.args
    integers = [ir.Constant(I64, 0)] * (SLOTS + 1)
    vectors = [ir.Constant(_X128, ir.Undefined)] * XSLOTS
    builder.call(_Callee(code, _STENCIL_TYPE), [env, *integers, *vectors], cconv=CONVENTION)
    builder.ret_void()


def build_thunk(module: StencilModule, name: str = Special.THUNK.name, convention: str = THUNK_CONVENTION) -> None:
    """uint64_t thunk(env, a, b, imm, callee): calls a C function and keeps nearly all registers."""
    function = ir.Function(module.module, _THUNK_TYPE, name)
    function.linkage = "dso_local"
    function.calling_convention = convention
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block())
    *arguments, callee = function.args
    builder.ret(builder.call(_Callee(callee, _HELPER_TYPE), arguments))


# ---------------------------------------------------------------- the whole set
@dataclass(frozen=True, slots=True)
class Job:
    """One stencil to build: its name, and a function that builds it (and its probes).

    shift_bits, probed: a hole is found by comparing two builds: a shift amount at this width, or an immediate.
    """

    name: str
    build: Callable[[StencilModule], None]
    shift_bits: int = 0
    hot: bool = True
    probed: bool = False


def _slot_combinations(arity: int | tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All choices of slots; the first varies slowest."""
    counts = (SLOTS,) * arity if isinstance(arity, int) else arity
    yield from itertools.product(*map(range, counts))


def _build_op(s: StencilBuilder, op: Op, form: Form, slots: tuple[int, ...], imm: Any) -> None:
    cold = form in (Form.RR_COLD, Form.RI_COLD, Form.MEMORY_COLD)
    if form in (Form.X, Form.X_COLD):
        if op.kind is Kind.VECTOR:
            _vector_slots(s, op, slots)
        else:
            (_vector_memory_slots if form is Form.X else _vector_memory_slots_cold)(s, op, *slots)
        return
    match op.kind:
        case Kind.UNARY:
            _unary(s, op, slots[0], slots[-1])
        case Kind.BINARY:
            _binary(s, op, slots[0], s.slots[slots[1]] if form is Form.RR else s.load(s.cell("B")))
        case Kind.BINARY_IMM:
            _binary(s, op, slots[0], imm)
        case Kind.UPDATE:
            _update(s, op, *slots)
        case Kind.BRANCH:
            # A slot compared with itself: LLVM must not drop the exit that is never taken.
            b = s.slots[slots[1]]
            _branch(s, op, slots[0], s.settle(b) if slots[0] == slots[1] else b)
        case Kind.BRANCH_IMM:
            _branch(s, op, slots[0], imm)
        case Kind.LOAD:
            (_load_cold if cold else _load)(s, op, *slots)
        case Kind.STORE if form in (Form.RR, Form.RR_COLD):
            (_store_cold if cold else _store)(s, op, s.slots[slots[0]], slots[1])
        case Kind.STORE if cold:
            _store_cold(s, op, s.hole("VALUE"), slots[0])
        case Kind.STORE:
            _store_immediate(s, op, slots[0])
        case Kind.RMW:
            (_rmw_cold if cold else _rmw)(s, op)
        case Kind.CMPXCHG:
            (_cmpxchg_cold if cold else _cmpxchg)(s, op)
        case Kind.VECTOR_LOAD | Kind.VECTOR_STORE:
            (_vector_memory_cold if cold else _vector_memory)(s, op, *slots)
        case Kind.VECTOR:
            _vector(s, op)
        case Kind.HELPER:
            _helper(s, slots[0] if slots else None, form in (Form.RI_WIDE, Form.MEMORY_WIDE))
        case Kind.JUMP_INDIRECT:
            _jump_indirect(s, *slots)
        case _:
            raise ValueError(f"no stencil for {op.kind.name}")


def stencil_name(owner: str, form: str, slots: tuple[int, ...]) -> str:
    return ".".join((owner, form, *map(str, slots)))


def _op_job(op: Op, form: Form, slots: tuple[int, ...]) -> Job:
    name = stencil_name(op.name, form.name, slots)
    info = describe(op)
    is_probed = _PROBED.fullmatch(op.name) is not None
    if info.flags & SHIFT_AMOUNT or is_probed:
        probes = tuple(~0 << 32 | low for low in IMMEDIATE_PROBES) if is_probed else SHIFT_PROBES[info.modulus]

        def build_probes(module: StencilModule) -> None:
            for suffix, value in zip(("", "~"), probes, strict=True):
                s = StencilBuilder(module, name + suffix)
                _build_op(s, op, form, slots, s.const(value))

        return Job(name, build_probes, shift_bits=0 if is_probed else info.modulus, probed=is_probed)

    def build(module: StencilModule) -> None:
        s = StencilBuilder(module, name)
        _build_op(s, op, form, slots, s.immediate())

    # A helper call has its fault exit inline, after the jump to NEXT.
    hot = form not in (Form.RR_COLD, Form.RI_COLD, Form.MEMORY_COLD, Form.X_COLD) and op.kind is not Kind.HELPER
    return Job(name, build, hot=hot)


def _special_job(special: Special, slots: tuple[int, ...]) -> Job:
    if special is Special.ENTER:
        return Job(special.name, build_enter, hot=False)
    if special is Special.THUNK:
        return Job(special.name, build_thunk, hot=False)
    if special is Special.THUNK_ALL:
        return Job(special.name, lambda module: build_thunk(module, special.name, THUNK_ALL_CONVENTION), hot=False)
    name = stencil_name(special.name, "SPECIAL", slots)
    return Job(name, lambda module: _special(StencilBuilder(module, name), special, *slots))


def all_jobs() -> tuple[list[Job], dict[tuple[str, int], int]]:
    """Every stencil in its order in the blob, and where each (op or special name, form) begins."""
    jobs: list[Job] = []
    first: dict[tuple[str, int], int] = {}
    for special in Special:
        first[special.name, -1] = len(jobs)
        jobs += [_special_job(special, slots) for slots in _slot_combinations(SPECIAL_ARITY.get(special, 0))]
    for op in OPS:
        for form, arity in forms_of(op):
            first[op.name, form] = len(jobs)
            jobs += [_op_job(op, form, slots) for slots in _slot_combinations(arity)]
    return jobs, first


def target_machine() -> binding.TargetMachine:
    """The host's code generator at the lowest CPU that the engine supports."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.initialize_native_asmparser()
    target = binding.Target.from_default_triple()
    return target.create_target_machine(
        cpu=HOST_CPU, features="-fast-shld-rotate", opt=2, reloc="static", codemodel="small"
    )


def compile_jobs(jobs: list[Job]) -> dict[str, Function]:
    """Host code of the given stencils, several modules in turn to bound memory."""
    machine = target_machine()
    functions: dict[str, Function] = {}
    for start in range(0, len(jobs), STENCILS_PER_MODULE):
        module = StencilModule()
        for job in jobs[start : start + STENCILS_PER_MODULE]:
            job.build(module)
        functions.update(module.compile(machine))
    return functions
