"""Random cases from the instruction table: operands, registers, memory, and what may not be compared.

A case is reproducible from its name (`row/seed` or `block.group/seed`). In a block some registers are set aside for
addresses and never written, so that most accesses of later instructions still hit memory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.oracle import values
from tests.oracle.cases import ROWS, Row
from tests.oracle.encode import RIP_BASE, CannotEncode, Memory, encode, immediate_size
from tests.oracle.state import (
    AC,
    AF,
    CF,
    DF,
    ID,
    MASK64,
    OF,
    PAGE_SIZE,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    STATUS_FLAGS,
    TF,
    MachineState,
    Undefined,
)  # fmt: skip

CODE = 0x7001_0000
DATA = 0x7010_0000
DATA_SIZE = 2 * PAGE_SIZE
STACK = 0x7020_0000
READ_ONLY = 0x7030_0000
UNMAPPED = DATA + DATA_SIZE
NON_CANONICAL = 0x8000_0000_0000
USER_CS, USER_SS = 0x33, 0x2B
"""The selectors iretq and retfq find on the stack: those Linux gives 64-bit programs."""

# Registers of a block: sources and destinations, bases, one index with a small value.
_BLOCK_DATA = (0, 1, 2, 3, 5, 8, 9, 10, 11, 15)
_BLOCK_BASES = (6, 7, 12, 13)
_BLOCK_INDEX = 14
_EVERY = tuple(range(16))


@dataclass(slots=True)
class Case:
    """Something to run and how to judge it. host_code differs from code only where the host is newer."""

    name: str
    rows: tuple[Row, ...]
    code: bytes
    host_code: bytes
    state: MachineState
    undefined: Undefined

    @property
    def mnemonic(self) -> str:
        return self.rows[0].mnemonic if len(self.rows) == 1 else "block"


@dataclass(slots=True)
class _Machine:
    """The state of a case while it is being made."""

    rng: Random
    state: MachineState
    pages: dict[int, bytearray]
    block: bool = False
    pinned: set[int] = field(default_factory=set)

    def poke(self, address: int, data: bytes) -> None:
        """Write what lies in mapped pages, ignore the rest."""
        for offset, byte in enumerate(data):
            page = self.pages.get((address + offset) & ~(PAGE_SIZE - 1))
            if page is not None:
                page[(address + offset) % PAGE_SIZE] = byte

    def pin(self, register: int, value: int) -> None:
        self.state.gpr[register] = value & MASK64
        self.pinned.add(register)


_PAGE_POOL: list[bytes] = []


def _page(rng: Random) -> bytearray:
    if not _PAGE_POOL:
        fill = Random(1)
        _PAGE_POOL.extend(fill.randbytes(PAGE_SIZE) for _ in range(16))
    return bytearray(rng.choice(_PAGE_POOL))


def _machine(rng: Random, group: str, block: bool) -> _Machine:
    state = MachineState()
    state.gpr = [values.integer(rng, 64) for _ in range(16)]
    state.gpr[RSP] = STACK + PAGE_SIZE // 2 + rng.randrange(-32, 32) * 8
    state.rip = CODE + 0x400 + rng.randrange(0x400)
    state.rflags = 0x202 | rng.getrandbits(12) & STATUS_FLAGS | (DF if rng.random() < 0.2 else 0)
    state.xmm = [rng.getrandbits(128) for _ in range(16)]
    if group.startswith("sse") or rng.random() < 0.2:
        state.mxcsr = values.mxcsr(rng)
    state.x87 = values.x87_image(rng, full=group.startswith("x87"))
    state.fs_base = rng.randrange(0x6000_0000)
    state.gs_base = rng.randrange(0x6000_0000)
    pages = {page: _page(rng) for page in (DATA, DATA + PAGE_SIZE, STACK, READ_ONLY)}
    state.read_only = frozenset((READ_ONLY,))
    machine = _Machine(rng, state, pages, block)
    if block:
        machine.pinned |= {RSP, _BLOCK_INDEX, *_BLOCK_BASES}
        for base in _BLOCK_BASES:
            state.gpr[base] = DATA + rng.randrange(DATA_SIZE)
        state.gpr[_BLOCK_INDEX] = rng.randrange(-64, 64) & MASK64
    return machine


# --- Operands --------------------------------------------------------------------------------------------------------

_SIZE_LETTERS = {"b": 1, "w": 2, "d": 4, "q": 8}


@dataclass(slots=True)
class _Operands:
    """What was chosen for one instruction."""

    row: Row
    size: int = 4
    reg: int = 0
    rm: int | Memory | None = None
    memory_size: int = 0
    address: int | None = None
    prefixes: bytes = b""
    immediates: list[int] = field(default_factory=list)
    rex: str = "auto"
    undefined_gpr: dict[int, int] = field(default_factory=dict)
    undefined_memory: list[tuple[int, int]] = field(default_factory=list)
    undefined_flags: int = 0
    written_flags: int = 0

    @property
    def encode_size(self) -> int:
        """Stack operations are 64-bit without REX.W."""
        return 4 if self.size == 8 and any(op[-1] == "o" for op in self.row.operands) else self.size


def _operand_size(rng: Random, row: Row) -> int:
    kinds = {op[-1] for op in row.operands if op[0] in "EGMRZAI"}
    if "v" in kinds:
        return rng.choice((2, 4, 8))
    if "y" in kinds:
        return rng.choice((4, 8))
    if "o" in kinds:
        return rng.choice((8, 8, 8, 2))
    return 1 if "b" in kinds or "AL" in row.operands else 4


def _memory_size(operand: str, size: int) -> int:
    tail = operand[1:]
    if tail.isdigit():
        return int(tail)
    return _SIZE_LETTERS.get(tail, size)


def _register(machine: _Machine, operand: str, chosen: _Operands) -> int:
    """A register number for a register operand; settles REX for byte registers."""
    rng = machine.rng
    kind = operand[0]
    if kind in "PNQ":
        return rng.randrange(8)
    if kind in "VUW":
        return rng.randrange(16)
    if operand[1] == "b":
        if chosen.rex == "auto":
            chosen.rex = rng.choice(("forbid", "force"))
        if machine.block:  # the high bytes of rax to rbx, never a byte of an address register
            return rng.choice((0, 1, 2, 3, 4, 5, 6, 7)) if chosen.rex == "forbid" else rng.choice(_BLOCK_DATA)
        return rng.randrange(8 if chosen.rex == "forbid" else 16)
    return rng.choice(_BLOCK_DATA if machine.block else _EVERY)


def _target(machine: _Machine, size: int, aligned: bool) -> int:
    """An address for an access of `size` bytes: mostly fine, sometimes at a border, sometimes faulting."""
    rng = machine.rng
    size = max(size, 1)
    kind = rng.random()
    fault = 0.02 if machine.block else 0.1
    if kind < fault:
        choice = rng.randrange(5)
        if choice == 0:
            address = UNMAPPED + rng.randrange(PAGE_SIZE)
        elif choice == 1:
            address = READ_ONLY + rng.randrange(PAGE_SIZE - size)
        elif choice == 2 and not machine.block:
            address = NON_CANONICAL + rng.randrange(PAGE_SIZE)
        else:
            address = UNMAPPED - rng.randrange(0, size)
    elif kind < 0.2 + fault:
        address = DATA + PAGE_SIZE - rng.randrange(0, size + 1)
    else:
        address = DATA + rng.randrange(DATA_SIZE - size)
    power = 1 << (min(size, 64).bit_length() - 1)
    if aligned or rng.random() < 0.3:
        address &= -power
    return address


def _memory(machine: _Machine, target: int, chosen: _Operands, avoid: Iterable[int] = ()) -> Memory:
    """An addressing form that yields target; sets the registers to fit, in a block only the displacement."""
    rng = machine.rng
    state = machine.state
    linear = target
    if rng.random() < 0.08:
        segment = rng.choice((0x64, 0x65))
        chosen.prefixes += bytes((segment,))
        linear = (target - (state.fs_base if segment == 0x64 else state.gs_base)) & MASK64
    elif rng.random() < 0.04:
        chosen.prefixes += rng.choice((b"\x26", b"\x2e", b"\x36", b"\x3e"))
    short = 0 <= linear < 1 << 32
    forms = ["base"] * 6 + ["index"] * 4 + (["absolute"] if 0 <= linear < 1 << 31 else [])
    if abs(linear - state.rip) < 1 << 31:
        forms.append("rip")
    if not machine.block:
        forms.append("index only")
    form = rng.choice(forms)
    if short and rng.random() < 0.05:
        chosen.prefixes += b"\x67"
        narrow = True
    else:
        narrow = False
    if form == "rip":
        return Memory(base=RIP_BASE, disp=linear)
    if form == "absolute":
        return Memory(disp=linear)
    if machine.block:
        return _fixed_form(machine, linear, form, narrow)
    limit = 8 if chosen.rex == "forbid" else 16
    free = [r for r in range(limit) if r not in machine.pinned and r not in avoid]
    index = rng.choice([r for r in free if r != RSP] or [None]) if form != "base" else None
    if form != "base" and index is None:
        form = "base"
    bases = [r for r in free if r != index]
    if not bases:
        return Memory(disp=linear)
    base = None if form == "index only" else rng.choice(bases)
    scale = rng.choice((1, 2, 4, 8))
    disp_size = rng.choice((0, 1, 1, 4)) if base is not None else 4
    if base is not None and base & 7 == 5 and disp_size == 0:
        disp_size = 1
    disp = {0: 0, 1: rng.randrange(-128, 128), 4: rng.randrange(-1 << 31, 1 << 31)}[disp_size]
    mask = 0xFFFF_FFFF if narrow else MASK64
    if index is not None:
        if base is None:
            # linear = index * scale + disp, so choose disp to make the division exact
            disp = (linear % scale) + scale * rng.randrange(-1000, 1000)
            state.gpr[index] = ((linear - disp) // scale) & mask
        else:
            state.gpr[index] = rng.choice((rng.randrange(-2000, 2000) & mask, values.integer(rng, 64) & mask))
    if base is not None:
        offset = state.gpr[index] * scale if index is not None else 0
        state.gpr[base] = (linear - disp - offset) & mask
    if narrow:
        for register in {base, index} - {None}:
            state.gpr[register] |= rng.getrandbits(32) << 32  # type: ignore[index]
    return Memory(base, index, scale, disp, disp_size)


def _fixed_form(machine: _Machine, linear: int, form: str, narrow: bool) -> Memory:
    base = machine.rng.choice(_BLOCK_BASES)
    index, scale, offset = None, 1, machine.state.gpr[base]
    if form == "index":
        index, scale = _BLOCK_INDEX, machine.rng.choice((1, 2, 4, 8))
        offset += machine.state.gpr[index] * scale
    disp = (linear - offset) & MASK64
    disp = disp - (1 << 64) if disp >> 63 else disp
    if not -1 << 31 <= disp < 1 << 31:
        return Memory(disp=linear)  # only non-canonical or segment-relative targets; kept below 2 GiB by the callers
    small = -128 <= disp < 128
    return Memory(base, index, scale, disp, 1 if small else 4)


_ALIGNED_16_EXEMPT = frozenset(
    ("movups", "movupd", "movdqu", "lddqu", "pcmpestrm", "pcmpestri", "pcmpistrm", "pcmpistri", "cmpxchg8b")
)


def _choose(machine: _Machine, row: Row) -> _Operands:
    """Operands of one instruction; registers and memory they refer to are filled."""
    rng = machine.rng
    chosen = _Operands(row, _operand_size(rng, row))
    if row.setup == "shift_cl" and row.mnemonic in ("shld", "shrd") and chosen.size == 2 and machine.block:
        chosen.size = 4  # a count above 16 leaves the result undefined
    if row.setup in _PREPARE:
        _PREPARE[row.setup](machine, chosen)
    rm_operand = next((op for op in row.operands if op[0] in "EMRWUQN" and not _is_implicit(op)), None)
    use_memory = rm_operand is not None and (rm_operand[0] == "M" or (rm_operand[0] in "EWQ" and rng.random() < 0.5))
    for operand in row.operands:
        if operand[0] in "GPVZ":
            chosen.reg = _register(machine, operand, chosen)
        elif operand is rm_operand and not use_memory:
            chosen.rm = _register(machine, operand, chosen)
    if row.lock and use_memory and rng.random() < 0.3:
        chosen.prefixes += b"\xf0"
    if rm_operand is not None and use_memory:
        size = chosen.memory_size = _memory_size(rm_operand, chosen.size)
        must = (size == 16 and row.mnemonic not in _ALIGNED_16_EXEMPT) or size == 512
        locked = b"\xf0" in chosen.prefixes or row.mnemonic == "xchg"
        aligned = locked or (must and (machine.block or rng.random() < 0.93))
        target = rng.getrandbits(64) if row.setup == "lea" and not machine.block else _target(machine, size, aligned)
        avoid = {chosen.reg} if any(op[0] == "G" for op in row.operands) and row.setup == "bit_offset" else set()
        if row.setup == "bit_offset":
            chosen.address = target
            target = _bit_offset(machine, chosen, target)
            chosen.rm = _memory(machine, target, chosen, avoid)
        else:
            chosen.rm = _memory(machine, target, chosen)
            chosen.address = target
            if row.data != "int" or rng.random() < 0.5:
                machine.poke(target, values.vector(rng, row.data, size))
    for kind in row.template.immediates:
        if len(chosen.immediates) < len(row.template.immediates):
            bits = 8 * immediate_size(kind, max(chosen.encode_size, 1))
            value = values.integer(rng, bits)
            # CMPPS and its kin: bits 3-7 of the predicate are reserved without VEX.
            chosen.immediates.append(value & 7 if row.template.opcode == b"\x0f\xc2" else value)
    _fill_sources(machine, chosen)
    chosen.undefined_flags |= row.undefined
    chosen.written_flags |= row.writes
    if row.setup in _FINISH:
        _FINISH[row.setup](machine, chosen)
    return chosen


def _is_implicit(operand: str) -> bool:
    return operand in ("W", "Q")  # sizes of string instructions


def _fill_sources(machine: _Machine, chosen: _Operands) -> None:
    """Interesting lanes in the vector registers an instruction reads."""
    if machine.block:
        return
    rng, state, row = machine.rng, machine.state, chosen.row
    for operand in row.operands:
        number = chosen.reg if operand[0] in "VP" else chosen.rm
        if not isinstance(number, int):
            continue
        if operand[0] in "VUW" and not _is_implicit(operand):
            data = "int" if row.data == "count" and operand[0] == "V" else row.data
            state.xmm[number] = int.from_bytes(values.vector(rng, data, 16), "little")
        elif operand[0] in "PNQ" and not _is_implicit(operand):
            data = "int" if row.data == "count" and operand[0] == "P" else row.data
            _set_mmx(state, number, values.vector(rng, data, 8))


def _set_mmx(state: MachineState, number: int, data: bytes) -> None:
    """Physical register `number`, which FXSAVE stores at ST(number - TOP)."""
    top = state.x87[3] >> 3 & 7
    at = 32 + 16 * ((number - top) & 7)
    state.x87 = state.x87[:at] + data + state.x87[at + 8 :]


# --- Preparations by instruction: before operands are chosen (_PREPARE) and after (_FINISH) ---------------------------


def _width(operand: str) -> int:
    return {"B": 1, "W": 2, "D": 4, "Q": 8}[operand]


def _prepare_string(repeat: int | None) -> Callable[[_Machine, _Operands], None]:
    def prepare(machine: _Machine, chosen: _Operands) -> None:
        rng = machine.rng
        width = _width(chosen.row.operands[0])
        if repeat is not None:
            machine.pin(RCX, rng.choice((0, 1, 2, rng.randrange(40), rng.randrange(40), rng.randrange(2000))))
            chosen.prefixes += bytes((repeat,))
        for register in (RSI, RDI):
            machine.pin(
                register,
                DATA + rng.randrange(DATA_SIZE) if rng.random() < 0.9 else _target(machine, width, False),
            )
        if rng.random() < 0.2:  # overlapping copies
            machine.pin(RDI, machine.state.gpr[RSI] + rng.randrange(-9, 10))
        if chosen.row.mnemonic[:4] in ("cmps", "scas"):
            byte = rng.choice(b"\x00\xff\x20")
            for page in (DATA, DATA + PAGE_SIZE):
                machine.pages[page][:] = bytes((byte,)) * PAGE_SIZE
                for _ in range(rng.choice((0, 3, 60))):
                    machine.pages[page][rng.randrange(PAGE_SIZE)] ^= 1
            machine.pin(RAX, int.from_bytes(bytes((byte,)) * 8, "little") ^ rng.choice((0, 1)))
        if rng.random() < 0.06:
            chosen.prefixes += b"\x67"
            for register in (RSI, RDI, RCX):
                if machine.state.gpr[register] < 1 << 32:
                    machine.pin(register, machine.state.gpr[register] | rng.getrandbits(32) << 32)
            if repeat is not None and machine.state.gpr[RCX] & 0xFFFF_FFFF == 0:
                # Whether no iteration at all still clears the upper halves differs between CPUs.
                for register in (RSI, RDI, RCX):
                    chosen.undefined_gpr[register] = MASK64 & ~0xFFFF_FFFF

    return prepare


def _prepare_stack(machine: _Machine, chosen: _Operands) -> None:
    rng = machine.rng
    kind = rng.random()
    if kind < 0.8:
        address = STACK + rng.randrange(64, PAGE_SIZE - 64) & -8
    elif kind < 0.9:
        address = STACK + rng.randrange(64, PAGE_SIZE - 64)
    else:
        address = rng.choice((STACK, STACK + 4, STACK + PAGE_SIZE - 4, STACK + PAGE_SIZE, UNMAPPED, NON_CANONICAL + 8))
    machine.pin(RSP, address)


def _prepare_popf(machine: _Machine, chosen: _Operands) -> None:
    _prepare_stack(machine, chosen)
    flags = machine.rng.getrandbits(64) & 0xFFFF_FFFF & ~(TF | AC)
    flags |= AC if machine.rng.random() < 0.2 else 0
    machine.poke(machine.state.gpr[RSP], flags.to_bytes(8, "little"))


def _prepare_leave(machine: _Machine, chosen: _Operands) -> None:
    _prepare_stack(machine, chosen)
    machine.pin(RBP, machine.state.gpr[RSP])
    machine.pin(RSP, machine.rng.getrandbits(64))


def _prepare_enter(machine: _Machine, chosen: _Operands) -> None:
    rng = machine.rng
    _prepare_stack(machine, chosen)
    machine.pin(RBP, STACK + rng.randrange(300, PAGE_SIZE - 64))
    chosen.immediates = [
        rng.choice((0, 8, rng.randrange(0x200))),
        rng.choice((0, 0, 1, 2, 3, 31, rng.getrandbits(8))),
    ]


def _prepare_jump(machine: _Machine, chosen: _Operands) -> None:
    rng = machine.rng
    wide = "id" in chosen.row.template.immediates
    forward = rng.randrange(0x80) if not wide else rng.randrange(0x400)
    backward = -rng.randrange(16, 0x80) if not wide else -rng.randrange(16, 0x3F0)
    far = 0x1000_0000 if wide else forward  # unmapped: the fetch faults after the jump
    chosen.immediates = [rng.choice((forward, forward, backward, far if rng.random() < 0.1 else forward))]


def _prepare_call(machine: _Machine, chosen: _Operands) -> None:
    _prepare_stack(machine, chosen)
    if chosen.row.template.immediates:
        _prepare_jump(machine, chosen)


def _code_target(rng: Random) -> int:
    kind = rng.random()
    if kind < 0.04:
        return NON_CANONICAL + rng.randrange(PAGE_SIZE)
    if kind < 0.08:
        return UNMAPPED + rng.randrange(PAGE_SIZE)
    return CODE + rng.choice((rng.randrange(0x3F0), 0x900 + rng.randrange(0x400)))


def _finish_indirect(machine: _Machine, chosen: _Operands) -> None:
    target = _code_target(machine.rng)
    if isinstance(chosen.rm, int):
        if chosen.rm not in machine.pinned:
            machine.state.gpr[chosen.rm] = target
    elif chosen.address is not None:
        machine.poke(chosen.address, target.to_bytes(8, "little"))


def _prepare_ret(machine: _Machine, chosen: _Operands) -> None:
    _prepare_stack(machine, chosen)
    frame = [_code_target(machine.rng)]
    if chosen.row.setup == "ret_imm":
        chosen.immediates = [machine.rng.choice((0, 8, machine.rng.getrandbits(16)))]
    elif chosen.row.setup == "retf":
        frame.append(USER_CS)
    elif chosen.row.setup == "iret":
        flags = machine.rng.getrandbits(12) & (STATUS_FLAGS | DF) | 0x202 | (ID if machine.rng.random() < 0.5 else 0)
        frame += [USER_CS, flags, machine.rng.getrandbits(64), USER_SS]
    machine.poke(machine.state.gpr[RSP], struct.pack(f"<{len(frame)}Q", *frame))


def _prepare_loop(machine: _Machine, chosen: _Operands) -> None:
    rng = machine.rng
    machine.pin(
        RCX,
        rng.choice((0, 1, 2, rng.getrandbits(64), rng.getrandbits(32) << 32, 1 | rng.getrandbits(32) << 32)),
    )
    if "67" not in chosen.row.template_text and rng.random() < 0.1 and chosen.row.mnemonic != "jrcxz":
        chosen.prefixes += b"\x67"
    chosen.immediates = [rng.choice((rng.randrange(0x80), -rng.randrange(16, 0x80)))]


def _prepare_xlat(machine: _Machine, chosen: _Operands) -> None:
    machine.pin(RBX, _target(machine, 1, False) - (machine.state.gpr[RAX] & 0xFF))


def _finish_cmpxchg(machine: _Machine, chosen: _Operands) -> None:
    if machine.block or machine.rng.random() < 0.4:
        return
    size, state = chosen.size, machine.state
    mask = (1 << 8 * size) - 1
    if chosen.address is not None:
        machine.poke(chosen.address, (state.gpr[RAX] & mask).to_bytes(size, "little"))
    elif isinstance(chosen.rm, int) and chosen.rm not in machine.pinned:
        number = chosen.rm
        if size == 1 and chosen.rex == "forbid" and number >= 4:
            number -= 4
            value = state.gpr[RAX] & 0xFF
            state.gpr[number] = state.gpr[number] & ~0xFF00 | value << 8
            if number == RAX:
                state.gpr[RAX] = state.gpr[RAX] & ~0xFF | value
        else:
            state.gpr[number] = state.gpr[number] & ~mask | state.gpr[RAX] & mask


def _prepare_cmpxchg_pair(machine: _Machine, chosen: _Operands) -> None:
    machine.pinned |= {RAX, RDX, RBX, RCX}


def _finish_cmpxchg_pair(machine: _Machine, chosen: _Operands) -> None:
    if chosen.address is None or machine.rng.random() < 0.4:
        return
    half = chosen.memory_size // 2
    mask = (1 << 8 * half) - 1
    low, high = machine.state.gpr[RAX] & mask, machine.state.gpr[RDX] & mask
    machine.poke(chosen.address, low.to_bytes(half, "little") + high.to_bytes(half, "little"))


def shift_undefined(mnemonic: str, count: int | None, size: int) -> tuple[int, int]:
    """(undefined, certainly written) flags. count None: not known, so anything may happen.

    Source: SDM volume 2, "RCL/RCR/ROL/ROR", "SAL/SAR/SHL/SHR", "SHLD", "SHRD": Flags Affected.
    """
    rotate = mnemonic in ("rol", "ror", "rcl", "rcr")
    double = mnemonic in ("shld", "shrd")
    if count is None:
        undefined = OF if rotate else AF | OF | CF
        return (STATUS_FLAGS if double and size == 2 else undefined), 0
    count &= 63 if size == 8 else 31
    if count == 0:
        return 0, 0
    undefined = 0 if count == 1 else OF
    if rotate:
        return undefined, undefined
    undefined |= AF
    bits = 8 * size
    if double and count > bits:
        return STATUS_FLAGS, STATUS_FLAGS
    if mnemonic in ("shl", "shr") and count >= bits:
        undefined |= CF
    return undefined, STATUS_FLAGS


def _prepare_shift_imm(machine: _Machine, chosen: _Operands) -> None:
    rng = machine.rng
    count = rng.choice((0, 1, 1, rng.randrange(8), rng.randrange(16), rng.randrange(66), rng.getrandbits(8)))
    if chosen.row.mnemonic in ("shld", "shrd") and chosen.size == 2 and count & 31 > 16:
        count &= 0x0F
    chosen.immediates = [count]
    chosen.undefined_flags, chosen.written_flags = shift_undefined(chosen.row.mnemonic, count, chosen.size)


def _prepare_shift_one(machine: _Machine, chosen: _Operands) -> None:
    chosen.undefined_flags, chosen.written_flags = shift_undefined(chosen.row.mnemonic, 1, chosen.size)


def _prepare_shift_cl(machine: _Machine, chosen: _Operands) -> None:
    rng = machine.rng
    if machine.block:
        chosen.undefined_flags, chosen.written_flags = shift_undefined(chosen.row.mnemonic, None, chosen.size)
        return
    count = rng.choice((0, 1, 1, rng.randrange(8), rng.randrange(16), rng.randrange(66), rng.getrandbits(8)))
    if chosen.row.mnemonic in ("shld", "shrd") and chosen.size == 2 and count & 31 > 16:
        count &= 0x0F
    machine.pin(RCX, machine.state.gpr[RCX] & ~0xFF | count)
    chosen.undefined_flags, chosen.written_flags = shift_undefined(chosen.row.mnemonic, count, chosen.size)


def _bit_offset(machine: _Machine, chosen: _Operands, target: int) -> int:
    """Base address such that the bit addressed by the offset register lies in the unit at target."""
    bits = 8 * chosen.size
    rng, state = machine.rng, machine.state
    if machine.block:
        return target  # the offset is whatever the register holds: often a fault, which is fine
    offset = rng.randrange(-12000, 12000)
    mask = (1 << bits) - 1
    state.gpr[chosen.reg] = state.gpr[chosen.reg] & ~mask | offset & mask
    return (target - chosen.size * (offset // bits)) & MASK64


def _finish_bit_scan(machine: _Machine, chosen: _Operands) -> None:
    rng, size = machine.rng, chosen.size
    if chosen.size == 4:
        # A zero source leaves the destination as it was, but CPUs differ in whether a 32-bit form clears the rest.
        chosen.undefined_gpr[chosen.reg] = MASK64 & ~0xFFFF_FFFF
    if machine.block:
        return
    value = rng.choice((0, 1 << rng.randrange(8 * size), values.integer(rng, 8 * size)))
    mask = (1 << 8 * size) - 1
    if isinstance(chosen.rm, int):
        machine.state.gpr[chosen.rm] = machine.state.gpr[chosen.rm] & ~mask | value
        source = machine.state.gpr[chosen.rm] & mask
    else:
        assert chosen.address is not None
        machine.poke(chosen.address, value.to_bytes(size, "little"))
        source = value
    if source:
        chosen.undefined_gpr.clear()


def _prepare_divide(machine: _Machine, chosen: _Operands) -> None:
    if not machine.block:
        machine.pinned |= {RAX, RDX}


def _finish_divide(machine: _Machine, chosen: _Operands) -> None:
    """Mostly a quotient that fits, so that #DE is the exception."""
    rng, size, state = machine.rng, chosen.size, machine.state
    if machine.block or rng.random() < 0.15:
        return
    bits = 8 * size
    mask = (1 << bits) - 1
    divisor, quotient = values.integer(rng, bits), values.integer(rng, bits)
    signed = chosen.row.mnemonic == "idiv"
    if signed:
        divisor = divisor - (1 << bits) if divisor >> (bits - 1) else divisor
        quotient = quotient - (1 << bits) if quotient >> (bits - 1) else quotient
    remainder = rng.randrange(abs(divisor)) if divisor else 0
    product = divisor * quotient
    dividend = (product + (-remainder if product < 0 else remainder)) & ((1 << 2 * bits) - 1)
    if size == 1:
        state.gpr[RAX] = state.gpr[RAX] & ~0xFFFF | dividend
    else:
        state.gpr[RAX] = state.gpr[RAX] & ~mask | dividend & mask
        state.gpr[RDX] = state.gpr[RDX] & ~mask | dividend >> bits
    if chosen.address is not None:
        machine.poke(chosen.address, (divisor & mask).to_bytes(size, "little"))
    elif isinstance(chosen.rm, int) and chosen.rm not in (RAX, RDX):
        if size == 1 and chosen.rex == "forbid" and chosen.rm >= 4:
            return  # a high byte register: whatever it holds
        state.gpr[chosen.rm] = state.gpr[chosen.rm] & ~mask | divisor & mask


def _prepare_moffs(machine: _Machine, chosen: _Operands) -> None:
    chosen.immediates = [_target(machine, chosen.size, False)]


def _prepare_maskmov(machine: _Machine, chosen: _Operands) -> None:
    machine.pin(RDI, _target(machine, 16, False))


def _finish_mxcsr(machine: _Machine, chosen: _Operands) -> None:
    value = values.mxcsr(machine.rng) | (0x10000 if machine.rng.random() < 0.1 and not machine.block else 0)
    if chosen.address is not None:
        machine.poke(chosen.address, value.to_bytes(4, "little"))


def _prepare_shift_count(machine: _Machine, chosen: _Operands) -> None:
    rng = machine.rng
    chosen.immediates = [rng.choice((rng.randrange(20), rng.randrange(70), rng.getrandbits(8)))]


def _finish_text(machine: _Machine, chosen: _Operands) -> None:
    rng, state = machine.rng, machine.state
    state.xmm[chosen.reg] = int.from_bytes(values.vector(rng, "text", 16), "little")
    if isinstance(chosen.rm, int):
        state.xmm[chosen.rm] = int.from_bytes(values.vector(rng, "text", 16), "little")
    elif chosen.address is not None:
        machine.poke(chosen.address, values.vector(rng, "text", 16))
    chosen.immediates = [rng.getrandbits(7)]
    for register in (RAX, RDX):
        if not isinstance(chosen.rm, Memory) or register not in (chosen.rm.base, chosen.rm.index):
            state.gpr[register] = rng.choice((rng.randrange(-18, 19) & 0xFFFF_FFFF, values.integer(rng, 64)))


def _finish_fcw(machine: _Machine, chosen: _Operands) -> None:
    if chosen.address is not None:
        machine.poke(chosen.address, values.fcw(machine.rng).to_bytes(2, "little"))


def _finish_fenv(machine: _Machine, chosen: _Operands) -> None:
    rng = machine.rng
    control = values.fcw(rng)
    image = struct.pack("<III", control | 0xFFFF0000, values.fsw(rng, control) | 0xFFFF0000, rng.getrandbits(16))
    image += bytes(16) + b"".join(values.f80(rng).to_bytes(10, "little") for _ in range(8))
    if chosen.address is not None:
        machine.poke(chosen.address, image[: chosen.memory_size])


def _finish_fstenv(machine: _Machine, chosen: _Operands) -> None:
    assert chosen.address is not None
    chosen.undefined_memory.append((chosen.address + 12, 16))  # FIP, FCS, FOP, FDP, FDS


def _finish_fxsave(machine: _Machine, chosen: _Operands) -> None:
    assert chosen.address is not None
    chosen.undefined_memory.append((chosen.address + 6, 18))  # FOP, FIP, FDP
    chosen.undefined_memory.append((chosen.address + 28, 4))  # MXCSR_MASK: the processor's features
    chosen.undefined_memory.append((chosen.address + 416, 96))  # reserved, or available to software


def _finish_fxrstor(machine: _Machine, chosen: _Operands) -> None:
    rng = machine.rng
    image = bytearray(values.x87_image(rng, full=rng.random() < 0.5))
    struct.pack_into("<II", image, 24, values.mxcsr(rng) | (0x10000 if rng.random() < 0.1 else 0), 0)
    image[160:416] = rng.randbytes(256)
    if chosen.address is not None:
        machine.poke(chosen.address, bytes(image))


def _prepare_int(machine: _Machine, chosen: _Operands) -> None:
    vector = machine.rng.choice([n for n in range(256) if n not in (3, 4, 0x80)])  # those gates are open to programs
    chosen.immediates = [vector]


_PREPARE: dict[str, Callable[[_Machine, _Operands], None]] = {
    "string": _prepare_string(None), "stringF3": _prepare_string(0xF3), "stringF2": _prepare_string(0xF2),
    "push": _prepare_stack, "popf": _prepare_popf, "leave": _prepare_leave, "enter": _prepare_enter,
    "jump": _prepare_jump, "call": _prepare_call, "call_indirect": _prepare_stack, "ret": _prepare_ret,
    "ret_imm": _prepare_ret, "retf": _prepare_ret, "iret": _prepare_ret, "loop": _prepare_loop, "xlat": _prepare_xlat,
    "cmpxchg8b": _prepare_cmpxchg_pair, "cmpxchg16b": _prepare_cmpxchg_pair, "shift_imm": _prepare_shift_imm,
    "shift_one": _prepare_shift_one, "shift_cl": _prepare_shift_cl, "div": _prepare_divide, "idiv": _prepare_divide,
    "moffs": _prepare_moffs, "maskmov": _prepare_maskmov, "shift_count": _prepare_shift_count, "int": _prepare_int,
}  # fmt: skip
_FINISH: dict[str, Callable[[_Machine, _Operands], None]] = {
    "jump_indirect": _finish_indirect, "call_indirect": _finish_indirect, "cmpxchg": _finish_cmpxchg,
    "cmpxchg8b": _finish_cmpxchg_pair, "cmpxchg16b": _finish_cmpxchg_pair, "bit_scan": _finish_bit_scan,
    "div": _finish_divide, "idiv": _finish_divide, "mxcsr": _finish_mxcsr, "text": _finish_text, "fcw": _finish_fcw,
    "fenv": _finish_fenv, "fstenv": _finish_fstenv, "fxsave": _finish_fxsave, "fxrstor": _finish_fxrstor,
}  # fmt: skip


# --- Cases -----------------------------------------------------------------------------------------------------------


def _emit(machine: _Machine, chosen: _Operands, rip: int) -> tuple[bytes, bytes]:
    row = chosen.row

    def assemble() -> bytes:
        return encode(
            row.template,
            operand_size=chosen.encode_size,
            reg=chosen.reg,
            rm=chosen.rm if chosen.rm is not None else 0,
            immediates=tuple(chosen.immediates),
            prefixes=chosen.prefixes,
            rex=chosen.rex,
            rip=rip,
        )

    code = assemble()
    host = code
    if row.host_prefix is not None and row.template.mandatory is not None:
        at = code.index(bytes((row.template.mandatory,)))
        host = code[:at] + bytes((row.host_prefix,)) + code[at + 1 :]
    return code, host


def _rng(name: str) -> Random:
    return Random(zlib.crc32(name.encode()) << 16 | len(name))


def single(row_index: int, seed: int) -> Case:
    """The case `row_index/seed`."""
    name = f"{row_index}/{seed}"
    rng = _rng(name)
    row = ROWS[row_index]
    while True:
        machine = _machine(rng, row.group, block=False)
        chosen = _choose(machine, row)
        try:
            code, host = _emit(machine, chosen, machine.state.rip)
        except CannotEncode:
            continue
        break
    state = machine.state
    state.memory = {page: bytes(data) for page, data in machine.pages.items()}
    # A fault comes before flags change, except that string instructions may stop half-way with defined flags.
    undefined = Undefined(
        flags=chosen.undefined_flags,
        fsw=row.undefined_fsw,
        gpr=tuple(chosen.undefined_gpr.items()),
        memory=tuple(chosen.undefined_memory),
    )
    return Case(name, (row,), code, host, state, undefined)


_BLOCK_ROWS = [row for row in ROWS if not row.single]
_JUMPS = {row.mnemonic: row for row in ROWS if row.group == "flow" and row.mnemonic[0] == "j" and row.reads}
_BLOCK_GROUPS: dict[str, tuple[str, ...]] = {
    "integer": ("alu", "shift", "muldiv", "bit", "mov", "flag", "nop"),
    "sse": ("sse_mov", "sse_fp", "sse_cvt", "sse_int"),
    "mmx": ("mmx", "alu"),
    "x87": ("x87", "x87_env", "mov"),
    "mixed": ("alu", "shift", "muldiv", "bit", "mov", "flag", "sse_mov", "sse_fp", "sse_cvt", "sse_int"),
}
BLOCK_GROUPS = tuple(_BLOCK_GROUPS)
_ROWS_OF_BLOCK = {name: [row for row in _BLOCK_ROWS if row.group in groups] for name, groups in _BLOCK_GROUPS.items()}


def block(kind: str, seed: int, length: int = 8) -> Case:
    """The case `block.kind/seed`: `length` mixed instructions, some jumped over."""
    name = f"block.{kind}/{seed}"
    rng = _rng(name)
    machine = _machine(rng, "x87" if kind == "x87" else "sse" if kind in ("sse", "mixed") else "alu", block=True)
    code, host = b"", b""
    rows: list[Row] = []
    undefined = ever = fsw = 0
    gpr: dict[int, int] = {}
    while len(rows) < length:
        row = rng.choice(_ROWS_OF_BLOCK[kind])
        if row.reads & undefined or (row.host_prefix is not None and undefined) or (row.setup == "bit_scan" and gpr):
            continue
        jump = rng.choice(list(_JUMPS.values())) if rng.random() < 0.12 else None
        if jump is not None and jump.reads & undefined:
            jump = None
        chosen = _choose(machine, row)
        if chosen.undefined_gpr:
            continue  # an undefined register would spread
        if row.group in ("x87", "x87_env") and fsw and row.mnemonic in ("fnstsw",):
            continue
        try:
            rip = machine.state.rip + len(code) + (2 if jump else 0)
            one, one_host = _emit(machine, chosen, rip)
        except CannotEncode:
            continue
        if jump is not None:
            over = encode(jump.template, immediates=(len(one),)) if jump.template.immediates == ("ib",) else None
            if over is None:
                over = bytes((0x70 | jump.template.opcode[-1] & 0xF, len(one)))
            code, host = code + over, host + over
            rows.append(jump)
        code, host = code + one, host + one_host
        rows.append(row)
        kept = 0 if jump is None else undefined
        undefined = undefined & ~chosen.written_flags | chosen.undefined_flags | kept
        ever |= undefined
        fsw |= row.undefined_fsw
        if row.group in ("x87", "x87_env") and not row.undefined_fsw:
            fsw = 0 if row.mnemonic in ("fninit",) else fsw
    state = machine.state
    state.memory = {page: bytes(data) for page, data in machine.pages.items()}
    return Case(name, tuple(rows), code, host, state, Undefined(flags=undefined, fault_flags=ever, fsw=fsw))


def by_name(name: str) -> Case:
    """The case with this name, as printed in a failure."""
    head, _, seed = name.partition("/")
    if head.startswith("block."):
        return block(head.removeprefix("block."), int(seed))
    return single(int(head), int(seed))


def singles(group: str, count: int, seed: int, only: Sequence[str] = ()) -> Iterator[Case]:
    """`count` cases for each form of a group; only: mnemonics to keep."""
    for index, row in enumerate(ROWS):
        if row.group == group and (not only or row.mnemonic in only):
            for number in range(count):
                yield single(index, seed + number)


def blocks(kind: str, count: int, seed: int) -> Iterator[Case]:
    for number in range(count):
        yield block(kind, seed + number)
