"""`manor run`: boot a virtual machine and be its terminal."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from manor.base.errors import ConfigError
from manor.base.units import parse_size
from manor.cli.cleanup import ENDING_SIGNALS, cleaning_up
from manor.cli.cpus import parse_cpus
from manor.cli.named import NamedCommand, NamedRun, current_run, named_options
from manor.cli.net import OUTSIDE, choose_nics
from manor.cli.status import EXIT_SIGNAL, STATUS
from manor.cli.trace import KINDS, complete_kinds, parse_kinds, tracing
from manor.spec.machine import ACCEL_NAMES, CONSOLE_NAMES, CPU_MODELS, MAX_CPUS, ConsoleName, CpuModel, MachineSpec

if TYPE_CHECKING:
    from manor.vmm.vm import Vm

STDIN: Final = 0
STDOUT: Final = 1

_FILE: Final = click.Path(path_type=Path, readable=False)
"""Click looks at nothing: who reads the file says in one sentence what is wrong with it."""
_EPILOG: Final = """\b
Exit status: 0 the guest powered off, or you left with Ctrl-]; 1 an error; 2 wrong options;
3 the guest rebooted (with --no-reboot); 4 its kernel panicked; 5 triple fault;
128+N ended by signal N.
"""


@click.command(cls=NamedCommand, epilog=_EPILOG)
@named_options
@click.option(
    "--kernel", metavar="FILE", type=_FILE,
    help="A Linux kernel: bzImage or ELF. Default: that of the disk, or without one Debian's small default guest.",
)  # fmt: skip
@click.option("--initrd", metavar="FILE", type=_FILE, help="The initial RAM disk.")
@click.option("--append", metavar="TEXT", help="The kernel command line (for the default guest: an addition).")
@click.option("--memory", metavar="SIZE", default="256M", show_default=True, help="Size of RAM.")
@click.option(
    "--cpus", metavar="N[,max=M]", default="1", show_default=True,
    help=f"vCPUs, 1 to {MAX_CPUS}; max: how many there may be while it runs.",
)  # fmt: skip
@click.option(
    "--accel", metavar="|".join(ACCEL_NAMES), default="auto", show_default=True, help="What runs the guest.",
    shell_complete=lambda context, option, typed: [name for name in ACCEL_NAMES if name.startswith(typed)],
)  # fmt: skip
@click.option(
    "--cpu", type=click.Choice(CPU_MODELS), default="max", show_default=True,
    help="What the guest sees of a processor; host and x86-64-v3 need the accelerator kvm.",
)  # fmt: skip
@click.option(
    "--disk", "disks", metavar="FILE[,NAME=VALUE...]", multiple=True,
    help="A disk, once for each. Names: format, bus=virtio|nvme, readonly, snapshot, serial, cache=writeback|direct, "
    "discard, queues, iops, bps, id.",
)  # fmt: skip
@click.option(
    "--console", type=click.Choice(CONSOLE_NAMES), default="serial", show_default=True,
    help="The console that your keys and window size go to; the output of both is shown.",
)  # fmt: skip
@click.option(
    "--net", "nets", metavar="KIND[:NAME][,OPTION=VALUE...]", multiple=True,
    help="A network interface: user, isolated:NAME, tap:IFNAME, bridge:BRIDGE, macvtap:IFNAME or none. Repeatable.",
)  # fmt: skip
@click.option("--no-net", is_flag=True, help="No network interface at all.")
@click.option(
    "--port", "ports", metavar="[ADDRESS:]HOST:GUEST[/udp]", multiple=True,
    help="A port of the host that leads into the guest, through the first user-mode interface. Repeatable.",
)  # fmt: skip
@click.option(
    "--outside", type=click.Choice(tuple(OUTSIDE)),
    help="What user-mode interfaces reach that do not say so themselves: all, the host alone, or nothing.",
)
@click.option(
    "--balloon/--no-balloon", default=True, show_default=True,
    help="A memory balloon, through which the guest gives back what it does not use.",
)  # fmt: skip
@click.option(
    "--share", "shares", metavar="PATH[,NAME=VALUE...]", multiple=True,
    help="Give the guest a folder of the host: tag=NAME (default: share), readonly=on, uid=N, gid=N. The default guest "
    "mounts it at /mnt/NAME, others with mount -t virtiofs NAME FOLDER.",
)  # fmt: skip
@click.option(
    "--vsock", metavar="PATH[,cid=N]",
    help="A socket device: programs reach the guest's ports through the unix socket PATH, the guest theirs at "
    "PATH_PORT.",
)  # fmt: skip
@click.option("--agent", is_flag=True, help="A port for the guest's agent, such as qemu-guest-agent.")
@click.option("--no-reboot", is_flag=True, help="End when the guest reboots.")
@click.option("--stats", is_flag=True, help="Print statistics at the end, on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print the statistics as one line of JSON.")
@click.option(
    "--trace", metavar="KIND,...", multiple=True, shell_complete=complete_kinds,
    help=f"Print events as they happen, on standard error: {', '.join(KINDS)}.",
)  # fmt: skip
@click.option(
    "--trace-file", metavar="FILE", type=_FILE,
    help="Write the events there instead; as JSON lines if the name ends in .jsonl.",
)  # fmt: skip
def run(
    kernel: Path | None,
    initrd: Path | None,
    append: str | None,
    memory: str,
    cpus: str,
    accel: str,
    cpu: CpuModel,
    disks: tuple[str, ...],
    console: ConsoleName,
    nets: tuple[str, ...],
    no_net: bool,
    ports: tuple[str, ...],
    outside: str | None,
    balloon: bool,
    shares: tuple[str, ...],
    vsock: str | None,
    agent: bool,
    no_reboot: bool,
    stats: bool,
    as_json: bool,
    trace: tuple[str, ...],
    trace_file: Path | None,
) -> int:
    """Boot a virtual machine in this terminal.

    Without options it boots a small Debian Linux to a shell. Ctrl-] leaves.

    With a NAME it runs the VM of that name, which keeps its disk and its options; if there is none, it makes one whose
    disk is a copy-on-write clone of an image.
    """
    from manor.accel.choose import choose
    from manor.boot.linux_x86 import check_files
    from manor.mem.layout import MAX_RAM
    from manor.spec.check import check_disk, check_size
    from manor.spec.disk_text import parse_disk
    from manor.spec.share_text import parse_share, parse_vsock
    from manor.vmm.disks import boots_from

    # Everything that can be wrong is looked at before anything starts.
    try:
        size = parse_size(memory)
    except ValueError as error:
        raise ConfigError("memory", str(error)) from error
    count, most = parse_cpus(cpus)
    check_size(size, count, MAX_RAM)
    if initrd is not None and kernel is None:
        raise ConfigError("initrd", "it needs --kernel; give both, or neither for the default guest")
    nics = choose_nics(nets, no_net, ports, outside)
    disk_specs = tuple(parse_disk(text) for text in disks)
    for disk in disk_specs:
        check_disk(disk, "disk")
    share_specs = tuple(parse_share(text) for text in shares)
    vsock_spec = None if vsock is None else parse_vsock(vsock)
    kinds = parse_kinds(trace)
    named = current_run()
    saved = None if named is None else named.saved()
    if kernel is not None and saved is None:
        # Before the accelerator, which takes the most of the time.
        check_files(kernel, initrd)
    choice = choose(saved.head.accel if saved is not None and accel == "auto" else accel)
    with tracing(kinds, trace_file):
        if named is not None:
            disk_specs = named.disks(disk_specs)
        if kernel is None and saved is not None:
            # It counts only if the guest reboots; what is on the disks now may be half of something.
            was = saved.head.machine
            spec = MachineSpec(was.kernel, was.initrd, was.append, size, count, console)
        elif kernel is None and boots_from(disk_specs):
            spec = MachineSpec(None, None, append or "", size, count, console)
        else:
            mounts = f"MANOR_SHARES={','.join(share.tag for share in share_specs)}" if share_specs else None
            words = append if kernel is not None else " ".join(filter(None, [mounts, append])) or None
            spec = _describe(kernel, initrd, words, size, count, console)
        spec = replace(spec, cpu=cpu, disks=disk_specs, nics=nics, balloon=balloon)
        spec = replace(spec, shares=share_specs, vsock=vsock_spec, agent=agent, max_cpus=most)
        if named is not None:
            spec = named.as_saved(named.complete(spec))
        if saved is not None and named is not None and not named.has_options:
            spec = saved.head.machine  # with all that came and went while it ran
        from manor.vmm.vm import Vm

        vm = Vm(spec, choice.accel, not no_reboot, saved)
        if named is not None:
            named.prepare(vm)
        else:
            vm.prepare()
        if named is not None:
            named.serve(vm, str(choice))
        print(f"manor: {choice}.", file=sys.stderr)
        status = _attach_and_wait(vm, named)
    if stats or as_json:
        _print_statistics(vm, as_json)
    return status


def _describe(
    kernel: Path | None, initrd: Path | None, append: str | None, memory: int, cpus: int, console: ConsoleName
) -> MachineSpec:
    """The machine to boot; fetches the default guest if no kernel is given."""
    if kernel is not None:
        return MachineSpec(kernel, initrd, append or "", memory, cpus, console)
    from manor.cli.progress import shown_progress
    from manor.guests.default import default_guest

    with cleaning_up(), shown_progress() as progress:
        guest = default_guest(progress)
    words = [guest.cmdline, *_terminal_words(), append]
    return MachineSpec(guest.kernel, guest.initrd, " ".join(filter(None, words)), memory, cpus, console)


def _terminal_words() -> list[str]:
    """The terminal's kind and size as kernel words: a serial line carries neither."""
    from manor.vmm.terminal import is_terminal, window_size

    if not (is_terminal(STDIN) and is_terminal(STDOUT)):
        return []
    term = os.environ.get("TERM", "")
    words = [f"TERM={term}"] if term and all(c.isalnum() or c in "-+._" for c in term) else []
    size = window_size(STDOUT)
    return [*words, f"COLUMNS={size[0]}", f"LINES={size[1]}"] if size else words


def _attach_and_wait(vm: Vm, named: NamedRun | None) -> int:
    """Run `vm` with this process's standard input and output as its console; returns the exit status."""
    from manor.vmm import garbage
    from manor.vmm.lifecycle import Reason, VmEnd
    from manor.vmm.terminal import InputReader, OutputWriter, RawMode, is_terminal, window_size

    received: list[int] = []

    def leave(number: int, detail: str) -> None:
        if not received:
            received.append(number)
            vm.request_end(VmEnd(Reason.STOPPED, detail))

    def no_output(error: OSError) -> None:
        if error.errno in (errno.EPIPE, errno.EIO):
            leave(signal.SIGPIPE, "nobody reads the output")
        else:
            vm.request_end(VmEnd(Reason.ERROR, f"cannot write the output: {error.strerror}"))

    writer = OutputWriter(STDOUT, no_output)
    port = vm.serial if vm.spec.console == "serial" else vm.console
    vm.serial.show_on(writer)
    vm.console.show_on(writer)
    # The signals' handlers only leave a note: what they ask for takes locks that the main thread may hold.
    noted: list[int] = []
    with _signals(noted) as (woken, wake):
        raw = RawMode(STDIN)
        reader = InputReader(
            STDIN, vm.loop, port, lambda: vm.request_end(VmEnd(Reason.STOPPED, "Ctrl-]")), lambda: raw.is_active
        )
        try:
            with raw:
                if raw.is_active:
                    print("manor: Ctrl-] leaves.\r", file=sys.stderr)
                if (size := window_size(STDOUT)) is not None:
                    vm.resize(*size)
                vm.start()
                garbage.settle()
                if named is not None:
                    named.on_running()
                vm.on_end(wake)
                reader.start()
                while vm.end is None:
                    woken.recv(512)
                    while noted:
                        number = noted.pop(0)
                        if number == signal.SIGWINCH:
                            if (size := window_size(STDOUT)) is not None:
                                vm.resize(*size)
                        else:
                            leave(number, signal.Signals(number).name)
                reader.stop()
                writer.close(is_abandoned=lambda: any(number != signal.SIGWINCH for number in noted))
        finally:
            writer.release()
    end = vm.wait()
    if is_terminal(STDIN) and end.reason is Reason.STOPPED:
        print(file=sys.stderr)  # the guest was stopped in the middle of a line
    if end.reason not in (Reason.POWER_OFF, Reason.STOPPED):
        print(f"manor: the VM ended: {end}.", file=sys.stderr)
    status = STATUS[end.reason]
    if received and end.reason is Reason.STOPPED:
        status = EXIT_SIGNAL + received[0]
    elif end.reason is Reason.STOPPED and vm.serial.has_panicked:
        status = STATUS[Reason.PANIC]
    if named is not None:
        named.on_end(end.reason.value, end.detail, status)
    return status


@contextmanager
def _signals(noted: list[int]) -> Iterator[tuple[socket.socket, Callable[[], None]]]:
    """Note signals in `noted` instead of dying by them, for a `with` block.

    Gives a socket that becomes readable when there is one, and what makes it so from any thread. No lock would do,
    as the kernel may run a handler on another thread, which does not interrupt a main thread that waits for a lock.
    """

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    def wake() -> None:
        # A full socket wakes as well; a closed one has nobody behind it.
        with suppress(OSError):
            writing.send(b"\0")

    reading, writing = socket.socketpair()
    writing.setblocking(False)
    old_descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    old = {number: signal.signal(number, note) for number in (*ENDING_SIGNALS, signal.SIGWINCH)}
    try:
        yield reading, wake
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_descriptor)
        reading.close()
        writing.close()


def _print_statistics(vm: Vm, as_json: bool) -> None:
    from manor.cli.statistics import text

    statistics = vm.statistics()
    if as_json:
        print(json.dumps(statistics.as_dict(), sort_keys=True), file=sys.stderr)
    else:
        print(text(statistics), file=sys.stderr, end="")
