"""Page walks against unicorn: random table entries, supervisor accesses, fault or value."""

from __future__ import annotations

import random

import pytest
import unicorn
from unicorn import x86_const as x86

from manor.engine.env import MMU_SUPERVISOR
from manor.testing.cpu_bench import NX, PS, TABLES, CpuBench, P, U, W

AREA = 0x40000000
PT = TABLES + 0x5000
LEVELS = ((TABLES + 0x1008, TABLES + 0x4000), (TABLES + 0x4000, PT), (PT, 0x100000))
CR0_PG_WP, CR4 = 0x80010033, 0x2006A0


def entry(rng: random.Random, target: int, leaf: bool) -> int:
    value = target | P | W | U
    for bit in (P, W, U):
        if rng.random() < 0.12:
            value &= ~bit
    if rng.random() < 0.1:
        value |= NX
    if not leaf and rng.random() < 0.15:
        # the large page covers the same bytes at 1 GiB or 2 MiB granularity, when its frame is aligned
        value = (value & 0xFFF) | PS
    return value


def unicorn_access(ram: bytes, write: bool, cr0: int, cr4: int, smap_open: bool) -> int | None:
    """The byte read (or 0x5A written and read back); None after a page fault."""
    u = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    u.ctl_set_cpu_model(x86.UC_CPU_X86_SKYLAKE_CLIENT)  # a model with SMAP
    u.mem_map(0, len(ram))
    u.mem_write(0, ram)
    u.mem_write(0x5000, b"\x88\x07" if write else b"\x8a\x07")  # mov [rdi],al / mov al,[rdi]
    u.reg_write(x86.UC_X86_REG_MSR, (0xC0000080, 0xD01))
    u.reg_write(x86.UC_X86_REG_CR3, TABLES)
    u.reg_write(x86.UC_X86_REG_CR4, cr4)
    u.reg_write(x86.UC_X86_REG_CR0, cr0)
    u.reg_write(x86.UC_X86_REG_RFLAGS, 0x40002 if smap_open else 2)
    u.reg_write(x86.UC_X86_REG_RDI, AREA + 8)
    u.reg_write(x86.UC_X86_REG_RAX, 0x5A)
    try:
        u.emu_start(0x5000, 0x5002, count=1)
    except unicorn.UcError:
        return None
    return int(u.reg_read(x86.UC_X86_REG_RAX)) & 0xFF


@pytest.mark.parametrize("seed", range(60))
def test_same_outcome(seed: int) -> None:
    rng = random.Random(seed)
    cpu = CpuBench.make()
    cpu.long_mode()
    for i, (place, target) in enumerate(LEVELS):
        cpu.put(place, entry(rng, target, i == 2))
    # the code page is identity-mapped for the supervisor
    cpu.put(TABLES + 0x2000, PS | P | W)
    cpu.put(0x100008, 0x11, 1)
    cpu.put(8, 0x22, 1)
    cr0 = rng.choice((CR0_PG_WP, 0x80000033))
    cr4 = rng.choice((0x6A0, CR4))
    smap_open = rng.random() < 0.5
    write = rng.random() < 0.5
    expected = unicorn_access(bytes(cpu.ram), write, cr0, cr4, smap_open)
    cpu.set("cr", cr0, 0)
    cpu.set("cr", cr4, 4)
    cpu.set_rflags(0x40002 if smap_open else 2)
    cpu.update()
    mode = cpu.get("block_flags") >> 6 & 3
    assert mode == (2 if smap_open and cr4 == CR4 else MMU_SUPERVISOR)
    if write:
        cpu.store(AREA + 8, 0x5A, 1, mode)
        got = 0x5A
    else:
        got = cpu.load(AREA + 8, 1, mode)
    fault = cpu.exception()
    assert fault is None or fault[0] == 14
    assert (None if fault else got) == expected, (
        fault, [hex(cpu.take(place)) for place, _ in LEVELS], hex(cr0), hex(cr4), smap_open, write
    )
