"""`manor stop NAME`: end a VM, by the guest's own shutdown if there is a way to ask for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from manor.base.errors import HostError, ManorError
from manor.cli.names import complete_running

if TYPE_CHECKING:
    from manor.instances.instance import Instance

TIMEOUT: Final = 90.0
"""Seconds that a guest has to shut down: systemd gives each service as much, but most need a few."""
_POLL: Final = 0.05


@click.command("stop")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_running)
@click.option(
    "-f", "--force", is_flag=True, help="Pull the plug: the guest is not asked. It may lose what it has not written."
)
@click.option(
    "--timeout", metavar="SECONDS", type=float, default=TIMEOUT, show_default=True,
    help="How long the guest may take to shut down.",
)  # fmt: skip
def stop(names: tuple[str, ...], force: bool, timeout: float) -> int:
    """Shut VMs down. The guest is asked by its agent, or by ssh, and given time to end by itself."""
    from manor.instances.instance import Instances

    for instance in [Instances().get(name) for name in names]:
        if instance.running_pid() is None:
            click.echo(f"manor: {instance.name} does not run.", err=True)
        elif force:
            pull_the_plug(instance)
        else:
            shut_down(instance, timeout)
    return 0


def pull_the_plug(instance: Instance) -> None:
    """End the VM now. Raises HostError if its process does not react."""
    from manor.instances.client import ControlClient, VmGone

    try:
        with ControlClient(instance.control) as client:
            client.call("stop")
    except VmGone:
        pass  # it ended meanwhile
    if not wait_until_stopped(instance, 20.0):
        pid = instance.running_pid()
        raise HostError(f"the process {pid} of {instance.name} does not end; kill it with: kill -9 {pid}")


def shut_down(instance: Instance, timeout: float) -> None:
    """Ask the guest to end. Raises HostError if it cannot be asked, or does not end in time."""
    from manor.instances.guest import ask_to_power_off

    try:
        ask_to_power_off(instance)
    except ManorError as error:
        raise HostError(
            f"the guest of {instance.name} cannot be asked to shut down: {str(error).rstrip('.')}; do it inside "
            f"(manor console {instance.name}), or pull the plug: manor stop --force {instance.name}"
        ) from error
    if not wait_until_stopped(instance, timeout):
        raise HostError(
            f"the guest of {instance.name} was asked to shut down and still runs after {timeout:g} s; look at "
            f"manor console {instance.name}, or pull the plug: manor stop --force {instance.name}"
        )


def wait_until_stopped(instance: Instance, timeout: float) -> bool:
    """Whether the VM's process has given its lock back within `timeout` seconds."""
    limit = time.monotonic() + timeout
    while instance.running_pid() is not None:
        if time.monotonic() > limit:
            return False
        time.sleep(_POLL)
    return True
