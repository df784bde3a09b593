# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""Stencils, and the copying of them: the bytes of host code that everything is made of.

A stencil is copied as it is; then its holes (immediates, offsets, addresses) are filled from the fields of the Emitter.
Jumps whose displacement changes later (links between blocks) have it aligned to four bytes, so that a change is one
atomic store.

WHY NATIVE: it is the innermost loop of the translator. SAFETY: stencils come from the file made at build time, whose
fingerprint is checked; the caller has checked the room. Threads: under vm.lock.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcpy
from cython.cimports.manor.engine.lower.emitter import (
    FORM_COUNT,
    FORM_MEMORY_WIDE,
    FORM_RM,
    FORM_X_COLD,
    HOLE_A,
    HOLE_B,
    HOLE_CALLEE,
    HOLE_COLD,
    HOLE_COUNT,
    HOLE_D,
    HOLE_EXIT0,
    HOLE_EXIT1,
    HOLE_FLAGS,
    HOLE_HIGH,
    HOLE_IMM,
    HOLE_LOW,
    HOLE_META,
    HOLE_NEGATED,
    HOLE_NEXT,
    HOLE_PC_HIGH,
    HOLE_PC_LOW,
    HOLE_SHIFT,
    HOLE_SHIFT_NEGATED,
    HOLE_TLB,
    HOLE_VALUE,
    META_ALIGNED,
    PATCH_ABS8,
    PATCH_ABS16,
    PATCH_ABS32,
    PATCH_ABS64,
    SHAPE_D,
    SLOT_COUNT,
    SPECIAL_CONST_64,
    SPECIAL_COUNT,
    SPECIAL_HEAD,
    XMM_REGISTERS,
    XMM_SCRATCH_FIRST,
    XSLOT_COUNT,
    Emitter,
    Relocation,
    Stencil,
    StencilHeader,
    put16,
    put32,
    put64,
)
from cython.cimports.manor.engine.lower.passes_native import OpInfo, op_table

from manor.engine import env as _env
from manor.engine.lower import layout as _layout

cython.declare(
    ops=cython.pointer(OpInfo), FLAG_SHIFT=cython.int, stencils=cython.pointer(Stencil),
    relocations=cython.pointer(Relocation), stencil_code=cython.pointer(uint8_t),
    first_stencil=cython.pointer(uint32_t), blob_memory=cython.pointer(uint8_t), special=uint32_t[32],
    LARGEST=uint64_t,
)  # fmt: skip
ops = op_table()
FLAG_SHIFT = _env.JUMP_KEY_SHIFT


def load_stencils(path) -> None:
    """Read the file that `lower.blob.build_stencils` wrote. Once, before any block is emitted; ops.bin of the
    same build is loaded by `passes_native.load_ops`.

    ValueError if it was made for another layout of env.
    """
    global stencils, relocations, stencil_code, first_stencil, blob_memory, LARGEST
    with open(path, "rb") as file:
        data: bytes = file.read()
    header: cython.pointer(StencilHeader)
    size: cython.size_t = len(data)
    made_for = _layout.STENCILS_MAGIC + _layout.layout_fingerprint()
    if size < cython.sizeof(StencilHeader) or not data.startswith(made_for):
        raise ValueError(f"{path} does not hold the stencils of this engine: build it again")
    memory: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), malloc(size + 64))
    if memory == cython.NULL:
        raise MemoryError
    source: cython.p_const_char = data
    memcpy(memory, source, size)
    header = cython.cast(cython.pointer(StencilHeader), memory)
    entries: cython.int = (header.uops + SPECIAL_COUNT) * FORM_COUNT
    place: cython.pointer(uint8_t) = memory + cython.sizeof(StencilHeader)
    total: cython.size_t = (
        cython.sizeof(StencilHeader) + entries * 4 + header.stencils * cython.sizeof(Stencil)
        + header.relocations * cython.sizeof(Relocation) + header.code_size
    )  # fmt: skip
    if total != size:
        free(memory)
        raise ValueError(f"{path} is truncated")
    free(blob_memory)
    blob_memory = memory
    LARGEST = header.largest
    first_stencil = cython.cast(cython.pointer(uint32_t), place)
    place += entries * 4
    stencils = cython.cast(cython.pointer(Stencil), place)
    place += header.stencils * cython.sizeof(Stencil)
    relocations = cython.cast(cython.pointer(Relocation), place)
    stencil_code = place + header.relocations * cython.sizeof(Relocation)
    index: cython.int
    for index in range(SPECIAL_COUNT):
        special[index] = first_stencil[(header.uops + index) * FORM_COUNT]


def numbers() -> dict:
    """Numbers that the build shares with this module, for a test that they agree."""
    return {
        "SLOTS": SLOT_COUNT, "FORMS": FORM_COUNT, "RM": FORM_RM, "MEMORY_WIDE": FORM_MEMORY_WIDE, "VALUE": HOLE_VALUE,
        "SHIFT": HOLE_SHIFT, "COUNT": HOLE_COUNT, "ABS8": PATCH_ABS8, "CONST_64": SPECIAL_CONST_64,
        "SPECIALS": SPECIAL_COUNT, "Stencil": cython.sizeof(Stencil), "Relocation": cython.sizeof(Relocation),
        "XSLOTS": XSLOT_COUNT, "X_COLD": FORM_X_COLD, "XMM": XMM_REGISTERS, "XMM_SCRATCH": XMM_SCRATCH_FIRST,
        "SHAPE_D": SHAPE_D, "Header": cython.sizeof(StencilHeader), "META_ALIGNED": META_ALIGNED,
    }  # fmt: skip


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def largest_stencil() -> uint64_t:
    """Bytes of the largest stencil; 0 as long as none are loaded."""
    return LARGEST


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def head_check_size() -> cython.int:
    """Bytes at the start of each block that look for interrupts: through the displacement of the jump to COLD."""
    s: cython.pointer(Stencil) = stencils + special_stencil(SPECIAL_HEAD)
    r: cython.pointer(Relocation) = relocations + s.relocation
    index: cython.int
    for index in range(s.relocations):
        if r[index].hole == HOLE_COLD:
            return r[index].offset + 4
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def special_stencil(which: cython.int) -> uint32_t:
    return special[which]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def first(op: cython.int, form: cython.int) -> uint32_t:
    return first_stencil[op * FORM_COUNT + form]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put(e: cython.pointer(Emitter), number: uint32_t) -> cython.void:
    """Copy a stencil to e.out and fill its holes from the fields of `e`."""
    s: cython.pointer(Stencil) = stencils + number
    out: cython.pointer(uint8_t) = e.out
    code: cython.pointer(uint8_t) = stencil_code + s.code
    r: cython.pointer(Relocation)
    end: cython.pointer(Relocation)
    place: cython.pointer(uint8_t)
    value: int64_t
    hole: cython.int
    if s.size <= 16:
        memcpy(out, code, 16)
    else:
        memcpy(out, code, s.size)
    e.out = out + s.size
    if s.relocations == 0:
        return
    r = relocations + s.relocation
    end = r + s.relocations
    while r != end:
        place = out + r.offset
        hole = r.hole
        value = 0
        if hole == HOLE_IMM:
            value = e.imm
        elif hole == HOLE_LOW:
            value = cython.cast(uint32_t, e.imm)
        elif hole == HOLE_HIGH:
            value = cython.cast(uint64_t, e.imm) >> 32
        elif hole == HOLE_SHIFT:
            value = e.imm
        elif hole == HOLE_SHIFT_NEGATED:
            value = -e.imm
        elif hole == HOLE_D:
            value = e.d
        elif hole == HOLE_A:
            value = e.a
        elif hole == HOLE_B:
            value = e.b
        elif hole == HOLE_TLB:
            value = e.tlb
            if r.addend == 0:  # the tag; the addend lies behind it
                value += e.tag_offset
        elif hole == HOLE_META:
            value = e.meta
        elif hole == HOLE_PC_LOW:
            value = cython.cast(uint32_t, e.pc)
        elif hole == HOLE_PC_HIGH:
            value = e.pc >> 32
        elif hole == HOLE_COUNT:
            value = e.count
        elif hole == HOLE_CALLEE:
            value = e.callee
        elif hole == HOLE_FLAGS:
            value = cython.cast(int64_t, cython.cast(uint64_t, e.block.flags) << FLAG_SHIFT)
        elif hole == HOLE_VALUE:
            value = e.value
        elif hole == HOLE_NEGATED:
            value = -e.imm
        elif hole == HOLE_COLD:
            e.cold_patch = place
        elif hole == HOLE_NEXT:
            e.next_patch = place
            put32(place, e.out - place - 4)
        elif hole == HOLE_EXIT0:
            e.exit_patch[0] = place
        elif hole == HOLE_EXIT1:
            e.exit_patch[1] = place
        value += r.addend
        if r.patch == PATCH_ABS32:
            put32(place, cython.cast(uint32_t, value))
        elif r.patch == PATCH_ABS64:
            put64(place, cython.cast(uint64_t, value))
        elif r.patch == PATCH_ABS8:
            place[0] = cython.cast(uint8_t, value)
        elif r.patch == PATCH_ABS16:
            put16(place, cython.cast(uint16_t, value))
        r += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_branch(e: cython.pointer(Emitter), number: uint32_t) -> cython.int:
    """A branch stencil: a conditional jump with an aligned displacement. Returns which exit it falls through to."""
    s: cython.pointer(Stencil) = stencils + number
    r: cython.pointer(Relocation) = relocations + s.relocation
    index: cython.int
    for index in range(s.relocations):
        if r[index].hole == HOLE_EXIT0 or r[index].hole == HOLE_EXIT1:
            pad_for(e, r[index].offset)
    put(e, number)
    return s.fall


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pad(e: cython.pointer(Emitter), size: cython.int) -> cython.void:
    """`size` bytes (0 to 3) of no operation: nop; data16 nop; nopl (%rax)."""
    if size == 1:
        e.out[0] = 0x90
    elif size == 2:
        e.out[0] = 0x66
        e.out[1] = 0x90
    elif size == 3:
        e.out[0] = 0x0F
        e.out[1] = 0x1F
        e.out[2] = 0x00
    e.out += size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pad_for(e: cython.pointer(Emitter), offset: cython.int) -> cython.void:
    """Pad so that the byte `offset` from then on is aligned to four."""
    pad(e, cython.cast(cython.int, -(cython.cast(uint64_t, e.out) + offset) & 3))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_jump(e: cython.pointer(Emitter)) -> cython.pointer(uint8_t):
    """A jump with an aligned displacement: returns where that is."""
    pad_for(e, 1)
    e.out[0] = 0xE9
    put32(e.out + 1, 0)
    e.out += 5
    return e.out - 4


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_jump(place: cython.pointer(uint8_t), target: cython.pointer(uint8_t)) -> cython.void:
    put32(place, cython.cast(uint32_t, target - place - 4))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def negate_jump(place: cython.pointer(uint8_t)) -> cython.void:
    """Turn the conditional jump (0F 80 to 0F 8F) round whose displacement is at `place`."""
    (place - 1)[0] ^= 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def align_block(e: cython.pointer(Emitter)) -> cython.void:
    e.out += -cython.cast(uint64_t, e.out) & 15
