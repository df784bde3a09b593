"""An unplugged cable."""

from __future__ import annotations

from collections.abc import Sequence

from manor.backends.net.api import Frame, NetReceiver, Offloads
from manor.backends.net.offload import EVERYTHING


class NoNet:
    """A NetBackend from which nothing comes and to which nothing gets through."""

    def __init__(self, mtu: int = 1500) -> None:
        self.mtu = mtu

    @property
    def accepts(self) -> Offloads:
        return EVERYTHING

    def attach(self, receiver: NetReceiver | None) -> None:
        """Nothing will come."""

    def send(self, frames: Sequence[Frame]) -> None:
        """Nobody is there."""

    def on_room(self) -> None:
        """Nothing waits."""

    def set_link(self, is_up: bool) -> None:
        """There is no cable to plug in."""

    def addresses(self) -> Sequence[str]:
        return ()

    def statistics(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        """Nothing is held."""
