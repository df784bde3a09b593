"""Checks of a MachineSpec before anything starts. Every error names the field and says what to do.

What depends on the contents of files (is it a kernel, is there room for it) is checked where they are read.
"""

from __future__ import annotations

from manor.base.address import PAGE_SIZE
from manor.base.errors import ConfigError
from manor.base.units import format_size
from manor.spec import share, vsock
from manor.spec.machine import CONSOLE_NAMES, CPU_MODELS, MAX_CPUS, MIN_MEMORY, MachineSpec


def check_size(memory: int, cpus: int, max_memory: int) -> None:
    """Raise ConfigError if RAM or vCPUs are too few, too many or odd. Sizes in bytes."""
    if not 1 <= cpus <= MAX_CPUS:
        raise ConfigError("cpus", f"{cpus} is not a number of vCPUs that works here; give 1 to {MAX_CPUS}")
    if memory < MIN_MEMORY:
        raise ConfigError(
            "memory",
            f"{format_size(memory)} is too little; give at least {format_size(MIN_MEMORY)}, for example 256M",
        )
    if memory > max_memory:
        raise ConfigError("memory", f"{format_size(memory)} is too much; give at most {format_size(max_memory)}")
    if memory % PAGE_SIZE:
        raise ConfigError("memory", f"{memory} bytes is not a multiple of 4 KiB")


def check(spec: MachineSpec, max_memory: int) -> None:
    """Raise ConfigError for the first thing that is wrong. max_memory: bytes that the machine's map has room for."""
    check_size(spec.memory, spec.cpus, max_memory)
    if spec.console not in CONSOLE_NAMES:
        raise ConfigError("console", f"{spec.console!r} is unknown; give one of {', '.join(CONSOLE_NAMES)}")
    if spec.cpu not in CPU_MODELS:
        raise ConfigError("cpu", f"{spec.cpu!r} is unknown; give one of {', '.join(CPU_MODELS)}")
    if spec.vsock is not None and not vsock.FIRST_CID <= spec.vsock.cid <= vsock.LAST_CID:
        raise ConfigError("vsock.cid", f"{spec.vsock.cid} is no guest's; give {vsock.FIRST_CID} to {vsock.LAST_CID}")
    tags = [one.tag for one in spec.shares]
    for tag in tags:
        if not share.TAG.fullmatch(tag):
            raise ConfigError("share.tag", f"{tag!r} is no tag; give up to 36 letters, digits, `_`, `.` and `-`")
        if tags.count(tag) > 1:
            raise ConfigError("share.tag", f"{tag!r} is given twice; give each folder a tag of its own")
