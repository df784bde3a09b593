from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.vm cimport Block, Vm

cdef int trace_block(Env *env, Block *block) noexcept nogil
