"""The host's end of a guest's console line: what it printed, what is typed into it, and waiting for text."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from manor.base.errors import ManorError

MAX_HISTORY: Final = 8 << 20
"""Bytes of output kept; older output is forgotten. Bounds what a guest that prints for ever costs."""
MAX_QUEUED_INPUT: Final = 64 << 10
"""Bytes of input kept for a guest that does not read, before `input_room` reports none."""
PANIC: Final = b"Kernel panic - not syncing"
"""How Linux begins its last words. Source: Linux, Documentation/admin-guide/bug-hunting.rst."""
_MAX_LINE: Final = 4096
"""Bytes of the current line in which the panic message is looked for."""


class Receiver(Protocol):
    """The guest's device at the other end. Called with the machine lock held."""

    def can_receive(self) -> int: ...
    def receive(self, data: bytes) -> int: ...


class Output(Protocol):
    """Where the guest's output is shown."""

    is_full: bool

    def write(self, data: bytes) -> None: ...
    def wait_room(self) -> None: ...
    def release(self) -> None: ...


Lock = AbstractContextManager[bool, None]
"""The machine lock."""


class TextNotSeen(ManorError):
    """The text that was waited for did not come: time ran out, or the VM ended."""


class Console:
    """One console line of a VM; it outlives the machine when the guest reboots.

    Thread: any. Locks: the machine lock is taken before the console's own, never after it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_panicked = False
        """Whether a Linux kernel's panic message went by since the machine was built."""
        self._changed = threading.Condition()
        self._output = bytearray()
        self._dropped = 0
        self._position = 0
        self._line_start = 0
        self._closed: str | None = None
        self._sink: Output | None = None
        self._watchers: tuple[Callable[[bytes], None], ...] = ()
        self._input: deque[bytes] = deque()
        self._input_size = 0
        self._room_callbacks: list[Callable[[], None]] = []
        self._receiver: Receiver | None = None
        self._machine_lock: Lock | None = None

    # --- for scripts ----------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The guest's output so far (the last 8 MiB)."""
        with self._changed:
            return self._output.decode("utf-8", "replace")

    def history(self, size: int, until: int) -> bytes:
        """The last `size` bytes of output up to position `until` (bytes since the VM's start), as far as kept."""
        with self._changed:
            end = max(0, until - self._dropped)
            return bytes(self._output[max(0, end - size) : end])

    def adopt(self, data: bytes) -> None:
        """Have `data` as output of before, of a VM that goes on in this process. Before the VM starts."""
        with self._changed:
            self._output[:] = data
            self._position = self._line_start = len(data)

    def send(self, text: str | bytes) -> None:
        """Type `text`. It waits in a queue until the guest reads it; after the VM's end nobody does."""
        # memoryview: `bytes` alone would take a number for a length.
        self.send_bytes(text.encode() if isinstance(text, str) else bytes(memoryview(text)))

    def wait_for(self, pattern: str | re.Pattern[str], timeout: float | None = 60.0) -> str:
        """Wait until the guest prints `pattern` (text, or a compiled regular expression).

        Looks only at output after the previous match, so calls in a row follow the guest's output. Returns the
        output from there to the end of the match. timeout: seconds, None for no limit.
        Raises TextNotSeen, with the last lines of the output, when time runs out or the VM ends first.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                start = max(0, self._position - self._dropped)
                text = self._output[start:].decode("utf-8", "surrogateescape")
                end = _match_end(pattern, text)
                if end is not None:
                    self._position = self._dropped + start + len(text[:end].encode("utf-8", "surrogateescape"))
                    return text[:end].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                if self._closed is not None:
                    raise TextNotSeen(f"{self._describe(pattern)} before the VM ended ({self._closed})")
                left = None if limit is None else limit - time.monotonic()
                if left is not None and left <= 0:
                    raise TextNotSeen(f"{self._describe(pattern)} within {timeout} seconds")
                self._changed.wait(left)

    def _describe(self, pattern: str | re.Pattern[str]) -> str:
        wanted = pattern if isinstance(pattern, str) else pattern.pattern
        tail = self._output[-800:].decode("utf-8", "replace")
        return f"{wanted!r} did not appear on {self.name} (its output ends with {tail!r})"

    # --- the guest's side -----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Output of the guest (CharBackend). Never waits. Thread: machine lock held."""
        with self._changed:
            self._output += data
            self._watch_for_panic(data)
            if len(self._output) > 2 * MAX_HISTORY:
                excess = len(self._output) - MAX_HISTORY
                del self._output[:excess]
                self._dropped += excess
                self._line_start = max(0, self._line_start - excess)
            self._changed.notify_all()
            sink = self._sink
        if sink is not None:
            sink.write(data)
        for watcher in self._watchers:
            watcher(data)

    @property
    def is_full(self) -> bool:
        """Whether the guest prints faster than its output is taken; then call `wait_room`."""
        sink = self._sink
        return sink is not None and sink.is_full

    def wait_room(self) -> None:
        """Wait until the reader has caught up. Thread: a vCPU's, no lock held."""
        sink = self._sink
        if sink is not None:
            sink.wait_room()

    def _watch_for_panic(self, data: bytes) -> None:
        if b"\n" in data:
            if PANIC in self._output[self._line_start :]:
                self.has_panicked = True
            self._line_start = len(self._output)
        elif len(self._output) - self._line_start > _MAX_LINE:
            self._line_start = len(self._output) - len(PANIC)

    # --- input ----------------------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        """Queue input for the guest."""
        if not data:
            return
        with self._changed:
            self._input.append(data)
            self._input_size += len(data)
        self._feed()

    def put_back(self, data: bytes) -> None:
        """Input that the device took and could not deliver goes first again. Thread: machine lock held."""
        with self._changed:
            self._input.appendleft(data)
            self._input_size += len(data)

    def input_room(self) -> int:
        """Bytes until the queue has its intended limit; 0 or less: full."""
        return MAX_QUEUED_INPUT - self._input_size

    def on_input_room(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when there is room for input again: at once if there is now."""
        with self._changed:
            if self._input_size >= MAX_QUEUED_INPUT:
                self._room_callbacks.append(callback)
                return
        callback()

    def _feed(self) -> None:
        """Give the device as much input as it takes."""
        lock = self._machine_lock
        if lock is None:
            return
        with lock:
            receiver = self._receiver
            if receiver is not None:
                self._feed_locked(receiver)

    def _feed_locked(self, receiver: Receiver) -> None:
        """Thread: machine lock held; nobody else takes from the queue meanwhile."""
        while (room := receiver.can_receive()) > 0:
            with self._changed:
                if not self._input:
                    break
                data = self._input.popleft()
            taken = receiver.receive(data[:room])
            with self._changed:
                self._input_size -= taken
                if taken < len(data):
                    self._input.appendleft(data[taken:])
            if taken == 0:
                break
        with self._changed:
            callbacks: list[Callable[[], None]] = []
            if self._input_size < MAX_QUEUED_INPUT:
                callbacks, self._room_callbacks = self._room_callbacks, []
        for callback in callbacks:
            callback()

    # --- for the VMM ----------------------------------------------------------------------------------------

    def connect(self, receiver: Receiver, lock: Lock) -> Callable[[], None]:
        """The device of a newly built machine, not yet running; input that waits goes to it. lock: the machine lock.

        Returns what the device must call, with the machine lock held, when it has room for input again.
        """
        with lock:
            self.has_panicked = False
            self._receiver = receiver
            self._machine_lock = lock
            self._feed_locked(receiver)
        return lambda: self._feed_locked(receiver)

    def disconnect(self) -> None:
        """The machine is being taken apart; input waits for the next one."""
        self._receiver = None

    def stop_waiting(self) -> None:
        """The VM is ending: a vCPU that waits for a slow reader of the output goes on."""
        sink = self._sink
        if sink is not None:
            sink.release()

    def show_on(self, sink: Output | None) -> None:
        """Also write all output, from now on, to `sink`."""
        self._sink = sink

    def watch(self, watcher: Callable[[bytes], None]) -> None:
        """Also give all output, from now on, to `watcher`; it is called with the machine lock held and only notes
        it."""
        self._watchers = (*self._watchers, watcher)

    def close(self, reason: str) -> None:
        """The VM ended: nobody waits for its output any more."""
        with self._changed:
            self._closed = reason
            self._changed.notify_all()


def _match_end(pattern: str | re.Pattern[str], text: str) -> int | None:
    if isinstance(pattern, str):
        found = text.find(pattern)
        return None if found < 0 else found + len(pattern)
    if not isinstance(pattern, re.Pattern):
        raise TypeError(f"wait for text or a compiled regular expression of text, not {type(pattern).__name__}")
    match = pattern.search(text)
    return None if match is None else match.end()
