"""The table of medians and ratios, and the description of the machine they hold for."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.rows import ALL, Row
from manor import __version__
from manor.testing.guest_process import QEMU

Samples = Mapping[str, Mapping[str, Sequence[float]]]
"""Runner -> row -> values of the repetitions."""


def describe_machine() -> dict[str, str]:
    """What the figures depend on besides the programs."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    try:
        done = subprocess.run([QEMU, "--version"], capture_output=True, encoding="utf-8", check=False, timeout=30)
        said = done.stdout
    except OSError:
        said = "not installed\n"
    return {
        "processor": model[1] if model else "unknown",
        "processors": str(os.cpu_count()),
        "memory": f"{memory:.1f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "manor": __version__,
        "qemu": said.splitlines()[0] if said else "unknown",
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def ratio(row: Row, samples: Samples) -> float | None:
    """Manor's median through QEMU's, for the row; None if one is missing."""
    ours, theirs = _median(samples, "manor", row.name), _median(samples, row.against, row.name)
    return ours / theirs if ours is not None and theirs else None


def table(samples: Samples, runners: Sequence[str]) -> str:
    """All rows as a Markdown table: median (least to greatest) of each runner, ratio, what is to be reached."""
    head = ["", "unit", *runners, "ratio", "to reach"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in ALL:
        if not any(row.name in samples.get(runner, {}) for runner in runners):
            continue
        found = ratio(row, samples)
        shown = "" if found is None else f"{found:.2f} of {row.against.removeprefix('qemu-')}"
        cells = [row.question, row.unit, *(_cell(samples, runner, row.name) for runner in runners), shown, row.to_reach]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_json(samples: Samples, doubts: Sequence[str], settings: Mapping[str, object]) -> dict[str, object]:
    """Everything that was measured, for a program."""
    ratios = {row.name: value for row in ALL if (value := ratio(row, samples)) is not None}
    return {
        "machine": describe_machine(), "settings": dict(settings), "samples": samples, "ratios": ratios,
        "units": {row.name: row.unit for row in ALL}, "doubts": list(doubts),
    }  # fmt: skip


def _median(samples: Samples, runner: str, name: str) -> float | None:
    values = samples.get(runner, {}).get(name)
    return statistics.median(values) if values else None


def _cell(samples: Samples, runner: str, name: str) -> str:
    values = samples.get(runner, {}).get(name)
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:,.4g}"
    return f"{statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"
