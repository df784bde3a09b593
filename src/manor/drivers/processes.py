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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from manor.base import process_lock
from manor.base.errors import ApiError, HostError, InternalError, ManorError, StateError
from manor.base.files import write_atomically
from manor.domain.definition import Platform
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.domain import Domain
from manor.domain.xml.live import live
from manor.domain.xml.network import Network
from manor.domain.xml.property import Finding
from manor.domain.xml.to_spec import Launch, Resolvers, to_spec
from manor.drivers.api import BlockStatistics, ByteStream, MachineStatistics, NicStatistics
from manor.drivers.console import VmConsole
from manor.drivers.control import Control
from manor.drivers.errors import Code, Origin, failed, invalid, invalid_argument, not_running, unsupported, uuid_text
from manor.drivers.hypervisor import End, Ended, FixedHardware, Found, OnHappening
from manor.drivers.node import EMULATOR
from manor.rpc.protocol.records import GuestInterface, IpAddress
from manor.spec.check import check_disk
from manor.spec.control import error_from_json
from manor.spec.machine import AccelName
from manor.spec.machine_json import spec_to_json

logger = logging.getLogger(__name__)

START_SECONDS: Final = 60.0
"""For a VMM to say that it runs: it opens disks and prepares memory meanwhile."""
ENDING_SECONDS: Final = 1.0
"""From the end of a VM's control socket to that of its process."""
RESTORE_RATE: Final = 10 << 20
"""Bytes of a saved state that a VMM reads in a second, at least."""
SAVE_SECONDS: Final = 24 * 3600.0
"""For a VM to write itself into a file, however slow that is; it can be given up."""
STOP_SECONDS: Final = 15.0
"""For a VMM to end in order, before it is killed."""
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


class Processes(FixedHardware):
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

    # --- start and end ------------------------------------------------------------------------------------------------

    async def recover(self, on_happening: OnHappening) -> tuple[Sequence[Found], Sequence[Ended]]:
        self._on_happening = on_happening
        found: list[Found] = []
        ended: list[Ended] = []
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in sorted(self._root.iterdir()):
            record = _read_json(directory / "record.json")
            if record is None:
                continue
            try:
                uuid = UUID(directory.name).bytes
                number, text = int(record["number"]), str(record["live"])
            except (ValueError, KeyError, TypeError):
                logger.warning("%s is left alone: it is no VM's", directory)
                continue
            vm = await self._adopt(uuid, directory)
            if vm is None:
                ended.append(_end_of(uuid, directory, None))
                (directory / "record.json").unlink(missing_ok=True)
            else:
                found.append(Found(uuid, number, text, await self._is_paused(vm), _started_ns(directory)))
        return found, ended

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
                vm.control = await Control.connect(directory / "control")
            except ManorError as error:
                if time.monotonic() > limit:
                    logger.warning("the VM %s runs and does not answer: %s", uuid_text(uuid), error)
                    break
                await asyncio.sleep(0.1)
        return vm

    async def _is_paused(self, vm: _Vm) -> bool:
        if vm.control is not None:
            with suppress(ManorError):
                status = await vm.control.call("status")
                vm.memory = int(status.get("memory", 0)) >> 10
                return status.get("state") == "paused"
        return False

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
        spec = launch.spec
        assert domain.uuid is not None
        uuid = UUID(domain.uuid).bytes
        running = live(domain, number)
        for path in (spec.kernel, spec.initrd) if saved is None else ():
            if path is not None and not path.exists():
                raise failed(f"cannot open {path}: No such file or directory")
        settings = {
            "machine": json.loads(spec_to_json(spec)),
            "accel": launch.accel,
            "paused": paused,
            "reboot": launch.on_reboot != "destroy",
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
            vm.control = await Control.connect(directory / "control")
            vm.memory = domain.memory >> 10
        except BaseException as error:
            self._vms.pop(uuid, None)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(vm.descriptor, signal.SIGKILL)
            await vm.ended
            (directory / "record.json").unlink(missing_ok=True)
            if isinstance(error, TimeoutError):
                raise failed(f"the VM did not run within {limit:g} s; see {directory}/vmm.log") from error
            raise
        finally:
            os.close(reading)
        if launch.current_memory < domain.memory and saved is None:
            try:
                await vm.control.call("balloon", target=launch.current_memory)
            except ManorError as error:
                logger.warning("the balloon of %s cannot be set: %s", domain.name, error)
        return running

    async def keep_live(self, uuid: bytes, text: str) -> None:
        vm = self._get(uuid)
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
        with suppress(ManorError):
            if vm.control is not None:
                await vm.control.call("stop", 5.0)
            else:
                signal.pidfd_send_signal(vm.descriptor, signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(vm.ended), STOP_SECONDS)
        except TimeoutError:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(vm.descriptor, signal.SIGKILL)
            await vm.ended

    async def save(self, uuid: bytes, path: Path, note: str, paused: bool | None) -> None:
        vm = self._get(uuid)
        arguments = {} if paused is None else {"paused": paused}
        # In a conversation of its own: the others are not to wait for its end.
        control = await Control.connect(vm.directory / "control")
        try:
            await control.call("save", SAVE_SECONDS, path=os.fspath(path), note=note, **arguments)
        finally:
            await control.close()
        try:
            await asyncio.wait_for(asyncio.shield(vm.ended), STOP_SECONDS)
        except TimeoutError:
            # It is saved, and has let go of its disks.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(vm.descriptor, signal.SIGKILL)
            await vm.ended

    async def cancel_save(self, uuid: bytes) -> bool:
        try:
            await self._call(uuid, "save-cancel")
        except StateError:
            return False
        return True

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
        await self._power(uuid, "powerdown")

    async def reboot(self, uuid: bytes, agent: bool) -> None:
        await self._power(uuid, "reboot")

    async def _power(self, uuid: bytes, mode: str) -> None:
        status = await self._call(uuid, "status")
        if not status.get("agent"):
            raise invalid(
                "the guest cannot be asked: it runs no agent on org.qemu.guest_agent.0; do it inside the guest, "
                "or destroy the domain"
            )
        await self.agent(uuid, "guest-shutdown", {"mode": mode}, 5.0)

    async def reset(self, uuid: bytes) -> None:
        raise unsupported("a VM cannot be reset from outside; destroy and start it")

    async def suspend(self, uuid: bytes) -> None:
        await self._call(uuid, "pause")

    async def resume(self, uuid: bytes) -> None:
        await self._call(uuid, "resume")

    async def set_memory(self, uuid: bytes, kib: int) -> None:
        await self._call(uuid, "balloon", target=kib << 10)

    async def resize_disk(self, uuid: bytes, index: int, size: int) -> None:
        await self._call(uuid, "resize-disk", disk=index, size=size)

    async def statistics(self, uuid: bytes) -> MachineStatistics:
        vm = self._get(uuid)
        found = await self._call(uuid, "statistics")
        balloon: Mapping[str, Any] = {}
        with suppress(ManorError):
            balloon = await self._call(uuid, "balloon")
        memory = int(balloon.get("actual") or 0) >> 10 or vm.memory
        guest = balloon.get("statistics") or {}
        cpu_time = int(found.get("cpu_ns", 0))
        return MachineStatistics(
            cpu_time,
            (),
            memory,
            _rss(vm.pid),
            tuple(_block(each) for each in found.get("disks", {}).values()),
            tuple(_nic(each) for each in found.get("nics", {}).values()),
            {tag: _kib(name, guest[name]) for name, tag in _GUEST_MEMORY.items() if isinstance(guest.get(name), int)},
        )

    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]:
        if source == 1:
            return _agent_interfaces(await self.agent(uuid, "guest-network-get-interfaces", {}, 5.0))
        nics = (await self._call(uuid, "nics"))["nics"]
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

    async def _call(self, uuid: bytes, command: str, **arguments: object) -> dict[str, Any]:
        vm = self._get(uuid)
        try:
            if vm.control is None or not vm.control.is_open:
                vm.control = await Control.connect(vm.directory / "control")
            return await vm.control.call(command, **arguments)
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


def _agent_interfaces(found: object) -> list[GuestInterface]:
    rows = []
    for each in found if isinstance(found, list) else []:
        if not isinstance(each, dict):
            continue
        addresses = [
            IpAddress(int(one.get("ip-address-type") == "ipv6"), str(one.get("ip-address")), int(one.get("prefix", 0)))
            for one in each.get("ip-addresses", ())
            if isinstance(one, dict)
        ]
        rows.append(GuestInterface(str(each.get("name", "")), each.get("hardware-address"), addresses))
    return rows
