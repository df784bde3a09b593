"""One guest, measured: its boot, the C programs in it, and what it takes while it idles."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor.guests.init_script import PROMPT
from manor.testing.guest_process import Boot, GuestProcess, Runner, command

BOOT_TIMEOUT_S: Final = 120.0
IDLE_SETTLE_S: Final = 3.0
"""After the prompt, before an idle guest is looked at: the kernel still has work of its own then."""
CLOCK_TOLERANCE: Final = 0.05
"""Part by which the guest's clock may differ from the host's before the figure is marked."""
_RATE: Final = r"@@rate (\S+) seconds (\S+) check \w+"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Settings:
    """seconds: for each program. idle_seconds: how long an idle guest is watched. programs: names to run."""

    seconds: float
    idle_seconds: float
    programs: Sequence[str]
    with_idle: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """values: by name of the row. doubts: what makes a value less sure, for people."""

    values: dict[str, float]
    doubts: list[str]


def measure_guest(runner: Runner, boot: Boot, settings: Settings) -> Measured:
    """Boot once and measure. A row that fails (timeout, crash) is missing and named among the doubts."""
    values: dict[str, float] = {}
    doubts: list[str] = []
    with GuestProcess(command(runner, boot)) as guest:
        guest.wait_for("Run /init as init process", BOOT_TIMEOUT_S)
        values["boot_init_wall"], values["boot_init_cpu"] = time.monotonic() - guest.started, _cpu_seconds(guest.pid)
        guest.wait_for(PROMPT, BOOT_TIMEOUT_S)
        values["boot_shell_wall"], values["boot_shell_cpu"] = time.monotonic() - guest.started, _cpu_seconds(guest.pid)
        if settings.with_idle:
            time.sleep(IDLE_SETTLE_S)
            before, started = _cpu_seconds(guest.pid), time.monotonic()
            time.sleep(settings.idle_seconds)
            used = _cpu_seconds(guest.pid) - before
            values["idle_cpu"] = 100 * used / (time.monotonic() - started)
            values["idle_resident"] = _resident_mib(guest.pid)
        for name in settings.programs:
            guest.send(f"/bench/{name} {settings.seconds}\n")
            limit = settings.seconds * 10 + 30
            guest.wait_for("@@start", limit)
            started = time.monotonic()
            found = re.search(_RATE, guest.wait_for(_RATE, limit))
            assert found is not None
            elapsed, by_guest = time.monotonic() - started, float(found[2])
            values[name] = float(found[1])
            # 0.1 s: the way of the two lines through console and pipe.
            if abs(elapsed - by_guest) > CLOCK_TOLERANCE * elapsed + 0.1:
                doubts.append(f"{runner}, {name}: {by_guest:.2f} s by the guest's clock, {elapsed:.2f} s by the host's")
            guest.wait_for(PROMPT, BOOT_TIMEOUT_S)
    return Measured(values, doubts)


def measure_host(programs: dict[str, Path], settings: Settings) -> Measured:
    """The programs on this machine itself: how far from native a guest is."""
    values: dict[str, float] = {}
    for name in settings.programs:
        done = subprocess.run(
            [programs[name], str(settings.seconds)], stdout=subprocess.PIPE, encoding="utf-8",
            timeout=settings.seconds * 10 + 30, check=True,
        )  # fmt: skip
        found = re.search(_RATE, done.stdout)
        assert found is not None
        values[name] = float(found[1])
    return Measured(values, [])


def _cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process. Source: proc(5), /proc/pid/stat, fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _resident_mib(pid: int) -> float:
    """Resident memory of a process. Source: proc(5), /proc/pid/status, VmRSS."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
