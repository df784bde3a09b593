# x87 and MMX state.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef extern from *:
    const uint64_t INDEFINITE_MANTISSA "0xC000000000000000ULL"

cdef uint32_t status_word(Env *env) noexcept nogil
cdef void load_status(Env *env, uint32_t value) noexcept nogil
cdef void load_control(Env *env, uint32_t value) noexcept nogil
cdef uint32_t tag_word(Env *env) noexcept nogil
cdef void x87_reset(Env *env) noexcept nogil
