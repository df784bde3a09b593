# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Calls from translated code into the machine: device accesses, APIC, traces.

Each function takes the GIL, gives Python a clean floating-point environment and keeps an
exception in `callbacks.error`, with env.fault = FAULT_HOST so that the run loop ends.
Thread: the vCPU's.
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.manor.engine.env import (
    FAULT_HOST,
    RAX,
    RDI,
    RDX,
    RSI,
    STAT_MMIO_EXITS,
    STAT_PIO_EXITS,
    TRACE_EXITS,
    Env,
)
from cython.cimports.manor.engine.host import fp_enter_host, fp_leave_host


@cython.cfunc
@cython.exceptval(check=False)
def _failed(env: cython.pointer[Env], callbacks: object, error: object) -> cython.void:
    """Keep the exception for whoever called run()."""
    env.fault = FAULT_HOST
    callbacks.error = error


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_mmio_read(env: cython.pointer[Env], gpa: uint64_t, size: uint32_t) -> uint64_t:
    """Value of a device register; 0 after an error."""
    value: uint64_t = 0
    mxcsr: uint32_t = fp_enter_host()
    env.stats[STAT_MMIO_EXITS] += 1
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            value = callbacks.mmio_read(gpa, size)
            if env.trace & TRACE_EXITS:
                callbacks.trace("mmio_read", gpa, size, value, env.rip)
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_mmio_write(env: cython.pointer[Env], gpa: uint64_t, size: uint32_t, value: uint64_t) -> cython.void:
    """Write a device register."""
    mxcsr: uint32_t = fp_enter_host()
    env.stats[STAT_MMIO_EXITS] += 1
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            if env.trace & TRACE_EXITS:
                callbacks.trace("mmio_write", gpa, size, value, env.rip)
            callbacks.mmio_write(gpa, size, value)
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_pio_read(env: cython.pointer[Env], port: uint32_t, size: uint32_t) -> uint64_t:
    """IN."""
    value: uint64_t = 0
    mxcsr: uint32_t = fp_enter_host()
    env.stats[STAT_PIO_EXITS] += 1
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            value = callbacks.pio_read(port, size)
            if env.trace & TRACE_EXITS:
                callbacks.trace("pio_read", port, size, value, env.rip)
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_pio_write(env: cython.pointer[Env], port: uint32_t, size: uint32_t, value: uint64_t) -> cython.void:
    """OUT."""
    mxcsr: uint32_t = fp_enter_host()
    env.stats[STAT_PIO_EXITS] += 1
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            if env.trace & TRACE_EXITS:
                callbacks.trace("pio_write", port, size, value, env.rip)
            callbacks.pio_write(port, size, value)
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_read_msr(env: cython.pointer[Env], index: uint32_t, value: cython.pointer[uint64_t]) -> cython.int:
    """Ask the interrupt controller for an MSR; 0: it has none of that number."""
    found: cython.int = 0
    mxcsr: uint32_t = fp_enter_host()
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            answer: object = callbacks.read_msr(index)
            if answer is not None:
                value[0] = answer
                found = 1
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)
    return found


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_write_msr(env: cython.pointer[Env], index: uint32_t, value: uint64_t) -> cython.int:
    """Offer an MSR write to the interrupt controller; 0: refused."""
    taken: cython.int = 0
    mxcsr: uint32_t = fp_enter_host()
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            taken = 1 if callbacks.write_msr(index, value) else 0
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)
    return taken


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_get_tpr(env: cython.pointer[Env]) -> uint64_t:
    """CR8."""
    value: uint64_t = 0
    mxcsr: uint32_t = fp_enter_host()
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            value = callbacks.get_tpr()
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_set_tpr(env: cython.pointer[Env], value: uint64_t) -> cython.void:
    """CR8."""
    mxcsr: uint32_t = fp_enter_host()
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            callbacks.set_tpr(value)
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_acknowledge(env: cython.pointer[Env]) -> cython.int:
    """Take the highest pending interrupt: its vector, or -1."""
    vector: cython.int = -1
    mxcsr: uint32_t = fp_enter_host()
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            answer: object = callbacks.acknowledge()
            if answer is not None:
                vector = answer
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)
    return vector


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_trace(
    env: cython.pointer[Env],
    kind: cython.p_const_char,
    a: uint64_t,
    b: uint64_t,
    c: uint64_t,
    d: uint64_t,
) -> cython.void:
    """Report an event with four numbers; what they are depends on the kind (see `docs/reference`)."""
    mxcsr: uint32_t = fp_enter_host()
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            name: bytes = kind
            callbacks.trace(name.decode("ascii"), a, b, c, d)
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def callback_trace_syscall(env: cython.pointer[Env]) -> cython.void:
    """Report a system call: number, six arguments of the Linux convention, rip."""
    mxcsr: uint32_t = fp_enter_host()
    with cython.gil:
        callbacks: object = cython.cast(object, cython.cast(cython.p_void, env.callbacks))
        try:
            callbacks.trace(
                "syscall",
                cython.cast(int64_t, env.regs[RAX]),
                env.regs[RDI],
                env.regs[RSI],
                env.regs[RDX],
                env.regs[10],
                env.regs[8],
                env.regs[9],
                env.rip,
            )
        except BaseException as error:  # noqa: BLE001 - any exception ends run(), which raises it again
            _failed(env, callbacks, error)
    fp_leave_host(mxcsr)
