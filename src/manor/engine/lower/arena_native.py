# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""The code arena of a VM: memory that is writable at one address and executable at another.

It fills from the start; what is finished is unmapped from the writable view. Code memory is not used again until
`reset_emitter`, when no vCPU runs.

WHY NATIVE: the emitter and the run loop use it without the GIL. SAFETY: no page is writable and executable at one
address; the size is bounded by the reach of a jump. Threads: under vm.lock.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.lower.copy_native import (
    align_block,
    head_check_size,
    largest_stencil,
    put,
    special_stencil,
)
from cython.cimports.manor.engine.lower.emitter import (
    EMIT_MAX_UOPS,
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_REMOVE,
    SPECIAL_ENTER,
    SPECIAL_THUNK,
    SPECIAL_THUNK_ALL,
    THUNK_HEAD_SIZE,
    ColdPath,
    Emitter,
    madvise,
    memfd_create,
)
from cython.cimports.manor.engine.vm import Vm
from cython.cimports.posix.mman import (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)
from cython.cimports.posix.unistd import close, ftruncate

from manor.engine.lower import layout as _layout

cython.declare(
    COLD_SIZE=uint64_t, LARGE_PAGE=uint64_t, JOIN_FROM=uint64_t, SLOW=uint64_t[8], SLOW_COUNT=cython.int,
)  # fmt: skip
COLD_SIZE = (2 * EMIT_MAX_UOPS + 1) * 1024
LARGE_PAGE = 1 << 21
JOIN_FROM = 64 << 20  # a small guest's boot makes less, and is over before it would gain
SLOW_COUNT = len(_layout.SLOW_PATHS)


def set_slow_paths(addresses) -> None:
    """Addresses of the slow paths (`slow_native.addresses()`). Before `prepare_env` is called."""
    index: cython.int
    for index, name in enumerate(_layout.SLOW_PATHS):
        SLOW[index] = addresses[name]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def create_emitter(vm: cython.pointer(Vm), size: uint64_t) -> cython.int:
    """Reserve the code arena of a VM: `size` bytes, at most 2 GiB (the reach of a jump), touched as they fill.

    0 if the host refuses, or the stencils are not loaded.
    """
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), calloc(1, cython.sizeof(Emitter)))
    fd: cython.int
    writable: cython.p_void
    executable: cython.p_void
    vm.emitter = e
    if e == cython.NULL or largest_stencil() == 0 or size >> 31:
        return 0
    size = (size + 4095) & ~cython.cast(uint64_t, 4095)
    fd = memfd_create(b"manor-code", 1)
    if fd < 0:
        return 0
    if ftruncate(fd, size) != 0:
        close(fd)
        return 0
    writable = mmap(cython.NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    executable = map_code(fd, size)
    close(fd)
    if writable != MAP_FAILED:
        e.base = cython.cast(cython.pointer(uint8_t), writable)
        e.size = size
    if executable != MAP_FAILED:
        e.code_base = cython.cast(cython.pointer(uint8_t), executable)
    # room for the largest cold path of each uop, twice for a loop: every register stored, then the slow-path call
    e.cold_base = cython.cast(cython.pointer(uint8_t), malloc(COLD_SIZE))
    e.cold = cython.cast(cython.pointer(ColdPath), malloc((2 * EMIT_MAX_UOPS + 1) * cython.sizeof(ColdPath)))
    e.last = cython.cast(cython.pointer(uint8_t), malloc(EMIT_MAX_UOPS))
    if (
        e.base == cython.NULL
        or e.code_base == cython.NULL
        or e.cold_base == cython.NULL
        or e.cold == cython.NULL
        or e.last == cython.NULL
    ):
        return 0
    e.out = e.base
    e.enter = executable_address(e, e.out)
    put(e, special_stencil(SPECIAL_ENTER))
    align_block(e)
    e.thunk = executable_address(e, e.out)
    put(e, special_stencil(SPECIAL_THUNK))
    align_block(e)
    e.thunk_all = executable_address(e, e.out)
    put(e, special_stencil(SPECIAL_THUNK_ALL))
    align_block(e)
    e.first = e.out - e.base
    e.used = e.first
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def map_code(fd: cython.int, size: uint64_t) -> cython.p_void:
    """The executable view, where a large page can begin; MAP_FAILED if the host refuses."""
    spare: uint64_t = size + LARGE_PAGE
    found: cython.p_void = mmap(cython.NULL, spare, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    start: uint64_t
    end: uint64_t
    if found == MAP_FAILED:
        return MAP_FAILED
    start = (cython.cast(uint64_t, found) + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1)
    end = cython.cast(uint64_t, found) + spare
    if start > cython.cast(uint64_t, found):
        munmap(found, start - cython.cast(uint64_t, found))
    if end > start + size:
        munmap(cython.cast(cython.p_void, start + size), end - start - size)
    return mmap(cython.cast(cython.p_void, start), size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def join_pages(e: cython.pointer(Emitter)) -> cython.void:
    """Ask the host to map what is full of the executable view by large pages.

    A guest's kernel runs through megabytes of host code, page after page; where the host is a virtual machine itself,
    each translation of an address is a walk through two sets of tables. A host that cannot says so, and nothing is
    lost. It copies what it joins: only a guest with much code has it done.
    """
    if e.used < JOIN_FROM:
        return
    while e.used - e.joined >= LARGE_PAGE:
        madvise(e.code_base + e.joined, LARGE_PAGE, MADV_COLLAPSE)
        e.joined += LARGE_PAGE


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def destroy_emitter(vm: cython.pointer(Vm)) -> cython.void:
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    if e != cython.NULL:
        if e.base != cython.NULL:
            munmap(e.base, e.size)
        if e.code_base != cython.NULL:
            munmap(e.code_base, e.size)
        free(e.cold_base)
        free(e.cold)
        free(e.last)
        free(e)
    vm.emitter = cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def trim_emitter(e: cython.pointer(Emitter)) -> cython.void:
    """Unmap the writable view of finished code: both views count as resident, and only links write there again."""
    end: uint64_t = e.used & ~cython.cast(uint64_t, 0xFFFF)
    madvise(e.base + e.trimmed, end - e.trimmed, MADV_DONTNEED)
    e.trimmed = end


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def code_used(vm: cython.pointer(Vm)) -> uint64_t:
    """Bytes of host code."""
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    return e.used - e.first


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def reset_emitter(vm: cython.pointer(Vm)) -> cython.void:
    """Drop all code. Every vCPU must be stopped, and every block forgotten by the caller."""
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    start: uint64_t = (e.first + 4095) & ~cython.cast(uint64_t, 4095)
    if e.used > start:
        # the host gets the memory back
        madvise(e.base + start, e.used - start, MADV_REMOVE)
    e.used = e.first
    e.trimmed = 0
    e.joined = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def prepare_env(vm: cython.pointer(Vm), env: cython.pointer(Env)) -> cython.void:
    """Give a vCPU what generated code expects in its env."""
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    index: cython.int
    env.thunks[0] = cython.cast(uint64_t, e.thunk)
    env.thunks[7] = cython.cast(uint64_t, e.thunk_all)
    for index in range(SLOW_COUNT):
        env.thunks[1 + index] = SLOW[index]
    env.thunks[cython.cast(cython.int, THUNK_HEAD_SIZE)] = head_check_size()


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def executable_address(e: cython.pointer(Emitter), place: cython.pointer(uint8_t)) -> cython.pointer(uint8_t):
    return e.code_base + (place - e.base)
