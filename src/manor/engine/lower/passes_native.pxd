# Properties of uops in C form, and the passes over a block's uops.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, int16_t, uint8_t
from manor.engine.uop.uop cimport Uop

cdef enum KindNumber:
    KIND_UNARY = 0
    KIND_BINARY = 1
    KIND_BINARY_IMM = 2
    KIND_UPDATE = 3
    KIND_MOVE = 4
    KIND_MOVE_IMM = 5
    KIND_LOAD = 6
    KIND_STORE = 7
    KIND_RMW = 8
    KIND_CMPXCHG = 9
    KIND_HELPER = 10
    KIND_VECTOR = 11
    KIND_VECTOR_LOAD = 12
    KIND_VECTOR_STORE = 13
    KIND_JUMP = 14
    KIND_BRANCH = 15
    KIND_BRANCH_IMM = 16
    KIND_JUMP_INDIRECT = 17
    KIND_EXIT = 18
    KIND_NOP = 19

cdef enum OpFlag:
    OP_COMMUTATIVE = 1
    OP_SWAP_OPERANDS = 2
    OP_SWAP_EXITS = 4
    OP_SHIFT_AMOUNT = 8
    OP_TERMINAL = 16
    OP_IN_PLACE = 32
    OP_D_IS_VREG = 64
    OP_A_IS_VREG = 128
    OP_B_IS_VREG = 256
    OP_READS_D = 512
    OP_D_IS_XMM = 1024
    OP_A_IS_XMM = 2048
    OP_B_IS_XMM = 4096
    OP_MUST_ALIGN = 8192
    OP_CLEAN32 = 16384

cdef enum PassConstant:
    MAX_OPS = 2048
    MAX_HELPERS = 1024

cdef struct OpInfo:
    uint8_t kind
    uint8_t bits
    uint8_t modulus
    uint8_t rmw
    uint16_t flags
    uint16_t stencils
    int16_t imm_op
    uint16_t zero_shift

cdef struct HelperInfo:
    uint64_t address
    uint64_t reads       # masks of virtual registers
    uint64_t writes
    uint8_t faults
    uint8_t pure

cdef extern from *:
    int ctz64 "__builtin_ctzll"(unsigned long long) noexcept nogil
    const uint64_t ONE "1ull"

cdef OpInfo *op_table() noexcept nogil
cdef HelperInfo *helper_table() noexcept nogil
cdef int add64_op() noexcept nogil
cdef int optimize(Uop *uops, int count) noexcept nogil
