from libc.stdint cimport uint8_t
from manor.engine.lower.emitter cimport Emitter

cdef uint8_t *begin_loop(Emitter *e) noexcept nogil
cdef bint close_loop(Emitter *e, uint8_t *start) noexcept nogil
