"""One vCPU: the loop around KVM_RUN, and its state.

The loop is the hot path: an access to a port or to device memory is decoded here and handed to the machine's
ExitHandler without building an object for it. Every other exit becomes a value (base.exits) or a typed error
(`failure`). What an exit costs is measured by `benchmarks/kvm_exits.py`.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Final

from manor.accel.api import ExitHandler, InterruptController
from manor.accel.kvm import abi, failure, ioctl, msr, state
from manor.accel.kvm.errors import KvmError, VcpuFailure
from manor.accel.kvm.handle import Handle
from manor.accel.kvm.kick import Kicker, drain, signal_mask
from manor.accel.kvm.run_page import IO_OUT, ExitReason, RunPage
from manor.base.errors import InternalError
from manor.base.exits import Debug, Exit, Fault, Halt, Kicked, Shutdown
from manor.spec.cpu_state import CpuState
from manor.trace.event import declare

if TYPE_CHECKING:
    from manor.accel.kvm.irqchip import IrqChip

kvm_exit = declare("exit_kvm", vcpu=int, reason=str, rip=int)

_IO, _MMIO = int(ExitReason.IO), int(ExitReason.MMIO)
# Indices into the views of the run page: exit reason; direction, size, port, count and data offset of a port access;
# address, data, length and direction of a memory access.
_REASON: Final = abi.RUN_EXIT_REASON // 4
_IO_DIRECTION, _IO_SIZE, _IO_PORT, _IO_COUNT, _IO_OFFSET = 32, 33, 34 // 2, 36 // 4, 40 // 8
_MMIO_GPA, _MMIO_DATA, _MMIO_LENGTH, _MMIO_IS_WRITE = 32 // 8, 40 // 8, 48 // 4, 52
_DEBUG_PC: Final = 40 // 8
_REASONS: Final = 64
"""Room for counters by exit reason: KVM has numbered about forty so far."""

_MSI, _MSI_NMI, _MSI_INIT, _MSI_STARTUP = 0xFEE0_0000, 4 << 8, 5 << 8, 6 << 8


class KvmVcpu:
    """accel.api.Vcpu on KVM. Its local APIC is in the kernel, which also wakes it from HLT and wait-for-SIPI."""

    def __init__(
        self,
        handle: Handle,
        index: int,
        page: RunPage,
        handler: ExitHandler,
        chip: IrqChip,
        msrs: tuple[int, ...],
        xsave_size: int,
    ) -> None:
        """msrs: those that belong to its state. Owns `handle` and `page`."""
        self.index = index
        self.handle = handle
        self.failure: VcpuFailure | None = None
        """Why the last `run` returned Fault."""
        self._page = page
        self._handler = handler
        self._chip = chip
        self._msrs = msrs
        self._xsave_size = xsave_size
        self._kicker = Kicker()
        self._counts = [0] * _REASONS
        self._entries = 0
        self._kicks = 0
        self._inside_ns = 0
        self._outside_ns = 0

    # --- running ----------------------------------------------------------------------------------------------

    def run(self) -> Exit:
        self._kicker.enter()
        try:
            self.handle.call(ioctl.SET_SIGNAL_MASK, signal_mask(), "cannot set the signals of a vCPU")
            return self._run()
        finally:
            self._kicker.leave()

    def _run(self) -> Exit:
        page = self._page
        u16, u32, u64, u8 = page.u16, page.u32, page.u64, page.bytes
        enter, fd, number = self.handle.kernel.ioctl, self.handle.fd, ioctl.RUN.number
        handler, counts, now, index = self._handler, self._counts, time.perf_counter_ns, self.index
        left = now()
        while True:
            entered = now()
            self._outside_ns += entered - left
            self._entries += 1
            try:
                enter(fd, number, 0)
            except OSError as error:
                left = now()
                self._inside_ns += left - entered
                if error.errno == errno.EINTR:
                    self._kicks += 1
                    drain()
                    page.clear_exit_request()
                    return Kicked()
                if error.errno == errno.EAGAIN:
                    continue  # INIT or SIPI arrived; the next entry sees it
                return self._fail(self._refused(error))
            left = now()
            self._inside_ns += left - entered
            reason = u32[_REASON]
            counts[reason] += 1
            if kvm_exit.on:
                self._trace(reason)
            if reason == _IO:
                port, size, offset = u16[_IO_PORT], u8[_IO_SIZE], u64[_IO_OFFSET]
                is_out = u8[_IO_DIRECTION] == IO_OUT
                if u32[_IO_COUNT] != 1:
                    self._string_io(port, size, offset, is_out)
                elif size == 1:
                    if is_out:
                        handler.pio_write(port, 1, u8[offset])
                    else:
                        u8[offset] = handler.pio_read(port, 1)
                elif is_out:
                    handler.pio_write(port, size, u16[offset >> 1] if size == 2 else u32[offset >> 2])
                elif size == 2:
                    u16[offset >> 1] = handler.pio_read(port, 2)
                else:
                    u32[offset >> 2] = handler.pio_read(port, 4)
            elif reason == _MMIO:
                gpa, size = u64[_MMIO_GPA], u32[_MMIO_LENGTH]
                if u8[_MMIO_IS_WRITE]:
                    handler.mmio_write(index, gpa, size, u64[_MMIO_DATA] & (1 << 8 * size) - 1)
                else:
                    u64[_MMIO_DATA] = handler.mmio_read(index, gpa, size)
            else:
                exit_ = self._other(reason)
                if exit_ is not None:
                    return exit_

    def _string_io(self, port: int, size: int, offset: int, is_out: bool) -> None:
        """INS or OUTS with a repeat prefix: several items at once."""
        page = self._page.bytes
        for start in range(offset, offset + size * self._page.u32[_IO_COUNT], size):
            if is_out:
                self._handler.pio_write(port, size, int.from_bytes(page[start : start + size], "little"))
            else:
                page[start : start + size] = self._handler.pio_read(port, size).to_bytes(size, "little")

    def _other(self, reason: int) -> Exit | None:
        """Exits that are no access to a device; None: go on."""
        match reason:
            case ExitReason.HLT:
                return Halt()
            case ExitReason.SHUTDOWN:
                place = failure.read_place(self.handle, self.index)
                return Shutdown(f"triple fault at {place}", place.rip)
            case ExitReason.DEBUG:
                return Debug(self._page.u64[_DEBUG_PC])
            case ExitReason.INTR | ExitReason.IRQ_WINDOW_OPEN:
                return None
            case _:
                return self._fail(failure.explain(self.handle, self.index, self._page))

    def _fail(self, error: VcpuFailure) -> Fault:
        self.failure = error
        return Fault(str(error), error, error.place.rip)

    def _refused(self, error: OSError) -> VcpuFailure:
        """KVM_RUN itself failed."""
        place = failure.read_place(self.handle, self.index)
        cause = KvmError("KVM_RUN failed", error.errno, ioctl.RUN.name)
        refused = VcpuFailure(str(cause), place)
        refused.__cause__ = error
        return refused

    def _trace(self, reason: int) -> None:
        regs = abi.Regs()
        self.handle.call(ioctl.GET_REGS, regs, "cannot read a vCPU's registers")
        kvm_exit(self.index, _name(reason), regs.rip)

    # --- any thread -------------------------------------------------------------------------------------------

    def kick(self) -> None:
        self._page.request_exit()
        self._kicker.kick()

    def nmi(self) -> None:
        self._signal(_MSI_NMI)

    def init(self) -> None:
        self._signal(_MSI_INIT)

    def sipi(self, vector: int) -> None:
        self._signal(_MSI_STARTUP | vector)

    def _signal(self, data: int) -> None:
        # As a message: requests to a vCPU wait while it is in the guest.
        self._chip.send(_MSI | self.index << 12, data)

    def has_work(self) -> bool:
        """Always: where the vCPU has none, it sleeps inside `run`."""
        return True

    # --- not used with interrupt controllers in the kernel ----------------------------------------------------

    def set_interrupt_controller(self, controller: InterruptController) -> None:
        raise InternalError("a vCPU on KVM has its local APIC in the kernel")

    def interrupt_pending(self, pending: bool) -> None:
        raise InternalError("a vCPU on KVM has its local APIC in the kernel")

    # --- state ------------------------------------------------------------------------------------------------

    def get_state(self) -> CpuState:
        return state.get_state(self.handle, self._msrs, self._xsave_size)

    def set_state(self, state_: CpuState) -> None:
        state.set_state(self.handle, state_, self._xsave_size)

    def skip_time(self, duration_ns: int) -> None:
        """Set the TSC back by so many ns. Raises KvmError."""
        khz = self.handle.call(ioctl.GET_TSC_KHZ, 0, "cannot ask for the frequency of a vCPU's TSC")
        tsc = msr.read(self.handle, (state.MSR_TSC,)).get(state.MSR_TSC, 0)
        msr.write(self.handle, {state.MSR_TSC: (tsc - duration_ns * khz // 1_000_000) % (1 << 64)})

    def set_single_step(self, is_on: bool) -> None:
        """Return Debug after each instruction. Raises KvmError."""
        control = abi.GUESTDBG_ENABLE | abi.GUESTDBG_SINGLESTEP if is_on else 0
        self.handle.call(ioctl.SET_GUEST_DEBUG, abi.GuestDebug(control), "cannot debug the guest")

    def translate(self, gva: int) -> int | None:
        """Guest-physical address of a guest-virtual one by the guest's own tables; None if it is not mapped."""
        walk = abi.Translation(gva)
        self.handle.call(ioctl.TRANSLATE, walk, "cannot walk the guest's page tables")
        return int(walk.physical_address) if walk.valid else None

    def statistics(self) -> dict[str, int]:
        """Entries and exits by reason; time inside the guest and outside, in ns. Exact while it is not running."""
        counters = {"entries": self._entries, "guest_ns": self._inside_ns, "host_ns": self._outside_ns}
        counters |= {f"exits_{_name(reason)}": count for reason, count in enumerate(self._counts) if count}
        if self._kicks:
            counters["exits_kick"] = self._kicks
        return counters

    def close(self) -> None:
        self._page.close()
        self.handle.close()


def _name(reason: int) -> str:
    return ExitReason(reason).name.lower() if reason in ExitReason.__members__.values() else str(reason)
