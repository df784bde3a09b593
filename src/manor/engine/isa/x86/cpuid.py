"""What CPUID says: x86-64-v2, as data.

The table states what the engine does and nothing more. What depends on the vCPU or its state (APIC ids,
core counts, OSXSAVE) is filled in by `cpuid_native`. Family 6 model 0x36 is an in-order core that Linux
knows to be free of speculation side channels, which is true of this engine: no mitigations are switched on.
Source: SDM volume 2, CPUID, tables 3-8 and 3-17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from manor.engine.isa.x86.msr import PHYSICAL_BITS

ANY_SUBLEAF: Final = -1
FAMILY, MODEL, STEPPING = 6, 0x36, 1
SIGNATURE: Final = (MODEL >> 4) << 16 | FAMILY << 8 | (MODEL & 15) << 4 | STEPPING
VENDOR: Final = "GenuineIntel"
BRAND: Final = "Manor x86-64-v2"
HYPERVISOR: Final = "ManorManorMa"
LINEAR_BITS: Final = 48
CRYSTAL_HZ: Final = 1_000_000_000
TSC_HZ: Final = 1_000_000_000
MAX_BASIC: Final = 0x16
MAX_EXTENDED: Final = 0x80000008

FEATURES_1_EDX: Final = {
    "fpu": 0, "de": 2, "pse": 3, "tsc": 4, "msr": 5, "pae": 6, "mce": 7, "cx8": 8, "apic": 9, "sep": 11,
    "mtrr": 12, "pge": 13, "mca": 14, "cmov": 15, "pat": 16, "pse36": 17, "clfsh": 19, "mmx": 23, "fxsr": 24,
    "sse": 25, "sse2": 26,
}  # fmt: skip
"""Bits of leaf 1 EDX that are set (HTT, bit 28, with more than one vCPU)."""
FEATURES_1_ECX: Final = {
    "sse3": 0, "ssse3": 9, "cx16": 13, "sse4_1": 19, "sse4_2": 20, "x2apic": 21, "popcnt": 23,
    "tsc_deadline": 24, "xsave": 26, "hypervisor": 31,
}  # fmt: skip
"""Bits of leaf 1 ECX that are set (OSXSAVE, bit 27, follows CR4)."""
FEATURES_7_EBX: Final = {"fsgsbase": 0, "smep": 7, "erms": 9, "zero_fcs_fds": 13, "smap": 20}
FEATURES_EXT_ECX: Final = {"lahf_lm": 0}
FEATURES_EXT_EDX: Final = {"syscall": 11, "nx": 20, "pdpe1gb": 26, "rdtscp": 27, "lm": 29}
"""SYSCALL reads as 0 outside 64-bit mode, as on Intel processors."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One row: what EAX and ECX ask for, what EAX, EBX, ECX, EDX answer. Rows that are absent answer zero."""

    leaf: int
    subleaf: int
    eax: int
    ebx: int
    ecx: int
    edx: int


def _bits(features: dict[str, int]) -> int:
    return sum(1 << bit for bit in features.values())


def _words(text: str, count: int) -> list[int]:
    """ASCII as little-endian 32-bit words."""
    data = text.encode("ascii").ljust(4 * count, b"\0")
    return [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(count)]


def _cache(kind: int, level: int, size: int, ways: int) -> tuple[int, int, int]:
    """EAX, EBX, ECX of leaf 4 for a cache of 64-byte lines; core and thread counts are filled in later."""
    sets = size // (64 * ways)
    return kind | level << 5 | 1 << 8, 63 | (ways - 1) << 22, sets - 1


def _table() -> tuple[Leaf, ...]:
    v = _words(VENDOR, 3)
    h = _words(HYPERVISOR, 3)
    brand = _words(BRAND, 12)
    return (
        Leaf(0, ANY_SUBLEAF, MAX_BASIC, v[0], v[2], v[1]),
        # EBX: CLFLUSH line of 8 quadwords
        Leaf(1, ANY_SUBLEAF, SIGNATURE, 8 << 8, _bits(FEATURES_1_ECX), _bits(FEATURES_1_EDX)),
        # 0xFF: "see leaf 4"
        Leaf(2, ANY_SUBLEAF, 0x00FF0001, 0, 0, 0),
        Leaf(4, 0, *_cache(1, 1, 32 << 10, 8), 0),
        Leaf(4, 1, *_cache(2, 1, 32 << 10, 8), 0),
        Leaf(4, 2, *_cache(3, 2, 1 << 20, 16), 0),
        # ARAT: the APIC timer never stops
        Leaf(6, ANY_SUBLEAF, 1 << 2, 0, 0, 0),
        Leaf(7, 0, 0, _bits(FEATURES_7_EBX), 0, 0),
        Leaf(0xB, 0, 0, 0, 0, 0),
        Leaf(0xB, 1, 0, 0, 0, 0),
        # XSAVE area of x87 and SSE: legacy region and header
        Leaf(0xD, 0, 3, 576, 576, 0),
        Leaf(0x15, ANY_SUBLEAF, 1, TSC_HZ // CRYSTAL_HZ, CRYSTAL_HZ, 0),
        Leaf(0x16, ANY_SUBLEAF, TSC_HZ // 1_000_000, TSC_HZ // 1_000_000, CRYSTAL_HZ // 1_000_000, 0),
        Leaf(0x40000000, ANY_SUBLEAF, 0x40000000, h[0], h[1], h[2]),
        Leaf(0x80000000, ANY_SUBLEAF, MAX_EXTENDED, 0, 0, 0),
        Leaf(0x80000001, ANY_SUBLEAF, 0, 0, _bits(FEATURES_EXT_ECX), _bits(FEATURES_EXT_EDX)),
        *(Leaf(0x80000002 + i, ANY_SUBLEAF, *brand[4 * i : 4 * i + 4]) for i in range(3)),
        # 1 MiB, 16 ways (code 8), 64-byte lines
        Leaf(0x80000006, ANY_SUBLEAF, 0, 0, 1024 << 16 | 8 << 12 | 64, 0),
        # invariant TSC
        Leaf(0x80000007, ANY_SUBLEAF, 0, 0, 0, 1 << 8),
        Leaf(0x80000008, ANY_SUBLEAF, PHYSICAL_BITS | LINEAR_BITS << 8, 0, 0, 0),
    )


TABLE: Final = _table()
