from libc.stdint cimport int64_t
from manor.engine.isa.x86.translator cimport Translator, Template, Item

cdef int operand(Translator *t, int code) noexcept nogil
cdef int64_t immediate(Translator *t, Item *item) noexcept nogil
cdef void expand(Translator *t, Template *template) noexcept nogil
