"""The threads of a VM's vCPUs: those it starts with, and those that come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from manor.machine.firmware import FIRMWARE_MSRS
from manor.spec.cpu_state import CpuState
from manor.vmm.lifecycle import VmEnd
from manor.vmm.vcpu_loop import VcpuLoop

if TYPE_CHECKING:
    from manor.machine.pc import Machine


class Vcpus:
    """One loop for each vCPU that the guest has. Changed by who changes the machine; `wake` from any thread."""

    def __init__(
        self, on_end: Callable[[VmEnd], None], on_start: Callable[[], None], name_of: Callable[[int], str]
    ) -> None:
        """As for `VcpuLoop`."""
        self._on_end = on_end
        self._on_start = on_start
        self._name_of = name_of
        self._loops: dict[int, VcpuLoop] = {}
        self._is_running = False
        self._is_paused = False

    def __iter__(self) -> Iterator[VcpuLoop]:
        return iter(list(self._loops.values()))

    @property
    def count(self) -> int:
        return len(self._loops)

    def build(self, machine: Machine | None, count: int) -> None:
        """New loops for the first `count` vCPUs of a machine; for None, none."""
        self._is_running = self._is_paused = False
        self._loops = {} if machine is None else {index: self._make(machine, index) for index in range(count)}

    def start(self) -> None:
        self._is_running = True
        for loop in self:
            loop.start()

    def add(self, machine: Machine, index: int) -> None:
        """A vCPU that waits for its start-up message. `pause`, if the others are paused."""
        machine.vm.vcpus[index].set_state(CpuState(runnable=False, msrs=dict(FIRMWARE_MSRS)))
        _reset_lapic(machine, index)
        loop = self._loops[index] = self._make(machine, index)
        if self._is_paused:
            loop.request_pause()
        if self._is_running:
            loop.start()

    def remove(self, machine: Machine, index: int) -> None:
        """End its thread, and its timer. Not on that thread."""
        loop = self._loops.pop(index, None)
        if loop is not None:
            loop.request_stop()
            loop.join()
            _reset_lapic(machine, index)

    def request_pause(self) -> None:
        self._is_paused = True
        for loop in self:
            loop.request_pause()

    def resume(self) -> None:
        self._is_paused = False
        for loop in self:
            loop.resume()

    def stop(self) -> None:
        """End all threads. Not on one of them."""
        for loop in self:
            loop.request_stop()
        for loop in self:
            loop.join()

    def wake(self, index: int) -> None:
        """A vCPU may have work. Thread: any."""
        loop = self._loops.get(index)
        if loop is not None:
            loop.wake()

    def _make(self, machine: Machine, index: int) -> VcpuLoop:
        return VcpuLoop(machine.vm.vcpus[index], self._on_end, self._on_start, self._name_of)


def _reset_lapic(machine: Machine, index: int) -> None:
    """Under accelerators with local APICs of their own, those are reset with their vCPU."""
    if machine.lapics:
        with machine.lock:
            machine.lapics[index].reset()
