"""Which fault an operand gives and what the instruction leaves behind, on the real engine.

Sources: SDM volume 2, the instruction pages ("64-Bit Mode Exceptions"); volume 3, 6.5 and 6.9.
"""

from __future__ import annotations

import pytest

from manor.engine.testing import MicroVm

CODE, DATA, UNMAPPED = 0x401000, 0x501000, 0x601000
NON_CANONICAL = 1 << 47
RAX, RCX, RBX, RSP, RBP, RSI, RDI = 0, 1, 3, 4, 5, 6, 7
SS, GP, PAGE_FAULT = 12, 13, 14
TOP_OF_ONE = 1


@pytest.fixture
def vm() -> MicroVm:
    vm = MicroVm()
    vm.map(DATA)
    return vm


def run(vm: MicroVm, code: str, **registers: int) -> int | None:
    """Vector of the fault, None without."""
    instruction = bytes.fromhex(code)
    vm.write(CODE, instruction + b"\xeb\x00")
    for name, value in registers.items():
        vm.set("regs", value, globals()[name.upper()])
    vm.set("rip", CODE)
    return vm.run_until(CODE + len(instruction) + 2, 8).vector


@pytest.mark.parametrize(
    ("on_stack", "elsewhere"),
    [
        ("db6d00", "db2b"),  # fld m80
        ("db7d00", "db3b"),  # fstp m80
        ("df5500", "df13"),  # fist m16
        ("d97500", "d933"),  # fnstenv
        ("d96500", "d923"),  # fldenv
        ("dd7500", "dd33"),  # fnsave
        ("dd6500", "dd23"),  # frstor
        ("0fae4500", "0fae03"),  # fxsave
        ("0fae4d00", "0fae0b"),  # fxrstor
        ("0fc74d00", "0fc70b"),  # cmpxchg8b
        ("480fc74d00", "480fc70b"),  # cmpxchg16b
        ("f0f75d00", "f0f71b"),  # lock neg
        ("0fae7d00", "0fae3b"),  # clflush
    ],
)
def test_non_canonical_stack_operand_of_a_helper_is_a_stack_fault(vm: MicroVm, on_stack: str, elsewhere: str) -> None:
    assert run(vm, on_stack, rbp=NON_CANONICAL) == SS
    assert run(vm, elsewhere, rbx=NON_CANONICAL) == GP


def test_cmps_with_two_bad_operands_reports_that_of_rdi(vm: MicroVm) -> None:
    assert run(vm, "a6", rsi=UNMAPPED, rdi=UNMAPPED + 0x1001) == PAGE_FAULT
    assert vm.get("cr", 2) == UNMAPPED + 0x1001


def test_counter_has_no_upper_half_after_a_fault_in_the_first_element(vm: MicroVm) -> None:
    assert run(vm, "67f3aa", rcx=0x99_0000_0005, rdi=0x88_0000_0000 + UNMAPPED) == PAGE_FAULT
    assert vm.get("regs", RCX) == 5
    assert vm.get("regs", RDI) == 0x88_0000_0000 + UNMAPPED


@pytest.mark.parametrize(("rpl", "vector"), [(0, None), (1, None), (2, PAGE_FAULT)])
def test_arpl_touches_a_read_only_page_only_when_the_rpl_rises(vm: MicroVm, rpl: int, vector: int | None) -> None:
    page = DATA + 0x1000
    vm.map(page, writable=False)
    vm.memory[vm.pages[page]] = 1
    vm.set("seg_attributes", 0xC0FB, 1, "I")
    vm.cpu.changed()
    assert run(vm, "6303", rax=rpl, rbx=page) == vector


def test_mmx_store_that_faults_keeps_top(vm: MicroVm) -> None:
    vm.set("fpu_top", TOP_OF_ONE, code="I")
    assert run(vm, "0f7f03", rbx=UNMAPPED) == PAGE_FAULT
    assert vm.get("fpu_top", code="I") == TOP_OF_ONE


def test_fstpnce_of_an_empty_register_pops_and_raises_nothing(vm: MicroVm) -> None:
    vm.set("fpu_control", 0x340, code="I")
    vm.set("fpu_status", 0x200, code="I")
    vm.set("fpu_tag", 0x01, code="I")
    vm.set("fpu_top", 0, code="I")
    assert run(vm, "d9d9") is None
    assert vm.get("fpu_top", code="I") == 1
    assert vm.get("fpu_status", code="I") == 0
    assert vm.get("fpu_tag", code="I") == 0x01


def test_dpps_with_unmasked_underflow_of_a_product_adds_nothing(vm: MicroVm) -> None:
    """The sums would find a denormal; the products' own flags are underflow and precision."""
    vm.set("xmm", 0x0080_0000 << 32, 0)
    vm.set("xmm", 0, 1)
    vm.set("mxcsr", 0x4600, code="I")
    vm.cpu.changed()
    assert run(vm, "660f3a40c0ff") == 19
    assert vm.get("mxcsr", code="I") == 0x4630


def test_enter_on_a_16_bit_stack_keeps_the_upper_half_of_esp_in_the_frame_pointer(vm: MicroVm) -> None:
    vm.map(0xF000)
    vm.set("seg_attributes", 0xC0FB, 1, "I")
    vm.set("seg_attributes", 0x80F3, 2, "I")
    vm.cpu.changed()
    assert run(vm, "c8000000", rsp=0) is None
    assert vm.get("regs", RBP) == 0xFFFC


def test_fsincos_of_a_number_without_integer_bit_is_invalid(vm: MicroVm) -> None:
    """Not "too large" (C2), however large its exponent."""
    vm.set("fpr", 0x1DDE_09B0_4940_5D18, 0)
    vm.set("fpr", 0x4CFA, 1)
    vm.set("fpu_tag", 0xFE, code="I")
    vm.set("fpu_control", 0x37F, code="I")
    assert run(vm, "d9fb") is None
    assert vm.get("fpu_status", code="I") & 0x401 == 1


@pytest.mark.parametrize(
    ("control", "code", "opcode"),
    [
        (0x340, "d8c1", 0xC1),
        (0x340, "dc4308", 0x443),
        (0x340, "df13", 0x713),
        (0x340, "ded9", 0x6D9),
        (0x37F, "d8c1", 0),
    ],
)
def test_fop_names_the_instruction_with_an_unmasked_exception(
    vm: MicroVm, control: int, code: str, opcode: int
) -> None:
    vm.set("fpu_tag", 0xFF, code="I")  # all empty: invalid operation
    vm.set("fpu_control", control, code="I")
    vm.set("fpu_opcode", 0, code="I")
    assert run(vm, code, rbx=DATA) is None
    assert vm.get("fpu_opcode", code="I") == opcode
