from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.vm cimport Vm, helper_fn

cdef class Bench:
    cdef Env *env
    cdef Vm *vm
    cdef readonly object callbacks
    cdef object memory
