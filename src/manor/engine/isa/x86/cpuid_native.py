# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""CPUID: the table of `isa.x86.cpuid` in a C array, and what depends on the vCPU. Source: SDM volume 2, CPUID."""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.manor.engine.env import RAX, RBX, RCX, RDX, Env
from cython.cimports.manor.engine.host import U32_MAX
from cython.cimports.manor.engine.isa.x86.bits import CR4_OSXSAVE
from cython.cimports.manor.engine.isa.x86.descriptor_native import code64
from cython.cimports.manor.engine.vm import Vm

from manor.engine.isa.x86 import cpuid as _cpuid

_EXTENDED = cython.declare(uint32_t, 0x80000000)
_EXTENDED_FEATURES = cython.declare(uint32_t, 0x80000001)
_HYPERVISOR = cython.declare(uint32_t, 0x40000000)
_SIGNATURE = cython.declare(uint32_t, _cpuid.SIGNATURE)


def _install() -> None:
    global cpuid_count, cpuid_max_basic, cpuid_max_extended
    for number, row in enumerate(_cpuid.TABLE):
        cpuid_table[number].leaf = row.leaf
        cpuid_table[number].subleaf = max(row.subleaf, 0)
        cpuid_table[number].any_subleaf = row.subleaf == _cpuid.ANY_SUBLEAF
        cpuid_table[number].value[0] = row.eax
        cpuid_table[number].value[1] = row.ebx
        cpuid_table[number].value[2] = row.ecx
        cpuid_table[number].value[3] = row.edx
    cpuid_count = len(_cpuid.TABLE)
    cpuid_max_basic = _cpuid.MAX_BASIC
    cpuid_max_extended = _cpuid.MAX_EXTENDED


if len(_cpuid.TABLE) > 96:
    raise ValueError("the CPUID table is longer than its native array")
_install()


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cpuid_signature() -> uint32_t:
    """Family, model and stepping: EAX of leaf 1, and EDX after RESET."""
    return _SIGNATURE


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_cpuid(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    vm: cython.pointer[Vm] = cython.cast(cython.pointer[Vm], env.vm)
    leaf: uint32_t = cython.cast(uint32_t, env.regs[RAX] & U32_MAX)
    subleaf: uint32_t = cython.cast(uint32_t, env.regs[RCX] & U32_MAX)
    value: uint32_t[4]
    cpus: uint32_t = cython.cast(uint32_t, vm.cpu_count)
    width: uint32_t = 0
    i: uint32_t
    j: uint32_t
    while (1 << width) < cpus:
        width += 1
    # beyond the last leaf of a range: what the last basic leaf says
    if leaf > cpuid_max_extended or (leaf > cpuid_max_basic and leaf < _EXTENDED and leaf != _HYPERVISOR):
        leaf = cpuid_max_basic
    for j in range(4):
        value[j] = 0
    for i in range(cpuid_count):
        if cpuid_table[i].leaf == leaf and (cpuid_table[i].any_subleaf or cpuid_table[i].subleaf == subleaf):
            for j in range(4):
                value[j] = cpuid_table[i].value[j]
            break
    if leaf == 1:
        value[1] |= (env.index << 24) | (((1 << width) & 0xFF) << 16)
        if cpus > 1:
            value[3] |= 1 << 28
        if env.cr[4] & CR4_OSXSAVE:
            value[2] |= 1 << 27
    elif leaf == 4 and value[0] != 0:
        value[0] |= ((1 << (width if width < 6 else 6)) - 1) << 26
    elif leaf == 0xB:
        # level 0: one thread a core; level 1: the cores of the one package
        value[2] = subleaf & 0xFF
        value[3] = env.index
        if subleaf == 0:
            value[1] = 1
            value[2] |= 1 << 8
        elif subleaf == 1:
            value[0] = width
            value[1] = cpus
            value[2] |= 2 << 8
    elif leaf == _EXTENDED_FEATURES and not code64(env):
        value[3] &= ~(1 << 11)
    env.regs[RAX] = value[0]
    env.regs[RBX] = value[1]
    env.regs[RCX] = value[2]
    env.regs[RDX] = value[3]
    return 0


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "cpuid": cython.cast(uint64_t, cython.cast(cython.p_void, help_cpuid)),
    }
