from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.vm cimport Vm, RamRegion
from manor.engine.host cimport atomic_cas32, atomic_cas64, atomic_load32, atomic_load64, U64_MAX, U32_MAX
from manor.engine.isa.x86.bits cimport PAGE_FRAME, PTE_NX, CR0_PG, canonical

cdef enum:
    ACCESS_READ = 0
    ACCESS_WRITE = 1
    ACCESS_FETCH = 2
    PTE_P = 1
    PTE_W = 2
    PTE_U = 4
    PTE_A = 0x20
    PTE_D = 0x40
    PTE_PS = 0x80
    PTE_G = 0x100
    PF_P = 1
    PF_W = 2
    PF_U = 4
    PF_RSVD = 8
    PF_ID = 16

cdef struct Walk:
    uint64_t gpa          # of the byte
    uint32_t writable     # the mode may write and D is set
    uint32_t global_page
    uint32_t shift        # log2 of the page's size: 12, 21, 22 or 30
    uint32_t error        # page-fault error code when the walk failed

cdef uint8_t *ram_pointer(Vm *vm, uint64_t gpa, int *rom) noexcept nogil
cdef int physical_read(Vm *vm, uint64_t gpa, uint32_t size, uint64_t *value) noexcept nogil
cdef int walk(Env *env, uint64_t gva, int access, int mode, Walk *result) noexcept nogil
