# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A vCPU on the bench: single parts of the engine called from Python, for the unit tests.

WHY NATIVE: page walks, slow paths and event delivery are C functions on an Env.
SAFETY: addresses of fields are checked against the layout; guest memory belongs to `memory`, kept alive here.
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.manor.engine.cache_native import create_cache, destroy_cache
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.host import guest_load, guest_store
from cython.cimports.manor.engine.isa.x86.debug_native import after_instruction, before_instruction, needs_single_step
from cython.cimports.manor.engine.isa.x86.descriptor_native import update_block_flags
from cython.cimports.manor.engine.isa.x86.exception_native import deliver_event, deliver_interrupt, service_events
from cython.cimports.manor.engine.isa.x86.flags_native import read_rflags, write_rflags
from cython.cimports.manor.engine.isa.x86.system_native import reset_cpu
from cython.cimports.manor.engine.softmmu_native import (
    fetch_gpa,
    load_slow,
    mem_read,
    mem_write,
    protect_code_page,
    raise_fault,
    rmw_pointer,
    store_slow,
    tlb_flush,
    tlb_flush_page,
)
from cython.cimports.manor.engine.vm import Vm, helper_fn

from manor.engine.env import FIELDS, OFFSETS

_FORMATS = {f.name: ({"uint64_t": 8, "int64_t": 8}.get(f.type, 2 if f.type == "uint16_t" else 4), f) for f in FIELDS}


@cython.cclass
class Bench:
    """One vCPU over one piece of RAM at address 0 (its size a multiple of 4096)."""

    def __cinit__(self, memory: bytearray, callbacks: object) -> None:
        view: uint8_t[::1] = memory
        self.memory = memory
        self.callbacks = callbacks
        self.vm = cython.cast(cython.pointer[Vm], calloc(1, cython.sizeof(Vm)))
        self.env = cython.cast(cython.pointer[Env], calloc(1, cython.sizeof(Env)))
        if self.vm == cython.NULL or self.env == cython.NULL:
            raise MemoryError("no memory for a vCPU")
        self.vm.ram[0].host = cython.address(view[0])
        self.vm.ram[0].size = len(memory)
        self.vm.ram_count = 1
        self.vm.ram_top = len(memory)
        self.vm.cpu_count = 1
        self.vm.cpus[0] = self.env
        if not create_cache(self.vm):
            raise MemoryError("no memory for the code cache")
        self.env.vm = cython.cast(uint64_t, cython.cast(cython.p_void, self.vm))
        self.env.callbacks = cython.cast(uint64_t, cython.cast(cython.p_void, callbacks))
        reset_cpu(self.env, 0)

    def __dealloc__(self) -> None:
        if self.vm != cython.NULL:
            destroy_cache(self.vm)
        free(self.vm)
        free(self.env)

    def get(self, name: str, index: int = 0) -> int:
        """A field of the env."""
        size, field = _FORMATS[name]
        if not 0 <= index < max(1, field.count):
            raise IndexError(f"{name}[{index}]")
        offset: uint64_t = OFFSETS[name] + size * index
        width: uint32_t = size
        return guest_load(cython.cast(cython.pointer[uint8_t], self.env) + offset, width)

    def set(self, name: str, value: int, index: int = 0) -> None:
        """Write a field of the env."""
        size, field = _FORMATS[name]
        if not 0 <= index < max(1, field.count):
            raise IndexError(f"{name}[{index}]")
        offset: uint64_t = OFFSETS[name] + size * index
        width: uint32_t = size
        cell: uint64_t = value % (1 << 64)
        guest_store(cython.cast(cython.pointer[uint8_t], self.env) + offset, cell, width)

    def rflags(self) -> int:
        return read_rflags(self.env)

    def set_rflags(self, value: int) -> None:
        write_rflags(self.env, value)

    def update(self) -> None:
        """After state was set: block flags, and forget translations."""
        tlb_flush(self.env, 0)
        update_block_flags(self.env)

    def reset(self, init: bool) -> None:
        reset_cpu(self.env, init)

    def call(self, address: int, a: int = 0, b: int = 0, imm: int = 0) -> int:
        """Call a helper by the address that `addresses()` of its module gives."""
        function: helper_fn = cython.cast(
            helper_fn, cython.cast(cython.p_void, cython.cast(uint64_t, address))
        )
        x: uint64_t = a
        y: uint64_t = b
        z: uint64_t = imm
        result: uint64_t
        with cython.nogil:
            result = function(self.env, x, y, z)
        return result

    def load(self, gva: int, size: int, mode: int) -> int:
        return load_slow(self.env, gva, size, mode, self.env.rip)

    def store(self, gva: int, value: int, size: int, mode: int) -> None:
        store_slow(self.env, gva, value, size, mode, self.env.rip)

    def read(self, gva: int, size: int) -> int:
        return mem_read(self.env, gva, size)

    def write(self, gva: int, value: int, size: int) -> None:
        mem_write(self.env, gva, value, size)

    def fetch(self, gva: int) -> int:
        return fetch_gpa(self.env, gva)

    def rmw(self, gva: int, size: int, mode: int) -> bool:
        """Whether a locked operation may act on memory directly."""
        return rmw_pointer(self.env, gva, size, mode, self.env.rip) != cython.NULL

    def flush(self, keep_global: bool) -> None:
        tlb_flush(self.env, keep_global)

    def flush_page(self, gva: int) -> None:
        tlb_flush_page(self.env, gva)

    def make_code(self, gpa: int) -> None:
        """Mark a page as holding translated code."""
        self.vm.page_code[cython.cast(uint64_t, gpa) >> 12] = 1
        protect_code_page(self.vm, gpa)

    def raise_exception(self, vector: int, error: int) -> None:
        raise_fault(self.env, vector, error)

    def deliver(self) -> None:
        """Deliver the pending exception."""
        deliver_event(self.env)

    def interrupt(self, vector: int) -> None:
        deliver_interrupt(self.env, vector)

    def service(self) -> bool:
        return service_events(self.env) != 0

    def steps(self) -> bool:
        return needs_single_step(self.env) != 0

    def before(self) -> bool:
        return before_instruction(self.env) != 0

    def after(self, tf_before: bool) -> None:
        after_instruction(self.env, tf_before)
