"""Run a few instructions on the engine, with the state set and read from outside: for tests."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from manor.engine.env import FAULT_EXCEPTION, FAULT_HALT, OFFSETS
from manor.engine.load import create_engine

PAGE: Final = 4096
MEMORY_SIZE: Final = 64 << 20
PAGE_TABLES: Final = 0x1000
FIRST_DATA_PAGE: Final = 0x100000
TABLES: Final = 0xFFFF_8000_0000_0000
IDT_VECTORS: Final = 0x30
TSS, HANDLER = 0x480, 0x500


class NullCallbacks:
    """A machine with nothing in it."""

    error: BaseException | None = None

    def mmio_read(self, gpa: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def mmio_write(self, gpa: int, size: int, value: int) -> None: ...
    def pio_read(self, port: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def pio_write(self, port: int, size: int, value: int) -> None: ...
    def acknowledge(self) -> int | None:
        return None

    def read_msr(self, index: int) -> int | None:
        return None

    def write_msr(self, index: int, value: int) -> bool:
        return False

    def get_tpr(self) -> int:
        return 0

    def set_tpr(self, value: int) -> None: ...
    def trace(self, kind: str, *values: int) -> None: ...


@dataclass(slots=True)
class Outcome:
    """How a run ended: exception vector and error code, or None after all instructions ran."""

    vector: int | None = None
    error: int | None = None


class MicroVm:
    """One vCPU in 64-bit mode with its own page tables, for user-mode code.

    map() gives pages; run() executes a number of instructions at a time.
    """

    def __init__(self, interpret: bool = False) -> None:
        self.memory = mmap.mmap(-1, MEMORY_SIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.engine = create_engine([(0, MEMORY_SIZE, address, False)], [NullCallbacks()], self.memory, interpret)
        self.cpu = self.engine.cpus[0]
        self._next_table = PAGE_TABLES + PAGE
        self._next_page = FIRST_DATA_PAGE
        self.pages: dict[int, int] = {}
        self._make_tables()
        self.enter_long_mode()

    def _make_tables(self) -> None:
        """GDT with the selectors of 64-bit Linux, IDT that lets ring 3 use INT3 and INTO only."""
        gpa = self.map(TABLES, user=False)
        gdt = (0, 0x00CF9B000000FFFF, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF,
               0x00CFF3000000FFFF, 0x00AFFB000000FFFF)  # fmt: skip
        struct.pack_into(f"<{len(gdt)}Q", self.memory, gpa, *gdt)
        for vector in range(IDT_VECTORS):
            attributes = 0xEE if vector in (3, 4) else 0x8E
            handler = TABLES + HANDLER + vector
            struct.pack_into(
                "<HHBBHII", self.memory, gpa + 0x100 + vector * 16,
                handler & 0xFFFF, 0x10, 0, attributes, handler >> 16 & 0xFFFF, handler >> 32, 0,
            )  # fmt: skip
        self.memory[gpa + HANDLER : gpa + HANDLER + IDT_VECTORS] = b"\xf4" * IDT_VECTORS
        struct.pack_into("<Q", self.memory, gpa + TSS + 4, TABLES + PAGE)
        struct.pack_into("<H", self.memory, gpa + TSS + 0x66, 0x68)  # no I/O permission bitmap
        self.set("seg_base", TABLES + TSS, 7)
        self.set("seg_limit", 0x67, 7, "I")
        self.set("seg_attributes", 0x8B, 7, "I")
        self.set("seg_selector", 0x40, 7, "H")
        self.set("gdt_base", TABLES)
        self.set("gdt_limit", 8 * len(gdt) - 1, code="I")
        self.set("idt_base", TABLES + 0x100)
        self.set("idt_limit", IDT_VECTORS * 16 - 1, code="I")

    # ------------------------------------------------------------------ state
    def get(self, name: str, index: int = 0, code: str = "Q") -> int:
        size = struct.calcsize(code)
        value: int = struct.unpack_from("<" + code, self.cpu.state, OFFSETS[name] + index * size)[0]
        return value

    def set(self, name: str, value: int, index: int = 0, code: str = "Q") -> None:
        size = struct.calcsize(code)
        struct.pack_into("<" + code, self.cpu.state, OFFSETS[name] + index * size, value & (1 << 8 * size) - 1)

    def enter_long_mode(self, cpl: int = 3) -> None:
        """64-bit mode, paging on, flat segments."""
        self.set("cr", 0x80050033, 0)
        self.set("cr", PAGE_TABLES, 3)
        self.set("cr", 0x6A0 | 0x200 | 0x400 | 1 << 18, 4)
        self.set("efer", 0x500 | 1 | 0x800)
        self.set("xcr0", 3)
        code, data = 0xA09B | cpl << 5, 0xC093 | cpl << 5
        for index in range(6):
            self.set("seg_attributes", code if index == 1 else data, index, "I")
            self.set("seg_limit", 0xFFFFFFFF, index, "I")
            self.set("seg_selector", {1: 0x30 | cpl, 2: 0x28 | cpl}.get(index, 0), index, "H")
            self.set("seg_base", 0, index)
        self.set("cpl", cpl, code="I")
        self.cpu.set_flags(2)
        self.cpu.changed()

    # ------------------------------------------------------------------ memory
    def _entry(self, table: int, index: int) -> int:
        value: int = struct.unpack_from("<Q", self.memory, table + index * 8)[0]
        return value

    def map(self, gva: int, writable: bool = True, user: bool = True) -> int:
        """Map one page, for user mode unless said otherwise; returns its guest-physical address."""
        page = gva & ~(PAGE - 1)
        if page in self.pages:
            return self.pages[page]
        table = PAGE_TABLES
        for shift in (39, 30, 21):
            index = page >> shift & 0x1FF
            entry = self._entry(table, index)
            if not entry & 1:
                entry = self._next_table | 7
                self._next_table += PAGE
                struct.pack_into("<Q", self.memory, table + index * 8, entry)
            table = entry & ~0xFFF
        gpa = self._next_page
        self._next_page += PAGE
        struct.pack_into("<Q", self.memory, table + (page >> 12 & 0x1FF) * 8, gpa | 1 | 4 * user | 2 * writable)
        self.pages[page] = gpa
        return gpa

    def map_exactly(self, wanted: dict[int, bool], executable: Container[int] | None = None) -> None:
        """Map these pages (address -> writable) and no others; physical pages are reused.

        executable: the pages that may be executed; None for all.
        """
        for page in [page for page in self.pages if page not in wanted and page != TABLES]:
            struct.pack_into("<Q", self.memory, self._leaf(page), 0)
        for page, writable in wanted.items():
            no_execute = executable is not None and page not in executable
            entry = self.map(page) | 5 | 2 * writable | no_execute << 63
            struct.pack_into("<Q", self.memory, self._leaf(page), entry)
        self.cpu.changed()

    def _leaf(self, page: int) -> int:
        """Address of a mapped page's table entry."""
        table = PAGE_TABLES
        for shift in (39, 30, 21):
            table = self._entry(table, page >> shift & 0x1FF) & ~0xFFF
        return table + (page >> 12 & 0x1FF) * 8

    def unmap_all(self) -> None:
        """Forget every mapping and its translations."""
        self.memory[PAGE_TABLES : self._next_table] = bytes(self._next_table - PAGE_TABLES)
        self._next_table, self._next_page = PAGE_TABLES + PAGE, FIRST_DATA_PAGE
        self.pages.clear()
        self._make_tables()
        self.engine.empty_cache()
        self.cpu.changed()

    def write(self, gva: int, data: bytes) -> None:
        """Write through the mappings, making them as needed."""
        while data:
            offset = gva & (PAGE - 1)
            count = min(len(data), PAGE - offset)
            gpa = self.map(gva) + offset
            self.memory[gpa : gpa + count] = data[:count]
            self.engine.code_written(gpa, count)
            gva, data = gva + count, data[count:]

    def read(self, gva: int, size: int) -> bytes:
        out = b""
        while size:
            offset = gva & (PAGE - 1)
            count = min(size, PAGE - offset)
            gpa = self.pages[gva & ~(PAGE - 1)] + offset
            out += self.memory[gpa : gpa + count]
            gva, size = gva + count, size - count
        return out

    # ------------------------------------------------------------------ running
    def _return_from_handler(self) -> int:
        """Undo the delivery of a software interrupt to its HLT handler; returns the vector."""
        self.set("fault", 0, code="I")
        vector = self.get("rip") - 1 - (TABLES + HANDLER)
        rsp = self.get("regs", 4)
        rip, _cs, rflags, user_rsp, _ss = struct.unpack_from("<5Q", self.memory, self.pages[TABLES] + (rsp & 0xFFF))
        self.enter_long_mode()
        self.set("regs", user_rsp, 4)
        self.set("rip", rip)
        self.cpu.set_flags(rflags)
        self.cpu.changed()
        return vector

    def run_until(self, stop: int, limit: int) -> Outcome:
        """Run from RIP until RIP is `stop`, or an exception, or `limit` blocks have run."""
        reason = self.cpu.run_blocks(stop, limit)
        if reason == FAULT_EXCEPTION:
            has_error = self.get("exc_has_error", code="I")
            outcome = Outcome(self.get("exc_vector", code="I"), self.get("exc_error", code="I") if has_error else None)
            self.set("fault", 0, code="I")
            return outcome
        if reason == FAULT_HALT and self.get("cpl", code="I") == 0:
            return Outcome(self._return_from_handler())
        if reason:
            raise RuntimeError(f"the engine stopped with fault {reason}")
        return Outcome()
