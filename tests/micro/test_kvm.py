"""What only KVM has: eventfds in and out, the PIT in the kernel, the dirty log, single steps, failures with their
place."""

from __future__ import annotations

import os
import select
import threading
from dataclasses import replace

import pytest

from manor.accel.api import Accel
from manor.accel.kvm import cpuid
from manor.accel.kvm.cpuid_table import read_back
from manor.accel.kvm.errors import EmulationFailure
from manor.accel.kvm.vm import KvmVm
from manor.base.exits import Debug, Fault, Kicked
from manor.machine.interrupts import load_vm, save_vm
from manor.mem import layout
from manor.testing.assembler import Assembler
from manor.testing.board import CODE, DEVICE, PORT, Board
from manor.trace import sink
from tests.micro.conftest import MakeBoard
from tests.micro.test_both import VECTOR, enabled, ending, sleep, with_handler


@pytest.fixture
def board(kvm: Accel, make_board: MakeBoard) -> Board:
    return make_board(kvm)


def kvm_vm(board: Board) -> KvmVm:
    assert isinstance(board.vm, KvmVm)
    return board.vm


def test_doorbells_reach_the_eventfd_and_not_the_handler(board: Board) -> None:
    vm = kvm_vm(board)
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    code = Assembler(64)
    code.mov("eax", 7)
    code.store(DEVICE + 0x40, "ax")
    code.store(DEVICE + 0x44, "ax")
    code.out(0x90, "ax")
    ending(code)
    board.load(code)
    places = ((fds[0], DEVICE + 0x40, False), (fds[1], 0x90, True))
    for place in places:
        vm.doorbells.attach(*place)
    assert board.run(board.long_mode()) == Kicked()
    assert [os.eventfd_read(fd) for fd in fds] == [1, 1]
    assert board.device.writes == [(0x44, 2, 7)]
    for place in places:
        vm.doorbells.detach(*place)
    board.again()
    board.run(board.long_mode())
    assert board.device.writes == [(0x44, 2, 7), (0x40, 2, 7), (0x44, 2, 7)]
    assert not select.select(fds, [], [], 0)[0]
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("kind", ["message", "line"])
def test_eventfd_wakes_the_guest(board: Board, kind: str) -> None:
    vm = kvm_vm(board)
    fd = os.eventfd(0)
    pin = 6
    code = enabled()
    for index, value in ((0x10 + 2 * pin + 1, 0), (0x10 + 2 * pin, VECTOR)):
        code.mov("eax", index)
        code.store(layout.IO_APIC)
        code.mov("eax", value)
        code.store(layout.IO_APIC + 0x10)
    sleep(code)
    with_handler(board, code)
    if kind == "message":
        gsi = vm.interrupts.attach_message(fd, 0xFEE0_0000, VECTOR)
    else:
        vm.interrupts.attach_line(fd, pin)
    timer = threading.Timer(0.1, lambda: os.eventfd_write(fd, 1))
    timer.start()
    assert board.run(board.long_mode()) == Kicked()
    assert board.written == [VECTOR]
    if kind == "message":
        vm.interrupts.detach_message(fd, gsi)
    else:
        vm.interrupts.detach_line(fd, pin)
    os.close(fd)


def test_paravirtual_clock_moves_with_the_guest(board: Board) -> None:
    state = replace(save_vm(board.vm, board.interrupts, board.timer), clock_ns=10**15)
    load_vm(board.vm, board.interrupts, board.timer, state)
    clock = board.vm.get_clock()
    assert clock is not None
    assert 10**15 <= clock < 10**15 + 10**12


def test_dirty_log_has_the_guests_pages_and_the_devices(board: Board) -> None:
    vm = kvm_vm(board)
    code = Assembler(64)
    code.mov("eax", 1)
    code.store(0x50_000)
    code.store(0x53_008)
    ending(code)
    board.load(code)
    state = board.long_mode()
    vm.dirty_log.start()
    board.run(state)
    board.memory.write(0x55_FFF, b"ab")
    assert {0x50, 0x53, 0x55, 0x56} <= vm.dirty_log.take() < set(range(0x60))
    assert vm.dirty_log.take() == set()
    vm.dirty_log.stop()
    board.memory.write(0x55_000, b"x")


def test_single_steps_in_ring_0(board: Board) -> None:
    vm = kvm_vm(board)
    code = Assembler(64)
    code.mov("ecx", 1)
    code.mov("ecx", 2)
    ending(code)
    board.load(code)
    vcpu = vm.vcpus[0]
    vcpu.set_state(board.long_mode())
    vcpu.set_single_step(True)
    assert vcpu.run() == Debug(CODE + 5)
    assert vcpu.run() == Debug(CODE + 10)
    vcpu.set_single_step(False)
    assert board.run() == Kicked()
    assert vcpu.translate(CODE) == CODE


def test_instruction_that_kvm_cannot_emulate_is_named(board: Board) -> None:
    # FILD from device memory: KVM has to emulate the access, and has no x87.
    code = Assembler(64)
    code.raw("49bb" + DEVICE.to_bytes(8, "little").hex() + "41df2b")  # mov r11, DEVICE; fild qword [r11]
    ending(code)
    board.load(code)
    result = board.run(board.long_mode())
    if not isinstance(result, Fault):
        pytest.skip("this host's KVM emulates FILD")
    failure = result.error
    assert isinstance(failure, EmulationFailure)
    assert (failure.place.ring, failure.place.mode, failure.place.rip) == (0, "long", CODE + 10)
    if failure.code:
        assert failure.code.startswith(bytes.fromhex("41df2b"))
        assert "fild" in failure.text


def test_statistics_count_exits_by_reason(board: Board) -> None:
    code = Assembler(64)
    for _ in range(3):
        code.out(PORT)
    code.store(DEVICE)
    ending(code)
    board.load(code)
    board.run(board.long_mode())
    statistics = board.vm.statistics()
    assert (statistics["exits_io"], statistics["exits_mmio"], statistics["exits_kick"]) == (4, 1, 1)
    assert statistics["entries"] == 6
    assert statistics["guest_ns"] > 0
    assert statistics["host_ns"] > 0


def test_kick_ends_an_endless_loop_and_one_before_the_run_counts(board: Board) -> None:
    board.memory.load(CODE, b"\xeb\xfe")
    vcpu = board.vm.vcpus[0]
    vcpu.set_state(board.long_mode())
    vcpu.kick()
    assert vcpu.run() == Kicked()
    timer = threading.Timer(0.05, vcpu.kick)
    timer.start()
    assert vcpu.run() == Kicked()
    assert vcpu.get_state().rip == CODE


def test_controllers_survive_saving(board: Board, kvm: Accel, make_board: MakeBoard) -> None:
    code = Assembler(64)
    for address, value in ((layout.LOCAL_APIC + 0xF0, 0x1FF), (layout.LOCAL_APIC + 0x320, 0x1_0041)):
        code.mov("eax", value)
        code.store(address)
    for index, value in ((0x11, 0), (0x10, VECTOR)):
        code.mov("eax", index)
        code.store(layout.IO_APIC)
        code.mov("eax", value)
        code.store(layout.IO_APIC + 0x10)
    ending(code)
    board.load(code)
    board.run(board.long_mode())
    saved = board.interrupts.devices[0].save()
    other = make_board(kvm)
    other.interrupts.devices[0].load(saved)
    assert other.interrupts.devices[0].save() == saved
    other.interrupts.devices[0].reset()
    assert kvm_vm(other).interrupts.save().entries == (1 << 16,) * 24


def test_clock_can_be_set(board: Board) -> None:
    vm = kvm_vm(board)
    vm.set_clock(10**15)
    assert vm.get_clock() >= 10**15


def test_pause_is_taken_out_of_clock_and_tsc(board: Board) -> None:
    vm = kvm_vm(board)
    vm.set_clock(10**15)
    before = vm.vcpus[0].get_state().tsc
    vm.skip_time(10**12)
    after = vm.vcpus[0].get_state().tsc
    assert 10**15 - 10**12 <= vm.get_clock() < 10**15
    assert before is not None
    assert after is not None
    assert (before - after) % (1 << 64) > 1 << 32  # a thousand seconds of any frequency


def test_guest_sees_no_hidden_feature(board: Board) -> None:
    seen = read_back(kvm_vm(board).vcpus[0].handle)
    shown = [feature.name for feature in cpuid.HIDDEN if cpuid.has(seen, feature)]
    assert shown == []


def test_exits_can_be_traced_with_their_place(board: Board) -> None:
    code = Assembler(64)
    code.store(DEVICE)
    ending(code)
    board.load(code)
    ring = sink.RingSink()
    sink.enable("exit_*", ring)
    try:
        board.run(board.long_mode())
    finally:
        sink.disable("*", ring)
    seen = [(name, values[1]) for name, values in ring.events if name in ("exit_kvm", "exit_mmio_write")]
    assert seen[:2] == [("exit_kvm", "mmio"), ("exit_mmio_write", "device")]
