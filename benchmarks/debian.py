"""Debian with systemd from its disk, process start to the login prompt: Manor against QEMU's translator.

    python -m benchmarks.debian [--repetitions N] [--disk FILE] [--json FILE]

Both boot the same kernel, initrd and command line from the same disk, whose changes are thrown away; QEMU gets kernel
and initrd as files. Without --disk one is built.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.report import describe_machine
from manor.backends.block.open import OpenOptions, open_image
from manor.base.errors import ManorError
from manor.boot.disk import DiskBoot
from manor.boot.open_disk import boot_of_disks
from manor.guests.progress import Silent
from manor.images.build import BuildOptions, build_debian
from manor.images.customize import Settings
from manor.testing.guest_process import QEMU, GuestProcess

MEMORY_MIB: Final = 512
LOGIN_TIMEOUT_S: Final = 600.0
RUNNERS: Final = ("manor", "qemu-q35")
MARKS: Final = (
    ("kernel_to_init", r"Run /init as init process"),
    ("to_systemd", r"systemd\[1\]: systemd \d+"),
    ("to_login", r"login: "),
)
"""name -> what the guest prints then."""
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def command(runner: str, disk: Path, boot: DiskBoot, scratch: Path) -> list[str]:
    """The command line that boots `disk` with its console on standard input and output."""
    if runner == "manor":
        return [
            sys.executable, "-m", "manor", "run", "--accel", "dbt", "--memory", f"{MEMORY_MIB}M", "--no-reboot",
            "--disk", f"{str(disk).replace(',', ',,')},snapshot=on",
        ]  # fmt: skip
    (scratch / "kernel").write_bytes(boot.kernel)
    (scratch / "initrd").write_bytes(boot.initrd or b"")
    return [
        QEMU, "-accel", "tcg", "-M", "q35", "-cpu", "max", "-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config",
        "-nic", "none", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(scratch / "kernel"),
        "-initrd", str(scratch / "initrd"), "-append", boot.cmdline,
        "-drive", f"file={str(disk).replace(',', ',,')},if=virtio,snapshot=on",
    ]  # fmt: skip


def measure(argv: list[str]) -> dict[str, float]:
    """Boot once: seconds from the start of the process, by the wall and of processor time, at each mark."""
    values: dict[str, float] = {}
    with GuestProcess(argv) as guest:
        for name, pattern in MARKS:
            guest.wait_for(pattern, LOGIN_TIMEOUT_S)
            values[f"{name}_wall"] = time.monotonic() - guest.started
            values[f"{name}_cpu"] = _cpu_seconds(guest.pid)
    return values


def _cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process. Source: proc(5), /proc/pid/stat, fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.debian", description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="boots of each (default 3)")
    parser.add_argument("--disk", type=Path, metavar="FILE", help="a disk of manor image build debian")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write everything measured there")
    options = parser.parse_args()
    runners = RUNNERS if shutil.which(QEMU) is not None else RUNNERS[:1]
    samples: dict[str, dict[str, list[float]]] = {runner: {} for runner in runners}
    with tempfile.TemporaryDirectory(prefix="manor-bench-") as name:
        scratch = Path(name)
        disk: Path = options.disk
        if disk is None:
            disk = scratch / "debian.qcow2"
            started = time.monotonic()
            built = build_debian(BuildOptions(disk, settings=Settings(password_hash="")), Silent())
            what = "from configured packages" if built.tree_was_cached else "from packages"
            print(f"built {what} in {time.monotonic() - started:.1f} s")
        image = open_image(str(disk), OpenOptions(read_only=True))
        boot = boot_of_disks([image])
        image.close()
        for repetition in range(options.repetitions):
            # Every other time backwards, so that a machine that slows down does not favour the first.
            for runner in runners if repetition % 2 == 0 else reversed(runners):
                print(f"\r{repetition + 1}/{options.repetitions} {runner:<14}", end="", file=sys.stderr, flush=True)
                try:
                    for key, value in measure(command(runner, disk, boot, scratch)).items():
                        samples[runner].setdefault(key, []).append(value)
                except ManorError as error:
                    print(f"\ndoubt: {runner}: {error}", file=sys.stderr)
        print(file=sys.stderr)
    for key, text in describe_machine().items():
        print(f"{key}: {text}")
    print(f"repetitions: {options.repetitions}; median (least to greatest) in seconds; ratio: Manor through QEMU\n")
    print(_table(samples))
    if options.json is not None:
        options.json.write_text(json.dumps(samples, indent=1) + "\n")
    return 0 if samples["manor"] else 1


def _table(samples: dict[str, dict[str, list[float]]]) -> str:
    runners = list(samples)
    lines = ["| | " + " | ".join(runners) + " | ratio |", "|---" * (len(runners) + 2) + "|"]
    for name, _ in MARKS:
        for kind in ("wall", "cpu"):
            values = [samples[runner].get(f"{name}_{kind}", []) for runner in runners]
            if not all(values):
                continue
            medians = [statistics.median(each) for each in values]
            cells = [f"{m:.1f} ({min(each):.1f} to {max(each):.1f})" for m, each in zip(medians, values, strict=True)]
            ratio = f"{medians[0] / medians[1]:.2f}" if len(medians) > 1 and medians[1] else ""
            lines.append(f"| {name} {kind} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
