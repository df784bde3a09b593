# The lazy flags, computed.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef extern from *:
    bint multiply_overflow "__builtin_mul_overflow"(int64_t a, int64_t b, int64_t *product) nogil

cdef uint64_t compute_eflags(Env *env) noexcept nogil
cdef void set_eflags(Env *env, uint64_t value) noexcept nogil
cdef uint64_t read_rflags(Env *env) noexcept nogil
cdef void write_rflags(Env *env, uint64_t value) noexcept nogil
cdef uint64_t low_bits(uint64_t value, int width) noexcept nogil
cdef uint64_t result_flags(uint64_t result, int width) noexcept nogil
