from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef uint64_t help_read_dr(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_write_dr(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef int needs_single_step(Env *env) noexcept nogil
cdef int before_instruction(Env *env) noexcept nogil
cdef void after_instruction(Env *env, int tf_before) noexcept nogil
cdef int io_breakpoint(Env *env, uint32_t port, uint32_t size) noexcept nogil
