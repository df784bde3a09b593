from manor.engine.isa.x86.translator cimport Translator

cdef void emit_condition(Translator *t, int branch, int d, int condition) noexcept nogil
