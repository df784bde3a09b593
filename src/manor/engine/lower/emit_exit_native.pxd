from libc.stdint cimport uint64_t
from manor.engine.lower.emitter cimport Emitter
from manor.engine.uop.uop cimport Uop
from manor.engine.vm cimport Exit

cdef void emit_branch(Emitter *e, Uop *u, int last) noexcept nogil
cdef void put_exit_stub(Emitter *e, uint64_t left) noexcept nogil
cdef void put_exit(Emitter *e, Exit *exit) noexcept nogil
