"""What firmware leaves behind, as a guest meets it."""

from __future__ import annotations

from manor.accel.dbt.accel import DbtVm
from manor.base.address import Gpa
from manor.base.exits import Halt
from manor.devices.misc.power import RESET_VALUE
from manor.machine.firmware import FIRMWARE_MSRS, write_tables
from manor.mem import layout
from manor.mem.guest_memory import GuestMemory, Region
from manor.spec.cpu_state import CpuState, Segment


class Ports:
    """An ExitHandler that notes what is written to ports."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def pio_read(self, port: int, size: int) -> int:
        return 0

    def pio_write(self, port: int, size: int, value: int) -> None:
        self.written.append((port, size, value))

    def mmio_read(self, vcpu_index: int, gpa: int, size: int) -> int:
        return 0

    def mmio_write(self, vcpu_index: int, gpa: int, size: int, value: int) -> None:
        pass


def test_jump_to_the_reset_vector_writes_the_reset_register() -> None:
    memory = GuestMemory([Region(Gpa(0), 1 << 20, "ram")])
    write_tables(memory, 1)
    ports = Ports()
    vm = DbtVm(memory, ports, 1)
    # FFFF:0000, as Linux jumps
    vm.vcpus[0].set_state(CpuState(rip=0, cs=Segment(0xFFFF, layout.RESET_VECTOR, 0xFFFF, 0x9B)))
    assert vm.vcpus[0].run() == Halt()
    vm.close()
    assert ports.written == [(layout.ACPI_RESET, 1, RESET_VALUE)]


def test_firmware_msrs_survive_init() -> None:
    memory = GuestMemory([Region(Gpa(0), 1 << 20, "ram")])
    vm = DbtVm(memory, Ports(), 1)
    vm.vcpus[0].set_state(CpuState(msrs=dict(FIRMWARE_MSRS)))
    vm.vcpus[0].init()
    vm.vcpus[0].run()
    state = vm.vcpus[0].get_state()
    vm.close()
    assert {index: state.msrs[index] for index in FIRMWARE_MSRS} == FIRMWARE_MSRS
