"""The life of a vCPU's thread: run guest code, sleep while it halts, pause and stop when told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import assert_never

from manor.accel.api import Vcpu
from manor.base.exits import Debug, Exit, Fault, Halt, Kicked, Shutdown, WaitForSipi
from manor.trace.event import declare
from manor.vmm.lifecycle import Reason, VmEnd

logger = logging.getLogger(__name__)

vcpu_exit = declare("vcpu_exit", vcpu=int, exit=str)


class VcpuLoop:
    """One vCPU and the thread it runs on.

    on_end is called at most once, on the vCPU's thread, when this vCPU ends the whole VM; on_start on that thread
    before guest code runs. name_of: what the guest's kernel calls an address, "" if it is not known; asked when the VM
    dies, also on the vCPU's thread.
    """

    def __init__(
        self,
        vcpu: Vcpu,
        on_end: Callable[[VmEnd], None],
        on_start: Callable[[], None] | None = None,
        name_of: Callable[[int], str] = lambda address: "",
    ) -> None:
        self._vcpu = vcpu
        self._on_end = on_end
        self._on_start = on_start
        self._name_of = name_of
        self._stop = False
        self._is_pausing = False
        self._may_run = threading.Event()
        self._outside = threading.Event()
        self._bell = threading.Lock()
        """Taken, unless somebody rang. A lock because to sleep and to be woken takes a fraction of an Event's time."""
        self._bell.acquire()
        self._is_asleep = False
        """Set before the thread looks whether there is work: who gives it some then has to ring."""
        self._thread = threading.Thread(target=self._run, name=f"vcpu-{vcpu.index}", daemon=True)
        self.halts = 0
        """How often the vCPU went to sleep. Written by its thread only."""

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """The vCPU may have something to do. Thread: any."""
        if self._is_asleep:
            with suppress(RuntimeError):  # somebody rang already
                self._bell.release()

    def request_pause(self) -> None:
        """Make the thread leave guest code and wait for `resume`. Thread: any but the vCPU's own."""
        self._outside.clear()
        self._may_run.clear()
        self._is_pausing = True
        self.wake()
        self._vcpu.kick()

    def wait_paused(self, timeout: float) -> bool:
        """Wait, after `request_pause`, until the thread is outside of guest code and devices; False after `timeout`
        seconds."""
        return self._outside.wait(timeout)

    def resume(self) -> None:
        """Go on. Thread: any but the vCPU's own."""
        self._is_pausing = False
        self._may_run.set()

    def request_stop(self) -> None:
        """Make the thread leave guest code and end. Thread: any, also the vCPU's own."""
        self._stop = True
        self._may_run.set()
        self.wake()
        self._vcpu.kick()

    def join(self) -> None:
        """Wait for the thread's end, after `request_stop`. Not on the vCPU's own thread."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        if self._on_start is not None:
            self._on_start()
        try:
            end = self._run_guest()
        except Exception as error:  # the edge where a bug in a device ends its VM, not the process
            logger.exception("vCPU %d failed", self._vcpu.index)
            end = VmEnd(Reason.ERROR, f"vCPU {self._vcpu.index}: {type(error).__name__}: {error}")
        if end is not None:
            self._on_end(end)
        self._outside.set()

    def _run_guest(self) -> VmEnd | None:
        """Run until the guest ends the VM (how), or until told to stop (None)."""
        while not self._stop:
            if self._is_pausing:
                self._outside.set()
                self._may_run.wait()
                continue
            end = self._handle(self._vcpu.run())
            if end is not None:
                return end
        return None

    def _handle(self, exit_: Exit) -> VmEnd | None:
        if vcpu_exit.on:
            vcpu_exit(self._vcpu.index, repr(exit_))
        match exit_:
            case Halt() | WaitForSipi():
                self._sleep()
            case Kicked():
                pass
            case Shutdown(reason, rip):
                return VmEnd(Reason.TRIPLE_FAULT, self._with_name(reason, rip))
            case Debug(rip):
                return VmEnd(Reason.ERROR, f"breakpoint at {rip:#018x}, but no debugger is attached")
            case Fault(reason, _, rip):
                return VmEnd(Reason.ERROR, self._with_name(reason, rip))
            case _:
                assert_never(exit_)
        return None

    def _with_name(self, reason: str, rip: int | None) -> str:
        name = "" if rip is None else self._name_of(rip)
        return f"{reason} ({name})" if name else reason

    def _sleep(self) -> None:
        """Sleep until there is work. Say so, then look, then wait: a wake-up between any two of them is not lost. One
        that comes late rings for the next sleep, which then looks once more."""
        self.halts += 1
        self._is_asleep = True
        while not self._stop and not self._is_pausing and not self._vcpu.has_work():
            self._bell.acquire()
        self._is_asleep = False
