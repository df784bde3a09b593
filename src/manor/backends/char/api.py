"""What a serial device expects of the host side of its line, and what it offers to it."""

from __future__ import annotations

from typing import Protocol


class CharBackend(Protocol):
    """The far end of a serial line.

    It takes the guest's output by `write`, and brings input by calling the device's `receive` with at most
    `can_receive()` bytes; when the device makes room it calls the `on_room` the backend put into the device.
    What a device had taken and could not deliver, it gives back by `on_unread`, where it has one.
    """

    def write(self, data: bytes) -> None:
        """Output of the guest. Must not block for long: buffer it. Thread: machine lock held."""


class CharReceiver(Protocol):
    """A device that accepts input. Thread: machine lock held."""

    def can_receive(self) -> int:
        """Bytes `receive` takes now without losing any; 0 means wait for `on_room`."""

    def receive(self, data: bytes) -> int:
        """Offer input; returns how many bytes were taken, the first ones. The rest must be offered again."""


class NullBackend:
    """Output goes nowhere, input never comes."""

    def write(self, data: bytes) -> None:
        """Drop `data`."""
