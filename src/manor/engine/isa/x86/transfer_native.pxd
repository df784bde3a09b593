from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.isa.x86.descriptor_native cimport Stack

cdef uint64_t help_far_jump(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_far_call(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_far_return(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_iret(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
