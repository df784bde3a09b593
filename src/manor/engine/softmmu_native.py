# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Guest memory as the vCPU sees it: TLBs and the slow path behind the inlined fast one.

Generated code looks into `env.tlb` itself; whatever does not hit comes here: misses, pages of devices,
pages that hold translated code, accesses that cross pages, data breakpoints. Layout: `engine.env`.

Threads: a vCPU's TLB is written by its own thread; only `protect_code_page` sets TLB_CODE in the tags of
others. A store is seen by the translator or the store sees the code page: whoever fills a write tag looks
at vm.page_code after it, whoever translates sets page_code, then the tags, then reads the bytes.
Source: SDM volume 3, 4.10 (TLBs), 17.2 (data breakpoints), volume 1, 3.3.7.1 (canonical addresses).
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.manor.engine.cache_native import code_written, sched_yield
from cython.cimports.manor.engine.callback_native import callback_mmio_read, callback_mmio_write
from cython.cimports.manor.engine.env import (
    EXEC_TLB_ENTRIES,
    FAULT_EXCEPTION,
    FAULT_ONE_INSN,
    FLAG_AC,
    FLAG_MMU_SHIFT,
    JUMP_CACHE_ENTRIES,
    MMU_MODES,
    MMU_SUPERVISOR,
    MMU_USER,
    STAT_SLOW_LOADS,
    STAT_SLOW_STORES,
    STAT_TLB_FILLS,
    STAT_TLB_FLUSHES,
    TLB_CODE,
    TLB_ENTRIES,
    TLB_INVALID,
    TLB_MMIO,
    TLB_WATCH,
    Env,
)
from cython.cimports.manor.engine.host import (
    U32_MAX,
    U64_MAX,
    atomic_and64,
    atomic_cas64,
    atomic_load8,
    atomic_load64,
    atomic_or64,
    atomic_store64,
    fence,
    guest_load,
    guest_store,
)
from cython.cimports.manor.engine.isa.x86.bits import EFER_LMA, SEG_CS, VEC_AC, VEC_GP, VEC_PF, VEC_SS, canonical
from cython.cimports.manor.engine.vm import Vm
from cython.cimports.manor.engine.walk_native import (
    ACCESS_FETCH,
    ACCESS_READ,
    ACCESS_WRITE,
    Walk,
    ram_pointer,
    walk,
)

from manor.engine import env as _env

# Vectors that push an error code: 8, 10 to 14, 17, 21.
_WITH_ERROR = cython.declare(uint32_t, 0x00227D00)
# Bits of a page's number that a key of the jump cache shows.
_KEY_PAGES = cython.declare(uint64_t, (1 << (_env.JUMP_KEY_SHIFT - 12)) - 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def raise_fault(env: cython.pointer[Env], vector: uint32_t, error: uint32_t) -> cython.void:
    """Make an exception pending at env.rip. The first one wins until it is delivered."""
    if env.fault != 0:
        return
    env.exc_vector = vector
    env.exc_has_error = (_WITH_ERROR >> vector) & 1
    env.exc_error = error
    env.exc_software = 0
    env.fault = FAULT_EXCEPTION


# ------------------------------------------------------------------ flushing


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _slot(env: cython.pointer[Env], slot: uint32_t) -> cython.pointer[uint64_t]:
    return cython.address(env.tlb[slot * 4])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _drop(entry: cython.pointer[uint64_t]) -> cython.void:
    """Invalidate a data TLB entry; the write tag first, other threads look at it."""
    atomic_store64(entry + 1, TLB_INVALID)
    entry[0] = TLB_INVALID
    entry[3] = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tlb_flush(env: cython.pointer[Env], keep_global: cython.int) -> cython.void:
    """Forget all translations, or all but those of global pages (a CR3 write)."""
    i: uint32_t
    entry: cython.pointer[uint64_t]
    env.stats[STAT_TLB_FLUSHES] += 1
    if keep_global and env.tlb_used_count <= TLB_ENTRIES:
        for i in range(env.tlb_used_count):
            entry = _slot(env, env.tlb_used[i])
            if not entry[3] & PAGE_GLOBAL:
                _drop(entry)
    else:
        for i in range(MMU_MODES * TLB_ENTRIES):
            entry = _slot(env, i)
            if not (keep_global and entry[3] & PAGE_GLOBAL):
                _drop(entry)
    if not keep_global:
        memset(env.large_pages, 0, 32)
    env.tlb_used_count = 0
    for i in range(EXEC_TLB_ENTRIES):
        if not (keep_global and env.exec_tlb[2 * i + 1] & PAGE_GLOBAL):
            env.exec_tlb[2 * i] = U64_MAX
    if keep_global and env.jump_used_count <= 1024:
        for i in range(env.jump_used_count):
            env.jump_cache[2 * env.jump_used[i]] = U64_MAX
        env.jump_used_count = 0
    else:
        clear_jump_cache(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def clear_jump_cache(env: cython.pointer[Env]) -> cython.void:
    """Find every block again through the dispatcher."""
    memset(env.jump_cache, 0xFF, JUMP_CACHE_ENTRIES * 16)
    memset(env.jump_pages, 0, 512)
    env.jump_used_count = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_global_code(env: cython.pointer[Env], linear: uint64_t) -> cython.bint:
    """Whether the page is known as a global one in the exec TLB."""
    i: uint32_t = cython.cast(uint32_t, (linear >> 12) & (EXEC_TLB_ENTRIES - 1))
    return (env.exec_tlb[2 * i] ^ linear) >> 12 == 0 and (env.exec_tlb[2 * i + 1] & PAGE_GLOBAL) != 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def note_jump(env: cython.pointer[Env], slot: uint32_t, linear: uint64_t, two_pages: cython.bint) -> cython.void:
    """A block at `linear` was entered in slot `slot` of the jump cache: remember what removes it from there."""
    one: uint64_t = 1
    page: uint64_t = (linear >> 12) & 4095
    env.jump_pages[page >> 6] |= one << (page & 63)
    if two_pages:
        page = (page + 1) & 4095
        env.jump_pages[page >> 6] |= one << (page & 63)
    if _is_global_code(env, linear) and not (two_pages and not _is_global_code(env, linear + 0x1000)):
        return
    if env.jump_used_count < 1024:
        env.jump_used[env.jump_used_count] = slot
    if env.jump_used_count <= 1024:
        env.jump_used_count += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _drop_jumps(env: cython.pointer[Env], page: uint64_t) -> cython.void:
    """Remove the blocks that lie in a page from the jump cache: those that begin there or in the page before."""
    one: uint64_t = 1
    i: uint32_t
    distance: uint64_t
    number: uint64_t = page >> 12
    if not (env.jump_pages[(number >> 6) & 63] >> (number & 63)) & one:
        return
    if env.seg_base[SEG_CS]:
        clear_jump_cache(env)  # keys are offsets in CS then
        return
    for i in range(JUMP_CACHE_ENTRIES):
        # above JUMP_KEY_SHIFT the key is mixed with flags
        distance = (number - (env.jump_cache[2 * i] >> 12)) & _KEY_PAGES
        if distance <= 1:
            env.jump_cache[2 * i] = U64_MAX
    # the bits of the filter stay: other pages may share them


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _large_bit(region: uint64_t, word: cython.p_uint) -> uint64_t:
    """Where a region's bit lies in the filter of large pages."""
    mixed: uint64_t = region ^ (region >> 8) ^ (region >> 16) ^ (region >> 27)
    one: uint64_t = 1
    word[0] = cython.cast(cython.uint, (mixed >> 6) & 3)
    return one << (mixed & 63)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _note_large(env: cython.pointer[Env], gva: uint64_t, shift: uint32_t) -> cython.void:
    word: cython.uint = 0
    # 4 MiB pages count as two regions: both are noted by their own fills
    bit: uint64_t = _large_bit((gva >> 30) * 2 + 1 if shift == 30 else (gva >> 21) * 2, cython.address(word))
    env.large_pages[word] |= bit


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _maybe_large(env: cython.pointer[Env], region: uint64_t) -> cython.bint:
    word: cython.uint = 0
    bit: uint64_t = _large_bit(region, cython.address(word))
    return (env.large_pages[word] & bit) != 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tlb_flush_page(env: cython.pointer[Env], gva: uint64_t) -> cython.void:
    """INVLPG: forget the page that holds gva, all of it when it is a large page."""
    mode: uint32_t
    i: uint32_t
    entry: cython.pointer[uint64_t]
    if not env.efer & EFER_LMA:
        gva &= U32_MAX
    page: uint64_t = gva & ~0xFFF
    region: uint64_t = gva >> 21
    large: cython.bint = False
    if _maybe_large(env, (gva >> 30) * 2 + 1):
        tlb_flush(env, 0)
        return
    if _maybe_large(env, region * 2) or (not env.efer & EFER_LMA and _maybe_large(env, (region ^ 1) * 2)):
        large = True
        # A 2 MiB page occupies half of a TLB; a 4 MiB page all of it. Compare in units of 4 MiB.
        for i in range(MMU_MODES * TLB_ENTRIES):
            entry = _slot(env, i)
            if entry[3] & PAGE_LARGE and entry[0] >> 22 == gva >> 22:
                _drop(entry)
            elif entry[3] & PAGE_LARGE and entry[1] >> 22 == gva >> 22:
                _drop(entry)
        for i in range(EXEC_TLB_ENTRIES):
            if env.exec_tlb[2 * i] >> 22 == gva >> 22:
                env.exec_tlb[2 * i] = U64_MAX
    for mode in range(MMU_MODES):
        entry = _slot(env, mode * TLB_ENTRIES + ((gva >> 12) & (TLB_ENTRIES - 1)))
        if entry[0] & ~0xFFF == page or entry[1] & ~0xFFF == page:
            _drop(entry)
    i = (gva >> 12) & (EXEC_TLB_ENTRIES - 1)
    if env.exec_tlb[2 * i] & ~0xFFF == page:
        env.exec_tlb[2 * i] = U64_MAX
    if large:
        clear_jump_cache(env)
    else:
        _drop_jumps(env, page)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def protect_code_page(vm: cython.pointer[Vm], gpa: uint64_t) -> cython.void:
    """Send every vCPU's stores to this page down the slow path. Call after vm.page_code is set. Any thread."""
    cpu: cython.int
    i: uint32_t
    entry: cython.pointer[uint64_t]
    page: uint64_t = gpa & ~0xFFF
    fence()
    for cpu in range(vm.cpu_count):
        if vm.cpus[cpu] == cython.NULL:
            continue
        for i in range(MMU_MODES * TLB_ENTRIES):
            entry = _slot(vm.cpus[cpu], i)
            # a tag that its owner replaces meanwhile gets the bit too: its stores are slow once, no more
            if entry[3] & ~0xFFF == page and not atomic_load64(entry + 1) & TLB_INVALID:
                atomic_or64(entry + 1, TLB_CODE)


# ------------------------------------------------------------------ filling


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _watched(env: cython.pointer[Env], page: uint64_t) -> cython.bint:
    """Whether an enabled data breakpoint touches this page."""
    i: cython.int
    for i in range(4):
        if (env.dr[7] >> (2 * i)) & 3 and (env.dr[7] >> (16 + 4 * i)) & 1:
            if (env.dr[i] & ~0xFFF) == page:
                return True
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _page_fault(env: cython.pointer[Env], gva: uint64_t, error: uint32_t) -> cython.void:
    if env.fault == 0:
        env.cr[2] = gva
    raise_fault(env, VEC_PF, error)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _fill(
    env: cython.pointer[Env], gva: uint64_t, access: cython.int, mode: uint32_t
) -> cython.pointer[uint64_t]:
    """Walk, and enter the page in the data TLB; NULL after raising #PF."""
    vm: cython.pointer[Vm] = cython.cast(cython.pointer[Vm], env.vm)
    found: Walk
    page: uint64_t = gva & ~0xFFF
    slot: uint32_t = mode * TLB_ENTRIES + cython.cast(uint32_t, (gva >> 12) & (TLB_ENTRIES - 1))
    entry: cython.pointer[uint64_t] = _slot(env, slot)
    host: cython.pointer[uint8_t]
    rom: cython.int = 0
    gpa: uint64_t
    read_tag: uint64_t = page
    write_tag: uint64_t
    if not walk(env, gva, access, mode, cython.address(found)):
        _page_fault(env, gva, found.error)
        return cython.NULL
    env.stats[STAT_TLB_FILLS] += 1
    gpa = found.gpa & ~0xFFF
    write_tag = page if found.writable else TLB_INVALID
    if _watched(env, page):
        read_tag |= TLB_WATCH
        write_tag |= TLB_WATCH
    host = ram_pointer(vm, gpa, cython.address(rom))
    if host == cython.NULL:
        read_tag |= TLB_MMIO
        write_tag |= TLB_MMIO
    elif rom:
        write_tag |= TLB_MMIO
    elif gpa < vm.ram_top and atomic_load8(vm.page_code + (gpa >> 12)):
        write_tag |= TLB_CODE
    atomic_store64(entry + 1, TLB_INVALID)
    entry[2] = (gpa if host == cython.NULL else cython.cast(uint64_t, host)) - page
    entry[3] = gpa | (PAGE_GLOBAL if found.global_page else 0) | (PAGE_LARGE if found.shift > 12 else 0)
    entry[0] = read_tag
    atomic_store64(entry + 1, write_tag)
    if write_tag == page:
        # whoever turned the page into code since we looked may have missed our tag
        fence()
        if gpa < vm.ram_top and atomic_load8(vm.page_code + (gpa >> 12)):
            atomic_or64(entry + 1, TLB_CODE)
    if not found.global_page:
        if env.tlb_used_count < TLB_ENTRIES:
            env.tlb_used[env.tlb_used_count] = slot
        if env.tlb_used_count <= TLB_ENTRIES:
            env.tlb_used_count += 1
    if found.shift > 12:
        _note_large(env, gva, found.shift)
    return entry


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _lookup_read(env: cython.pointer[Env], gva: uint64_t, mode: uint32_t) -> cython.pointer[uint64_t]:
    entry: cython.pointer[uint64_t] = _slot(
        env, mode * TLB_ENTRIES + cython.cast(uint32_t, (gva >> 12) & (TLB_ENTRIES - 1))
    )
    tag: uint64_t = entry[0]
    if (tag & ~0xFFF) == (gva & ~0xFFF) and not tag & TLB_INVALID:
        return entry
    return _fill(env, gva, ACCESS_READ, mode)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _lookup_write(env: cython.pointer[Env], gva: uint64_t, mode: uint32_t) -> cython.pointer[uint64_t]:
    entry: cython.pointer[uint64_t] = _slot(
        env, mode * TLB_ENTRIES + cython.cast(uint32_t, (gva >> 12) & (TLB_ENTRIES - 1))
    )
    tag: uint64_t = atomic_load64(entry + 1)
    if (tag & ~0xFFF) == (gva & ~0xFFF) and not tag & TLB_INVALID:
        return entry
    return _fill(env, gva, ACCESS_WRITE, mode)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fetch_gpa(env: cython.pointer[Env], gva: uint64_t) -> uint64_t:
    """Guest-physical address of an instruction byte; env.fault is set when it may not be fetched."""
    found: Walk
    user: uint64_t = 1 if env.cpl == 3 else 0
    i: uint32_t
    if not env.efer & EFER_LMA:
        gva &= U32_MAX
    elif not canonical(gva):
        raise_fault(env, VEC_GP, 0)
        return 0
    i = cython.cast(uint32_t, (gva >> 12) & (EXEC_TLB_ENTRIES - 1))
    if env.exec_tlb[2 * i] == ((gva & ~0xFFF) | user):
        return (env.exec_tlb[2 * i + 1] & ~0xFFF) | (gva & 0xFFF)
    if not walk(env, gva, ACCESS_FETCH, MMU_USER if user else MMU_SUPERVISOR, cython.address(found)):
        _page_fault(env, gva, found.error)
        return 0
    env.exec_tlb[2 * i] = (gva & ~0xFFF) | user
    env.exec_tlb[2 * i + 1] = (found.gpa & ~0xFFF) | (PAGE_GLOBAL if found.global_page else 0)
    if found.shift > 12:
        _note_large(env, gva, found.shift)
    return found.gpa


# ------------------------------------------------------------------ checks shared by the accesses


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _bad_address(env: cython.pointer[Env], gva: uint64_t, size: uint32_t, mode: uint32_t) -> cython.bint:
    """Canonical and alignment checks; True after raising #GP, #SS or #AC."""
    if env.efer & EFER_LMA and not (canonical(gva) and canonical(gva + size - 1)):
        raise_fault(env, VEC_SS if mode & MODE_STACK else VEC_GP, 0)
        return True
    if env.block_flags & FLAG_AC and mode & 3 == MMU_USER and gva & (size - 1) and size & (size - 1) == 0:
        raise_fault(env, VEC_AC, 0)
        return True
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _watch_hit(env: cython.pointer[Env], gva: uint64_t, size: uint32_t, write: cython.bint) -> cython.bint:
    """Data breakpoints: True = run this instruction alone first; else a hit is noted in exc_dr6."""
    i: cython.int
    hits: uint64_t = 0
    kind: uint64_t
    length: uint64_t
    start: uint64_t
    for i in range(4):
        kind = (env.dr[7] >> (16 + 4 * i)) & 3
        if not (env.dr[7] >> (2 * i)) & 3 or not kind & 1 or (kind == 1 and not write):
            continue
        length = (env.dr[7] >> (18 + 4 * i)) & 3
        length = 8 if length == 2 else length + 1
        start = env.dr[i] & ~(length - 1)
        if gva < start + length and start < gva + size:
            hits |= cython.cast(uint64_t, 1) << i
    if hits:
        if not env.one_insn:
            if env.fault == 0:
                env.fault = FAULT_ONE_INSN
            return True
        env.exc_dr6 |= hits
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _before_store(
    env: cython.pointer[Env], entry: cython.pointer[uint64_t], gva: uint64_t, size: uint32_t
) -> cython.bint:
    """What must happen before a store to a special page; True = leave, env.fault says why."""
    vm: cython.pointer[Vm] = cython.cast(cython.pointer[Vm], env.vm)
    tag: uint64_t = atomic_load64(entry + 1)
    gpa: uint64_t
    page: uint64_t
    if tag & TLB_WATCH and _watch_hit(env, gva, size, True):
        return True
    if tag & TLB_CODE and not tag & TLB_MMIO:  # both: set by mistake in an entry that changed just then
        gpa = (entry[3] & ~0xFFF) | (gva & 0xFFF)
        page = gpa >> 12
        if atomic_load8(vm.page_code + page):
            if code_written(vm, env, gpa, size) and not env.one_insn:
                if env.fault == 0:
                    env.fault = FAULT_ONE_INSN
                return True
        if not atomic_load8(vm.page_code + page):
            atomic_and64(entry + 1, ~cython.cast(uint64_t, TLB_CODE))
            fence()
            if atomic_load8(vm.page_code + page):
                atomic_or64(entry + 1, TLB_CODE)
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _after_store(
    env: cython.pointer[Env], entry: cython.pointer[uint64_t], gva: uint64_t, size: uint32_t
) -> cython.void:
    """Another vCPU may have translated the old bytes between our invalidation and our store."""
    vm: cython.pointer[Vm] = cython.cast(cython.pointer[Vm], env.vm)
    gpa: uint64_t = (entry[3] & ~0xFFF) | (gva & 0xFFF)
    if vm.cpu_count == 1:
        return
    fence()
    if gpa < vm.ram_top and atomic_load8(vm.page_code + (gpa >> 12)):
        code_written(vm, env, gpa, size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _mmio_read(env: cython.pointer[Env], gpa: uint64_t, size: uint32_t) -> uint64_t:
    """A device register; odd sizes (parts of an access that crosses pages) byte by byte."""
    i: uint32_t
    value: uint64_t = 0
    if size == 1 or size == 2 or size == 4 or size == 8:
        return callback_mmio_read(env, gpa, size)
    for i in range(size):
        value |= callback_mmio_read(env, gpa + i, 1) << (8 * i)
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _mmio_write(env: cython.pointer[Env], gpa: uint64_t, size: uint32_t, value: uint64_t) -> cython.void:
    vm: cython.pointer[Vm] = cython.cast(cython.pointer[Vm], env.vm)
    rom: cython.int = 0
    i: uint32_t
    if ram_pointer(vm, gpa, cython.address(rom)) != cython.NULL:
        return  # ROM: the store is lost, as on the bus
    if size == 1 or size == 2 or size == 4 or size == 8:
        callback_mmio_write(env, gpa, size, value)
        return
    for i in range(size):
        callback_mmio_write(env, gpa + i, 1, (value >> (8 * i)) & 0xFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _read_piece(
    env: cython.pointer[Env], entry: cython.pointer[uint64_t], gva: uint64_t, size: uint32_t
) -> uint64_t:
    """Read within one page whose entry is at hand."""
    if entry[0] & TLB_MMIO:
        return _mmio_read(env, (entry[3] & ~0xFFF) | (gva & 0xFFF), size)
    return guest_load(cython.cast(cython.pointer[uint8_t], gva + entry[2]), size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write_piece(
    env: cython.pointer[Env],
    entry: cython.pointer[uint64_t],
    gva: uint64_t,
    value: uint64_t,
    size: uint32_t,
    code: cython.bint,
) -> cython.void:
    if atomic_load64(entry + 1) & TLB_MMIO:
        _mmio_write(env, (entry[3] & ~0xFFF) | (gva & 0xFFF), size, value)
        return
    guest_store(cython.cast(cython.pointer[uint8_t], gva + entry[2]), value, size)
    if code:
        _after_store(env, entry, gva, size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _next_page(env: cython.pointer[Env], gva: uint64_t) -> uint64_t:
    """Start of the following page; linear addresses wrap at 4 GiB outside IA-32e mode."""
    following: uint64_t = (gva & ~0xFFF) + 0x1000
    if not env.efer & EFER_LMA:
        following &= U32_MAX
    return following


# ------------------------------------------------------------------ the slow path


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load_slow(
    env: cython.pointer[Env], gva: uint64_t, size: uint32_t, mode: uint32_t, pc: uint64_t
) -> uint64_t:
    """Read 1 to 8 bytes for the instruction at pc. After a fault env.fault is set and the value is 0."""
    entry: cython.pointer[uint64_t]
    second: cython.pointer[uint64_t]
    next_gva: uint64_t
    head: uint32_t
    update: uint32_t
    value: uint64_t
    env.rip = pc
    env.stats[STAT_SLOW_LOADS] += 1
    if not env.efer & EFER_LMA:
        gva &= U32_MAX
    if _bad_address(env, gva, size, mode):
        return 0
    update = mode & MODE_UPDATE
    mode &= 3
    entry = _lookup_write(env, gva, mode) if update else _lookup_read(env, gva, mode)
    if entry == cython.NULL:
        return 0
    if (gva & 0xFFF) + size <= 4096:
        if entry[0] & TLB_WATCH and _watch_hit(env, gva, size, False):
            return 0
        return _read_piece(env, entry, gva, size)
    next_gva = _next_page(env, gva)
    second = _lookup_write(env, next_gva, mode) if update else _lookup_read(env, next_gva, mode)
    if second == cython.NULL:
        return 0
    if (entry[0] | second[0]) & TLB_WATCH and _watch_hit(env, gva, size, False):
        return 0
    head = cython.cast(uint32_t, 4096 - (gva & 0xFFF))
    value = _read_piece(env, entry, gva, head)
    return value | (_read_piece(env, second, next_gva, size - head) << (8 * head))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store_slow(
    env: cython.pointer[Env], gva: uint64_t, value: uint64_t, size: uint32_t, mode: uint32_t, pc: uint64_t
) -> cython.void:
    """Write 1 to 8 bytes for the instruction at pc; nothing is written when env.fault is set."""
    entry: cython.pointer[uint64_t]
    second: cython.pointer[uint64_t]
    next_gva: uint64_t
    head: uint32_t
    code: cython.bint
    code2: cython.bint
    env.rip = pc
    env.stats[STAT_SLOW_STORES] += 1
    if not env.efer & EFER_LMA:
        gva &= U32_MAX
    if _bad_address(env, gva, size, mode):
        return
    mode &= 3
    entry = _lookup_write(env, gva, mode)
    if entry == cython.NULL:
        return
    code = (atomic_load64(entry + 1) & TLB_CODE) != 0
    if (gva & 0xFFF) + size <= 4096:
        if not _before_store(env, entry, gva, size):
            _write_piece(env, entry, gva, value, size, code)
        return
    next_gva = _next_page(env, gva)
    second = _lookup_write(env, next_gva, mode)
    if second == cython.NULL:
        return
    code2 = (atomic_load64(second + 1) & TLB_CODE) != 0
    head = cython.cast(uint32_t, 4096 - (gva & 0xFFF))
    if _before_store(env, entry, gva, head) or _before_store(env, second, next_gva, size - head):
        return
    _write_piece(env, entry, gva, value, head, code)
    _write_piece(env, second, next_gva, value >> (8 * head), size - head, code2)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def probe(
    env: cython.pointer[Env], gva: uint64_t, size: uint32_t, mode: uint32_t, write: cython.int
) -> cython.int:
    """Check that an access of at most a page would not fault, without doing it. 1 = fine, 0 = raised."""
    if size == 0:
        return 1
    if not env.efer & EFER_LMA:
        gva &= U32_MAX
    elif not (canonical(gva) and canonical(gva + size - 1)):
        raise_fault(env, VEC_SS if mode & MODE_STACK else VEC_GP, 0)
        return 0
    mode &= 3
    if (_lookup_write(env, gva, mode) if write else _lookup_read(env, gva, mode)) == cython.NULL:
        return 0
    if (gva & 0xFFF) + size > 4096:
        gva = _next_page(env, gva)
        if (_lookup_write(env, gva, mode) if write else _lookup_read(env, gva, mode)) == cython.NULL:
            return 0
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load128_slow(
    env: cython.pointer[Env], gva: uint64_t, data: cython.p_void, mode: uint32_t, pc: uint64_t
) -> cython.void:
    """Read 16 bytes; `data` is unchanged when env.fault is set."""
    half: uint64_t[2]
    if (gva & 0xFFF) > 4096 - 16:
        env.rip = pc
        if not probe(env, gva, 16, mode, 0):
            return
    half[0] = load_slow(env, gva, 8, mode, pc)
    if env.fault == 0:
        half[1] = load_slow(env, gva + 8, 8, mode, pc)
    if env.fault == 0:
        memcpy(data, half, 16)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store128_slow(
    env: cython.pointer[Env], gva: uint64_t, data: cython.p_const_void, mode: uint32_t, pc: uint64_t
) -> cython.void:
    """Write 16 bytes; nothing is written when a page faults."""
    half: uint64_t[2]
    env.rip = pc
    if not probe(env, gva, 16, mode, 1):
        return
    memcpy(half, data, 16)
    store_slow(env, gva, half[0], 8, mode, pc)
    if env.fault == 0:
        store_slow(env, gva + 8, half[1], 8, mode, pc)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lock_split(env: cython.pointer[Env]) -> cython.void:
    """Take the lock of read-modify-writes that no host atomic can do: they cross a page, or are not plain memory."""
    vm: cython.pointer[Vm] = cython.cast(cython.pointer[Vm], env.vm)
    while not atomic_cas64(cython.address(vm.rmw_lock), 0, 1):
        sched_yield()


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unlock_split(env: cython.pointer[Env]) -> cython.void:
    atomic_store64(cython.address(cython.cast(cython.pointer[Vm], env.vm).rmw_lock), 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def rmw_pointer(
    env: cython.pointer[Env], gva: uint64_t, size: uint32_t, mode: uint32_t, pc: uint64_t
) -> cython.pointer[uint8_t]:
    """Where a locked read-modify-write of 1 to 16 bytes acts.

    NULL with env.fault set: it faults. NULL without: write access was checked, but the operand crosses a
    page or is not plain memory; do it by a load and a store under `lock_split`.
    """
    entry: cython.pointer[uint64_t]
    env.rip = pc
    if not env.efer & EFER_LMA:
        gva &= U32_MAX
    if _bad_address(env, gva, size, mode):
        return cython.NULL
    mode &= 3
    entry = _lookup_write(env, gva, mode)
    if entry == cython.NULL:
        return cython.NULL
    if (gva & 0xFFF) + size > 4096:
        _lookup_write(env, _next_page(env, gva), mode)
        return cython.NULL
    if atomic_load64(entry + 1) & TLB_MMIO:
        return cython.NULL
    if _before_store(env, entry, gva, size):
        return cython.NULL
    return cython.cast(cython.pointer[uint8_t], gva + entry[2])


# ------------------------------------------------------------------ for helpers


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mode_read(env: cython.pointer[Env], gva: uint64_t, size: uint32_t, mode: uint32_t) -> uint64_t:
    """Read 1 to 8 bytes in the given MMU mode."""
    entry: cython.pointer[uint64_t] = _slot(
        env, (mode & 3) * TLB_ENTRIES + cython.cast(uint32_t, (gva >> 12) & (TLB_ENTRIES - 1))
    )
    if entry[0] == gva & ~0xFFF and (gva & 0xFFF) + size <= 4096 and not env.block_flags & FLAG_AC:
        return guest_load(cython.cast(cython.pointer[uint8_t], gva + entry[2]), size)
    return load_slow(env, gva, size, mode, env.rip)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mode_write(
    env: cython.pointer[Env], gva: uint64_t, value: uint64_t, size: uint32_t, mode: uint32_t
) -> cython.void:
    """Write 1 to 8 bytes in the given MMU mode."""
    entry: cython.pointer[uint64_t] = _slot(
        env, (mode & 3) * TLB_ENTRIES + cython.cast(uint32_t, (gva >> 12) & (TLB_ENTRIES - 1))
    )
    if atomic_load64(entry + 1) == gva & ~0xFFF and (gva & 0xFFF) + size <= 4096:
        if not env.block_flags & FLAG_AC:
            guest_store(cython.cast(cython.pointer[uint8_t], gva + entry[2]), value, size)
            return
    store_slow(env, gva, value, size, mode, env.rip)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def operand_mode(env: cython.pointer[Env], imm: uint64_t) -> uint32_t:
    """Mode argument for the memory operand of the current instruction, in a helper whose immediate is imm."""
    stack: uint32_t = cython.cast(uint32_t, imm >> OPERAND_SHIFT) & MODE_STACK
    return ((env.block_flags >> FLAG_MMU_SHIFT) & 3) | stack


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mem_read(env: cython.pointer[Env], gva: uint64_t, size: uint32_t) -> uint64_t:
    """Read as the current instruction would."""
    return mode_read(env, gva, size, (env.block_flags >> FLAG_MMU_SHIFT) & 3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mem_write(env: cython.pointer[Env], gva: uint64_t, value: uint64_t, size: uint32_t) -> cython.void:
    """Write as the current instruction would."""
    mode_write(env, gva, value, size, (env.block_flags >> FLAG_MMU_SHIFT) & 3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sys_read(env: cython.pointer[Env], gva: uint64_t, size: uint32_t) -> uint64_t:
    """Implicit supervisor read (descriptor tables, TSS): SMAP applies whatever RFLAGS.AC says."""
    return mode_read(env, gva, size, MMU_SUPERVISOR)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sys_write(env: cython.pointer[Env], gva: uint64_t, value: uint64_t, size: uint32_t) -> cython.void:
    """Implicit supervisor write."""
    mode_write(env, gva, value, size, MMU_SUPERVISOR)
