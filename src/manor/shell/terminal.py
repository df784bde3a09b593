"""A console on this terminal: raw until the escape character, then as it was."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty

from manor.rpc.protocol.records import Domain
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError, Stream
from manor.shell.session import Session

READ_SIZE = 1024


def escape_byte(text: str) -> int:
    """`^]` or one character -> the byte that ends a console."""
    return ord(text[1].upper()) ^ 0x40 if len(text) == 2 and text[0] == "^" else ord(text[0])


def attach(session: Session, domain: Domain, device: str | None, flags: int, mode: int | None = None) -> None:
    """Connect a domain's console to this terminal. mode: of `manor_console_open`, None as virsh does.

    Raises CommandError, RemoteError.
    """
    if not sys.stdin.isatty():
        raise CommandError("Cannot run interactive console without a controlling TTY")
    with session.failing("Unable to get domain status"):
        if not session.call("domain_is_active", domain):
            raise CommandError("The domain is not running")
    session.print(f"Connected to domain '{domain.name}'")
    escape = session.settings.escape
    session.print(f"Escape character is {escape}{' (Ctrl + ' + escape[1] + ')' if len(escape) == 2 else ''}")
    session.out.flush()
    with session.failing():
        if mode is None:
            _, stream = session.link.open_stream("domain_open_console", domain, device, flags)
        else:
            _, stream = session.link.open_stream("manor_console_open", domain, device, mode)
    before = termios.tcgetattr(sys.stdin.fileno())
    try:
        tty.setraw(sys.stdin.fileno())
        copy(stream, sys.stdin.fileno(), sys.stdout.fileno(), escape_byte(escape))
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSAFLUSH, before)
        session.print("\n", end="")


def copy(stream: Stream, source: int, target: int, escape: int) -> None:
    """Copy both ways until the escape byte, the end of the console, or the end of `source`. Raises RemoteError."""
    over_read, over_write = os.pipe()
    failure: list[RemoteError] = []

    def from_guest() -> None:
        try:
            while data := stream.receive():
                _write(target, data)
        except RemoteError as error:
            failure.append(error)
        finally:
            os.write(over_write, b".")

    reader = threading.Thread(target=from_guest, name="console", daemon=True)
    reader.start()
    try:
        while True:
            ready, _, _ = select.select([source, over_read], [], [])
            if over_read in ready:
                break
            data = os.read(source, READ_SIZE)
            typed, found, _ = data.partition(bytes([escape]))
            if typed:
                stream.send(typed)
            if found or not data:
                break
    finally:
        stream.abort()
        reader.join(5)
        os.close(over_read)
        os.close(over_write)
    if failure:
        raise failure[0]


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]
