"""Delivery of exceptions and interrupts in every mode, and the way back by IRET."""

from __future__ import annotations

import pytest

from manor.testing.cpu_bench import (
    CODE32,
    CS,
    DATA32,
    DS,
    ES,
    FAULT_SHUTDOWN,
    FS,
    GDT,
    GS,
    IDT,
    IST1,
    KERNEL_CS,
    KERNEL_DS,
    RSP,
    SS,
    STACK0,
    STACK3,
    TR,
    TSS,
    USER_CS,
    USER_DS,
    CpuBench,
    descriptor,
)

HANDLER = 0xFFFF800000006000
IF, RF, TF, NT, VM = 0x200, 0x10000, 0x100, 0x4000, 0x20000


@pytest.fixture
def cpu() -> CpuBench:
    bench = CpuBench.make()
    bench.long_mode()
    bench.set_rflags(0x202)
    return bench


def frame(cpu: CpuBench, count: int, size: int = 8) -> list[int]:
    sp = cpu.reg(RSP)
    return [cpu.take(sp + size * i, size) for i in range(count)]


# ---------------------------------------------------------------------- 64-bit mode
def test_fault_from_user_switches_stacks(cpu: CpuBench) -> None:
    cpu.set_cpl(3)
    cpu.gate(14, HANDLER)
    cpu.raise_exception(14, 6)
    cpu.deliver()
    assert cpu.get("fault") == 0
    assert (cpu.get("rip"), cpu.get("cpl")) == (HANDLER, 0)
    assert cpu.reg(RSP) == STACK0 - 48
    assert frame(cpu, 6) == [6, 0x5000, USER_CS, 0x202 | RF, STACK3, USER_DS]
    assert cpu.get("seg_selector", SS) == 0
    assert cpu.get("seg_selector", CS) == KERNEL_CS
    assert cpu.rflags() & IF == 0
    cpu.set("regs", cpu.reg(RSP) + 8, RSP)
    cpu.do("iret", imm=0x208)
    assert (cpu.get("rip"), cpu.get("cpl"), cpu.reg(RSP)) == (0x5000, 3, STACK3)
    assert (cpu.get("seg_selector", CS), cpu.get("seg_selector", SS)) == (USER_CS, USER_DS)
    assert cpu.rflags() == 0x202


def test_trap_gate_keeps_interrupts_and_same_level_aligns_the_stack(cpu: CpuBench) -> None:
    cpu.set("regs", STACK0 - 3, RSP)
    cpu.gate(6, HANDLER, kind=15)
    cpu.raise_exception(6, 0)
    cpu.deliver()
    assert cpu.rflags() & IF
    assert cpu.reg(RSP) == STACK0 - 16 - 40
    assert frame(cpu, 5) == [0x5000, KERNEL_CS, 0x202 | RF, STACK0 - 3, KERNEL_DS]


def test_interrupt_stack_table(cpu: CpuBench) -> None:
    cpu.gate(32, HANDLER, ist=1)
    cpu.interrupt(32)
    assert cpu.reg(RSP) == IST1 - 40
    assert frame(cpu, 5)[2] == 0x202  # RF is not set for interrupts
    assert cpu.get("seg_selector", SS) == KERNEL_DS


def test_software_interrupt_checks_the_gate(cpu: CpuBench) -> None:
    cpu.gate(0x80, HANDLER, dpl=3)
    cpu.gate(0x81, HANDLER)
    cpu.set_cpl(3)
    cpu.do("int_n", 0x81, imm=0x200)
    assert cpu.exception() == (13, 0x81 * 8 + 2)
    cpu.do("int_n", 0x80, imm=0x200)
    assert cpu.get("rip") == HANDLER
    assert frame(cpu, 2) == [0x5002, USER_CS]


def test_gate_errors(cpu: CpuBench) -> None:
    cpu.gate(3, HANDLER)
    cpu.put(IDT + 48, cpu.take(IDT + 48) & ~(1 << 47))
    cpu.do("int3", imm=0x100)
    assert cpu.exception() == (11, 3 * 8 + 2)
    cpu.gate(3, HANDLER, selector=KERNEL_DS)
    cpu.do("int3", imm=0x100)
    assert cpu.exception() == (13, KERNEL_DS)
    cpu.gate(3, 1 << 60)
    cpu.do("int3", imm=0x100)
    assert cpu.exception() == (13, 0)
    cpu.set("idt_limit", 0x30)
    cpu.do("int3", imm=0x100)
    assert cpu.exception() == (13, 3 * 8 + 2)


def test_double_fault_and_shutdown(cpu: CpuBench) -> None:
    cpu.gate(8, HANDLER)
    cpu.raise_exception(13, 5)  # no gate 13: a second #GP
    cpu.deliver()
    assert cpu.get("rip") == HANDLER
    assert frame(cpu, 2) == [0, 0x5000]
    cpu.put(IDT + 8 * 16, 0)
    cpu.raise_exception(14, 0)
    cpu.deliver()
    assert cpu.get("fault") == FAULT_SHUTDOWN


def test_benign_fault_then_page_fault_is_serial(cpu: CpuBench) -> None:
    cpu.gate(14, HANDLER)
    cpu.gate(6, HANDLER + 0x1000, ist=1)
    cpu.put(TSS + 36, 0x7FFF00000000)  # not mapped
    cpu.raise_exception(6, 0)
    cpu.deliver()
    assert cpu.get("rip") == HANDLER
    assert cpu.get("cr", 2) == 0x7FFF00000000 - 8
    assert frame(cpu, 1) == [2]


def test_debug_exception_sets_dr6_and_clears_general_detect(cpu: CpuBench) -> None:
    cpu.gate(1, HANDLER)
    cpu.set("dr", 0x2400, 7)
    cpu.do("read_dr", imm=0)
    assert cpu.get("exc_vector") == 1
    cpu.deliver()
    assert cpu.get("dr", 6) == 0xFFFF0FF0 | 1 << 13
    assert cpu.get("dr", 7) == 0x400


def test_single_step(cpu: CpuBench) -> None:
    cpu.set_rflags(0x102)
    assert cpu.steps()
    assert not cpu.before()
    cpu.after(True)
    assert (cpu.exception(), cpu.get("exc_dr6")) == ((1, 0), 1 << 14)
    # INT n takes no trap of its own, MOV SS holds it off
    cpu.set("exc_dr6", 0)
    cpu.set("one_insn", 1)
    cpu.gate(0x80, HANDLER)
    cpu.do("int_n", 0x80, imm=0x200)
    cpu.after(True)
    assert cpu.exception() is None
    cpu.do("load_segment", KERNEL_DS, imm=SS)
    cpu.after(True)
    assert cpu.exception() is None


def test_instruction_breakpoint_and_resume_flag(cpu: CpuBench) -> None:
    cpu.do("write_dr", 0x5000, imm=1)
    cpu.do("write_dr", 0x404, imm=7)
    assert cpu.steps()
    assert cpu.before()
    assert (cpu.exception(), cpu.get("exc_dr6")) == ((1, 0), 2)
    cpu.set_rflags(0x2 | RF)
    assert not cpu.before()
    assert cpu.before()


def test_events_wait_for_flag_and_shadow(cpu: CpuBench) -> None:
    cpu.gate(0x31, HANDLER)
    cpu.gate(2, HANDLER + 0x100)
    cpu.callbacks.vector = 0x31
    cpu.set("irq_pending", 1)
    cpu.set_rflags(2)
    assert not cpu.service()
    cpu.do("sti")
    assert (cpu.get("shadow"), cpu.get("interrupt")) == (1, 1)
    assert not cpu.service()
    cpu.set("shadow", 0)
    assert cpu.service()
    assert cpu.get("rip") == HANDLER
    cpu.set("irq_pending", 0)
    cpu.set("nmi_pending", 1)
    assert cpu.service()
    assert (cpu.get("rip"), cpu.get("nmi_blocked")) == (HANDLER + 0x100, 1)
    cpu.set("nmi_pending", 1)
    assert not cpu.service()
    cpu.do("iret", imm=0x208)
    assert cpu.get("rip") == HANDLER
    assert cpu.service()


def test_interrupt_trace(cpu: CpuBench) -> None:
    cpu.set("trace", 2)
    cpu.gate(0x31, HANDLER)
    cpu.interrupt(0x31)
    assert cpu.callbacks.log == [("interrupt", 0x31, 0, 0x5000, 0)]


def test_iret_refuses(cpu: CpuBench) -> None:
    def attempt(rip: int, cs: int, flags: int, sp: int, ss: int) -> tuple[int, int] | None:
        for i, value in enumerate((rip, cs, flags, sp, ss)):
            cpu.put(STACK0 - 40 + 8 * i, value)
        cpu.set("regs", STACK0 - 40, RSP)
        cpu.set("rip", 0x5000)
        cpu.do("iret", imm=0x208)
        return cpu.exception()

    assert attempt(1, 0, 2, 0, 0) == (13, 0)
    assert attempt(1, 0x100, 2, 0, 0) == (13, 0x100)
    assert attempt(1, KERNEL_DS, 2, 0, 0) == (13, KERNEL_DS)
    assert attempt(1, USER_CS, 2, 0, 0) == (13, 0)
    assert attempt(1, USER_CS, 2, 0, KERNEL_DS) == (13, KERNEL_DS)
    assert attempt(1 << 60, USER_CS, 2, 0, USER_DS) == (13, 0)
    assert cpu.reg(RSP) == STACK0 - 40
    assert attempt(1, KERNEL_CS, 2, 0x1234, 0) is None
    assert cpu.reg(RSP) == 0x1234
    cpu.set_rflags(NT | 2)
    assert attempt(1, KERNEL_CS, 2, 0x1234, 0) == (13, 0)


def test_iret_flags_by_privilege(cpu: CpuBench) -> None:
    cpu.set_cpl(3)
    cpu.set("regs", STACK3 - 40, RSP)
    for i, value in enumerate((1, USER_CS, 0x3002 | 0x40CD5, STACK3, USER_DS)):
        cpu.put(STACK3 - 40 + 8 * i, value)
    cpu.do("iret", imm=0x208)
    assert cpu.exception() is None
    # IOPL and IF may not change at level 3
    assert cpu.rflags() == 0x202 | 0x40CD5


# ---------------------------------------------------------------------- protected mode
@pytest.fixture
def legacy() -> CpuBench:
    bench = CpuBench.make()
    bench.protected(3)
    bench.set_rflags(0x202)
    return bench


def test_protected_inner_level_and_back(legacy: CpuBench) -> None:
    legacy.gate32(13, 0x6000)
    legacy.raise_exception(13, 0x44)
    legacy.deliver()
    assert (legacy.get("rip"), legacy.get("cpl"), legacy.reg(RSP)) == (0x6000, 0, STACK0 - 24)
    assert frame(legacy, 6, 4) == [0x44, 0x5000, 0x4B, 0x202 | RF, STACK3, 0x53]
    assert legacy.get("seg_selector", SS) == DATA32
    legacy.do("load_segment", DATA32, imm=DS)
    legacy.set("regs", legacy.reg(RSP) + 4, RSP)
    legacy.do("iret", imm=0x104)
    assert (legacy.get("rip"), legacy.get("cpl"), legacy.reg(RSP)) == (0x5000, 3, STACK3)
    assert legacy.get("seg_selector", DS) == 0  # level 3 may not see it
    assert legacy.get("seg_selector", ES) == 0x53


def test_16_bit_gate(legacy: CpuBench) -> None:
    legacy.gate32(0x21, 0x6000, kind=7, dpl=3)
    legacy.do("int_n", 0x21, imm=0x200)
    assert frame(legacy, 5, 2) == [0x5002, 0x4B, 0x202, STACK3, 0x53]


def test_virtual_8086_and_back(legacy: CpuBench) -> None:
    legacy.protected(0)
    legacy.gate32(0x21, 0x6000, dpl=3)
    stack = [0x123, 0x2000, VM | 0x3202, 0xFFE, 0x3000, 0x111, 0x222, 0x333, 0x444]
    for i, value in enumerate(stack):
        legacy.put(STACK0 - 36 + 4 * i, value, 4)
    legacy.set("regs", STACK0 - 36, RSP)
    legacy.do("iret", imm=0x104)
    assert (legacy.get("cpl"), legacy.get("rip"), legacy.get("seg_base", CS)) == (3, 0x123, 0x20000)
    assert legacy.get("seg_base", GS) == 0x4440
    assert legacy.get("block_flags") & 1 << 16
    legacy.do("int_n", 0x21, imm=0x200)
    assert legacy.exception() is None
    assert (legacy.get("cpl"), legacy.reg(RSP)) == (0, STACK0 - 36)
    assert frame(legacy, 9, 4) == [0x125, 0x2000, VM | 0x3202, 0xFFE, 0x3000, 0x111, 0x222, 0x333, 0x444]
    assert [legacy.get("seg_selector", s) for s in (ES, DS, FS, GS)] == [0, 0, 0, 0]
    legacy.do("iret", imm=0x104)
    legacy.set_rflags(VM | 2)
    legacy.do("int_n", 0x21, imm=0x200)
    assert legacy.exception() == (13, 0)
    legacy.do("read_flags", imm=2)
    assert legacy.exception() == (13, 0)


def test_real_mode_vectors() -> None:
    cpu = CpuBench.make()
    cpu.put(0x21 * 4, 0x1234_5678, 4)
    cpu.segment(CS, 0x100, 0x1000, 0xFFFF, 0x9B)
    cpu.set("rip", 0x10)
    cpu.set("regs", 0xFFFF0100, RSP)
    cpu.set_rflags(0x202)
    cpu.do("int_n", 0x21, imm=0x200)
    assert (cpu.get("rip"), cpu.get("seg_base", CS)) == (0x5678, 0x12340)
    assert cpu.reg(RSP) == 0xFFFF00FA
    assert [cpu.take(0xFA + 2 * i, 2) for i in range(3)] == [0x12, 0x100, 0x202]
    assert cpu.rflags() == 2
    cpu.do("iret", imm=0x102)
    assert (cpu.get("rip"), cpu.get("seg_base", CS), cpu.reg(RSP)) == (0x12, 0x1000, 0xFFFF0100)
    assert cpu.rflags() == 0x202


def test_task_switch_there_and_back(legacy: CpuBench) -> None:
    legacy.protected(0)
    task = 0x3800
    legacy.put(GDT + 0x68, descriptor(task, 0x67, 0x89, 0))
    for offset, value in (
        (0x1C, 0), (0x20, 0x6100), (0x24, 2), (0x28, 0xAAAA), (0x38, 0x8000),
        (0x48, DATA32), (0x4C, CODE32), (0x50, DATA32), (0x54, DATA32), (0x58, 0), (0x5C, 0),
    ):  # fmt: skip
        legacy.put(task + offset, value, 4)
    legacy.put(IDT + 8 * 8, 0x68 << 16 | 0x85 << 40)
    legacy.raise_exception(8, 0)
    legacy.set("regs", 0x1111, 0)
    legacy.deliver()
    assert legacy.get("fault") == 0
    assert (legacy.get("rip"), legacy.reg(0), legacy.reg(RSP)) == (0x6100, 0xAAAA, 0x8000 - 4)
    assert legacy.get("seg_selector", TR) == 0x68
    assert legacy.rflags() & NT
    assert legacy.get("cr", 0) & 8
    assert (legacy.take(task, 2), legacy.take(TSS + 0x20, 4), legacy.take(TSS + 0x28, 4)) == (0x28, 0x5000, 0x1111)
    assert legacy.take(GDT + 0x68 + 5, 1) == 0x8B
    for i, offset in ((CS, 0x4C), (SS, 0x50)):
        assert legacy.take(TSS + offset, 2) == (CODE32 if i == CS else DATA32)
    legacy.do("iret", imm=0x104)
    assert legacy.exception() is None
    assert (legacy.get("rip"), legacy.reg(0), legacy.get("seg_selector", TR)) == (0x5000, 0x1111, 0x28)
    assert legacy.take(GDT + 0x68 + 5, 1) == 0x89
    assert legacy.rflags() & NT == 0


def test_bound_and_into(legacy: CpuBench) -> None:
    legacy.put(0x8800, 0xFFFFFFF0, 4)
    legacy.put(0x8804, 0x10, 4)
    legacy.do("bound", 0x8800, 0xFFFFFFF0, 4)
    assert legacy.exception() is None
    legacy.do("bound", 0x8800, 0x11, 4)
    assert legacy.exception() == (5, 0)
    legacy.gate32(4, 0x6000, dpl=3)
    legacy.do("into", imm=0x100)
    assert legacy.get("rip") == 0x5001
    legacy.set_rflags(0x802)
    legacy.do("into", imm=0x100)
    assert legacy.get("rip") == 0x6000
