# What the vCPUs of one virtual machine share: memory, code pages and the code cache.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef enum VmConstant:
    VM_MAX_CPUS = 256
    VM_MAX_REGIONS = 8
    PAGE_CODE = 16         # mark of a page with code; a store to one without blocks takes 1 away

cdef struct RamRegion:
    uint64_t start
    uint64_t size
    uint8_t *host
    int32_t rom

cdef struct Block

cdef struct Exit:
    uint64_t pc            # where it leads
    Block *block           # what is left
    uint8_t *patch         # displacement of its jump in host code, or NULL: it is never linked
    uint8_t *stub          # what it jumps to when unlinked
    Block *link            # what it is linked to
    Exit *next_incoming

cdef struct Block:
    uint64_t pc            # guest virtual address of the first instruction
    uint64_t gpa           # its guest physical address
    uint32_t flags         # FLAG_* of the key
    int32_t valid          # 0 after invalidation; memory stays until the cache is flushed
    Block *hash_next       # up to here: what a search reads, in one cache line
    uint8_t *code          # host code, or NULL
    uint64_t gpa2          # guest physical page of the second page, or -1
    uint32_t size          # guest bytes
    uint32_t insn_count
    uint32_t uop_count
    void *uops             # Uop[uop_count]; kept by the interpreter, dropped by the stencil back end
    uint32_t code_size
    Exit *exits            # where it can be left for another block: exit_count of them
    uint32_t exit_count
    int32_t loops          # its host code jumps back to its own start without leaving it: see drop_block
    Block *page_next       # list of the blocks that begin in the page of gpa
    Block *page2_next      # the same for gpa2
    Exit *incoming         # exits that are linked to this block: list through Exit.next_incoming

cdef struct Vm:
    RamRegion ram[VM_MAX_REGIONS]
    int32_t ram_count
    int32_t cpu_count
    Env *cpus[VM_MAX_CPUS]
    uint8_t *page_code     # one byte a guest page below ram_top: not 0 = holds translated code, or did (see PAGE_CODE)
    uint64_t ram_top       # bytes; page_code covers [0, ram_top)
    void *cache            # CodeCache, owned by cache_native
    void *emitter          # Emitter: the stencil back end's code arena, owned by lower/arena_native
    Block **page_blocks    # head of each guest page's list of blocks
    void *unlink           # unlink_fn of the stencil back end, or NULL
    uint64_t lock          # spin lock of translation and invalidation
    uint64_t rmw_lock      # spin lock of split and MMIO read-modify-write

ctypedef uint64_t (*helper_fn)(Env *, uint64_t, uint64_t, uint64_t) noexcept nogil
ctypedef void (*unlink_fn)(Vm *, Block *) noexcept nogil
