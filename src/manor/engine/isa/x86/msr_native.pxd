from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef uint64_t help_rdmsr(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_wrmsr(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil

cdef struct MsrEntry:
    uint32_t index
    uint32_t kind
    uint64_t offset       # of the 64-bit field in Env
    uint64_t value        # of a fixed register
    uint64_t writable

cdef MsrEntry msr_table[96]
cdef uint32_t msr_count

cdef int read_msr(Env *env, uint32_t index, uint64_t *value) noexcept nogil
cdef int write_msr(Env *env, uint32_t index, uint64_t value) noexcept nogil
cdef uint64_t read_tsc(Env *env) noexcept nogil
