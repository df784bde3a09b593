"""A tiny guest that measures KVM: does it run, how fast, and does SYSCALL reach ring 0?

Some hosts offer a /dev/kvm that works without the processor's virtualization and interprets ring 0. The only way to
tell is to try: a port write from real mode, a counted loop in 64-bit ring 0, and SYSCALL from ring 3.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from manor.accel.kvm import abi, cpuid_table, ioctl
from manor.accel.kvm.errors import KvmError
from manor.accel.kvm.handle import Handle, create_vm
from manor.accel.kvm.kick import Kicker, signal_mask
from manor.accel.kvm.run_page import ExitReason, RunPage

_RAM: Final = 0x10000
_PML4, _PDPT, _DIRECTORY, _STACK = 0x1000, 0x2000, 0x3000, 0x8000
_REAL, _LOOP, _USER, _SYSCALL = 0x4000, 0x4100, 0x4200, 0x4300
_KERNEL_HALF: Final = 0x20_0000
"""Where the same memory is mapped for ring 0 only: a SYSCALL that stays in ring 3 cannot fetch its handler there."""
_SUPERVISOR_PAGE, _USER_PAGE, _LARGE = 0x3, 0x7, 0x80
_CODE: Final = {
    _REAL: b"\xe6\x80\xf4",  # out 0x80, al; hlt
    _LOOP: b"\xff\xc9\x75\xfc\xe6\x80\xf4",  # dec ecx; jnz to it; out 0x80, al; hlt
    _USER: b"\x0f\x05\xf4",  # syscall; hlt, which ring 3 may not
    _SYSCALL: b"\xe6\x81\xf4",  # out 0x81, al; hlt
}
_PORT: Final = 0x80
_SYSCALL_PORT: Final = 0x81
TSS_ADDRESS: Final = 0xFFFB_D000
"""Three pages that KVM needs on processors that cannot run real mode; below the firmware. Section 4.36."""
_TIMEOUT_S: Final = 5.0
_SHORT_LOOP: Final = 5_000
_LONG_LOOP: Final = 1_000_000
_TRIES: Final = 3
"""A busy host may take the processor away for a while; that does not make its KVM slow."""
_now = time.perf_counter_ns
_FAST_NS: Final = 1_000_000
"""A short loop that takes less is worth measuring with a longer one: most of its time is the exit."""
_CR0: Final = 0x8000_0031
_CR4_PAE: Final = 1 << 5
_EFER: Final = 1 | 1 << 8 | 1 << 10
"""SCE, LME, LMA."""
_STAR, _LSTAR, _SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084
_STAR_VALUE: Final = 0x18 << 48 | 0x08 << 32


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the guest did. runs: real mode reached its port; mips: instructions of a loop in ring 0, in millions a
    second; syscall_works: SYSCALL from ring 3 reached ring 0; detail: what happened instead, for people."""

    runs: bool
    mips: float
    syscall_works: bool
    detail: str = ""


def measure(system: Handle, run_size: int) -> Measurement:
    """Run the guest. Raises KvmError if KVM refuses a request, DeviceBusy or NoDevice if it creates no machine."""
    with _ProbeVm(system, run_size) as vm:
        vm.enter_real_mode(_REAL)
        outcome = vm.run()
        if outcome != _PORT:
            return Measurement(False, 0.0, False, f"a port write in real mode ends in {_name(outcome)}")
        count, elapsed = _SHORT_LOOP, _FAST_NS
        for _ in range(_TRIES):
            outcome, taken = _time_loop(vm, _SHORT_LOOP)
            if outcome != _PORT:
                return Measurement(False, 0.0, False, f"a loop in long mode ends in {_name(outcome)}")
            elapsed = taken
            if taken < _FAST_NS:
                count = _LONG_LOOP
                _, elapsed = _time_loop(vm, count)
                break
        mips = 2 * count * 1000 / max(elapsed, 1)
        vm.enter_long_mode(_USER, 3, 0)
        outcome = vm.run()
        works = outcome == _SYSCALL_PORT
        return Measurement(True, round(mips, 1), works, "" if works else f"SYSCALL ends in {_name(outcome)}")


def _time_loop(vm: _ProbeVm, count: int) -> tuple[int | ExitReason, int]:
    """How a loop of 2 * `count` instructions ended, and its time in ns."""
    vm.enter_long_mode(_LOOP, 0, count)
    started = _now()
    outcome = vm.run()
    return outcome, _now() - started


def _name(outcome: int | ExitReason) -> str:
    return f"exit {outcome.name}" if isinstance(outcome, ExitReason) else f"a write to port {outcome:#x}"


class _ProbeVm:
    """A virtual machine of 64 KiB and one vCPU, without interrupt controllers."""

    def __init__(self, system: Handle, run_size: int) -> None:
        self._memory = mmap.mmap(-1, _RAM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._kicker = Kicker()
        self._page: RunPage | None = None
        self._vcpu: Handle | None = None
        self._vm = create_vm(system)
        try:
            self._write_memory()
            self._vm.call(ioctl.SET_TSS_ADDR, TSS_ADDRESS, "cannot set the address of the task state")
            # WHY NATIVE: KVM wants the host address of guest memory.
            # SAFETY: the mapping lives as long as this object, and the slot dies with the machine, before it.
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
            slot = abi.MemoryRegion(0, 0, 0, _RAM, address)
            self._vm.call(ioctl.SET_USER_MEMORY_REGION, slot, "cannot give memory to the virtual machine")
            kernel = system.kernel
            vcpu = Handle(kernel, self._vm.call(ioctl.CREATE_VCPU, 0, "cannot create a vCPU"))
            self._vcpu = vcpu
            cpuid_table.write(vcpu, cpuid_table.read_supported(system))
            try:
                self._page = RunPage(kernel.map(vcpu.fd, run_size))
            except OSError as error:
                raise KvmError("cannot map a vCPU's run page", error.errno) from error
        except KvmError:
            self.close()
            raise

    def __enter__(self) -> _ProbeVm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._page is not None:
            self._page.close()
        if self._vcpu is not None:
            self._vcpu.close()
        self._vm.close()

    def _write_memory(self) -> None:
        for place, entry in (
            (_PML4, _PDPT | _USER_PAGE),
            (_PDPT, _DIRECTORY | _USER_PAGE),
            (_DIRECTORY, _LARGE | _USER_PAGE),
            (_DIRECTORY + 8, _LARGE | _SUPERVISOR_PAGE),
        ):
            self._memory[place : place + 8] = entry.to_bytes(8, "little")
        for address, code in _CODE.items():
            self._memory[address : address + len(code)] = code

    def run(self) -> int | ExitReason:
        """Run to the next exit: the port that was written, or another reason."""
        vcpu, page = self._vcpu, self._page
        assert vcpu is not None
        assert page is not None

        def give_up() -> None:
            page.request_exit()
            self._kicker.kick()

        watchdog = threading.Timer(_TIMEOUT_S, give_up)
        watchdog.daemon = True
        self._kicker.enter()
        try:
            vcpu.call(ioctl.SET_SIGNAL_MASK, signal_mask(), "cannot set the signals of a vCPU")
            watchdog.start()
            try:
                vcpu.kernel.ioctl(vcpu.fd, ioctl.RUN.number, 0)
            except InterruptedError:
                return ExitReason.INTR
            except OSError as error:
                raise KvmError("cannot run a vCPU", error.errno, ioctl.RUN.name) from error
        finally:
            watchdog.cancel()
            self._kicker.leave()
        if page.exit_reason == ExitReason.IO:
            return page.u16[(abi.RUN_UNION + 2) // 2]
        return ExitReason(page.exit_reason)

    def enter_real_mode(self, rip: int) -> None:
        sregs = self._sregs()
        sregs.cs.base = sregs.cs.selector = 0
        self._set(sregs, abi.Regs(rip=rip, rflags=2, rsp=_STACK))

    def enter_long_mode(self, rip: int, ring: int, count: int) -> None:
        """At `rip` in 64-bit mode in `ring`, RCX = count; SYSCALL leads to the handler in ring 0."""
        vcpu = self._vcpu
        assert vcpu is not None
        sregs = self._sregs()
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = _CR0, _PML4, _CR4_PAE, _EFER
        data = abi.SegmentReg(0, 0xFFFF_FFFF, 0x10 if ring == 0 else 0x23, 3, 1, ring, 1, 1, 0, 1)
        code = abi.SegmentReg(0, 0xFFFF_FFFF, 0x08 if ring == 0 else 0x2B, 11, 1, ring, 0, 1, 1, 1)
        sregs.cs = code
        sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = data
        sregs.idt.limit = 0
        msrs = abi.with_entries(abi.MsrEntry, 3)(3)
        for entry, (index, value) in zip(
            msrs.entries, ((_STAR, _STAR_VALUE), (_LSTAR, _KERNEL_HALF + _SYSCALL), (_SFMASK, 0)), strict=True
        ):
            entry.index, entry.data = index, value
        vcpu.call(ioctl.SET_MSRS, msrs, "cannot set model-specific registers")
        self._set(sregs, abi.Regs(rip=rip, rflags=2, rsp=_STACK, rcx=count))

    def _sregs(self) -> abi.Sregs:
        assert self._vcpu is not None
        sregs = abi.Sregs()
        self._vcpu.call(ioctl.GET_SREGS, sregs, "cannot read a vCPU's system registers")
        return sregs

    def _set(self, sregs: abi.Sregs, regs: abi.Regs) -> None:
        assert self._vcpu is not None
        self._vcpu.call(ioctl.SET_SREGS, sregs, "cannot set a vCPU's system registers")
        self._vcpu.call(ioctl.SET_REGS, regs, "cannot set a vCPU's registers")
