from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef int load_pdptes(Env *env, uint64_t cr3) noexcept nogil
