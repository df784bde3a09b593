from libc.stdint cimport uint8_t
from manor.engine.env cimport Env
from manor.engine.uop.uop cimport Uop
from manor.engine.vm cimport Vm, Block, Exit

cdef int emit_block(Vm *vm, Block *block, Uop *uops, int count) noexcept nogil
cdef Exit *run_code(Env *env, uint8_t *code) noexcept nogil
cdef void link_block(Vm *vm, Exit *source, Block *target) noexcept nogil
cdef void unlink_block(Vm *vm, Block *block) noexcept nogil
