"""`manord`: the command."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from manor import __version__
from manor.base.errors import ManorError

logger = logging.getLogger("manord")

BUSY_STATUS = 75
"""Exit status if another daemon has the sockets or the state directory. Source: sysexits.h, EX_TEMPFAIL."""


@click.group(invoke_without_command=True, epilog="Exit status: 0 ended in order; 1 an error; 75 another one is there.")
@click.version_option(__version__, prog_name="manord")
@click.option("--system", is_flag=True, help="Serve the whole host (manor:///system), not this user alone.")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="Settings, in TOML.")
@click.option("--state", metavar="DIR", type=click.Path(path_type=Path), help="Where descriptions are kept.")
@click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), help="The socket clients connect to.")
@click.option("--tls-listen", metavar="ADDRESS:PORT", help="Listen for TLS too. Default: no port at all.")
@click.option(
    "-t", "--timeout", "--idle-exit", "idle_exit", metavar="SECONDS", type=int,
    help="End after so long without clients and running VMs. Default: never.",
)
@click.option("--accel", metavar="auto|dbt|kvm", help="What runs VMs.")
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="Any setting of the file. Repeatable.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.pass_context
def manord(
    ctx: click.Context,
    system: bool,
    config: Path | None,
    state: Path | None,
    socket: Path | None,
    tls_listen: str | None,
    idle_exit: int | None,
    accel: str | None,
    settings: tuple[str, ...],
    verbose: bool,
) -> None:
    """Manage virtual machines for libvirt's clients and Manor's own.

    Without --system it serves you alone: virsh -c 'qemu+unix:///session?socket=PATH' list.
    """
    if ctx.invoked_subcommand is not None:
        return
    from manor.daemon.config import Config, apply, default_file, defaults, read_file

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr
    )
    given: dict[str, Any] = {}
    if state is not None:
        given["state"] = state.absolute()
    if socket is not None:
        given["socket"] = socket.absolute()
        given["socket_ro"] = Path(f"{socket.absolute()}-ro")
    for name, value in (("tls_listen", tls_listen), ("idle_exit", idle_exit), ("accel", accel)):
        if value is not None:
            given[name] = value
    given.update(_setting(text) for text in settings)

    def read() -> Config:
        base = read_file(config or default_file(system), defaults(system), config is not None)
        return apply(base, given, "option")

    from manor.daemon.server import SocketInUse
    from manor.drivers.store import Busy

    try:
        from manor.daemon.daemon import Daemon

        asyncio.run(_run(Daemon(read()), read))
    except (Busy, SocketInUse) as error:
        click.echo(f"manord: {error}", err=True)
        ctx.exit(BUSY_STATUS)
    except ManorError as error:
        click.echo(f"manord: {error}", err=True)
        ctx.exit(1)


@manord.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--host", "hosts", metavar="NAME|ADDRESS", multiple=True, required=True, help="What clients call it.")
@click.option("--client", "clients", metavar="NAME", multiple=True, help="Make a certificate for this client too.")
@click.option("--days", type=int, default=825, show_default=True, help="How long they are valid.")
def certs(directory: Path, hosts: tuple[str, ...], clients: tuple[str, ...], days: int) -> None:
    """Make an authority, and certificates for the daemon and its clients, in DIR."""
    from manor.daemon.certs import make

    try:
        for path in make(directory, hosts, clients, days):
            click.echo(str(path))
    except ManorError as error:
        click.echo(f"manord: {error}", err=True)
        click.get_current_context().exit(1)


def _setting(text: str) -> tuple[str, Any]:
    import tomllib

    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text}: write NAME=VALUE")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


async def _run(daemon: Any, read: Callable[[], Any]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)

    def reload() -> None:
        try:
            daemon.reload(read())
        except ManorError as error:
            logger.error("the settings are left as they were: %s", error)

    loop.add_signal_handler(signal.SIGHUP, reload)
    await daemon.run()


def main() -> None:
    """The console command."""
    manord(prog_name="manord")
