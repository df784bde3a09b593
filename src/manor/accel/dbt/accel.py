"""The accelerator `dbt` behind the accelerator interface."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from manor.accel.api import ExitHandler, InterruptController
from manor.accel.dbt import state as cpu_state
from manor.accel.dbt.callbacks import Callbacks
from manor.accel.dbt.peek import Peek
from manor.base.errors import ConfigError
from manor.base.exits import Exit, Fault, Halt, Kicked, Shutdown, WaitForSipi
from manor.engine import env
from manor.engine.load import create_engine
from manor.mem import heap
from manor.mem.guest_memory import GuestMemory
from manor.spec.cpu_state import CpuState
from manor.spec.machine import CpuModel

HALT_NONE, HALT_KICKED, HALT_HALTED, HALT_WAIT_SIPI, HALT_SHUTDOWN, HALT_HOST, HALT_FLUSH = range(7)
"""Halt reasons of engine.cpu_native.Cpu.run."""

_U64: Final = (1 << 64) - 1
IDLE_WATCH_NS: Final = 5_000_000_000
IDLE_SHARE: Final = 20
"""A process that took less than one part in so many of IDLE_WATCH_NS is idle."""
IDLE_CODE: Final = 4 << 20
"""Bytes of host code that a guest may keep when it first becomes idle; what is hot among them is translated again in
milliseconds. Each time the bound doubles, so that a guest that wakes now and then soon keeps all that it uses."""

POLL_NS: Final = 100_000
"""How long a halted vCPU waits for its next event before its thread sleeps, if its last halts were that short. To sleep
and to be woken takes about as long."""

CPU_MODELS: Final = ("max", "x86-64-v2")
"""The engine is an x86-64-v2 processor."""

TRACE_BITS: Final = {
    "syscall_enter": env.TRACE_SYSCALLS,
    "interrupt_deliver": env.TRACE_INTERRUPTS,
    "block_translate": env.TRACE_BLOCKS,
    "guest_error": env.TRACE_INVALID,
}


class DbtVcpu:
    """accel.api.Vcpu on one engine Cpu."""

    def __init__(self, vm: DbtVm, index: int, callbacks: Callbacks) -> None:
        self.index = index
        self._vm = vm
        self._callbacks = callbacks
        self._cpu = vm.engine.cpus[index]
        callbacks.read_string = Peek(vm.memory, self._fields()).string
        # The local APIC reckons with the machine's time, which leaves out what `skip_time` took from the TSC.
        callbacks.tsc_offset = lambda: (self._fields().get("tsc_offset") + vm.skipped_ns) & _U64
        if index:
            self._fields().set("wait_sipi", 1, code="I")

    def _fields(self) -> cpu_state.Fields:
        return cpu_state.Fields(self._cpu.state)

    def run(self) -> Exit:
        self._fields().set("trace", self._callbacks.trace_bits(), code="I")
        while True:
            with self._vm.gate:
                reason = self._cpu.run()
            if reason == HALT_FLUSH:
                self._vm.gate.run_alone(self._vm.engine.empty_cache)
                continue
            if reason == HALT_HOST:
                error = self._callbacks.error
                self._callbacks.error = None
                if error is None:
                    return Fault("the engine stopped without saying why")
                raise error
            if reason == HALT_HALTED:
                self._vm.shrink_if_idle()
                return Halt()
            if reason == HALT_WAIT_SIPI:
                return WaitForSipi()
            if reason == HALT_SHUTDOWN:
                rip = self._fields().get("rip")
                return Shutdown(f"triple fault at rip {rip:#018x}", rip)
            return Kicked()

    def kick(self) -> None:
        self._cpu.kick()

    def set_interrupt_controller(self, controller: InterruptController) -> None:
        self._callbacks.controller = controller

    def interrupt_pending(self, pending: bool) -> None:
        self._cpu.interrupt_pending(pending)

    def nmi(self) -> None:
        self._cpu.nmi()

    def init(self) -> None:
        self._cpu.init()

    def sipi(self, vector: int) -> None:
        self._cpu.sipi(vector)

    def has_work(self) -> bool:
        return self._cpu.has_work()

    def get_state(self) -> CpuState:
        return cpu_state.get_state(self._cpu, self._vm.now_ns())

    def set_state(self, state: CpuState) -> None:
        cpu_state.set_state(self._cpu, state, self._vm.now_ns())

    def skip_time(self, duration_ns: int) -> None:
        """As VmHandle.skip_time."""
        fields = self._fields()
        fields.set("tsc_offset", (fields.get("tsc_offset") - duration_ns) & _U64)

    def statistics(self) -> dict[str, int]:
        """Counters of this vCPU; readable while it runs, then a moment old."""
        fields = self._fields()
        counters = {name: fields.get("stats", number) for number, name in enumerate(env.STATS)}
        return {"guest_instructions": fields.get("insn_count")} | counters


class Gate:
    """Lets vCPUs run, or one caller alone: the code cache is emptied with every vCPU outside.

    A context manager around running. `run_alone` keeps the others out and waits for them.
    """

    def __init__(self, kick_all: Callable[[], None]) -> None:
        self._condition = threading.Condition()
        self._running = 0
        self._alone = False
        self._kick_all = kick_all

    def __enter__(self) -> None:
        with self._condition:
            while self._alone:
                self._condition.wait()
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._running -= 1
            self._condition.notify_all()

    def run_alone(self, action: Callable[[], None]) -> None:
        """Run `action` while no vCPU is inside. The caller must be outside."""
        with self._condition:
            while self._alone:
                self._condition.wait()
            self._alone = True
            while self._running:
                self._kick_all()
                self._condition.wait(0.01)
            try:
                action()
            finally:
                self._alone = False
                self._condition.notify_all()


class DbtVm:
    """accel.api.VmHandle on the engine. The machine brings the interrupt controllers."""

    interrupts: None = None
    doorbells: None = None

    def __init__(self, memory: GuestMemory, handler: ExitHandler, cpus: int) -> None:
        self.memory = memory
        self.skipped_ns = 0
        """For how long the guest was paused, in all."""
        self._held_ns: int | None = None
        self._started_ns = self._watched_since_ns = time.monotonic_ns()
        self._may_keep = IDLE_CODE
        self._worked_ns = time.process_time_ns()
        callbacks = [Callbacks(handler, index) for index in range(cpus)]
        regions = [
            (region.start, region.size, memory.host_address(region), region.kind == "rom") for region in memory.regions
        ]
        self.engine = create_engine(regions, callbacks, memory)
        self.gate = Gate(self._kick_all)
        self.vcpus: Sequence[DbtVcpu] = tuple(DbtVcpu(self, index, c) for index, c in enumerate(callbacks))
        memory.on_write = self.engine.code_written
        memory.on_write_ranges = self.engine.code_written_ranges
        if cpus < len(os.sched_getaffinity(0)):
            # A processor is left for those whom the vCPUs wait for.
            for cpu in self.engine.cpus:
                cpu.poll(POLL_NS)

    def shrink_if_idle(self) -> None:
        """Drop the translations of a guest that became idle: those of its boot are most of them. Thread: a vCPU's,
        outside `gate`."""
        now = time.monotonic_ns()
        if now - self._watched_since_ns < IDLE_WATCH_NS:
            return
        worked = time.process_time_ns() - self._worked_ns
        idle = worked * IDLE_SHARE < now - self._watched_since_ns
        self._watched_since_ns, self._worked_ns = now, self._worked_ns + worked
        if idle and self.engine.code_used() > self._may_keep:
            self._may_keep *= 2
            self.gate.run_alone(self.engine.empty_cache)
            heap.give_back()

    def skip_time(self, duration_ns: int) -> None:
        self.skipped_ns += duration_ns
        for vcpu in self.vcpus:
            vcpu.skip_time(duration_ns)

    @contextmanager
    def time_held(self) -> Iterator[None]:
        self._held_ns = time.monotonic_ns()
        try:
            yield
        finally:
            self._held_ns = None

    def now_ns(self) -> int:
        """The moment that states of vCPUs show."""
        return time.monotonic_ns() if self._held_ns is None else self._held_ns

    def _kick_all(self) -> None:
        for vcpu in self.vcpus:
            vcpu.kick()

    def get_clock(self) -> int | None:
        return None

    def set_clock(self, now_ns: int) -> None:
        pass

    def statistics(self) -> dict[str, int | float]:
        total: dict[str, int | float] = {}
        for vcpu in self.vcpus:
            for name, value in vcpu.statistics().items():
                total[name] = total.get(name, 0) + value
        elapsed = (time.monotonic_ns() - self._started_ns) / 1e9
        total["guest_mips"] = round(total["guest_instructions"] / elapsed / 1e6, 1)
        return total

    def close(self) -> None:
        self.memory.on_write = None
        self.memory.on_write_ranges = None


class DbtAccel:
    """accel.api.Accel: binary translation."""

    name = "dbt"

    def create_vm(
        self, memory: GuestMemory, handler: ExitHandler, cpus: int, cpu_model: CpuModel = "max"
    ) -> DbtVm:
        """Raises ConfigError for a model that the engine is not."""
        if cpu_model not in CPU_MODELS:
            models = ", ".join(CPU_MODELS)
            raise ConfigError("cpu", f"under the accelerator dbt there is no {cpu_model}; give one of {models}")
        return DbtVm(memory, handler, cpus)
