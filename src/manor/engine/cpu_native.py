# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The run loop of a translated vCPU, and the objects that Python sees.

WHY NATIVE: between two blocks that are not chained this loop is all there is.
SAFETY: an Env is written by its own vCPU's thread, except the `*_pending` and `interrupt`
cells, which any thread may set. The Vm, its Envs and the code cache are freed when the
EngineVm is, which its Cpu objects keep alive; guest memory belongs to the caller, who is kept
alive through `memory`. Everything here runs without the GIL but for the calls to Python.
"""

import cython
from cython.cimports.cpython.buffer import PyBUF_WRITE
from cython.cimports.cpython.memoryview import PyMemoryView_FromMemory
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.manor.engine.cache_native import (
    code_written,
    create_cache,
    destroy_cache,
    drop_block,
    empty_cache,
    find_block,
    holds_code,
    insert_block,
    jump_slot,
    lock_cache,
    new_block,
    unlock_cache,
)
from cython.cimports.manor.engine.cpu_native import (
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    Scratch,
    mmap,
    munmap,
)
from cython.cimports.manor.engine.env import TRACE_BLOCKS, Env
from cython.cimports.manor.engine.host import atomic_exchange32, atomic_load32, fence, monotonic_ns, relax
from cython.cimports.manor.engine.inspect_native import trace_block
from cython.cimports.manor.engine.interp_native import interpret
from cython.cimports.manor.engine.isa.x86.bits import canonical
from cython.cimports.manor.engine.isa.x86.debug_native import after_instruction, before_instruction, needs_single_step
from cython.cimports.manor.engine.isa.x86.descriptor_native import update_block_flags
from cython.cimports.manor.engine.isa.x86.exception_native import deliver_event, service_events
from cython.cimports.manor.engine.isa.x86.flags_native import read_rflags, write_rflags
from cython.cimports.manor.engine.isa.x86.fpu_native import fpu_enter, fpu_leave, fxrstor_image, fxsave_image
from cython.cimports.manor.engine.isa.x86.system_native import reset_cpu
from cython.cimports.manor.engine.isa.x86.translate_native import translate
from cython.cimports.manor.engine.isa.x86.translator import Translator
from cython.cimports.manor.engine.lower.arena_native import (
    code_used,
    create_emitter,
    destroy_emitter,
    prepare_env,
    reset_emitter,
)
from cython.cimports.manor.engine.lower.emit_native import (
    emit_block,
    link_block,
    run_code,
    unlink_block,
)
from cython.cimports.manor.engine.lower.emitter import THUNK_HEAD_SIZE
from cython.cimports.manor.engine.lower.passes_native import optimize
from cython.cimports.manor.engine.softmmu_native import (
    fetch_gpa,
    note_jump,
    protect_code_page,
    raise_fault,
    tlb_flush,
)
from cython.cimports.manor.engine.uop.uop import Uop
from cython.cimports.manor.engine.vm import PAGE_CODE, Block, Exit, Vm

from manor.engine import env as _env

cython.declare(
    JUMP_MASK=uint64_t, KEY_SHIFT=cython.int, F_ONE_INSN=uint32_t, F_CODE64=uint32_t,
    X_EXCEPTION=cython.int, X_RETRY=cython.int, X_ONE_INSN=cython.int, X_HALT=cython.int, X_SHUTDOWN=cython.int,
    X_HOST=cython.int, X_FLUSH=cython.int, U_INIT=int32_t, U_SIPI=int32_t, U_VECTOR=int32_t, S_BLOCKS=cython.int, S_INSNS=cython.int, S_UOPS=cython.int,
    S_TRANSLATE_NS=cython.int, S_HOST_BYTES=cython.int, CODE_SIZE=uint64_t, S_DISPATCHES=cython.int, S_HALTS=cython.int, R_IF=uint64_t, R_TF=uint64_t,
)  # fmt: skip
JUMP_MASK = _env.JUMP_CACHE_ENTRIES - 1
KEY_SHIFT = _env.JUMP_KEY_SHIFT
F_ONE_INSN = _env.FLAG_ONE_INSN
F_CODE64 = _env.FLAG_CODE64
X_EXCEPTION = _env.FAULT_EXCEPTION
X_RETRY = _env.FAULT_RETRY
X_ONE_INSN = _env.FAULT_ONE_INSN
X_HALT = _env.FAULT_HALT
X_SHUTDOWN = _env.FAULT_SHUTDOWN
X_HOST = _env.FAULT_HOST
X_FLUSH = _env.FAULT_FLUSH
U_INIT = _env.STARTUP_INIT
U_SIPI = _env.STARTUP_SIPI
U_VECTOR = _env.STARTUP_VECTOR
S_BLOCKS = _env.STATS.index("blocks_translated")
S_INSNS = _env.STATS.index("insns_translated")
S_UOPS = _env.STATS.index("uops_translated")
S_HOST_BYTES = _env.STATS.index("host_bytes")
CODE_SIZE = 1 << 27
S_TRANSLATE_NS = _env.STATS.index("translate_ns")
S_DISPATCHES = _env.STATS.index("dispatches")
S_HALTS = _env.STATS.index("halts")
R_IF = 0x200
R_TF = 0x100
PAGE_MASK = cython.declare(uint64_t, 0xFFF)
MASK32 = cython.declare(uint64_t, 0xFFFFFFFF)
POLL_START = cython.declare(uint64_t, 10_000)
"""Nanoseconds of the first wait of a halted vCPU; each that was too short is followed by one twice as long."""
NO_PAGE = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)
# Bytes that `code_written` is told of at once.
LARGEST_WRITE = cython.declare(uint64_t, 1 << 30)

HALT_NONE, HALT_KICKED, HALT_HALTED, HALT_WAIT_SIPI, HALT_SHUTDOWN, HALT_HOST, HALT_FLUSH = range(7)
"""What `Cpu.run` returns: the halt reason."""


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def linear_rip(env: cython.pointer(Env)) -> uint64_t:
    if env.block_flags & F_CODE64:
        return env.rip
    return (env.rip + env.seg_base[1]) & MASK32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def translate_block(env: cython.pointer(Env), scratch: cython.pointer(Scratch), linear: uint64_t, gpa: uint64_t,
                    flags: uint32_t) -> cython.pointer(Block):  # fmt: skip
    """Find or make the block at env.rip. NULL with env.fault set if that is not possible."""
    vm: cython.pointer(Vm) = cython.cast(cython.pointer(Vm), env.vm)
    block: cython.pointer(Block)
    t: cython.pointer(Translator) = cython.address(scratch.translator)
    started: uint64_t
    size: cython.int
    index: cython.int
    page: uint64_t = gpa >> 12
    second: uint64_t
    lock_cache(vm)
    block = find_block(vm, env.rip, gpa, flags)
    if block != cython.NULL and block.gpa2 != NO_PAGE:
        # Its bytes go on in a page that may be mapped elsewhere by now.
        second = fetch_gpa(env, (linear & ~PAGE_MASK) + 0x1000)
        if env.fault:
            unlock_cache(vm)
            return cython.NULL
        if second & ~PAGE_MASK != block.gpa2:
            drop_block(vm, block)
            block = cython.NULL
    if block != cython.NULL:
        unlock_cache(vm)
        return block
    if gpa >= vm.ram_top:
        unlock_cache(vm)
        env.fault = X_SHUTDOWN
        return cython.NULL
    started = monotonic_ns()
    # Protect before reading: a store that comes later finds the page marked and waits for the lock.
    fresh: cython.bint = vm.page_code[page] == 0
    vm.page_code[page] = PAGE_CODE
    if fresh:
        protect_code_page(vm, gpa)
    while True:
        t.out = cython.address(scratch.uops[0])
        size = translate(vm, env, env.rip, linear, gpa, flags, t)
        if size < 0:
            unlock_cache(vm)
            if env.fault == 0:
                env.fault = X_SHUTDOWN
            return cython.NULL
        if not size & (1 << 30) or vm.page_code[t.imm2 >> 12]:
            break
        # It goes on in a page that was not protected when its bytes were read: read them again.
        vm.page_code[t.imm2 >> 12] = PAGE_CODE
        protect_code_page(vm, t.imm2)
    t.count = optimize(t.out, t.count)
    interpreted: cython.bint = keep_uops(vm, flags)
    copied: cython.bint = interpreted or env.trace & TRACE_BLOCKS != 0
    copies: cython.int = 2 if t.loops and not interpreted else 1
    block = new_block(vm, t.count * cython.sizeof(Uop) if copied else 0, t.exit_count * copies)
    if block == cython.NULL:
        unlock_cache(vm)
        env.fault = X_FLUSH
        return cython.NULL
    block.pc = env.rip
    block.gpa = gpa
    block.flags = flags
    block.size = size & ~(1 << 30)
    block.insn_count = t.insn_count
    block.uop_count = t.count
    block.exit_count = t.exit_count
    block.loops = copies - 1
    for index in range(t.exit_count * copies):
        block.exits[index].block = block
        block.exits[index].pc = t.exit_pc[index % t.exit_count]
    if copied:
        memcpy(block.uops, t.out, t.count * cython.sizeof(Uop))
    if not interpreted and emit_block(vm, block, t.out, t.count) != 0:
        unlock_cache(vm)
        env.fault = X_FLUSH
        return cython.NULL
    if size & (1 << 30):
        block.gpa2 = t.imm2
        vm.page_code[block.gpa2 >> 12] = PAGE_CODE
    insert_block(vm, block)
    unlock_cache(vm)
    env.stats[S_BLOCKS] += 1
    env.stats[S_INSNS] += block.insn_count
    env.stats[S_UOPS] += block.uop_count
    env.stats[S_HOST_BYTES] += block.code_size
    env.stats[S_TRANSLATE_NS] += monotonic_ns() - started
    if env.trace & TRACE_BLOCKS and not trace_block(env, block):
        return cython.NULL
    return block


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def keep_uops(vm: cython.pointer(Vm), flags: uint32_t) -> cython.bint:
    """Whether a block is interpreted: single instructions are, and everything without a back end."""
    return vm.emitter == cython.NULL or flags & F_ONE_INSN != 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def next_block(env: cython.pointer(Env), scratch: cython.pointer(Scratch), extra: uint32_t) -> cython.pointer(Block):
    """The block at env.rip, translated if need be. extra: flags on top of the mode's."""
    linear: uint64_t = linear_rip(env)
    gpa: uint64_t
    if not env.block_flags & F_CODE64 and env.rip > env.seg_limit[1]:
        raise_fault(env, 13, 0)
        return cython.NULL
    gpa = fetch_gpa(env, linear)
    if env.fault:
        return cython.NULL
    return translate_block(env, scratch, linear, gpa, env.block_flags | extra)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def link_exit(env: cython.pointer(Env), scratch: cython.pointer(Scratch), left: cython.pointer(Exit)) -> cython.void:
    """Chain the exit that was just taken to the block at env.rip.

    Only within a page: the page was mapped when the source block was entered, so it still is.
    """
    vm: cython.pointer(Vm) = cython.cast(cython.pointer(Vm), env.vm)
    target: cython.pointer(Block)
    if left.patch == cython.NULL or left.block.flags != env.block_flags:
        return
    target = next_block(env, scratch, 0)
    if target == cython.NULL:
        return
    lock_cache(vm)
    if target.gpa2 == NO_PAGE:
        link_block(vm, left, target)
    elif left.link == cython.NULL:
        left.patch = cython.NULL  # its second page may be mapped elsewhere at any time: do not come here again
    unlock_cache(vm)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def can_skip_head(env: cython.pointer(Env)) -> cython.bint:
    """Whether an interrupt shadow needs no more than a block that does not look for interrupts first."""
    return cython.cast(cython.pointer(Vm), env.vm).emitter != cython.NULL and not env.dr[7] & 0xFF


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_next(env: cython.pointer(Env), scratch: cython.pointer(Scratch)) -> cython.void:
    """Run from env.rip until generated code leaves, or one block by the interpreter."""
    key: uint64_t = env.rip ^ (cython.cast(uint64_t, env.block_flags) << KEY_SHIFT)
    entry: cython.pointer(uint64_t) = cython.address(env.jump_cache[jump_slot(env.rip) * 2])
    code: cython.pointer(uint8_t)
    block: cython.pointer(Block)
    left: cython.pointer(Exit)
    # A key is unique only among canonical addresses.
    if entry[0] == key and canonical(env.rip):
        code = cython.cast(cython.pointer(uint8_t), cython.cast(cython.p_void, entry[1]))
    else:
        block = next_block(env, scratch, 0)
        if block == cython.NULL:
            return
        if block.code == cython.NULL:
            interpret(env, block)
            return
        code = block.code
        entry[1] = cython.cast(uint64_t, cython.cast(cython.p_void, code))
        entry[0] = key
        note_jump(env, jump_slot(env.rip), linear_rip(env), block.gpa2 != NO_PAGE)
        fence()  # whoever drops the block sees our entry, or we see that it is dropped
        if not block.valid:
            entry[0] = NO_PAGE
    if env.shadow:
        env.shadow = 0
        code += env.thunks[cython.cast(cython.int, THUNK_HEAD_SIZE)]
        if env.irq_pending or env.nmi_pending:
            env.interrupt = 1  # this block does not look; the next one must, though nobody signals again
    left = run_code(env, code)
    if left != cython.NULL and env.fault == 0:
        link_exit(env, scratch, left)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_one(env: cython.pointer(Env), scratch: cython.pointer(Scratch)) -> cython.void:
    """Execute a single instruction: TF, breakpoints, a store into its own block, an interrupt shadow."""
    stepping: cython.int = needs_single_step(env)
    trap: cython.int = (env.rflags & R_TF) != 0
    block: cython.pointer(Block)
    env.shadow = 0
    if stepping and before_instruction(env):
        return
    block = next_block(env, scratch, F_ONE_INSN)
    if block == cython.NULL:
        return
    env.one_insn = 1
    interpret(env, block)
    env.one_insn = 0
    if (stepping or env.exc_dr6) and env.fault == 0:
        after_instruction(env, trap)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take_events(env: cython.pointer(Env)) -> cython.int:
    """At an instruction boundary with env.interrupt set. Returns a halt reason or HALT_NONE."""
    startup: int32_t
    atomic_exchange32(cython.address(env.interrupt), 0)
    if atomic_exchange32(cython.address(env.tlb_flush_pending), 0):
        tlb_flush(env, 0)
    startup = atomic_exchange32(cython.address(env.startup_pending), 0)
    if startup & U_INIT:
        reset_cpu(env, 1)
        env.halted = 0
        env.wait_sipi = env.index != 0  # the boot processor starts at once (SDM volume 3, 9.1: MP initialization)
    if startup & U_SIPI and env.wait_sipi:
        env.wait_sipi = 0
        env.seg_selector[1] = (startup & U_VECTOR) << 8
        env.seg_base[1] = (startup & U_VECTOR) << 12
        env.rip = 0
        update_block_flags(env)
    if atomic_exchange32(cython.address(env.kick_pending), 0):
        return 1  # HALT_KICKED
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def linger(env: cython.pointer(Env), scratch: cython.pointer(Scratch)) -> cython.int:
    """The vCPU halted: 1 if an event came within the time that is worth waiting for one."""
    now: uint64_t = monotonic_ns()
    end: uint64_t
    index: cython.int
    if scratch.halted_at == 0:
        scratch.halted_at = now
    end = scratch.halted_at + scratch.poll_ns
    while now < end:
        for index in range(16):
            if atomic_load32(cython.cast(cython.pointer(uint32_t), cython.address(env.interrupt))):
                return 1
            relax()
        now = monotonic_ns()
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def adapt_wait(scratch: cython.pointer(Scratch)) -> cython.void:
    """The vCPU goes on: wait longer next time if that would have been enough, not at all if it was far from it."""
    slept: uint64_t = monotonic_ns() - scratch.halted_at
    scratch.halted_at = 0
    if slept > scratch.poll_limit:
        scratch.poll_ns = 0
    elif slept > scratch.poll_ns:
        scratch.poll_ns = min(max(POLL_START, scratch.poll_ns * 2), scratch.poll_limit)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_loop(env: cython.pointer(Env), scratch: cython.pointer(Scratch)) -> cython.int:
    """Run guest code until something that the caller must handle; returns a halt reason."""
    reason: cython.int
    while True:
        if env.interrupt:
            reason = take_events(env)
            if reason:
                return reason
        if env.wait_sipi:
            if env.interrupt == 0:
                return 3  # HALT_WAIT_SIPI
            continue
        if (env.irq_pending or env.nmi_pending) and not env.shadow:
            if service_events(env):
                env.halted = 0
        if env.fault == 0:
            if env.halted:
                if scratch.poll_limit and linger(env, scratch):
                    continue
                return 2  # HALT_HALTED
            if scratch.halted_at:
                adapt_wait(scratch)
            if needs_single_step(env) or (env.shadow and not can_skip_head(env)):
                run_one(env, scratch)
            else:
                env.stats[S_DISPATCHES] += 1
                run_next(env, scratch)
        if env.fault == 0:
            continue
        if env.fault == X_EXCEPTION:
            deliver_event(env)
        elif env.fault == X_ONE_INSN:
            env.fault = 0
            run_one(env, scratch)
        elif env.fault == X_RETRY:
            env.fault = 0
        elif env.fault == X_HALT:
            env.fault = 0
            env.halted = 1
            env.stats[S_HALTS] += 1
        elif env.fault == X_FLUSH:
            env.fault = 0
            return 6  # HALT_FLUSH
        elif env.fault == X_SHUTDOWN:
            return 4  # HALT_SHUTDOWN
        elif env.fault == X_HOST:
            env.fault = 0
            return 5  # HALT_HOST


@cython.cclass
class EngineVm:
    """Memory and vCPUs of one VM.

    regions: (start gpa, size, host address, is_rom) of guest memory, disjoint; the host memory
    must outlive this object (`memory` is kept for that). callbacks: one EngineCallbacks a vCPU.
    interpret: run uops by the reference interpreter instead of host code.
    Raises ValueError for more regions or vCPUs than the engine has room for, MemoryError.
    """

    def __init__(
        self, regions: list[tuple[int, int, int, bool]], callbacks: list[object], memory: object, interpret: bool = False
    ) -> None:
        index: cython.int
        self.memory = memory
        self.cpus = []
        self.vm = cython.cast(cython.pointer(Vm), calloc(1, cython.sizeof(Vm)))
        if self.vm == cython.NULL:
            raise MemoryError("no memory for the engine")
        if len(regions) > 8:
            raise ValueError(f"{len(regions)} memory regions; the engine has room for 8")
        if not 0 < len(callbacks) <= 256:
            raise ValueError(f"{len(callbacks)} vCPUs; the engine runs 1 to 256")
        for index, (start, size, host, rom) in enumerate(regions):
            self.vm.ram[index].start = start
            self.vm.ram[index].size = size
            self.vm.ram[index].host = cython.cast(
                cython.pointer(uint8_t), cython.cast(cython.p_void, cython.cast(uint64_t, host))
            )
            self.vm.ram[index].rom = rom
            self.vm.ram_top = max(self.vm.ram_top, cython.cast(uint64_t, start + size))
        self.vm.ram_count = len(regions)
        if not create_cache(self.vm):
            raise MemoryError("no memory for the code cache")
        if not interpret:
            if not create_emitter(self.vm, CODE_SIZE):
                raise MemoryError("no memory for host code")
            self.vm.unlink = cython.cast(cython.p_void, unlink_block)
        for index, callback in enumerate(callbacks):
            self.cpus.append(Cpu(self, index, callback))

    def __dealloc__(self) -> None:
        index: cython.int
        if self.vm != cython.NULL:
            if self.vm.emitter != cython.NULL:
                destroy_emitter(self.vm)
            destroy_cache(self.vm)
            for index in range(self.vm.cpu_count):
                munmap(self.vm.cpus[index], cython.sizeof(Env))
            free(self.vm)

    def code_written(self, gpa: int, size: int) -> None:
        """A device wrote guest memory: drop what was translated from it. Any thread."""
        start: uint64_t = gpa
        count: uint32_t = size
        # Nearly always there is no code. To let go of the GIL is to lose it to whoever waits for it.
        if count and holds_code(self.vm, start, count):
            with cython.nogil:
                code_written(self.vm, cython.NULL, start, count)

    def code_written_ranges(self, ranges: bytes) -> None:
        """The same of many places: address and size of each, as 64-bit words. Any thread."""
        words: cython.pointer(uint64_t) = cython.cast(
            cython.pointer(uint64_t), cython.cast(cython.p_void, cython.cast(cython.p_char, ranges))
        )
        pairs: cython.Py_ssize_t = len(ranges) // 16
        index: cython.Py_ssize_t
        start: uint64_t
        left: uint64_t
        count: uint32_t
        for index in range(pairs):
            start = words[2 * index]
            left = words[2 * index + 1]
            while left:
                count = cython.cast(uint32_t, min(left, LARGEST_WRITE))
                if holds_code(self.vm, start, count):
                    with cython.nogil:
                        code_written(self.vm, cython.NULL, start, count)
                start += count
                left -= count

    def code_used(self) -> int:
        """Bytes of host code, those of dropped blocks included. Any thread."""
        return code_used(self.vm) if self.vm.emitter != cython.NULL else 0

    def empty_cache(self) -> None:
        """Drop all translations. No vCPU of this VM may be inside `run`; devices may write memory."""
        with cython.nogil:
            lock_cache(self.vm)
            empty_cache(self.vm)
            if self.vm.emitter != cython.NULL:
                reset_emitter(self.vm)
            unlock_cache(self.vm)


@cython.cclass
class Cpu:
    """One vCPU. `run` belongs to one thread; the setters of pending events may be called by any."""

    def __cinit__(self, owner: EngineVm, index: int, callbacks: object) -> None:
        memory: cython.p_void = mmap(
            cython.NULL, cython.sizeof(Env), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
        )
        self.owner = owner
        self.index = index
        self.callbacks = callbacks
        if memory == cython.cast(cython.p_void, NO_PAGE):
            raise MemoryError("no memory for a vCPU")
        self.env = cython.cast(cython.pointer(Env), memory)
        self.scratch = cython.cast(cython.pointer(Scratch), calloc(1, cython.sizeof(Scratch)))
        if self.scratch == cython.NULL:
            raise MemoryError("no memory for a vCPU")
        owner.vm.cpus[index] = self.env
        owner.vm.cpu_count = index + 1
        self.env.vm = cython.cast(uint64_t, cython.cast(cython.p_void, owner.vm))
        self.env.callbacks = cython.cast(uint64_t, cython.cast(cython.p_void, callbacks))
        self.env.index = index
        if owner.vm.emitter != cython.NULL:
            prepare_env(owner.vm, self.env)
        memset(cython.address(self.env.jump_cache[0]), 255, (JUMP_MASK + 1) * 16)
        tlb_flush(self.env, 0)
        reset_cpu(self.env, 0)
        update_block_flags(self.env)

    def __dealloc__(self) -> None:
        free(self.scratch)

    def run(self) -> int:
        """Run guest code until a halt reason (HALT_*). Thread: this vCPU's own; the GIL is released."""
        reason: cython.int
        with cython.nogil:
            fpu_enter(self.env)
            reason = run_loop(self.env, self.scratch)
            fpu_leave(self.env)
        return reason

    def poll(self, limit_ns: int) -> None:
        """Let a halted vCPU wait inside `run` for what its last halts make likely to come, up to so long: it then goes
        on without a thread being woken. 0: never, as at first. Thread: any that is not in `run`."""
        self.scratch.poll_limit = limit_ns
        self.scratch.poll_ns = 0

    def run_blocks(self, stop: int, limit: int) -> int:
        """For tests: run blocks until RIP is `stop`; exceptions are not delivered. Returns env.fault."""
        env: cython.pointer(Env) = self.env
        end: uint64_t = stop
        left: cython.int = limit
        with cython.nogil:
            fpu_enter(env)
            while left > 0 and env.fault == 0 and env.rip != end:
                left -= 1
                atomic_exchange32(cython.address(env.interrupt), 0)
                run_next(env, self.scratch)
                if env.fault == X_ONE_INSN:
                    env.fault = 0
                    run_one(env, self.scratch)
            fpu_leave(env)
        return env.fault

    @property
    def state(self) -> memoryview:
        """The env as writable bytes, laid out by `engine.env`. Only while the vCPU is not running."""
        return PyMemoryView_FromMemory(cython.cast(cython.p_char, self.env), cython.sizeof(Env), PyBUF_WRITE)

    def fpu_image(self) -> bytes:
        """x87 and SSE state as an FXSAVE64 image."""
        image: uint8_t[512]
        memset(cython.address(image[0]), 0, 512)
        fxsave_image(self.env, cython.address(image[0]), 1, 16)
        return cython.address(image[0])[:512]

    def load_fpu_image(self, image: bytes) -> None:
        """Load an FXSAVE64 image. Raises ValueError if it is not 512 bytes."""
        if len(image) != 512:
            raise ValueError(f"an FXSAVE image has 512 bytes, not {len(image)}")
        data: cython.p_uchar = image
        fxrstor_image(self.env, data, 1, 16, 3)
        memcpy(cython.address(self.env.mxcsr), data + 24, 4)

    def address(self) -> int:
        """Host address of the env, for tools that read it while the vCPU runs."""
        return cython.cast(uint64_t, cython.cast(cython.p_void, self.env))

    def flags(self) -> int:
        """RFLAGS."""
        return read_rflags(self.env)

    def set_flags(self, value: int) -> None:
        write_rflags(self.env, value)

    def changed(self) -> None:
        """State was written from outside: recompute what depends on it and forget translations of addresses."""
        tlb_flush(self.env, 0)
        update_block_flags(self.env)

    def reset(self, init: bool) -> None:
        """State after RESET, or after INIT."""
        reset_cpu(self.env, 1 if init else 0)
        update_block_flags(self.env)

    # ------------------------------------------------------------------ events; any thread
    # First the event, then `interrupt`: the run loop clears `interrupt` before it looks for events.
    def interrupt_pending(self, pending: bool) -> None:
        atomic_exchange32(cython.address(self.env.irq_pending), 1 if pending else 0)
        if pending:
            atomic_exchange32(cython.address(self.env.interrupt), 1)

    def nmi(self) -> None:
        atomic_exchange32(cython.address(self.env.nmi_pending), 1)
        atomic_exchange32(cython.address(self.env.interrupt), 1)

    def init(self) -> None:
        """INIT. As `sipi`, not at the same time as another call of either."""
        atomic_exchange32(cython.address(self.env.startup_pending), U_INIT)
        atomic_exchange32(cython.address(self.env.interrupt), 1)

    def sipi(self, vector: int) -> None:
        """A start-up IPI; has no effect unless the vCPU waits for one, or has an INIT before it."""
        # If the vCPU takes the INIT between this load and the store it resets a second time: no harm.
        before: int32_t = self.env.startup_pending & U_INIT
        atomic_exchange32(cython.address(self.env.startup_pending), before | U_SIPI | (vector & U_VECTOR))
        atomic_exchange32(cython.address(self.env.interrupt), 1)

    def kick(self) -> None:
        atomic_exchange32(cython.address(self.env.kick_pending), 1)
        atomic_exchange32(cython.address(self.env.interrupt), 1)

    def has_work(self) -> bool:
        """Whether `run` would do anything but report that the vCPU waits."""
        env: cython.pointer(Env) = self.env
        if env.kick_pending or env.startup_pending & U_INIT:
            return True
        if env.wait_sipi:
            return env.startup_pending != 0
        if not env.halted:
            return True
        return bool(env.nmi_pending and not env.nmi_blocked) or bool(env.irq_pending and env.rflags & R_IF)
