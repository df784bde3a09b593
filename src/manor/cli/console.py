"""`manor console NAME`: this terminal becomes the console of a VM that runs."""

from __future__ import annotations

import os
import selectors
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from manor.cli.names import complete_running
from manor.cli.status import EXIT_SIGNAL

if TYPE_CHECKING:
    from manor.instances.client import ControlClient
    from manor.instances.instance import Instance
    from manor.spec.control import Json

HISTORY: Final = 16 << 10
"""Bytes of earlier output that are shown first."""
_STDIN: Final = 0
_STDOUT: Final = 1
_CHUNK: Final = 4096


@click.command("console")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.option(
    "--console",
    "device",
    type=click.Choice(("serial", "virtio")),
    help="Which console. Default: the one the VM was run with.",
)
@click.option("--history", is_flag=True, help="Only print what the guest has printed before, and end.")
def console(name: str, device: str | None, history: bool) -> int:
    """Attach to the console of a VM. Ctrl-] leaves; the VM runs on."""
    from manor.instances.client import VmGone
    from manor.instances.instance import Instances

    instance = Instances().get(name)
    if instance.running_pid() is None:
        _show_log(instance)
        if history:
            return 0
        raise VmGone(f"the VM {name} does not run; start it with: manor run {name}")
    try:
        return attach(instance, device, history)
    except BrokenPipeError:
        return EXIT_SIGNAL + signal.SIGPIPE


def _show_log(instance: Instance) -> None:
    """The end of the log of a VM that does not run."""
    try:
        with instance.log.open("rb") as file:
            file.seek(max(0, instance.log.stat().st_size - HISTORY))
            data = file.read(HISTORY)
    except OSError:
        return
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def attach(instance: Instance, device: str | None, history: bool) -> int:
    """Be the console until Ctrl-], the end of the output's reader, or the end of the VM."""
    from manor.instances.client import ControlClient, VmGone
    from manor.spec.control import decode_bytes
    from manor.vmm.terminal import RawMode, is_terminal

    choice: dict[str, Any] = {} if device is None else {"console": device}
    with ControlClient(instance.control) as client, RawMode(_STDIN) as raw:
        answer = client.call("console", history=HISTORY, **choice)
        _print(decode_bytes(answer["data"]))
        if history:
            return 0
        if raw.is_active:
            print(f"manor: this is {instance.name}; Ctrl-] leaves.\r", file=sys.stderr)
        choice["console"] = answer["console"]
        attached = _Attached(client, choice, has_escape=raw.is_active)
        if is_terminal(_STDOUT):
            attached.follow_window_size()
        try:
            attached.run()
        except VmGone:
            end = instance.last_end() or {}
            print(f"\r\nmanor: {instance.name} ended: {end.get('reason', 'its process is gone')}.\r", file=sys.stderr)
    return 0


class _Attached:
    """Bytes both ways: typed ones one request at a time, so that a guest that does not read makes the typist wait."""

    def __init__(self, client: ControlClient, choice: dict[str, Any], has_escape: bool) -> None:
        self._client = client
        self._choice = choice
        self._has_escape = has_escape
        self._waiting_for: int | None = None
        self._selector = selectors.DefaultSelector()
        self._is_file = False
        self._has_input = True
        self._selector.register(client, selectors.EVENT_READ)

    def follow_window_size(self) -> None:
        """Tell the guest the terminal's size, now and when it changes."""

        def changed(number: int, frame: FrameType | None) -> None:
            self._send_window_size()

        signal.signal(signal.SIGWINCH, changed)
        self._send_window_size()

    def run(self) -> None:
        """Until Ctrl-]. Raises VmGone at the VM's end."""
        self._want_input(True)
        while True:
            if self._is_file and self._has_input and self._waiting_for is None and not self._read_input():
                return
            for key, _ in self._selector.select():
                if key.fd == _STDIN:
                    if not self._read_input():
                        return
                else:
                    self._receive()

    def _receive(self) -> None:
        """All that has come; the first look waits for no more than what made the socket readable."""
        timeout = 1.0
        while (event := self._client.next_event(timeout)) is not None:
            timeout = 0.0
            self._handle(event)

    def _handle(self, event: Json) -> None:
        from manor.spec.control import decode_bytes

        if event.get("event") == "console":
            _print(decode_bytes(event.get("data")))
        elif event.get("event") == "missed":
            print("\r\nmanor: some output came too fast and is left out.\r", file=sys.stderr)
        elif event.get("id") == self._waiting_for:
            self._waiting_for = None
            self._want_input(True)

    def _read_input(self) -> bool:
        """Pass typed bytes on; whether to go on."""
        data = os.read(_STDIN, _CHUNK)
        if not data:
            # The end of a pipe or file is no wish to leave: output may still come.
            self._has_input = False
            self._want_input(False)
            return True
        from manor.spec.control import encode_bytes
        from manor.vmm.terminal import ESCAPE

        leaves = self._has_escape and ESCAPE in data
        data = data[: data.index(ESCAPE)] if leaves else data
        if data:
            self._waiting_for = self._client.begin("input", data=encode_bytes(data), **self._choice)
            self._want_input(False)
        return not leaves

    def _want_input(self, wanted: bool) -> None:
        is_watched = _STDIN in self._selector.get_map()
        if wanted and not is_watched and self._has_input and not self._is_file:
            try:
                self._selector.register(_STDIN, selectors.EVENT_READ)
            except PermissionError:
                self._is_file = True  # epoll takes no files; they are always readable
        elif is_watched and not wanted:
            self._selector.unregister(_STDIN)

    def _send_window_size(self) -> None:
        from manor.vmm.terminal import window_size

        size = window_size(_STDOUT)
        if size is not None:
            self._client.begin("window", columns=size[0], rows=size[1])


def _print(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(_STDOUT, view) :]
