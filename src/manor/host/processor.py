"""The processor: what programs may use of it, its virtualization, and whether it is a real one."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from manor.host.finding import Fact, Finding
from manor.host.host import Host

LEVELS: Final[tuple[frozenset[str], ...]] = (
    frozenset({"lm", "cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"}),
    frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)
"""What each level adds to the one before, from v1 on, by Linux's names (pni is SSE3, abm is LZCNT). Linux shows no
OSXSAVE: it switches it on where it shows xsave. Source: x86-64 psABI 1.0, table 3.1."""
ENGINE_LEVEL: Final = 2
"""The engine and the code that it generates are built for x86-64-v2."""
_EXTRAS: Final = ("aes", "pclmulqdq", "sha_ni", "vaes", "gfni", "rdrand", "rdseed", "fsgsbase", "erms", "pcid")
"""What guests gain from beyond the levels."""


def flags(host: Host) -> frozenset[str]:
    """Features of the first processor, by Linux's names."""
    return frozenset(_field(host, "flags").split())


def level(features: Set[str]) -> int:
    """The highest level 1 to 4 that `features` reach; 0 below the first."""
    reached = 0
    for needed in LEVELS:
        if not needed <= features:
            break
        reached += 1
    return reached


def check_system(host: Host) -> Finding:
    """Linux on x86-64 is all that Manor knows."""
    facts = {"system": host.system, "release": host.release, "machine": host.machine}
    text = f"{host.system} {host.release} on {host.machine}"
    if host.system != "Linux" or host.machine != "x86_64":
        return Finding("system", "problem", text, "Use a host with Linux on an x86-64 processor.", facts)
    return Finding("system", "ok", text, facts=facts)


def check_cpu(host: Host) -> Finding:
    features = flags(host)
    model = " ".join(_field(host, "model name").split()) or "a processor without a name"
    reached = level(features)
    extras = [name for name in _EXTRAS if name in features]
    lacks = sorted(LEVELS[reached] - features) if reached < len(LEVELS) else []
    facts: dict[str, Fact] = {"model": model, "level": reached, "lacks": list(lacks), "extras": list(extras)}
    if not features:
        facts |= {"level": None, "lacks": []}
        return Finding("cpu", "note", "/proc/cpuinfo does not tell the processor's features", facts=facts)
    text = f"{model}: x86-64-v{reached}" if reached else f"{model}: below x86-64-v1"
    if lacks:
        text += f" (to v{reached + 1} it lacks {', '.join(lacks)})"
    if extras:
        text += f", with {', '.join(extras)}"
    if reached < ENGINE_LEVEL:
        fix = f"Use a processor of level x86-64-v{ENGINE_LEVEL}: the engine needs it. KVM does not."
        return Finding("cpu", "missing", text, fix, facts)
    return Finding("cpu", "ok", text, facts=facts)


def check_virtualization(host: Host) -> Finding:
    features = flags(host)
    # Source: SDM volume 3, "Discovering Support for VMX"; AMD64 APM volume 2, 15.4.
    found = {"vmx": "VT-x", "svm": "AMD-V"}
    for flag, name in found.items():
        if flag in features:
            return Finding("virtualization", "ok", f"the processor has {name}", facts={"name": name})
    fix = (
        "Enable nested virtualization for this virtual machine on its host, if you need kvm."
        if is_nested(host)
        else "Enable VT-x, or AMD-V (SVM), in the firmware."
    )
    return Finding("virtualization", "missing", "the processor shows neither VT-x nor AMD-V", fix, {"name": None})


def check_nested(host: Host) -> Finding:
    if not is_nested(host):
        return Finding("nested", "ok", "this host is no virtual machine", facts={"is_nested": False, "below": None})
    maker = [host.read(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    below = " ".join(filter(None, maker)) or host.read("/sys/hypervisor/type") or None
    text = "this host is itself a virtual machine" + (f" ({below})" if below else "") + ": guests are nested in it"
    return Finding("nested", "note", text, facts={"is_nested": True, "below": below})


def is_nested(host: Host) -> bool:
    """Whether a hypervisor runs below this host. Source: SDM volume 2, CPUID leaf 1, ECX bit 31."""
    return "hypervisor" in flags(host)


def _field(host: Host, name: str) -> str:
    for line in (host.read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
