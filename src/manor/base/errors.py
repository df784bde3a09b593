"""The exception tree.

    ManorError
      ConfigError        the user's description is wrong; carries the path
      HostError          the host refused: errno, file, what was attempted
      StateError         operation not allowed in this state
      ProtocolError      a peer broke the RPC or a file format
        SavedStateError  a saved device state does not fit the device that should load it
      OutOfRange         an access outside guest memory (devices turn it into a guest error)
      ApiError           crosses the RPC: libvirt code, domain, message
      InternalError      a bug of ours: stop this VM, keep the daemon

Mistakes of the guest are not exceptions: they are defined results plus a `guest_error` trace.
"""

from __future__ import annotations

from collections.abc import Iterable


class ManorError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigError(ManorError):
    """The user's description is wrong. Raised before anything starts.

    path: where in the description, for example `devices[2].queue_size`.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


class HostError(ManorError):
    """The host refused an operation. errno and file are None where there is none."""

    def __init__(self, attempt: str, errno: int | None = None, file: str | None = None) -> None:
        super().__init__(attempt)
        self.attempt = attempt
        self.errno = errno
        self.file = file

    @classmethod
    def from_os_error(cls, attempt: str, error: OSError) -> HostError:
        """Wrap `error` (raise the result `from` it)."""
        file = error.filename if isinstance(error.filename, str) else None
        return cls(f"{attempt}: {error.strerror or error}", error.errno, file)


class StateError(ManorError):
    """The operation is not allowed in the current state; carries it and the states that allow it."""

    def __init__(self, operation: str, state: str, allowed: Iterable[str] = ()) -> None:
        self.operation = operation
        self.state = state
        self.allowed = tuple(allowed)
        where = f"; allowed in: {', '.join(self.allowed)}" if self.allowed else ""
        super().__init__(f"{operation} is not allowed in state {state}{where}")


class ProtocolError(ManorError):
    """A peer or file does not follow its format. offset: bytes from the start, where known."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"at offset {offset:#x}: {message}")
        self.message = message
        self.offset = offset


class SavedStateError(ProtocolError):
    """A saved state is malformed or belongs to a different device."""

    def __init__(self, device: str, message: str) -> None:
        super().__init__(f"saved state of {device}: {message}")
        self.device = device


class OutOfRange(ManorError):
    """An access that no region of guest memory covers completely. Addresses and sizes in bytes."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"no guest memory at [{address:#018x}, {address:#018x} + {size:#x})")
        self.address = address
        self.size = size


class ApiError(ManorError):
    """An error that crosses the RPC with libvirt's numbers. code and domain: libvirt's enumerations."""

    def __init__(self, code: int, domain: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.domain = domain
        self.message = message


class InternalError(ManorError):
    """A bug of ours."""
