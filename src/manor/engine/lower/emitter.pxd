# The stencil emitter: code arena, register allocator, copier, links between blocks.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, int16_t, uint8_t, int8_t
from manor.engine.env cimport Env
from manor.engine.vm cimport Vm, Block, Exit
from manor.engine.uop.uop cimport Uop

cdef enum EmitResult:
    EMIT_OK = 0
    EMIT_FULL = 1        # the arena is full: stop all vCPUs, empty the cache, reset_emitter, try again
    EMIT_TOO_LONG = 2    # more than EMIT_MAX_UOPS uops

cdef enum EmitConstant:
    SLOT_COUNT = 8
    FORM_COUNT = 11
    XSLOT_COUNT = 6
    XMM_REGISTERS = 20
    XMM_SCRATCH_FIRST = 16
    EMIT_MAX_UOPS = 1024
    IN_MEMORY = -1       # in Emitter.place
    IS_CONSTANT = -2
    NO_FALL = 255
    SPECIAL_COUNT = 20
    META_ALIGNED = 0x1000000
    NO_WAY_BACK = 0xFFFFFFFF

cdef enum FormNumber:
    FORM_RR = 0
    FORM_RI = 1
    FORM_MEMORY = 2
    FORM_RR_COLD = 3
    FORM_RI_COLD = 4
    FORM_MEMORY_COLD = 5
    FORM_RI_WIDE = 6
    FORM_MEMORY_WIDE = 7
    FORM_RM = 8
    FORM_X = 9
    FORM_X_COLD = 10

cdef enum ShapeNumber:
    SHAPE_NONE = 0
    SHAPE_DB = 1
    SHAPE_DA = 2
    SHAPE_DR = 3
    SHAPE_RA = 4
    SHAPE_AB = 5
    SHAPE_AR = 6
    SHAPE_D = 7

cdef enum HoleNumber:
    HOLE_IMM = 0
    HOLE_LOW = 1
    HOLE_HIGH = 2
    HOLE_SHIFT = 3
    HOLE_SHIFT_NEGATED = 4
    HOLE_D = 5
    HOLE_A = 6
    HOLE_B = 7
    HOLE_TLB = 8
    HOLE_META = 9
    HOLE_PC_LOW = 10
    HOLE_PC_HIGH = 11
    HOLE_COUNT = 12
    HOLE_CALLEE = 13
    HOLE_FLAGS = 14
    HOLE_COLD = 15
    HOLE_NEXT = 16
    HOLE_EXIT0 = 17
    HOLE_EXIT1 = 18
    HOLE_VALUE = 19
    HOLE_NEGATED = 20

cdef enum PatchNumber:
    PATCH_ABS64 = 0
    PATCH_ABS32 = 1
    PATCH_ABS16 = 2
    PATCH_ABS8 = 3
    PATCH_REL32 = 4

cdef enum SpecialNumber:
    SPECIAL_ENTER = 0
    SPECIAL_THUNK = 1
    SPECIAL_HEAD = 2
    SPECIAL_EXIT_STUB = 3
    SPECIAL_LEAVE = 4
    SPECIAL_LOAD_SLOT = 5
    SPECIAL_STORE_SLOT = 6
    SPECIAL_STORE_CONST32 = 7
    SPECIAL_STORE_CONST64 = 8
    SPECIAL_MOVE = 9
    SPECIAL_CONST_ZERO = 10
    SPECIAL_CONST_U32 = 11
    SPECIAL_CONST_S32 = 12
    SPECIAL_CONST_64 = 13
    SPECIAL_DISPATCH = 14
    SPECIAL_THUNK_ALL = 15
    SPECIAL_LOAD_X = 16
    SPECIAL_STORE_X = 17
    SPECIAL_MOVE_X = 18
    SPECIAL_UNCOUNT = 19

cdef enum EnvThunk:
    THUNK_HEAD_SIZE = 15  # not an address: what a block that is entered in an interrupt shadow skips

cdef enum LastRead:
    LAST_A = 1
    LAST_B = 2
    DEAD_D = 4

cdef packed struct StencilHeader:
    char magic[8]
    uint8_t layout[32]
    uint8_t fingerprint[32]
    uint32_t uops
    uint32_t stencils
    uint32_t relocations
    uint32_t code_size
    uint32_t largest
    uint32_t zero

cdef struct Relocation:
    uint16_t offset
    uint8_t patch
    uint8_t hole
    int32_t addend

cdef struct Stencil:
    uint32_t code
    uint32_t relocation
    uint16_t size
    uint16_t relocations
    uint8_t fall
    uint8_t pad[3]

cdef struct ColdPath:
    uint8_t *hot_patch   # displacement of the jump to the cold path
    uint8_t *back        # where the cold path returns to
    uint32_t start       # offset in the cold buffer
    uint32_t next_patch  # offset of the displacement of the jump back, or NO_WAY_BACK

cdef struct Places:      # where the guest's registers are
    int8_t place[64]     # slot of each virtual register, IN_MEMORY or IS_CONSTANT
    int64_t constant[64]
    uint64_t dirty       # registers whose cell in env is out of date
    int8_t xplace[32]    # xmm slot of each xmm register, or IN_MEMORY
    uint32_t xdirty

cdef struct Emitter:
    # arena: the same memory mapped twice
    uint8_t *base        # writable
    uint8_t *code_base   # executable
    uint64_t size
    uint64_t used
    uint64_t trimmed     # bytes of the writable view that were given back
    uint64_t joined      # bytes of the executable view that the host was asked to map by large pages
    uint64_t first       # bytes at the start that are never dropped: enter, thunk
    uint8_t *enter       # executable address
    uint8_t *thunk
    uint8_t *thunk_all
    # state of the block being emitted
    Block *block
    Exit *exits          # of the copy of the block's body that is being emitted
    Places loop          # at the point that the loop of a block comes back to
    uint64_t written     # virtual registers that the block writes
    uint8_t *out
    uint8_t *cold_out
    uint8_t *cold_base
    ColdPath *cold
    int32_t cold_count
    uint8_t *last        # LastRead bits of each uop
    int8_t place[64]     # slot of each virtual register, IN_MEMORY or IS_CONSTANT
    int64_t constant[64]
    uint64_t dirty       # registers whose cell in env is out of date
    uint64_t holders[8]  # registers that each slot holds
    uint32_t stamp[8]
    uint32_t clock
    uint32_t pinned      # slots in use by the current uop
    int8_t xplace[32]    # xmm slot of each xmm register, or IN_MEMORY
    int8_t xholder[8]    # xmm register that each xmm slot holds, or -1
    uint32_t xdirty      # xmm registers whose cell is out of date
    uint32_t xstamp[8]
    uint32_t xpinned
    # what the copier writes into holes
    int64_t imm
    int64_t value
    uint64_t pc
    uint64_t callee
    int32_t d
    int32_t a
    int32_t b
    int32_t tlb
    int32_t tag_offset   # from the read tag of a TLB entry to the one that is compared
    int32_t meta
    int32_t count
    # where it found jumps
    uint8_t *cold_patch
    uint8_t *next_patch
    uint8_t *exit_patch[2]  # of the branch put last: if its condition holds, and if not

ctypedef void (*enter_fn)(Env *, uint8_t *) noexcept nogil

cdef extern from *:
    """
    #include <string.h>
    #include <sys/mman.h>
    static inline void manor_put64(void *p, uint64_t v) { memcpy(p, &v, 8); }
    static inline void manor_put32(void *p, uint32_t v) { memcpy(p, &v, 4); }
    static inline void manor_put16(void *p, uint16_t v) { memcpy(p, &v, 2); }
    static inline void manor_patch32(void *p, int32_t v) { __atomic_store_n((int32_t *)p, v, __ATOMIC_RELEASE); }
    """
    void put64 "manor_put64"(void *, uint64_t) noexcept nogil
    void put32 "manor_put32"(void *, uint32_t) noexcept nogil
    void put16 "manor_put16"(void *, uint16_t) noexcept nogil
    void patch32 "manor_patch32"(void *, int32_t) noexcept nogil
    int madvise(void *, size_t, int) noexcept nogil
    const int MADV_DONTNEED
    const int MADV_REMOVE
    const int MADV_COLLAPSE "25"  # Linux 6.1, include/uapi/asm-generic/mman-common.h
    int memfd_create(const char *, unsigned int) nogil
