"""The user's terminal as the guest's console: raw mode that is always restored, and output that loses nothing.

Works with pipes and files in place of a terminal; then no mode is changed and no key has a meaning of its own.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import termios
import threading
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from types import FrameType, TracebackType
from typing import Final, Protocol

ESCAPE: Final = 0x1D
"""Ctrl-]: as in telnet and `virsh console`."""
CHUNK: Final = 4096
"""Bytes read or written at a time."""
MAX_PENDING_OUTPUT: Final = 1 << 20
"""Output waiting for a slow reader, in bytes, from which on the guest is made to wait. Bounds the host's memory."""


class InputTarget(Protocol):
    """Where typed bytes go."""

    def input_room(self) -> int:
        """How many bytes can be sent now without growing the queue past its limit. Thread: any."""

    def send_bytes(self, data: bytes) -> None: ...

    def on_input_room(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, on any thread, when there is room again."""


class Loop(Protocol):
    """The part of IoLoop that the terminal needs."""

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None: ...
    def remove_reader(self, descriptor: int) -> None: ...
    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None: ...


class RawMode:
    """A terminal in raw mode for the length of a `with` block. On what is no terminal it does nothing.

    The mode comes back on every way out of the block, exceptions included; signals must be turned into one of
    those by the caller. After a stop and continue by job control, raw mode is set again.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[int | list[bytes | int]] | None = None
        self._old_continue: signal.Handlers | int | Callable[[int, FrameType | None], object] | None = None

    @property
    def is_active(self) -> bool:
        return self._saved is not None

    def __enter__(self) -> RawMode:
        if is_terminal(self._descriptor):
            self._saved = termios.tcgetattr(self._descriptor)
            self._set_raw()
            if threading.current_thread() is threading.main_thread():
                self._old_continue = signal.signal(signal.SIGCONT, self._on_continue)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        saved, self._saved = self._saved, None
        if self._old_continue is not None:
            signal.signal(signal.SIGCONT, self._old_continue)
            self._old_continue = None
        if saved is not None:
            self._restore(saved)

    def _set_raw(self) -> None:
        tty.setraw(self._descriptor, termios.TCSANOW)

    def _on_continue(self, number: int, frame: FrameType | None) -> None:
        with _unless_hung_up():  # a hang-up continues its processes, too
            self._set_raw()

    def _restore(self, saved: list[int | list[bytes | int]]) -> None:
        with _unless_hung_up():
            # NOW: waiting for output to drain could take for ever on a terminal that went away.
            termios.tcsetattr(self._descriptor, termios.TCSANOW, saved)


class OutputWriter:
    """Writes bytes to a descriptor on a thread of its own, in order, all of them.

    `write` never waits; who produces the bytes looks at `is_full` and calls `wait_room` where it holds no lock.
    If writing fails (EPIPE, EIO: the reader went away), `on_broken` is called once, on the writer's thread, and what
    follows is dropped.
    """

    def __init__(self, descriptor: int, on_broken: Callable[[OSError], None]) -> None:
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._condition = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._pending = 0
        self._closing = False
        self._broken = False
        self.is_full = False
        """Whether a megabyte or more is pending and the producer should call `wait_room`."""
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue `data`. Thread: any, any lock held."""
        with self._condition:
            if self._broken or not data:
                return
            self._chunks.append(data)
            self._pending += len(data)
            self.is_full = self._pending >= MAX_PENDING_OUTPUT and not self._closing
            self._condition.notify_all()

    def wait_room(self) -> None:
        """Wait until the reader has caught up or the writer is closing. Thread: any, no lock held."""
        with self._condition:
            self._condition.wait_for(lambda: not self.is_full)

    def release(self) -> None:
        """Let no producer wait any more: the VM is ending."""
        with self._condition:
            self._closing = True
            self.is_full = False
            self._condition.notify_all()

    def close(self, is_abandoned: Callable[[], bool] = lambda: False) -> None:
        """Write what is pending, then end the thread. Waits for a slow reader, until `is_abandoned`."""
        self.release()
        while self._thread.is_alive() and not is_abandoned():
            self._thread.join(0.1)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: bool(self._chunks) or self._closing)
                if not self._chunks:
                    return
                data = b"".join(self._chunks)
                self._chunks.clear()
            try:
                self._write_all(data)
            except OSError as error:
                self._give_up(error)
                return
            with self._condition:
                self._pending -= len(data)
                self.is_full = self._pending >= MAX_PENDING_OUTPUT and not self._closing
                self._condition.notify_all()

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view[:CHUNK]) :]
            except BlockingIOError:
                # Somebody else made the shared file description non-blocking: wait as a blocking one would.
                _wait_writable(self._descriptor)

    def _give_up(self, error: OSError) -> None:
        with self._condition:
            self._broken = True
            self.is_full = False
            self._chunks.clear()
            self._condition.notify_all()
        self._on_broken(error)


class InputReader:
    """Moves bytes from a descriptor to the guest, as fast as the guest takes them.

    In raw mode the escape key calls `on_escape`; bytes before it in the same read are still sent. The end of the
    input ends the reading only, not the VM. Thread: the loop's.
    """

    def __init__(
        self,
        descriptor: int,
        loop: Loop,
        target: InputTarget,
        on_escape: Callable[[], None],
        has_escape: Callable[[], bool],
    ) -> None:
        """has_escape: whether the escape key has its meaning now (it is an ordinary byte in a pipe)."""
        self._descriptor = descriptor
        self._loop = loop
        self._target = target
        self._on_escape = on_escape
        self._has_escape = has_escape
        self._is_file = False
        self._watching = False
        self._ended = False

    def start(self) -> None:
        """Begin to read. Thread: any."""
        self._loop.call_soon_threadsafe(self._watch)

    def stop(self) -> None:
        """Stop reading. Thread: any; takes effect on the loop's."""
        self._ended = True
        self._loop.call_soon_threadsafe(self._unwatch)

    def _watch(self) -> None:
        if self._ended or self._watching:
            return
        if not self._is_file:
            try:
                self._loop.add_reader(self._descriptor, self._read)
                self._watching = True
                return
            except PermissionError:
                self._is_file = True  # epoll takes no regular files and /dev/null; they are always readable
            except (OSError, ValueError):
                self._ended = True  # standard input is closed
                return
        has_room = self._target.input_room() > 0
        self._read()  # without room: it starts again when there is some
        if has_room and not self._ended:
            self._loop.call_soon_threadsafe(self._watch)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._descriptor)

    def _read(self) -> None:
        room = self._target.input_room()
        if room <= 0:
            self._unwatch()
            self._target.on_input_room(self.start)
            return
        try:
            data = os.read(self._descriptor, min(room, CHUNK))
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the terminal hung up
        if not data:
            self._ended = True
            self._unwatch()
            return
        if ESCAPE in data and self._has_escape():
            before = data[: data.index(ESCAPE)]
            if before:
                self._target.send_bytes(before)
            self._on_escape()
            return
        self._target.send_bytes(data)


@contextmanager
def _unless_hung_up() -> Iterator[None]:
    """Ignore that the terminal has no modes any more, for a `with` block."""
    try:
        yield
    except termios.error as error:
        if error.args[0] not in (errno.EIO, errno.ENOTTY):
            raise


def is_terminal(descriptor: int) -> bool:
    """Whether `descriptor` is an open terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def window_size(descriptor: int) -> tuple[int, int] | None:
    """(columns, rows) of the terminal, None if it is none or does not know."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", ioctl(descriptor, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return None
    return (columns, rows) if columns and rows else None


def _wait_writable(descriptor: int) -> None:
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    poller.poll()
