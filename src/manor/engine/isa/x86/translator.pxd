# The decoder and translator: guest bytes to uops.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t, int8_t, int16_t
from manor.engine.env cimport Env
from manor.engine.vm cimport Vm, Block
from manor.engine.uop.uop cimport Uop

cdef enum TranslateConstant:
    MAX_INSNS = 48
    MAX_UOPS = 1024
    MAX_EXITS = 5
    INSN_UOPS = 64         # no guest instruction needs more

cdef packed struct Entry:
    uint8_t imm_kind
    uint8_t flags
    uint16_t pad
    uint16_t templates[18]
    uint32_t pad2

cdef packed struct Template:
    uint32_t start
    uint16_t count
    uint16_t access        # bytes at the effective address; bit 15: written

cdef packed struct Item:
    uint16_t op
    uint16_t x
    uint8_t d
    uint8_t a
    uint8_t b
    uint8_t imm_code
    uint8_t shift
    uint8_t pad
    uint16_t pad2
    uint32_t pad3
    int64_t constant

cdef packed struct HelperInfo:
    uint64_t reads
    uint64_t writes
    uint32_t flags
    uint32_t pad

cdef struct Translator:
    Env *env
    Uop *out
    int32_t count
    int32_t insn_count
    uint64_t exit_pc[MAX_EXITS]
    int32_t exit_count
    int32_t first_exit     # number of the current instruction's first exit
    int32_t loops          # the last instruction may jump back to the block's start
    uint32_t flags
    int32_t mode64
    int32_t cc             # CC_OP if known, else CC_DYNAMIC
    int32_t ended
    uint64_t pc            # of the current instruction
    uint64_t next
    # the current instruction
    const uint8_t *code
    int32_t available
    int32_t position
    int32_t overrun
    int32_t rex
    int32_t prefix         # prefix class
    int32_t repeat         # 0, 0xF2, 0xF3
    int32_t opsize
    int32_t address_size   # bytes
    int32_t lock
    int32_t segment        # override or -1
    int32_t map
    int32_t opcode
    int32_t modrm
    int32_t mod
    int32_t reg            # with REX.R
    int32_t rm             # with REX.B
    int32_t sib
    int64_t displacement
    int64_t imm
    int64_t imm2
    int32_t ea_base        # vreg
    int64_t ea_disp
    int32_t data_segment
