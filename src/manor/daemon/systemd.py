"""What systemd and its services say to each other. Works without systemd: nothing is said then.

Source: systemd 252, sd_notify(3), sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

_FIRST: Final = 3


def notify(state: str) -> None:
    """Tell the service manager, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), address)


def inherited() -> dict[str, socket.socket]:
    """Listening sockets that came with the process, by their name in the unit; the variables are forgotten."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found = {}
    for index in range(min(int(count), 16)):
        descriptor = _FIRST + index
        os.set_inheritable(descriptor, False)
        name = names[index] if index < len(names) and names[index] not in ("", "unknown") else f"socket{index}"
        found[name] = socket.socket(fileno=descriptor)
    return found
