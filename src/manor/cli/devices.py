"""`manor devices`, `attach`, `detach` and `media`: what comes and goes while a VM runs."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from manor.base.errors import HostError
from manor.cli.names import complete_running

if TYPE_CHECKING:
    from manor.instances.client import ControlClient

WAIT_S = 30


def connect(name: str) -> ControlClient:
    from manor.instances.client import ControlClient
    from manor.instances.instance import Instances

    return ControlClient(Instances().get(name).control)


def complete_device(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Devices of the VM that is named before."""
    from manor.instances.client import ask
    from manor.instances.instance import Instances

    try:
        found = ask(Instances().get(str(context.params.get("name"))).control, "devices")
    except HostError:
        return []
    names = [device["name"] for device in found["devices"]] if isinstance(found, dict) else []
    return [name for name in names if name.startswith(typed)]


@click.command("devices")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead of a table.")
def devices(name: str, as_json: bool) -> int:
    """List the disks and network interfaces of a VM that runs."""
    from manor.cli.table import table

    with connect(name) as client:
        found = client.call("devices")["devices"]
    if as_json:
        click.echo(json.dumps(found))
        return 0
    rows = [
        (one["name"], one["kind"], str(one["slot"]), "leaving" if one["is_leaving"] else "there", one["source"])
        for one in found
    ]
    click.echo(table(("DEVICE", "KIND", "SLOT", "STATE", "WHAT"), rows))
    return 0


@click.command("attach")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.option(
    "--disk", "disks", metavar="FILE[,NAME=VALUE...]", multiple=True,
    help="A disk, as --disk of `manor run` takes it. Repeatable.",
)  # fmt: skip
@click.option(
    "--net", "nets", metavar="KIND[:NAME][,OPTION=VALUE...]", multiple=True,
    help="A network interface, as --net of `manor run` takes it. Repeatable.",
)  # fmt: skip
def attach(name: str, disks: tuple[str, ...], nets: tuple[str, ...]) -> int:
    """Plug disks and network interfaces into a VM that runs, until it ends. Prints the name of each."""
    from manor.cli.named import absolute_disk
    from manor.spec.disk_text import parse_disk
    from manor.spec.machine_json import part_to_json
    from manor.spec.net_text import parse_nic

    if not disks and not nets:
        raise click.UsageError("say what to plug in: --disk FILE or --net KIND")
    parts = [("disk", part_to_json(parse_disk(absolute_disk(text)))) for text in disks]
    parts += [("nic", part_to_json(parse_nic(text))) for text in nets]
    with connect(name) as client:
        for kind, part in parts:
            click.echo(client.call("device-add", **{kind: part})["device"])
    return 0


@click.command("detach")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("names", metavar="DEVICE...", nargs=-1, required=True, shell_complete=complete_device)
@click.option(
    "--wait", "seconds", metavar="SECONDS", type=click.FloatRange(0, 3600), default=WAIT_S, show_default=True,
    help="How long the guest may take to give them back; 0 asks and does not wait.",
)  # fmt: skip
def detach(name: str, names: tuple[str, ...], seconds: float) -> int:
    """Take disks and network interfaces out of a VM that runs. The guest is asked, and gives them back."""
    with connect(name) as client:
        client.call("subscribe", topic="devices")
        for device in names:
            client.call("device-remove", device=device)
        waiting = set(names) if seconds else set()
        limit = time.monotonic() + seconds
        while waiting:
            event = client.next_event(max(0.0, limit - time.monotonic()))
            if event is None:
                raise HostError(
                    f"the guest has not given back {', '.join(sorted(waiting))} within {seconds:g} seconds; it may "
                    "still do so: look with manor devices"
                )
            if event.get("event") == "device-removed":
                waiting.discard(str(event.get("device")))
                if event.get("error"):
                    raise HostError(str(event["error"]))
    return 0


@click.command("media")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("device", metavar="DEVICE", shell_complete=complete_device)
@click.argument("medium", metavar="[FILE[,NAME=VALUE...]]", required=False)
@click.option(
    "--wait", "seconds", metavar="SECONDS", type=click.FloatRange(0.1, 600), default=WAIT_S, show_default=True,
    help="How long the guest may take to give the old medium back.",
)  # fmt: skip
def media(name: str, device: str, medium: str | None, seconds: float) -> int:
    """Put another medium into a drive of a VM that runs; without a FILE, take the medium out.

    The guest sees a disk go and another one come in its place.
    """
    from manor.cli.named import absolute_disk
    from manor.spec.disk_text import parse_disk
    from manor.spec.machine_json import part_to_json

    disk = {} if medium is None else {"disk": part_to_json(parse_disk(absolute_disk(medium)))}
    with connect(name) as client:
        client.call("device-change", seconds + 30, device=device, seconds=seconds, **disk)
    return 0
