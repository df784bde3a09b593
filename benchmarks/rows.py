"""What is measured: one row of the table each, with the question it answers and what is to be reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from manor.testing.guest_process import Runner

Better = Literal["less", "more"]


@dataclass(frozen=True, slots=True)
class Row:
    """name: also the key in JSON. unit: of the value. to_reach: in the words of the project's goals.

    against: the QEMU machine whose figure is the divisor of the ratio.
    """

    name: str
    question: str
    unit: str
    better: Better
    to_reach: str
    against: Runner = "qemu-q35"


PROGRAMS: Final = (
    Row("integer", "integer loops in the manner of CoreMark", "rounds/s", "more", ">= 1.2"),
    Row("nbody", "scalar floating point", "steps/s", "more", ">= 3"),
    Row("linpack", "floating point on arrays", "solutions/s", "more", ">= 3"),
    Row("getpid", "system calls", "calls/s", "more", ">= 1"),
    Row("pagefaults", "page faults", "pages/s", "more", ">= 1"),
    Row("signals", "signals", "signals/s", "more", ">= 1"),
    Row("forkexec", "fork, exec, exit, wait", "processes/s", "more", ">= 1"),
    Row("patched", "code patched at run time", "patches/s", "more", ">= 3"),
)
"""Rows whose value a C program of the same name in programs/ prints."""

BOOT: Final = (
    Row("boot_init_wall", "process start to init, wall clock", "s", "less", "<= 1.0", "qemu-microvm"),
    Row("boot_init_cpu", "process start to init, processor time", "s", "less", "<= 1.0", "qemu-microvm"),
    Row("boot_shell_wall", "process start to the shell, wall clock", "s", "less", "", "qemu-microvm"),
    Row("boot_shell_cpu", "process start to the shell, processor time", "s", "less", "", "qemu-microvm"),
)
"""The kernel is an ELF file for Manor and microvm, a bzImage for q35, which knows no other."""

IDLE: Final = (
    Row("idle_resident", "idle guest of 256 MiB, resident memory", "MiB", "less", "<= 120 MiB"),
    Row("idle_cpu", "idle guest, share of one processor", "%", "less", "<= 2 %"),
)

ALL: Final = (*BOOT, *PROGRAMS, *IDLE)
