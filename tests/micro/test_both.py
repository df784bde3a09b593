"""What a guest sees is the same on every accelerator."""

from __future__ import annotations

from dataclasses import replace

import pytest

from manor.accel.api import Accel
from manor.accel.kvm.probe import Verdict
from manor.base.exits import Kicked, Shutdown
from manor.machine.interrupts import load_vm, save_vm
from manor.mem import layout
from manor.spec.cpu_state import CpuState, Segment
from manor.spec.interrupt_state import give_back
from manor.testing.assembler import Assembler
from manor.testing.board import CODE, DEVICE, DONE, IDT, PORT, REAL_CODE, ROM, TRAMPOLINE, Board
from tests.micro.conftest import MakeBoard

LAPIC = layout.LOCAL_APIC
VECTOR = 0x40
MSI = (0xFEE0_0000, VECTOR)


def ending(code: Assembler) -> None:
    code.out(DONE)
    code.hlt()


def test_real_mode(board: Board) -> None:
    code = Assembler(16)
    code.mov("cx", 3)
    code.label("again")
    code.mov("ax", 0x41)
    code.out(PORT)
    code.dec("cx")
    code.jnz("again")
    ending(code)
    board.load(code, REAL_CODE)
    assert board.run(board.real_mode()) == Kicked()
    assert board.written == [0x41] * 3


def test_protected_mode_calls_and_stores(board: Board) -> None:
    code = Assembler(32)
    code.mov("eax", 0xCAFE)
    code.call("sub")
    code.load(0x50_000)
    code.out(PORT, "eax")
    ending(code)
    code.label("sub")
    code.add("eax", 1)
    code.store(0x50_000)
    code.ret()
    board.load(code)
    assert board.run(board.protected_mode()) == Kicked()
    assert board.written == [0xCAFF]
    assert board.memory.read_u32(0x50_000) == 0xCAFF


def test_long_mode_keeps_64_bits(board: Board) -> None:
    code = Assembler(64)
    code.mov("rbx", 0x1234_5678_9ABC_DEF0)
    code.push("rbx")
    code.pop("rsi")
    ending(code)
    board.load(code)
    assert board.run(board.long_mode()) == Kicked()
    assert board.vm.vcpus[0].get_state().gpr[6] == 0x1234_5678_9ABC_DEF0


def test_ports_of_each_width(board: Board) -> None:
    code = Assembler(64)
    for register in ("al", "ax", "eax"):
        code.mov("eax", 0)
        code.in_(PORT, register)
        code.out(PORT, register)
    code.mov("eax", 0x55)
    code.out(0x300)  # nobody there
    code.in_(0x300)
    code.out(PORT)
    ending(code)
    board.load(code)
    assert board.run(board.long_mode()) == Kicked()
    assert board.port.writes == [(0, 1, 0x78), (0, 2, 0x5678), (0, 4, 0x1234_5678), (0, 1, 0xFF)]


def test_string_output(board: Board) -> None:
    board.memory.write(0x50_000, b"manor")
    code = Assembler(64)
    code.mov("rsi", 0x50_000)
    code.mov("rcx", 5)
    code.mov("edx", PORT)
    code.raw("f3 6e")  # rep outsb
    ending(code)
    board.load(code)
    assert board.run(board.long_mode()) == Kicked()
    assert bytes(board.written) == b"manor"


def test_device_memory_of_each_width(board: Board) -> None:
    code = Assembler(64)
    for register in ("al", "ax", "eax"):
        code.mov("eax", 0)
        code.load(DEVICE + 8, register)
        code.store(DEVICE + 16, register)
    ending(code)
    board.load(code)
    assert board.run(board.long_mode()) == Kicked()
    assert board.device.reads == [(8, 1), (8, 2), (8, 4)]
    assert board.device.writes == [(16, 1, 0x88), (16, 2, 0x7788), (16, 4, 0x5566_7788)]


def test_read_only_memory_does_not_change(board: Board) -> None:
    board.memory.load(ROM, b"\x11\x22\x33\x44")
    code = Assembler(64)
    code.mov("eax", 0xFFFF_FFFF)
    code.store(ROM)
    code.load(ROM)
    code.out(PORT, "eax")
    ending(code)
    board.load(code)
    assert board.run(board.long_mode()) == Kicked()
    assert board.written == [0x4433_2211]


def with_handler(board: Board, main: Assembler) -> None:
    """`main`, which has loaded nothing yet, with an interrupt handler that writes VECTOR to PORT and ends."""
    main.label("handler")
    main.mov("eax", VECTOR)
    main.out(PORT)
    main.mov("eax", 0)
    main.store(LAPIC + 0xB0)
    ending(main)
    board.load(main)
    board.set_vector(VECTOR, CODE + main.offset("handler"))


def enabled(spurious: int = 0x1FF) -> Assembler:
    """Code with the interrupt table loaded, the local APIC on and interrupts allowed."""
    code = Assembler(64)
    code.lidt(IDT)
    code.mov("eax", spurious)
    code.store(LAPIC + 0xF0)
    code.sti()
    return code


def sleep(code: Assembler) -> None:
    code.label("sleep")
    code.hlt()
    code.jmp("sleep")


def test_local_timer_wakes_from_hlt(board: Board) -> None:
    code = enabled()
    for register, value in ((0x3E0, 0xB), (0x320, VECTOR), (0x380, 100_000)):
        code.mov("eax", value)
        code.store(LAPIC + register)
    sleep(code)
    with_handler(board, code)
    assert board.run(board.long_mode()) == Kicked()
    assert board.written == [VECTOR]


def test_interrupt_to_itself(board: Board) -> None:
    code = enabled()
    code.mov("eax", VECTOR | 1 << 18)
    code.store(LAPIC + 0x300)
    sleep(code)
    with_handler(board, code)
    assert board.run(board.long_mode()) == Kicked()
    assert board.written == [VECTOR]


def test_message_from_another_thread_wakes_from_hlt(board: Board) -> None:
    code = enabled()
    code.mov("eax", 1)
    code.out(PORT + 2)  # ready
    sleep(code)
    with_handler(board, code)
    board.pio.unmap(PORT)
    ready = type(board.port)(on_write=lambda: board.loop.call_soon_threadsafe(lambda: send_once(board)))
    board.pio.map(PORT, 4, ready, "ready")
    assert board.run(board.long_mode()) == Kicked()
    assert [write for write in ready.writes if write[0] == 0] == [(0, 1, VECTOR)]


def send_once(board: Board) -> None:
    board.interrupts.messages.send(*MSI)


@pytest.mark.parametrize("is_level", [False, True])
def test_line_through_the_io_apic(board: Board, is_level: bool) -> None:
    pin = 5
    code = enabled()
    for index, value in ((0x10 + 2 * pin + 1, 0), (0x10 + 2 * pin, VECTOR | is_level << 15)):
        code.mov("eax", index)
        code.store(layout.IO_APIC)
        code.mov("eax", value)
        code.store(layout.IO_APIC + 0x10)
    code.out(PORT + 2)
    sleep(code)
    with_handler(board, code)
    board.pio.unmap(PORT)
    ready = type(board.port)(on_write=lambda: board.interrupts.lines.set_level(pin, True))
    board.pio.map(PORT, 4, ready, "ready")
    assert board.run(board.long_mode()) == Kicked()
    assert (0, 1, VECTOR) in ready.writes


def test_second_vcpu_starts_by_init_and_sipi(accel: Accel, make_board: MakeBoard) -> None:
    board = make_board(accel, 2)
    second = Assembler(16)
    second.mov("ax", 0x77)
    second.out(PORT)
    ending(second)
    board.load(second, TRAMPOLINE)
    first = Assembler(64)
    first.mov("eax", 0x1FF)
    first.store(LAPIC + 0xF0)
    for value in (0x4500, 0x4600 | TRAMPOLINE >> 12):
        first.mov("eax", 1 << 24)
        first.store(LAPIC + 0x310)
        first.mov("eax", value)
        first.store(LAPIC + 0x300)
    first.cli()
    sleep(first)
    board.load(first)
    board.start(1)
    board.start(0, board.long_mode())
    assert board.wait()
    assert board.written == [0x77]


def test_triple_fault_says_where(board: Board) -> None:
    code = Assembler(64)
    code.raw("0f 0b")  # ud2, without an interrupt table
    board.load(code)
    state = board.long_mode()
    state.idtr.limit = 0
    result = board.run(state)
    assert isinstance(result, Shutdown)
    assert f"{CODE:#018x}" in result.reason


def test_single_step_by_the_trap_flag(board: Board) -> None:
    code = Assembler(64)
    code.lidt(IDT)
    code.raw("9c 81 0c 24 00010000 9d".replace(" ", ""))  # pushf; or dword [rsp], 0x100; popf
    code.mov("ecx", 1)
    code.mov("ecx", 2)
    ending(code)
    code.label("trap")
    code.mov("eax", 0xDB)
    code.out(PORT)
    code.raw("81 64 24 10 fffeffff".replace(" ", ""))  # and dword [rsp + 16], ~0x100
    code.iret()
    board.load(code)
    board.set_vector(1, CODE + code.offset("trap"))
    assert board.run(board.long_mode()) == Kicked()
    assert board.written == [0xDB]


def test_page_fault_in_ring_3_comes_to_ring_0(board: Board) -> None:
    # Ring 3 runs on pages that are for ring 0 only: its first fetch faults, and the handler sees CPL 3 on its stack.
    code = Assembler(64)
    code.label("handler")
    code.raw("58 58 58")  # pop rax three times: error code, rip, cs
    code.out(PORT)
    ending(code)
    board.load(code)
    board.set_vector(14, CODE)
    state = board.long_mode(0x50_000)
    tss, stack = 0x51_000, 0x52_000
    board.memory.write(tss + 4, stack.to_bytes(8, "little"))
    state.tr.base = tss
    state.idtr.base, state.idtr.limit = IDT + 16, 0xFFF
    state.cs = Segment(0x33, 0, 0xFFFF_FFFF, 0xA0FB)
    state.ss = Segment(0x2B, 0, 0xFFFF_FFFF, 0xC0F3)
    assert board.run(state) == Kicked()
    assert board.written == [0x33]


def test_syscall_from_ring_3(board: Board, accel: Accel, verdict: Verdict) -> None:
    if accel.name == "kvm" and not verdict.syscall_works:
        pytest.skip(f"kvm is {verdict}")
    code = Assembler(64)
    code.mov("eax", 0x53)
    code.out(PORT)
    ending(code)
    board.load(code)
    board.memory.load(0x60_000, b"\x0f\x05")
    state = board.long_mode(0x60_000)
    for place in (0x9000, 0xA000, 0xB000):  # PML4, PDPT and the first directory: for ring 3 too
        board.memory.write_u64(place, board.memory.read_u64(place) | 4)
    state.efer |= 1
    state.msrs |= {0xC000_0081: 0x1B << 48 | 0x10 << 32, 0xC000_0082: CODE}
    state.cs = Segment(0x33, 0, 0xFFFF_FFFF, 0xA0FB)
    state.ss = Segment(0x2B, 0, 0xFFFF_FFFF, 0xC0F3)
    assert board.run(state) == Kicked()
    assert board.written == [0x53]


def counting() -> Assembler:
    """Two writes to DONE with a count in RBX between, so that a guest can be stopped in the middle."""
    code = Assembler(64)
    code.mov("rbx", 40)
    code.mov("eax", 0x11)
    code.out(DONE)
    code.jmp("on")  # translated code looks for a kick between blocks
    code.label("on")
    code.add("rbx", 2)
    code.raw("89 d8")  # mov eax, ebx
    code.out(PORT)
    ending(code)
    return code


def test_state_continues_on_another_vcpu(accel: Accel, make_board: MakeBoard) -> None:
    board = make_board(accel, 2)
    board.load(counting())
    board.run(board.long_mode())
    state = board.vm.vcpus[0].get_state()
    board.again()
    state.tsc = None
    board.run(state, index=1)
    assert board.written == [42]


@pytest.mark.parametrize("first", ["dbt", "kvm"])
def test_guest_continues_on_the_other_accelerator(
    first: str, dbt: Accel, kvm: Accel, make_board: MakeBoard
) -> None:
    source, target = [make_board(accel) for accel in ((dbt, kvm) if first == "dbt" else (kvm, dbt))]
    source.load(counting())
    source.run(source.long_mode())
    state = source.vm.vcpus[0].get_state()
    assert source.written == []
    target.memory.load(0, source.memory.read(0, 1 << 20))
    target.run(state)
    assert target.written == [42]
    # and back again: the registers arrived unchanged
    back = target.vm.vcpus[0].get_state()
    assert (back.gpr[3], back.cr3, back.cs, back.efer) == (42, state.cr3, state.cs, state.efer)


def test_floating_point_state_survives(accel: Accel, make_board: MakeBoard) -> None:
    board = make_board(accel)
    state = board.long_mode()
    image = bytearray(512)
    image[0:2] = (0x37F).to_bytes(2, "little")
    image[24:28] = (0x1F80).to_bytes(4, "little")
    image[160:176] = bytes(range(16))  # XMM0
    state.fpu = bytes(image)
    state.cr4 |= 1 << 9
    vcpu = board.vm.vcpus[0]
    vcpu.set_state(state)
    assert vcpu.get_state().fpu[160:176] == bytes(range(16))


def test_debug_registers_and_halt_survive(board: Board) -> None:
    state = board.long_mode()
    state.dr = [0x1000, 0x2000, 0x3000, 0x4000]
    state.halted = True
    vcpu = board.vm.vcpus[0]
    vcpu.set_state(state)
    got: CpuState = vcpu.get_state()
    assert (got.dr, got.halted, got.runnable) == (state.dr, True, True)


@pytest.mark.parametrize("source_name", ["dbt", "kvm"])
@pytest.mark.parametrize("target_name", ["dbt", "kvm"])
@pytest.mark.parametrize("kind", ["pending", "timer", "deadline"])
def test_interrupts_continue_on_any_accelerator(
    request: pytest.FixtureRequest, make_board: MakeBoard, source_name: str, target_name: str, kind: str
) -> None:
    code = enabled()
    code.cli()
    if kind == "pending":
        steps = [(0x300, VECTOR | 1 << 18)]
    elif kind == "timer":
        steps = [(0x3E0, 0xB), (0x320, VECTOR), (0x380, 200_000_000)]
    else:
        steps = [(0x320, VECTOR | 2 << 17)]
    for register, value in steps:
        code.mov("eax", value)
        code.store(LAPIC + register)
    if kind == "deadline":
        code.raw("0f31 0500001000 83d200 b9e0060000 0f30")  # rdtsc; add eax, 1 << 20; adc edx, 0; wrmsr TSC_DEADLINE
    code.mov("eax", 0)
    code.out(DONE)
    code.jmp("on")
    code.label("on")
    code.sti()
    sleep(code)
    source = make_board(request.getfixturevalue(source_name))
    with_handler(source, code)
    source.run(source.long_mode())
    assert source.written == []
    state = save_vm(source.vm, source.interrupts, source.timer)
    assert (state.clock_ns is None) == (source_name == "dbt")
    target = make_board(request.getfixturevalue(target_name))
    target.memory.load(0, source.memory.read(0, 1 << 20))
    load_vm(target.vm, target.interrupts, target.timer, state)
    assert target.run() == Kicked()
    assert target.written == [VECTOR]


def test_interval_timer_interrupts(board: Board) -> None:
    code = enabled()
    for index, value in ((0x11, 0), (0x10, VECTOR)):
        code.mov("eax", index)
        code.store(layout.IO_APIC)
        code.mov("eax", value)
        code.store(layout.IO_APIC + 0x10)
    for port, value in ((0x43, 0x34), (0x40, 0x00), (0x40, 0x10)):
        code.mov("eax", value)
        code.out(port)
    sleep(code)
    with_handler(board, code)
    assert board.run(board.long_mode()) == Kicked()
    assert board.written[0] == VECTOR


@pytest.mark.parametrize(("source_name", "target_name"), [("dbt", "dbt"), ("kvm", "dbt"), ("dbt", "kvm")])
def test_interval_timer_moves(
    request: pytest.FixtureRequest, make_board: MakeBoard, source_name: str, target_name: str
) -> None:
    """Modes, counts, number formats and half-read latches arrive."""
    code = Assembler(64)
    for port, value in (
        (0x43, 0x34), (0x40, 0x00), (0x40, 0x10), (0x43, 0x71), (0x41, 0x34), (0x41, 0x12), (0x61, 3), (0x43, 0xB6),
        (0x42, 0x11), (0x42, 0x22), (0x43, 0x80),
    ):  # fmt: skip
        code.mov("eax", value)
        code.out(port)
    code.in_(0x42, "al")
    ending(code)
    source = make_board(request.getfixturevalue(source_name))
    source.load(code)
    source.run(source.long_mode())
    saved = source.timer.save()
    target = make_board(request.getfixturevalue(target_name))
    target.timer.load(saved)
    assert [replace(c, loaded_ns=None) for c in target.timer.save().counters] == [
        replace(c, loaded_ns=None) for c in saved.counters
    ]
    assert [counter.mode for counter in saved.counters] == [2, 0, 3]
    assert [counter.count for counter in saved.counters] == [0x1000, 1234 if source_name == "dbt" else 0x1234, 0x2211]
    assert saved.counters[2].latched_count is not None
    assert saved.counters[2].reading == 4
    assert saved.is_speaker_on


def test_interrupt_in_flight_goes_back_to_its_controller(dbt: Accel, make_board: MakeBoard) -> None:
    board = make_board(dbt)
    state = board.long_mode()
    lapic = board.interrupts.save().lapics[0]
    state.events.interrupt = VECTOR
    vcpu, given = give_back(state, replace(lapic, isr=1 << VECTOR))
    assert (vcpu.events.interrupt, given.isr, given.irr) == (None, 0, 1 << VECTOR)
    with pytest.raises(ValueError, match="interrupt 0x40 is in flight"):
        board.vm.vcpus[0].set_state(state)
    state.events.is_soft = True
    assert give_back(state, lapic) == (state, lapic)
