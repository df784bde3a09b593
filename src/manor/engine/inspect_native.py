# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What traces show of the engine's insides, copied out for Python.

WHY NATIVE: blocks are C structures. SAFETY: called on the vCPU's thread after the block was inserted and without
vm.lock (it takes the GIL, for which another thread may wait while it spins on that lock); the memory of a
block stays until the code cache is emptied, which happens only while no vCPU is inside `run`. Guest bytes
may change meanwhile: they are copied once and only shown.
"""

from __future__ import annotations

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.manor.engine.env import FAULT_HOST, Env
from cython.cimports.manor.engine.host import fp_enter_host, fp_leave_host
from cython.cimports.manor.engine.uop.uop import Uop
from cython.cimports.manor.engine.vm import Block, Vm
from cython.cimports.manor.engine.walk_native import ram_pointer


@cython.cfunc
def _copy(data: cython.p_void, size: uint64_t) -> bytes:
    if data == cython.NULL:
        return b""
    return PyBytes_FromStringAndSize(cython.cast(cython.p_char, data), size)


@cython.cfunc
def _guest_bytes(vm: cython.pointer(Vm), block: cython.pointer(Block)) -> bytes:
    """The block's instructions; they may lie in two pages that are not neighbours in memory."""
    rom: cython.int = 0
    here: uint32_t = 0x1000 - (block.gpa & 0xFFF)
    if block.size < here:
        here = block.size
    data: bytes = _copy(ram_pointer(vm, block.gpa, cython.address(rom)), here)
    if block.size > here:
        data += _copy(ram_pointer(vm, block.gpa2, cython.address(rom)), block.size - here)
    return data


@cython.cfunc
def _exits(block: cython.pointer(Block)) -> tuple:
    return tuple([block.exits[index].pc for index in range(block.exit_count)])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def trace_block(env: cython.pointer(Env), block: cython.pointer(Block)) -> cython.int:
    """Report a new block to `callbacks.trace_block`; 0: that failed, env.fault is FAULT_HOST.

    Arguments there: pc, gpa, guest bytes, uops (struct Uop each), host code (empty if there is none), flags of
    the block key, and where its exits lead, by number.
    """
    done: cython.int = 1
    mxcsr: uint32_t = fp_enter_host()
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            callbacks.trace_block(
                block.pc,
                block.gpa,
                _guest_bytes(cython.cast(cython.pointer(Vm), env.vm), block),
                _copy(block.uops, cython.cast(uint64_t, block.uop_count) * cython.sizeof(Uop)),
                _copy(block.code, block.code_size),
                block.flags,
                _exits(block),
            )
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            env.fault = FAULT_HOST
            callbacks.error = error
            done = 0
    fp_leave_host(mxcsr)
    return done
