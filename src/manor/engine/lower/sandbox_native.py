# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Run single uops as host code, without a machine around them. For tests and measurements only.

WHY NATIVE: it hands uops to the emitter, whose interface is native. SAFETY: memory pages that a test maps
must stay alive as long as the sandbox. Threads: one.
"""

import time

import cython
from cython.cimports.libc.stdint import uint8_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.manor.engine.cache_native import jump_slot
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.lower.arena_native import (
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
from cython.cimports.manor.engine.lower.passes_native import optimize
from cython.cimports.manor.engine.uop.uop import Uop
from cython.cimports.manor.engine.vm import Block, Exit, Vm

from manor.engine import env as _env
from manor.engine.uop.table import NUMBER

cython.declare(MAX_BLOCKS=cython.int, EXITS=cython.int, WORD=object)
MAX_BLOCKS = 65536
EXITS = 16  # of a block, both copies of a loop counted
WORD = (1 << 64) - 1


@cython.cfunc
def fill(uops, pc: uint64_t) -> cython.pointer(Uop):
    """Tuples as C records, to be freed by the caller."""
    count: cython.int = len(uops)
    u: cython.pointer(Uop) = cython.cast(cython.pointer(Uop), calloc(count + 1, cython.sizeof(Uop)))
    index: cython.int
    imm: uint64_t
    for index in range(count):
        name, d, a, b, value, *rest = uops[index]
        imm = value & WORD
        u[index].op = NUMBER[name]
        u[index].d = d
        u[index].a = a
        u[index].b = b
        u[index].imm = imm
        u[index].x = rest[0] if rest else 0
        u[index].insn = rest[1] if len(rest) > 1 else 0
        u[index].pc = pc + u[index].insn
    return u


@cython.cclass
class Sandbox:
    """One vCPU and an arena. A block is a list of tuples (name, d, a, b, imm[, helper or first exit[, insn]])."""

    def __cinit__(self, size: uint64_t = 1 << 26):
        self.vm = cython.cast(cython.pointer(Vm), calloc(1, cython.sizeof(Vm)))
        self.env = cython.cast(cython.pointer(Env), calloc(1, cython.sizeof(Env)))
        self.blocks = cython.cast(cython.pointer(Block), calloc(MAX_BLOCKS, cython.sizeof(Block)))
        self.exits = cython.cast(cython.pointer(Exit), calloc(MAX_BLOCKS * EXITS, cython.sizeof(Exit)))
        if self.vm == cython.NULL or self.env == cython.NULL or self.blocks == cython.NULL or self.exits == cython.NULL:
            raise MemoryError
        if not create_emitter(self.vm, size):
            raise MemoryError
        self.env.vm = cython.cast(uint64_t, self.vm)
        prepare_env(self.vm, self.env)
        memset(cython.address(self.env.jump_cache[0]), 255, _env.JUMP_CACHE_ENTRIES * 16)
        memset(cython.address(self.env.tlb[0]), 255, _env.MMU_MODES * _env.TLB_ENTRIES * _env.TLB_ENTRY_SIZE)

    def __dealloc__(self):
        if self.vm != cython.NULL:
            destroy_emitter(self.vm)
        free(self.vm)
        free(self.env)
        free(self.blocks)
        free(self.exits)

    # -------------------------------------------------------------- state
    def read(self, name: str, index: cython.int = 0) -> int:
        """A cell of env, by field name (64-bit fields and single 32-bit ones)."""
        field = next(f for f in _env.FIELDS if f.name == name)
        place = _env.OFFSETS[name]
        size = 8 if "64" in field.type else 4
        data: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), self.env)
        offset: cython.int = place + size * index
        return int.from_bytes(data[offset : offset + size], "little")

    def write(self, name: str, value: int, index: cython.int = 0) -> None:
        field = next(f for f in _env.FIELDS if f.name == name)
        size: cython.int = 8 if "64" in field.type else 4
        data: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), self.env)
        offset: cython.int = _env.OFFSETS[name] + size * index
        raw: bytes = (value & WORD).to_bytes(8, "little")
        source: cython.p_const_char = raw
        memcpy(data + offset, source, size)

    def address(self) -> int:
        """Of env."""
        return cython.cast(uint64_t, self.env)

    def map_page(self, gva: uint64_t, host: uint64_t, mode: cython.int = 0, writable: cython.bint = True) -> None:
        """Put a page into the TLB of a mode; unmapped pages take the slow paths."""
        entry: cython.pointer(uint64_t) = cython.address(
            self.env.tlb[(mode * _env.TLB_ENTRIES + (gva >> 12 & (_env.TLB_ENTRIES - 1))) * 4]
        )
        entry[0] = gva
        entry[1] = gva if writable else gva | 0x800
        entry[2] = host - gva
        entry[3] = 0

    def unmap_page(self, gva: uint64_t, mode: cython.int = 0) -> None:
        entry: cython.pointer(uint64_t) = cython.address(
            self.env.tlb[(mode * _env.TLB_ENTRIES + (gva >> 12 & (_env.TLB_ENTRIES - 1))) * 4]
        )
        entry[0] = entry[1] = cython.cast(uint64_t, -1)

    def cache_jump(self, number: cython.int) -> None:
        """Enter a block into the jump cache."""
        b: cython.pointer(Block) = self.blocks + number
        slot: uint64_t = jump_slot(b.pc) * 2
        self.env.jump_cache[slot] = b.pc ^ (cython.cast(uint64_t, b.flags) << _env.JUMP_KEY_SHIFT)
        self.env.jump_cache[slot + 1] = cython.cast(uint64_t, b.code)

    # -------------------------------------------------------------- blocks
    def block(self, uops, pc: uint64_t = 0x1000, flags: cython.uint = 0, exits=(0x1200, 0x1300),
              optimized: cython.bint = False, insns: cython.uint = 0, loops: cython.bint = False) -> int:  # fmt: skip
        """Emit a block; returns its number. RuntimeError with the emitter's result if it refuses.

        loops: its terminal's first exit leads to its own start, and its host code shall stay inside.
        """
        count: cython.int = len(uops)
        index: cython.int
        result: cython.int
        u: cython.pointer(Uop) = fill(uops, pc)
        b: cython.pointer(Block) = self.blocks + self.block_count
        try:
            if optimized:
                count = optimize(u, count)
            memset(b, 0, cython.sizeof(Block))
            b.pc = pc
            b.flags = flags
            b.valid = 1
            b.insn_count = insns if insns else u[count - 1].insn + 1
            b.exits = self.exits + self.block_count * EXITS
            memset(b.exits, 0, EXITS * cython.sizeof(Exit))
            b.exit_count = len(exits)
            b.loops = loops
            if len(exits) * (2 if loops else 1) > EXITS:
                raise ValueError(f"{len(exits)} exits")
            for index in range(len(exits) * (2 if loops else 1)):
                b.exits[index].block = b
                b.exits[index].pc = exits[index % len(exits)]
            result = emit_block(self.vm, b, u, count)
        finally:
            free(u)
        if result:
            raise RuntimeError(result)
        self.block_count += 1
        return self.block_count - 1

    def code(self, number: cython.int) -> bytes:
        """The host code of a block."""
        b: cython.pointer(Block) = self.blocks + number
        return b.code[: b.code_size]

    def exit_place(self, number: cython.int, slot: cython.int) -> int:
        """Address of the displacement of a block's exit jump."""
        return cython.cast(uint64_t, self.blocks[number].exits[slot].patch)

    def optimized(self, uops) -> list:
        """Names of the uops that the passes leave of a block."""
        count: cython.int = len(uops)
        u: cython.pointer(Uop) = fill(uops, 0x1000)
        count = optimize(u, count)
        names = {number: name for name, number in NUMBER.items()}
        result = [names[u[index].op] for index in range(count)]
        free(u)
        return result

    def run(self, number: cython.int) -> tuple:
        """Run from a block; returns (block that was left or None, exit, env.rip)."""
        b: cython.pointer(Block) = self.blocks + number
        left: cython.pointer(Exit)
        with cython.nogil:
            left = run_code(self.env, b.code)
        if left == cython.NULL:
            return None, 0, self.env.rip
        return left.block - self.blocks, (left - left.block.exits) % left.block.exit_count, self.env.rip

    def link(self, source: cython.int, slot: cython.int, target: cython.int) -> None:
        """Link exit `slot` of a block to another one."""
        link_block(self.vm, self.blocks[source].exits + slot, self.blocks + target)

    def unlink(self, number: cython.int) -> None:
        unlink_block(self.vm, self.blocks + number)

    def reset(self) -> None:
        """Drop all blocks."""
        reset_emitter(self.vm)
        self.block_count = 0

    def emit_time(self, uops, repeat: cython.int) -> float:
        """Seconds to optimise and emit the same block `repeat` times."""
        count: cython.int = len(uops)
        n: cython.int
        _index: cython.int
        number: cython.int = self.block(uops)
        b: cython.pointer(Block) = self.blocks + number
        u: cython.pointer(Uop) = fill(uops, b.pc)
        w: cython.pointer(Uop) = fill(uops, b.pc)
        start = time.perf_counter()
        with cython.nogil:
            for _index in range(repeat):
                memcpy(w, u, count * cython.sizeof(Uop))
                n = optimize(w, count)
                if emit_block(self.vm, b, w, n):
                    reset_emitter(self.vm)
        seconds = time.perf_counter() - start
        free(u)
        free(w)
        return seconds


def run_uops(sandbox: Sandbox, uops, registers) -> list:
    """Run uops that end in no terminal from the given virtual registers; returns them afterwards."""
    index: cython.int
    for index in range(_env.VREG_COUNT):
        sandbox.env.regs[index] = registers[index]
    number = sandbox.block([*uops, ("exit", 0, 0, 0, 0)])
    sandbox.run(number)
    return [sandbox.env.regs[index] for index in range(_env.VREG_COUNT)]
