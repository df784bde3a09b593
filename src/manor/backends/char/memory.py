"""A character backend in memory: collects the output, plays scripted input."""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """The part of a device that takes input (see `api.CharReceiver`)."""

    def can_receive(self) -> int: ...
    def receive(self, data: bytes) -> int: ...


class MemoryBackend:
    """Keeps what the guest wrote in `output`; `send` queues input until the device has room.

    Thread: machine lock held.
    """

    def __init__(self) -> None:
        self.output = bytearray()
        self._input = bytearray()
        self._receiver: Receiver | None = None

    def connect(self, receiver: Receiver) -> None:
        """Deliver input to `receiver`; its `on_room` must be set to `pump` by the caller."""
        self._receiver = receiver
        self.pump()

    def write(self, data: bytes) -> None:
        self.output += data

    def send(self, data: bytes) -> None:
        """Input for the guest, in order, none lost."""
        self._input += data
        self.pump()

    @property
    def waiting(self) -> int:
        """Bytes of input the device did not take yet."""
        return len(self._input)

    def pump(self) -> None:
        """Give the device what it has room for."""
        while self._receiver is not None and self._input:
            room = self._receiver.can_receive()
            taken = self._receiver.receive(bytes(self._input[:room])) if room > 0 else 0
            if taken == 0:
                return
            del self._input[:taken]
