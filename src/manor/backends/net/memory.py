"""A backend for tests and tools: frames from the guest are collected, frames for it are given by a call."""

from __future__ import annotations

from collections.abc import Sequence

from manor.backends.net.api import Frame, NetReceiver, Offloads
from manor.backends.net.offload import EVERYTHING


class MemoryNet:
    """sent: what the guest sent. waiting: what it had no room for. link: as last told."""

    def __init__(self, accepts: Offloads = EVERYTHING, mtu: int = 1500) -> None:
        self._accepts = accepts
        self.mtu = mtu
        self.sent: list[Frame] = []
        self.waiting: list[Frame] = []
        self.receiver: NetReceiver | None = None
        self.link = True
        self.is_closed = False
        self.rooms = 0

    @property
    def accepts(self) -> Offloads:
        return self._accepts

    def attach(self, receiver: NetReceiver | None) -> None:
        self.receiver = receiver

    def send(self, frames: Sequence[Frame]) -> None:
        self.sent += frames

    def give(self, *frames: Frame) -> int:
        """Frames for the guest; how many it took at once. The rest waits."""
        self.waiting += frames
        return self._pump()

    def on_room(self) -> None:
        self.rooms += 1
        self._pump()

    def _pump(self) -> int:
        if self.receiver is None:
            return 0
        taken = self.receiver.deliver(self.waiting)
        del self.waiting[:taken]
        return taken

    def set_link(self, is_up: bool) -> None:
        self.link = is_up

    def addresses(self) -> Sequence[str]:
        return ()

    def statistics(self) -> dict[str, int]:
        return {"sent": len(self.sent)}

    def close(self) -> None:
        self.is_closed = True
