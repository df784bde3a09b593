from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef uint64_t help_syscall(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_sysret(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_sysenter(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_sysexit(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
