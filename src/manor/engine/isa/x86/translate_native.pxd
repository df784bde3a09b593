from libc.stdint cimport uint32_t, uint64_t
from manor.engine.env cimport Env
from manor.engine.isa.x86.translator cimport Translator
from manor.engine.vm cimport Vm

cdef int translate(Vm *vm, Env *env, uint64_t pc, uint64_t linear, uint64_t gpa, uint32_t flags, Translator *t) noexcept nogil
