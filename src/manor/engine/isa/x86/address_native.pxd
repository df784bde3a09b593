from libc.stdint cimport int64_t
from manor.engine.isa.x86.translator cimport Translator

cdef int segment_checked(Translator *t, int segment, int access) noexcept nogil
cdef void emit_segment_check(Translator *t, int offset, int segment, int access) noexcept nogil
cdef void bit_address(Translator *t, int reg, int access) noexcept nogil
cdef bint cannot_reach(Translator *t, int64_t target) noexcept nogil
cdef void emit_target_check(Translator *t, int64_t target, int taken) noexcept nogil
cdef void effective_address(Translator *t, int moffs, int lea, int pop_size, int access) noexcept nogil
