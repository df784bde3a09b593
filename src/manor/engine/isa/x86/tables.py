"""Serialise the instruction catalog for the native decoder and translator.

Layout of the blob (little-endian), in this order, each part aligned to 8 bytes; `Header`
holds the byte offsets:

    dispatch  u16[mode 2][map 4][opcode 256][prefix class 4][ModRM.reg 8][memory 2]
              0 undefined; bit 15 set: rm table number; else entry number + 1
    rm        u16[table][8]
    modrm     u8[mode 2][map 4][opcode 256], 1 if a ModRM byte follows
    entries   Entry[]   templates  Template[]   items  Item[]   helpers  HelperInfo[]
    names     NUL-terminated mnemonics, in the order of the entries

Prefix classes: 0 none, 1 = 66, 2 = F3, 3 = F2.
"""

from __future__ import annotations

import struct
from typing import Final

from manor.engine.env import CC_OP
from manor.engine.isa.x86.catalog import instructions
from manor.engine.isa.x86.declare import Insn
from manor.engine.isa.x86.helper_catalog import HELPERS
from manor.engine.isa.x86.template import ACCESS_WRITES, EABASE, Item, P, Variant, build, variants
from manor.engine.uop.table import OPS

DISPATCH_SIZE: Final = 2 * 4 * 256 * 4 * 8 * 2
PREFIX_CLASS: Final = {"NP": 0, "66": 1, "F3": 2, "F2": 3}

ENTRY_DEFAULT64, ENTRY_LOCK, ENTRY_POP_EA, ENTRY_LEA, ENTRY_X87, ENTRY_SSE, ENTRY_MMX, ENTRY_MUST_LOCK = (
    1 << i for i in range(8)
)
ENTRY_RAISES_FP: Final = 1
"""In an entry's second flag word: an SSE instruction that may raise #XM (see FLAG_FPU_TRAP)."""
ENTRY_CPL0: Final = 2
"""There too: #GP(0) outside ring 0 before a memory operand is read."""
HELPER_FAULTS, HELPER_PURE, HELPER_WRITES_CC, HELPER_OPERAND = 1, 2, 4, 8

IMM_NONE, IMM_S8, IMM_U16, IMM_Z, IMM_V, IMM_ENTER, IMM_REL8, IMM_RELZ, IMM_FAR, IMM_MOFFS, IMM_TWO8 = range(11)


def _imm_kind(insn: Insn) -> int:
    sizes = [(o.kind, o.size) for o in insn.encoding.operands if o.kind in "IJAO"]
    table = {
        (): IMM_NONE,
        (("I", "b"),): IMM_S8, (("I", "w"),): IMM_U16, (("I", "z"),): IMM_Z, (("I", "v"),): IMM_V,
        (("I", "w"), ("I", "b")): IMM_ENTER, (("I", "b"), ("I", "b")): IMM_TWO8,
        (("J", "b"),): IMM_REL8, (("J", "z"),): IMM_RELZ, (("A", "v"),): IMM_FAR,
        (("O", "b"),): IMM_MOFFS, (("O", "v"),): IMM_MOFFS,
    }  # fmt: skip
    return table[tuple(sizes)]


def _modes(insn: Insn) -> tuple[int, ...]:
    return {"any": (0, 1), "64": (1,), "legacy": (0,)}[insn.mode]


def _rank(insn: Insn) -> tuple[int, int, int, int]:
    """How specific an encoding is: the more specific one wins a dispatch cell."""
    e = insn.encoding
    return (e.rm is not None, e.reg is not None, e.prefix is not None, not e.plus_r)


class _Dispatch:
    """The dispatch table under construction; two equally specific claims to a cell are an error."""

    def __init__(self) -> None:
        self.cells = [0] * DISPATCH_SIZE
        self.claims: dict[tuple[int, int], tuple[tuple[int, ...], Insn]] = {}
        self.rm_tables: list[list[int]] = []
        self.modrm = bytearray(2 * 4 * 256)

    def add(self, insn: Insn, number: int) -> None:
        e = insn.encoding
        kinds = {o.kind for o in e.operands}
        if kinds & set("M") or insn.extra.get("mem"):
            memories: tuple[int, ...] = (1,)
        elif kinds & set("RUN") or e.rm is not None or insn.extra.get("reg"):
            memories = (0,)
        else:
            memories = (0, 1)
        opcodes = [e.opcode + i for i in range(8)] if e.plus_r else [e.opcode]
        prefixes = (PREFIX_CLASS[e.prefix],) if e.prefix else (0, 1, 2, 3)
        regs = (e.reg,) if e.reg is not None else tuple(range(8))
        for mode in _modes(insn):
            for opcode in opcodes:
                if e.has_modrm:
                    self.modrm[(mode * 4 + e.map) * 256 + opcode] = 1
                for prefix in prefixes:
                    for reg in regs:
                        for memory in memories:
                            index = ((((mode * 4 + e.map) * 256 + opcode) * 4 + prefix) * 8 + reg) * 2 + memory
                            self._claim(index, insn, number)

    def _claim(self, index: int, insn: Insn, number: int) -> None:
        e = insn.encoding
        rank = _rank(insn)
        for rm in range(8) if e.rm is None else (e.rm,):
            key = (index, rm)
            held = self.claims.get(key)
            if held is not None and held[0] == rank:
                raise ValueError(f"{insn.name} ({e.text}) and {held[1].name} ({held[1].encoding.text}) overlap")
            if held is None or held[0] < rank:
                self.claims[key] = (rank, insn)
        if e.rm is None and not self.cells[index] & 0x8000:
            winner = self.claims[(index, 0)][1]
            if winner is insn:
                self.cells[index] = number + 1
            return
        if not self.cells[index] & 0x8000:
            self.rm_tables.append([self.cells[index]] * 8)
            self.cells[index] = 0x8000 | len(self.rm_tables) - 1
        table = self.rm_tables[self.cells[index] & 0x7FFF]
        for rm in range(8) if e.rm is None else (e.rm,):
            if self.claims[(index, rm)][1] is insn:
                table[rm] = number + 1


def _memory_use(items: tuple[Item, ...]) -> int:
    """Bytes a template accesses at its effective address, with ACCESS_WRITES if it writes there."""
    size = write = 0
    for item in items:
        if item.op == P["BIT_ADDRESS"]:
            return 0  # a bit string: only the body knows where it reaches
        if item.op == P["ACCESS"]:
            size, write = item.x & ~ACCESS_WRITES, item.x & ACCESS_WRITES
        elif item.op < len(OPS):
            op = OPS[item.op]
            if item.a == EABASE and op.kind.name in ("LOAD", "STORE", "VECTOR_LOAD", "VECTOR_STORE"):
                size = max(size, op.bits // 8 + max(0, item.constant))
                write |= ACCESS_WRITES * op.kind.name.endswith("STORE")
            elif op.kind.name in ("RMW", "CMPXCHG"):
                size, write = max(size, op.bits // 8), ACCESS_WRITES
    return size | write


def _mask(vregs: tuple[int, ...] | None) -> int:
    return (1 << 64) - 1 if vregs is None else sum(1 << v for v in set(vregs))


def serialize() -> bytes:
    """The whole blob."""
    insns = instructions()
    dispatch = _Dispatch()
    templates: dict[tuple[Item, ...], int] = {}
    entries = bytearray()
    for number, insn in enumerate(insns):
        dispatch.add(insn, number)
        numbers = [0] * (2 * 3 * 3)
        for variant in variants(insn):
            items = build(insn, variant)
            numbers[_variant_index(variant)] = templates.setdefault(items, len(templates)) + 1
        flags = (
            (ENTRY_DEFAULT64 if insn.default64 else 0) | (ENTRY_LOCK if insn.lock else 0)
            | (ENTRY_POP_EA if insn.extra.get("pop_ea") else 0) | (ENTRY_LEA if insn.name == "lea" else 0)
            | {"": 0, "x87": ENTRY_X87, "sse": ENTRY_SSE, "mmx": ENTRY_MMX}[insn.gate]
        )  # fmt: skip
        more = (ENTRY_RAISES_FP if insn.extra.get("fp") else 0) | (ENTRY_CPL0 if insn.extra.get("cpl0") else 0)
        entries += struct.pack("<BBH18HI", _imm_kind(insn), flags, more, *numbers, 0)
    template_blob, item_blob, start = bytearray(), bytearray(), 0
    for items in templates:
        template_blob += struct.pack("<IHH", start, len(items), _memory_use(items))
        start += len(items)
        for i in items:
            item_blob += struct.pack(
                "<HHBBBBBBHIq", i.op, i.x, i.d, i.a, i.b, i.imm_code, i.shift, 0, 0, 0, _signed(i.constant)
            )
    helper_blob = bytearray()
    for helper in HELPERS:
        cc_writes = helper.writes is None or CC_OP in helper.writes
        flags = (HELPER_FAULTS * helper.faults) | (HELPER_PURE * helper.pure) | (HELPER_WRITES_CC * cc_writes)
        flags |= HELPER_OPERAND * helper.operand
        helper_blob += struct.pack("<QQII", _mask(helper.reads), _mask(helper.writes), flags, 0)
    names = b"".join(insn.name.encode() + b"\0" for insn in insns)
    parts = (
        struct.pack(f"<{DISPATCH_SIZE}H", *dispatch.cells),
        b"".join(struct.pack("<8H", *t) for t in dispatch.rm_tables),
        bytes(dispatch.modrm), bytes(entries), bytes(template_blob), bytes(item_blob), bytes(helper_blob), names,
    )  # fmt: skip
    position = 8 * (len(parts) + 3)
    offsets, body = [], bytearray()
    for part in parts:
        offsets.append(position)
        padded = part + bytes(-len(part) % 8)
        body += padded
        position += len(padded)
    header = struct.pack(f"<{len(parts) + 3}Q", *offsets, len(insns), len(templates), len(HELPERS))
    return header + bytes(body)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _variant_index(variant: Variant) -> int:
    size = {16: 0, 32: 1, 64: 2}[variant.opsize]
    form = 2 if variant.locked else int(variant.memory)
    return (int(variant.mode64) * 3 + size) * 3 + form
