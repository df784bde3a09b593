"""A domain looked at and adjusted: vCPUs, memory, disks, interfaces, scheduling, the guest's agent, its keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from manor.client.handle import UuidHandle
from manor.client.params import Params, Value, from_params, to_params
from manor.client.results import (
    BlockInfo,
    BlockStats,
    GuestTime,
    InterfaceStats,
    cpu_bits,
    cpu_bytes,
)
from manor.rpc.protocol import records

MAP_SIZE = 512
"""Bytes of CPU map that are asked for: 4096 host CPUs."""


class DomainTuning(UuidHandle[records.Domain]):
    """What `Domain` has beside its life cycle."""

    __slots__ = ()

    # vCPUs and I/O threads.

    async def vcpu_count(self, flags: int = 0) -> int:
        """flags: 1 live, 2 config, 4 the maximum, 8 as the guest's agent tells."""
        count: int = await self._call("domain_get_vcpus_flags", flags)
        return count

    async def max_vcpus(self) -> int:
        """How many vCPUs it may have while it runs."""
        count: int = await self._call("domain_get_max_vcpus")
        return count

    async def set_vcpu_count(self, count: int, flags: int = 0) -> None:
        """flags: 1 live, 2 config, 4 the maximum, 8 by the guest's agent."""
        if flags:
            await self._call("domain_set_vcpus_flags", count, flags)
        else:
            await self._call("domain_set_vcpus", count)

    async def vcpus(self, host_cpus: int = 8 * MAP_SIZE) -> list[tuple[records.VcpuInfo, tuple[bool, ...]]]:
        """(vCPU, host CPUs that it may run on) of each; running domains only."""
        size = -(-host_cpus // 8)
        infos, maps = await self._call("domain_get_vcpus", await self.max_vcpus(), size)
        return [(info, cpu_bits(maps[at * size : (at + 1) * size], host_cpus)) for at, info in enumerate(infos)]

    async def vcpu_pins(self, count: int, host_cpus: int = 8 * MAP_SIZE, flags: int = 0) -> list[tuple[bool, ...]]:
        """Host CPUs that each of `count` vCPUs may run on."""
        size = -(-host_cpus // 8)
        maps, found = await self._call("domain_get_vcpu_pin_info", count, size, flags)
        return [cpu_bits(maps[at * size : (at + 1) * size], host_cpus) for at in range(found)]

    async def pin_vcpu(self, vcpu: int, cpus: Sequence[bool], flags: int = 0) -> None:
        """Let a vCPU run on these host CPUs only."""
        if flags:
            await self._call("domain_pin_vcpu_flags", vcpu, cpu_bytes(list(cpus)), flags)
        else:
            await self._call("domain_pin_vcpu", vcpu, cpu_bytes(list(cpus)))

    async def emulator_pin(self, host_cpus: int = 8 * MAP_SIZE, flags: int = 0) -> tuple[bool, ...]:
        """Host CPUs that the VMM's other threads may run on."""
        cpus, _ = await self._call("domain_get_emulator_pin_info", -(-host_cpus // 8), flags)
        return cpu_bits(cpus, host_cpus)

    async def pin_emulator(self, cpus: Sequence[bool], flags: int = 0) -> None:
        """Let the VMM's other threads run on these host CPUs only."""
        await self._call("domain_pin_emulator", cpu_bytes(list(cpus)), flags)

    async def set_vcpu(self, vcpus: str, enabled: bool, flags: int = 0) -> None:
        """Switch single vCPUs on or off. vcpus: like `0-2,5`."""
        await self._call("domain_set_vcpu", vcpus, int(enabled), flags)

    async def guest_vcpus(self, flags: int = 0) -> dict[str, Value]:
        """vCPUs as the guest's agent sees them."""
        return await self._params("domain_get_guest_vcpus", flags)

    async def set_guest_vcpus(self, vcpus: str, enabled: bool, flags: int = 0) -> None:
        """Let the guest's agent switch vCPUs on or off."""
        await self._call("domain_set_guest_vcpus", vcpus, int(enabled), flags)

    async def iothreads(self, flags: int = 0) -> list[records.IothreadInfo]:
        """Its I/O threads."""
        found, _ = await self._call("domain_get_iothread_info", flags)
        return list(found)

    async def add_iothread(self, number: int, flags: int = 0) -> None:
        """Add an I/O thread."""
        await self._call("domain_add_iothread", number, flags)

    async def delete_iothread(self, number: int, flags: int = 0) -> None:
        """Remove an I/O thread."""
        await self._call("domain_del_iothread", number, flags)

    async def set_iothread_params(self, number: int, params: Params, flags: int = 0) -> None:
        """How an I/O thread polls."""
        await self._call("domain_set_iothread_params", number, to_params(params), flags)

    async def pin_iothread(self, number: int, cpus: Sequence[bool], flags: int = 0) -> None:
        """Let an I/O thread run on these host CPUs only."""
        await self._call("domain_pin_iothread", number, cpu_bytes(list(cpus)), flags)

    # Memory.

    async def max_memory(self) -> int:
        """KiB that it may have."""
        size: int = await self._call("domain_get_max_memory")
        return size

    async def set_memory(self, size: int, flags: int = 0) -> None:
        """KiB that it has. flags: 1 live, 2 config, 4 the maximum."""
        if flags:
            await self._call("domain_set_memory_flags", size, flags)
        else:
            await self._call("domain_set_memory", size)

    async def set_max_memory(self, size: int) -> None:
        """KiB that it may have."""
        await self._call("domain_set_max_memory", size)

    async def memory_stats(self, flags: int = 0) -> dict[int, int]:
        """libvirt's virDomainMemoryStatTags -> value, sizes in KiB."""
        return {stat.tag: stat.value for stat in await self._call("domain_memory_stats", 64, flags)}

    async def set_memory_stats_period(self, period: int, flags: int = 0) -> None:
        """Seconds between two looks at the balloon's statistics; 0 is never."""
        await self._call("domain_set_memory_stats_period", period, flags)

    async def memory_peek(self, offset: int, size: int, flags: int = 2) -> bytes:
        """Guest memory. flags: 1 virtual, 2 physical addresses."""
        data: bytes = await self._call("domain_memory_peek", offset, size, flags)
        return data

    async def memory_params(self, flags: int = 0) -> dict[str, Value]:
        """Limits on the memory of its VMM, KiB."""
        return await self._counted_params("domain_get_memory_parameters", (), flags)

    async def set_memory_params(self, params: Params, flags: int = 0) -> None:
        """The inverse."""
        await self._call("domain_set_memory_parameters", to_params(params), flags)

    async def numa_params(self, flags: int = 0) -> dict[str, Value]:
        """`numa_nodeset`, `numa_mode`."""
        return await self._counted_params("domain_get_numa_parameters", (), flags)

    async def set_numa_params(self, params: Params, flags: int = 0) -> None:
        """The inverse."""
        await self._call("domain_set_numa_parameters", to_params(params), flags)

    # Scheduling and limits.

    async def scheduler_type(self) -> str:
        """`posix` and the like."""
        name, _ = await self._call("domain_get_scheduler_type")
        return str(name)

    async def scheduler_params(self, flags: int = 0) -> dict[str, Value]:
        """How its threads are scheduled."""
        _, count = await self._call("domain_get_scheduler_type")
        if flags:
            return await self._params("domain_get_scheduler_parameters_flags", count, flags)
        return await self._params("domain_get_scheduler_parameters", count)

    async def set_scheduler_params(self, params: Params | Iterable[records.TypedParam], flags: int = 0) -> None:
        """The inverse."""
        if flags:
            await self._call("domain_set_scheduler_parameters_flags", to_params(params), flags)
        else:
            await self._call("domain_set_scheduler_parameters", to_params(params))

    async def blkio_params(self, flags: int = 0) -> dict[str, Value]:
        """Weights and limits of its disks' host devices."""
        return await self._counted_params("domain_get_blkio_parameters", (), flags)

    async def set_blkio_params(self, params: Params, flags: int = 0) -> None:
        """The inverse."""
        await self._call("domain_set_blkio_parameters", to_params(params), flags)

    async def cpu_stats(self, first: int = -1, count: int = 1, flags: int = 0) -> dict[str, Value]:
        """CPU times, ns. first: host CPU, or -1 for the total."""
        _, nparams = await self._call("domain_get_cpu_stats", 0, first, count, flags)
        params, _ = await self._call("domain_get_cpu_stats", nparams, first, count, flags)
        return from_params(params)

    async def perf_events(self, flags: int = 0) -> dict[str, Value]:
        """Performance counters and whether each is on."""
        return await self._params("domain_get_perf_events", flags)

    async def set_perf_events(self, params: Params, flags: int = 0) -> None:
        """The inverse."""
        await self._call("domain_set_perf_events", to_params(params), flags)

    # Disks.

    async def block_info(self, disk: str, flags: int = 0) -> BlockInfo:
        """Sizes of a disk, by its target or path."""
        return BlockInfo(*await self._call("domain_get_block_info", disk, flags))

    async def block_stats(self, disk: str) -> BlockStats:
        """What a disk has done; "" is all of them."""
        return BlockStats(*await self._call("domain_block_stats", disk))

    async def block_stats_params(self, disk: str, flags: int = 0) -> dict[str, Value]:
        """As `block_stats`, with flushes and times, ns."""
        return await self._counted_params("domain_block_stats_flags", (disk,), flags)

    async def block_peek(self, disk: str, offset: int, size: int) -> bytes:
        """Bytes of a disk."""
        data: bytes = await self._call("domain_block_peek", disk, offset, size, 0)
        return data

    async def block_resize(self, disk: str, size: int, flags: int = 0) -> None:
        """Grow a disk. size: KiB, or with flag 1 bytes."""
        await self._call("domain_block_resize", disk, size, flags)

    async def block_io_tune(self, disk: str, flags: int = 0) -> dict[str, Value]:
        """Limits of a disk."""
        return await self._counted_params("domain_get_block_io_tune", (disk,), flags)

    async def set_block_io_tune(self, disk: str, params: Params, flags: int = 0) -> None:
        """The inverse."""
        await self._call("domain_set_block_io_tune", disk, to_params(params), flags)

    async def set_block_threshold(self, device: str, threshold: int, flags: int = 0) -> None:
        """Ask for an event once a disk's image has grown to `threshold` bytes."""
        await self._call("domain_set_block_threshold", device, threshold, flags)

    async def disk_errors(self, flags: int = 0) -> list[records.DiskError]:
        """Disks that have stopped it."""
        _, count = await self._call("domain_get_disk_errors", 0, flags)
        errors, _ = await self._call("domain_get_disk_errors", count, flags)
        return list(errors)

    # Network interfaces.

    async def interface_stats(self, device: str) -> InterfaceStats:
        """What an interface has done, by its host device or MAC."""
        return InterfaceStats(*await self._call("domain_interface_stats", device))

    async def interface_params(self, device: str, flags: int = 0) -> dict[str, Value]:
        """Bandwidth of an interface, KiB/s."""
        return await self._counted_params("domain_get_interface_parameters", (device,), flags)

    async def set_interface_params(self, device: str, params: Params, flags: int = 0) -> None:
        """The inverse."""
        await self._call("domain_set_interface_parameters", device, to_params(params), flags)

    async def interface_addresses(self, source: int = 0, flags: int = 0) -> list[records.GuestInterface]:
        """source: 0 DHCP leases, 1 the guest's agent, 2 the host's ARP table."""
        found: list[records.GuestInterface] = await self._call("domain_interface_addresses", source, flags)
        return found

    # The guest, by its agent or its keyboard.

    async def guest_info(self, types: int = 0, flags: int = 0) -> dict[str, Value]:
        """What the guest's agent tells. types: libvirt's virDomainGuestInfoTypes, 0 is all."""
        return await self._params("domain_get_guest_info", types, flags)

    async def filesystems(self, flags: int = 0) -> list[records.Filesystem]:
        """File systems mounted in the guest."""
        found, _ = await self._call("domain_get_fsinfo", flags)
        return list(found)

    async def freeze_filesystems(self, mount_points: Sequence[str] = (), flags: int = 0) -> int:
        """Have the guest hold writes; how many file systems do."""
        count: int = await self._call("domain_fsfreeze", list(mount_points), flags)
        return count

    async def thaw_filesystems(self, mount_points: Sequence[str] = (), flags: int = 0) -> int:
        """The inverse."""
        count: int = await self._call("domain_fsthaw", list(mount_points), flags)
        return count

    async def trim_filesystems(self, mount_point: str | None = None, minimum: int = 0, flags: int = 0) -> None:
        """Have the guest discard what it does not use. minimum: bytes of a piece."""
        await self._call("domain_fstrim", mount_point, minimum, flags)

    async def time(self, flags: int = 0) -> GuestTime:
        """The guest's clock."""
        return GuestTime(*await self._call("domain_get_time", flags))

    async def set_time(self, seconds: int, nanoseconds: int = 0, flags: int = 0) -> None:
        """The inverse. flags: 1 from the RTC."""
        await self._call("domain_set_time", seconds, nanoseconds, flags)

    async def set_user_password(self, user: str, password: str, flags: int = 0) -> None:
        """Set a password in the guest."""
        await self._call("domain_set_user_password", user, password, flags)

    async def ssh_keys(self, user: str, flags: int = 0) -> list[str]:
        """Keys that may log in as `user` in the guest."""
        keys: list[str] = await self._call("domain_authorized_ssh_keys_get", user, flags)
        return keys

    async def set_ssh_keys(self, user: str, keys: Sequence[str], flags: int = 0) -> None:
        """The inverse. flags: 1 append, 2 remove."""
        await self._call("domain_authorized_ssh_keys_set", user, list(keys), flags)

    async def set_agent_timeout(self, seconds: int, flags: int = 0) -> None:
        """How long the guest's agent may take; -2 for ever, -1 libvirt's own, 0 not at all."""
        await self._call("domain_agent_set_response_timeout", seconds, flags)

    async def agent_command(self, command: str, timeout: int = -2, flags: int = 0) -> str | None:
        """Send JSON to the guest's agent."""
        answer: str | None = await self._call("qemu_domain_agent_command", command, timeout, flags)
        return answer

    async def monitor_command(self, command: str, flags: int = 0) -> str:
        """Send a command to QEMU's monitor. flags: 1 as a person would type it."""
        answer: str = await self._call("qemu_domain_monitor_command", command, flags)
        return answer

    async def send_key(self, keycodes: Sequence[int], codeset: int = 0, holdtime: int = 0, flags: int = 0) -> None:
        """Press keys together. holdtime: ms; codeset: libvirt's virKeycodeSet, 0 is Linux."""
        await self._call("domain_send_key", codeset, holdtime, list(keycodes), flags)

    async def send_process_signal(self, pid: int, signal: int, flags: int = 0) -> None:
        """Send a signal to a process of the guest."""
        await self._call("domain_send_process_signal", pid, signal, flags)

    async def inject_nmi(self, flags: int = 0) -> None:
        """Send the guest a non-maskable interrupt."""
        await self._call("domain_inject_nmi", flags)

    async def pm_suspend(self, target: int = 0, duration: int = 0, flags: int = 0) -> None:
        """Have the guest suspend itself. target: 0 memory, 1 disk, 2 both."""
        await self._call("domain_pm_suspend_for_duration", target, duration, flags)

    async def pm_wakeup(self, flags: int = 0) -> None:
        """Wake a guest that has suspended itself."""
        await self._call("domain_pm_wakeup", flags)

    # Security, dirty rate.

    async def security_label(self) -> records.SecurityLabel:
        """The label of its VMM's process."""
        return records.SecurityLabel(*await self._call("domain_get_security_label"))

    async def security_labels(self) -> list[records.SecurityLabel]:
        """The labels by all security models."""
        found, _ = await self._call("domain_get_security_label_list")
        return list(found)

    async def launch_security_info(self, flags: int = 0) -> dict[str, Value]:
        """Measurements of an encrypted guest."""
        return await self._params("domain_get_launch_security_info", flags)

    async def set_launch_security_state(self, params: Params, flags: int = 0) -> None:
        """Give an encrypted guest its secret."""
        await self._call("domain_set_launch_security_state", to_params(params), flags)

    async def start_dirty_rate(self, seconds: int = 1, flags: int = 0) -> None:
        """Measure for `seconds` how fast it writes memory; the result is among its statistics."""
        await self._call("domain_start_dirty_rate_calc", seconds, flags)

    async def _params(self, procedure: str, *arguments: Any) -> dict[str, Value]:
        return from_params(await self._call(procedure, *arguments))

    async def _counted_params(self, procedure: str, before: tuple[Any, ...], flags: int) -> dict[str, Value]:
        """Parameters of a procedure that first tells how many there are."""
        _, count = await self._call(procedure, *before, 0, flags)
        if count == 0:
            return {}
        params, _ = await self._call(procedure, *before, count, flags)
        return from_params(params)
