"""What a network device expects of the far end of its cable, and what it offers to it.

Thread: the owner's for every method, unless it says otherwise: who holds the network's lock, and not the machine lock.
That is the I/O loop's or, for `send` of a few short frames, a vCPU's; so nothing here may wait for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Segmentation(IntEnum):
    """How a frame larger than the MTU is to be cut. Numbers: VIRTIO 1.2, 5.1.6 (hdr_type without the ECN bit)."""

    NONE = 0
    TCPV4 = 1
    UDP = 3
    TCPV6 = 4
    UDP_L4 = 5


class Frame(NamedTuple):
    """An Ethernet frame without its check sequence, and what was left undone on it.

    A tuple, because one is made for every frame: it takes a quarter of the time of a frozen dataclass.

    data: host memory, never the guest's: it does not change. checksum_start, checksum_offset: the 16-bit checksum at
    start + offset is still to be computed over everything from `start`, and holds the pseudo header's sum; start 0
    means that it is done. is_checked: the sender vouches for checksums that were not computed. segmentation,
    segment_size: the frame stands for several with `segment_size` bytes of payload each.
    """

    data: bytes
    checksum_start: int = 0
    checksum_offset: int = 0
    is_checked: bool = False
    segmentation: Segmentation = Segmentation.NONE
    segment_size: int = 0


@dataclass(frozen=True, slots=True)
class Offloads:
    """What one side takes undone: checksums, and segmentation of TCP over IPv4, over IPv6, and of UDP."""

    checksum: bool = False
    tcpv4: bool = False
    tcpv6: bool = False
    udp: bool = False


class NetReceiver(Protocol):
    """The device, as a backend sees it."""

    @property
    def accepts(self) -> Offloads:
        """What the guest's driver takes undone now; frames with more are refused by the backend's own work."""

    def deliver(self, frames: Sequence[Frame]) -> int:
        """Offer frames to the guest in order; returns how many it took, the first ones. The rest the backend keeps,
        bounded, until the device calls its `on_room`."""


class NetBackend(Protocol):
    """The far end of a cable."""

    @property
    def accepts(self) -> Offloads:
        """What `send` takes undone; fixed when the backend was made."""

    @property
    def mtu(self) -> int:
        """Largest IP packet in bytes."""

    def attach(self, receiver: NetReceiver | None) -> None:
        """Frames for the guest go to `receiver` from now on; None: drop them (a reset, a reboot)."""

    def send(self, frames: Sequence[Frame]) -> None:
        """Frames from the guest, any bytes in them. Never blocks: what has no room is dropped, as on a wire."""

    def on_room(self) -> None:
        """The guest has buffers again."""

    def set_link(self, is_up: bool) -> None:
        """The cable was plugged or pulled."""

    def addresses(self) -> Sequence[str]:
        """IP addresses of the guest as far as known, from leases and from what its frames said. Thread: any."""

    def statistics(self) -> dict[str, int]:
        """Counters. Thread: any."""

    def close(self) -> None:
        """Release everything on the host."""


@runtime_checkable
class RemembersGuest(Protocol):
    """A backend that knows something of its guest, which another one shall know where the guest goes on."""

    def remember(self) -> Any:
        """Plain values, for JSON. Changes nothing."""

    def recall(self, known: Any) -> None:
        """Take over what another one's `remember` gave, once a receiver is attached. Raises ProtocolError."""
