from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.vm cimport Vm, Block, Exit
from manor.engine.uop.uop cimport Uop

cdef class Sandbox:
    cdef Vm *vm
    cdef Env *env
    cdef Block *blocks
    cdef Exit *exits
    cdef int block_count
