"""The whole machine `pc` on every accelerator, with a kernel of a few instructions."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from manor.accel.api import Accel
from manor.base.units import MiB
from manor.devices.misc.power import SLP_TYP_S5
from manor.mem import layout
from manor.spec.machine import MachineSpec
from manor.testing.assembler import Assembler
from manor.testing.kernel import ENTRY, kernel_file
from manor.trace import sink
from manor.vmm.lifecycle import Reason
from manor.vmm.vm import Vm

TIMEOUT_S = 20
IDT = 0x40_000


def spec(directory: Path, code: Assembler, cpus: int = 1) -> MachineSpec:
    return MachineSpec(kernel_file(directory, code.assemble(ENTRY)), memory=32 * MiB, cpus=cpus)


def printing(text: str) -> Assembler:
    code = Assembler(64)
    for byte in text.encode():
        code.mov("eax", byte)
        code.out(layout.COM1)
    return code


def power_off(code: Assembler) -> None:
    code.mov("eax", SLP_TYP_S5 << 2 | 1 << 5)
    code.out(layout.ACPI_SLEEP_CONTROL)
    code.hlt()


@pytest.mark.parametrize("cpus", [1, 3])
def test_guest_prints_and_powers_off_and_the_host_is_clean(accel: Accel, tmp_path: Path, cpus: int) -> None:
    code = printing("hello\n")
    power_off(code)
    vm = Vm(spec(tmp_path, code, cpus), accel)
    before = set(os.listdir("/proc/self/fd"))
    vm.start()
    assert vm.wait(TIMEOUT_S).reason is Reason.POWER_OFF
    assert "hello" in vm.serial.text
    assert set(os.listdir("/proc/self/fd")) - before == set()
    assert vm.statistics().exits["serial"] == 6


def test_serial_interrupt_through_the_io_apic(accel: Accel, tmp_path: Path) -> None:
    code = Assembler(64)
    code.lidt(ENTRY + 0x800)
    code.mov("eax", 0x1FF)
    code.store(layout.LOCAL_APIC + 0xF0)
    for index, value in ((0x11 + 2 * layout.COM1_IRQ, 0), (0x10 + 2 * layout.COM1_IRQ, 0x44)):
        code.mov("eax", index)
        code.store(layout.IO_APIC)
        code.mov("eax", value)
        code.store(layout.IO_APIC + 0x10)
    for port, value in ((4, 0x08), (1, 0x02)):  # OUT2, and an interrupt when the transmitter is empty
        code.mov("eax", value)
        code.out(layout.COM1 + port)
    code.sti()
    code.label("sleep")
    code.hlt()
    code.jmp("sleep")
    code.label("handler")
    for byte in b"irq\n":
        code.mov("eax", byte)
        code.out(layout.COM1)
    power_off(code)
    handler = ENTRY + code.offset("handler")
    code.raw(bytes(0x800 - len(code.assemble(ENTRY))))
    code.raw((0xFFF).to_bytes(2, "little") + (ENTRY + 0x810 - 16 * 0x44 + 0x10).to_bytes(8, "little") + bytes(6))
    code.raw(bytes(16))
    gate = handler & 0xFFFF | 0x10 << 16 | 0x8E00 << 32 | (handler >> 16) << 48
    code.raw(gate.to_bytes(8, "little") + bytes(8))
    with Vm(spec(tmp_path, code), accel) as vm:
        vm.start()
        assert vm.wait(TIMEOUT_S).reason is Reason.POWER_OFF
        assert "irq" in vm.serial.text


def test_triple_fault_ends_the_machine_and_says_where(accel: Accel, tmp_path: Path) -> None:
    code = printing("x")
    code.raw("0f0b")
    vm = Vm(spec(tmp_path, code), accel)
    vm.start()
    end = vm.wait(TIMEOUT_S)
    assert end.reason is Reason.TRIPLE_FAULT
    assert f"{ENTRY + len(code.assemble(ENTRY)) - 2:#018x}" in end.detail


def test_machine_can_be_stopped_while_every_vcpu_sleeps(accel: Accel, tmp_path: Path) -> None:
    code = printing("x")
    code.cli()
    code.hlt()
    with Vm(spec(tmp_path, code, 2), accel) as vm:
        vm.start()
        vm.serial.wait_for("x", TIMEOUT_S)
        vm.power_off()
        assert vm.wait(TIMEOUT_S).reason is Reason.STOPPED


def test_kick_of_a_queue_goes_through_the_doorbell(kvm: Accel, tmp_path: Path) -> None:
    code = Assembler(64)
    config = layout.ECAM + (2 << 15)  # slot 2: virtio-rng
    code.mov("eax", 2)
    code.store(config + 4, "ax")  # decode memory
    code.load(config + 0x10)
    code.raw("25f0ffffff 89c3".replace(" ", ""))  # and eax, ~15; mov ebx, eax
    code.load(config + 0x14)
    code.raw("48c1e020 4809c3".replace(" ", ""))  # shl rax, 32; or rbx, rax
    code.raw("66c78300300000" + "0000")  # mov word [rbx + 0x3000], 0: notify queue 0
    code.cli()
    code.hlt()
    vm = Vm(spec(tmp_path, code), kvm)
    ring = sink.RingSink()
    for name in ("virtio_kick", "doorbell_attach", "exit_mmio_write"):
        sink.enable(name, ring)
    before = set(os.listdir("/proc/self/fd"))
    try:
        with vm:
            vm.start()
            deadline = time.monotonic() + TIMEOUT_S
            while ("virtio_kick", ("virtio-rng", 0)) not in ring.events and time.monotonic() < deadline:
                time.sleep(0.01)
    finally:
        sink.disable("*", ring)
    assert ("virtio_kick", ("virtio-rng", 0)) in ring.events
    assert set(os.listdir("/proc/self/fd")) - before == set()
    attached = {values[0] for name, values in ring.events if name == "doorbell_attach"}
    written = {values[2] for name, values in ring.events if name == "exit_mmio_write"}
    assert attached
    assert attached.isdisjoint(written)
