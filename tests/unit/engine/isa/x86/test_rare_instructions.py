"""Instructions that 64-bit mode or user mode lacks, or whose answer belongs to the machine, on the real engine.

Oracle for those of 32-bit code: unicorn. Flags that the manual leaves undefined are not compared.
"""

from __future__ import annotations

import struct
from random import Random

import pytest
import unicorn
from unicorn import x86_const as uc

from manor.engine.env import FLAG_CODE32
from manor.engine.isa.x86.catalog import instructions
from manor.engine.testing import MicroVm

CODE = 0x401000
STACK = 0x501000
SEED = 7
END = b"\xeb\x00"
"""A jump to the next instruction: it ends the block, and so the run."""
STATUS = {"cf": 1, "pf": 4, "af": 0x10, "zf": 0x40, "sf": 0x80, "of": 0x800}
UC_REGISTERS = (
    uc.UC_X86_REG_EAX, uc.UC_X86_REG_ECX, uc.UC_X86_REG_EDX, uc.UC_X86_REG_EBX,
    uc.UC_X86_REG_ESP, uc.UC_X86_REG_EBP, uc.UC_X86_REG_ESI, uc.UC_X86_REG_EDI,
)  # fmt: skip


@pytest.fixture(scope="module")
def vm() -> MicroVm:
    return MicroVm()


def compatibility_mode(vm: MicroVm) -> None:
    """32-bit code of a user program under a 64-bit system."""
    vm.unmap_all()
    vm.enter_long_mode()
    vm.set("seg_attributes", 0xC0FB, 1, "I")
    vm.cpu.changed()
    assert vm.get("block_flags", code="I") & FLAG_CODE32


def run32(vm: MicroVm, code: bytes, registers: list[int], flags: int) -> tuple[list[int], int, bytes]:
    compatibility_mode(vm)
    vm.write(CODE, code + END)
    vm.map(STACK - 1)
    vm.map(STACK)
    vm.write(STACK - 64, bytes(range(128)))
    for index, value in enumerate(registers):
        vm.set("regs", value, index)
    vm.cpu.set_flags(flags | 2)
    vm.set("rip", CODE)
    outcome = vm.run_until(CODE + len(code + END), 8)
    assert outcome.vector is None, outcome
    return [vm.get("regs", index) for index in range(8)], vm.cpu.flags(), vm.read(STACK - 64, 128)


def unicorn32(code: bytes, registers: list[int], flags: int) -> tuple[list[int], int, bytes]:
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    machine.mem_map(CODE & ~0xFFF, 0x2000)
    machine.mem_map((STACK & ~0xFFF) - 0x1000, 0x3000)
    machine.mem_write(CODE, code + b"\x90")
    machine.mem_write(STACK - 64, bytes(range(128)))
    for register, value in zip(UC_REGISTERS, registers, strict=True):
        machine.reg_write(register, value)
    machine.reg_write(uc.UC_X86_REG_EFLAGS, flags | 2)
    machine.emu_start(CODE, CODE + len(code))
    values = [machine.reg_read(register) for register in UC_REGISTERS]
    return values, machine.reg_read(uc.UC_X86_REG_EFLAGS), bytes(machine.mem_read(STACK - 64, 128))


def undefined(name: str) -> int:
    return sum({STATUS[flag] for insn in instructions() if insn.name == name for flag in insn.undefined})


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("daa", "27"), ("das", "2f"), ("aaa", "37"), ("aas", "3f"), ("aam", "d4 0a"), ("aam", "d4 07"),
        ("aad", "d5 0a"), ("aad", "d5 10"), ("salc", "d6"), ("arpl", "63 c8"), ("pusha", "60"), ("pusha", "66 60"),
        ("popa", "61"), ("popa", "66 61"), ("inc", "40"), ("dec", "48"),
    ],
)  # fmt: skip
def test_instructions_of_32_bit_code_equal_unicorn(vm: MicroVm, name: str, code: str) -> None:
    rng = Random(SEED)
    mask = sum(STATUS.values()) & ~undefined(name)
    for _ in range(30):
        registers = [rng.getrandbits(32) for _ in range(8)]
        registers[4] = STACK
        flags = rng.getrandbits(12) & sum(STATUS.values())
        ours = run32(vm, bytes.fromhex(code), registers, flags)
        theirs = unicorn32(bytes.fromhex(code), registers, flags)
        assert ours[0] == theirs[0], f"{registers} flags {flags:#x}"
        assert ours[1] & mask == theirs[1] & mask, f"{registers} flags {flags:#x}"
        assert ours[2] == theirs[2]


def test_aam_by_zero_is_a_divide_error(vm: MicroVm) -> None:
    compatibility_mode(vm)
    vm.write(CODE, bytes.fromhex("d400"))
    vm.set("rip", CODE)
    assert vm.run_until(CODE + 2, 2).vector == 0


# ---------------------------------------------------------------------- 64-bit code
def run64(vm: MicroVm, code: str, **gpr: int) -> int | None:
    """Run one instruction; the vector of its exception or None."""
    names = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
    data = bytes.fromhex(code)
    vm.write(CODE, data + END)
    for name, value in gpr.items():
        vm.set("regs", value, names.index(name))
    vm.set("rip", CODE)
    return vm.run_until(CODE + len(data + END), 4).vector


@pytest.fixture
def vm64(vm: MicroVm) -> MicroVm:
    vm.unmap_all()
    vm.enter_long_mode()
    vm.map(STACK)
    return vm


@pytest.mark.parametrize("segment", range(6))
def test_mov_from_a_segment_register(vm64: MicroVm, segment: int) -> None:
    """MOV and its helper read_segment: zero-extended to a register, always 16 bits to memory."""
    selector = 0x11 * (segment + 1)
    vm64.set("seg_selector", selector, segment, "H")
    ones = (1 << 64) - 1
    modrm = f"{0xC0 | segment << 3:02x}"
    assert run64(vm64, f"48 8c {modrm}", rax=ones) is None
    assert vm64.get("regs", 0) == selector
    assert run64(vm64, f"8c {modrm}", rax=ones) is None
    assert vm64.get("regs", 0) == selector
    assert run64(vm64, f"66 8c {modrm}", rax=ones) is None
    assert vm64.get("regs", 0) == ones & ~0xFFFF | selector
    vm64.write(STACK, b"\xff" * 8)
    assert run64(vm64, f"8c {modrm.replace(modrm[0], '0123'[segment >> 1], 1)}", rax=STACK) is None
    assert vm64.read(STACK, 8) == selector.to_bytes(2, "little") + b"\xff" * 6


def test_bases_of_fs_and_gs(vm64: MicroVm) -> None:
    vm64.set("cr", vm64.get("cr", 4) | 1 << 16, 4)
    vm64.cpu.changed()
    assert run64(vm64, "f3 48 0f ae d8", rax=0x7FFF_1234_5678) is None  # wrgsbase
    assert run64(vm64, "f3 48 0f ae d0", rax=0x1_0000_0000) is None  # wrfsbase
    assert run64(vm64, "f3 48 0f ae c9") is None  # rdgsbase rcx
    assert run64(vm64, "f3 0f ae c2", rdx=(1 << 64) - 1) is None  # rdfsbase edx
    assert (vm64.get("regs", 1), vm64.get("regs", 2)) == (0x7FFF_1234_5678, 0)
    vm64.set("cr", vm64.get("cr", 4) & ~(1 << 16), 4)
    vm64.cpu.changed()
    assert run64(vm64, "f3 48 0f ae c9") == 6


def test_sgdt_and_sldt(vm64: MicroVm) -> None:
    vm64.set("gdt_base", 0xFFFF_FE00_0000_1000)
    vm64.set("gdt_limit", 0x7F, code="I")
    vm64.set("seg_selector", 0x48, 6, "H")
    assert run64(vm64, "0f 01 00", rax=STACK) is None
    assert vm64.read(STACK, 10) == (0x7F).to_bytes(2, "little") + (0xFFFF_FE00_0000_1000).to_bytes(8, "little")
    assert run64(vm64, "0f 00 c1", rcx=(1 << 64) - 1) is None
    assert vm64.get("regs", 1) == 0x48


def test_int1_is_a_debug_trap(vm64: MicroVm) -> None:
    assert run64(vm64, "f1") == 1


@pytest.mark.parametrize("exact", [True, False])
def test_tiny_result_with_underflow_unmasked_is_a_simd_exception(vm64: MicroVm, exact: bool) -> None:
    """CVTSD2SS of 2**-149, a denormal of single precision (SDM volume 1, 4.9.1.5: unmasked, tiny is enough)."""
    image = bytearray(vm64.cpu.fpu_image())
    struct.pack_into("<I", image, 24, 0x1F80 & ~0x800)
    struct.pack_into("<QQQQ", image, 160, 77, 0, 0x36A0_0000_0000_0000 | (0 if exact else 1), 0)
    vm64.cpu.load_fpu_image(bytes(image))
    vm64.write(CODE, b"\xf2\x0f\x5a\xc1" + END)
    vm64.set("rip", CODE)
    vm64.cpu.changed()
    assert vm64.run_until(CODE + 4, 8).vector == 19
    after = vm64.cpu.fpu_image()
    assert struct.unpack_from("<I", after, 24)[0] & 0x8010 == 0x10
    assert struct.unpack_from("<Q", after, 160)[0] == 77


@pytest.mark.parametrize(
    ("code", "control", "top", "status"),
    [
        (b"\xd9\xf8", 0x37D, (1 << 63, 0x7FFE), 0x8082),  # FPREM: C2 would say that it goes on
        (b"\xd9\xfb", 0x37F, (1 << 62, 0x5913), 0x3801),  # FSINCOS: an unnormal is invalid, not a large angle
    ],
    ids=["fprem_of_a_denormal_does_nothing", "fsincos_of_an_unnormal_is_invalid"],
)
def test_x87_operand_exceptions(vm64: MicroVm, code: bytes, control: int, top: tuple[int, int], status: int) -> None:
    image = bytearray(vm64.cpu.fpu_image())
    struct.pack_into("<HHB", image, 0, control, 0, 3)
    struct.pack_into("<QHHIQH", image, 32, *top, 0, 0, 1, 0)
    vm64.cpu.load_fpu_image(bytes(image))
    vm64.write(CODE, code + END)
    vm64.set("rip", CODE)
    vm64.cpu.changed()
    assert vm64.run_until(CODE + 2, 8).vector is None
    assert struct.unpack_from("<H", vm64.cpu.fpu_image(), 2)[0] == status
