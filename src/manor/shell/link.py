"""The shell's side of a connection: one call at a time, streams, and events as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from manor.base.errors import ManorError
from manor.rpc.protocol.errors import ErrorCode

if TYPE_CHECKING:
    pass


class RemoteError(ManorError):
    """What the daemon answered to a call that failed. code: libvirt's number."""

    def __init__(self, message: str, code: int = int(ErrorCode.INTERNAL_ERROR)) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_unsupported(self) -> bool:
        """Whether the daemon's driver, or the daemon, has no such call."""
        return self.code in (ErrorCode.NO_SUPPORT, ErrorCode.RPC)


class Stream(Protocol):
    """Bytes to and from what a call has opened."""

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next bytes; b"" at the end, None if none came in time (seconds). Raises RemoteError."""

    def receive_piece(self) -> bytes | int:
        """The next bytes, or the size of a hole; b"" at the end. Raises RemoteError."""

    def send(self, data: bytes) -> None:
        """Send bytes. Raises RemoteError."""

    def send_hole(self, size: int) -> None:
        """Send zeros without their bytes, to a stream that was opened as sparse. Raises RemoteError."""

    def finish(self) -> None:
        """Close in good order, when everything has arrived. Raises RemoteError."""

    def abort(self) -> None:
        """Give up."""


class Link(Protocol):
    """A connection to a hypervisor."""

    uri: str

    def call(self, name: str, *arguments: Any) -> Any:
        """The result of a procedure (`manor.rpc.protocol.catalog`). Raises RemoteError."""

    def call_with_files(self, name: str, *arguments: Any, files: Sequence[int]) -> Any:
        """The result of a procedure that takes descriptors; copies are sent. Raises RemoteError."""

    def open_stream(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        """(result, stream) of a procedure that opens one. Raises RemoteError."""

    def subscribe(self, kind: str, event: str, about: Any) -> None:
        """Ask for events (`manor.rpc.protocol.events`), of one object or, with None, of all. Raises RemoteError."""

    def unsubscribe(self) -> None:
        """Ask for no more events."""

    def next_event(self, timeout: float | None) -> tuple[str, Any] | None:
        """(event's name, its message), None if there was none in time (seconds). Raises RemoteError."""

    def close(self) -> None:
        """End it."""
