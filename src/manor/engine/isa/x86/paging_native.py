# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The four page-directory-pointer registers of PAE paging. Source: SDM volume 3, 4.4.1."""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.host import U32_MAX
from cython.cimports.manor.engine.isa.x86.bits import PAGE_FRAME, PHYSICAL_BITS
from cython.cimports.manor.engine.vm import Vm
from cython.cimports.manor.engine.walk_native import physical_read


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load_pdptes(env: cython.pointer[Env], cr3: uint64_t) -> cython.int:
    """Load the registers from the table at CR3; 0 (nothing loaded) when a present one has reserved bits."""
    vm: cython.pointer[Vm] = cython.cast(cython.pointer[Vm], env.vm)
    i: cython.int
    one: uint64_t = 1
    entry: uint64_t[4]
    reserved: uint64_t = ~(PAGE_FRAME & ((one << PHYSICAL_BITS) - 1)) & ~0xE19
    for i in range(4):
        physical_read(vm, (cr3 & U32_MAX & ~0x1F) + 8 * i, 8, cython.address(entry[i]))
        if entry[i] & 1 and entry[i] & reserved:
            return 0
    for i in range(4):
        env.pdpte[i] = entry[i]
    return 1
