from manor.engine.lower.emitter cimport Emitter
from manor.engine.uop.uop cimport Uop

cdef void emit_uop(Emitter *e, Uop *u, int last) noexcept nogil
