from libc.stdint cimport uint64_t, uint32_t, uint8_t
from manor.engine.lower.emitter cimport Emitter

cdef uint64_t largest_stencil() noexcept nogil
cdef int head_check_size() noexcept nogil
cdef uint32_t special_stencil(int which) noexcept nogil
cdef uint32_t first(int op, int form) noexcept nogil
cdef void put(Emitter *e, uint32_t number) noexcept nogil
cdef int put_branch(Emitter *e, uint32_t number) noexcept nogil
cdef uint8_t *put_jump(Emitter *e) noexcept nogil
cdef void set_jump(uint8_t *place, uint8_t *target) noexcept nogil
cdef void negate_jump(uint8_t *place) noexcept nogil
cdef void align_block(Emitter *e) noexcept nogil
