"""The user's terminal: raw mode and back, input, output. With real pseudo-terminals and pipes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.base.clock import HostClock
from manor.vmm import terminal
from manor.vmm.io_loop import IoLoop
from manor.vmm.terminal import InputReader, OutputWriter, RawMode, is_terminal, window_size


class Guest:
    """An InputTarget with a limited queue."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.limit = limit
        self.data = b""
        self.changed = threading.Condition()
        self._room: Callable[[], None] | None = None

    def input_room(self) -> int:
        return self.limit - len(self.data)

    def send_bytes(self, data: bytes) -> None:
        with self.changed:
            self.data += data
            self.changed.notify_all()

    def on_input_room(self, callback: Callable[[], None]) -> None:
        with self.changed:
            self._room = callback
            self.changed.notify_all()

    def raise_limit(self, limit: int) -> None:
        with self.changed:
            self.limit = limit
            callback, self._room = self._room, None
        if callback is not None:
            callback()

    def wait(self, data: bytes) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.data == data, 5), self.data

    def wait_full(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self._room is not None, 5)


@pytest.fixture
def terminal_pair() -> Iterator[tuple[int, int]]:
    """(our end, the program's end) of a pseudo-terminal."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(descriptor)


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    errors: list[BaseException] = []
    loop = IoLoop(HostClock(), errors.append)
    loop.start()
    yield loop
    loop.stop()
    assert errors == []


def never(*_: object) -> None:
    pytest.fail("called")


# --- mode ---------------------------------------------------------------------------------------------------


def test_raw_mode_is_set_and_restored(terminal_pair: tuple[int, int]) -> None:
    _, theirs = terminal_pair
    before = termios.tcgetattr(theirs)
    with RawMode(theirs) as raw:
        assert raw.is_active
        assert not termios.tcgetattr(theirs)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert not raw.is_active
    assert termios.tcgetattr(theirs) == before


def test_raw_mode_is_restored_after_an_exception(terminal_pair: tuple[int, int]) -> None:
    _, theirs = terminal_pair
    before = termios.tcgetattr(theirs)
    with pytest.raises(KeyboardInterrupt), RawMode(theirs):
        raise KeyboardInterrupt
    assert termios.tcgetattr(theirs) == before


def test_raw_mode_comes_back_after_the_shell_reset_it(terminal_pair: tuple[int, int]) -> None:
    import signal

    _, theirs = terminal_pair
    before = termios.tcgetattr(theirs)
    with RawMode(theirs):
        termios.tcsetattr(theirs, termios.TCSANOW, before)  # as a shell does when a job stops
        os.kill(os.getpid(), signal.SIGCONT)
        assert not termios.tcgetattr(theirs)[3] & termios.ICANON
    assert termios.tcgetattr(theirs) == before


def test_raw_mode_of_a_pipe_does_nothing(pipe: tuple[int, int]) -> None:
    with RawMode(pipe[0]) as raw:
        assert not raw.is_active


def test_window_size(terminal_pair: tuple[int, int], pipe: tuple[int, int]) -> None:
    _, theirs = terminal_pair
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    assert window_size(theirs) == (80, 24)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    assert window_size(theirs) is None
    assert window_size(pipe[0]) is None
    assert is_terminal(theirs)
    assert not is_terminal(pipe[0])


# --- output -------------------------------------------------------------------------------------------------


def test_output_loses_nothing_on_a_slow_reader(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = OutputWriter(writing, never)
    data = os.urandom(300_000)
    for start in range(0, len(data), 1000):
        writer.write(data[start : start + 1000])
    received = bytearray()

    def read() -> None:
        while len(received) < len(data):
            received.extend(os.read(reading, 5000))

    thread = threading.Thread(target=read)
    thread.start()
    writer.close()
    thread.join(5)
    assert received == data


def test_output_to_a_non_blocking_descriptor_loses_nothing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = OutputWriter(writing, never)
    writer.write(b"x" * 200_000)
    received = 0
    while received < 200_000:
        received += len(os.read(reading, 100_000))
    writer.close()


def test_producer_waits_when_too_much_is_pending(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "MAX_PENDING_OUTPUT", 1000)
    reading, writing = pipe
    writer = OutputWriter(writing, never)
    writer.write(b"x" * 100_000)  # more than a pipe takes
    assert writer.is_full
    waited = threading.Thread(target=writer.wait_room)
    waited.start()
    assert waited.is_alive()
    received = 0
    while received < 100_000:
        received += len(os.read(reading, 100_000))
    waited.join(5)
    assert not waited.is_alive()
    assert not writer.is_full
    writer.close()


def test_nobody_waits_for_a_stuck_reader_once_the_vm_ends(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "MAX_PENDING_OUTPUT", 1000)
    reading, writing = pipe
    writer = OutputWriter(writing, lambda error: None)
    writer.write(b"x" * 100_000)
    writer.release()
    writer.wait_room()
    writer.close(is_abandoned=lambda: True)
    os.close(reading)  # lets the thread end


def test_reader_that_goes_away_is_reported_once(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    errors: list[OSError] = []
    writer = OutputWriter(writing, errors.append)
    os.close(reading)
    writer.write(b"into the void")
    writer.close()
    writer.write(b"dropped")
    assert [error.errno for error in errors] == [errno.EPIPE]


# --- input --------------------------------------------------------------------------------------------------


def test_input_from_a_pipe_is_passed_on_byte_for_byte(loop: IoLoop, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    guest = Guest()
    InputReader(reading, loop, guest, never, lambda: False).start()
    os.write(writing, b"a\x1d\x00\xff")
    guest.wait(b"a\x1d\x00\xff")


def test_end_of_input_only_ends_the_reading(loop: IoLoop, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    guest = Guest()
    InputReader(reading, loop, guest, never, lambda: False).start()
    os.write(writing, b"last")
    os.close(writing)
    guest.wait(b"last")
    time.sleep(0.01)
    before = loop.statistics().wakeups
    time.sleep(0.02)
    assert loop.statistics().wakeups == before  # no busy loop on the closed pipe


def test_input_from_a_file_larger_than_the_queue(loop: IoLoop, tmp_path: Path) -> None:
    file = tmp_path / "input"
    data = os.urandom(20_000)
    file.write_bytes(data)
    guest = Guest(limit=6_000)
    with file.open("rb") as stream:
        InputReader(stream.fileno(), loop, guest, never, lambda: False).start()
        guest.wait(data[:6_000])
        guest.wait_full()
        guest.raise_limit(1 << 20)
        guest.wait(data)


def test_input_from_dev_null_and_from_a_closed_descriptor(loop: IoLoop) -> None:
    guest = Guest()
    with open("/dev/null", "rb") as stream:
        InputReader(stream.fileno(), loop, guest, never, lambda: False).start()
        done = threading.Event()
        loop.call_soon_threadsafe(lambda: loop.call_soon_threadsafe(done.set))
        assert done.wait(5)
    InputReader(999, loop, guest, never, lambda: False).start()
    done.clear()
    loop.call_soon_threadsafe(done.set)
    assert done.wait(5)
    assert guest.data == b""


def test_full_queue_stops_the_reading_until_there_is_room(loop: IoLoop, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    guest = Guest(limit=4)
    InputReader(reading, loop, guest, never, lambda: False).start()
    os.write(writing, b"abcdefgh")
    guest.wait(b"abcd")
    guest.wait_full()
    guest.raise_limit(100)
    guest.wait(b"abcdefgh")


def test_escape_key_leaves_and_what_came_before_it_is_sent(
    loop: IoLoop, terminal_pair: tuple[int, int]
) -> None:
    ours, theirs = terminal_pair
    guest = Guest()
    left = threading.Event()
    with RawMode(theirs) as raw:
        reader = InputReader(theirs, loop, guest, left.set, lambda: raw.is_active)
        reader.start()
        os.write(ours, b"exit\x1dnot this")
        assert left.wait(5)
        assert guest.data == b"exit"
        reader.stop()


def test_control_c_is_an_ordinary_byte_in_raw_mode(loop: IoLoop, terminal_pair: tuple[int, int]) -> None:
    ours, theirs = terminal_pair
    guest = Guest()
    with RawMode(theirs):
        reader = InputReader(theirs, loop, guest, never, lambda: True)
        reader.start()
        os.write(ours, b"\x03\x1a")
        guest.wait(b"\x03\x1a")
        reader.stop()
