"""The model-specific registers of the engine's CPU, as data.

An index that is not here, nor among those that `msr_native` handles itself (EFER, bases, TSC, the local
APIC's), raises #GP as on hardware. Source: SDM volume 4, chapter 2; volume 3, 12.11 (MTRRs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from manor.engine.env import OFFSETS

MSR_FIXED: Final = 0
"""Reads give `value`; a write raises #GP."""
MSR_IGNORED: Final = 1
"""Reads give `value`; writes are accepted and dropped."""
MSR_FIELD: Final = 2
"""A field of the env; bits outside `writable` may not be changed (#GP)."""
MSR_CANONICAL: Final = 3
"""A field that holds an address: #GP unless canonical."""
MSR_PAT: Final = 4
"""A field of eight memory types, each 0, 1, 4, 5, 6 or 7."""

U64: Final = (1 << 64) - 1
PHYSICAL_BITS: Final = 46
_FRAME: Final = ((1 << PHYSICAL_BITS) - 1) & ~0xFFF
VARIABLE_RANGES: Final = 8


@dataclass(frozen=True, slots=True)
class Msr:
    """One register. field: name in the env, element: which cell of it."""

    index: int
    name: str
    kind: int
    value: int = 0
    field: str = ""
    element: int = 0
    writable: int = U64

    @property
    def offset(self) -> int:
        """Byte offset of the field in the env; 0 if there is none."""
        return OFFSETS[self.field] + 8 * self.element if self.field else 0


_FIXED_RANGES: Final = (0x250, 0x258, 0x259, *range(0x268, 0x270))

TABLE: Final[tuple[Msr, ...]] = (
    Msr(0x17, "IA32_PLATFORM_ID", MSR_FIXED),
    Msr(0x3A, "IA32_FEATURE_CONTROL", MSR_FIXED, value=1),
    Msr(0x8B, "IA32_BIOS_SIGN_ID", MSR_IGNORED, value=1 << 32),
    # eight variable ranges (0-7), fixed ranges (8), write-combining (10)
    Msr(0xFE, "IA32_MTRRCAP", MSR_FIXED, value=VARIABLE_RANGES | 1 << 8 | 1 << 10),
    Msr(0x174, "IA32_SYSENTER_CS", MSR_FIELD, field="sysenter_cs", writable=0xFFFFFFFF),
    Msr(0x175, "IA32_SYSENTER_ESP", MSR_CANONICAL, field="sysenter_esp"),
    Msr(0x176, "IA32_SYSENTER_EIP", MSR_CANONICAL, field="sysenter_eip"),
    Msr(0x179, "IA32_MCG_CAP", MSR_FIXED),
    Msr(0x17A, "IA32_MCG_STATUS", MSR_IGNORED),
    Msr(0x1A0, "IA32_MISC_ENABLE", MSR_FIELD, field="misc_enable", writable=1),
    Msr(0x1D9, "IA32_DEBUGCTL", MSR_IGNORED),
    *(
        Msr(0x200 + 2 * i + half, f"IA32_MTRR_PHYS{'MASK' if half else 'BASE'}{i}", MSR_FIELD,
            field="mtrr_var", element=2 * i + half, writable=_FRAME | (0x800 if half else 0xFF))
        for i in range(VARIABLE_RANGES)
        for half in (0, 1)
    ),
    *(
        Msr(index, f"IA32_MTRR_FIX_{index:X}", MSR_FIELD, field="mtrr_fixed", element=i)
        for i, index in enumerate(_FIXED_RANGES)
    ),
    Msr(0x277, "IA32_PAT", MSR_PAT, field="pat"),
    Msr(0x2FF, "IA32_MTRR_DEF_TYPE", MSR_FIELD, field="mtrr_def_type", writable=0xCFF),
    Msr(0xC0000081, "IA32_STAR", MSR_FIELD, field="star"),
    Msr(0xC0000082, "IA32_LSTAR", MSR_CANONICAL, field="lstar"),
    Msr(0xC0000083, "IA32_CSTAR", MSR_CANONICAL, field="cstar"),
    Msr(0xC0000084, "IA32_FMASK", MSR_FIELD, field="sfmask", writable=0xFFFFFFFF),
    Msr(0xC0000102, "IA32_KERNEL_GS_BASE", MSR_CANONICAL, field="kernel_gs_base"),
    Msr(0xC0000103, "IA32_TSC_AUX", MSR_FIELD, field="tsc_aux", writable=0xFFFFFFFF),
)  # fmt: skip
