# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Slow paths of generated code: what a memory uop does when the TLB does not answer.

`layout.SLOW_PATHS` says how generated code calls them: size | mode << 8 | operation << 16 | aligned << 24
in `meta`, env.rip is the instruction. The work is done by `softmmu_native`.

WHY NATIVE: called from generated code. SAFETY: every address goes through the softmmu. Threads: the vCPU's
own; a locked operation that no host instruction can do runs under vm.rmw_lock.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.lower.slow_native import (
    META_ALIGNED,
    RMW_ADD,
    RMW_AND,
    RMW_OR,
    RMW_XOR,
    SEQUENTIAL,
    VECTOR_GP,
    exchange8,
    exchange16,
    exchange32,
    exchange64,
)
from cython.cimports.manor.engine.softmmu_native import (
    load128_slow,
    load_slow,
    lock_split,
    raise_fault,
    rmw_pointer,
    store128_slow,
    store_slow,
    unlock_split,
)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def slow_load(env: cython.pointer(Env), gva: uint64_t, value: uint64_t, meta: uint64_t) -> uint64_t:
    return load_slow(env, gva, meta & 0xFF, (meta >> 8) & 15, env.rip)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def slow_store(env: cython.pointer(Env), gva: uint64_t, value: uint64_t, meta: uint64_t) -> uint64_t:
    store_slow(env, gva, value, meta & 0xFF, (meta >> 8) & 15, env.rip)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def combine(operation: cython.int, old: uint64_t, value: uint64_t) -> uint64_t:
    if operation == RMW_ADD:
        return old + value
    if operation == RMW_AND:
        return old & value
    if operation == RMW_OR:
        return old | value
    if operation == RMW_XOR:
        return old ^ value
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def exchange(p: cython.pointer(uint8_t), size: uint32_t, old: cython.pointer(uint64_t), new: uint64_t) -> cython.int:
    """Compare and exchange at a size; `old` receives what was there. Any alignment (x86 host)."""
    if size == 1:
        return exchange8(p, cython.cast(cython.pointer(uint8_t), old), new, 0, SEQUENTIAL, SEQUENTIAL)
    if size == 2:
        return exchange16(
            cython.cast(cython.pointer(uint16_t), p), cython.cast(cython.pointer(uint16_t), old), new, 0,
            SEQUENTIAL, SEQUENTIAL,
        )  # fmt: skip
    if size == 4:
        return exchange32(
            cython.cast(cython.pointer(uint32_t), p), cython.cast(cython.pointer(uint32_t), old), new, 0,
            SEQUENTIAL, SEQUENTIAL,
        )  # fmt: skip
    return exchange64(cython.cast(cython.pointer(uint64_t), p), old, new, 0, SEQUENTIAL, SEQUENTIAL)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def width_mask(size: uint32_t) -> uint64_t:
    return ~cython.cast(uint64_t, 0) >> (64 - 8 * size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def slow_rmw(env: cython.pointer(Env), gva: uint64_t, value: uint64_t, meta: uint64_t) -> uint64_t:
    size: uint32_t = meta & 0xFF
    mode: uint32_t = (meta >> 8) & 15
    operation: cython.int = (meta >> 16) & 0xFF
    old: uint64_t = 0
    p: cython.pointer(uint8_t) = rmw_pointer(env, gva, size, mode, env.rip)
    if env.fault:
        return 0
    if p != cython.NULL:
        while not exchange(p, size, cython.address(old), combine(operation, old, value)):
            pass
        return old
    lock_split(env)
    old = load_slow(env, gva, size, mode, env.rip)
    if not env.fault:
        store_slow(env, gva, combine(operation, old, value), size, mode, env.rip)
    unlock_split(env)
    return old


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def slow_cmpxchg(env: cython.pointer(Env), gva: uint64_t, value: uint64_t, meta: uint64_t) -> uint64_t:
    """The expected value is in env.scratch[0]."""
    size: uint32_t = meta & 0xFF
    mode: uint32_t = (meta >> 8) & 15
    expected: uint64_t = env.scratch[0] & width_mask(size)
    old: uint64_t = expected
    p: cython.pointer(uint8_t) = rmw_pointer(env, gva, size, mode, env.rip)
    if env.fault:
        return 0
    if p != cython.NULL:
        exchange(p, size, cython.address(old), value)
        return old
    lock_split(env)
    old = load_slow(env, gva, size, mode, env.rip)
    if not env.fault:
        store_slow(env, gva, value if old == expected else old, size, mode, env.rip)
    unlock_split(env)
    return old


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def slow_loadx(env: cython.pointer(Env), gva: uint64_t, cell: uint64_t, meta: uint64_t) -> uint64_t:
    if meta & META_ALIGNED and gva & 15:
        raise_fault(env, VECTOR_GP, 0)
    else:
        load128_slow(env, gva, cython.cast(cython.pointer(uint8_t), env) + cell, (meta >> 8) & 15, env.rip)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def slow_storex(env: cython.pointer(Env), gva: uint64_t, cell: uint64_t, meta: uint64_t) -> uint64_t:
    if meta & META_ALIGNED and gva & 15:
        raise_fault(env, VECTOR_GP, 0)
    else:
        store128_slow(env, gva, cython.cast(cython.pointer(uint8_t), env) + cell, (meta >> 8) & 15, env.rip)
    return 0


def addresses() -> dict:
    """Names of `layout.SLOW_PATHS` -> addresses of the functions."""
    return {
        "load_slow": cython.cast(uint64_t, cython.cast(cython.p_void, slow_load)),
        "store_slow": cython.cast(uint64_t, cython.cast(cython.p_void, slow_store)),
        "rmw_slow": cython.cast(uint64_t, cython.cast(cython.p_void, slow_rmw)),
        "cmpxchg_slow": cython.cast(uint64_t, cython.cast(cython.p_void, slow_cmpxchg)),
        "loadx_slow": cython.cast(uint64_t, cython.cast(cython.p_void, slow_loadx)),
        "storex_slow": cython.cast(uint64_t, cython.cast(cython.p_void, slow_storex)),
    }


def numbers() -> dict:
    """Numbers shared with `forms`, for a test that they agree."""
    return {
        "META_ALIGNED": META_ALIGNED, "RMW_ADD": RMW_ADD, "RMW_AND": RMW_AND, "RMW_OR": RMW_OR, "RMW_XOR": RMW_XOR,
    }  # fmt: skip
