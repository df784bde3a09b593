"""`python -m benchmarks.disk`: a guest's disk under Manor and under QEMU's translator, as ratios.

One boot of the default guest for each runner and image, in turns, with the same kernel, initramfs and image; in it
`programs/diskload.c` reads and writes the disk around the guest's page cache. The image has been read before, so it is
in the host's: what is measured is the way from the guest to there, not the host's medium. Not a test: no assertion.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import describe_machine
from manor.base.errors import ManorError
from manor.base.units import MiB
from manor.guests.default import DefaultGuest, default_guest
from manor.guests.init_script import PROMPT
from manor.guests.progress import Silent
from manor.testing.guest_process import QEMU, Boot, GuestProcess, command
from manor.testing.programs import compile_program, extend_initrd

PROGRAM: Final = Path(__file__).parent / "programs" / "diskload.c"
BOOT_TIMEOUT_S: Final = 120.0
_RATE: Final = r"@@rate (\S+) seconds (\S+) check (\w{16})"


@dataclass(frozen=True, slots=True)
class Row:
    """One load. block: bytes of a request. depth: requests in flight. to_reach: the ratio wanted."""

    name: str
    question: str
    pattern: str
    block: int
    depth: int
    to_reach: str

    @property
    def words(self) -> str:
        """Arguments of diskload behind the device."""
        return f"{self.pattern} {self.block} {self.depth}"

    def value(self, rate: float) -> float:
        """What is shown for so many requests a second."""
        return rate if self.block == 4096 else rate * self.block / 1e6

    @property
    def unit(self) -> str:
        return "requests/s" if self.block == 4096 else "MB/s"


ROWS: Final = (
    Row("randread-1", "random reads of 4 KiB, one at a time", "randread", 4096, 1, ">= 1.5"),
    Row("randread-16", "random reads of 4 KiB, 16 in flight", "randread", 4096, 16, ">= 1.5"),
    Row("randwrite-1", "random writes of 4 KiB, one at a time", "randwrite", 4096, 1, ">= 1.5"),
    Row("randwrite-16", "random writes of 4 KiB, 16 in flight", "randwrite", 4096, 16, ">= 1.5"),
    Row("read", "reading in a row, 1 MiB, 4 in flight", "read", 1 * MiB, 4, ""),
    Row("write", "writing in a row, 1 MiB, 4 in flight", "write", 1 * MiB, 4, ""),
)


@dataclass(frozen=True, slots=True)
class Column:
    """What runs the guest, on which bus and image format."""

    runner: str
    bus: str
    format: str

    @property
    def name(self) -> str:
        return f"{self.runner} {self.bus} {self.format}"

    @property
    def device(self) -> str:
        return "/dev/vda" if self.bus == "virtio" else "/dev/nvme0n1"

    def command(self, guest: DefaultGuest, initrd: Path, image: Path) -> list[str]:
        if self.runner == "manor":
            extra = ("--disk", f"{image},format={self.format},bus={self.bus}")
            return command("manor", Boot(guest.kernel, initrd, guest.cmdline, extra=extra))
        device = "virtio-blk-pci,drive=d" if self.bus == "virtio" else "nvme,drive=d,serial=1"
        drive = f"file={image},format={self.format},if=none,id=d"
        return command(
            "qemu-q35", Boot(guest.kernel, initrd, guest.cmdline, extra=("-drive", drive, "-device", device))
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disk", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="boots of each (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="for each load (default 2)")
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of the image (default 256)")
    parser.add_argument("--buses", default="virtio,nvme", metavar="BUS,...", help="virtio, nvme (default both)")
    parser.add_argument("--formats", default="raw,qcow2", metavar="FORMAT,...", help="raw, qcow2 (default both)")
    parser.add_argument("--only", metavar="ROW,...", help="these rows: " + ", ".join(row.name for row in ROWS))
    parser.add_argument("--quick", action="store_true", help="once, 0.5 s each: shows that it works, no more")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write everything measured there")
    options = parser.parse_args()
    if options.quick:
        options.repetitions, options.seconds = 1, 0.5
    known = {row.name for row in ROWS}
    options.only = set(options.only.split(",")) if options.only else known
    options.buses, options.formats = options.buses.split(","), options.formats.split(",")
    unknown = (options.only - known) | (set(options.buses) - {"virtio", "nvme"})
    unknown |= set(options.formats) - {"raw", "qcow2"}
    if unknown:
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    if options.repetitions < 1 or not 0.1 <= options.seconds <= 60 or not 2 <= options.size <= 65536:
        parser.error("repetitions from 1, seconds from 0.1 to 60, size from 2 to 65536")
    return options


def measure(argv: list[str], device: str, rows: list[Row], seconds: float) -> dict[str, float]:
    """Boot once; the value of each row. Raises ManorError if the guest does not answer, or a request failed."""
    values: dict[str, float] = {}
    with GuestProcess(argv) as guest:
        guest.wait_for(PROMPT, BOOT_TIMEOUT_S)
        for row in rows:
            guest.send(f"/bench/diskload {device} {row.words} {seconds}\n")
            found = re.search(_RATE, guest.wait_for(_RATE, 10 * seconds + 30))
            assert found is not None
            if int(found[3], 16):
                raise ManorError(f"{row.name}: {int(found[3], 16)} requests failed")
            values[row.name] = row.value(float(found[1]))
            guest.wait_for(PROMPT, BOOT_TIMEOUT_S)
        guest.send("poweroff -f\n")
        guest.wait(BOOT_TIMEOUT_S)
    return values


def make_images(directory: Path, size: int, formats: list[str]) -> dict[str, Path]:
    """Images of `size` MiB without a hole, in the host's page cache."""
    raw = directory / "disk.raw"
    with open(raw, "wb") as file:
        for _ in range(size):
            file.write(os.urandom(MiB))
    images = {"raw": raw}
    if "qcow2" in formats:
        images["qcow2"] = directory / "disk.qcow2"
        argv = [sys.executable, "-m", "manor", "image", "convert", "-O", "qcow2", str(raw), str(images["qcow2"])]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return images


def table(samples: dict[str, dict[str, list[float]]], columns: list[Column], rows: list[Row]) -> str:
    """A Markdown table: medians of every column, and the ratio of each of Manor's to QEMU's on the same bus."""
    lines: list[str] = []
    for ours in (column for column in columns if column.runner == "manor"):
        theirs = Column("qemu", ours.bus, ours.format)
        lines += [f"**{ours.bus}, {ours.format}**", "", "| | unit | manor | qemu | ratio | to reach |"]
        lines.append("|" + "---|" * 6)
        for row in rows:
            left, right = (_median(samples.get(column.name, {}).get(row.name)) for column in (ours, theirs))
            ratio = f"{left / right:.2f}" if left is not None and right else "-"
            goal = row.to_reach if ours.bus == "virtio" and ours.format == "raw" else ""
            shown = ["-" if value is None else f"{value:,.0f}" for value in (left, right)]
            lines.append(f"| {row.question} | {row.unit} | {shown[0]} | {shown[1]} | {ratio} | {goal} |")
        lines.append("")
    return "\n".join(lines)


def _median(values: list[float] | None) -> float | None:
    return statistics.median(values) if values else None


def main() -> int:
    options = arguments()
    rows = [row for row in ROWS if row.name in options.only]
    runners = ["manor", "qemu"] if shutil.which(QEMU) is not None else ["manor"]
    if len(runners) == 1:
        print(f"benchmarks: there is no {QEMU} here, hence no ratios", file=sys.stderr)
    columns = [Column(runner, bus, form) for bus in options.buses for form in options.formats for runner in runners]
    samples: dict[str, dict[str, list[float]]] = {column.name: {} for column in columns}
    doubts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="manor-bench-") as scratch:
        directory = Path(scratch)
        guest = default_guest(Silent())
        program = compile_program(PROGRAM, directory)
        files = {"/bench/diskload": (0o755, program.read_bytes())}
        initrd = extend_initrd(guest.initrd, files, directory / "initrd.cpio")
        images = make_images(directory, options.size, options.formats)
        for repetition in range(options.repetitions):
            for column in columns if repetition % 2 == 0 else reversed(columns):
                print(f"\r{repetition + 1}/{options.repetitions} {column.name:<20}", end="", file=sys.stderr)
                argv = column.command(guest, initrd, images[column.format])
                try:
                    found = measure(argv, column.device, rows, options.seconds)
                except ManorError as error:
                    doubts.append(f"{column.name}: {error}")
                    continue
                for name, value in found.items():
                    samples[column.name].setdefault(name, []).append(value)
    print(file=sys.stderr)
    for key, text in describe_machine().items():
        print(f"{key}: {text}")
    print(f"repetitions: {options.repetitions}, {options.seconds} s each; medians; ratio: Manor through QEMU\n")
    print(table(samples, columns, rows))
    for doubt in doubts:
        print(f"doubt: {doubt}")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": describe_machine(), "samples": samples}, indent=1) + "\n")
    return 1 if doubts else 0


if __name__ == "__main__":
    sys.exit(main())
