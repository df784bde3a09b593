from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef struct Stack:
    uint64_t base
    uint64_t sp
    uint64_t mask         # which bits of sp count: 16, 32 or 64
    uint32_t limit
    uint32_t attributes   # of SS, for the limit check; 0: 64-bit mode, no check
    uint32_t mode         # MMU mode of the accesses
    uint32_t size         # bytes of one push
    uint32_t error        # error code of #SS

cdef int code64(Env *env) noexcept nogil
cdef int protected_mode(Env *env) noexcept nogil
cdef int virtual8086(Env *env) noexcept nogil
cdef uint32_t mmu_mode(Env *env, uint32_t cpl) noexcept nogil
cdef void update_block_flags(Env *env) noexcept nogil
cdef void notice_interrupts(Env *env) noexcept nogil

cdef uint64_t descriptor_base(uint64_t d) noexcept nogil
cdef uint32_t descriptor_limit(uint64_t d) noexcept nogil
cdef uint32_t descriptor_attributes(uint64_t d) noexcept nogil
cdef uint64_t descriptor_address(Env *env, uint32_t selector, uint32_t size) noexcept nogil
cdef int read_descriptor(Env *env, uint32_t selector, uint32_t vector, uint32_t ext, uint64_t *d) noexcept nogil
cdef uint64_t mark_accessed(Env *env, uint32_t selector, uint64_t d) noexcept nogil
cdef void set_segment(Env *env, uint32_t seg, uint32_t selector, uint64_t base, uint32_t limit, uint32_t attributes) noexcept nogil
cdef void set_from_descriptor(Env *env, uint32_t seg, uint32_t selector, uint64_t d) noexcept nogil
cdef void set_real_segment(Env *env, uint32_t seg, uint32_t selector) noexcept nogil
cdef void set_v86_segment(Env *env, uint32_t seg, uint32_t selector) noexcept nogil
cdef int load_data_segment(Env *env, uint32_t seg, uint32_t selector, uint32_t cpl, uint32_t vector, uint32_t ext) noexcept nogil
cdef int load_ldt(Env *env, uint32_t selector, uint32_t vector) noexcept nogil
cdef int check_access(Env *env, uint32_t seg, uint64_t offset, uint32_t size, int write) noexcept nogil
cdef uint64_t elements_within(Env *env, uint32_t seg, uint64_t offset, uint64_t size, int down, uint64_t mask) noexcept nogil
cdef int limit_ok(uint32_t limit, uint32_t attributes, uint64_t offset, uint32_t size) noexcept nogil

cdef void current_stack(Env *env, Stack *s, uint32_t size) noexcept nogil
cdef void push(Env *env, Stack *s, uint64_t value) noexcept nogil
cdef uint64_t pop(Env *env, Stack *s) noexcept nogil
cdef void set_sp(Env *env, Stack *s) noexcept nogil
