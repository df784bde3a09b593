"""A board for micro-guests: memory, an interrupt fabric and two ports, on any accelerator.

A guest writes bytes to PORT, which are collected, and ends with a write to DONE. Tests that take a Board run
unchanged on every accelerator; what the guest sees must be the same.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import Final

from manor.accel.api import Accel, Vcpu
from manor.base.address import Gpa
from manor.base.clock import HostClock
from manor.base.exits import Exit, Halt, Kicked, WaitForSipi
from manor.boot.entry_x86 import long_mode_state, protected_mode_state
from manor.bus.bus import Bus
from manor.machine.interrupts import connect_interrupts
from manor.machine.interval_timer import connect_timer
from manor.machine.pc import PcExits
from manor.mem.guest_memory import GuestMemory, Region
from manor.spec.cpu_state import CpuState, Segment
from manor.testing.assembler import Assembler
from manor.vmm.io_loop import IoLoop, LockedTimers

RAM_SIZE: Final = 1 << 20
ROM: Final = Gpa(0x20_0000)
ROM_SIZE: Final = 0x1000
CODE: Final = 0x10_000 + 0x2_0000
"""Behind the tables of the entry states, in front of everything else."""
REAL_CODE: Final = 0x1000
IDT: Final = 0x40_000
TRAMPOLINE: Final = 0x8000
PORT: Final = 0x80
DONE: Final = 0xF4
DEVICE: Final = 0xD000_0000
TIMEOUT_S: Final = 20.0
_CODE64: Final = 0x10


class Recorder:
    """BusTarget: remembers writes, and answers reads with `answer`."""

    def __init__(self, answer: int = 0, on_write: Callable[[], None] | None = None) -> None:
        self.writes: list[tuple[int, int, int]] = []
        self.reads: list[tuple[int, int]] = []
        self.answer = answer
        self._on_write = on_write

    def read(self, offset: int, size: int) -> int:
        self.reads.append((offset, size))
        return self.answer & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))
        if self._on_write is not None:
            self._on_write()


class Board:
    """One virtual machine for a micro-guest. `close` it."""

    def __init__(self, accel: Accel, cpus: int = 1) -> None:
        self.memory = GuestMemory([Region(Gpa(0), RAM_SIZE), Region(ROM, ROM_SIZE, "rom")])
        self.lock = threading.RLock()
        self.pio = Bus("pio", self.lock)
        self.mmio = Bus("mmio", self.lock)
        self.port = Recorder(answer=0x1234_5678)
        self.device = Recorder(answer=0x1122_3344_5566_7788)
        self.errors: list[BaseException] = []
        self._done = False
        self._ended = threading.Event()
        self._awake = [threading.Event() for _ in range(cpus)]
        self._threads: list[threading.Thread] = []
        self.loop = IoLoop(HostClock(), self.errors.append)
        self.timers = LockedTimers(self.loop, self.lock)
        lapics: list[object] = []
        self.vm = accel.create_vm(self.memory, PcExits(self.pio, self.mmio, lapics, []), cpus)  # type: ignore[arg-type]
        self.interrupts = connect_interrupts(self.vm, self.mmio, HostClock(), self.timers, self._wake)
        lapics += self.interrupts.lapics
        self.timer = connect_timer(self.vm, self.pio, self.interrupts.lines, HostClock(), self.timers)
        self.pio.map(PORT, 4, self.port, "port")
        self.pio.map(DONE, 1, Recorder(on_write=self._finish), "done")
        self.mmio.map(DEVICE, 0x1000, self.device, "device")
        self.loop.start()

    def close(self) -> None:
        """Stop every vCPU that was started, and free the machine."""
        self._finish()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        self.timers.close()
        self.loop.stop()
        self.vm.close()

    # --- programs ---------------------------------------------------------------------------------------------

    def load(self, code: Assembler, address: int = CODE) -> None:
        self.memory.load(address, code.assemble(address))

    def real_mode(self, rip: int = REAL_CODE) -> CpuState:
        state = CpuState(rip=rip, cs=Segment(0, 0, 0xFFFF, 0x9B))
        state.gpr[4] = 0x7000
        return state

    def protected_mode(self, rip: int = CODE) -> CpuState:
        return protected_mode_state(self.memory, rip, 0)

    def long_mode(self, rip: int = CODE) -> CpuState:
        state = long_mode_state(self.memory, rip, 0)
        state.gpr[4] = 0x3_0000 - 0x1000
        return state

    def set_vector(self, vector: int, handler: int) -> None:
        """A 64-bit interrupt gate in the table at IDT + 16; `lidt(IDT)` loads it. Source: SDM volume 3, figure 6-8."""
        self.memory.write(IDT, struct.pack("<HQ", 0xFFF, IDT + 16))
        gate = struct.pack("<HHHHII", handler & 0xFFFF, _CODE64, 0x8E00, handler >> 16 & 0xFFFF, handler >> 32, 0)
        self.memory.write(IDT + 16 + 16 * vector, gate)

    # --- running ----------------------------------------------------------------------------------------------

    @property
    def written(self) -> list[int]:
        """What the guest wrote to PORT."""
        return [value for _, _, value in self.port.writes]

    def run(self, state: CpuState | None = None, index: int = 0) -> Exit:
        """Run a vCPU on this thread until the guest ends or something else than sleep and kick happens."""
        vcpu = self.vm.vcpus[index]
        if state is not None:
            vcpu.set_state(state)
        watchdog = threading.Timer(TIMEOUT_S, self._finish)
        watchdog.daemon = True
        watchdog.start()
        try:
            return self._run(vcpu)
        finally:
            watchdog.cancel()

    def start(self, index: int, state: CpuState | None = None) -> None:
        """Run a vCPU on a thread of its own until `close`."""
        vcpu = self.vm.vcpus[index]
        vcpu.set_state(CpuState(runnable=False) if state is None else state)
        thread = threading.Thread(target=self._run, args=(vcpu,), name=f"vcpu-{index}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> bool:
        """Wait for the guest's write to DONE."""
        return self._ended.wait(TIMEOUT_S)

    def again(self) -> None:
        """Let a guest that ended run on."""
        self._done = False
        self._ended.clear()

    def _run(self, vcpu: Vcpu) -> Exit:
        awake = self._awake[vcpu.index]
        while not self._done:
            exit_ = vcpu.run()
            if isinstance(exit_, (Halt, WaitForSipi)):
                awake.clear()
                while not self._done and not vcpu.has_work():
                    awake.wait()
                    awake.clear()
            elif not isinstance(exit_, Kicked):
                return exit_
        return Kicked()

    def _wake(self, index: int) -> None:
        self._awake[index].set()

    def _finish(self) -> None:
        self._done = True
        self._ended.set()
        for vcpu in self.vm.vcpus:
            vcpu.kick()
        for awake in self._awake:
            awake.set()
