"""What a virtio-vsock device expects of the host's side. Thread: the I/O loop's for every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from manor.backends.vsock.packet import Packet


class VsockBackend(Protocol):
    """Where packets of the guest go to and come from.

    on_packets: set by the device; called, on the I/O loop, when there are packets where there were none.
    """

    on_packets: Callable[[], None]

    @property
    def cid(self) -> int:
        """The guest's context ID."""

    @property
    def has_packets(self) -> bool:
        """Whether `next_packet` may have one."""

    @property
    def is_congested(self) -> bool:
        """Whether the guest must take packets before more of its own are looked at: answers would pile up."""

    def receive(self, packet: Packet) -> None:
        """A packet from the guest, with anything in it."""

    def next_packet(self, room: int) -> Packet | None:
        """The next packet for the guest, its payload at most `room` bytes; None if there is none after all."""

    def reset(self) -> None:
        """The guest's driver started anew: every connection is gone, and nothing is left to send."""
