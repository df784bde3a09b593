# Slow paths of generated code, over the softmmu.
from libc.stdint cimport uint64_t, uint32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef enum SlowConstant:
    RMW_ADD = 0
    RMW_AND = 1
    RMW_OR = 2
    RMW_XOR = 3
    META_ALIGNED = 0x1000000
    VECTOR_GP = 13
    SEQUENTIAL = 5       # __ATOMIC_SEQ_CST

cdef extern from *:
    int exchange8 "__atomic_compare_exchange_n"(uint8_t *, uint8_t *, uint8_t, int, int, int) noexcept nogil
    int exchange16 "__atomic_compare_exchange_n"(uint16_t *, uint16_t *, uint16_t, int, int, int) noexcept nogil
    int exchange32 "__atomic_compare_exchange_n"(uint32_t *, uint32_t *, uint32_t, int, int, int) noexcept nogil
    int exchange64 "__atomic_compare_exchange_n"(uint64_t *, uint64_t *, uint64_t, int, int, int) noexcept nogil

cdef uint64_t slow_load(Env *env, uint64_t gva, uint64_t value, uint64_t meta) noexcept nogil
cdef uint64_t slow_store(Env *env, uint64_t gva, uint64_t value, uint64_t meta) noexcept nogil
cdef uint64_t slow_rmw(Env *env, uint64_t gva, uint64_t value, uint64_t meta) noexcept nogil
cdef uint64_t slow_cmpxchg(Env *env, uint64_t gva, uint64_t value, uint64_t meta) noexcept nogil
cdef uint64_t slow_loadx(Env *env, uint64_t gva, uint64_t cell, uint64_t meta) noexcept nogil
cdef uint64_t slow_storex(Env *env, uint64_t gva, uint64_t cell, uint64_t meta) noexcept nogil
