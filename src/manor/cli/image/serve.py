"""`manor image serve`: an NBD server."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from manor.cli.image.command import IMAGE, ImageCommand, format_option, quiet_option, share_option
from manor.cli.image.text import size_text
from manor.cli.status import EXIT_OK

if TYPE_CHECKING:
    from manor.backends.block.nbd.server import NbdServer
    from manor.backends.block.statistics import CountedImage

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(cls=ImageCommand)
@click.argument("files", type=IMAGE, nargs=-1, required=True, metavar="FILE...")
@click.option("-k", "--socket", metavar="PATH", help="Serve on that Unix socket, which only you can open.")
@click.option(
    "-p", "--port", metavar="N", type=click.IntRange(0, 65535), help="Serve on that TCP port; 0 takes a free one."
)
@click.option(
    "--bind", metavar="ADDRESS", default="127.0.0.1", show_default=True,
    help="With -p: the address to serve on. Whoever can reach it can read, and write, the disk.",
)  # fmt: skip
@click.option(
    "-x", "--export", "exports", metavar="NAME", multiple=True, help="Name of the export, for each FILE in turn."
)
@click.option("-D", "--description", metavar="TEXT", default="", help="What clients that list the exports read.")
@format_option("Format of the images. Default: looked up in their contents.")
@click.option("-r", "--read-only", is_flag=True, help="Clients cannot write.")
@click.option("-s", "--snapshot", is_flag=True, help="Throw away at the end what clients write.")
@click.option("--once", is_flag=True, help="End when the last client has gone.")
@click.option(
    "-e", "--clients", metavar="N", type=click.IntRange(1, 1000), default=16, show_default=True, help="Clients at once."
)
@click.option(
    "--tls-certificates", metavar="FOLDER",
    help="Serve with TLS only: server-cert.pem and server-key.pem; with ca-cert.pem clients must prove themselves.",
)  # fmt: skip
@click.option("--stats", is_flag=True, help="Print at the end, on standard error, what clients did to each image.")
@share_option
@quiet_option
def serve(
    files: tuple[str, ...],
    socket: str | None,
    port: int | None,
    bind: str,
    exports: tuple[str, ...],
    description: str,
    format_: str | None,
    read_only: bool,
    snapshot: bool,
    once: bool,
    clients: int,
    tls_certificates: str | None,
    stats: bool,
    force_share: bool,
    quiet: bool,
) -> int:
    """Serve images to other programs over NBD.

    Serves until it is interrupted. Clients that name no export get the first one; without -x an export has the name
    of its file.
    """
    from manor.backends.block.nbd.server import Export, NbdServer
    from manor.backends.block.nbd.transport import server_context
    from manor.backends.block.open import OpenOptions, open_image
    from manor.backends.block.statistics import CountedImage

    if (socket is None) == (port is None):
        raise click.UsageError("say where to serve: -k for a Unix socket, or -p for a TCP port")
    if exports and len(exports) != len(files):
        raise click.UsageError(f"there are {len(files)} images and {len(exports)} names; give each one a -x, or none")
    if force_share and not read_only:
        raise click.UsageError("-U reads what another program writes; use it with -r")
    names = list(exports) if exports else [os.path.basename(file) for file in files]
    if len(set(names)) != len(names):
        raise click.UsageError("two exports have the same name; name them with -x")
    context = server_context(tls_certificates) if tls_certificates is not None else None
    options = OpenOptions(format=format_, read_only=read_only, snapshot=snapshot, force_share=force_share)
    images: list[CountedImage] = []
    try:
        for file in files:
            images.append(CountedImage(open_image(file, options)))
        offered = {name: Export(image, read_only, description) for name, image in zip(names, images, strict=True)}
        server = NbdServer(offered, tls=context, max_clients=clients)
        try:
            if socket is not None:
                server.listen_unix(socket)
                scheme = "nbds+unix" if context else "nbd+unix"
                address = f"{scheme}:///{names[0]}?socket={os.path.abspath(socket)}"
            else:
                assert port is not None
                port = server.listen_tcp(bind, port)
                host = f"[{bind}]" if ":" in bind else bind
                address = f"{'nbds' if context else 'nbd'}://{host}:{port}/{names[0]}"
                if context is None and bind not in _LOOPBACK:
                    use = "read" if read_only else "read and write"
                    click.echo(
                        f"manor: whoever can reach {bind} port {port} can {use} the disk; --tls-certificates keeps"
                        " others out.",
                        err=True,
                    )
            if not quiet:
                click.echo(f"Serving {address}")
            _wait(server, once=once)
        finally:
            server.stop()
        if stats:
            click.echo("\n".join(statistics_text(*one) for one in zip(names, images, strict=True)), err=True)
    finally:
        for image in images:
            image.close()
    return EXIT_OK


def statistics_text(name: str, image: CountedImage) -> str:
    """What was done to one image: a line for each kind of request."""
    from manor.backends.block.statistics import KINDS

    found = image.statistics()
    lines = [f"{name}:"]
    for kind in KINDS:
        one = getattr(found, kind)
        failed = f", {one.errors} failed" if one.errors else ""
        mean = one.time_ns // one.operations // 1000 if one.operations else 0
        lines.append(f"  {kind:<12} {one.operations:>9} requests {size_text(one.bytes):>10} {mean:>8} us each{failed}")
    return "\n".join(lines)


def _wait(server: NbdServer, *, once: bool) -> None:
    """Until a signal comes, or with `once` until the last client has gone."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    old = {number: signal.signal(number, end) for number in _ENDING}
    try:
        if once:
            threading.Thread(target=_end_when_idle, args=(server, ended), daemon=True).start()
        ended.wait()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _end_when_idle(server: NbdServer, ended: threading.Event) -> None:
    server.wait_idle()
    ended.set()
