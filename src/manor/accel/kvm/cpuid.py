"""What CPUID tells the guest: what KVM can offer, minus what is hidden on purpose, plus what describes this machine.

Source: SDM volume 2, "CPUID"; AMD64 APM volume 3, appendix E; x86-64 psABI 1.0, table 3.1 (levels v2 and v3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from manor.accel.kvm.cpuid_table import Leaf
from manor.base.errors import ConfigError
from manor.spec.machine import CpuModel

Register = Literal["eax", "ebx", "ecx", "edx"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature bit. index: of the leaf, 0 where it has none."""

    name: str
    function: int
    register: Register
    bit: int
    index: int = 0


def _features(function: int, register: Register, names: dict[int, str]) -> tuple[Feature, ...]:
    return tuple(Feature(name, function, register, bit) for bit, name in names.items())


HIDDEN: Final[dict[Feature, str]] = {
    Feature("vmx", 1, "ecx", 5): "a guest's own guests would need state that is not saved",
    Feature("svm", 0x8000_0001, "ecx", 2): "as vmx",
    Feature("monitor", 1, "ecx", 3): "MWAIT would keep a host's processor busy",
    Feature("pdcm", 1, "ecx", 15): "there are no performance counters",
    Feature("sgx", 7, "ebx", 2): "enclaves cannot be saved",
}
"""Feature -> why no guest sees it."""

_V2: Final = (
    *_features(1, "ecx", {0: "sse3", 9: "ssse3", 13: "cx16", 19: "sse4.1", 20: "sse4.2", 23: "popcnt"}),
    *_features(0x8000_0001, "ecx", {0: "lahf"}),
)
_V3: Final = (
    *_V2,
    *_features(1, "ecx", {12: "fma", 22: "movbe", 26: "xsave", 27: "osxsave", 28: "avx", 29: "f16c"}),
    *_features(7, "ebx", {3: "bmi1", 5: "avx2", 8: "bmi2"}),
    *_features(0x8000_0001, "ecx", {5: "lzcnt"}),
)
_SYSTEM: Final = (
    *_features(1, "ecx", {21: "x2apic", 24: "tsc-deadline", 31: "hypervisor", 17: "pcid", 30: "rdrand"}),
    *_features(7, "ebx", {0: "fsgsbase", 7: "smep", 20: "smap", 10: "invpcid", 9: "erms", 18: "rdseed"}),
    *_features(7, "ecx", {2: "umip"}),
    *_features(7, "edx", {26: "ibrs", 27: "stibp", 29: "arch-capabilities", 31: "ssbd"}),
)
"""What kernels want of a processor whatever programs may use."""
_LIMITED: Final[dict[str, tuple[Feature, ...]]] = {"x86-64-v2": (*_V2, *_SYSTEM), "x86-64-v3": (*_V3, *_SYSTEM)}
_LIMITED_REGISTERS: Final[tuple[tuple[int, Register], ...]] = (
    (1, "ecx"), (7, "ebx"), (7, "ecx"), (7, "edx"), (0x8000_0001, "ecx"),
)  # fmt: skip
_NEEDED: Final[dict[str, tuple[Feature, ...]]] = {
    "x86-64-v2": _V2,
    "x86-64-v3": tuple(feature for feature in _V3 if feature.name != "osxsave"),
}
"""OSXSAVE follows CR4; the processor does not offer it."""

_VERSION, _CACHES, _PERFORMANCE, _TOPOLOGY, _XSAVE, _TOPOLOGY2 = 1, 4, 0xA, 0xB, 0xD, 0x1F
_AMD_SIZES, _AMD_TOPOLOGY = 0x8000_0008, 0x8000_001E
_HYPERVISOR_BIT, _DEADLINE_BIT, _HTT_BIT = 31, 24, 28
_SSE_STATE, _AVX_STATE = 0x3, 0x7


def build(supported: Iterable[Leaf], model: CpuModel, index: int, cpus: int, has_deadline: bool) -> tuple[Leaf, ...]:
    """The table for vCPU `index` of `cpus`, whose APIC ID is its index.

    has_deadline: KVM's local APIC has the TSC-deadline timer (CPUID as KVM reports it does not say).
    Raises ConfigError for a model that this host cannot be.
    """
    leaves = list(supported)
    _check_model(model, leaves)
    return tuple(_describe(_limit(_hide(leaf), model), index, cpus, has_deadline) for leaf in leaves)


def has(leaves: Iterable[Leaf], feature: Feature) -> bool:
    """Whether a table shows `feature`."""
    return any(
        leaf.function == feature.function
        and (not leaf.is_indexed or leaf.index == feature.index)
        and getattr(leaf, feature.register) >> feature.bit & 1
        for leaf in leaves
    )


def _check_model(model: CpuModel, leaves: list[Leaf]) -> None:
    missing = [feature.name for feature in _NEEDED.get(model, ()) if not has(leaves, feature)]
    if missing:
        raise ConfigError("cpu", f"this host is no {model}: it lacks {', '.join(missing)}; give max")


def _hide(leaf: Leaf) -> Leaf:
    for feature in HIDDEN:
        if leaf.function == feature.function and leaf.index == feature.index:
            leaf = _with(leaf, feature.register, getattr(leaf, feature.register) & ~(1 << feature.bit))
    if leaf.function == _PERFORMANCE:
        return replace(leaf, eax=0, ebx=0, ecx=0, edx=0)
    return leaf


def _limit(leaf: Leaf, model: CpuModel) -> Leaf:
    """Of a model, only what its level has."""
    allowed = _LIMITED.get(model)
    if allowed is None:
        return leaf
    for function, register in _LIMITED_REGISTERS:
        if leaf.function == function and leaf.index == 0:
            mask = sum(1 << f.bit for f in allowed if (f.function, f.register) == (function, register))
            leaf = _with(leaf, register, getattr(leaf, register) & mask)
    if leaf.function == _XSAVE:
        states = _AVX_STATE if model == "x86-64-v3" else _SSE_STATE
        if leaf.index == 0:
            return replace(leaf, eax=leaf.eax & states, edx=0)
        if leaf.index > 1 and not states >> leaf.index & 1:
            return replace(leaf, eax=0, ebx=0, ecx=0, edx=0)
    return leaf


def _describe(leaf: Leaf, index: int, cpus: int, has_deadline: bool) -> Leaf:
    """This machine: APIC IDs, one socket with `cpus` cores of one thread."""
    bits = (cpus - 1).bit_length()
    match leaf.function:
        case 1:
            ebx = leaf.ebx & 0xFF00 | index << 24 | min(cpus, 255) << 16
            ecx = leaf.ecx | 1 << _HYPERVISOR_BIT
            ecx = ecx | 1 << _DEADLINE_BIT if has_deadline else ecx & ~(1 << _DEADLINE_BIT)
            edx = leaf.edx | 1 << _HTT_BIT if cpus > 1 else leaf.edx & ~(1 << _HTT_BIT)
            return replace(leaf, ebx=ebx & 0xFFFF_FFFF, ecx=ecx, edx=edx)
        case 4 if leaf.eax & 0x1F:
            # Bits 31:26 cores in the socket, 25:14 threads that share the cache: the last level is the socket's.
            shared = (1 << bits) - 1 if leaf.eax >> 5 & 7 >= 3 else 0
            return replace(leaf, eax=leaf.eax & 0x3FFF | shared << 14 | min((1 << bits) - 1, 63) << 26)
        case 0xB | 0x1F:
            level = {0: (0, 1, 1), 1: (bits, cpus, 2)}.get(leaf.index, (0, 0, 0))
            return replace(leaf, eax=level[0], ebx=level[1], ecx=leaf.index | level[2] << 8, edx=index)
        case 0x8000_0008:
            return replace(leaf, ecx=bits << 12 | cpus - 1)
        case 0x8000_001E:
            return replace(leaf, eax=index, ebx=index, ecx=0)
        case _:
            return leaf


def _with(leaf: Leaf, register: str, value: int) -> Leaf:
    match register:
        case "eax":
            return replace(leaf, eax=value)
        case "ebx":
            return replace(leaf, ebx=value)
        case "ecx":
            return replace(leaf, ecx=value)
        case _:
            return replace(leaf, edx=value)
