# The code cache: blocks by key and by page.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport JUMP_CACHE_ENTRIES, JUMP_HASH_SHIFT, Env
from manor.engine.vm cimport Vm, Block, Exit, unlink_fn
from manor.engine.host cimport atomic_cas64, atomic_store64, U64_MAX

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *addr, size_t length, int advice)
    enum:
        MADV_DONTNEED

cdef struct CodeCache:
    Block **hash
    Block *blocks
    uint64_t block_count
    uint64_t block_capacity
    uint8_t *arena          # uops of the blocks
    uint64_t arena_used
    uint64_t arena_size
    Exit *exits
    uint64_t exit_count
    uint64_t exit_capacity

cdef inline uint32_t jump_slot(uint64_t rip) noexcept nogil:
    """Where the jump cache has the block that begins at `rip`, if it has it."""
    return <uint32_t>((rip ^ (rip >> JUMP_HASH_SHIFT)) & (JUMP_CACHE_ENTRIES - 1))

cdef void lock_cache(Vm *vm) noexcept nogil
cdef void unlock_cache(Vm *vm) noexcept nogil
cdef Block *find_block(Vm *vm, uint64_t pc, uint64_t gpa, uint32_t flags) noexcept nogil
cdef Block *new_block(Vm *vm, uint64_t uop_bytes, int exits) noexcept nogil
cdef void insert_block(Vm *vm, Block *block) noexcept nogil
cdef void drop_block(Vm *vm, Block *block) noexcept nogil
cdef bint holds_code(Vm *vm, uint64_t gpa, uint32_t size) noexcept nogil
cdef int code_written(Vm *vm, Env *env, uint64_t gpa, uint32_t size) noexcept nogil
cdef void empty_cache(Vm *vm) noexcept nogil
cdef int create_cache(Vm *vm) noexcept nogil
cdef void destroy_cache(Vm *vm) noexcept nogil
