from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.vm cimport Vm, Block, RamRegion
from manor.engine.uop.uop cimport Uop
from manor.engine.isa.x86.translator cimport Translator

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_NORESERVE

cdef struct Scratch:
    Translator translator
    Uop uops[1152]
    uint64_t poll_limit    # nanoseconds; 0: a halted vCPU never waits inside `run`
    uint64_t poll_ns       # how long it waits now
    uint64_t halted_at     # monotonic time, 0 if it runs

cdef class EngineVm:
    cdef Vm *vm
    cdef readonly list cpus
    cdef readonly object memory

cdef class Cpu:
    cdef Env *env
    cdef EngineVm owner
    cdef Scratch *scratch
    cdef readonly int index
    cdef readonly object callbacks
