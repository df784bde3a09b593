"""A guest's console line as a script sees it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import pytest

from manor.vmm import console as console_module
from manor.vmm.console import Console, TextNotSeen


class Uart:
    """A device that takes `room` bytes until `drain` makes room."""

    def __init__(self, room: int) -> None:
        self.on_room: Callable[[], None] | None = None
        self.taken = b""
        self._room = room

    def can_receive(self) -> int:
        return self._room

    def receive(self, data: bytes) -> int:
        part = data[: self._room]
        self.taken += part
        self._room -= len(part)
        return len(part)

    def drain(self, room: int) -> None:
        self._room = room
        assert self.on_room is not None
        self.on_room()


class Sink:
    """An output that collects."""

    is_full = False

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def wait_room(self) -> None:
        raise AssertionError

    def release(self) -> None:
        pass


def test_wait_for_follows_the_output() -> None:
    console = Console("serial")
    console.write(b"one two one")
    assert console.wait_for("one", 0) == "one"
    assert console.wait_for("one", 0) == " two one"
    with pytest.raises(TextNotSeen, match=r"'one' did not appear on serial .*within 0 seconds"):
        console.wait_for("one", 0)
    assert console.text == "one two one"


def test_wait_for_takes_a_regular_expression() -> None:
    console = Console("serial")
    console.write("größe: 12 kB\n".encode())
    assert console.wait_for(re.compile(r"\d+ kB"), 0) == "größe: 12 kB"
    console.write(b"rest")
    assert console.wait_for("rest", 0) == "\nrest"


def test_wait_for_wakes_up_when_the_text_comes_in_pieces() -> None:
    console = Console("serial")

    def print_slowly() -> None:
        for byte in b"boot\xff login: ":
            time.sleep(0.001)
            console.write(bytes([byte]))

    thread = threading.Thread(target=print_slowly)
    thread.start()
    assert console.wait_for("login:", 5) == "boot\ufffd login:"
    thread.join()


def test_wait_for_ends_with_the_vm() -> None:
    console = Console("serial")
    console.write(b"last words")
    console.close("power-off")
    assert console.wait_for("last", 5) == "last"
    with pytest.raises(TextNotSeen, match=r"before the VM ended \(power-off\)"):
        console.wait_for("login:", None)


def test_old_output_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "MAX_HISTORY", 10)
    console = Console("serial")
    console.write(b"0123456789" * 2)
    console.write(b"abc")
    assert console.text == "3456789abc"
    assert console.wait_for("abc", 0) == "3456789abc"


def test_input_waits_for_the_device_and_keeps_its_order() -> None:
    console = Console("serial")
    console.send("early ")
    uart = Uart(3)
    uart.on_room = console.connect(uart, threading.RLock())
    assert uart.taken == b"ear"
    console.send(b"late")
    uart.drain(100)
    assert uart.taken == b"early late"
    assert console.input_room() == console_module.MAX_QUEUED_INPUT


def test_room_for_input_is_told_once() -> None:
    console = Console("serial")
    uart = Uart(0)
    uart.on_room = console.connect(uart, threading.RLock())
    calls: list[int] = []
    console.send(b"x" * console_module.MAX_QUEUED_INPUT)
    assert console.input_room() == 0
    console.on_input_room(lambda: calls.append(1))
    assert calls == []
    uart.drain(10)
    uart.drain(10)
    assert calls == [1]
    console.on_input_room(lambda: calls.append(2))
    assert calls == [1, 2]


def test_input_of_a_machine_that_went_away_goes_to_the_next() -> None:
    console = Console("serial")
    first, second = Uart(100), Uart(100)
    console.connect(first, threading.RLock())
    console.disconnect()
    console.send("again")
    assert first.taken == b""
    console.connect(second, threading.RLock())
    assert second.taken == b"again"


def test_output_is_shown() -> None:
    console = Console("serial")
    sink = Sink()
    console.show_on(sink)
    console.write(b"hello")
    assert sink.data == b"hello"
    assert not console.is_full


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_panic_is_seen_however_the_line_is_cut(size: int) -> None:
    console = Console("serial")
    message = b"text\n[    1.2] Kernel panic - not syncing: VFS\nmore"
    for start in range(0, len(message), size):
        console.write(message[start : start + size])
    assert console.has_panicked
    console.connect(Uart(1), threading.RLock())
    assert not console.has_panicked


def test_panic_is_not_seen_where_there_is_none() -> None:
    console = Console("serial")
    console.write(b"Kernel panic\n - not syncing\n" + b"x" * 10000 + b"\n")
    assert not console.has_panicked


@pytest.mark.parametrize("wrong", [5, None, ["x"]])
def test_what_is_no_text_is_refused_before_it_is_in_the_queue(wrong: object) -> None:
    console = Console("serial")
    with pytest.raises(TypeError):
        console.send(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wait for text or a compiled regular expression"):
        console.wait_for(wrong)  # type: ignore[arg-type]
    console.send(b"x")
    uart = Uart(10)
    console.connect(uart, threading.RLock())
    assert uart.taken == b"x"


def test_input_that_was_put_back_comes_first() -> None:
    console = Console("serial")
    uart = Uart(2)
    uart.on_room = console.connect(uart, threading.RLock())
    console.send("abcd")
    console.put_back(uart.taken)
    uart.drain(10)
    assert uart.taken == b"ab" + b"abcd"
    assert console.input_room() == console_module.MAX_QUEUED_INPUT
