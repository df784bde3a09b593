"""Counters of a running QEMU: from its monitor, and of its threads from the host's kernel.

Source: QEMU 7.2, "QMP Reference Manual", query-blockstats, query-balloon; docs/interop/virtio-balloon-stats; proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from manor.base.errors import ManorError
from manor.domain.xml.domain import Domain
from manor.domain.xml.live import machine_order
from manor.drivers.api import BlockStatistics, MachineStatistics, NicStatistics
from manor.drivers.qemu.monitor import Monitor

BALLOON_SECONDS: Final = 5
"""Between two questions of QEMU to the guest's balloon."""
_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_GUEST: Final = {
    "stat-swap-in": 0, "stat-swap-out": 1, "stat-major-faults": 2, "stat-minor-faults": 3, "stat-free-memory": 4,
    "stat-total-memory": 5, "stat-available-memory": 8, "stat-disk-caches": 10,
}  # fmt: skip
"""Statistics of the balloon -> virDomainMemoryStatTags."""
_UNKNOWN: Final = (1 << 64) - 1


async def machine_statistics(monitor: Monitor, pid: int, threads: tuple[int, ...], live: Domain) -> MachineStatistics:
    """threads: of the vCPUs. Raises HostError, QmpError."""
    rows = await monitor.execute("query-blockstats")
    memory, guest = live.memory >> 10, {}
    if has_balloon(live):
        with suppress(ManorError):
            memory = int((await monitor.execute("query-balloon"))["actual"]) >> 10
            guest = await _guest_memory(monitor, balloon_path(live))
    disks = live.devices.disks
    return MachineStatistics(
        thread_time(pid),
        tuple(thread_time(pid, thread) for thread in threads),
        memory,
        resident(pid),
        tuple(block_statistics(rows, disks[index].alias or "") for index in machine_order(live.devices)),
        # QEMU counts frames of no interface.
        tuple(NicStatistics() for _ in live.devices.interfaces),
        guest,
    )


def has_balloon(live: Domain) -> bool:
    balloon = live.devices.balloon
    return balloon is not None and balloon.model != "none"


def balloon_path(live: Domain) -> str:
    """The balloon in QEMU's object tree."""
    balloon = live.devices.balloon
    return f"/machine/peripheral/{(balloon and balloon.alias) or 'balloon0'}"


def block_statistics(rows: Any, alias: str) -> BlockStatistics:
    """Counters of the device `alias`, from the answer to query-blockstats; zeros if it is not there."""
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and alias in str(row.get("qdev", "")).split("/"):
            stats = row.get("stats")
            found: Mapping[str, Any] = stats if isinstance(stats, dict) else {}
            return BlockStatistics(*(
                int(found.get(name, 0))
                for name in ("rd_operations", "rd_bytes", "wr_operations", "wr_bytes", "flush_operations")
            ))  # fmt: skip
    return BlockStatistics()


async def _guest_memory(monitor: Monitor, path: str) -> dict[int, int]:
    found = await monitor.execute("qom-get", path=path, property="guest-stats")
    stats = found.get("stats", {}) if isinstance(found, dict) else {}
    values = {}
    for name, tag in _GUEST.items():
        value = stats.get(name)
        # What the guest does not say is all ones, and before it has said anything there is nothing.
        if isinstance(value, int) and 0 <= value < _UNKNOWN:
            values[tag] = value if name.endswith("faults") else value >> 10
    return values


def thread_time(pid: int, thread: int | None = None) -> int:
    """ns that a process, or one thread of it, has run; 0 if it is gone."""
    path = f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat"
    try:
        # The name in parentheses may have spaces: fields are counted from behind it.
        words = Path(path).read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) * _TICK
    except (OSError, ValueError, IndexError):
        return 0


def resident(pid: int) -> int:
    """KiB of the process's memory that are in RAM."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") >> 10
