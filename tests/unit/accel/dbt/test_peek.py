"""Reading guest memory for traces."""

from __future__ import annotations

from manor.accel.dbt.peek import MAX_STRING, Peek

SIZE = 1 << 16


class Memory:
    def __init__(self) -> None:
        self.data = bytearray(SIZE)

    def contains(self, gpa: int, size: int) -> bool:
        return 0 <= gpa <= SIZE - size

    def read(self, gpa: int, size: int) -> bytes:
        assert self.contains(gpa, size)
        return bytes(self.data[gpa : gpa + size])

    def put(self, gpa: int, value: int, size: int = 8) -> None:
        self.data[gpa : gpa + size] = value.to_bytes(size, "little")


class Registers:
    def __init__(self, **values: int) -> None:
        self.values = values

    def get(self, name: str, index: int = 0, code: str = "Q") -> int:
        return self.values.get(f"{name}{index}", 0)


def long_mode(memory: Memory) -> Peek:
    """GVA 0x400000 -> 0x5000, 0x401000 -> 0x7000; 2 MiB page at 0x600000 -> 0."""
    memory.put(0x1000, 0x2007)
    memory.put(0x2000, 0x3007)
    memory.put(0x3000 + 2 * 8, 0x4007)
    memory.put(0x3000 + 3 * 8, 0x0087)
    memory.put(0x4000, 0x8000_0000_0000_5005)
    memory.put(0x4008, 0x7005)
    return Peek(memory, Registers(cr0=0x80000001, cr3=0x1000 | 5, cr4=0x20, efer0=0x500))


def test_strings_are_read_across_pages() -> None:
    memory = Memory()
    peek = long_mode(memory)
    memory.data[0x5FFD:0x6000] = b"/et"
    memory.data[0x7000:0x7003] = b"c/\0"
    assert peek.string(0x400FFD) == "/etc/"


def test_what_is_not_mapped_is_none() -> None:
    peek = long_mode(Memory())
    assert peek.string(0x402000) is None
    assert peek.string(0xFFFF_8000_0000_0000) is None
    assert peek.translate(0x600123) == 0x123
    assert peek.string(0x600000 + SIZE) is None


def test_long_strings_are_cut() -> None:
    memory = Memory()
    peek = long_mode(memory)
    memory.data[0x5000:0x6000] = b"a" * 4096
    assert peek.string(0x400000) == "a" * MAX_STRING + "..."


def test_bytes_that_are_no_text_are_replaced() -> None:
    memory = Memory()
    peek = long_mode(memory)
    memory.data[0x5000:0x5003] = b"\xffa\0"
    assert peek.string(0x400000) == "\ufffda"


def test_a_table_outside_memory_maps_nothing() -> None:
    memory = Memory()
    peek = Peek(memory, Registers(cr0=0x80000001, cr3=0x10_0000, cr4=0x20, efer0=0x500))
    assert peek.translate(0x1000) is None


def test_without_paging_addresses_are_physical() -> None:
    assert Peek(Memory(), Registers()).translate(0x1234) == 0x1234


def test_32_bit_paging() -> None:
    memory = Memory()
    memory.put(0x1004, 0x2007, 4)
    memory.put(0x2008, 0x3007, 4)
    memory.put(0x1008, 0x0000_2087, 4)  # large page, address bit 32 set
    registers = Registers(cr0=0x80000001, cr3=0x1000, cr4=0x10)
    assert Peek(memory, registers).translate(0x402345) == 0x3345
    assert Peek(memory, registers).translate(0x403000) is None
    assert Peek(memory, registers).translate(0x800123) == 0x1_0000_0123


def test_pae() -> None:
    memory = Memory()
    memory.put(0x1000 + 8, 0x2001)
    memory.put(0x2000, 0x3001)
    registers = Registers(cr0=0x80000001, cr4=0x20, pdpte1=0x1001)
    assert Peek(memory, registers).translate(0x40200123) == 0x3123
    assert Peek(memory, registers).translate(0x123) is None
