# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Page walks: guest-virtual to guest-physical, by the guest's own tables.

4-level, PAE and 32-bit paging. Tables are guest memory that other vCPUs change meanwhile: every entry is
read once, and accessed and dirty bits are set by compare-and-swap; when that fails the walk starts again.
Source: SDM volume 3, 4.3 to 4.8.
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.manor.engine.env import (
    MMU_SUPERVISOR,
    MMU_USER,
    STAT_PAGE_WALKS,
    Env,
)
from cython.cimports.manor.engine.host import (
    U32_MAX,
    U64_MAX,
    atomic_cas32,
    atomic_cas64,
    atomic_load32,
    atomic_load64,
)
from cython.cimports.manor.engine.isa.x86.bits import (
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    PAGE_FRAME,
    PHYSICAL_BITS,
    PTE_NX,
)
from cython.cimports.manor.engine.vm import RamRegion, Vm


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ram_pointer(vm: cython.pointer[Vm], gpa: uint64_t, rom: cython.p_int) -> cython.pointer[uint8_t]:
    """Host address of a guest-physical page's byte, NULL when the page is not whole in memory."""
    i: cython.int
    page: uint64_t = gpa & ~0xFFF
    for i in range(vm.ram_count):
        region: cython.pointer[RamRegion] = cython.address(vm.ram[i])
        if page >= region.start and page - region.start + 4096 <= region.size:
            rom[0] = region.rom
            return region.host + (gpa - region.start)
    rom[0] = 0
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def physical_read(
    vm: cython.pointer[Vm], gpa: uint64_t, size: uint32_t, value: cython.pointer[uint64_t]
) -> cython.int:
    """Read 4 or 8 aligned bytes of memory; 0 (and all ones) where there is none."""
    rom: cython.int = 0
    host: cython.pointer[uint8_t] = ram_pointer(vm, gpa, cython.address(rom))
    if host == cython.NULL:
        value[0] = U64_MAX if size == 8 else U32_MAX
        return 0
    if size == 8:
        value[0] = atomic_load64(cython.cast(cython.pointer[uint64_t], host))
    else:
        value[0] = atomic_load32(cython.cast(cython.pointer[uint32_t], host))
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _set_bits(vm: cython.pointer[Vm], gpa: uint64_t, size: uint32_t, old: uint64_t, bits: uint64_t) -> cython.int:
    """Set bits of a table entry that still has the value `old`; 0: it has changed."""
    rom: cython.int = 0
    host: cython.pointer[uint8_t] = ram_pointer(vm, gpa, cython.address(rom))
    if host == cython.NULL or rom:
        return 1
    if size == 8:
        return atomic_cas64(cython.cast(cython.pointer[uint64_t], host), old, old | bits)
    return atomic_cas32(
        cython.cast(cython.pointer[uint32_t], host),
        cython.cast(uint32_t, old),
        cython.cast(uint32_t, old | bits),
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _walk_once(
    env: cython.pointer[Env], gva: uint64_t, access: cython.int, mode: cython.int, result: cython.pointer[Walk]
) -> cython.int:
    """One attempt: 1 translated, 0 page fault (result.error), -1 an entry changed meanwhile."""
    vm: cython.pointer[Vm] = cython.cast(cython.pointer[Vm], env.vm)
    cr4: uint64_t = env.cr[4]
    efer: uint64_t = env.efer
    address: uint64_t[4]
    entry: uint64_t[4]
    depth: cython.int = 0
    size: uint32_t = 8
    shift: uint32_t
    pte: uint64_t
    reserved: uint64_t
    table: uint64_t
    writable: uint64_t = 1
    user: uint64_t = 1
    no_execute: uint64_t = 0
    i: cython.int
    error: uint32_t = 0
    one: uint64_t = 1
    bad: cython.bint = False

    if access == ACCESS_WRITE:
        error |= PF_W
    if mode == MMU_USER:
        error |= PF_U
    if access == ACCESS_FETCH and ((cr4 & CR4_PAE and efer & EFER_NXE) or cr4 & CR4_SMEP):
        error |= PF_ID
    result.error = error

    if cr4 & CR4_PAE:
        # bits between the physical width and bit 51 are reserved everywhere; PAE also reserves 52 to 62
        reserved = PAGE_FRAME & ~((one << PHYSICAL_BITS) - 1)
        if not efer & EFER_NXE:
            reserved |= PTE_NX
        if efer & EFER_LMA:
            table = env.cr[3] & PAGE_FRAME
            shift = 39
        else:
            reserved |= ~(PAGE_FRAME | PTE_NX | 0xFFF)
            pte = env.pdpte[(gva >> 30) & 3]
            if not pte & PTE_P:
                return 0
            table = pte & PAGE_FRAME
            shift = 21
        while True:
            address[depth] = table + ((gva >> shift) & 0x1FF) * 8
            physical_read(vm, address[depth], 8, cython.address(pte))
            entry[depth] = pte
            if not pte & PTE_P:
                return 0
            bad = (pte & reserved) != 0
            if pte & PTE_PS and shift > 12:
                if shift == 39:
                    bad = True
                elif pte & PAGE_FRAME & ((one << shift) - 1) & ~0x1FFF:
                    bad = True
            if bad:
                result.error = error | PF_P | PF_RSVD
                return 0
            writable &= pte >> 1
            user &= pte >> 2
            no_execute |= pte >> 63
            table = pte & PAGE_FRAME
            if shift == 12 or pte & PTE_PS:
                break
            depth += 1
            shift -= 9
        # bit 12 of a large-page entry is its PAT bit
        result.gpa = (table & ~((one << shift) - 1)) | (gva & ((one << shift) - 1))
    else:
        size = 4
        address[0] = (env.cr[3] & U32_MAX & ~0xFFF) + ((gva >> 22) & 0x3FF) * 4
        physical_read(vm, address[0], 4, cython.address(pte))
        entry[0] = pte
        if not pte & PTE_P:
            return 0
        writable = pte >> 1
        user = pte >> 2
        if pte & PTE_PS and cr4 & CR4_PSE:
            shift = 22
            if pte & 0x200000:
                result.error = error | PF_P | PF_RSVD
                return 0
            # PSE-36: bits 13 to 20 are address bits 32 to 39
            result.gpa = (pte & U32_MAX & ~0x3FFFFF) | ((pte >> 13 & 0xFF) << 32) | (gva & 0x3FFFFF)
        else:
            shift = 12
            depth = 1
            address[1] = (pte & U32_MAX & ~0xFFF) + ((gva >> 12) & 0x3FF) * 4
            physical_read(vm, address[1], 4, cython.address(pte))
            entry[1] = pte
            if not pte & PTE_P:
                return 0
            writable &= pte >> 1
            user &= pte >> 2
            result.gpa = (pte & U32_MAX & ~0xFFF) | (gva & 0xFFF)

    # permissions, SDM volume 3, 4.6.1
    writable &= 1
    user &= 1
    if mode == MMU_USER:
        if not user:
            bad = True
    else:
        if user and access == ACCESS_FETCH and cr4 & CR4_SMEP:
            bad = True
        if user and access != ACCESS_FETCH and mode == MMU_SUPERVISOR and cr4 & CR4_SMAP:
            bad = True
        if not env.cr[0] & CR0_WP:
            writable = 1
    if access == ACCESS_WRITE and not writable:
        bad = True
    if access == ACCESS_FETCH and no_execute and efer & EFER_NXE:
        bad = True
    if bad:
        result.error = error | PF_P
        return 0

    for i in range(depth):
        if not entry[i] & PTE_A and not _set_bits(vm, address[i], size, entry[i], PTE_A):
            return -1
    pte = PTE_A | (PTE_D if access == ACCESS_WRITE else 0)
    if (entry[depth] & pte) != pte:
        if not _set_bits(vm, address[depth], size, entry[depth], pte):
            return -1
        entry[depth] |= pte
    result.writable = 1 if writable and entry[depth] & PTE_D else 0
    result.global_page = 1 if entry[depth] & PTE_G and cr4 & CR4_PGE else 0
    result.shift = shift
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def walk(
    env: cython.pointer[Env], gva: uint64_t, access: cython.int, mode: cython.int, result: cython.pointer[Walk]
) -> cython.int:
    """Translate one address for an access in an MMU_* mode. 1, or 0 with the error code in result.error.

    Raises nothing and knows nothing of TLBs; sets accessed and dirty bits on success only.
    """
    outcome: cython.int
    if not env.cr[0] & CR0_PG:
        result.gpa = gva & U32_MAX
        result.writable = 1
        result.global_page = 0
        result.shift = 12
        return 1
    env.stats[STAT_PAGE_WALKS] += 1
    while True:
        outcome = _walk_once(env, gva, access, mode, result)
        if outcome >= 0:
            return outcome
