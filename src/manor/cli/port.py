"""`manor port NAME`: forwarded ports of a VM that runs."""

from __future__ import annotations

import click

from manor.base.errors import ConfigError
from manor.cli.names import complete_running


@click.command("port")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.option(
    "--add", "adds", metavar="[ADDRESS:]HOST:GUEST[/udp]", multiple=True,
    help="Forward a port of this machine from now on, until the VM ends. Host port 0: any that is free. Repeatable.",
)  # fmt: skip
@click.option(
    "--remove", "removes", metavar="[ADDRESS:]HOST[/udp]", multiple=True,
    help="Forward it no more; connections that are open stay. Repeatable.",
)  # fmt: skip
def port(name: str, adds: tuple[str, ...], removes: tuple[str, ...]) -> int:
    """List the ports of this machine that lead into a VM, one a line, as --port of `manor run` takes them.

    With --add only those that were added are printed, with the port that was chosen.
    """
    from manor.instances.client import ControlClient
    from manor.instances.instance import Instances

    with ControlClient(Instances().get(name).control) as client:
        for text in removes:
            address, host_port, protocol = parse_host_port(text)
            client.call("port-remove", protocol=protocol, host_port=host_port, host_address=address)
        for text in adds:
            click.echo(client.call("port-add", port=text)["text"])
        if not adds and not removes:
            for forward in client.call("status")["ports"]:
                click.echo(forward)
    return 0


def parse_host_port(text: str) -> tuple[str, int, str]:
    """(address, port, protocol) of `[ADDRESS:]HOST[/udp]`. Raises ConfigError."""
    place, slash, protocol = text.partition("/")
    address, _, number = place.rpartition(":")
    is_known = protocol in ("tcp", "udp") if slash else True
    if not is_known or not (number.isascii() and number.isdigit() and 0 < int(number[:6]) <= 0xFFFF):
        raise ConfigError("remove", f"{text!r} is not a port of this machine; write [ADDRESS:]HOST[/udp], like 2222")
    return address.removeprefix("[").removesuffix("]"), int(number), protocol or "tcp"
