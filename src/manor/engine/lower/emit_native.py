# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""Turn the uops of a block into host code by copying stencils.

Virtual registers live in slots (host registers) within a block: loaded when first read, written back at the
block's end, before helpers that look at them, and on the way to a slow path. A `mov` costs nothing: two
registers then share a slot. A constant has no slot until an operation needs one. Temporaries are never
written back, unless they are squeezed out of their slot.

Layout of a block: head, uops, exit stubs, cold paths. Exits are jumps whose displacement is aligned to four
bytes, so that linking is one atomic store. A *side exit* leaves from the middle: what it must write back is a
cold path. Code memory is not used again until `reset_emitter`, when no vCPU runs.

A block that jumps back to its own start is emitted twice, one copy behind the other: the first begins with every
register in its cell, the second with the registers where the first left them, and it comes back to itself so.

WHY NATIVE: it is the translator's inner loop. SAFETY: `emit_block` checks the room in the arena for the
largest code its uops can need; stencils come from the file made at build time, whose fingerprint is
checked. Threads: emit_block, link_block and unlink_block under vm.lock; run_code on the vCPU's thread.
"""

import cython
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.manor.engine.env import FLAG_MMU_SHIFT, Env
from cython.cimports.manor.engine.isa.x86.bits import canonical
from cython.cimports.manor.engine.lower.emit_native import (
    DEAD_D,
    EMIT_FULL,
    EMIT_MAX_UOPS,
    EMIT_OK,
    EMIT_TOO_LONG,
    FORM_COUNT,
    FORM_MEMORY,
    FORM_MEMORY_COLD,
    FORM_MEMORY_WIDE,
    FORM_RI,
    FORM_RI_COLD,
    FORM_RI_WIDE,
    FORM_RM,
    FORM_RR,
    FORM_RR_COLD,
    FORM_X,
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
    IN_MEMORY,
    IS_CONSTANT,
    LAST_A,
    LAST_B,
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_REMOVE,
    META_ALIGNED,
    NO_WAY_BACK,
    PATCH_ABS8,
    PATCH_ABS16,
    PATCH_ABS32,
    PATCH_ABS64,
    SHAPE_AB,
    SHAPE_AR,
    SHAPE_D,
    SHAPE_DA,
    SHAPE_DB,
    SHAPE_DR,
    SHAPE_RA,
    SLOT_COUNT,
    SPECIAL_CONST_64,
    SPECIAL_CONST_S32,
    SPECIAL_CONST_U32,
    SPECIAL_CONST_ZERO,
    SPECIAL_COUNT,
    SPECIAL_DISPATCH,
    SPECIAL_ENTER,
    SPECIAL_EXIT_STUB,
    SPECIAL_HEAD,
    SPECIAL_LOAD_SLOT,
    SPECIAL_LOAD_X,
    SPECIAL_MOVE,
    SPECIAL_STORE_CONST32,
    SPECIAL_STORE_CONST64,
    SPECIAL_STORE_SLOT,
    SPECIAL_STORE_X,
    SPECIAL_THUNK,
    SPECIAL_THUNK_ALL,
    SPECIAL_UNCOUNT,
    THUNK_HEAD_SIZE,
    XMM_REGISTERS,
    XMM_SCRATCH_FIRST,
    XSLOT_COUNT,
    ColdPath,
    Emitter,
    Relocation,
    Stencil,
    StencilHeader,
    enter_fn,
    madvise,
    memfd_create,
    patch32,
    put16,
    put32,
    put64,
)
from cython.cimports.manor.engine.lower.passes_native import (
    KIND_BINARY,
    KIND_BINARY_IMM,
    KIND_BRANCH,
    KIND_BRANCH_IMM,
    KIND_CMPXCHG,
    KIND_HELPER,
    KIND_JUMP,
    KIND_JUMP_INDIRECT,
    KIND_LOAD,
    KIND_MOVE,
    KIND_MOVE_IMM,
    KIND_NOP,
    KIND_RMW,
    KIND_STORE,
    KIND_UNARY,
    KIND_UPDATE,
    KIND_VECTOR,
    KIND_VECTOR_LOAD,
    KIND_VECTOR_STORE,
    ONE,
    OP_A_IS_VREG,
    OP_B_IS_VREG,
    OP_COMMUTATIVE,
    OP_D_IS_VREG,
    OP_IN_PLACE,
    OP_MUST_ALIGN,
    OP_READS_D,
    OP_SHIFT_AMOUNT,
    OP_SWAP_EXITS,
    OP_SWAP_OPERANDS,
    HelperInfo,
    OpInfo,
    add64_op,
    ctz64,
    helper_table,
    op_table,
)
from cython.cimports.manor.engine.uop.uop import SIDE_EXIT, Uop
from cython.cimports.manor.engine.vm import Block, Exit, Vm
from cython.cimports.posix.mman import (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)
from cython.cimports.posix.unistd import close, ftruncate

from manor.engine import env as _env
from manor.engine.lower import layout as _layout

cython.declare(
    ops=cython.pointer(OpInfo), helpers=cython.pointer(HelperInfo),
    stencils=cython.pointer(Stencil), relocations=cython.pointer(Relocation), stencil_code=cython.pointer(uint8_t),
    first_stencil=cython.pointer(uint32_t), blob_memory=cython.pointer(uint8_t), special=uint32_t[32],
    REGS=cython.int, XMM=cython.int, FPR=cython.int, XMM_CELLS=cython.int, TLB_BASE=cython.int,
    TLB_MODE_SIZE=cython.int,
    TEMPORARIES_MASK=uint64_t, ZERO_VREG=cython.int, LARGEST=uint64_t, SLOW=uint64_t[8], SLOW_COUNT=cython.int,
    FLAG_SHIFT=cython.int, SCRATCH=cython.int, NO_STENCIL=uint32_t, SLOW_PATHS=object,
    MEMORY_KINDS=uint64_t, jump_indirect_op=cython.int, ACCESS_UPDATE=cython.int,
    S32_MIN=int64_t, S32_MAX=int64_t, U32_LIMIT=int64_t, TRIM_SIZE=uint64_t, COLD_SIZE=uint64_t, LARGE_PAGE=uint64_t,
)  # fmt: skip
ops = op_table()
helpers = helper_table()
REGS = _env.OFFSETS["regs"]
XMM = _env.OFFSETS["xmm"]
FPR = _env.OFFSETS["fpr"]
XMM_CELLS = 32
TLB_BASE = _env.OFFSETS["tlb"]
TLB_MODE_SIZE = _env.TLB_ENTRIES * _env.TLB_ENTRY_SIZE
TEMPORARIES_MASK = sum(1 << v for v in _env.TEMPORARY_VREGS)
ZERO_VREG = _env.ZERO
MEMORY_KINDS = (
    1 << KIND_LOAD | 1 << KIND_STORE | 1 << KIND_RMW | 1 << KIND_CMPXCHG | 1 << KIND_VECTOR_LOAD | 1 << KIND_VECTOR_STORE
)
ACCESS_UPDATE = 8  # MODE_UPDATE of the softmmu
FLAG_SHIFT = _env.JUMP_KEY_SHIFT
SCRATCH = _env.OFFSETS["scratch"] + 8
NO_STENCIL = (1 << 32) - 1
SLOW_PATHS = ("load_slow", "store_slow", "rmw_slow", "cmpxchg_slow", "loadx_slow", "storex_slow")
S32_MIN = -(1 << 31)
S32_MAX = (1 << 31) - 1
U32_LIMIT = 1 << 32
LARGE_PAGE = 1 << 21
TRIM_SIZE = 1 << 20
COLD_SIZE = (2 * EMIT_MAX_UOPS + 1) * 1024


# ---------------------------------------------------------------- stencils
def load_stencils(path) -> None:
    """Read the file that `lower.blob.build_stencils` wrote. Once, before any block is emitted; ops.bin of the
    same build is loaded by `passes_native.load_ops`.

    ValueError if it was made for another layout of env.
    """
    global stencils, relocations, stencil_code, first_stencil, blob_memory, jump_indirect_op, LARGEST
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
    for index in range(header.uops):
        if ops[index].kind == KIND_JUMP_INDIRECT:
            jump_indirect_op = index


def set_slow_paths(addresses) -> None:
    """Addresses of the slow paths (`slow_native.addresses()`). Before `prepare_env` is called."""
    global SLOW_COUNT
    index: cython.int
    for index, name in enumerate(SLOW_PATHS):
        SLOW[index] = addresses[name]
    SLOW_COUNT = len(SLOW_PATHS)


def numbers() -> dict:
    """Numbers that the build shares with this module, for a test that they agree."""
    return {
        "SLOTS": SLOT_COUNT, "FORMS": FORM_COUNT, "RM": FORM_RM, "MEMORY_WIDE": FORM_MEMORY_WIDE, "VALUE": HOLE_VALUE,
        "SHIFT": HOLE_SHIFT, "COUNT": HOLE_COUNT, "ABS8": PATCH_ABS8, "CONST_64": SPECIAL_CONST_64,
        "SPECIALS": SPECIAL_COUNT, "Stencil": cython.sizeof(Stencil), "Relocation": cython.sizeof(Relocation),
        "XSLOTS": XSLOT_COUNT, "X_COLD": FORM_X_COLD, "XMM": XMM_REGISTERS, "XMM_SCRATCH": XMM_SCRATCH_FIRST,
        "SHAPE_D": SHAPE_D, "Header": cython.sizeof(StencilHeader), "META_ALIGNED": META_ALIGNED, "SLOW_PATHS": SLOW_PATHS,
    }  # fmt: skip


# ---------------------------------------------------------------- arena
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def create_emitter(vm: cython.pointer(Vm), size: uint64_t) -> cython.int:
    """Reserve the code arena of a VM: `size` bytes, at most 2 GiB (the reach of a jump), touched as they fill.

    0 if the host refuses, or the stencils are not loaded.
    """
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), calloc(1, cython.sizeof(Emitter)))
    fd: cython.int
    writable: cython.p_void
    executable: cython.p_void
    vm.emitter = e
    if e == cython.NULL or stencils == cython.NULL or size >> 31:
        return 0
    size = (size + 4095) & ~cython.cast(uint64_t, 4095)
    fd = memfd_create(b"manor-code", 1)
    if fd < 0:
        return 0
    if ftruncate(fd, size) != 0:
        close(fd)
        return 0
    writable = mmap(cython.NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    executable = map_code(fd, size)
    close(fd)
    if writable != MAP_FAILED:
        e.base = cython.cast(cython.pointer(uint8_t), writable)
        e.size = size
    if executable != MAP_FAILED:
        e.code_base = cython.cast(cython.pointer(uint8_t), executable)
    # room for the largest cold path of each uop, twice for a loop: every register stored, then the slow-path call
    e.cold_base = cython.cast(cython.pointer(uint8_t), malloc(COLD_SIZE))
    e.cold = cython.cast(cython.pointer(ColdPath), malloc((2 * EMIT_MAX_UOPS + 1) * cython.sizeof(ColdPath)))
    e.last = cython.cast(cython.pointer(uint8_t), malloc(EMIT_MAX_UOPS))
    if (
        e.base == cython.NULL
        or e.code_base == cython.NULL
        or e.cold_base == cython.NULL
        or e.cold == cython.NULL
        or e.last == cython.NULL
    ):
        return 0
    e.out = e.base
    e.enter = executable_address(e, e.out)
    put(e, special_stencil(SPECIAL_ENTER))
    align_block(e)
    e.thunk = executable_address(e, e.out)
    put(e, special_stencil(SPECIAL_THUNK))
    align_block(e)
    e.thunk_all = executable_address(e, e.out)
    put(e, special_stencil(SPECIAL_THUNK_ALL))
    align_block(e)
    e.first = e.out - e.base
    e.used = e.first
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def map_code(fd: cython.int, size: uint64_t) -> cython.p_void:
    """The executable view, where a large page can begin; MAP_FAILED if the host refuses."""
    spare: uint64_t = size + LARGE_PAGE
    found: cython.p_void = mmap(cython.NULL, spare, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    start: uint64_t
    end: uint64_t
    if found == MAP_FAILED:
        return MAP_FAILED
    start = (cython.cast(uint64_t, found) + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1)
    end = cython.cast(uint64_t, found) + spare
    if start > cython.cast(uint64_t, found):
        munmap(found, start - cython.cast(uint64_t, found))
    if end > start + size:
        munmap(cython.cast(cython.p_void, start + size), end - start - size)
    return mmap(cython.cast(cython.p_void, start), size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def join_pages(e: cython.pointer(Emitter)) -> cython.void:
    """Ask the host to map what is full of the executable view by large pages.

    A guest's kernel runs through megabytes of host code, page after page; where the host is a virtual machine itself,
    each translation of an address is a walk through two sets of tables. A host that cannot says so, and nothing is
    lost.
    """
    while e.used - e.joined >= LARGE_PAGE:
        madvise(e.code_base + e.joined, LARGE_PAGE, MADV_COLLAPSE)
        e.joined += LARGE_PAGE


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def destroy_emitter(vm: cython.pointer(Vm)) -> cython.void:
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    if e != cython.NULL:
        if e.base != cython.NULL:
            munmap(e.base, e.size)
        if e.code_base != cython.NULL:
            munmap(e.code_base, e.size)
        free(e.cold_base)
        free(e.cold)
        free(e.last)
        free(e)
    vm.emitter = cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def trim_emitter(e: cython.pointer(Emitter)) -> cython.void:
    """Unmap the writable view of finished code: both views count as resident, and only links write there again."""
    end: uint64_t = e.used & ~cython.cast(uint64_t, 0xFFFF)
    madvise(e.base + e.trimmed, end - e.trimmed, MADV_DONTNEED)
    e.trimmed = end


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def code_used(vm: cython.pointer(Vm)) -> uint64_t:
    """Bytes of host code."""
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    return e.used - e.first


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def reset_emitter(vm: cython.pointer(Vm)) -> cython.void:
    """Drop all code. Every vCPU must be stopped, and every block forgotten by the caller."""
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    start: uint64_t = (e.first + 4095) & ~cython.cast(uint64_t, 4095)
    if e.used > start:
        # the host gets the memory back
        madvise(e.base + start, e.used - start, MADV_REMOVE)
    e.used = e.first
    e.trimmed = 0
    e.joined = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def prepare_env(vm: cython.pointer(Vm), env: cython.pointer(Env)) -> cython.void:
    """Give a vCPU what generated code expects in its env."""
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    index: cython.int
    env.thunks[0] = cython.cast(uint64_t, e.thunk)
    env.thunks[7] = cython.cast(uint64_t, e.thunk_all)
    for index in range(SLOW_COUNT):
        env.thunks[1 + index] = SLOW[index]
    env.thunks[cython.cast(cython.int, THUNK_HEAD_SIZE)] = head_check_size()


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
def executable_address(e: cython.pointer(Emitter), place: cython.pointer(uint8_t)) -> cython.pointer(uint8_t):
    return e.code_base + (place - e.base)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def special_stencil(which: cython.int) -> uint32_t:
    return special[which]


# ---------------------------------------------------------------- copier
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


# ---------------------------------------------------------------- x86-64: jumps and padding
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


# ---------------------------------------------------------------- register allocator
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def fits(value: int64_t) -> cython.bint:
    return S32_MIN <= value <= S32_MAX


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store(e: cython.pointer(Emitter), v: cython.int) -> cython.void:
    """Bring the cell of a dirty register up to date."""
    e.d = REGS + 8 * v
    if e.place[v] >= 0:
        put(e, special_stencil(SPECIAL_STORE_SLOT) + e.place[v])
    else:
        e.imm = e.constant[v]
        put(e, special_stencil(SPECIAL_STORE_CONST32) if fits(e.imm) else special_stencil(SPECIAL_STORE_CONST64))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_back(e: cython.pointer(Emitter), mask: uint64_t) -> cython.void:
    """Store the dirty registers of `mask`; they stay where they are."""
    rest: uint64_t = e.dirty & mask
    e.dirty &= ~mask
    while rest:
        store(e, ctz64(rest))
        rest &= rest - 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget(e: cython.pointer(Emitter), v: cython.int) -> cython.void:
    """The register's value is in its cell, or nobody wants it."""
    if e.place[v] >= 0:
        e.holders[e.place[v]] &= ~(ONE << v)
    e.place[v] = IN_MEMORY
    e.dirty &= ~(ONE << v)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget_all(e: cython.pointer(Emitter), mask: uint64_t) -> cython.void:
    while mask:
        forget(e, ctz64(mask))
        mask &= mask - 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take(e: cython.pointer(Emitter)) -> cython.int:
    """A free slot, pinned; the least recently used one is emptied if all hold something."""
    slot: cython.int
    best: cython.int = -1
    for slot in range(SLOT_COUNT):
        if not (e.pinned >> slot) & 1:
            if e.holders[slot] == 0:
                best = slot
                break
            if best < 0 or e.stamp[slot] < e.stamp[best]:
                best = slot
    if e.holders[best]:
        write_back(e, e.holders[best])
        forget_all(e, e.holders[best])
    e.pinned |= 1 << best
    e.clock += 1
    e.stamp[best] = e.clock
    return best


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_constant(e: cython.pointer(Emitter), slot: cython.int, value: int64_t) -> cython.void:
    e.imm = value
    if value == 0:
        put(e, special_stencil(SPECIAL_CONST_ZERO) + slot)
    elif 0 < value < U32_LIMIT:
        put(e, special_stencil(SPECIAL_CONST_U32) + slot)
    elif fits(value):
        put(e, special_stencil(SPECIAL_CONST_S32) + slot)
    else:
        put(e, special_stencil(SPECIAL_CONST_64) + slot)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def use(e: cython.pointer(Emitter), v: cython.int) -> cython.int:
    """The slot that holds the register, pinned; loads it if needed."""
    slot: cython.int = e.place[v]
    if slot >= 0:
        e.pinned |= 1 << slot
        e.clock += 1
        e.stamp[slot] = e.clock
        return slot
    slot = take(e)
    if e.place[v] == IS_CONSTANT:
        put_constant(e, slot, e.constant[v])
    else:
        e.a = REGS + 8 * v
        put(e, special_stencil(SPECIAL_LOAD_SLOT) + slot)
    e.place[v] = slot
    e.holders[slot] |= ONE << v
    return slot


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def assign(e: cython.pointer(Emitter), v: cython.int, slot: cython.int) -> cython.void:
    """The register's new value is in `slot`."""
    forget(e, v)
    e.place[v] = slot
    e.holders[slot] |= ONE << v
    e.dirty |= ONE << v


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def is_temporary(v: cython.int) -> cython.bint:
    return (TEMPORARIES_MASK >> v) & 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def may_overwrite(e: cython.pointer(Emitter), slot: cython.int, v: cython.int, last: cython.bint,
                  d: cython.int) -> cython.bint:  # fmt: skip
    """Whether the slot that `v` was read from may receive the new value of `d`.

    last: `v` is not read again in this block.
    """
    others: uint64_t = e.holders[slot] & ~(ONE << d)
    if others == 0:
        return True
    return last and v != d and others == ONE << v


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def release(e: cython.pointer(Emitter), v: cython.int, d: cython.int) -> cython.void:
    """Empty the slot of `v`, which is not read again, for the new value of `d`."""
    if v != d:
        if not is_temporary(v):
            write_back(e, ONE << v)
        forget(e, v)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def target_of(e: cython.pointer(Emitter), slot: cython.int, v: cython.int, last: cython.bint,
              d: cython.int) -> cython.int:  # fmt: skip
    """A slot with the value of `v` that the operation may overwrite with `d`."""
    target: cython.int
    if may_overwrite(e, slot, v, last, d):
        release(e, v, d)
        return slot
    target = take(e)
    put(e, special_stencil(SPECIAL_MOVE) + target * SLOT_COUNT + slot)
    return target


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fresh(e: cython.pointer(Emitter), slot: cython.int, v: cython.int, last: cython.bint,
          d: cython.int) -> cython.int:  # fmt: skip
    """A slot that may be overwritten with `d`, whatever it holds now; `slot` (of `v`) if that is free.

    Changes nothing about who holds what: a cold path must still find the old values.
    """
    own: cython.int = e.place[d]
    if own >= 0 and e.holders[own] == ONE << d:
        e.pinned |= 1 << own
        return own
    if last and is_temporary(v) and e.holders[slot] == ONE << v:
        return slot
    return take(e)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sync(e: cython.pointer(Emitter), v: cython.int) -> cython.int:
    """Make the register's cell hold its value; returns the cell's offset in env."""
    write_back(e, ONE << v)
    return REGS + 8 * v


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def first(op: cython.int, form: cython.int) -> uint32_t:
    return first_stencil[op * FORM_COUNT + form]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def xmm_cell(index: cython.int) -> cython.int:
    """Offset of a vector operand: xmm and scratch registers, then from 32 on the x87 registers."""
    return XMM + 16 * index if index < XMM_CELLS else FPR + 16 * (index - XMM_CELLS)


# ---------------------------------------------------------------- xmm slots
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_store(e: cython.pointer(Emitter), x: cython.int) -> cython.void:
    """Bring the cell of a dirty xmm register up to date."""
    e.d = xmm_cell(x)
    put(e, special_stencil(SPECIAL_STORE_X) + e.xplace[x])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_write_back(e: cython.pointer(Emitter), mask: uint32_t) -> cython.void:
    """Store the dirty xmm registers of `mask`; they stay where they are."""
    rest: uint64_t = e.xdirty & mask
    e.xdirty &= ~mask
    while rest:
        x_store(e, ctz64(rest))
        rest &= rest - 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_forget(e: cython.pointer(Emitter), x: cython.int) -> cython.void:
    """The register's value is in its cell, or nobody wants it."""
    if e.xplace[x] >= 0:
        e.xholder[e.xplace[x]] = -1
        e.xplace[x] = IN_MEMORY
    e.xdirty &= ~(cython.cast(uint32_t, 1) << x)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_forget_scratch(e: cython.pointer(Emitter)) -> cython.void:
    """Scratch registers die at the end of each guest instruction."""
    x: cython.int
    for x in range(XMM_SCRATCH_FIRST, XMM_REGISTERS):
        x_forget(e, x)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_forget_all(e: cython.pointer(Emitter)) -> cython.void:
    slot: cython.int
    for slot in range(XSLOT_COUNT):
        if e.xholder[slot] >= 0:
            x_forget(e, e.xholder[slot])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_pin(e: cython.pointer(Emitter), slot: cython.int) -> cython.int:
    e.xpinned |= 1 << slot
    e.clock += 1
    e.xstamp[slot] = e.clock
    return slot


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_take(e: cython.pointer(Emitter)) -> cython.int:
    """A free xmm slot, pinned; the least recently used one is emptied if all hold something."""
    slot: cython.int
    best: cython.int = -1
    for slot in range(XSLOT_COUNT):
        if not (e.xpinned >> slot) & 1:
            if e.xholder[slot] < 0:
                best = slot
                break
            if best < 0 or e.xstamp[slot] < e.xstamp[best]:
                best = slot
    if e.xholder[best] >= 0:
        x_write_back(e, cython.cast(uint32_t, 1) << e.xholder[best])
        x_forget(e, e.xholder[best])
    return x_pin(e, best)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_use(e: cython.pointer(Emitter), x: cython.int) -> cython.int:
    """The slot that holds the xmm register, pinned; loads it if needed."""
    slot: cython.int = e.xplace[x]
    if slot >= 0:
        return x_pin(e, slot)
    slot = x_take(e)
    e.a = xmm_cell(x)
    put(e, special_stencil(SPECIAL_LOAD_X) + slot)
    e.xplace[x] = slot
    e.xholder[slot] = x
    return slot


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_target(e: cython.pointer(Emitter), x: cython.int, keeps: cython.bint) -> cython.int:
    """The slot for the new value of an xmm register. keeps: with its old value."""
    if keeps or e.xplace[x] >= 0:
        return x_use(e, x)
    return x_take(e)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_assign(e: cython.pointer(Emitter), x: cython.int, slot: cython.int) -> cython.void:
    """The register's new value is in `slot`, which was got by `x_target`."""
    e.xplace[x] = slot
    e.xholder[slot] = x
    e.xdirty |= cython.cast(uint32_t, 1) << x


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_sync(e: cython.pointer(Emitter), x: cython.int) -> cython.int:
    """Make the cell of a vector operand hold its value; returns its offset in env."""
    if x < XMM_REGISTERS:
        x_write_back(e, cython.cast(uint32_t, 1) << x)
    return xmm_cell(x)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_back_all(e: cython.pointer(Emitter)) -> cython.void:
    """The end of the block: every register of the guest into its cell."""
    x_forget_scratch(e)
    x_write_back(e, ~cython.cast(uint32_t, 0))
    write_back(e, ~TEMPORARIES_MASK)


# ---------------------------------------------------------------- cold paths
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def begin_cold(e: cython.pointer(Emitter)) -> cython.pointer(ColdPath):
    """The record of a cold path that begins at e.cold_out."""
    c: cython.pointer(ColdPath) = e.cold + e.cold_count
    c.start = cython.cast(uint32_t, e.cold_out - e.cold_base)
    return c


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store_dirty(e: cython.pointer(Emitter)) -> cython.void:
    """Bring all cells up to date on a path of its own: on the other one they stay as they are."""
    rest: uint64_t = e.dirty & ~TEMPORARIES_MASK
    while rest:
        store(e, ctz64(rest))
        rest &= rest - 1
    rest = e.xdirty
    while rest:
        x_store(e, ctz64(rest))
        rest &= rest - 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_cold(e: cython.pointer(Emitter), number: uint32_t) -> cython.void:
    """Emit a uop's slow path into the cold buffer: store what is dirty, then the cold twin."""
    c: cython.pointer(ColdPath) = begin_cold(e)
    hot: cython.pointer(uint8_t) = e.out
    d: int32_t = e.d
    imm: int64_t = e.imm
    e.out = e.cold_out
    store_dirty(e)
    e.d = d
    e.imm = imm
    put(e, number)
    c.next_patch = cython.cast(uint32_t, e.next_patch - e.cold_base)
    e.cold_out = e.out
    e.out = hot


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_hot(e: cython.pointer(Emitter), number: uint32_t) -> cython.void:
    """Emit the fast path of the uop whose cold path was put last."""
    c: cython.pointer(ColdPath) = e.cold + e.cold_count
    put(e, number)
    c.hot_patch = e.cold_patch
    c.back = e.out
    e.cold_count += 1


# ---------------------------------------------------------------- uops
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_move(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    slot: cython.int
    if u.d == u.a:
        return
    if e.place[u.a] == IS_CONSTANT:
        emit_constant(e, u.d, e.constant[u.a])
    else:
        slot = use(e, u.a)
        assign(e, u.d, slot)
    if last & LAST_A and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_constant(e: cython.pointer(Emitter), v: cython.int, value: int64_t) -> cython.void:
    forget(e, v)
    e.place[v] = IS_CONSTANT
    e.constant[v] = value
    e.dirty |= ONE << v


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_unary(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo), number: cython.int,
               last: cython.int) -> cython.void:  # fmt: skip
    slot: cython.int = use(e, u.a)
    target: cython.int
    if info.flags & OP_IN_PLACE:
        target = target_of(e, slot, u.a, last & LAST_A, u.d)
        put(e, first(number, FORM_RI) + target)
    else:
        target = fresh(e, slot, u.a, last & LAST_A, u.d)
        put(e, first(number, FORM_RR) + target * SLOT_COUNT + slot)
        if target == slot:
            release(e, u.a, u.d)
    assign(e, u.d, target)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_binary_imm(e: cython.pointer(Emitter), u: cython.pointer(Uop), number: cython.int, imm: int64_t,
                    last: cython.int) -> cython.void:  # fmt: skip
    """d = f(a, imm), where the immediate is a constant that fits or has been put into a slot."""
    info: cython.pointer(OpInfo) = ops + number
    slot: cython.int
    if info.flags & OP_SHIFT_AMOUNT:
        imm &= info.modulus - 1
        if imm == 0:
            u.op = info.zero_shift
            if ops[u.op].kind == KIND_MOVE:
                emit_move(e, u, last)
            else:
                emit_unary(e, u, ops + u.op, u.op, last)
            return
    slot = use(e, u.a)
    if info.bits == 64 and not info.flags & OP_SHIFT_AMOUNT and not fits(imm):
        emit_wide_immediate(e, u, number, imm, slot, last)
        return
    slot = target_of(e, slot, u.a, last & LAST_A, u.d)
    e.imm = imm
    put(e, first(info.stencils, FORM_RI) + slot)
    assign(e, u.d, slot)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_wide_immediate(e: cython.pointer(Emitter), u: cython.pointer(Uop), number: cython.int, imm: int64_t,
                        slot: cython.int, last: cython.int) -> cython.void:  # fmt: skip
    """d = f(a, imm) with an immediate beyond 32 bits: by the register form, which precedes in the table."""
    info: cython.pointer(OpInfo) = ops + number - 1
    other: cython.int
    target: cython.int
    form: uint32_t = first(info.stencils, FORM_RR)
    if form == NO_STENCIL:
        # The rare form takes b from memory: a scratch cell of env.
        e.imm = imm
        e.d = SCRATCH
        put(e, special_stencil(SPECIAL_STORE_CONST64))
        target = target_of(e, slot, u.a, last & LAST_A, u.d)
        e.b = SCRATCH
        put(e, first(info.stencils, FORM_RM) + target)
    else:
        other = take(e)
        put_constant(e, other, imm)
        if info.flags & OP_SWAP_OPERANDS:
            target = other
            put(e, form + target * SLOT_COUNT + slot)
        else:
            target = target_of(e, slot, u.a, last & LAST_A, u.d)
            put(e, form + target * SLOT_COUNT + other)
    assign(e, u.d, target)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_binary(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                last: cython.int) -> cython.void:  # fmt: skip
    a: cython.int = u.a
    b: cython.int = u.b
    last_a: cython.bint = last & LAST_A
    last_b: cython.bint = last & LAST_B
    cell: cython.int
    slot_a: cython.int
    slot_b: cython.int
    target: cython.int
    form: uint32_t
    if info.flags & OP_COMMUTATIVE and e.place[a] == IS_CONSTANT and e.place[b] != IS_CONSTANT:
        a, b = b, a
        last_a, last_b = last_b, last_a
        u.a = a
        u.b = b
        last = (last & DEAD_D) | (LAST_A if last_a else 0) | (LAST_B if last_b else 0)
    if e.place[b] == IS_CONSTANT and info.imm_op >= 0:
        emit_binary_imm(e, u, info.imm_op, e.constant[b], last)
        if last_b and b != u.d and is_temporary(b):
            forget(e, b)
        return
    form = first(info.stencils, FORM_RR)
    if info.flags & OP_SWAP_OPERANDS:
        a, b = b, a
        last_a, last_b = last_b, last_a
    if form == NO_STENCIL:
        slot_a = use(e, a)
        cell = sync(e, b)
        target = target_of(e, slot_a, a, last_a, u.d)
        e.b = cell
        put(e, first(info.stencils, FORM_RM) + target)
    else:
        slot_a = use(e, a)
        slot_b = use(e, b)
        if (
            info.flags & OP_COMMUTATIVE
            and not may_overwrite(e, slot_a, a, last_a, u.d)
            and may_overwrite(e, slot_b, b, last_b, u.d)
        ):
            slot_a, slot_b = slot_b, slot_a
            a, b = b, a
            last_a, last_b = last_b, last_a
        target = target_of(e, slot_a, a, last_a, u.d)
        put(e, form + target * SLOT_COUNT + slot_b)
    assign(e, u.d, target)
    if last_a and a != u.d and is_temporary(a):
        forget(e, a)
    if last_b and b != u.d and is_temporary(b):
        forget(e, b)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_update(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    """d = f(d, a, b)."""
    slot_a: cython.int = use(e, u.a)
    slot_b: cython.int = use(e, u.b)
    slot_d: cython.int = use(e, u.d)
    slot_d = target_of(e, slot_d, u.d, True, u.d)
    put(e, first(u.op, FORM_RR) + (slot_d * SLOT_COUNT + slot_a) * SLOT_COUNT + slot_b)
    assign(e, u.d, slot_d)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)
    if last & LAST_B and u.b != u.d and is_temporary(u.b):
        forget(e, u.b)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def memory_operand(e: cython.pointer(Emitter), u: cython.pointer(Uop)) -> cython.int:
    """The slot of the base register; e.imm is the displacement, or 0 if it had to be added before."""
    slot: cython.int
    scratch: cython.int
    address: uint64_t
    if e.place[u.a] == IS_CONSTANT:
        address = cython.cast(uint64_t, e.constant[u.a]) + cython.cast(uint64_t, u.imm)
        scratch = take(e)
        put_constant(e, scratch, cython.cast(int64_t, address))
        e.imm = 0
        return scratch
    slot = use(e, u.a)
    if fits(u.imm):
        e.imm = u.imm
        return slot
    scratch = take(e)
    put_constant(e, scratch, u.imm)
    put(e, first(add64_op(), FORM_RR) + scratch * SLOT_COUNT + slot)
    e.imm = 0
    return scratch


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_load(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
              last: cython.int) -> cython.void:  # fmt: skip
    base: cython.int = memory_operand(e, u)
    imm: int64_t = e.imm
    target: cython.int
    if base != e.place[u.a]:
        target = base
    else:
        target = fresh(e, base, u.a, last & LAST_A, u.d)
    e.imm = imm
    e.meta |= info.bits >> 3
    put_cold(e, first(u.op, FORM_RR_COLD) + target * SLOT_COUNT + base)
    put_hot(e, first(u.op, FORM_RR) + target * SLOT_COUNT + base)
    if target == e.place[u.a] and u.a != u.d:
        forget(e, u.a)
    assign(e, u.d, target)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_store(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
               last: cython.int) -> cython.void:  # fmt: skip
    base: cython.int = memory_operand(e, u)
    imm: int64_t = e.imm
    value: cython.int
    e.meta |= info.bits >> 3
    if e.place[u.b] == IS_CONSTANT and (info.bits < 64 or fits(e.constant[u.b])):
        e.value = cython.cast(int32_t, e.constant[u.b])
        put_cold(e, first(u.op, FORM_RI_COLD) + base)
        put_hot(e, first(u.op, FORM_RI) + base)
    else:
        value = use(e, u.b)
        e.imm = imm
        put_cold(e, first(u.op, FORM_RR_COLD) + value * SLOT_COUNT + base)
        put_hot(e, first(u.op, FORM_RR) + value * SLOT_COUNT + base)
    if last & LAST_A and is_temporary(u.a):
        forget(e, u.a)
    if last & LAST_B and is_temporary(u.b):
        forget(e, u.b)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget_operands(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    """Free the slots of temporaries that are not read again."""
    info: cython.pointer(OpInfo) = ops + u.op
    if last & LAST_A and info.flags & OP_A_IS_VREG and is_temporary(u.a):
        forget(e, u.a)
    if last & LAST_B and info.flags & OP_B_IS_VREG and is_temporary(u.b):
        forget(e, u.b)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_vector_memory(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                       last: cython.int) -> cython.void:  # fmt: skip
    base: cython.int = memory_operand(e, u)
    imm: int64_t = e.imm
    store: cython.bint = info.kind == KIND_VECTOR_STORE
    slot: cython.int = 0
    in_slots: cython.bint = (u.b if store else u.d) < XMM_REGISTERS
    if in_slots:
        slot = x_use(e, u.b) if store else x_target(e, u.d, False)
        slot = slot * SLOT_COUNT + base
    e.imm = imm
    e.d = xmm_cell(u.d)
    e.b = xmm_cell(u.b)
    e.meta |= 16
    if info.flags & OP_MUST_ALIGN:
        e.meta |= META_ALIGNED
    put_cold(e, first(u.op, FORM_X_COLD) + slot if in_slots else first(u.op, FORM_RI_COLD) + base)
    put_hot(e, first(u.op, FORM_X) + slot if in_slots else first(u.op, FORM_RI) + base)
    if in_slots and not store:
        x_assign(e, u.d, slot // SLOT_COUNT)
    if last & LAST_A and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_locked(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                last: cython.int) -> cython.void:  # fmt: skip
    """RMW and CMPXCHG: operands and result in env."""
    a: cython.int = sync(e, u.a)
    b: cython.int = sync(e, u.b)
    d: cython.int = sync(e, u.d) if info.flags & OP_READS_D else REGS + 8 * u.d
    e.a = a
    e.b = b
    e.d = d
    e.meta |= info.bits >> 3 | cython.cast(int32_t, info.rmw) << 16
    put_cold(e, first(u.op, FORM_MEMORY_COLD))
    put_hot(e, first(u.op, FORM_MEMORY))
    forget_operands(e, u, last)
    forget(e, u.d)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_vector(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                last: cython.int) -> cython.void:  # fmt: skip
    a: cython.int
    b: cython.int
    if info.rmw and emit_vector_slots(e, u, info, last):
        return
    a = sync(e, u.a) if info.flags & OP_A_IS_VREG else x_sync(e, u.a)
    b = sync(e, u.b) if info.flags & OP_B_IS_VREG else x_sync(e, u.b)
    if not info.flags & OP_D_IS_VREG:
        x_sync(e, u.d)
    e.a = a
    e.b = b
    e.d = REGS + 8 * u.d if info.flags & OP_D_IS_VREG else xmm_cell(u.d)
    e.imm = u.imm
    put(e, first(u.op, FORM_MEMORY))
    forget_operands(e, u, last)
    if info.flags & OP_D_IS_VREG:
        forget(e, u.d)
    elif u.d < XMM_REGISTERS:
        x_forget(e, u.d)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_vector_slots(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                      last: cython.int) -> cython.bint:  # fmt: skip
    """A vector uop whose xmm operands are in slots; 0 if it has to be done in env."""
    shape: cython.int = info.rmw
    keeps: cython.bint = info.modulus
    number: uint32_t = first(u.op, FORM_X)
    x: cython.int
    y: cython.int
    e.imm = u.imm
    if shape == SHAPE_RA:
        if u.a >= XMM_REGISTERS:
            return 0
        x = x_use(e, u.a)
        y = take(e)
        e.imm = u.imm
        put(e, number + y * XSLOT_COUNT + x)
        assign(e, u.d, y)
        return 1
    if shape == SHAPE_AB or shape == SHAPE_AR:
        if u.a >= XMM_REGISTERS or (shape == SHAPE_AB and u.b >= XMM_REGISTERS):
            return 0
        x = x_use(e, u.a)
        y = x_use(e, u.b) if shape == SHAPE_AB else use(e, u.b)
        e.d = REGS + 8 * u.d
        put(e, number + x * (XSLOT_COUNT if shape == SHAPE_AB else SLOT_COUNT) + y)
        forget_operands(e, u, last)
        forget(e, u.d)
        return 1
    if u.d >= XMM_REGISTERS:
        return 0
    if shape == SHAPE_DB:
        if u.d != u.a or u.b >= XMM_REGISTERS:
            return 0
        y = x_use(e, u.b)
        x = x_use(e, u.d)
        number += x * XSLOT_COUNT + y
    elif shape == SHAPE_DA:
        if u.a >= XMM_REGISTERS:
            return 0
        y = x_use(e, u.a)
        x = x_target(e, u.d, keeps)
        number += x * XSLOT_COUNT + y
    elif shape == SHAPE_DR:
        y = use(e, u.a)
        x = x_target(e, u.d, keeps)
        number += x * SLOT_COUNT + y
    else:
        if keeps and u.d != u.a:
            return 0
        x = x_target(e, u.d, keeps)
        number += x
    e.imm = u.imm
    put(e, number)
    x_assign(e, u.d, x)
    forget_operands(e, u, last)
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_helper(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    """Everything the helper may look at or leave alone is in env; slots survive the call."""
    h: cython.pointer(HelperInfo) = helpers + u.x
    wide: cython.bint = not fits(u.imm)
    a: cython.int = sync(e, u.a)
    b: cython.int = sync(e, u.b)
    slot: cython.int
    write_back(e, h.reads | h.writes)
    x_write_back(e, ~cython.cast(uint32_t, 0))
    x_forget_all(e)
    if h.faults:
        write_back(e, ~TEMPORARIES_MASK)
    slot = -1
    if not last & DEAD_D:
        slot = take(e)
    e.a = a
    e.b = b
    e.imm = u.imm
    e.callee = h.address
    if slot < 0:
        put(e, first(u.op, FORM_MEMORY_WIDE if wide else FORM_MEMORY))
    else:
        put(e, first(u.op, FORM_RI_WIDE if wide else FORM_RI) + slot)
    forget_all(e, h.writes)
    forget_operands(e, u, last)
    if slot >= 0:
        assign(e, u.d, slot)
    elif is_temporary(u.d):
        forget(e, u.d)


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
def compare_and_jump(e: cython.pointer(Emitter), u: cython.pointer(Uop), at_end: cython.bint) -> cython.pointer(uint8_t):
    """The comparison of a branch uop and a jump that is taken if it holds: returns its displacement's place.

    at_end: every register is written back before.
    """
    info: cython.pointer(OpInfo) = ops + u.op
    slot_a: cython.int
    slot_b: cython.int
    imm: int64_t = u.imm
    fall: cython.int
    jump: cython.pointer(uint8_t)
    if info.kind == KIND_BRANCH and e.place[u.b] == IS_CONSTANT and (
        ops[info.imm_op].bits < 64 or fits(e.constant[u.b])
    ):
        imm = e.constant[u.b]
        info = ops + info.imm_op
    slot_a = use(e, u.a)
    if info.kind == KIND_BRANCH_IMM and (info.bits < 64 or fits(imm)):
        if at_end:
            write_back_all(e)
        e.imm = imm
        fall = put_branch(e, first(info.stencils, FORM_RI) + slot_a)
    else:
        if info.kind == KIND_BRANCH_IMM:
            slot_b = take(e)
            put_constant(e, slot_b, imm)
            info -= 1
        else:
            slot_b = use(e, u.b)
        if at_end:
            write_back_all(e)
        if info.flags & OP_SWAP_OPERANDS:
            slot_a, slot_b = slot_b, slot_a
        fall = put_branch(e, first(info.stencils, FORM_RR) + slot_a * SLOT_COUNT + slot_b)
    jump = e.exit_patch[1 - fall]
    if (1 - fall) ^ (1 if info.flags & OP_SWAP_EXITS else 0):
        negate_jump(jump)
    return jump


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_branch(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    """A side exit, or the end: exit x if the condition holds, exit x + 1 if not."""
    jump: cython.pointer(uint8_t)
    if u.d == SIDE_EXIT:
        leave_by(e, u.x, compare_and_jump(e, u, False), u.insn)
        forget_operands(e, u, last)
    elif e.block.loops:
        jump = compare_and_jump(e, u, False)
        negate_jump(jump)
        leave_by(e, u.x + 1, jump, u.insn)
        forget_operands(e, u, last)
    else:
        e.exits[u.x].patch = compare_and_jump(e, u, True)
        e.exits[u.x + 1].patch = put_jump(e)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def leave_by(e: cython.pointer(Emitter), number: cython.int, jump: cython.pointer(uint8_t),
             insn: cython.int) -> cython.void:  # fmt: skip
    """Let a jump leave by an exit, behind guest instruction `insn`; what is to be done before is a cold path."""
    c: cython.pointer(ColdPath) = begin_cold(e)
    hot: cython.pointer(uint8_t) = e.out
    e.out = e.cold_out
    store_dirty(e)
    e.count = e.block.insn_count - insn - 1
    if e.count:
        put(e, special_stencil(SPECIAL_UNCOUNT))
    e.exits[number].patch = put_jump(e)
    put_exit(e, e.exits + number)
    e.cold_out = e.out
    e.out = hot
    c.hot_patch = jump
    c.next_patch = NO_WAY_BACK
    e.cold_count += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_uop(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    info: cython.pointer(OpInfo) = ops + u.op
    kind: cython.int = info.kind
    slot: cython.int
    if kind == KIND_MOVE:
        emit_move(e, u, last)
    elif kind == KIND_MOVE_IMM:
        emit_constant(e, u.d, u.imm)
    elif kind == KIND_BINARY:
        emit_binary(e, u, info, last)
    elif kind == KIND_BINARY_IMM:
        emit_binary_imm(e, u, u.op, u.imm, last)
    elif kind == KIND_UNARY:
        emit_unary(e, u, info, u.op, last)
    elif kind == KIND_LOAD:
        emit_load(e, u, info, last)
    elif kind == KIND_STORE:
        emit_store(e, u, info, last)
    elif kind == KIND_UPDATE:
        emit_update(e, u, last)
    elif kind == KIND_HELPER:
        emit_helper(e, u, last)
    elif kind == KIND_VECTOR:
        emit_vector(e, u, info, last)
    elif kind in (KIND_VECTOR_LOAD, KIND_VECTOR_STORE):
        emit_vector_memory(e, u, info, last)
    elif kind in (KIND_RMW, KIND_CMPXCHG):
        emit_locked(e, u, info, last)
    elif kind in (KIND_BRANCH, KIND_BRANCH_IMM):
        emit_branch(e, u, last)
    elif kind == KIND_JUMP:
        if not e.block.loops:
            write_back_all(e)
            e.exits[u.x].patch = put_jump(e)
    elif kind == KIND_JUMP_INDIRECT:
        slot = use(e, u.a)
        write_back_all(e)
        e.imm = u.imm
        put(e, first(u.op, FORM_RI) + slot)
    elif kind != KIND_NOP:
        write_back_all(e)
        put(e, special_stencil(SPECIAL_DISPATCH))
    if info.flags & OP_D_IS_VREG and last & DEAD_D and is_temporary(u.d):
        forget(e, u.d)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find_last_reads(e: cython.pointer(Emitter), uops: cython.pointer(Uop), count: cython.int,
                    wanted: uint64_t) -> uint64_t:  # fmt: skip
    """Which operands are not read again, and which results are never read; and which registers are written.

    wanted: registers that are read after the block. Returns those that are read before they are written.
    """
    a: uint64_t
    b: uint64_t
    d: uint64_t
    bits: cython.int
    index: cython.int
    u: cython.pointer(Uop)
    info: cython.pointer(OpInfo)
    e.written = 0
    for index in range(count - 1, -1, -1):
        u = uops + index
        info = ops + u.op
        bits = 0
        if info.flags & OP_D_IS_VREG:
            d = ONE << u.d
            e.written |= d
            if not wanted & d:
                bits = DEAD_D if is_temporary(u.d) else 0
            if info.flags & OP_READS_D:
                wanted |= d
            else:
                wanted &= ~d
        a = ONE << u.a if info.flags & OP_A_IS_VREG else 0
        b = ONE << u.b if info.flags & OP_B_IS_VREG else 0
        if info.kind == KIND_HELPER:
            wanted |= helpers[u.x].reads
        if not wanted & a:
            bits |= LAST_A
        if not wanted & b:
            bits |= LAST_B
        wanted |= a | b
        e.last[index] = bits
    return wanted


# ---------------------------------------------------------------- blocks
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_exit_stub(e: cython.pointer(Emitter), left: uint64_t) -> cython.void:
    """Tell the run loop how the block was left: by which Exit, or Block | 1 at its head."""
    e.imm = cython.cast(int64_t, left)
    put(e, special_stencil(SPECIAL_EXIT_STUB))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_exit(e: cython.pointer(Emitter), exit: cython.pointer(Exit)) -> cython.void:
    """What an exit's jump leads to as long as it is not linked."""
    set_jump(exit.patch, e.out)
    if (exit.pc ^ e.block.pc) >> 12 and canonical(exit.pc):
        # Another page may be mapped elsewhere when we come back: never linked, found through the jump cache.
        exit.patch = cython.NULL
        put_constant(e, 0, cython.cast(int64_t, exit.pc))
        put(e, first(jump_indirect_op, FORM_RI))
    else:
        exit.stub = e.out
        put_exit_stub(e, cython.cast(uint64_t, exit))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_body(e: cython.pointer(Emitter), uops: cython.pointer(Uop), count: cython.int) -> cython.void:
    """Host code of all uops, from the registers' present places on."""
    index: cython.int
    mode_meta: int32_t = cython.cast(int32_t, (e.block.flags >> FLAG_MMU_SHIFT & 3) << 8)
    u: Uop
    for index in range(count):
        u = uops[index]  # a copy: it is changed
        e.pinned = 0
        e.xpinned = 0
        if index and u.insn != uops[index - 1].insn:
            x_forget_scratch(e)
        e.pc = u.pc
        e.meta = mode_meta
        e.tag_offset = 0
        if MEMORY_KINDS >> ops[u.op].kind & 1:
            # access bits: the mode argument of the slow path; a read-modify-write needs the write tag
            e.meta |= cython.cast(int32_t, u.x) << 8
            if u.x & ACCESS_UPDATE:
                e.tag_offset = 8
        e.count = e.block.insn_count - u.insn
        emit_uop(e, cython.address(u), e.last[index])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def begin_loop(e: cython.pointer(Emitter)) -> cython.pointer(uint8_t):
    """The point that a loop comes back to: remembers where the registers are. Returns its address."""
    place: cython.pointer(uint8_t)
    rest: uint64_t
    v: cython.int
    head: cython.pointer(ColdPath)
    x_forget_scratch(e)
    forget_all(e, TEMPORARIES_MASK)
    # What the loop writes and keeps in a slot will be out of date in its cell when we come back.
    rest = e.written & ~e.dirty
    while rest:
        v = ctz64(rest)
        rest &= rest - 1
        if e.place[v] >= 0:
            e.dirty |= ONE << v
    memcpy(e.loop.place, e.place, 64)
    memcpy(e.loop.constant, e.constant, 64 * 8)
    memcpy(e.loop.xplace, e.xplace, 32)
    e.loop.dirty = e.dirty
    e.loop.xdirty = e.xdirty
    place = e.out
    head = begin_cold(e)
    e.out = e.cold_out
    store_dirty(e)
    put_exit_stub(e, cython.cast(uint64_t, e.block) | 1)
    e.cold_out = e.out
    e.out = place
    e.count = e.block.insn_count
    put(e, special_stencil(SPECIAL_HEAD))
    head.hot_patch = e.cold_patch
    head.next_patch = NO_WAY_BACK
    e.cold_count += 1
    return place


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def stays(e: cython.pointer(Emitter), v: cython.int) -> cython.bint:
    """Whether a register is where it was when the loop began."""
    if e.place[v] != e.loop.place[v]:
        return False
    return e.place[v] != IS_CONSTANT or e.constant[v] == e.loop.constant[v]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def move_back(e: cython.pointer(Emitter)) -> cython.void:
    """Move registers to the slots they had when the loop began, as far as no other one is in the way."""
    v: cython.int
    slot: cython.int
    source: cython.int
    moved: cython.bint = True
    rest: uint64_t
    while moved:
        moved = False
        for v in range(64):
            slot = e.loop.place[v]
            source = e.place[v]
            if slot < 0 or source < 0 or slot == source or wanted_in_slots(e, slot):
                continue
            put(e, special_stencil(SPECIAL_MOVE) + slot * SLOT_COUNT + source)
            rest = e.holders[source]
            while rest:
                v = ctz64(rest)
                rest &= rest - 1
                if e.loop.place[v] == slot:
                    e.holders[source] &= ~(ONE << v)
                    e.holders[slot] |= ONE << v
                    e.place[v] = slot
            moved = True
            break
        if not moved:
            moved = break_cycle(e)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def break_cycle(e: cython.pointer(Emitter)) -> cython.bint:
    """Take what stands in another register's way to a free slot; 0 if there is nothing to move or no slot.

    Whoever belongs there can then move: each turn brings at least one register to its place.
    """
    v: cython.int
    free: cython.int = -1
    source: cython.int
    for v in range(SLOT_COUNT):
        if e.holders[v] == 0:
            free = v
    if free < 0:
        return False
    for source in range(SLOT_COUNT):
        if stands_in_the_way(e, source):
            put(e, special_stencil(SPECIAL_MOVE) + free * SLOT_COUNT + source)
            e.holders[free] = e.holders[source]
            e.holders[source] = 0
            for v in range(64):
                if e.place[v] == source:
                    e.place[v] = free
            return True
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stands_in_the_way(e: cython.pointer(Emitter), slot: cython.int) -> cython.bint:
    """Whether another register belongs into a slot, and none that is there does."""
    v: cython.int
    wanted: cython.bint = False
    for v in range(64):
        if e.loop.place[v] == slot and e.place[v] >= 0:
            if e.place[v] == slot:
                return False
            wanted = True
    return wanted


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def wanted_in_slots(e: cython.pointer(Emitter), slot: cython.int) -> cython.bint:
    """Whether a slot holds what the loop's beginning has in a slot; else it is emptied."""
    rest: uint64_t = e.holders[slot]
    while rest:
        if e.loop.place[ctz64(rest)] >= 0:
            return True
        rest &= rest - 1
    write_back(e, e.holders[slot])
    forget_all(e, e.holders[slot])
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def close_loop(e: cython.pointer(Emitter), start: cython.pointer(uint8_t)) -> cython.bint:
    """Put the registers where they were when the loop began, and go there. 0: that is not possible."""
    v: cython.int
    for v in range(64):
        if e.loop.place[v] == IS_CONSTANT and not is_temporary(v) and not stays(e, v):
            return 0
    x_forget_scratch(e)
    forget_all(e, TEMPORARIES_MASK)
    # first out of the slots, then from slot to slot, then into them
    for v in range(64):
        if e.place[v] != IN_MEMORY and not (e.loop.place[v] != IN_MEMORY and (e.loop.dirty >> v) & 1):
            write_back(e, ONE << v)
    for v in range(XMM_REGISTERS):
        if e.xplace[v] != IN_MEMORY and not (e.xplace[v] == e.loop.xplace[v] and (e.loop.xdirty >> v) & 1):
            x_write_back(e, cython.cast(uint32_t, 1) << v)
    move_back(e)
    for v in range(64):
        if e.loop.place[v] >= 0 and not stays(e, v):
            write_back(e, ONE << v)
    for v in range(64):
        if e.loop.place[v] >= 0 and not stays(e, v):
            e.a = REGS + 8 * v
            put(e, special_stencil(SPECIAL_LOAD_SLOT) + e.loop.place[v])
    for v in range(XMM_REGISTERS):
        if e.loop.xplace[v] >= 0 and e.xplace[v] != e.loop.xplace[v]:
            e.a = xmm_cell(v)
            put(e, special_stencil(SPECIAL_LOAD_X) + e.loop.xplace[v])
    set_jump(put_jump(e), start)
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def place_exits(e: cython.pointer(Emitter), cold_start: cython.pointer(uint8_t)) -> cython.void:
    """Exits whose code was in the cold buffer have moved to `cold_start`; stubs are named by where they run."""
    index: cython.int
    exit: cython.pointer(Exit)
    for index in range(e.block.exit_count * (2 if e.block.loops else 1)):
        exit = e.block.exits + index
        if e.cold_base <= exit.patch < e.cold_out:
            exit.patch = cold_start + (exit.patch - e.cold_base)
            exit.stub = cold_start + (exit.stub - e.cold_base)
        if exit.patch != cython.NULL:
            exit.stub = executable_address(e, exit.stub)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_block(vm: cython.pointer(Vm), block: cython.pointer(Block), uops: cython.pointer(Uop),
               count: cython.int) -> cython.int:  # fmt: skip
    """Make host code of a block: sets code, code_size, and where its exits are. Returns EMIT_*.

    uops: already optimised. block.pc, flags, insn_count, exits (block, pc, no link), exit_count and loops must be set;
    there are twice exit_count exits if it loops. It must stay where it is until the arena is reset.
    """
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    index: cython.int
    copies: uint64_t = 2 if block.loops else 1
    head_patch: cython.pointer(uint8_t)
    start: cython.pointer(uint8_t)
    loop_start: cython.pointer(uint8_t)
    cold_start: cython.pointer(uint8_t)
    c: cython.pointer(ColdPath)
    if count > EMIT_MAX_UOPS:
        return EMIT_TOO_LONG
    # hot code of a uop is at most three evictions and two stencils, a cold path at most 1 KiB
    if e.used + 8192 + copies * cython.cast(uint64_t, count) * (1024 + 512 + 2 * LARGEST) > e.size:
        return EMIT_FULL
    for index in range(block.exit_count * copies):
        block.exits[index].patch = cython.NULL
        block.exits[index].stub = cython.NULL
    e.block = block
    e.exits = block.exits
    e.out = e.base + e.used
    align_block(e)
    start = e.out
    e.cold_out = e.cold_base
    e.cold_count = 0
    e.dirty = 0
    e.clock = 0
    e.tlb = TLB_BASE + TLB_MODE_SIZE * cython.cast(int32_t, block.flags >> FLAG_MMU_SHIFT & 3)
    for index in range(SLOT_COUNT):
        e.holders[index] = 0
        e.stamp[index] = 0
    memset(e.place, IN_MEMORY, 64)
    memset(e.xplace, IN_MEMORY, 32)
    memset(e.xholder, -1, 8)
    memset(e.xstamp, 0, 32)
    e.xdirty = 0
    e.xpinned = 0
    e.place[ZERO_VREG] = IS_CONSTANT
    e.constant[ZERO_VREG] = 0
    if block.loops:
        find_last_reads(e, uops, count, find_last_reads(e, uops, count, 0))
    else:
        find_last_reads(e, uops, count, 0)
    e.count = block.insn_count
    put(e, special_stencil(SPECIAL_HEAD))
    head_patch = e.cold_patch
    emit_body(e, uops, count)
    if block.loops:
        loop_start = begin_loop(e)
        e.exits += block.exit_count
        emit_body(e, uops, count)
        if not close_loop(e, loop_start):
            write_back_all(e)
            e.exits[block.exit_count - 1 - (1 if ops[uops[count - 1].op].kind != KIND_JUMP else 0)].patch = put_jump(e)
    for index in range(block.exit_count * copies):
        if block.exits[index].patch != cython.NULL and block.exits[index].stub == cython.NULL:
            put_exit(e, block.exits + index)
    set_jump(head_patch, e.out)
    put_exit_stub(e, cython.cast(uint64_t, block) | 1)
    align_block(e)  # as the cold buffer is: the alignment of exits stays
    cold_start = e.out
    memcpy(cold_start, e.cold_base, e.cold_out - e.cold_base)
    e.out = cold_start + (e.cold_out - e.cold_base)
    for index in range(e.cold_count):
        c = e.cold + index
        set_jump(c.hot_patch, cold_start + c.start)
        if c.next_patch != NO_WAY_BACK:
            set_jump(cold_start + c.next_patch, c.back)
    place_exits(e, cold_start)
    block.code_size = cython.cast(uint32_t, e.out - start)
    e.used = e.out - e.base
    if e.used - e.trimmed > TRIM_SIZE:
        trim_emitter(e)
    if e.used - e.joined >= LARGE_PAGE:
        join_pages(e)
    block.code = executable_address(e, start)
    return EMIT_OK


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_code(env: cython.pointer(Env), code: cython.pointer(uint8_t)) -> cython.pointer(Exit):
    """Run from the block at `code` until generated code leaves. Afterwards env.rip is exact.

    Returns the exit that was taken if it is not linked; NULL if code was left otherwise (interrupt, fault, indirect
    jump, helper's choice). Check env.fault.
    """
    vm: cython.pointer(Vm) = cython.cast(cython.pointer(Vm), env.vm)
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    left: cython.pointer(Exit)
    env.block_exit = 0
    cython.cast(enter_fn, e.enter)(env, code)
    if env.block_exit == 0:
        return cython.NULL
    if env.block_exit & 1:
        env.rip = cython.cast(cython.pointer(Block), cython.cast(cython.p_void, env.block_exit - 1)).pc
        return cython.NULL
    left = cython.cast(cython.pointer(Exit), cython.cast(cython.p_void, env.block_exit))
    env.rip = left.pc
    return left


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def point_exit(e: cython.pointer(Emitter), exit: cython.pointer(Exit), target: cython.pointer(uint8_t)) -> cython.void:
    """Make an exit jump to an executable address. Other vCPUs may be running it: one aligned store."""
    patch32(exit.patch, cython.cast(int32_t, target - executable_address(e, exit.patch) - 4))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def link_block(vm: cython.pointer(Vm), source: cython.pointer(Exit), target: cython.pointer(Block)) -> cython.void:
    """Let an exit go straight to `target`. Under vm.lock. No effect if one of the blocks is invalid."""
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    if (
        source.patch == cython.NULL
        or source.link != cython.NULL
        or target.code == cython.NULL
        or not source.block.valid
        or not target.valid
    ):
        return
    source.link = target
    source.next_incoming = target.incoming
    target.incoming = source
    point_exit(e, source, target.code)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unlink_block(vm: cython.pointer(Vm), block: cython.pointer(Block)) -> cython.void:
    """Let no other block's exit reach this one any more. Under vm.lock; vCPUs may be running.

    Its own exits stay linked, so that a vCPU inside it gets on; they are unlinked when their targets go.
    """
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    exit: cython.pointer(Exit) = block.incoming
    following: cython.pointer(Exit)
    block.incoming = cython.NULL
    while exit != cython.NULL:
        following = exit.next_incoming
        exit.next_incoming = cython.NULL
        exit.link = cython.NULL
        point_exit(e, exit, exit.stub)
        exit = following
