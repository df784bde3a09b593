from manor.engine.lower.emitter cimport Emitter
from manor.engine.uop.uop cimport Uop
from manor.engine.lower.passes_native cimport OpInfo

cdef void emit_load(Emitter *e, Uop *u, OpInfo *info, int last) noexcept nogil
cdef void emit_store(Emitter *e, Uop *u, OpInfo *info, int last) noexcept nogil
cdef void emit_vector_memory(Emitter *e, Uop *u, OpInfo *info, int last) noexcept nogil
cdef void emit_locked(Emitter *e, Uop *u, OpInfo *info, int last) noexcept nogil
