"""What every accelerator offers, and what it asks of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from manor.base.exits import Exit
from manor.mem.guest_memory import GuestMemory
from manor.spec.cpu_state import CpuState
from manor.spec.interrupt_state import InterruptState
from manor.spec.machine import CpuModel
from manor.spec.timer_state import TimerState


class ExitHandler(Protocol):
    """The machine's side of an access that leaves the guest.

    Thread: the vCPU's. Addresses are guest-physical or ports; sizes are 1, 2, 4 or 8 bytes.
    """

    def pio_read(self, port: int, size: int) -> int: ...
    def pio_write(self, port: int, size: int, value: int) -> None: ...
    def mmio_read(self, vcpu_index: int, gpa: int, size: int) -> int: ...
    def mmio_write(self, vcpu_index: int, gpa: int, size: int, value: int) -> None: ...


class InterruptController(Protocol):
    """The local APIC as a vCPU without an in-kernel one sees it. Thread: the vCPU's."""

    def acknowledge(self) -> int | None:
        """Deliver the highest pending interrupt: its vector, or None if none is deliverable now."""

    def read_msr(self, index: int) -> int | None:
        """Value of an APIC MSR (APIC_BASE, TSC_DEADLINE, x2APIC), None if it is not one or not readable."""

    def write_msr(self, index: int, value: int) -> bool:
        """Write an APIC MSR; False means #GP(0)."""

    def set_tsc_offset(self, offset: int) -> None:
        """The guest's TSC minus the host's monotonic clock in TSC ticks, modulo 2**64."""

    def get_tpr(self) -> int:
        """CR8: task priority class, 0 to 15."""

    def set_tpr(self, value: int) -> None: ...


class Vcpu(Protocol):
    """One guest processor. `run` belongs to one thread; the rest marked "any thread" is safe anywhere."""

    index: int

    def run(self) -> Exit:
        """Run guest code on the calling thread until the VMM has something to do."""

    def kick(self) -> None:
        """Make `run` return Kicked soon; if it is not running, the next call returns at once. Any thread."""

    def set_interrupt_controller(self, controller: InterruptController) -> None: ...

    def interrupt_pending(self, pending: bool) -> None:
        """Tell whether the interrupt controller has a deliverable interrupt. Any thread."""

    def nmi(self) -> None:
        """Any thread."""

    def init(self) -> None:
        """INIT signal: reset to the wait-for-SIPI state. Any thread."""

    def sipi(self, vector: int) -> None:
        """Start-up IPI: begin at vector * 4096 in real mode if waiting for it. Any thread."""

    def has_work(self) -> bool:
        """Whether `run` would make progress now: an interrupt, NMI, INIT or SIPI is pending. Any thread."""

    def get_state(self) -> CpuState: ...
    def set_state(self, state: CpuState) -> None: ...


class InterruptControllers(Protocol):
    """Local APICs and an I/O APIC that the accelerator brings: an IrqSink (the pins) and an MsiSink. Thread: any."""

    def set_level(self, number: int, level: bool) -> None:
        """Drive pin `number` of the I/O APIC."""

    def send(self, address: int, data: int) -> None:
        """Deliver an interrupt message."""

    def add_timer(self) -> None:
        """An 8254 at its usual ports, whose counter 0 drives pin 0. Once. Raises HostError."""

    def save_timer(self) -> TimerState:
        """State of that 8254."""

    def load_timer(self, state: TimerState) -> None:
        """Take over the state of an 8254, this one's or one of the machine's own. Counters that count begin anew."""

    def reset(self) -> None:
        """Power-on state of the I/O APIC. The local APICs are reset with their vCPUs."""

    def save(self) -> InterruptState:
        """State of the I/O APIC and every local APIC. No vCPU may be running."""

    def load(self, state: object) -> None:
        """Take over what `save` of an equal machine gave. Raises SavedStateError."""


class Doorbells(Protocol):
    """Addresses whose writes go to an eventfd without leaving the kernel. Thread: any. Raises HostError."""

    def attach(self, fd: int, address: int, is_port: bool) -> None:
        """A write of any size and value to `address` adds 1 to the eventfd `fd`, and is not seen by the ExitHandler."""

    def detach(self, fd: int, address: int, is_port: bool) -> None:
        """Undo `attach`."""


class VmHandle(Protocol):
    """A virtual machine of one accelerator: memory and vCPUs."""

    @property
    def interrupts(self) -> InterruptControllers | None:
        """The interrupt controllers inside the accelerator; None: the machine makes them and connects each vCPU."""

    @property
    def doorbells(self) -> Doorbells | None:
        """None: every write comes to the ExitHandler."""

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        """The vCPUs by index."""

    def get_clock(self) -> int | None:
        """The time that the accelerator's paravirtual clock shows, in ns; None if it has none."""

    def set_clock(self, now_ns: int) -> None:
        """Set that clock; nothing happens where there is none."""

    def skip_time(self, duration_ns: int) -> None:
        """The guest was paused for so long: its time-stamp counters and clocks go on where they stood. No vCPU runs."""

    def time_held(self) -> AbstractContextManager[None]:
        """Inside, states of several vCPUs show one moment, and are taken as of one moment. No vCPU runs."""

    def statistics(self) -> dict[str, int | float]:
        """Counters of the accelerator, by name; stable names, see docs/reference."""

    def close(self) -> None: ...


class Accel(Protocol):
    """A way of running guests."""

    name: str

    def create_vm(
        self, memory: GuestMemory, handler: ExitHandler, cpus: int, cpu_model: CpuModel = "max"
    ) -> VmHandle:
        """Raises ConfigError if the guest's processor cannot be such a one, HostError if the host refuses."""
