"""A vCPU of the engine without its translator: modes set up by hand, helpers called one by one.

For unit tests of page walks, exception delivery and system instructions. The memory map is fixed: page
tables from 0x10000, GDT at 0x1000, IDT at 0x2000, TSS at 0x3000, stacks below 0x8000 (ring 0) and 0x9000.
"""

from __future__ import annotations

import importlib
from typing import Final

from manor.engine.bench_native import Bench

GDT, IDT, TSS, STACK0, IST1, STACK3 = 0x1000, 0x2000, 0x3000, 0x7000, 0x7800, 0x9000
TABLES: Final = 0x10000
MEMORY: Final = 0x400000
KERNEL_CS, KERNEL_DS, USER_DS, USER_CS, TSS_SELECTOR, CODE32, DATA32 = 0x08, 0x10, 0x18 | 3, 0x20 | 3, 0x28, 0x38, 0x40
NATIVE: Final = (
    "exception_native", "segment_native", "transfer_native", "syscall_native", "control_native", "debug_native",
    "system_native", "io_native", "msr_native", "cpuid_native",
)  # fmt: skip
ES, CS, SS, DS, FS, GS, LDT, TR = range(8)
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
P, W, U, A, D, PS, G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
NX: Final = 1 << 63

FAULT_EXCEPTION, FAULT_ONE_INSN, FAULT_HALT, FAULT_SHUTDOWN, FAULT_HOST = 1, 3, 4, 5, 6


class Callbacks:
    """Records what the CPU asks of the machine; answers from attributes."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.error: BaseException | None = None
        self.value = 0
        self.vector: int | None = None
        self.tpr = 0
        self.fails: BaseException | None = None

    def mmio_read(self, gpa: int, size: int) -> int:
        if self.fails is not None:
            raise self.fails
        self.log.append(("mmio_read", gpa, size))
        return self.value & ((1 << 8 * size) - 1)

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        self.log.append(("mmio_write", gpa, size, value))

    def pio_read(self, port: int, size: int) -> int:
        self.log.append(("pio_read", port, size))
        self.value += 1
        return self.value & ((1 << 8 * size) - 1)

    def pio_write(self, port: int, size: int, value: int) -> None:
        self.log.append(("pio_write", port, size, value))

    def read_msr(self, index: int) -> int | None:
        return 0xFEE00900 if index == 0x1B else None

    def write_msr(self, index: int, value: int) -> bool:
        self.log.append(("write_msr", index, value))
        return index == 0x1B

    def get_tpr(self) -> int:
        return self.tpr

    def set_tpr(self, value: int) -> None:
        self.tpr = value

    def acknowledge(self) -> int | None:
        vector, self.vector = self.vector, None
        return vector

    def trace(self, kind: str, *values: int) -> None:
        self.log.append((kind, *values))


def descriptor(base: int, limit: int, access: int, flags: int) -> int:
    """Eight bytes of a segment descriptor; limit in units of its granularity, flags = bits 52-55."""
    return (
        (limit & 0xFFFF) | (base & 0xFFFFFF) << 16 | access << 40 | (limit >> 16 & 15) << 48 | flags << 52
        | (base >> 24 & 0xFF) << 56
    )  # fmt: skip


class CpuBench(Bench):
    """A vCPU over 4 MiB of RAM at 0; everything above is device space."""

    helpers: dict[str, int]

    @classmethod
    def make(cls) -> CpuBench:
        """A vCPU in the state after RESET."""
        memory = bytearray(MEMORY)
        bench = cls(memory, Callbacks())
        bench.ram = memory
        bench.helpers = {}
        for name in NATIVE:
            bench.helpers.update(importlib.import_module(f"manor.engine.isa.x86.{name}").addresses())
        return bench

    ram: bytearray

    # ------------------------------------------------------------------ physical memory
    def put(self, gpa: int, value: int, size: int = 8) -> None:
        self.ram[gpa : gpa + size] = value.to_bytes(size, "little")

    def take(self, gpa: int, size: int = 8) -> int:
        return int.from_bytes(self.ram[gpa : gpa + size], "little")

    # ------------------------------------------------------------------ state
    def segment(self, seg: int, selector: int, base: int, limit: int, attributes: int) -> None:
        self.set("seg_selector", selector, seg)
        self.set("seg_base", base, seg)
        self.set("seg_limit", limit, seg)
        self.set("seg_attributes", attributes, seg)

    def gate(
        self, vector: int, offset: int, kind: int = 14, dpl: int = 0, ist: int = 0, selector: int = KERNEL_CS
    ) -> None:
        """A 64-bit gate in the IDT."""
        access = 0x80 | dpl << 5 | kind
        low = (offset & 0xFFFF) | selector << 16 | ist << 32 | access << 40 | (offset >> 16 & 0xFFFF) << 48
        self.put(IDT + 16 * vector, low)
        self.put(IDT + 16 * vector + 8, offset >> 32)

    def gate32(self, vector: int, offset: int, kind: int = 14, dpl: int = 0, selector: int = CODE32) -> None:
        """A gate of protected mode."""
        self.put(
            IDT + 8 * vector,
            (offset & 0xFFFF) | selector << 16 | (0x80 | dpl << 5 | kind) << 40 | (offset >> 16) << 48,
        )

    def _tables(self) -> None:
        for selector, value in (
            (KERNEL_CS, descriptor(0, 0xFFFFF, 0x9B, 0xA)), (KERNEL_DS, descriptor(0, 0xFFFFF, 0x93, 0xC)),
            (USER_DS, descriptor(0, 0xFFFFF, 0xF3, 0xC)), (USER_CS, descriptor(0, 0xFFFFF, 0xFB, 0xA)),
            (TSS_SELECTOR, descriptor(TSS, 0x2067, 0x89, 0)), (CODE32, descriptor(0, 0xFFFFF, 0x9B, 0xC)),
            (DATA32, descriptor(0, 0xFFFFF, 0x93, 0xC)), (0x48, descriptor(0, 0xFFFFF, 0xFB, 0xC)),
            (0x50, descriptor(0, 0xFFFFF, 0xF3, 0xC)), (0x58, descriptor(0x1000, 0xFFF, 0x93, 0x4)),
            (0x60, descriptor(0, 0xFFFFF, 0x1B, 0xC)),
        ):  # fmt: skip
            self.put(GDT + (selector & ~7), value)
        self.put(GDT + TSS_SELECTOR + 8, 0)
        self.set("gdt_base", GDT)
        self.set("gdt_limit", 0x6F)
        self.set("idt_base", IDT)
        self.set("idt_limit", 0xFFF)
        self.segment(TR, TSS_SELECTOR, TSS, 0x2067, 0x8B)

    def long_mode(self, cpl: int = 0) -> None:
        """64-bit mode; the first 2 MiB identity-mapped for everyone, 2-4 MiB for the supervisor."""
        self._tables()
        self.put(TABLES, TABLES + 0x1000 | P | W | U)
        self.put(TABLES + 0x1000, TABLES + 0x2000 | P | W | U)
        self.put(TABLES + 0x2000, PS | P | W | U)
        self.put(TABLES + 0x2008, 0x200000 | PS | P | W)
        self.put(TSS + 4, STACK0)
        self.put(TSS + 36, IST1)
        self.set("cr", 0x80010033, 0)
        self.set("cr", TABLES, 3)
        self.set("cr", 0x6A0, 4)
        self.set("efer", 0xD01)
        self.set_cpl(cpl)

    def set_cpl(self, cpl: int) -> None:
        """Flat 64-bit segments of ring 0 or 3."""
        user = cpl == 3
        self.segment(CS, USER_CS if user else KERNEL_CS, 0, 0xFFFFFFFF, 0xA0FB if user else 0xA09B)
        for seg in (ES, SS, DS, FS, GS):
            self.segment(seg, USER_DS if user else KERNEL_DS, 0, 0xFFFFFFFF, 0xC0F3 if user else 0xC093)
        self.set("cpl", cpl)
        self.set("regs", STACK3 if user else STACK0, RSP)
        self.set("rip", 0x5000)
        self.update()

    def protected(self, cpl: int = 0) -> None:
        """Flat 32-bit protected mode without paging."""
        self._tables()
        self.put(GDT + TSS_SELECTOR, descriptor(TSS, 0x2067, 0x8B, 0))
        self.put(TSS + 4, STACK0, 4)
        self.put(TSS + 8, DATA32, 2)
        self.set("cr", 0x33, 0)
        self.set("efer", 0)
        user = cpl == 3
        self.segment(CS, 0x4B if user else CODE32, 0, 0xFFFFFFFF, 0xC0FB if user else 0xC09B)
        for seg in (ES, SS, DS, FS, GS):
            self.segment(seg, 0x53 if user else DATA32, 0, 0xFFFFFFFF, 0xC0F3 if user else 0xC093)
        self.set("cpl", cpl)
        self.set("regs", STACK3 if user else STACK0, RSP)
        self.set("rip", 0x5000)
        self.update()

    def reg(self, number: int) -> int:
        return self.get("regs", number)

    def do(self, helper: str, a: int = 0, b: int = 0, imm: int = 0) -> int:
        """Call a helper by name."""
        return self.call(self.helpers[helper], a, b, imm)

    def exception(self) -> tuple[int, int] | None:
        """Vector and error code of the pending exception, which is dropped; None without one."""
        fault = self.get("fault")
        if fault == 0:
            return None
        self.set("fault", 0)
        if fault != FAULT_EXCEPTION:
            return (-fault, 0)
        return (self.get("exc_vector"), self.get("exc_error"))
