# Architectural bits that the native modules share. Source: SDM volume 3, 2.3 to 2.5, 4.5, 4.7, 6.3.
from libc.stdint cimport uint64_t, uint32_t

cdef extern from *:
    """
    #ifndef MANOR_X86_BITS_H
    #define MANOR_X86_BITS_H
    #include <stdint.h>
    #define MANOR_NX (UINT64_C(1) << 63)
    #define MANOR_PAGE_FRAME UINT64_C(0x000ffffffffff000)
    #define MANOR_CR0_PG (UINT64_C(1) << 31)
    #define MANOR_CANONICAL(a) (((int64_t)((uint64_t)(a) << 16) >> 16) == (int64_t)(a))
    #endif
    """
    const uint64_t PTE_NX "MANOR_NX"
    const uint64_t PAGE_FRAME "MANOR_PAGE_FRAME"
    const uint64_t CR0_PG "MANOR_CR0_PG"
    int canonical "MANOR_CANONICAL"(uint64_t a) noexcept nogil

cdef enum:
    PHYSICAL_BITS = 46

    CR0_PE = 1 << 0
    CR0_MP = 1 << 1
    CR0_EM = 1 << 2
    CR0_TS = 1 << 3
    CR0_ET = 1 << 4
    CR0_NE = 1 << 5
    CR0_WP = 1 << 16
    CR0_AM = 1 << 18
    CR0_NW = 1 << 29
    CR0_CD = 1 << 30

    CR4_VME = 1 << 0
    CR4_PVI = 1 << 1
    CR4_TSD = 1 << 2
    CR4_DE = 1 << 3
    CR4_PSE = 1 << 4
    CR4_PAE = 1 << 5
    CR4_MCE = 1 << 6
    CR4_PGE = 1 << 7
    CR4_PCE = 1 << 8
    CR4_OSFXSR = 1 << 9
    CR4_OSXMMEXCPT = 1 << 10
    CR4_FSGSBASE = 1 << 16
    CR4_OSXSAVE = 1 << 18
    CR4_SMEP = 1 << 20
    CR4_SMAP = 1 << 21

    EFER_SCE = 1 << 0
    EFER_LME = 1 << 8
    EFER_LMA = 1 << 10
    EFER_NXE = 1 << 11

    RF_CF = 1 << 0
    RF_ONE = 1 << 1
    RF_PF = 1 << 2
    RF_AF = 1 << 4
    RF_ZF = 1 << 6
    RF_SF = 1 << 7
    RF_TF = 1 << 8
    RF_IF = 1 << 9
    RF_DF = 1 << 10
    RF_OF = 1 << 11
    RF_IOPL = 3 << 12
    RF_NT = 1 << 14
    RF_RF = 1 << 16
    RF_VM = 1 << 17
    RF_AC = 1 << 18
    RF_VIF = 1 << 19
    RF_VIP = 1 << 20
    RF_ID = 1 << 21

    VEC_DE = 0
    VEC_DB = 1
    VEC_NMI = 2
    VEC_BP = 3
    VEC_OF = 4
    VEC_BR = 5
    VEC_UD = 6
    VEC_NM = 7
    VEC_DF = 8
    VEC_TS = 10
    VEC_NP = 11
    VEC_SS = 12
    VEC_GP = 13
    VEC_PF = 14
    VEC_MF = 16
    VEC_AC = 17
    VEC_MC = 18
    VEC_XM = 19

    SEG_ES = 0
    SEG_CS = 1
    SEG_SS = 2
    SEG_DS = 3
    SEG_FS = 4
    SEG_GS = 5
    SEG_LDT = 6
    SEG_TR = 7

    # segment attributes as in Env.seg_attributes
    ATTR_ACCESSED = 1
    ATTR_WRITABLE = 2       # data: writable; code: readable
    ATTR_EXPAND_DOWN = 4    # data: expand down; code: conforming
    ATTR_CODE = 8
    ATTR_S = 0x10
    ATTR_DPL_SHIFT = 5
    ATTR_PRESENT = 0x80
    ATTR_LONG = 0x2000
    ATTR_BIG = 0x4000
    ATTR_GRANULAR = 0x8000

    DR6_BS = 1 << 14
    DR6_BT = 1 << 15
    DR6_BD = 1 << 13
    # in Env.exc_dr6 only: the instruction that just ended takes no single-step trap
    NO_STEP = 1 << 16
