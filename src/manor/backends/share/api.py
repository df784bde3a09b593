"""What a file system device expects of the server behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class ShareRequest(Protocol):
    """One request of the guest, in its memory."""

    def read(self) -> bytes:
        """The request. The guest may change it meanwhile: read it once. Thread: the backend's."""

    @property
    def room(self) -> int:
        """Bytes of the answer that find room."""


class ShareBackend(Protocol):
    """A server. Thread: any for every method; none of them waits."""

    @property
    def tag(self) -> str:
        """By which the guest mounts it."""

    def submit(self, request: ShareRequest, done: Callable[[bytes], None]) -> None:
        """Serve `request`, on a thread of the backend's own, and call `done` there with the answer (b"": none).
        Requests are served in order. After `reset` those before it are dropped, and `done` is not called."""

    def reset(self) -> None:
        """The guest's driver starts anew."""
