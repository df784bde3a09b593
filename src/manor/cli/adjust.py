"""`manor link`, `resize`, `memory` and `cpus`: what can be turned while a VM runs."""

from __future__ import annotations

import click

from manor.base.errors import ConfigError
from manor.base.units import format_size, parse_size
from manor.cli.devices import complete_device, connect
from manor.cli.names import complete_running


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError("", str(error)) from error


@click.command("link")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("device", metavar="DEVICE", shell_complete=complete_device)
@click.argument("state", metavar="up|down", type=click.Choice(("up", "down")))
def link(name: str, device: str, state: str) -> int:
    """Plug in or pull the cable of a network interface. The guest sees that at once."""
    with connect(name) as client:
        client.call("link", nic=device, up=state == "up")
    return 0


@click.command("resize")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("device", metavar="DEVICE", shell_complete=complete_device)
@click.argument("size", metavar="SIZE")
def resize(name: str, device: str, size: str) -> int:
    """Change the size of a disk of a VM that runs. What a smaller disk has no room for is lost."""
    with connect(name) as client:
        client.call("resize-disk", 600.0, disk=device, size=_size(size))
    return 0


@click.command("memory")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("size", metavar="[SIZE]", required=False)
def memory(name: str, size: str | None) -> int:
    """Tell a guest how much memory it shall have, up to what it was started with; without SIZE, show what it has."""
    with connect(name) as client:
        found = client.call("balloon", **({} if size is None else {"target": _size(size)}))
    if size is None:
        click.echo(f"{format_size(found['actual'])} of {format_size(found['target'])} wanted")
    return 0


@click.command("cpus")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("count", metavar="[COUNT]", type=int, required=False)
def cpus(name: str, count: int | None) -> int:
    """Give a VM that runs more or fewer vCPUs; without COUNT, show how many it has and may have.

    More than at its start are possible if it was started with --cpus N,max=M. The guest is asked for those that go.
    """
    with connect(name) as client:
        found = client.call("cpus", **({} if count is None else {"count": count}))
    if count is None:
        click.echo(f"{found['count']} of {found['max']}")
    return 0
