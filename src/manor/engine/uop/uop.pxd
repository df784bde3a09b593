# One uop as the translator writes it and the interpreter and the stencil emitter read it.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t

cdef enum BranchPlace:
    SIDE_EXIT = 1          # d of a branch inside a block: if it is not taken, the next uop follows

cdef struct Uop:
    uint16_t op        # number in uop.table.OPS
    uint16_t x         # of a helper: its number; of a memory access: ACCESS_*; of a branch or jump: its first exit
    uint8_t d
    uint8_t a
    uint8_t b
    uint8_t insn       # index of the guest instruction in its block
    int64_t imm
    uint64_t pc        # guest address of the instruction
