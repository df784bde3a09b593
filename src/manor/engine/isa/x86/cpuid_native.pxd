from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef uint64_t help_cpuid(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil

cdef struct CpuidEntry:
    uint32_t leaf
    uint32_t subleaf
    uint32_t any_subleaf
    uint32_t value[4]

cdef CpuidEntry cpuid_table[96]
cdef uint32_t cpuid_count
cdef uint32_t cpuid_max_basic
cdef uint32_t cpuid_max_extended

cdef uint32_t cpuid_signature() noexcept nogil
