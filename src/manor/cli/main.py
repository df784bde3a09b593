"""`manor`: the group of commands, and the edge where errors become a sentence and an exit status."""

from __future__ import annotations

import os
import sys
from typing import Final

import click

from manor import __version__
from manor.base.errors import ConfigError, ManorError
from manor.cli.lazy import LazyGroup
from manor.cli.status import EXIT_ERROR, EXIT_USAGE

COMMANDS: Final = {
    "run": ("manor.cli.run:run", "Boot a virtual machine in this terminal."),
    "ls": ("manor.cli.ls:ls", "List the VMs: whether they run, and how to reach them."),
    "stop": ("manor.cli.stop:stop", "Shut VMs down."),
    "pause": ("manor.cli.pause:pause", "Stop VMs for a while."),
    "resume": ("manor.cli.pause:resume", "Let paused VMs go on."),
    "save": ("manor.cli.save:save", "Save a VM, and end it; run goes on with it."),
    "port": ("manor.cli.port:port", "List and change the ports that lead into a VM."),
    "devices": ("manor.cli.devices:devices", "List the disks and network interfaces of a VM."),
    "attach": ("manor.cli.devices:attach", "Plug disks and network interfaces into a running VM."),
    "detach": ("manor.cli.devices:detach", "Take disks and network interfaces out of a running VM."),
    "media": ("manor.cli.devices:media", "Change the medium of a drive."),
    "link": ("manor.cli.adjust:link", "Plug in or pull the cable of a network interface."),
    "resize": ("manor.cli.adjust:resize", "Change the size of a running VM's disk."),
    "memory": ("manor.cli.adjust:memory", "Tell a guest how much memory it shall have."),
    "cpus": ("manor.cli.adjust:cpus", "Give a running VM more or fewer vCPUs."),
    "rm": ("manor.cli.rm:rm", "Remove VMs with their disks."),
    "console": ("manor.cli.console:console", "Attach to the console of a VM."),
    "ssh": ("manor.cli.ssh:ssh", "Log in to a VM, or run a command there, by ssh."),
    "exec": ("manor.cli.exec:exec_", "Run a program in a VM."),
    "cp": ("manor.cli.cp:cp", "Copy files into a VM or out of it."),
    "image": ("manor.cli.image.group:image", "Make, inspect, copy and change disk images."),
    "sh": ("manor.cli.sh:sh", "Manage domains, networks and storage with virsh's commands."),
    "doctor": ("manor.cli.doctor:doctor", "Tell what this host can do for guests and what to change."),
    "completion": ("manor.cli.completion:completion", "Print the completion script for a shell."),
}
"""name -> ("module:object", one line of help). The help stands here so that `manor --help` imports no command."""


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="manor", message="%(prog)s %(version)s")
def manor() -> None:
    """A hypervisor written in Python."""


def main() -> None:
    """The entry point of the `manor` program. Ends the process."""
    _open_standard_streams()
    try:
        sys.exit(manor(prog_name="manor", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ConfigError as error:
        sys.exit(fail(describe(error), EXIT_USAGE))
    except ManorError as error:
        sys.exit(fail(str(error), EXIT_ERROR))


def _open_standard_streams() -> None:
    """Put /dev/null where the caller closed a standard stream, before another file gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The lowest free number: those below were just seen to be open.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def describe(error: ConfigError) -> str:
    """The error in the words of the command line: fields of the description are options here, files are files."""
    if "/" in error.path:
        return str(error)
    return f"--{error.path}: {error.message}" if error.path else error.message


def fail(message: str, status: int) -> int:
    """Print one sentence on standard error; returns `status`."""
    print(f"manor: {message.rstrip('.')}.", file=sys.stderr)
    return status
