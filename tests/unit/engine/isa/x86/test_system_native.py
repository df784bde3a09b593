"""System instructions: segments, far transfers, control registers, MSRs, CPUID, ports, system calls."""

from __future__ import annotations

import pytest

from manor.engine.isa.x86 import cpuid, msr, system_helpers
from manor.testing.cpu_bench import (
    CODE32,
    CS,
    DATA32,
    DS,
    FAULT_HALT,
    FS,
    GDT,
    GS,
    KERNEL_CS,
    KERNEL_DS,
    LDT,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    SS,
    STACK0,
    STACK3,
    TR,
    TSS,
    TSS_SELECTOR,
    USER_CS,
    USER_DS,
    CpuBench,
    descriptor,
)

ZF = 0x40


@pytest.fixture
def cpu() -> CpuBench:
    bench = CpuBench.make()
    bench.long_mode()
    return bench


@pytest.fixture
def legacy() -> CpuBench:
    bench = CpuBench.make()
    bench.protected()
    return bench


def test_every_helper_is_declared_and_there(cpu: CpuBench) -> None:
    assert {h.name for h in system_helpers.HELPERS} == set(cpu.helpers)


# ---------------------------------------------------------------------- segments
def test_segment_loads(legacy: CpuBench) -> None:
    legacy.do("load_segment", 0x58, imm=DS)
    assert (legacy.get("seg_base", DS), legacy.get("seg_limit", DS), legacy.reg(28 + DS)) == (0x1000, 0xFFF, 0x1000)
    legacy.do("load_segment", 0x60, imm=DS)
    assert legacy.exception() == (11, 0x60)
    legacy.do("load_segment", 0x78, imm=DS)
    assert legacy.exception() == (13, 0x78)
    legacy.do("load_segment", CODE32, imm=SS)
    assert legacy.exception() == (13, CODE32)
    legacy.do("load_segment", 0, imm=SS)
    assert legacy.exception() == (13, 0)
    legacy.do("load_segment", 0x53, imm=SS)
    assert legacy.exception() == (13, 0x50)
    legacy.do("load_segment", 0, imm=FS)
    assert legacy.get("seg_attributes", FS) == 0
    legacy.put(GDT + DATA32, descriptor(0, 0xFFFFF, 0x92, 0xC))
    legacy.do("load_segment", DATA32, imm=SS)
    assert legacy.take(GDT + DATA32 + 5, 1) == 0x93
    assert legacy.get("shadow") == 2
    assert legacy.exception() is None


def test_segment_check(legacy: CpuBench) -> None:
    legacy.do("load_segment", 0x58, imm=DS)
    assert legacy.get("block_flags") & 1 << 15
    legacy.do("segment_check", 0xFFC, 4, DS)
    assert legacy.exception() is None
    legacy.do("segment_check", 0xFFD, 4, DS)
    assert legacy.exception() == (13, 0)
    legacy.do("segment_check", 0, 0x10004, CS)
    assert legacy.exception() == (13, 0)
    legacy.do("load_segment", 0, imm=FS)
    legacy.do("segment_check", 0, 1, FS)
    assert legacy.exception() == (13, 0)
    # expand down: valid above the limit
    legacy.segment(SS, DATA32, 0, 0xFFF, 0x4097)
    legacy.do("segment_check", 0x1000, 4, SS)
    assert legacy.exception() is None
    legacy.do("segment_check", 0xFFF, 4, SS)
    assert legacy.exception() == (12, 0)


def test_segments_in_64_bit_mode(cpu: CpuBench) -> None:
    cpu.do("load_segment", 0, imm=SS)
    assert cpu.exception() is None
    cpu.do("load_segment", 0x58, imm=DS)
    assert cpu.reg(28 + DS) == 0
    cpu.do("load_segment", 0x58, imm=FS)
    assert cpu.reg(28 + FS) == 0x1000
    cpu.do("load_segment", 0, imm=FS)
    assert cpu.reg(28 + FS) == 0
    cpu.do("wrfsbase", 1, imm=8)
    assert cpu.exception() == (6, 0)
    cpu.set("cr", 0x106A0, 4)
    cpu.do("wrfsbase", 0xFFFF800000001234, imm=8)
    assert cpu.do("rdfsbase", imm=8) == 0xFFFF800000001234
    assert cpu.do("rdfsbase", imm=4) == 0x1234
    cpu.do("wrgsbase", 1 << 50, imm=8)
    assert cpu.exception() == (13, 0)
    cpu.set("kernel_gs_base", 0x77)
    cpu.do("wrgsbase", 0x55, imm=8)
    cpu.do("swapgs")
    assert (cpu.reg(28 + GS), cpu.get("kernel_gs_base")) == (0x77, 0x55)
    cpu.set_cpl(3)
    cpu.do("swapgs")
    assert cpu.exception() == (13, 0)


def test_descriptor_questions(cpu: CpuBench) -> None:
    assert cpu.do("lar", KERNEL_CS, 0x99, 4) == 0x00A09B00
    assert cpu.rflags() & ZF
    assert cpu.do("lsl", KERNEL_CS, 0x99, 8) == 0xFFFFFFFF
    assert cpu.do("lsl", TSS_SELECTOR, 0x99, 8) == 0x2067
    assert cpu.do("lar", KERNEL_CS, 0x12345678, 2) == 0x12349B00
    assert cpu.do("lar", 0x200, 0x99, 4) == 0x99
    assert not cpu.rflags() & ZF
    cpu.do("verw", KERNEL_DS)
    assert cpu.rflags() & ZF
    cpu.do("verw", KERNEL_CS)
    assert not cpu.rflags() & ZF
    cpu.do("verr", KERNEL_CS)
    assert cpu.rflags() & ZF
    cpu.set_cpl(3)
    cpu.do("verr", KERNEL_DS)
    assert not cpu.rflags() & ZF


def test_task_register_and_ldt(cpu: CpuBench) -> None:
    cpu.segment(TR, 0, 0, 0, 0)
    cpu.put(GDT + TSS_SELECTOR + 8, 0xFFFF8000)
    cpu.do("ltr", TSS_SELECTOR)
    assert cpu.get("seg_base", TR) == 0xFFFF800000000000 | TSS
    assert cpu.take(GDT + TSS_SELECTOR + 5, 1) == 0x8B
    cpu.do("ltr", TSS_SELECTOR)
    assert cpu.exception() == (13, TSS_SELECTOR)
    cpu.do("lldt", KERNEL_DS)
    assert cpu.exception() == (13, KERNEL_DS)
    cpu.do("lldt", 0)
    assert cpu.exception() is None
    assert cpu.do("str") == TSS_SELECTOR
    assert cpu.get("seg_selector", LDT) == 0
    cpu.set_cpl(3)
    cpu.do("ltr", TSS_SELECTOR)
    assert cpu.exception() == (13, 0)


def test_descriptor_table_registers(cpu: CpuBench) -> None:
    cpu.put(0x8000, 0x1234, 2)
    cpu.put(0x8002, 0xFFFF800000005678)
    cpu.do("lidt", 0x8000, imm=8)
    assert (cpu.get("idt_base"), cpu.get("idt_limit")) == (0xFFFF800000005678, 0x1234)
    cpu.do("sidt", 0x8100)
    assert (cpu.take(0x8100, 2), cpu.take(0x8102)) == (0x1234, 0xFFFF800000005678)
    cpu.put(0x8002, 1 << 50)
    cpu.do("lgdt", 0x8000, imm=8)
    assert cpu.exception() == (13, 0)
    assert cpu.get("gdt_base") == GDT


# ---------------------------------------------------------------------- transfers
def test_far_jump_from_32_to_64_bit_code(cpu: CpuBench) -> None:
    cpu.segment(CS, CODE32, 0, 0xFFFFFFFF, 0xC09B)
    cpu.update()
    cpu.do("far_jump", KERNEL_CS, 0x123456, 0x704)
    assert cpu.get("rip") == 0x123456
    assert cpu.get("block_flags") & 8
    cpu.do("far_jump", USER_CS, 0, 0x704)
    assert cpu.exception() == (13, USER_CS & ~3)
    cpu.do("far_jump", KERNEL_DS, 0, 0x704)
    assert cpu.exception() == (13, KERNEL_DS)


def test_far_call_and_return(cpu: CpuBench) -> None:
    cpu.do("far_call", CODE32, 0x1000, 0x708)
    assert (cpu.get("rip"), cpu.reg(RSP)) == (0x1000, STACK0 - 16)
    assert (cpu.take(STACK0 - 16), cpu.take(STACK0 - 8)) == (0x5007, KERNEL_CS)
    cpu.segment(CS, KERNEL_CS, 0, 0xFFFFFFFF, 0xA09B)
    cpu.do("far_return", imm=0x100108 | 8 << 16)
    assert (cpu.get("rip"), cpu.get("seg_selector", CS), cpu.reg(RSP)) == (0x5007, KERNEL_CS, STACK0 + 0x18)


def test_call_gate_copies_parameters(legacy: CpuBench) -> None:
    legacy.protected(3)
    legacy.put(GDT + 0x68, 0x6000 | CODE32 << 16 | 2 << 32 | 0xEC << 40)
    legacy.put(STACK3, 0xAAAA, 4)
    legacy.put(STACK3 + 4, 0xBBBB, 4)
    legacy.do("far_call", 0x68, 0, 0x704)
    assert legacy.exception() is None
    assert (legacy.get("rip"), legacy.get("cpl"), legacy.reg(RSP)) == (0x6000, 0, STACK0 - 24)
    assert [legacy.take(STACK0 - 24 + 4 * i, 4) for i in range(6)] == [0x5007, 0x4B, 0xAAAA, 0xBBBB, STACK3, 0x53]
    legacy.do("far_return", imm=4 | 8 << 16)
    assert legacy.exception() is None
    assert (legacy.get("rip"), legacy.get("cpl"), legacy.reg(RSP)) == (0x5007, 3, STACK3 + 8)


def test_syscall_and_sysret(cpu: CpuBench) -> None:
    cpu.set_cpl(3)
    cpu.set_rflags(0x8D7)
    cpu.set("star", 0x0010_0008 << 32)
    cpu.set("lstar", 0xFFFF800000001000)
    cpu.set("sfmask", 0x47700)
    cpu.do("syscall", imm=0x200)
    assert (cpu.get("rip"), cpu.get("cpl"), cpu.reg(RCX), cpu.reg(11)) == (0xFFFF800000001000, 0, 0x5002, 0x8D7)
    assert (cpu.get("seg_selector", CS), cpu.get("seg_selector", SS)) == (8, 16)
    assert cpu.get("block_flags") & 3 == 0
    cpu.do("sysret", imm=0x208)
    assert (cpu.get("rip"), cpu.get("cpl"), cpu.rflags()) == (0x5002, 3, 0x8D7)
    assert (cpu.get("seg_selector", CS), cpu.get("seg_selector", SS)) == (USER_CS, USER_DS)
    cpu.do("sysret", imm=0x208)
    assert cpu.exception() == (13, 0)
    cpu.set_cpl(0)
    cpu.set("regs", 1 << 60, RCX)
    cpu.do("sysret", imm=0x208)
    assert cpu.exception() == (13, 0)
    cpu.set("efer", 0xD00)
    cpu.do("syscall", imm=0x200)
    assert cpu.exception() == (6, 0)


def test_sysenter_and_sysexit(cpu: CpuBench) -> None:
    cpu.do("sysenter", imm=0x200)
    assert cpu.exception() == (13, 0)
    cpu.set("sysenter_cs", 8)
    cpu.set("sysenter_esp", 0x7770)
    cpu.set("sysenter_eip", 0xFFFF800000000100)
    cpu.set_cpl(3)
    cpu.set_rflags(0x202)
    cpu.do("sysenter", imm=0x200)
    assert (cpu.get("rip"), cpu.reg(RSP), cpu.get("cpl")) == (0xFFFF800000000100, 0x7770, 0)
    assert cpu.rflags() == 2
    cpu.set("regs", 0x1234, RCX)
    cpu.set("regs", 0x5678, RDX)
    cpu.do("sysexit", imm=0x208)
    assert (cpu.get("rip"), cpu.reg(RSP), cpu.get("cpl"), cpu.get("seg_selector", CS)) == (0x5678, 0x1234, 3, 43)


def test_syscall_trace(cpu: CpuBench) -> None:
    cpu.set("trace", 1)
    cpu.set("regs", 39, RAX)
    cpu.do("syscall", imm=0x200)
    assert cpu.callbacks.log[0][:2] == ("syscall", 39)


# ---------------------------------------------------------------------- control registers and modes
def test_entering_and_leaving_long_mode() -> None:
    cpu = CpuBench.make()
    cpu.protected()
    cpu.do("write_cr", 0x20, imm=4)
    cpu.set("regs", 0xC0000080, RCX)
    cpu.set("regs", 0x100, RAX)
    cpu.set("regs", 0, RDX)
    cpu.do("wrmsr")
    cpu.do("write_cr", 0x80000033, imm=0)
    assert cpu.exception() is None
    assert cpu.get("efer") == 0x500
    cpu.do("write_cr", 0, imm=4)
    assert cpu.exception() == (13, 0)
    cpu.do("wrmsr")
    assert cpu.exception() is None
    cpu.set("regs", 0, RAX)
    cpu.do("wrmsr")
    assert cpu.exception() == (13, 0)
    cpu.do("write_cr", 0x33, imm=0)
    assert cpu.get("efer") == 0x100


@pytest.mark.parametrize(
    ("number", "value"),
    [(0, 0x80000000), (0, 0x20000001), (0, 1 << 32 | 1), (3, 1 << 60), (4, 0x2020), (4, 0x20 | 1), (8, 16)],
)
def test_control_register_values_that_are_refused(cpu: CpuBench, number: int, value: int) -> None:
    cpu.do("write_cr", value, imm=number)
    assert cpu.exception() == (13, 0)


def test_control_register_access(cpu: CpuBench) -> None:
    cpu.do("write_cr", 9, imm=8)
    assert (cpu.callbacks.tpr, cpu.do("read_cr", imm=8)) == (9, 9)
    cpu.do("read_cr", imm=5)
    assert cpu.exception() == (6, 0)
    cpu.do("lmsw", 0x8)
    assert cpu.get("cr", 0) == 0x80010039
    assert cpu.get("block_flags") & 0x300 == 0x300
    cpu.do("clts")
    assert cpu.get("block_flags") & 0x300 == 0
    assert cpu.do("smsw") == 0x80010031
    cpu.set_cpl(3)
    for helper, imm in (("read_cr", 0), ("write_cr", 3), ("read_dr", 0), ("clts", 0), ("lmsw", 0), ("invlpg", 0),
                        ("hlt", 0), ("wbinvd", 0), ("invd", 0), ("rdmsr", 0), ("wrmsr", 0), ("cli", 0), ("sti", 0),
                        ("rdpmc", 0), ("lidt", 8)):  # fmt: skip
        cpu.do(helper, 0x8000, imm=imm)
        assert cpu.exception() == (13, 0), helper
    cpu.do("stac")
    assert cpu.exception() == (6, 0)


def test_xcr0(cpu: CpuBench) -> None:
    cpu.do("xgetbv")
    assert cpu.exception() == (6, 0)
    cpu.do("write_cr", 0x406A0, imm=4)
    cpu.set("regs", 3, RAX)
    cpu.set("regs", 0, RDX)
    cpu.do("xsetbv")
    cpu.set("regs", 0, RAX)
    cpu.do("xgetbv")
    assert cpu.reg(RAX) == 3
    cpu.set("regs", 7, RAX)
    cpu.do("xsetbv")
    assert cpu.exception() == (13, 0)


def test_flags_by_privilege(cpu: CpuBench) -> None:
    cpu.set_cpl(3)
    cpu.set_rflags(0x202)
    cpu.do("write_flags", 0x3000 | 0x244000, imm=8)
    assert cpu.rflags() == 0x244202
    assert cpu.get("block_flags") >> 13 & 1 == 0
    cpu.set_cpl(0)
    cpu.do("write_flags", 0x3000 | 0x100, imm=8)
    assert cpu.rflags() == 0x3102
    cpu.do("write_flags", 0xFFFF0000, imm=2)
    assert cpu.rflags() == 2
    cpu.do("write_cr", 0x2006A0, imm=4)
    cpu.do("stac")
    assert cpu.get("block_flags") >> 6 & 3 == 2
    cpu.do("clac")
    assert cpu.get("block_flags") >> 6 & 3 == 0


def test_hlt(cpu: CpuBench) -> None:
    cpu.do("hlt", imm=0x100)
    assert (cpu.get("fault"), cpu.get("rip"), cpu.get("halted")) == (FAULT_HALT, 0x5001, 1)


# ---------------------------------------------------------------------- ports
def test_ports_and_permission_bitmap(cpu: CpuBench) -> None:
    assert cpu.do("in_port", 0x3F8, imm=1) == 1
    cpu.do("out_port", 0x3F8, 0x12345, 1)
    assert cpu.callbacks.log == [("pio_read", 0x3F8, 1), ("pio_write", 0x3F8, 1, 0x45)]
    cpu.set_cpl(3)
    cpu.put(TSS + 102, 0x68, 2)
    cpu.put(TSS + 0x68 + 0x3F8 // 8, 0xFFFE, 2)
    cpu.do("in_port", 0x3F8, imm=1)
    assert cpu.exception() is None
    cpu.do("in_port", 0x3F8, imm=2)
    assert cpu.exception() == (13, 0)
    cpu.put(TSS + 102, 0x2060, 2)
    cpu.do("in_port", 0x3F8, imm=1)
    assert cpu.exception() == (13, 0)
    cpu.set_rflags(0x3002)
    cpu.do("in_port", 0x3F8, imm=1)
    assert cpu.exception() is None


def test_repeated_port_strings(cpu: CpuBench) -> None:
    cpu.set("regs", 0x1F0, RDX)
    cpu.set("regs", 3, RCX)
    cpu.set("regs", 0x8000, RDI)
    cpu.do("ins", imm=2 | 2 << 8 | 8 << 16 | 0xF3 << 24)
    assert (cpu.reg(RCX), cpu.reg(RDI), cpu.get("rip")) == (0, 0x8006, 0x5002)
    assert [cpu.take(0x8000 + 2 * i, 2) for i in range(3)] == [1, 2, 3]
    cpu.callbacks.log.clear()
    cpu.set("interrupt", 1)
    cpu.set("regs", 2, RCX)
    cpu.set("regs", 0x8000, RSI)
    cpu.do("outs", imm=2 | 2 << 8 | 8 << 16 | 0xF3 << 24 | DS << 32)
    assert (cpu.reg(RCX), cpu.reg(RSI), cpu.get("rip")) == (1, 0x8002, 0x5002)
    assert cpu.callbacks.log == [("pio_write", 0x1F0, 2, 1)]
    # a fault on the store leaves the port unread
    cpu.callbacks.log.clear()
    cpu.set("regs", 0x80000000000, RDI)
    cpu.do("ins", imm=2 | 2 << 8 | 8 << 16)
    assert cpu.exception() == (14, 2)
    assert cpu.callbacks.log == []


# ---------------------------------------------------------------------- MSRs and CPUID
def rdmsr(cpu: CpuBench, index: int) -> int:
    cpu.set("regs", index, RCX)
    cpu.do("rdmsr")
    return cpu.reg(RDX) << 32 | cpu.reg(RAX)


def wrmsr(cpu: CpuBench, index: int, value: int) -> tuple[int, int] | None:
    cpu.set("regs", index, RCX)
    cpu.set("regs", value & 0xFFFFFFFF, RAX)
    cpu.set("regs", value >> 32, RDX)
    cpu.do("wrmsr")
    return cpu.exception()


@pytest.mark.parametrize("entry", msr.TABLE, ids=lambda e: e.name)
def test_each_msr_of_the_table(cpu: CpuBench, entry: msr.Msr) -> None:
    before = rdmsr(cpu, entry.index)
    assert cpu.exception() is None
    if entry.kind in (msr.MSR_FIXED, msr.MSR_IGNORED):
        assert before == entry.value
        assert wrmsr(cpu, entry.index, before) == ((13, 0) if entry.kind == msr.MSR_FIXED else None)
    elif entry.kind == msr.MSR_CANONICAL:
        assert wrmsr(cpu, entry.index, 1 << 50) == (13, 0)
        assert wrmsr(cpu, entry.index, 0xFFFF800000000000) is None
        assert rdmsr(cpu, entry.index) == 0xFFFF800000000000
    elif entry.kind == msr.MSR_PAT:
        assert wrmsr(cpu, entry.index, 2) == (13, 0)
        assert wrmsr(cpu, entry.index, 0x0106) is None
    else:
        assert wrmsr(cpu, entry.index, before ^ entry.writable) is None
        assert rdmsr(cpu, entry.index) == before ^ entry.writable
        if entry.writable != msr.U64:
            assert wrmsr(cpu, entry.index, before ^ (entry.writable + 1 & ~entry.writable)) == (13, 0)


def test_msrs_with_behaviour(cpu: CpuBench) -> None:
    assert wrmsr(cpu, 0x12345, 0) == (13, 0)
    cpu.set("trace", 16)
    rdmsr(cpu, 0x12345)
    assert cpu.exception() == (13, 0)
    assert cpu.callbacks.log[-1][:2] == ("invalid_msr", 0x12345)
    assert rdmsr(cpu, 0x1B) == 0xFEE00900
    assert wrmsr(cpu, 0x802, 5) == (13, 0)
    assert wrmsr(cpu, 0xC0000101, 0x1234) is None
    assert cpu.reg(28 + GS) == 0x1234
    assert wrmsr(cpu, 0xC0000080, 0xD01 | 1 << 12) == (13, 0)
    assert wrmsr(cpu, 0x10, 1 << 40) is None
    assert 1 << 40 <= rdmsr(cpu, 0x10) < (1 << 40) + 10**10
    cpu.do("rdtscp")
    first = cpu.reg(RDX) << 32 | cpu.reg(RAX)
    cpu.do("rdtsc")
    assert cpu.reg(RDX) << 32 | cpu.reg(RAX) >= first
    cpu.set_cpl(3)
    cpu.set("cr", 0x6A4, 4)
    cpu.do("rdtsc")
    assert cpu.exception() == (13, 0)


def ask(cpu: CpuBench, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    cpu.set("regs", leaf, RAX)
    cpu.set("regs", subleaf, RCX)
    cpu.do("cpuid")
    return cpu.reg(RAX), cpu.reg(RBX), cpu.reg(RCX), cpu.reg(RDX)


def text(*words: int) -> str:
    return b"".join(w.to_bytes(4, "little") for w in words).rstrip(b"\0").decode()


def test_cpuid(cpu: CpuBench) -> None:
    a, b, c, d = ask(cpu, 0)
    assert (a, text(b, d, c)) == (0x16, "GenuineIntel")
    a, b, c, d = ask(cpu, 1)
    assert a == 0x30661
    assert not c & 1 << 27
    cpu.do("write_cr", 0x406A0, imm=4)
    assert ask(cpu, 1)[2] & 1 << 27
    assert text(*ask(cpu, 0x80000002), *ask(cpu, 0x80000003), *ask(cpu, 0x80000004)) == cpuid.BRAND
    assert ask(cpu, 0xB, 1)[1:3] == (1, 0x201)
    assert ask(cpu, 0xB, 2)[1:3] == (0, 2)
    a, b, c, d = ask(cpu, 0x15)
    assert c * b // a == 1_000_000_000
    assert ask(cpu, 0x80000001)[3] & 1 << 11
    assert ask(cpu, 0x1234) == ask(cpu, 0x16)
    assert ask(cpu, 3) == (0, 0, 0, 0)
    assert text(*ask(cpu, 0x40000000)[1:]) == "ManorManorMa"


def test_reset_and_init(cpu: CpuBench) -> None:
    cpu.set("pat", 0)
    offset = cpu.get("tsc_offset")
    cpu.reset(True)
    assert (cpu.get("rip"), cpu.get("seg_base", CS), cpu.get("cr", 0), cpu.get("efer")) == (0xFFF0, 0xFFFF0000, 0x10, 0)
    assert (cpu.get("pat"), cpu.get("tsc_offset"), cpu.reg(RDX)) == (0, offset, cpuid.SIGNATURE)
    assert cpu.rflags() == 2
    cpu.reset(False)
    assert (cpu.get("cr", 0), cpu.get("pat"), cpu.get("mxcsr")) == (0x60000010, 0x0007040600070406, 0x1F80)
    assert cpu.reg(RSP) == 0
