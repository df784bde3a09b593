# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The code cache: translated blocks, found by key and dropped by guest page.

WHY NATIVE: looked up on every block that is not chained, and on every store to a page that
holds code. SAFETY: blocks live in arrays that are never freed while a vCPU runs; an
invalidated block stays in memory until `empty_cache`, which needs every vCPU stopped. Lists are
changed under vm.lock only; `find_block` is called under it too.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.manor.engine.cache_native import MADV_DONTNEED, CodeCache, madvise, sched_yield
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.host import U64_MAX, atomic_cas64, atomic_exchange32, atomic_store64, fence
from cython.cimports.manor.engine.vm import Block, Exit, Vm, unlink_fn

from manor.engine import env as _env

cython.declare(HASH_BITS=cython.int, BLOCKS=uint64_t, EXITS=uint64_t, ARENA=uint64_t, JUMP_MASK=uint64_t, KEY_SHIFT=cython.int,
               S_INVALIDATED=cython.int, S_CODE_STORES=cython.int, S_FLUSHES=cython.int)  # fmt: skip
HASH_BITS = 17
BLOCKS = 1 << 19
EXITS = 3 << 19
ARENA = 1 << 29
JUMP_MASK = _env.JUMP_CACHE_ENTRIES - 1
KEY_SHIFT = _env.JUMP_KEY_SHIFT
S_INVALIDATED = _env.STATS.index("blocks_invalidated")
S_CODE_STORES = _env.STATS.index("code_stores")
S_FLUSHES = _env.STATS.index("cache_flushes")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lock_cache(vm: cython.pointer(Vm)) -> cython.void:
    """Take vm.lock. Rank: the only lock of the engine; nothing is called back while it is held."""
    while not atomic_cas64(cython.address(vm.lock), 0, 1):
        sched_yield()


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unlock_cache(vm: cython.pointer(Vm)) -> cython.void:
    atomic_store64(cython.address(vm.lock), 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def slot_of(pc: uint64_t, gpa: uint64_t, flags: uint32_t) -> uint64_t:
    value: uint64_t = (pc ^ (gpa << 7) ^ flags) * cython.cast(uint64_t, 0x9E3779B1)
    return (value >> 20) & ((1 << HASH_BITS) - 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def create_cache(vm: cython.pointer(Vm)) -> cython.int:
    """Allocate the cache of a VM; 0 if the host has no memory for it. Pages are touched as they fill."""
    cache: cython.pointer(CodeCache) = cython.cast(cython.pointer(CodeCache), calloc(1, cython.sizeof(CodeCache)))
    vm.cache = cache
    if cache == cython.NULL:
        return 0
    cache.hash = cython.cast(cython.pointer(cython.pointer(Block)), calloc(1 << HASH_BITS, 8))
    cache.blocks = cython.cast(cython.pointer(Block), calloc(BLOCKS, cython.sizeof(Block)))
    cache.block_capacity = BLOCKS
    cache.exits = cython.cast(cython.pointer(Exit), calloc(EXITS, cython.sizeof(Exit)))
    cache.exit_capacity = EXITS
    cache.arena = cython.cast(cython.pointer(uint8_t), calloc(ARENA, 1))
    cache.arena_size = ARENA
    vm.page_code = cython.cast(cython.pointer(uint8_t), calloc((vm.ram_top >> 12) + 1, 1))
    vm.page_blocks = cython.cast(cython.pointer(cython.pointer(Block)), calloc((vm.ram_top >> 12) + 1, 8))
    return (
        cache.hash != cython.NULL
        and cache.blocks != cython.NULL
        and cache.exits != cython.NULL
        and cache.arena != cython.NULL
        and vm.page_code != cython.NULL
        and vm.page_blocks != cython.NULL
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def destroy_cache(vm: cython.pointer(Vm)) -> cython.void:
    cache: cython.pointer(CodeCache) = cython.cast(cython.pointer(CodeCache), vm.cache)
    if cache != cython.NULL:
        free(cache.hash)
        free(cache.blocks)
        free(cache.exits)
        free(cache.arena)
        free(cache)
    free(vm.page_code)
    free(vm.page_blocks)
    vm.cache = cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def give_back(memory: cython.p_void, size: uint64_t) -> cython.void:
    """Zero memory from calloc; the host gets its whole pages back."""
    mask: uint64_t = 0xFFF
    start: uint64_t = cython.cast(uint64_t, memory)
    end: uint64_t = start + size
    first: uint64_t = (start + mask) & ~mask
    last: uint64_t = end & ~mask
    if first >= last:
        memset(memory, 0, size)
        return
    memset(memory, 0, first - start)
    madvise(cython.cast(cython.p_void, first), last - first, MADV_DONTNEED)
    memset(cython.cast(cython.p_void, last), 0, end - last)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def empty_cache(vm: cython.pointer(Vm)) -> cython.void:
    """Drop every block. Every vCPU must be stopped; their jump caches are cleared too."""
    cache: cython.pointer(CodeCache) = cython.cast(cython.pointer(CodeCache), vm.cache)
    index: cython.int
    block: uint64_t
    memset(cache.hash, 0, (1 << HASH_BITS) * 8)
    for block in range(cache.block_count):
        vm.page_blocks[cache.blocks[block].gpa >> 12] = cython.NULL
        vm.page_code[cache.blocks[block].gpa >> 12] = 0
        if cache.blocks[block].gpa2 != U64_MAX:
            vm.page_blocks[cache.blocks[block].gpa2 >> 12] = cython.NULL
            vm.page_code[cache.blocks[block].gpa2 >> 12] = 0
    give_back(cache.blocks, cache.block_count * cython.sizeof(Block))
    give_back(cache.exits, cache.exit_count * cython.sizeof(Exit))
    give_back(cache.arena, cache.arena_used)
    cache.block_count = 0
    cache.exit_count = 0
    cache.arena_used = 0
    for index in range(vm.cpu_count):
        memset(cython.address(vm.cpus[index].jump_cache[0]), 255, (JUMP_MASK + 1) * 16)
        vm.cpus[index].jump_used_count = 0
    vm.cpus[0].stats[S_FLUSHES] += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find_block(vm: cython.pointer(Vm), pc: uint64_t, gpa: uint64_t, flags: uint32_t) -> cython.pointer(Block):
    cache: cython.pointer(CodeCache) = cython.cast(cython.pointer(CodeCache), vm.cache)
    block: cython.pointer(Block) = cache.hash[slot_of(pc, gpa, flags)]
    while block != cython.NULL:
        if block.pc == pc and block.gpa == gpa and block.flags == flags and block.valid:
            return block
        block = block.hash_next
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def new_block(vm: cython.pointer(Vm), uop_bytes: uint64_t, exits: cython.int) -> cython.pointer(Block):
    """A zeroed block with room for its uops and so many zeroed exits, or NULL when the cache is full."""
    cache: cython.pointer(CodeCache) = cython.cast(cython.pointer(CodeCache), vm.cache)
    block: cython.pointer(Block)
    if (
        cache.block_count >= cache.block_capacity
        or cache.exit_count + exits > cache.exit_capacity
        or cache.arena_used + uop_bytes > cache.arena_size
    ):
        return cython.NULL
    block = cython.address(cache.blocks[cache.block_count])
    cache.block_count += 1
    memset(block, 0, cython.sizeof(Block))
    block.uops = cache.arena + cache.arena_used
    cache.arena_used += (uop_bytes + 15) & ~cython.cast(uint64_t, 15)
    block.exits = cache.exits + cache.exit_count
    cache.exit_count += exits
    memset(block.exits, 0, exits * cython.sizeof(Exit))
    block.gpa2 = U64_MAX
    return block


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def insert_block(vm: cython.pointer(Vm), block: cython.pointer(Block)) -> cython.void:
    """Make a complete block findable by key and by its pages."""
    cache: cython.pointer(CodeCache) = cython.cast(cython.pointer(CodeCache), vm.cache)
    slot: uint64_t = slot_of(block.pc, block.gpa, block.flags)
    block.valid = 1
    block.hash_next = cache.hash[slot]
    cache.hash[slot] = block
    block.page_next = vm.page_blocks[block.gpa >> 12]
    vm.page_blocks[block.gpa >> 12] = block
    if block.gpa2 != U64_MAX:
        block.page2_next = vm.page_blocks[block.gpa2 >> 12]
        vm.page_blocks[block.gpa2 >> 12] = block


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def overlaps(block: cython.pointer(Block), gpa: uint64_t, size: uint32_t) -> cython.int:
    first: uint64_t
    if block.gpa2 == U64_MAX:
        return block.gpa < gpa + size and gpa < block.gpa + block.size
    first = 0x1000 - (block.gpa & 0xFFF)
    if block.gpa < gpa + size and gpa < block.gpa + first:
        return 1
    return block.gpa2 < gpa + size and gpa < block.gpa2 + block.size - first


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def drop_block(vm: cython.pointer(Vm), block: cython.pointer(Block)) -> cython.void:
    """Make a block unreachable: hash chain, jump caches, links. It stays in memory."""
    cache: cython.pointer(CodeCache) = cython.cast(cython.pointer(CodeCache), vm.cache)
    slot: uint64_t = slot_of(block.pc, block.gpa, block.flags)
    where: cython.pointer(cython.pointer(Block)) = cython.address(cache.hash[slot])
    key: uint64_t = block.pc ^ (cython.cast(uint64_t, block.flags) << KEY_SHIFT)
    entry: cython.pointer(uint64_t)
    cpu: cython.int
    block.valid = 0
    fence()  # pairs with run_next: it sees that the block is dropped, or we see its jump cache entry
    while where[0] != cython.NULL:
        if where[0] == block:
            where[0] = block.hash_next
            break
        where = cython.address(where[0].hash_next)
    for cpu in range(vm.cpu_count):
        entry = cython.address(vm.cpus[cpu].jump_cache[jump_slot(block.pc) * 2])
        if entry[0] == key:
            atomic_store64(entry, U64_MAX)
        if block.loops:
            # it may be running there, and nothing but an interrupt takes it out of its loop
            atomic_exchange32(cython.address(vm.cpus[cpu].interrupt), 1)
    if vm.unlink != cython.NULL:
        cython.cast(unlink_fn, vm.unlink)(vm, block)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def drop_page_range(vm: cython.pointer(Vm), page: uint64_t, gpa: uint64_t, size: uint32_t,
                    env: cython.pointer(Env)) -> cython.void:  # fmt: skip
    """Drop the blocks of one page that overlap a written range.

    A page without blocks keeps its mark for a while: code that is written in turn with being run must not
    pay for the search through all TLBs (`protect_code_page`) each time.
    """
    where: cython.pointer(cython.pointer(Block)) = cython.address(vm.page_blocks[page])
    block: cython.pointer(Block)
    while where[0] != cython.NULL:
        block = where[0]
        if not block.valid or overlaps(block, gpa, size):
            where[0] = block.page_next if block.gpa >> 12 == page else block.page2_next
            if block.valid:
                drop_block(vm, block)
                if env != cython.NULL:
                    env.stats[S_INVALIDATED] += 1
            continue
        if block.gpa >> 12 == page:
            where = cython.address(block.page_next)
        else:
            where = cython.address(block.page2_next)
    if vm.page_blocks[page] == cython.NULL and vm.page_code[page]:
        vm.page_code[page] -= 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_running(env: cython.pointer(Env), block: cython.pointer(Block)) -> cython.int:
    return block.valid and block.flags == env.block_flags and block.pc <= env.rip < block.pc + block.size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def holds_code(vm: cython.pointer(Vm), gpa: uint64_t, size: uint32_t) -> cython.bint:
    """Whether a page of guest memory [gpa, gpa + size), which is not empty, may hold translated code. Any thread."""
    page: uint64_t
    found: cython.bint = False
    for page in range(gpa >> 12, ((gpa + size - 1) >> 12) + 1):
        if page <= vm.ram_top >> 12 and vm.page_code[page]:
            found = True
    return found


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def code_written(vm: cython.pointer(Vm), env: cython.pointer(Env), gpa: uint64_t, size: uint32_t) -> cython.int:
    """Guest memory [gpa, gpa + size) is about to change: drop the blocks translated from it.

    Returns 1, dropping nothing, if the block that `env` is executing is among them and it is
    not running a single instruction: the caller must run the instruction alone. env may be NULL
    (a device writes). Any thread.
    """
    page: uint64_t
    last: uint64_t = (gpa + size - 1) >> 12
    block: cython.pointer(Block)
    hit: cython.int = 0
    if not holds_code(vm, gpa, size):
        return 0
    lock_cache(vm)
    if env != cython.NULL:
        env.stats[S_CODE_STORES] += 1
        if not env.one_insn:
            for page in range(gpa >> 12, last + 1):
                block = vm.page_blocks[page] if page <= vm.ram_top >> 12 else cython.NULL
                while block != cython.NULL and not hit:
                    hit = is_running(env, block) and overlaps(block, gpa, size)
                    block = block.page_next if block.gpa >> 12 == page else block.page2_next
    if not hit:
        for page in range(gpa >> 12, last + 1):
            if page <= vm.ram_top >> 12 and vm.page_code[page]:
                drop_page_range(vm, page, gpa, size, env)
    unlock_cache(vm)
    return hit
