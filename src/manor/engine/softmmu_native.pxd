from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.vm cimport Vm
from manor.engine.walk_native cimport Walk

cdef enum:
    MODE_STACK = 4      # in a mode argument: stack-segment access, #SS instead of #GP when not canonical
    MODE_UPDATE = 8     # in a mode argument: the load of a read-modify-write, which needs write access
    OPERAND_SHIFT = 40  # where a helper's immediate holds MODE_STACK for its memory operand (Helper.operand)
    PAGE_GLOBAL = 1     # in the gpa cell of a TLB entry
    PAGE_LARGE = 2

cdef void raise_fault(Env *env, uint32_t vector, uint32_t error) noexcept nogil
cdef void tlb_flush(Env *env, int keep_global) noexcept nogil
cdef void tlb_flush_page(Env *env, uint64_t gva) noexcept nogil
cdef void clear_jump_cache(Env *env) noexcept nogil
cdef void note_jump(Env *env, uint32_t slot, uint64_t linear, bint two_pages) noexcept nogil
cdef void protect_code_page(Vm *vm, uint64_t gpa) noexcept nogil
cdef uint64_t fetch_gpa(Env *env, uint64_t gva) noexcept nogil
cdef uint64_t load_slow(Env *env, uint64_t gva, uint32_t size, uint32_t mode, uint64_t pc) noexcept nogil
cdef void store_slow(Env *env, uint64_t gva, uint64_t value, uint32_t size, uint32_t mode, uint64_t pc) noexcept nogil
cdef void load128_slow(Env *env, uint64_t gva, void *data, uint32_t mode, uint64_t pc) noexcept nogil
cdef void store128_slow(Env *env, uint64_t gva, const void *data, uint32_t mode, uint64_t pc) noexcept nogil
cdef uint8_t *rmw_pointer(Env *env, uint64_t gva, uint32_t size, uint32_t mode, uint64_t pc) noexcept nogil
cdef void lock_split(Env *env) noexcept nogil
cdef void unlock_split(Env *env) noexcept nogil
cdef uint32_t operand_mode(Env *env, uint64_t imm) noexcept nogil
cdef uint64_t mem_read(Env *env, uint64_t gva, uint32_t size) noexcept nogil
cdef void mem_write(Env *env, uint64_t gva, uint64_t value, uint32_t size) noexcept nogil
cdef uint64_t mode_read(Env *env, uint64_t gva, uint32_t size, uint32_t mode) noexcept nogil
cdef void mode_write(Env *env, uint64_t gva, uint64_t value, uint32_t size, uint32_t mode) noexcept nogil
cdef uint64_t sys_read(Env *env, uint64_t gva, uint32_t size) noexcept nogil
cdef void sys_write(Env *env, uint64_t gva, uint64_t value, uint32_t size) noexcept nogil
cdef int probe(Env *env, uint64_t gva, uint32_t size, uint32_t mode, int write) noexcept nogil
