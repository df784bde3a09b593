from libc.stdint cimport int64_t
from manor.engine.isa.x86.translator cimport Translator

cdef void emit(Translator *t, int op, int d, int a, int b, int64_t imm) noexcept nogil
cdef void emit_helper(Translator *t, int number, int d, int a, int b, int64_t imm) noexcept nogil
cdef void emit_stop(Translator *t, int number, int64_t imm) noexcept nogil
cdef bint is_terminal(int op) noexcept nogil
cdef bint is_branch(int op) noexcept nogil
