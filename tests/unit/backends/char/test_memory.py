"""MemoryBackend: output is kept, input waits for room, none is lost."""

from __future__ import annotations

from manor.backends.char.memory import MemoryBackend


class Device:
    """Takes `room` bytes, at most two at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def can_receive(self) -> int:
        return self.room

    def receive(self, data: bytes) -> int:
        taken = data[: min(self.room, 2)]
        self.room -= len(taken)
        self.taken += taken
        return len(taken)


def test_output_is_kept() -> None:
    backend = MemoryBackend()
    backend.write(b"a")
    backend.write(b"b")
    assert bytes(backend.output) == b"ab"


def test_input_waits_for_a_device_and_for_room() -> None:
    backend, device = MemoryBackend(), Device(3)
    backend.send(b"hello")
    assert backend.waiting == 5
    backend.connect(device)
    assert (device.taken, backend.waiting) == (b"hel", 2)
    device.room = 10
    backend.pump()
    assert (device.taken, backend.waiting) == (b"hello", 0)
