from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef uint64_t help_wbinvd(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_invd(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_clflush(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_hlt(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_cli(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_sti(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_clac(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_stac(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_read_flags(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_write_flags(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_rdtsc(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_rdtscp(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_rdpmc(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef void reset_cpu(Env *env, int init) noexcept nogil
