"""What one can ask a guest agent, QEMU's or ours: run programs, files, addresses, time, freezing, shutting down.

Calls wait for the guest. Everything that comes back is the guest's word: it is checked for its form and size.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from manor.backends.agent.protocol import AgentProtocol, Answer, Json
from manor.base.errors import HostError, ManorError, ProtocolError

ANSWER_S: Final = 10.0
"""How long an agent may take for an answer by default, in seconds."""
PIECE: Final = 48 << 10
"""Bytes of a file in one request or answer: small enough for every agent and for the line in between."""
FILE_LIMIT: Final = 1 << 30
"""Bytes that `read_file` takes into memory by default."""
_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.25
_SYNC_S: Final = 1.0
"""A fresh attempt to begin a session after so many seconds: the guest may have just started its agent."""
T = TypeVar("T")


class AgentError(ManorError):
    """The agent refused: what was asked for, and its reason."""


class AgentNotThere(HostError):
    """No agent answers."""


class Transport(Protocol):
    """The line to the agent. Thread: any."""

    def send(self, data: bytes) -> None:
        """Send all of `data`. Raises HostError if there is nobody at the other end."""

    def receive(self, timeout: float) -> bytes:
        """What came, b"" if nothing did within `timeout` seconds. Raises HostError if the other end is gone."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a program in the guest ended. status: its exit status, None if a signal ended it. is_truncated: the agent
    kept only the first part of the output."""

    status: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    is_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface as the guest sees it. addresses: with the length of the prefix, "10.0.2.15/24"."""

    name: str
    mac: str
    addresses: tuple[str, ...]


class AgentClient:
    """An agent at the other end of `transport`. Thread: any; one call at a time, the others wait."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._protocol = AgentProtocol()
        self._lock = threading.Lock()

    # --- the conversation -------------------------------------------------------------------------------------

    def call(self, command: str, arguments: Json | None = None, timeout: float = ANSWER_S) -> Any:
        """Any command of the agent; returns what it returns. timeout: seconds.

        Raises AgentError if it refuses, AgentNotThere if it does not answer, ProtocolError for an answer that is none.
        """
        answer = self._converse(command, arguments, timeout, needs_answer=True)
        assert answer is not None
        if answer.error is not None:
            raise AgentError(f"the guest's agent refuses {command}: {answer.error}")
        return answer.value

    def forget_session(self) -> None:
        """The other end is a new one: begin anew with the next call."""
        self._protocol.is_synchronized = False

    def _converse(self, command: str, arguments: Json | None, timeout: float, needs_answer: bool) -> Answer | None:
        limit = time.monotonic() + timeout
        with self._lock:
            try:
                if not self._protocol.is_synchronized:
                    self._synchronize(limit, timeout)
                self._transport.send(self._protocol.request(command, arguments))
                while True:
                    answers = self._protocol.feed(self._transport.receive(_left(limit)))
                    if answers:
                        return answers[-1]
                    if _left(limit) <= 0:
                        raise AgentNotThere(f"the guest's agent did not answer {command} within {timeout:g} seconds")
            except HostError:
                # A late answer must not be taken for that of the next request.
                self._protocol.is_synchronized = False
                if needs_answer:
                    raise
                return None
            except ProtocolError:
                self._protocol.is_synchronized = False
                raise

    def _synchronize(self, limit: float, timeout: float) -> None:
        while True:
            self._transport.send(self._protocol.synchronize(secrets.randbelow(1 << 31)))
            attempt = min(limit, time.monotonic() + _SYNC_S)
            while not self._protocol.is_synchronized and _left(attempt) > 0:
                self._protocol.feed(self._transport.receive(_left(attempt)))
            if self._protocol.is_synchronized:
                return
            if _left(limit) <= 0:
                raise AgentNotThere(
                    f"no agent in the guest answered within {timeout:g} seconds; is qemu-guest-agent installed there?"
                )

    # --- what it can do ---------------------------------------------------------------------------------------

    def ping(self, timeout: float = ANSWER_S) -> None:
        """Return when the agent answers. Raises AgentNotThere."""
        self.call("guest-ping", timeout=timeout)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until an agent answers. timeout: seconds, None: no limit. Raises TimeoutError."""
        limit = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                self.ping(_SYNC_S if limit is None else min(_SYNC_S, _left(limit)))
            except AgentNotThere as error:
                if limit is not None and time.monotonic() + _LONGEST_PAUSE_S >= limit:
                    raise TimeoutError(f"no agent in the guest answered within {timeout} seconds") from error
                time.sleep(_LONGEST_PAUSE_S)
            else:
                return

    def info(self) -> dict[str, bool]:
        """Command -> whether it is enabled."""
        found = _member(self.call("guest-info"), "supported_commands", list)
        return {_member(command, "name", str): bool(command.get("enabled")) for command in found}

    def exec(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = 60.0,
    ) -> ExecResult:
        """Run a program in the guest and wait for its end. timeout: seconds, None: no limit; it runs on after that.

        env: instead of the agent's own environment. Raises TimeoutError, AgentError if it cannot be started.
        """
        arguments: Json = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if input is not None:
            arguments["input-data"] = base64.b64encode(input).decode()
        if env is not None:
            arguments["env"] = [f"{name}={value}" for name, value in env.items()]
        pid = _member(self.call("guest-exec", arguments), "pid", int)
        limit = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE_S
        while True:
            status = self.call("guest-exec-status", {"pid": pid})
            if _member(status, "exited", bool):
                return ExecResult(
                    status=_optional(status, "exitcode", int),
                    signal=_optional(status, "signal", int),
                    stdout=_bytes(_optional(status, "out-data", str) or ""),
                    stderr=_bytes(_optional(status, "err-data", str) or ""),
                    is_truncated=bool(status.get("out-truncated") or status.get("err-truncated")),
                )
            if limit is not None and time.monotonic() + pause > limit:
                raise TimeoutError(f"{argv[0]} still runs in the guest after {timeout} seconds")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def read_file(self, path: str, limit: int = FILE_LIMIT) -> bytes:
        """A file of the guest. Raises AgentError, also for one of more than `limit` bytes."""
        parts: list[bytes] = []
        size = 0

        def read(handle: int) -> None:
            nonlocal size
            while True:
                answer = self.call("guest-file-read", {"handle": handle, "count": PIECE})
                data = _bytes(_member(answer, "buf-b64", str))
                size += len(data)
                if size > limit:
                    raise AgentError(f"{path} in the guest has more than {limit} bytes")
                parts.append(data)
                if not data or _member(answer, "eof", bool):
                    return

        self._with_file(path, "r", read)
        return b"".join(parts)

    def write_file(self, path: str, data: bytes, *, append: bool = False) -> None:
        """Write a file of the guest; it is on the guest's medium as far as flushing the file brings it there."""

        def write(handle: int) -> None:
            position = 0
            while position < len(data):
                piece = base64.b64encode(data[position : position + PIECE]).decode()
                count = _member(self.call("guest-file-write", {"handle": handle, "buf-b64": piece}), "count", int)
                if not 0 < count <= PIECE:
                    raise AgentError(f"the guest's agent wrote {count} bytes of {path}")
                position += count
            self.call("guest-file-flush", {"handle": handle})

        self._with_file(path, "a" if append else "w", write)

    def _with_file(self, path: str, mode: str, action: Callable[[int], None]) -> None:
        handle = self.call("guest-file-open", {"path": path, "mode": mode})
        if not isinstance(handle, int):
            raise ProtocolError("the agent's file handle is no number")
        try:
            action(handle)
        except BaseException:
            # The first failure is what counts.
            self._converse("guest-file-close", {"handle": handle}, ANSWER_S, needs_answer=False)
            raise
        self.call("guest-file-close", {"handle": handle})

    def interfaces(self) -> tuple[Interface, ...]:
        """The guest's network interfaces."""
        found = []
        for item in _list(self.call("guest-network-get-interfaces")):
            addresses = _optional(item, "ip-addresses", list) or []
            found.append(
                Interface(
                    _member(item, "name", str),
                    _optional(item, "hardware-address", str) or "",
                    tuple(f"{_member(one, 'ip-address', str)}/{_member(one, 'prefix', int)}" for one in addresses),
                )
            )
        return tuple(found)

    def addresses(self) -> tuple[str, ...]:
        """The guest's IP addresses, without those of loopback and without prefixes."""
        return tuple(
            address.partition("/")[0]
            for interface in self.interfaces()
            if interface.name != "lo"
            for address in interface.addresses
        )

    def os_info(self) -> dict[str, str]:
        """Name, version, kernel: the fields of guest-get-osinfo."""
        return {str(name): str(value) for name, value in _object(self.call("guest-get-osinfo")).items()}

    def get_time(self) -> int:
        """The guest's civil time, ns since 1970."""
        return _typed(self.call("guest-get-time"), int, "time")

    def set_time(self, now_ns: int | None = None) -> None:
        """Set the guest's civil time; None: to the host's. Its clock chip follows."""
        self.call("guest-set-time", {"time": time.time_ns() if now_ns is None else now_ns})

    def freeze(self) -> int:
        """Flush and freeze the guest's file systems, until `thaw`: for a consistent copy of its disks. How many."""
        return _typed(self.call("guest-fsfreeze-freeze", timeout=60.0), int, "count")

    def thaw(self) -> int:
        """How many file systems are writable again."""
        return _typed(self.call("guest-fsfreeze-thaw", timeout=60.0), int, "count")

    def is_frozen(self) -> bool:
        return _typed(self.call("guest-fsfreeze-status"), str, "status") == "frozen"

    def shutdown(self, mode: Literal["powerdown", "reboot", "halt"] = "powerdown") -> None:
        """Ask the guest to shut down in good order. Returns when it was asked: wait for the VM's end elsewhere."""
        # There is no answer when it works; a refusal comes at once.
        answer = self._converse("guest-shutdown", {"mode": mode}, 2.0, needs_answer=False)
        if answer is not None and answer.error is not None:
            raise AgentError(f"the guest's agent refuses to shut down: {answer.error}")


def _left(limit: float) -> float:
    return max(0.0, limit - time.monotonic())


def _typed(value: object, kind: type[T], what: str) -> T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ProtocolError(f"the agent's {what} is not of type {kind.__name__}")
    return value


def _object(value: object) -> Json:
    return _typed(value, dict, "answer")


def _list(value: object) -> list[Any]:
    return _typed(value, list, "answer")


def _member(value: object, name: str, kind: type[T]) -> T:
    return _typed(_object(value).get(name), kind, name)


def _optional(value: object, name: str, kind: type[T]) -> T | None:
    found = _object(value).get(name)
    return None if found is None else _typed(found, kind, name)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"the agent's data is not base64: {error}") from error
