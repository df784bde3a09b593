"""`python -m benchmarks` (`make bench`): measure, and print the table."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks import rows
from benchmarks.report import as_json, describe_machine, table
from benchmarks.run import Settings, measure_guest, measure_host
from manor.base.errors import ManorError
from manor.boot import bzimage, payload
from manor.guests.default import default_guest
from manor.guests.progress import Silent
from manor.testing.guest_process import QEMU, RUNNERS, Boot, Runner
from manor.testing.programs import compile_program, extend_initrd

HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="The same guest under Manor and under QEMU's translator, as ratios."
    )
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="boots of each runner (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="for each program (default 2)")
    parser.add_argument("--idle-seconds", type=float, default=10.0, metavar="S", help="to watch an idle guest (10)")
    parser.add_argument("--quick", action="store_true", help="once, 0.3 s each: shows that it works, no more")
    parser.add_argument("--only", metavar="ROW,...", help="these rows: " + ", ".join(row.name for row in rows.ALL))
    parser.add_argument("--runners", metavar="NAME,...", default=",".join(RUNNERS), help=", ".join(RUNNERS))
    parser.add_argument("--no-native", action="store_true", help="do not run the programs on this machine itself")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write everything measured there")
    options = parser.parse_args()
    if options.quick:
        options.repetitions, options.seconds, options.idle_seconds = 1, 0.3, 2.0
    known = {row.name for row in rows.ALL}
    options.only = set(options.only.split(",")) if options.only else known
    options.runners = options.runners.split(",")
    if unknown := (options.only - known) | (set(options.runners) - set(RUNNERS)):
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    if options.repetitions < 1 or not 0.01 <= options.seconds <= 60 or not 0.1 <= options.idle_seconds <= 600:
        parser.error("repetitions from 1, seconds from 0.01 to 60, idle seconds from 0.1 to 600")
    return options


def main() -> int:
    options = arguments()
    runners: list[Runner] = options.runners
    if shutil.which(QEMU) is None:
        print(f"benchmarks: there is no {QEMU} here, hence no ratios", file=sys.stderr)
        runners = [runner for runner in runners if runner == "manor"]
    programs = [row.name for row in rows.PROGRAMS if row.name in options.only]
    with_idle = any(row.name in options.only for row in rows.IDLE)
    settings = Settings(options.seconds, options.idle_seconds, programs, with_idle)
    columns: list[str] = [*runners, *(["native"] if programs and not options.no_native else [])]
    samples: dict[str, dict[str, list[float]]] = {column: {} for column in columns}
    doubts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="manor-bench-") as scratch:
        boots, compiled = prepare(Path(scratch), runners)
        for repetition in range(options.repetitions):
            # Every other time backwards, so that a machine that slows down does not favour the first.
            for column in columns if repetition % 2 == 0 else reversed(columns):
                print(f"\r{repetition + 1}/{options.repetitions} {column:<14}", end="", file=sys.stderr, flush=True)
                try:
                    measured = (
                        measure_host(compiled, settings)
                        if column == "native"
                        else measure_guest(*boots[column], settings)
                    )
                except ManorError as error:
                    doubts.append(f"{column}: {error}")
                    continue
                doubts += measured.doubts
                for name, value in measured.values.items():
                    if name in options.only:
                        samples[column].setdefault(name, []).append(value)
        print(file=sys.stderr)
    for key, text in describe_machine().items():
        print(f"{key}: {text}")
    print(f"repetitions: {options.repetitions}; median (least to greatest); ratio: Manor through QEMU\n")
    print(table(samples, columns))
    for doubt in doubts:
        print(f"doubt: {doubt}")
    if options.json is not None:
        chosen = {"repetitions": options.repetitions, "seconds": options.seconds}
        options.json.write_text(json.dumps(as_json(samples, doubts, chosen), indent=1) + "\n")
    return 0 if samples.get("manor") else 1


def prepare(directory: Path, runners: list[Runner]) -> tuple[dict[str, tuple[Runner, Boot]], dict[str, Path]]:
    """Compile the programs, put them into an initramfs, and say what each runner boots."""
    guest = default_guest(Silent())
    compiled = {row.name: compile_program(HERE / "programs" / f"{row.name}.c", directory) for row in rows.PROGRAMS}
    files = {f"/bench/{name}": (0o755, path.read_bytes()) for name, path in compiled.items()}
    initrd = extend_initrd(guest.initrd, files, directory / "initrd.cpio")
    elf = directory / "vmlinux"
    elf.write_bytes(payload.decompress(bzimage.parse(guest.kernel.read_bytes()).payload))
    boots: dict[str, tuple[Runner, Boot]] = {}
    for runner in runners:
        boots[runner] = runner, Boot(guest.kernel if runner == "qemu-q35" else elf, initrd, guest.cmdline)
    return boots, compiled


if __name__ == "__main__":
    sys.exit(main())
