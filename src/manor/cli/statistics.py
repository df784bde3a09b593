"""The statistics of a VM as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manor.vmm.vm import Statistics


def text(statistics: Statistics) -> str:
    """A few aligned lines: time, the accelerator's counters, exits by device, disks, network interfaces."""
    rows: list[tuple[str, str]] = [
        ("wall time", f"{statistics.wall_ns / 1e9:.3f} s"),
        ("processor time", f"{statistics.cpu_ns / 1e9:.3f} s"),
        ("halts", f"{statistics.halts:,}"),
        ("I/O loop", f"{statistics.wakeups:,} wake-ups, {statistics.timers:,} timers"),
    ]
    rows += [(_title(name), _number(name, value)) for name, value in statistics.accel.items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    total = sum(statistics.exits.values())
    lines.append(f"{'exits':<{width}}  {total:,}")
    for device, count in sorted(statistics.exits.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"  {device:<{width}}{count:,}")
    for part, counters in (statistics.disks | statistics.nics).items():
        lines.append(part)
        lines += [f"  {_title(name):<{width}}{_number(name, value)}" for name, value in counters.items()]
    return "\n".join(lines) + "\n"


def _title(name: str) -> str:
    return name.removesuffix("_ns").replace("_", " ")


def _number(name: str, value: int | float) -> str:
    if name.endswith("_ns"):
        return f"{value / 1e9:.3f} s"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
