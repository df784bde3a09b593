"""The wires from a local APIC to its vCPU, and the alarm clock of the vCPU's thread."""

from __future__ import annotations

from collections.abc import Callable

from manor.accel.api import Vcpu


class VcpuLines:
    """CpuLines of the local APIC: tells the vCPU, then wakes its thread if it sleeps.

    Thread: any, APIC bus lock held.
    """

    def __init__(self, vcpu: Vcpu, wake: Callable[[int], None]) -> None:
        self._vcpu = vcpu
        self._wake = wake

    def interrupt_pending(self, pending: bool) -> None:
        self._vcpu.interrupt_pending(pending)
        if pending:
            self._wake(self._vcpu.index)

    def nmi(self) -> None:
        self._vcpu.nmi()
        self._wake(self._vcpu.index)

    def init(self) -> None:
        self._vcpu.init()
        self._wake(self._vcpu.index)

    def sipi(self, vector: int) -> None:
        self._vcpu.sipi(vector)
        self._wake(self._vcpu.index)
