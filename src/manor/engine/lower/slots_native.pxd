from libc.stdint cimport uint64_t, int64_t, uint32_t
from manor.engine.lower.emitter cimport Emitter, ColdPath
from manor.engine.uop.uop cimport Uop

cdef bint fits(int64_t value) noexcept nogil
cdef void store(Emitter *e, int v) noexcept nogil
cdef void write_back(Emitter *e, uint64_t mask) noexcept nogil
cdef void forget(Emitter *e, int v) noexcept nogil
cdef void forget_all(Emitter *e, uint64_t mask) noexcept nogil
cdef int take(Emitter *e) noexcept nogil
cdef void put_constant(Emitter *e, int slot, int64_t value) noexcept nogil
cdef int use(Emitter *e, int v) noexcept nogil
cdef void assign(Emitter *e, int v, int slot) noexcept nogil
cdef bint is_temporary(int v) noexcept nogil
cdef bint may_overwrite(Emitter *e, int slot, int v, bint last, int d) noexcept nogil
cdef void release(Emitter *e, int v, int d) noexcept nogil
cdef int target_of(Emitter *e, int slot, int v, bint last, int d) noexcept nogil
cdef int fresh(Emitter *e, int slot, int v, bint last, int d) noexcept nogil
cdef int sync(Emitter *e, int v) noexcept nogil
cdef int xmm_cell(int index) noexcept nogil
cdef void x_write_back(Emitter *e, uint32_t mask) noexcept nogil
cdef void x_forget(Emitter *e, int x) noexcept nogil
cdef void x_forget_scratch(Emitter *e) noexcept nogil
cdef void x_forget_all(Emitter *e) noexcept nogil
cdef int x_use(Emitter *e, int x) noexcept nogil
cdef int x_target(Emitter *e, int x, bint keeps) noexcept nogil
cdef void x_assign(Emitter *e, int x, int slot) noexcept nogil
cdef int x_sync(Emitter *e, int x) noexcept nogil
cdef void write_back_all(Emitter *e) noexcept nogil
cdef void forget_operands(Emitter *e, Uop *u, int last) noexcept nogil
cdef ColdPath *begin_cold(Emitter *e) noexcept nogil
cdef void store_dirty(Emitter *e) noexcept nogil
cdef void put_cold(Emitter *e, uint32_t number) noexcept nogil
cdef void put_hot(Emitter *e, uint32_t number) noexcept nogil
