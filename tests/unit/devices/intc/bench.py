"""Local APICs on a bench, shared by the interrupt controller tests."""

from __future__ import annotations

from manor.devices.intc.lapic import ApicBus, LocalApic
from manor.testing.fakes import FakeClock, FakeTimers

TSC_HZ = 2_000_000_000
APIC_BASE, TSC_DEADLINE, X2APIC = 0x1B, 0x6E0, 0x800
ID, VERSION, TPR, APR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR_LOW, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR = range(0x320, 0x380, 0x10)
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
MASKED = 1 << 16


class Cpu:
    """CpuLines that remember."""

    def __init__(self) -> None:
        self.pending = False
        self.changes: list[bool] = []
        self.events: list[str] = []

    def interrupt_pending(self, pending: bool) -> None:
        assert pending != self.pending, "told without a change"
        self.pending = pending
        self.changes.append(pending)

    def nmi(self) -> None:
        self.events.append("nmi")

    def init(self) -> None:
        self.events.append("init")

    def sipi(self, vector: int) -> None:
        self.events.append(f"sipi {vector:#x}")


class Bench:
    """`count` processors with enabled local APICs, IDs from `first_id`."""

    def __init__(self, count: int = 1, first_id: int = 0, enable: bool = True) -> None:
        self.clock = FakeClock(now_ns=1000)
        self.timers = FakeTimers(self.clock)
        self.bus = ApicBus()
        self.cpus = [Cpu() for _ in range(count)]
        self.apics = [
            LocalApic(first_id + index, self.clock, self.timers, TSC_HZ, cpu, self.bus)
            for index, cpu in enumerate(self.cpus)
        ]
        self.apic = self.apics[0]
        self.cpu = self.cpus[0]
        if enable:
            for apic in self.apics:
                apic.write(SVR, 4, 0x1FF)

    def read(self, offset: int, cpu: int = 0) -> int:
        return self.apics[cpu].read(offset, 4)

    def write(self, offset: int, value: int, cpu: int = 0) -> None:
        self.apics[cpu].write(offset, 4, value)

    def msr(self, index: int, cpu: int = 0) -> int | None:
        return self.apics[cpu].read_msr(index)

    def x2apic(self) -> None:
        """Switch every local APIC to x2APIC mode."""
        for apic in self.apics:
            base = apic.read_msr(APIC_BASE)
            assert base is not None
            assert apic.write_msr(APIC_BASE, base | 1 << 10)

    def ipi(self, destination: int, low: int, cpu: int = 0) -> None:
        self.write(ICR_HIGH, destination << 24, cpu)
        self.write(ICR_LOW, low, cpu)

    def taken(self) -> list[list[int]]:
        """Acknowledge and finish everything, per processor."""
        result = []
        for apic in self.apics:
            vectors = []
            while (vector := apic.acknowledge()) is not None:
                vectors.append(vector)
                if apic.read_msr(X2APIC + 2) is not None:
                    apic.write_msr(X2APIC + 0x0B, 0)
                else:
                    apic.write(EOI, 4, 0)
            result.append(vectors)
        return result
