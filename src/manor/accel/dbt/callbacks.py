"""What translated code calls back for: device accesses, the local APIC, traces.

The engine calls these methods on the vCPU's thread, holding the GIL. An exception that leaves
one is kept in `error` by the engine; `DbtVcpu.run` raises it again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from manor.accel.api import ExitHandler, InterruptController
from manor.accel.dbt.syscalls import ReadString, describe
from manor.engine import env
from manor.engine.render import render_block
from manor.trace.event import declare, guest_error

syscall_enter = declare("syscall_enter", vcpu=int, rip=int, call=str, ring=str)
syscall_return = declare("syscall_return", vcpu=int, value=int, rip=int, ring=str)
interrupt_deliver = declare("interrupt_deliver", vcpu=int, vector=int, error=int, rip=int, cpl=int)
block_translate = declare("block_translate", vcpu=int, pc=int, gpa=int, text=str)

_SIGN = 1 << 63
TSC_DEADLINE = 0x6E0
"""IA32_TSC_DEADLINE. Source: SDM volume 3, 11.5.4.1."""


class Callbacks:
    """Callbacks of one vCPU."""

    def __init__(self, handler: ExitHandler, index: int) -> None:
        self._index = index
        self.controller: InterruptController | None = None
        self.error: BaseException | None = None
        self.tsc_offset: Callable[[], int] = lambda: 0
        """The vCPU's TSC minus the host's monotonic nanoseconds."""
        self.read_string: ReadString | None = None
        """Reads the paths that system calls name, for their trace (`accel.dbt.peek`)."""
        self.pio_read = handler.pio_read
        self.pio_write = handler.pio_write
        self.mmio_read = partial(handler.mmio_read, index)
        self.mmio_write = partial(handler.mmio_write, index)

    # ------------------------------------------------------------------ local APIC
    def acknowledge(self) -> int | None:
        return None if self.controller is None else self.controller.acknowledge()

    def read_msr(self, index: int) -> int | None:
        return None if self.controller is None else self.controller.read_msr(index)

    def write_msr(self, index: int, value: int) -> bool:
        if self.controller is None:
            return False
        if index == TSC_DEADLINE:
            # The deadline is in the guest's TSC, which a WRMSR to the TSC may have moved.
            self.controller.set_tsc_offset(self.tsc_offset())
        return self.controller.write_msr(index, value)

    def get_tpr(self) -> int:
        return 0 if self.controller is None else self.controller.get_tpr()

    def set_tpr(self, value: int) -> None:
        if self.controller is not None:
            self.controller.set_tpr(value)

    # ------------------------------------------------------------------ traces
    def trace_bits(self) -> int:
        """Which events the engine must report, as env.TRACE_* bits."""
        return (
            (env.TRACE_SYSCALLS if syscall_enter.on else 0)
            | (env.TRACE_INTERRUPTS if interrupt_deliver.on else 0)
            | (env.TRACE_BLOCKS if block_translate.on else 0)
            | (env.TRACE_INVALID if guest_error.on else 0)
        )

    def trace(self, kind: str, *values: int) -> None:
        """One event of the engine; what the numbers are depends on the kind (`engine.callback_native`)."""
        match kind:
            case "syscall":
                number, *arguments, rip = values
                syscall_enter(self._index, rip, describe(number, arguments, self.read_string), "3 -> 0")
            case "sysret":
                value, rip = values[0], values[1]
                syscall_return(self._index, value - (1 << 64) if value & _SIGN else value, rip, "0 -> 3")
            case "interrupt":
                interrupt_deliver(self._index, *values)
            case "invalid":
                guest_error("engine", f"invalid instruction at rip {values[0]:#018x} in ring {values[1]}")
            case "invalid_msr":
                index, value, is_write, rip = values
                what = f"writing {value:#x} to" if is_write else "reading"
                guest_error("engine", f"{what} MSR {index:#x} at rip {rip:#018x} is refused")
            case _:
                raise ValueError(f"the engine reported an event of unknown kind {kind!r}")

    def trace_block(
        self, pc: int, gpa: int, guest: bytes, uops: bytes, host: bytes, flags: int, exits: tuple[int, ...]
    ) -> None:
        """A block was translated; arguments as `engine.inspect_native.trace_block` gives them."""
        if block_translate.on:
            text = render_block(pc, gpa, guest, uops, host, flags, exits)
            block_translate(self._index, pc, gpa, text)
