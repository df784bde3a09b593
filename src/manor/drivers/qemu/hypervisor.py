"""VMs that QEMU runs: started, found again after a restart of the daemon, asked over their monitors (Hypervisor).

Thread: the event loop's; what blocks runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from manor.base.console_log import read_log
from manor.base.errors import ConfigError, HostError, ManorError
from manor.base.files import write_atomically
from manor.domain.definition import Platform
from manor.domain.state import PausedReason
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.changes import NamedDevice
from manor.domain.xml.character import AGENT_PORT
from manor.domain.xml.domain import Domain
from manor.domain.xml.live import machine_order, named
from manor.domain.xml.network import Network
from manor.domain.xml.normal import GENERATED
from manor.domain.xml.property import Finding
from manor.domain.xml.to_spec import Resolvers
from manor.domain.xml.tree import Node
from manor.domain.xml.values import Support
from manor.drivers.api import ByteStream, MachineStatistics, Scrollback
from manor.drivers.errors import failed, invalid, invalid_argument, not_running, unsupported, uuid_text
from manor.drivers.guest_addresses import agent_interfaces
from manor.drivers.hypervisor import (
    AgentChanged,
    Crashed,
    DeviceChanges,
    End,
    Ended,
    Found,
    Happening,
    NoSaving,
    OnHappening,
    Paused,
    Rebooted,
    Removed,
    Resumed,
    ShuttingDown,
)
from manor.drivers.qemu import counters, hotplug
from manor.drivers.qemu.agent import Agent
from manor.drivers.qemu.block import top_node
from manor.drivers.qemu.command import Plan, is_at_socket, plan
from manor.drivers.qemu.layout import Files
from manor.drivers.qemu.monitor import Monitor
from manor.drivers.qemu.qmp import QmpError, QmpEvent
from manor.drivers.qemu.vm import STOP_SECONDS, QemuVm, connect, find, last_words, read_record, spawn
from manor.rpc.protocol.records import GuestInterface

logger = logging.getLogger(__name__)
T = TypeVar("T")

BINARY: Final = "qemu-system-x86_64"
FIND_SECONDS: Final = 10.0
"""For a QEMU that an earlier daemon began to start, or that is busy, to answer."""
ENDING_SECONDS: Final = 1.0
"""From the end of a monitor to that of its process."""
_ANYTHING: Final = Resolvers(
    network=lambda name: Network(name=name, forward="nat"), volume=lambda pool, volume: Path("/") / pool / volume
)
"""For checks: a network or a volume may be made later."""
_ENDS: Final = {
    "guest-shutdown": End.POWER_OFF, "guest-reset": End.REBOOT, "guest-panic": End.CRASH, "host-qmp-quit": End.STOPPED,
    "host-qmp-system-reset": End.REBOOT, "host-signal": End.STOPPED, "host-ui": End.STOPPED, "host-error": End.FAILED,
}  # fmt: skip
"""ShutdownCause. Source: QEMU 7.2, "QMP Reference Manual"."""
_PAUSED: Final = {
    "paused": PausedReason.USER, "io-error": PausedReason.IO_ERROR, "watchdog": PausedReason.WATCHDOG,
    "suspended": PausedReason.USER, "prelaunch": PausedReason.STARTING_UP, "debug": PausedReason.USER,
}  # fmt: skip
"""RunState of a QEMU whose guest stands still."""
_UNTOUCHED: Final = (
    "domain/cputune", "domain/blkiotune", "domain/memtune", "domain/numatune", "domain/resource", "domain/seclabel",
    "domain/iothreads", "domain/vcpu/@cpuset", "domain/memoryBacking", "domain/devices/sound", "domain/devices/audio",
)  # fmt: skip
"""What is ignored here as well."""


class QemuHypervisor(NoSaving):
    """All VMs of one driver (Hypervisor)."""

    def __init__(self, root: Path, accel: str, resolvers: Resolvers = _ANYTHING, binary: str = BINARY) -> None:
        """root: where VMs have their directories. accel: `auto` for what suits a domain's type, `kvm`, or anything else
        for QEMU's translator. binary: name or path of the program."""
        self.platform = Platform(shutil.which(binary) or f"/usr/bin/{binary}", None)
        self._root = root
        self._accel = accel
        self._resolvers = resolvers
        self._vms: dict[bytes, QemuVm] = {}
        self._on_happening: OnHappening | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- start and end ------------------------------------------------------------------------------------------------

    async def recover(self, on_happening: OnHappening) -> tuple[Sequence[Found], Sequence[Ended]]:
        self._on_happening = on_happening
        found: list[Found] = []
        ended: list[Ended] = []
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in sorted(self._root.iterdir()):
            files = Files(directory)
            record = await asyncio.to_thread(read_record, files.record)
            if record is None:
                continue
            try:
                uuid = UUID(directory.name).bytes
                number, text = int(record["number"]), str(record["live"])
                console = int(record.get("console", 0))
                live = domain_xml.parse(text)
            except (ValueError, KeyError, TypeError, ConfigError):
                logger.warning("%s is left alone: it is no VM's", directory)
                continue
            vm, status = await self._adopt(uuid, files, live, console)
            if vm is None or status in ("shutdown", "internal-error", "prelaunch"):
                how = End.POWER_OFF if status == "shutdown" else End.LOST
                if vm is not None:
                    await self._finish(vm)
                files.record.unlink(missing_ok=True)
                ended.append(Ended(uuid, how, "" if how is End.POWER_OFF else last_words(files)))
            else:
                vm.is_settled = True
                vm.has_crashed = status == "guest-panicked"
                found.append(Found(uuid, number, text, status in _PAUSED or vm.has_crashed, vm.has_crashed))
        return found, ended

    async def _adopt(self, uuid: bytes, files: Files, live: Domain, console: int) -> tuple[QemuVm | None, str]:
        """(the QEMU that runs there, its RunState)."""
        place = await asyncio.to_thread(find, files, FIND_SECONDS)
        if place is None:
            return None, ""
        vm = self._watch(uuid, files, *place, live)
        vm.console_start = console
        try:
            await self._meet(vm, FIND_SECONDS)
            assert vm.monitor is not None
            status = str((await vm.monitor.execute("query-status"))["status"])
        except ManorError as error:
            logger.warning("the VM %s runs and does not answer: %s", uuid_text(uuid), error)
            return vm, "running"
        if status != "shutdown":
            await vm.open_consoles([alias for alias in _console_aliases(live) if files.port(alias).exists()])
        return vm, status

    def check(self, domain: Domain) -> Sequence[Finding]:
        self._plan(domain, Path("/"), _ANYTHING)
        return [
            one for one in domain_xml.check(domain)
            if one.verdict is Support.IGNORED and one.path.startswith(_UNTOUCHED)
        ]  # fmt: skip

    def _plan(self, domain: Domain, directory: Path, resolvers: Resolvers, accel: str = "tcg") -> Plan:
        return plan(named(domain), accel, Files(directory), resolvers)

    async def start(self, domain: Domain, number: int, paused: bool, saved: Path | None = None) -> Domain:
        if saved is not None:
            raise unsupported("QEMU does not go on with what Manor's own machine wrote; use another URI")
        assert domain.uuid is not None
        binary = find_binary(domain.devices.emulator or self.platform.emulator)
        accel = await self._choose_accel(domain)
        files = Files(self._root / domain.uuid)
        live = live_document(domain, number, files)
        made = plan(live, accel, files, self._resolvers)
        console = 0
        with suppress(HostError):
            console = (await asyncio.to_thread(read_log, files.console_log, -1, 1)).end
        record = {"number": number, "live": domain_xml.format(live), "console": console}
        try:
            process = await asyncio.to_thread(spawn, binary, made.arguments, files, record, made.vnc_password)
        except OSError as error:
            raise HostError.from_os_error(f"starting {binary} in {files.directory}", error) from error
        vm = self._watch(UUID(domain.uuid).bytes, files, process.pid, os.pidfd_open(process.pid), live)
        vm.process, vm.console_start = process, console
        try:
            await self._meet(vm)
            await vm.open_consoles(made.consoles)
            await self._settle(vm, made, paused)
            vm.is_settled = True
        except BaseException:
            # Whoever asked learns of it by the exception; nobody else knew that it ran.
            self._vms.pop(vm.uuid, None)
            vm.signal(signal.SIGKILL)
            await vm.ended
            raise
        return live

    async def _settle(self, vm: QemuVm, made: Plan, paused: bool) -> None:
        """What is left to do before the guest runs, and have it run."""
        monitor = self._monitor(vm)
        for alias in made.down:
            await monitor.execute("set_link", name=alias, up=False)
        live = vm.live
        if counters.has_balloon(live):
            path = counters.balloon_path(live)
            await monitor.execute(
                "qom-set", path=path, property="guest-stats-polling-interval", value=counters.BALLOON_SECONDS
            )
            if live.current_memory is not None and live.current_memory < live.memory:
                await monitor.execute("balloon", value=live.current_memory)
        if not paused:
            vm.expects_resume = True
            await monitor.execute("cont")

    async def _meet(self, vm: QemuVm, seconds: float | None = None) -> None:
        """Connect to its monitor, and learn what does not change."""

        def on_event(event: QmpEvent) -> None:
            self._on_event(vm, event)

        vm.monitor = await (connect(vm, on_event) if seconds is None else connect(vm, on_event, seconds))
        cpus = await vm.monitor.execute("query-cpus-fast")
        vm.threads = tuple(int(each["thread-id"]) for each in cpus if isinstance(each.get("thread-id"), int))
        if agent_alias(vm.live) is not None and vm.agent is None:
            vm.agent = Agent(vm.files.agent)

    async def keep_live(self, uuid: bytes, text: str) -> None:
        vm = self._get(uuid)
        vm.live = domain_xml.parse(text)

        def write() -> None:
            import json

            record = read_record(vm.files.record)
            if record is not None:
                write_atomically(vm.files.record, json.dumps({**record, "live": text}).encode())

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise HostError.from_os_error(f"writing {vm.files.record}", error) from error

    async def stop(self, uuid: bytes) -> None:
        await self._finish(self._get(uuid))

    async def _finish(self, vm: QemuVm) -> None:
        """Have QEMU write out what it has, and end."""
        vm.is_ending = True
        with suppress(ManorError):
            if vm.monitor is not None and vm.monitor.is_open:
                await vm.monitor.execute("quit", 5.0)
            else:
                vm.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(vm.ended), STOP_SECONDS)
        except TimeoutError:
            vm.signal(signal.SIGKILL)
            await vm.ended

    async def close(self) -> None:
        """VMs live on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        for vm in self._vms.values():
            loop.remove_reader(vm.descriptor)
            os.close(vm.descriptor)
            await vm.let_go()
            if vm.process is not None:
                vm.process.returncode = 0  # nobody waits for it: it outlives its parent
        self._vms.clear()

    # --- what a VM is asked -------------------------------------------------------------------------------------------

    async def shutdown(self, uuid: bytes, agent: bool) -> None:
        await self._power(uuid, agent, "powerdown")

    async def reboot(self, uuid: bytes, agent: bool) -> None:
        await self._power(uuid, agent, "reboot")

    async def _power(self, uuid: bytes, agent: bool, mode: str) -> None:
        vm = self._get(uuid)
        if agent:
            await self.agent(uuid, "guest-shutdown", {"mode": mode}, 5.0)
            return
        # ACPI knows one button: after it, a guest that was to reboot is reset when it has shut down.
        vm.will_reboot = mode == "reboot"
        await self._execute(uuid, "system_powerdown")

    async def reset(self, uuid: bytes) -> None:
        await self._execute(uuid, "system_reset")

    async def suspend(self, uuid: bytes) -> None:
        self._get(uuid).expects_stop = True
        await self._execute(uuid, "stop")

    async def resume(self, uuid: bytes) -> None:
        self._get(uuid).expects_resume = True
        await self._execute(uuid, "cont")

    async def set_memory(self, uuid: bytes, kib: int) -> None:
        if not counters.has_balloon(self._get(uuid).live):
            raise invalid("the domain has no balloon; give it <memballoon model='virtio'/>")
        await self._execute(uuid, "balloon", value=kib << 10)

    async def set_vcpus(self, uuid: bytes, count: int) -> None:
        vm = self._get(uuid)
        await self._guard(vm, hotplug.set_vcpus(self._monitor(vm), count))
        cpus = await self._execute(uuid, "query-cpus-fast")
        vm.threads = tuple(int(each["thread-id"]) for each in cpus)

    async def attach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        vm = self._get(uuid)
        return await self._guard(vm, hotplug.attach(self._monitor(vm), live, device, self._resolvers))

    async def detach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain | None:
        vm = self._get(uuid)
        return await self._guard(vm, hotplug.detach(self._monitor(vm), vm.leaving, live, device))

    async def update(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        vm = self._get(uuid)
        return await self._guard(vm, hotplug.update(self._monitor(vm), live, device, self._resolvers))

    def trial(self, uuid: bytes) -> DeviceChanges:
        return hotplug.Trial(self._monitor(self._get(uuid)), self._resolvers)

    async def resize_disk(self, uuid: bytes, index: int, size: int) -> None:
        devices = self._get(uuid).live.devices
        disk = devices.disks[machine_order(devices)[index]]
        await self._execute(uuid, "block_resize", **{"node-name": top_node(disk), "size": size})

    async def statistics(self, uuid: bytes) -> MachineStatistics:
        vm = self._get(uuid)
        found = counters.machine_statistics(self._monitor(vm), vm.pid, vm.threads, vm.live)
        return await self._guard(vm, found)

    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]:
        if source != 1:
            return []  # QEMU's own DHCP server does not say what it gave
        return agent_interfaces(await self.agent(uuid, "guest-network-get-interfaces", {}, 5.0))

    async def console(self, uuid: bytes, device: str, force: bool) -> ByteStream:
        vm = self._get(uuid)
        aliases = [alias for alias in _console_aliases(vm.live) if alias in vm.consoles]
        # The first console is the first serial port under another name.
        number = device.removeprefix("console")
        alias = device or (aliases[0] if aliases else "")
        if alias not in vm.consoles and number.isdecimal() and int(number) < len(aliases):
            alias = aliases[int(number)]
        hub = vm.consoles.get(alias)
        if hub is None:
            raise invalid_argument(f"cannot find character device {device or '(null)'}")
        return hub.attach(force)

    async def console_log(self, uuid: bytes, since: int, limit: int) -> Scrollback:
        path = Files(self._root / uuid_text(uuid)).console_log
        return Scrollback(*await asyncio.to_thread(read_log, path, since, limit))

    async def agent(self, uuid: bytes, command: str, arguments: Mapping[str, object], timeout: float) -> object:
        vm = self._get(uuid)
        if vm.agent is None:
            raise invalid_argument("QEMU guest agent is not configured; give the domain a channel for it")
        return await vm.agent.execute(command, arguments, timeout)

    # --- what happens by itself ---------------------------------------------------------------------------------------

    def _on_event(self, vm: QemuVm, event: QmpEvent) -> None:
        data = event.data
        match event.name:
            case "SHUTDOWN":
                self._on_shutdown(vm, str(data.get("reason", "")))
            case "GUEST_PANICKED":
                vm.has_crashed = True
                self._tell(Crashed(vm.uuid, "the guest panicked", is_paused=True))
            case "RESET":
                vm.has_crashed = False
                if not vm.is_ending:
                    self._tell(Rebooted(vm.uuid))
            case "STOP":
                is_ours, vm.expects_stop = vm.expects_stop, False
                cause, vm.cause = vm.cause, PausedReason.UNKNOWN
                if not (is_ours or vm.has_crashed or vm.end is not None or vm.is_ending):
                    self._tell(Paused(vm.uuid, cause))
            case "RESUME":
                is_ours, vm.expects_resume = vm.expects_resume, False
                if not is_ours:
                    self._tell(Resumed(vm.uuid))
            case "BLOCK_IO_ERROR" if data.get("action") == "stop":
                vm.cause = PausedReason.IO_ERROR
            case "WATCHDOG" if data.get("action") == "pause":
                vm.cause = PausedReason.WATCHDOG
            case "DEVICE_DELETED" | "DEVICE_UNPLUG_GUEST_ERROR":
                alias = data.get("device")
                if isinstance(alias, str):
                    self._on_removed(vm, alias, event.name == "DEVICE_DELETED")
            case "VSERPORT_CHANGE" if data.get("id") == agent_alias(vm.live):
                self._tell(AgentChanged(vm.uuid, bool(data.get("open"))))

    def _on_shutdown(self, vm: QemuVm, reason: str) -> None:
        if vm.will_reboot and reason == "guest-shutdown":
            vm.will_reboot = False
            vm.expects_stop = True  # it follows
            self._begin(self._reset_and_go(vm))
            return
        vm.end = vm.end or _ENDS.get(reason, End.STOPPED)
        if not vm.is_ending:
            if vm.end is End.POWER_OFF:
                self._tell(ShuttingDown(vm.uuid))
            self._begin(self._finish(vm))

    async def _reset_and_go(self, vm: QemuVm) -> None:
        monitor = self._monitor(vm)
        vm.expects_resume = True
        with suppress(ManorError):
            await monitor.execute("system_reset")
            await monitor.execute("cont")

    def _on_removed(self, vm: QemuVm, alias: str, is_done: bool) -> None:
        waiting = vm.leaving.pop(alias, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(is_done)
            return
        self._begin(self._clear_away(vm, alias, is_done))

    async def _clear_away(self, vm: QemuVm, alias: str, is_done: bool) -> None:
        if is_done and vm.monitor is not None:
            await hotplug.clear_away(vm.monitor, alias)
        self._tell(Removed(vm.uuid, alias, is_done))

    def _tell(self, happening: Happening) -> None:
        vm = self._vms.get(happening.uuid)
        if self._on_happening is not None and vm is not None and vm.is_settled:
            self._on_happening(happening)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("following an event of QEMU failed", exc_info=task.exception())

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _choose_accel(self, domain: Domain) -> str:
        """What really runs the guest: KVM where it is wanted, there, and worth it."""
        if domain.type != "kvm" or self._accel not in ("auto", "kvm"):
            return "tcg"
        from manor.accel.kvm.probe import probe

        verdict = await asyncio.to_thread(probe)
        if verdict.is_usable or (self._accel == "kvm" and verdict.can_run):
            return "kvm"
        logger.warning("%s runs by translation, as KVM is %s: %s", domain.name, verdict.state.value, verdict.reason)
        return "tcg"

    def _get(self, uuid: bytes) -> QemuVm:
        vm = self._vms.get(uuid)
        if vm is None:
            raise not_running()
        return vm

    @staticmethod
    def _monitor(vm: QemuVm) -> Monitor:
        if vm.monitor is None:
            raise failed("QEMU does not answer at its monitor; see its log")
        return vm.monitor

    async def _execute(self, uuid: bytes, command: str, **arguments: object) -> Any:
        vm = self._get(uuid)
        return await self._guard(vm, self._monitor(vm).execute(command, **arguments))

    async def _guard(self, vm: QemuVm, work: Coroutine[Any, Any, T]) -> T:
        """The result of asking; what goes wrong in libvirt's words."""
        try:
            return await work
        except QmpError as error:
            raise failed(f"unable to execute QEMU command '{error.command}': {error.description}") from error
        except HostError as error:
            # A monitor goes a moment before its process.
            await asyncio.wait((vm.ended,), timeout=ENDING_SECONDS)
            if vm.ended.done():
                raise not_running() from error
            raise

    def _watch(self, uuid: bytes, files: Files, pid: int, descriptor: int, live: Domain) -> QemuVm:
        loop = asyncio.get_running_loop()
        vm = QemuVm(uuid, files, pid, descriptor, live, loop.create_future())
        self._vms[uuid] = vm
        loop.add_reader(descriptor, self._ended, vm)
        return vm

    def _ended(self, vm: QemuVm) -> None:
        """The process is gone."""
        asyncio.get_running_loop().remove_reader(vm.descriptor)
        os.close(vm.descriptor)
        status = None if vm.process is None else vm.process.wait()
        self._begin(vm.let_go())
        is_known = self._vms.get(vm.uuid) is vm
        vm.files.record.unlink(missing_ok=True)
        vm.ended.set_result(None)
        for future in vm.leaving.values():
            if not future.done():
                future.set_result(True)
        if is_known:
            del self._vms[vm.uuid]
            if self._on_happening is not None and vm.is_settled:
                self._on_happening(_end_of(vm, status))


def find_binary(path: str, where: str = "domain/devices/emulator") -> str:
    """The program. Raises ConfigError with the fix if it is not there."""
    found = shutil.which(path)
    if found is None:
        raise ConfigError(
            where,
            f"there is no {path}; install QEMU (Debian and Ubuntu: qemu-system-x86, Fedora: qemu-system-x86-core), "
            "or name the program that is there",
        )
    return found


def live_document(domain: Domain, number: int, files: Files) -> Domain:
    """What only exists while it runs: its number, names of devices and interfaces, where its display is served."""
    running = named(domain)
    nics = tuple(
        replace(nic, target=nic.target or f"{GENERATED}{index}")
        for index, nic in enumerate(running.devices.interfaces)
    )
    extras = tuple(
        replace(extra, node=served_at(extra.node, files)) if extra.node.name == "graphics" else extra
        for extra in running.devices.extras
    )
    return replace(running, id=number, devices=replace(running.devices, interfaces=nics, extras=extras))


def served_at(graphics: Node, files: Files) -> Node:
    """<graphics> with the socket that serves it, unless it has a port of its own."""
    if not is_at_socket(graphics):
        return graphics
    path = str(files.vnc)
    attributes = tuple((name, value) for name, value in graphics.attributes if name in ("type", "keymap", "passwd"))
    return Node("graphics", (*attributes, ("socket", path)), (Node("listen", (("type", "socket"), ("socket", path))),))


def agent_alias(live: Domain) -> str | None:
    """The guest agent's port."""
    return next((one.alias for one in live.devices.channels if one.target_name == AGENT_PORT), None)


def _console_aliases(live: Domain) -> list[str]:
    """Ports that can be opened as consoles, serial ports first."""
    devices = live.devices
    virtio = [one.alias for one in devices.consoles if one.target_type == "virtio"]
    return [alias for alias in (*(one.alias for one in devices.serials), *virtio) if alias]


def _end_of(vm: QemuVm, status: int | None) -> Ended:
    """How it ended. status: of its process, where it is known."""
    if vm.end is not None:
        how: End = vm.end
        return Ended(vm.uuid, how, "the guest panicked" if how is End.CRASH else "")
    if vm.is_ending:
        return Ended(vm.uuid, End.STOPPED)
    said = last_words(vm.files)
    if status is not None and status > 0:
        return Ended(vm.uuid, End.FAILED, f"QEMU ended with status {status}: {said}")
    how_killed = f"signal {-status}" if status else "it left no word"
    return Ended(vm.uuid, End.LOST, f"QEMU was killed ({how_killed}); {said}")


