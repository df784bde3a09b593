"""`--trace`: the kinds of events a user can ask for, and where their lines go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

import click

from manor.base.clock import HostClock
from manor.base.errors import ConfigError
from manor.trace import sink
from manor.trace.event import Event

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "syscalls": ("syscall_*",),
    "interrupts": ("interrupt_*", "lapic_*", "ioapic_*", "apic_*"),
    "exits": ("exit_*", "vcpu_exit"),
    "blocks": ("block_*",),
    "disks": ("disk_*", "virtio_blk_*", "nvme_*"),
    "network": ("net_*", "virtio_net_*", "usernet_*", "dhcp_*"),
    "services": ("share_*", "vsock_*", "balloon_*"),
    "guest-errors": ("guest_error", "bus_unmapped_*"),
}
"""What `--trace` accepts -> globs over the names of the declared events."""


def parse_kinds(values: Iterable[str]) -> list[str]:
    """The kinds named in `values`, each of which may be a comma-separated list. Raises ConfigError."""
    kinds = [kind.strip() for value in values for kind in value.split(",") if kind.strip()]
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError("trace", f"{kind!r} is unknown; give one or more of {', '.join(KINDS)}")
    return list(dict.fromkeys(kinds))


def complete_kinds(context: click.Context, option: click.Parameter, typed: str) -> list[str]:
    """For the shell: what `typed`, perhaps the beginning of a list, can become."""
    before, comma, last = typed.rpartition(",")
    return [before + comma + kind for kind in KINDS if kind.startswith(last) and kind not in before.split(",")]


class _Lines:
    """A TextSink or JsonSink over a file that may be closed or become full under a thread that is still firing."""

    def __init__(self, target: sink.TextSink | sink.JsonSink) -> None:
        self._target = target
        self.is_open = True
        self.error: OSError | None = None
        """Why the trace ended early."""

    def emit(self, event: Event, values: tuple[object, ...]) -> None:
        if not self.is_open:
            return
        try:
            self._target.emit(event, values)
        except OSError as error:
            # No reason to stop the guest.
            self.is_open = False
            self.error = error


@contextmanager
def tracing(kinds: list[str], file: Path | None) -> Iterator[None]:
    """Trace `kinds` into `file` (JSON lines if it ends in .jsonl) or to standard error, for a `with` block.

    Raises ConfigError if the file cannot be written.
    """
    if not kinds:
        if file is not None:
            raise ConfigError("trace-file", "it needs --trace to say what to write into it")
        yield
        return
    stream = _open(file)
    clock = HostClock()
    is_json = file is not None and file.suffix == ".jsonl"
    lines = _Lines(sink.JsonSink(stream, clock) if is_json else sink.TextSink(stream, clock))
    for kind in kinds:
        for pattern in KINDS[kind]:
            sink.enable(pattern, lines)
    try:
        yield
    finally:
        lines.is_open = False
        sink.disable("*", lines)
        try:
            stream.close()
        except OSError as error:
            lines.error = error
        if lines.error is not None and file is not None:
            print(f"manor: the trace is incomplete: cannot write {file}: {lines.error.strerror}.", file=sys.stderr)


def _open(file: Path | None) -> TextIO:
    if file is None:
        # A terminal in raw mode does not return the carriage by itself.
        newline = "\r\n" if sys.stdin.isatty() and sys.stderr.isatty() else "\n"
        return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", newline=newline)
    try:
        return file.open("w", buffering=1 << 16, encoding="utf-8")
    except OSError as error:
        raise ConfigError("trace-file", f"cannot write {file}: {error.strerror}") from error
