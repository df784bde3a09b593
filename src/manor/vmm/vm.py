"""One virtual machine from Python: build it, start it, talk to it, end it.

    import manor

    with manor.start(kernel="bzImage", initrd="initrd", append="console=ttyS0") as vm:
        vm.serial.wait_for("login:")
        vm.serial.send("root\\n")
        vm.power_off()
    print(vm.wait())

Threads: one per vCPU, one I/O loop, and a supervisor that takes the others apart when the VM ends or reboots.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from manor import __version__
from manor.accel.api import Accel
from manor.accel.choose import choose
from manor.base.clock import HostClock
from manor.base.errors import ConfigError, HostError, ManorError, StateError
from manor.base.pausable_clock import PausableClock
from manor.base.units import parse_size
from manor.machine.builder import build
from manor.machine.host_side import HostNic, HostSide
from manor.machine.pc import Machine
from manor.mem.layout import MAX_RAM
from manor.spec.block import DiskSpec
from manor.spec.check import check
from manor.spec.disk_text import parse_disk
from manor.spec.machine import ConsoleName, CpuModel, MachineSpec
from manor.spec.net import NicSpec
from manor.spec.net_text import parse_nic
from manor.spec.saved_vm import SavedHead, mark_disks
from manor.vmm.balloon import Balloon
from manor.vmm.console import Console
from manor.vmm.disks import OpenDisks, boots_from, resize_disk
from manor.vmm.hotplug import Devices
from manor.vmm.io_loop import IoLoop, LockedTimers, LoopReaders
from manor.vmm.lifecycle import Event, Lifecycle, LifeEvent, Reason, State, VmEnd
from manor.vmm.nics import Nic, Nics
from manor.vmm.services import Services
from manor.vmm.vcpus import Vcpus
from manor.vmm.workers import Workers

if TYPE_CHECKING:
    from manor.backends.agent.client import AgentClient
    from manor.backends.vsock.host import VsockHost
    from manor.vmm.saved import SavedVm
    from manor.vmm.saving import Saving

logger = logging.getLogger(__name__)

_DRAIN_S: Final = 30.0
"""How long the end of a VM waits for storage that does not answer."""
_CLOSE_S: Final = 5.0
"""How long the I/O loop may take to close what it serves, in seconds; it never waits."""
PAUSE_S = 5.0
"""How long vCPUs may take to pause, in seconds: one may wait for the reader of its output."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of one VM since its last start; times in ns. Counts are exact once the VM has ended.

    cpu_ns: processor time of the whole process. accel: the accelerator's own counters. exits: accesses that left
    guest code, by device. halts: how often a vCPU went to sleep.
    """

    wall_ns: int
    cpu_ns: int
    halts: int
    wakeups: int
    timers: int
    accel: dict[str, int | float] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    disks: dict[str, dict[str, int]] = field(default_factory=dict)
    nics: dict[str, dict[str, int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class Vm:
    """A virtual machine. Thread: any, unless a method says otherwise."""

    def __init__(self, spec: MachineSpec, accel: Accel, reboot: bool = True, saved: SavedVm | None = None) -> None:
        """reboot: whether a guest that resets itself starts again; otherwise that ends the VM. saved: what it goes on
        with, instead of booting.

        Nothing runs yet. Raises ConfigError if the description is wrong.
        """
        if saved is not None:
            spec = saved.adapt(spec)
        check(spec, MAX_RAM)
        self.spec = spec
        self.serial = Console("serial")
        """The first serial port (ttyS0 in Linux)."""
        self.console = Console("virtio-console")
        """The virtio console (hvc0 in Linux)."""
        self.balloon = Balloon(spec.memory)
        """How much memory the guest shall have."""
        self._accel = accel
        self._reboot = reboot
        self.saved = saved
        """What it went on with, if it did not boot."""
        self._clock = HostClock()
        self._machine_clock = PausableClock(self._clock)
        self._changing = threading.Lock()
        """Held by who pauses, resumes or takes apart the machine; before any other lock."""
        self._loop = IoLoop(self._clock, self._on_loop_error)
        self._services = Services(spec, self._loop, self._clock, self._on_loop_error)
        self._lifecycle = Lifecycle()
        self._readers = LoopReaders(self._loop)
        self._nics = Nics(self._loop, self._clock)
        self._workers = Workers(self._on_worker_error)
        self._disks = OpenDisks(spec.disks)
        self._request = threading.Condition()
        self._requested: VmEnd | None = None
        self._end: VmEnd | None = None
        self._on_end: Callable[[], None] | None = None
        self._listeners: list[Callable[[LifeEvent], None]] = []
        self._preserves_crash = False
        self._has_crashed = False
        self._reboots_next = False
        self._size: tuple[int, int] | None = None
        self._machine: Machine | None = None
        self._timers: LockedTimers | None = None
        self._vcpus = Vcpus(self.request_end, self._workers.enlist, self._name_of)
        owned = self._disks, self._nics, self._vcpus
        self.devices = Devices(*owned, self._changing, self._running_machine, lambda: self.spec, self._set_spec)
        """Disks, interfaces and vCPUs that come and go."""
        self._started_wall = 0
        self._started_cpu = 0
        self._final: Statistics | None = None
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    # --- life -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._lifecycle.state

    @property
    def end(self) -> VmEnd | None:
        """How the VM ended; None while it has not."""
        return self._end

    @property
    def loop(self) -> IoLoop:
        """The VM's event loop, for a terminal or another front end."""
        return self._loop

    def prepare(self) -> None:
        """Build the machine without running it; `start` does it otherwise.

        Raises ConfigError or HostError if it cannot be built; then the VM has ended, and nothing is left running.
        """
        if self._machine is not None or self._lifecycle.state is not State.CREATED:
            return
        try:
            if self.saved is not None:
                self.saved.check(self.spec, self._accel.name)
            self._disks.open()
            self._nics.open(self.spec)
            self._services.open()
            self._build(self.saved)
        except ManorError as error:
            self._nics.close()
            self._services.close()
            self._loop.stop()
            self._disks.close()
            self._end = VmEnd(Reason.ERROR, str(error))
            self._lifecycle.advance(Event.END)
            raise

    def start(self, paused: bool | None = None) -> None:
        """Build the machine and run it. Returns at once. Raises as `prepare`, and StateError if it ran before.

        paused: it waits for `resume` before its first instruction; None: as it was when it was saved.
        """
        self.prepare()
        saved = self.saved
        if paused is None:
            paused = saved is not None and saved.head.paused
        self._lifecycle.advance(Event.START)
        self._loop.start()
        self._nics.loop_runs()
        with self._changing:
            self._run(stands_still=paused or saved is not None)
            if saved is not None:
                for nic, known in zip(self._nics.all, saved.networks, strict=False):
                    nic.recall(known)
                if not paused:
                    self._move()
        self._supervisor.start()
        if saved is not None and not paused:
            self._tell_time()

    def pause(self) -> None:
        """Stop the vCPUs, timers and devices until `resume`. For the guest no time passes; its clock chip goes on.

        A machine that is paused can be powered off. Thread: any but the VM's own.
        Raises StateError if it is not running, HostError if a vCPU waits for the reader of its output, or a disk for
        the host's storage: while it is paused, disks and memory do not change.
        """
        with self._changing:
            self._stand_still()

    def _stand_still(self) -> None:
        """As `pause`. `_changing` held."""
        self._lifecycle.advance(Event.PAUSE)
        self._vcpus.request_pause()
        limit = time.monotonic() + PAUSE_S
        for index, vcpu in enumerate(self._vcpus):
            if not vcpu.wait_paused(limit - time.monotonic()):
                self._go_on()
                raise HostError(f"cannot pause: vCPU {index} waits for somebody to read its output")
        machine, timers = self._machine, self._timers
        assert machine is not None
        assert timers is not None
        slow = machine.drain(max(0.0, limit - time.monotonic()))
        if slow:
            self._go_on()
            raise HostError(f"cannot pause: {slow[0]} waits for the host's storage")
        with machine.lock:
            timers.pause()
            machine.pause_network()
            self._machine_clock.stop()

    def resume(self) -> None:
        """Go on after `pause`. The guest's idea of civil time is late by the pause; its agent is told to set it, if
        there is one. Without, NTP or the clock chip (`hwclock -s`) will do. Raises StateError if it is not paused."""
        with self._changing:
            state = State.STOPPING if self._is_ending() else self._lifecycle.state
            if state is not State.PAUSED:
                raise StateError("resume", state.value, [State.PAUSED.value])
            self._move()
        self._tell_time()

    def _move(self) -> None:
        """End what `_stand_still` began. `_changing` held."""
        machine, timers = self._machine, self._timers
        assert machine is not None
        assert timers is not None
        with machine.lock:
            machine.vm.skip_time(self._machine_clock.start())
            timers.resume()
            machine.resume_network()
        self._go_on()

    def _tell_time(self) -> None:
        """Have the guest's agent set the guest's clock, if there is one."""
        if self._services.has_agent:
            threading.Thread(target=self._set_time, name="set-time", daemon=True).start()

    def _set_time(self) -> None:
        try:
            self.agent.set_time()
        except ManorError as error:
            logger.warning("the guest's clock is late by its pause: %s", error)

    def _go_on(self) -> None:
        """Let the vCPUs run again. `_changing` held."""
        self._lifecycle.advance(Event.RESUME)
        self._vcpus.resume()
        with self._request:
            self._request.notify_all()

    def save(self, target: Saving | str | PathLike[str], before_end: Callable[[], None] | None = None) -> None:
        """Write the VM into a file and end it; `Vm(..., saved=SavedVm(path))` goes on with it.

        target: a path, or a Saving, which tells of progress and can be cancelled. before_end: called when the file is
        there, before the VM's end begins. If it fails the VM goes on; only the
        host's refusal of the last few bytes, when the disks are closed already, ends it with an error. Thread: any but
        the VM's own. Raises ConfigError for a VM that cannot be saved, StateError, HostError, SaveGivenUp.
        """
        from manor.vmm.saving import Saving, refuse_unsaveable

        saving = target if isinstance(target, Saving) else Saving(target)
        refuse_unsaveable(self.spec, self._services.shares)
        with self._changing:
            is_running = self._lifecycle.state is State.RUNNING
            if self._requested is not None or not (is_running or self._lifecycle.state is State.PAUSED):
                state = State.STOPPING if self._requested is not None else self._lifecycle.state
                raise StateError("save", state.value, [State.RUNNING.value, State.PAUSED.value])
            if is_running:
                self._stand_still()
            try:
                self._write_state(saving, is_running)
            except BaseException:
                if is_running and not self._is_ending():
                    self._move()
                raise
            end = VmEnd(Reason.SAVED, str(saving.path))
            try:
                self._disks.close()
                saving.finish(mark_disks(self.spec.disks))
                if before_end is not None:
                    before_end()
            except ManorError as error:
                saving.abandon()
                end = VmEnd(Reason.ERROR, f"it was not saved: {error}")
                raise
            finally:
                self.request_end(end)

    def _write_state(self, saving: Saving, is_running: bool) -> None:
        """All of a save that can fail without harm. The machine stands still; `_changing` held."""
        from manor.mem.saved_memory import touched
        from manor.vmm.saving import refuse_unsaveable, state_of

        machine = self._machine
        assert machine is not None
        refuse_unsaveable(self.spec, self._services.shares)
        if machine.hotplug is not None and not machine.hotplug.is_settled:
            raise StateError("save", "one in which a device or a vCPU is just going")
        # Deferred work of devices may have begun requests after `_stand_still` waited for them; from now on it is held.
        slow = machine.drain(PAUSE_S)
        if slow:
            raise HostError(f"cannot save: {slow[0]} waits for the host's storage")
        self._disks.flush()
        nets = [nic.remember() for nic in self._nics.all]
        with machine.lock:
            machine.vm.skip_time(self._machine_clock.catch_up())
            state = state_of(machine)
        ranges = touched(machine.memory)
        head = SavedHead(
            program=__version__,
            saved_ns=self._clock.wall_ns(),
            accel=self._accel.name,
            machine=self.spec,
            clock_ns=self._machine_clock.now_ns(),
            memory=sum(size for _, size in ranges),
            paused=not is_running if saving.paused is None else saving.paused,
            note=saving.note,
        )
        saving.write(head, machine, state, nets, ranges, self._is_ending)

    def _is_ending(self) -> bool:
        """Whether somebody wants the VM to end, and not only to reboot."""
        requested = self._requested
        return requested is not None and requested.reason is not Reason.REBOOT

    def power_off(self) -> None:
        """End the VM now, as pulling the plug does. The guest is not asked. Nothing happens if it ended already."""
        self.request_end(VmEnd(Reason.STOPPED))

    def listen(self, listener: Callable[[LifeEvent], None]) -> None:
        """Be told what the guest does with its life. Before the start. Thread of the calls: any of the VM's."""
        self._listeners.append(listener)

    def preserve_crash(self) -> None:
        """Have a guest that crashed paused, for somebody to look at, instead of ended. Before the start."""
        self._preserves_crash = True

    @property
    def has_crashed(self) -> bool:
        """Whether it is paused because its guest crashed."""
        return self._has_crashed

    def reset(self) -> None:
        """Start the machine anew, whatever the guest is doing, as its button would. Raises StateError where a reboot
        ends the VM."""
        if not self._reboot:
            raise StateError("reset", "stops at a reboot")
        self.request_end(VmEnd(Reason.REBOOT))

    def press_power_button(self, then_reboot: bool = False) -> None:
        """Ask the guest to shut down, as by the machine's power button (ACPI). One that minds no button goes on.

        then_reboot: start the machine anew when it has shut down, in place of ending the VM. Raises StateError.
        """
        machine = self._running_machine()
        if machine is None or machine.hotplug is None:
            raise StateError("press the power button", self._lifecycle.state.value)
        if then_reboot and not self._reboot:
            raise StateError("reboot", "stops at a reboot")
        self._reboots_next = then_reboot
        with machine.lock:
            machine.hotplug.controller.press_button()

    def request_end(self, end: VmEnd) -> None:
        """End the VM for the given reason. The first request counts, except that a reboot gives way to any other."""
        with self._request:
            if self._requested is None or self._requested.reason is Reason.REBOOT:
                self._requested = end
            self._request.notify_all()

    def wait(self, timeout: float | None = None) -> VmEnd:
        """Wait for the VM's end. timeout: seconds; raises TimeoutError."""
        if not self._lifecycle.wait_until(State.ENDED, timeout):
            raise TimeoutError(f"the VM still runs after {timeout} seconds")
        assert self._end is not None
        return self._end

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the VM has ended, on the supervisor's thread; at once if it has."""
        with self._request:
            if self._end is None:
                self._on_end = callback
                return
        callback()

    def __enter__(self) -> Vm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lifecycle.state is State.CREATED:
            self._disks.close()
            self._nics.close()
        elif self._lifecycle.state is not State.ENDED:
            self.power_off()
            self.wait()

    # --- use ------------------------------------------------------------------------------------------------

    @property
    def nics(self) -> tuple[Nic, ...]:
        """The network interfaces, in the order of the description; none before `prepare`."""
        return self._nics.all

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the window size of its terminal (the virtio console carries it)."""
        self._size = (columns, rows)
        machine = self._machine
        if machine is not None:
            machine.resize_console(columns, rows)

    def resize_disk(self, disk: int | str, size: int) -> None:
        """Change the size of a disk, and tell the guest, which may use it at once.

        disk: its number, or its name as in the statistics. size: bytes, a multiple of 512. What a smaller disk has no
        room for is lost. Raises ConfigError, HostError where the image cannot be resized, StateError if nothing runs.
        """
        machine = self._machine
        if machine is None:
            raise StateError("resize a disk", self._lifecycle.state.value)
        resize_disk(machine.disks, disk, size)

    @property
    def agent(self) -> AgentClient:
        """The guest's agent; `agent.wait()` first. Raises ConfigError if the VM has no port for one."""
        agent = self._services.agent
        if agent is None:
            raise ConfigError("agent", "this VM has no port for an agent; describe it with agent=True")
        return agent

    @property
    def has_agent(self) -> bool:
        """Whether a program of the guest has opened the agent's port."""
        return self._services.has_agent

    @property
    def vsock(self) -> VsockHost:
        """Connections to the guest's vsock ports. Raises ConfigError if the VM has no socket device."""
        vsock = self._services.vsock
        if vsock is None:
            raise ConfigError("vsock", "this VM has no socket device; describe it with vsock=VsockSpec()")
        return vsock

    def statistics(self) -> Statistics:
        """Counters up to now, or up to the end. All zero before `start`."""
        if self._final is not None:
            return self._final
        machine = self._machine
        if machine is None:
            return Statistics(0, 0, 0, 0, 0)
        loop = self._loop.statistics()
        return Statistics(
            wall_ns=self._clock.now_ns() - self._started_wall,
            cpu_ns=time.process_time_ns() - self._started_cpu,
            halts=sum(vcpu.halts for vcpu in self._vcpus),
            wakeups=loop.wakeups,
            timers=loop.timers,
            accel=dict(machine.vm.statistics()),
            exits=machine.exits_by_device(),
            disks=machine.disk_statistics(),
            nics={nic.name: nic.statistics() for nic in self._nics.all},
        )

    # --- building and taking apart: the starter's thread, then the supervisor's --------------------------------

    def _build(self, saved: SavedVm | None = None) -> None:
        """A new machine, and what was saved of another one in it: it stands still then."""
        lock = threading.RLock()
        self._machine_clock = PausableClock(self._clock, None if saved is None else saved.head.clock_ns)
        self._timers = LockedTimers(self._loop, lock, self._machine_clock)
        host = HostSide(
            clock=self._machine_clock,
            timers=self._timers,
            defer=self._timers.defer,
            lock=lock,
            serial=self.serial,
            console=self.console,
            power_off=self._on_power_off,
            reset=self._on_reset,
            wake=self._wake,
            readers=self._readers,
            post=self._loop.call_soon_threadsafe,
            nics=[HostNic(nic.backend, nic.mac, nic.network_lock) for nic in self._nics.all],
            work=self._workers,
            disks=self._disks.backends,
            vsock=None if self._services.vsock is None else self._services.vsock.multiplexer,
            agent=self._services.agent_port,
            shares=self._services.shares,
            ejected=self.devices.ejected,
            cpu_ejected=self.devices.cpu_ejected,
            cpu_kept=self.devices.cpu_kept,
        )
        self._vcpus.build(None, 0)
        self._machine = build(self.spec, self._accel, host, None if saved is None else saved.places())
        if saved is not None:
            self._load(saved, self._machine, self._timers)
        self._vcpus.build(self._machine, self.spec.cpus)

    def _load(self, saved: SavedVm, machine: Machine, timers: LockedTimers) -> None:
        """Raises ManorError; then there is no machine."""
        try:
            with machine.lock:
                timers.pause()
                machine.pause_network()
                machine.vm.skip_time(self._machine_clock.catch_up())
                saved.load(machine)
                if machine.balloon is not None:
                    self.balloon.adopt(machine.balloon.target)
        except ManorError:
            self._machine = None
            machine.close()
            raise

    def _run(self, stands_still: bool = False) -> None:
        machine = self._machine
        if machine is None:
            return
        machine.serial.on_unread = self.serial.put_back
        machine.serial.on_room = self.serial.connect(machine.serial, machine.lock)
        port = machine.console.ports[0]
        port.on_room = self.console.connect(port, machine.lock)
        if machine.balloon is not None:
            self.balloon.connect(machine.balloon, machine.lock)
        self._services.connect(machine)
        if self._size is not None:
            machine.resize_console(*self._size)
        self._nics.connect(machine.nics, machine.net_ports, machine.lock)
        self._started_wall = self._clock.now_ns()
        self._started_cpu = time.process_time_ns()
        if stands_still and self._timers is not None:
            self._lifecycle.advance(Event.PAUSE)
            with machine.lock:
                self._timers.pause()
                machine.pause_network()
                self._machine_clock.stop()
            self._vcpus.request_pause()
        self._vcpus.start()

    def _take_apart(self, is_reboot: bool) -> str:
        """Stop the vCPUs, then the disks, then the timers, then free memory. What went wrong with the disks, if so."""
        self._vcpus.stop()
        slow: list[str] = []
        if self._machine is not None:
            # Requests that the guest made while it ran are done, whoever ended it. After a reboot a late write would
            # meet what the new guest writes, so that waits as long as it must.
            slow = self._machine.drain(None if is_reboot else _DRAIN_S)
            self._machine.abandon()
        final = self.statistics()
        if self._timers is not None:
            self._timers.close()
        self.serial.disconnect()
        self.console.disconnect()
        self._nics.disconnect()
        self.balloon.disconnect()
        self._services.disconnect()
        machine, self._machine = self._machine, None
        self._final = final
        if machine is not None:
            machine.close()
            self._readers.flush()
        return f"the host did not finish requests of {', '.join(slow)}" if slow else ""

    def _supervise(self) -> None:
        while True:
            end = self._next_request()
            with self._changing:
                is_reboot = end.reason is Reason.REBOOT and self._reboot
                if not self._lifecycle.advance_if_allowed(Event.REBOOT if is_reboot else Event.STOP):
                    continue  # paused before it could reboot
                if not is_reboot:
                    self.serial.stop_waiting()
                    self.console.stop_waiting()
                problem = self._take_apart(is_reboot)
                if not is_reboot:
                    if problem:
                        end = VmEnd(Reason.ERROR, problem)
                    break
                error = self._start_again()
                if error is not None:
                    end = error
                    self._lifecycle.advance(Event.STOP)
                    break
        done = threading.Event()
        self.devices.wait_released()
        self._loop.call_soon_threadsafe(self._services.close)
        self._loop.call_soon_threadsafe(done.set)
        done.wait(_CLOSE_S)
        self._nics.close()
        self._loop.stop()
        self._nics.stopped()
        self._workers.close(_DRAIN_S)
        end = self._close_disks(end)
        self.serial.close(str(end))
        self.console.close(str(end))
        with self._request:
            self._end = end
            callback = self._on_end
        self._lifecycle.advance(Event.END)
        if callback is not None:
            callback()

    def _close_disks(self, end: VmEnd) -> VmEnd:
        """Close the disks; the end of the VM, which tells if that lost anything."""
        try:
            self._disks.close()
        except ManorError as error:
            return VmEnd(Reason.ERROR, str(error))
        return end

    def _next_request(self) -> VmEnd:
        """Wait until there is something to do. A guest that is paused does not reboot before it goes on."""

        def is_due() -> bool:
            end = self._requested
            waits = end is not None and end.reason is Reason.REBOOT and self._lifecycle.state is State.PAUSED
            return end is not None and not waits

        with self._request:
            self._request.wait_for(is_due)
            assert self._requested is not None
            return self._requested

    def _start_again(self) -> VmEnd | None:
        """Build and run the machine anew after a reboot; why not, if that is so."""
        self.devices.settle()
        try:
            self._build()
        except ManorError as error:
            return VmEnd(Reason.ERROR, f"after the reboot: {error}")
        with self._request:
            if self._requested is not None and self._requested.reason is Reason.REBOOT:
                self._requested = None
        self._final = None
        self._lifecycle.advance(Event.START)
        self._run()
        self._tell("reboot")
        return None

    def _tell(self, event: LifeEvent) -> None:
        for listener in self._listeners:
            listener(event)

    def _keep_crashed(self) -> None:
        """Pause a guest that has crashed. Thread: its own, since a vCPU cannot wait for itself."""
        try:
            self.pause()
        except ManorError:
            # It ends meanwhile, or cannot be paused: then there is nothing to look at.
            self.request_end(VmEnd(Reason.PANIC, "the guest's kernel panicked"))
            return
        self._has_crashed = True
        self._tell("crash")

    # --- calls from the machine -----------------------------------------------------------------------------

    def _wake(self, index: int) -> None:
        """A vCPU may have work. Thread: any."""
        self._vcpus.wake(index)

    def _running_machine(self) -> Machine | None:
        """The machine while it may be changed."""
        is_there = self._lifecycle.state in (State.RUNNING, State.PAUSED) and not self._is_ending()
        return self._machine if is_there else None

    def _set_spec(self, spec: MachineSpec) -> None:
        self.spec = spec

    def _name_of(self, address: int) -> str:
        """What the guest's kernel calls an address; "" if it does not say. Thread: a vCPU's."""
        from manor.boot.symbols import read_symbols

        if self.spec.kernel is None:
            return ""  # it is on the guest's disk, which may have changed
        return read_symbols(self.spec.kernel).name_of(address)

    def _on_power_off(self) -> None:
        self.request_end(VmEnd(Reason.REBOOT if self._reboots_next else Reason.POWER_OFF))
        self._reboots_next = False

    def _on_reset(self) -> None:
        """The guest asked for a reset. After a panic that ends the VM: nobody wants it to panic in a loop."""
        if (self.serial.has_panicked or self.console.has_panicked) and self._preserves_crash:
            threading.Thread(target=self._keep_crashed, name="crash", daemon=True).start()
        elif self.serial.has_panicked or self.console.has_panicked:
            self.request_end(VmEnd(Reason.PANIC, "the guest's kernel panicked"))
        else:
            self.request_end(VmEnd(Reason.REBOOT))

    def _on_worker_error(self, error: BaseException) -> None:
        self.request_end(VmEnd(Reason.ERROR, f"a worker: {type(error).__name__}: {error}"))

    def _on_loop_error(self, error: BaseException) -> None:
        self.request_end(VmEnd(Reason.ERROR, f"I/O loop: {type(error).__name__}: {error}"))


def start(
    kernel: str | PathLike[str] | None = None,
    *,
    initrd: str | PathLike[str] | None = None,
    append: str | None = None,
    memory: int | str = "256M",
    cpus: int = 1,
    accel: str = "auto",
    cpu: CpuModel = "max",
    reboot: bool = True,
    console: ConsoleName = "serial",
    disks: Sequence[DiskSpec | str | PathLike[str]] = (),
    nets: Sequence[NicSpec | str] = ("user",),
) -> Vm:
    """Start a virtual machine and return it running; use it in a `with` block, which ends it.

    kernel: a bzImage or an ELF file; without one, the default guest with its own initrd, to whose command line
    `append` is added. memory: bytes, or text such as "512M". cpu: what the guest sees of a processor. reboot: whether
    a guest that resets itself starts again. console: the device that `manor run` types into; both consoles are there
    in any case. disks: each a DiskSpec, or a line as `manor run --disk` takes it, or a path.
    nets: network interfaces, each a NicSpec or text as `manor run --net` takes it; () for none.
    Raises ConfigError, naming the argument, and HostError.
    """
    nics = tuple(parse_nic(net) if isinstance(net, str) else net for net in nets)
    spec = describe(kernel, initrd, append, memory, cpus, console, _describe_disks(disks))
    spec = replace(spec, cpu=cpu, nics=nics)
    choice = choose(accel)
    vm = Vm(spec, choice.accel, reboot)
    vm.start()
    return vm


def describe(
    kernel: str | PathLike[str] | None,
    initrd: str | PathLike[str] | None,
    append: str | None,
    memory: int | str,
    cpus: int,
    console: ConsoleName = "serial",
    disks: tuple[DiskSpec, ...] = (),
) -> MachineSpec:
    """The MachineSpec for the arguments of `start`. Raises ConfigError."""
    _check_type("kernel", kernel, (str, PathLike, NoneType), "a path")
    _check_type("initrd", initrd, (str, PathLike, NoneType), "a path")
    _check_type("append", append, (str, NoneType), "text")
    _check_type("memory", memory, (int, str), 'a number of bytes or text like "512M"')
    _check_type("cpus", cpus, (int,), "a whole number")
    try:
        size = parse_size(memory) if isinstance(memory, str) else memory
    except ValueError as error:
        raise ConfigError("memory", str(error)) from error
    if kernel is None:
        if initrd is not None:
            raise ConfigError("initrd", "it needs a kernel; give both, or neither for the default guest")
        if boots_from(disks):
            return MachineSpec(None, None, append or "", size, cpus, console, disks=disks)
        from manor.guests.default import default_guest
        from manor.guests.progress import Silent

        guest = default_guest(Silent())
        return MachineSpec(
            guest.kernel, guest.initrd, " ".join(filter(None, [guest.cmdline, append])), size, cpus, console,
            disks=disks,
        )  # fmt: skip
    return MachineSpec(
        Path(kernel), None if initrd is None else Path(initrd), append or "", size, cpus, console, disks=disks
    )


def _describe_disks(disks: Sequence[DiskSpec | str | PathLike[str]]) -> tuple[DiskSpec, ...]:
    specs: list[DiskSpec] = []
    for number, disk in enumerate(disks):
        if isinstance(disk, DiskSpec):
            specs.append(disk)
        elif isinstance(disk, str):
            specs.append(parse_disk(disk, f"disks[{number}]"))
        else:
            _check_type(f"disks[{number}]", disk, (PathLike,), "a DiskSpec, a line of text or a path")
            specs.append(DiskSpec(os.fspath(disk)))
    return tuple(specs)


def _check_type(name: str, value: object, kinds: tuple[type, ...], wanted: str) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ConfigError(name, f"{value!r} is not {wanted}")
