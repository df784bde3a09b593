"""An accelerator whose guests are Python generators: to test everything around the engine without it.

A guest program gets a FakeVcpu, touches ports and memory through it, and yields an Exit to leave `run`:

    def program(cpu):
        cpu.out(0x3F8, ord("A"))
        yield Halt()                 # goes on here once there is work
        cpu.out(0x600, 0x34)

A program that returns halts for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from manor.accel.api import ExitHandler, InterruptController
from manor.accel.kvm.probe import KvmState, Verdict
from manor.base.exits import Exit, Halt, Kicked, WaitForSipi
from manor.mem.guest_memory import GuestMemory
from manor.spec.cpu_state import CpuState
from manor.spec.machine import CpuModel

NO_KVM: Final = Verdict(KvmState.NO_DEVICE, "this test has no /dev/kvm")
"""What `accel.choose.probe` says in tests that must not depend on their host: `lambda: NO_KVM`."""

Program = Callable[["FakeVcpu"], Generator[Exit, None, None]]


class FakeVcpu:
    """One vCPU that runs a Python generator."""

    def __init__(self, index: int, memory: GuestMemory, handler: ExitHandler, program: Program | None) -> None:
        self.index = index
        self.memory = memory
        self.state = CpuState()
        self.controller: InterruptController | None = None
        self.nmis = 0
        self.is_started = program is not None and index == 0
        self._handler = handler
        self._program = program
        self._guest: Generator[Exit, None, None] | None = None
        self._kicked = threading.Event()
        self._is_pending = False

    # --- the guest's instructions ---------------------------------------------------------------------------

    def out(self, port: int, value: int, size: int = 1) -> None:
        self._handler.pio_write(port, size, value)

    def in_(self, port: int, size: int = 1) -> int:
        return self._handler.pio_read(port, size)

    def load(self, gpa: int, size: int = 4) -> int:
        """A load from device memory."""
        return self._handler.mmio_read(self.index, gpa, size)

    def store(self, gpa: int, value: int, size: int = 4) -> None:
        """A store to device memory."""
        self._handler.mmio_write(self.index, gpa, size, value)

    def print(self, text: str) -> None:
        """Write `text` to the first serial port."""
        for byte in text.encode():
            self.out(0x3F8, byte)

    # --- accel.api.Vcpu -------------------------------------------------------------------------------------

    def run(self) -> Exit:
        if self._kicked.is_set():
            self._kicked.clear()
            return Kicked()
        if self._program is None or not self.is_started:
            return WaitForSipi()
        if self._guest is None:
            self._guest = self._program(self)
        return next(self._guest, Halt())

    def kick(self) -> None:
        self._kicked.set()

    def set_interrupt_controller(self, controller: InterruptController) -> None:
        self.controller = controller

    def interrupt_pending(self, pending: bool) -> None:
        self._is_pending = pending

    def nmi(self) -> None:
        self.nmis += 1

    def init(self) -> None:
        self.is_started = False

    def sipi(self, vector: int) -> None:
        self.state.rip = vector << 12
        self.is_started = True

    def has_work(self) -> bool:
        if self._program is not None and self.is_started and self._guest is None:
            return True
        return self._is_pending or self._kicked.is_set()

    def get_state(self) -> CpuState:
        return self.state

    def set_state(self, state: CpuState) -> None:
        self.state = state


class FakeVm:
    """accel.api.VmHandle."""

    interrupts: None = None
    doorbells: None = None

    def __init__(self, vcpus: Sequence[FakeVcpu]) -> None:
        self.vcpus: Sequence[FakeVcpu] = vcpus
        self.is_closed = False
        self.skipped_ns = 0

    def skip_time(self, duration_ns: int) -> None:
        self.skipped_ns += duration_ns

    @contextmanager
    def time_held(self) -> Iterator[None]:
        yield

    def get_clock(self) -> int | None:
        return None

    def set_clock(self, now_ns: int) -> None:
        pass

    def statistics(self) -> dict[str, int | float]:
        return {"guest_programs": len(self.vcpus)}

    def close(self) -> None:
        self.is_closed = True


class FakeAccel:
    """accel.api.Accel. programs: one for each vCPU; vCPUs without one never start. Counts the VMs it made."""

    name = "fake"

    def __init__(self, *programs: Program) -> None:
        self._programs = programs
        self.vms: list[FakeVm] = []

    def create_vm(
        self, memory: GuestMemory, handler: ExitHandler, cpus: int, cpu_model: CpuModel = "max"
    ) -> FakeVm:
        vm = FakeVm(
            [
                FakeVcpu(index, memory, handler, self._programs[index] if index < len(self._programs) else None)
                for index in range(cpus)
            ]
        )
        self.vms.append(vm)
        return vm
