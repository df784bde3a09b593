"""VMs as processes: started, found again after a restart of the daemon, asked over their control sockets.

    run/UUID/record.json   number and live description of a VM that was started
    run/UUID/...           see vmm.process

The lock in a VM's directory is taken before its process begins and handed to it, so that there is no moment at which a
VM runs and looks as if it did not. Thread: the event loop's; what blocks runs in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from manor.base import process_lock
from manor.base.console_log import read_log
from manor.base.errors import ApiError, HostError, InternalError, ManorError
from manor.base.files import write_atomically
from manor.domain.definition import Platform
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.changes import NamedDevice
from manor.domain.xml.domain import Domain
from manor.domain.xml.live import live
from manor.domain.xml.network import Network
from manor.domain.xml.property import Finding
from manor.domain.xml.to_spec import Launch, Resolvers, to_spec
from manor.drivers.api import (
    BlockStatistics,
    ByteStream,
    Cancelled,
    MachineStatistics,
    NicStatistics,
    Progress,
    Scrollback,
    unwatched,
)
from manor.drivers.console import VmConsole
from manor.drivers.control import CALL_TIMEOUT, Control
from manor.drivers.errors import Code, Origin, failed, invalid_argument, not_running, uuid_text
from manor.drivers.guest_addresses import agent_interfaces
from manor.drivers.hypervisor import Crashed, DeviceChanges, End, Ended, Found, OnHappening, Rebooted, Removed
from manor.drivers.live_devices import LiveDevices, Names, TrialCall, as_saved, present, with_names, without_gone
from manor.drivers.node import EMULATOR
from manor.rpc.protocol.records import GuestInterface, IpAddress
from manor.spec.check import check_disk
from manor.spec.control import Json, error_from_json
from manor.spec.machine import AccelName
from manor.spec.machine_json import spec_to_json
from manor.spec.saved_vm import read_head

logger = logging.getLogger(__name__)

START_SECONDS: Final = 60.0
"""For a VMM to say that it runs: it opens disks and prepares memory meanwhile."""
ENDING_SECONDS: Final = 1.0
"""From the end of a VM's control socket to that of its process."""
RESTORE_RATE: Final = 10 << 20
"""Bytes of a saved state that a VMM reads in a second, at least."""
SAVE_SECONDS: Final = 24 * 3600.0
"""For a VM to write itself into a file, however slow that is; it can be given up."""
LOOK_SECONDS: Final = 3.0
"""For a VM to say what it counts: who only looks does not wait long for one that is stuck."""
STOP_SECONDS: Final = 15.0
"""For a VMM to end in order, before it is killed."""
PING_SECONDS: Final = 2.0
"""For a guest's agent to show that it is there, before the guest is asked by its power button."""
ANSWER_SECONDS: Final = 5.0
"""For a VMM to say that it ends."""
_MAX_FILE: Final = 8 << 20
_ENDS: Final = {
    "power-off": End.POWER_OFF,
    "reboot": End.REBOOT,
    "stopped": End.STOPPED,
    "saved": End.SAVED,
    "panic": End.CRASH,
    "triple-fault": End.CRASH,
    "error": End.FAILED,
}
"""vmm.lifecycle.Reason -> what drivers call it."""
_ANYTHING: Final = Resolvers(
    network=lambda name: Network(name=name, forward="nat"), volume=lambda pool, volume: Path("/") / pool / volume
)
"""For checks: a network or a volume may be made later."""
_GUEST_MEMORY: Final = {
    "swap_in": 0, "swap_out": 1, "major_faults": 2, "minor_faults": 3, "free": 4, "total": 5, "available": 8,
    "caches": 10,
}  # fmt: skip
"""Statistics of the balloon -> virDomainMemoryStatTags. Source: VIRTIO 1.2, 5.5.6.4."""


@dataclass(slots=True)
class _Vm:
    """A process. descriptor: its pidfd. process: None for one that an earlier daemon started."""

    uuid: bytes
    directory: Path
    pid: int
    descriptor: int
    ended: asyncio.Future[None]
    process: subprocess.Popen[bytes] | None = None
    control: Control | None = None
    memory: int = 0
    names: Names = field(default_factory=Names)
    connecting: asyncio.Lock = field(default_factory=asyncio.Lock)


class Processes:
    """All VMs of one driver (Hypervisor)."""

    platform = Platform(EMULATOR)

    def __init__(self, root: Path, accel: AccelName, resolvers: Resolvers = _ANYTHING) -> None:
        """root: where VMs have their directories. accel: `auto` for what suits a domain's type. resolvers: what
        descriptions only name."""
        self._root = root
        self._accel = accel
        self._resolvers = resolvers
        self._vms: dict[bytes, _Vm] = {}
        self._on_happening: OnHappening | None = None
        self._closing: set[asyncio.Future[None]] = set()
        self._devices = LiveDevices(self._command, lambda uuid: self._get(uuid).names, resolvers)

    # --- start and end ------------------------------------------------------------------------------------------------

    async def recover(self, on_happening: OnHappening) -> tuple[Sequence[Found], Sequence[Ended]]:
        self._on_happening = on_happening
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        # All at once: one that does not answer takes its time, and the others are found meanwhile.
        looked = await asyncio.gather(*(self._look(each) for each in sorted(self._root.iterdir())))
        return [one for one in looked if isinstance(one, Found)], [one for one in looked if isinstance(one, Ended)]

    async def _look(self, directory: Path) -> Found | Ended | None:
        """What has become of the VM that was started in `directory`; None if it is no VM's."""
        record = _read_json(directory / "record.json")
        if record is None:
            return None
        try:
            uuid = UUID(directory.name).bytes
            number, text = int(record["number"]), str(record["live"])
        except (ValueError, KeyError, TypeError):
            logger.warning("%s is left alone: it is no VM's", directory)
            return None
        vm = await self._adopt(uuid, directory)
        if vm is None:
            (directory / "record.json").unlink(missing_ok=True)
            return _end_of(uuid, directory, None)
        status = await self._status(vm)
        is_paused, has_crashed = status.get("state") == "paused", bool(status.get("crashed"))
        return Found(uuid, number, await self._as_it_is(vm, text), is_paused, has_crashed, _started_ns(directory))

    async def _adopt(self, uuid: bytes, directory: Path) -> _Vm | None:
        """The VM that runs in `directory`, None if there is none."""
        limit = time.monotonic() + CONNECT_PATIENCE
        while (pid := process_lock.holder(directory / "lock")) == 0 and time.monotonic() < limit:
            await asyncio.sleep(0.05)  # it has the lock and has not yet written its number
        if not pid:
            return None
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        vm = self._watch(uuid, directory, pid, descriptor)
        while vm.control is None and not vm.ended.done():
            try:
                await self._control(vm)
            except ManorError as error:
                if time.monotonic() > limit:
                    logger.warning("the VM %s runs and does not answer: %s", uuid_text(uuid), error)
                    break
                await asyncio.sleep(0.1)
        return vm

    async def _status(self, vm: _Vm) -> Json:
        """What a VM that was found says of itself; nothing if it does not answer."""
        if vm.control is not None:
            with suppress(ManorError):
                status = await vm.control.call("status", LOOK_SECONDS)
                vm.memory = int(status.get("memory", 0)) >> 10
                return status
        return {}

    def check(self, domain: Domain) -> Sequence[Finding]:
        return self._launch(domain, _ANYTHING).warnings

    def _launch(self, domain: Domain, resolvers: Resolvers) -> Launch:
        """What starting `domain` takes. Raises ConfigError, ApiError."""
        accel: AccelName = self._accel
        if accel == "auto" and domain.type == "qemu":
            # Who writes `kvm` means the best that the host has; who writes `qemu` wants no /dev/kvm.
            accel = "dbt"
        launch = to_spec(domain, resolvers, accel)
        for index, disk in enumerate(launch.spec.disks):
            check_disk(disk, f"domain/devices/disk[{index + 1}]")
        return launch

    async def start(self, domain: Domain, number: int, paused: bool, saved: Path | None = None) -> Domain:
        launch = self._launch(domain, self._resolvers)
        assert domain.uuid is not None
        uuid = UUID(domain.uuid).bytes
        running = live(domain, number)
        if saved is not None:
            running = as_saved(running, domain, (await asyncio.to_thread(read_head, saved)).machine)
        spec = with_names(launch.spec, running)
        for path in (spec.kernel, spec.initrd) if saved is None else ():
            if path is not None and not path.exists():
                raise failed(f"cannot open {path}: No such file or directory")
        settings = {
            "machine": json.loads(spec_to_json(spec)),
            "accel": launch.accel,
            "paused": paused,
            "preserve_crash": launch.on_crash == "preserve",
            "reboot": launch.on_reboot in ("restart", "rename-restart"),
            "saved": None if saved is None else os.fspath(saved),
        }
        directory = self._root / domain.uuid
        record = {"number": number, "live": domain_xml.format(running)}
        try:
            process, reading = await asyncio.to_thread(_spawn, directory, settings, record)
        except OSError as error:
            raise HostError(
                f"cannot start a VM in {directory}: {error.strerror or error}", error.errno, str(directory)
            ) from error
        vm = self._watch(uuid, directory, process.pid, os.pidfd_open(process.pid), process)
        try:
            limit = START_SECONDS + (saved.stat().st_size / RESTORE_RATE if saved is not None else 0.0)
            report = await asyncio.wait_for(_read_line(reading), limit)
            _check_report(report, directory)
            await self._control(vm)
            vm.names.note(running)
            vm.memory = domain.memory >> 10
        except BaseException as error:
            self._vms.pop(uuid, None)
            await self._kill(vm)
            (directory / "record.json").unlink(missing_ok=True)
            if isinstance(error, TimeoutError):
                raise failed(f"the VM did not run within {limit:g} s; see {directory}/vmm.log") from error
            raise
        finally:
            os.close(reading)
        if launch.current_memory < domain.memory and saved is None:
            try:
                await self._call(uuid, "balloon", target=launch.current_memory)
            except ManorError as error:
                logger.warning("the balloon of %s cannot be set: %s", domain.name, error)
        return running

    async def keep_live(self, uuid: bytes, text: str) -> None:
        vm = self._get(uuid)
        vm.names.note(domain_xml.parse(text))
        path = vm.directory / "record.json"

        def write() -> None:
            record = _read_json(path)
            if record is not None:
                write_atomically(path, json.dumps({**record, "live": text}).encode())

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise HostError.from_os_error(f"writing {path}", error) from error

    async def stop(self, uuid: bytes) -> None:
        vm = self._get(uuid)
        patience = STOP_SECONDS
        try:
            await (await self._control(vm)).call("stop", ANSWER_SECONDS)
        except ManorError:
            patience = ENDING_SECONDS  # it is just ending, or it is stuck
        try:
            await asyncio.wait_for(asyncio.shield(vm.ended), patience)
        except TimeoutError:
            await self._kill(vm)

    @staticmethod
    async def _kill(vm: _Vm) -> None:
        if not vm.ended.done():  # its descriptor is closed then
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(vm.descriptor, signal.SIGKILL)
        await vm.ended

    async def save(
        self, uuid: bytes, path: Path, note: str, paused: bool | None, progress: Progress = unwatched
    ) -> None:
        vm = self._get(uuid)
        arguments = {} if paused is None else {"paused": paused}
        asked: list[asyncio.Future[Json]] = []

        def follow(event: Json) -> None:
            if event.get("event") == "save" and not asked:
                try:
                    progress(int(event["done"]), int(event["total"]))
                except Cancelled:
                    asked.append(asyncio.ensure_future(control.call("save-cancel")))

        # In a conversation of its own: the others are not to wait for its end.
        control = await Control.connect(vm.directory / "control", follow)
        try:
            await control.call("subscribe", topic="save")
            await control.call("save", SAVE_SECONDS, path=os.fspath(path), note=note, **arguments)
        except HostError as error:
            if asked:
                raise Cancelled(str(error)) from error
            raise
        finally:
            await asyncio.gather(*asked, return_exceptions=True)
            await control.close()
        try:
            await asyncio.wait_for(asyncio.shield(vm.ended), STOP_SECONDS)
        except TimeoutError:
            await self._kill(vm)  # it is saved, and has let go of its disks

    async def close(self) -> None:
        """VMs live on."""
        loop = asyncio.get_running_loop()
        for vm in self._vms.values():
            loop.remove_reader(vm.descriptor)
            os.close(vm.descriptor)
            if vm.control is not None:
                await vm.control.close()
            if vm.process is not None:
                vm.process.returncode = 0  # nobody waits for it: it outlives its parent
        self._vms.clear()

    # --- what a VM is asked -------------------------------------------------------------------------------------------

    async def shutdown(self, uuid: bytes, agent: bool) -> None:
        await self._power(uuid, agent, "powerdown")

    async def reboot(self, uuid: bytes, agent: bool) -> None:
        await self._power(uuid, agent, "reboot")

    async def _power(self, uuid: bytes, agent: bool, mode: str) -> None:
        """By the agent, if that is wanted or it answers; else by the power button."""
        if agent or await self._agent_answers(uuid):
            await self.agent(uuid, "guest-shutdown", {"mode": mode}, 5.0)
        else:
            await self._call(uuid, "power-button", reboot=mode == "reboot")

    async def _agent_answers(self, uuid: bytes) -> bool:
        if not (await self._call(uuid, "status")).get("agent"):
            return False
        try:
            await self.agent(uuid, "guest-ping", {}, PING_SECONDS)
        except ApiError:
            return False
        return True

    async def reset(self, uuid: bytes) -> None:
        await self._call(uuid, "reset")

    async def suspend(self, uuid: bytes) -> None:
        await self._call(uuid, "pause")

    async def resume(self, uuid: bytes) -> None:
        await self._call(uuid, "resume")

    async def set_memory(self, uuid: bytes, kib: int) -> None:
        await self._call(uuid, "balloon", target=kib << 10)

    async def resize_disk(self, uuid: bytes, index: int, size: int) -> None:
        await self._call(uuid, "resize-disk", disk=self._get(uuid).names.disks[index], size=size)

    async def set_vcpus(self, uuid: bytes, count: int) -> None:
        await self._devices.set_vcpus(uuid, count)

    def trial(self, uuid: bytes) -> DeviceChanges:
        names = self._get(uuid).names
        trial = Names(names.disks, names.nics)
        return LiveDevices(TrialCall(trial), lambda _: trial, self._resolvers)

    async def attach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        return await self._devices.attach(uuid, live, device)

    async def detach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain | None:
        return await self._devices.detach(uuid, live, device)

    async def update(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        return await self._devices.update(uuid, live, device)

    async def statistics(self, uuid: bytes) -> MachineStatistics:
        vm = self._get(uuid)
        found, balloon = await asyncio.gather(self._command(uuid, "statistics", LOOK_SECONDS), self._balloon(uuid))
        memory = int(balloon.get("actual") or 0) >> 10 or vm.memory
        guest = balloon.get("statistics") or {}
        cpu_time = int(found.get("cpu_ns", 0))
        return MachineStatistics(
            cpu_time,
            (),
            memory,
            _rss(vm.pid),
            tuple(_block(found.get("disks", {}).get(name, {})) for name in vm.names.disks),
            tuple(_nic(found.get("nics", {}).get(name, {})) for name in vm.names.nics),
            {tag: _kib(name, guest[name]) for name, tag in _GUEST_MEMORY.items() if isinstance(guest.get(name), int)},
        )

    async def _balloon(self, uuid: bytes) -> Mapping[str, Any]:
        """What the balloon tells; nothing if there is none."""
        with suppress(ManorError):
            return await self._command(uuid, "balloon", LOOK_SECONDS)
        return {}

    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]:
        if source == 1:
            return agent_interfaces(await self.agent(uuid, "guest-network-get-interfaces", {}, 5.0))
        found = {nic["name"]: nic for nic in (await self._call(uuid, "nics"))["nics"]}
        nics = [found[name] for name in self._get(uuid).names.nics if name in found]
        return [
            GuestInterface(
                f"vnet{index}",
                nic["mac"],
                [IpAddress(int(":" in address), address, 64 if ":" in address else 24) for address in nic["addresses"]],
            )
            for index, nic in enumerate(nics)
            if nic["addresses"]
        ]

    async def console(self, uuid: bytes, device: str, force: bool) -> ByteStream:
        name = {"": "serial", "serial0": "serial", "console0": "serial", "console1": "virtio"}.get(device)
        if name is None:
            raise invalid_argument(f"cannot find character device {device}")
        return await VmConsole.open(self._get(uuid).directory / "control", name)

    async def console_log(self, uuid: bytes, since: int, limit: int) -> Scrollback:
        path = self._root / uuid_text(uuid) / "console.log"
        return Scrollback(*await asyncio.to_thread(read_log, path, since, limit))

    async def agent(self, uuid: bytes, command: str, arguments: Mapping[str, object], timeout: float) -> object:
        try:
            answer = await self._call(uuid, "agent", execute=command, arguments=dict(arguments), seconds=timeout)
        except (InternalError, HostError) as error:
            raise ApiError(Code.AGENT_UNRESPONSIVE, Origin.DOMAIN, f"Guest agent is not responding: {error}") from error
        return answer.get("value")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _get(self, uuid: bytes) -> _Vm:
        vm = self._vms.get(uuid)
        if vm is None:
            raise not_running()
        return vm

    async def _control(self, vm: _Vm) -> Control:
        """The conversation with a VM, which several may ask for at the same time, and which tells of its devices and
        its life. Raises HostError."""
        async with vm.connecting:
            if vm.control is None or not vm.control.is_open:
                control = await Control.connect(vm.directory / "control", partial(self._on_event, vm))
                try:
                    for topic in ("devices", "life"):
                        await control.call("subscribe", ANSWER_SECONDS, topic=topic)
                except BaseException:
                    await control.close()
                    raise
                vm.control = control
            return vm.control

    def _on_event(self, vm: _Vm, event: Json) -> None:
        if event.get("event") == "reboot" and self._on_happening is not None:
            self._on_happening(Rebooted(vm.uuid))
        elif event.get("event") == "crash" and self._on_happening is not None:
            self._on_happening(Crashed(vm.uuid, "its kernel panicked", is_paused=True))
        elif str(event.get("event")).startswith("device-"):
            alias = vm.names.take(event)
            if alias is not None and self._on_happening is not None:
                self._on_happening(Removed(vm.uuid, alias))

    async def _as_it_is(self, vm: _Vm, text: str) -> str:
        """The live document of a VM that was found, without what its guest gave back while nobody looked."""
        try:
            document = domain_xml.parse(text)
            if vm.control is not None:
                document = without_gone(document, await present(self._command, vm.uuid))
        except ManorError as error:
            logger.warning("the devices of the VM %s are not known: %s", uuid_text(vm.uuid), error)
            return text
        vm.names.note(document)
        return domain_xml.format(document)

    async def _call(self, uuid: bytes, command: str, **arguments: object) -> dict[str, Any]:
        return await self._command(uuid, command, CALL_TIMEOUT, **arguments)

    async def _command(self, uuid: bytes, command: str, timeout: float, /, **arguments: object) -> dict[str, Any]:
        vm = self._get(uuid)
        try:
            return await (await self._control(vm)).call(command, timeout, **arguments)
        except HostError as error:
            # A VM's socket goes a moment before its process.
            await asyncio.wait((vm.ended,), timeout=ENDING_SECONDS)
            if vm.ended.done():
                raise not_running() from error
            raise

    def _watch(
        self,
        uuid: bytes,
        directory: Path,
        pid: int,
        descriptor: int,
        process: subprocess.Popen[bytes] | None = None,
    ) -> _Vm:
        loop = asyncio.get_running_loop()
        vm = _Vm(uuid, directory, pid, descriptor, loop.create_future(), process)
        self._vms[uuid] = vm
        loop.add_reader(descriptor, self._ended, vm)
        return vm

    def _ended(self, vm: _Vm) -> None:
        """The process is gone."""
        asyncio.get_running_loop().remove_reader(vm.descriptor)
        os.close(vm.descriptor)
        status = None if vm.process is None else vm.process.wait()
        if vm.control is not None:
            closing = asyncio.ensure_future(vm.control.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        is_known = self._vms.get(vm.uuid) is vm
        if is_known:
            del self._vms[vm.uuid]
        (vm.directory / "record.json").unlink(missing_ok=True)
        vm.ended.set_result(None)
        if is_known and self._on_happening is not None:
            self._on_happening(_end_of(vm.uuid, vm.directory, status))


CONNECT_PATIENCE: Final = 10.0
"""Seconds for a VM that an earlier daemon began to start."""


def _spawn(directory: Path, settings: dict[str, Any], record: dict[str, Any]) -> tuple[subprocess.Popen[bytes], int]:
    """(process, descriptor its report comes from). Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = process_lock.open_lock(directory / "lock")
    reading, writing = os.pipe()
    try:
        if not process_lock.try_lock(lock):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), os.fspath(directory))
        os.ftruncate(lock, 0)
        for name in ("end.json", "control"):
            (directory / name).unlink(missing_ok=True)
        write_atomically(directory / "spec.json", json.dumps(settings, indent=1).encode())
        write_atomically(directory / "record.json", json.dumps(record).encode())
        with (directory / "vmm.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "manor.vmm.process", os.fspath(directory), str(lock)],
                stdin=subprocess.DEVNULL, stdout=writing, stderr=log, pass_fds=(lock,), start_new_session=True, cwd="/",
            )  # fmt: skip
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
        os.close(lock)
    return process, reading


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _read_line(descriptor: int) -> bytes:
    """What comes up to the end of a line, or of the pipe."""
    os.set_blocking(descriptor, False)
    loop = asyncio.get_running_loop()
    data = b""
    while not data.endswith(b"\n") and len(data) < 1 << 16:
        try:
            piece = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(descriptor, _resolve, ready)
            try:
                await ready
            finally:
                loop.remove_reader(descriptor)
            continue
        if not piece:
            break
        data += piece
    return data


def _check_report(report: bytes, directory: Path) -> None:
    """Raise what the VMM said, or that it said nothing."""
    try:
        value = json.loads(report)
    except ValueError:
        value = {}
    if "error" in value:
        raise error_from_json(value["error"])
    if "running" not in value:
        raise failed(f"the VM's process ended before the VM ran: {_last_words(directory)}")


def _last_words(directory: Path) -> str:
    with suppress(OSError):
        lines = (directory / "vmm.log").read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return f"see {directory}/vmm.log"


def _end_of(uuid: bytes, directory: Path, status: int | None) -> Ended:
    """How a VM ended, from what it left. status: of its process, where it is known."""
    value = _read_json(directory / "end.json")
    if value is None:
        cause = f"signal {-status}" if status is not None and status < 0 else "it left no word"
        return Ended(uuid, End.LOST, f"its process was killed ({cause}); {_last_words(directory)}")
    how = _ENDS.get(str(value.get("reason")), End.FAILED)
    return Ended(uuid, how, str(value.get("detail", "")) if how in (End.CRASH, End.FAILED) else "")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_FILE))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _started_ns(directory: Path) -> int:
    """When the VM in `directory` was started: its description is written just before."""
    try:
        return (directory / "spec.json").stat().st_mtime_ns
    except OSError:
        return 0


def _rss(pid: int) -> int:
    """KiB of the process's memory that are in RAM."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") >> 10


def _block(found: Mapping[str, Any]) -> BlockStatistics:
    return BlockStatistics(
        *(
            int(found.get(name, 0))
            for name in ("read_requests", "read_bytes", "write_requests", "write_bytes", "flush_requests")
        )
    )


def _nic(found: Mapping[str, Any]) -> NicStatistics:
    names = ("received_bytes", "received_frames", "sent_bytes", "sent_frames", "receive_dropped", "send_dropped")
    return NicStatistics(*(int(found.get(name, 0)) for name in names))


def _kib(name: str, value: int) -> int:
    return value if name.endswith("faults") else value >> 10
