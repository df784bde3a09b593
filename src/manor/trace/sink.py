"""Sinks for trace events, and the switch that connects them by glob."""

from __future__ import annotations

import json
import threading
from collections import deque
from fnmatch import fnmatchcase
from typing import Final, TextIO

from manor.base.clock import SECOND, Clock
from manor.trace import event as event_module
from manor.trace.event import Event, Sink

_lock: Final = threading.Lock()


def enable(pattern: str, sink: Sink) -> int:
    """Send every event whose name matches the glob `pattern`, declared now or later, to `sink`.

    Returns how many events match now; 0 usually means a typing error. Thread: any.
    """
    with _lock:
        event_module.enabled.append((pattern, sink))
        return _apply_all(pattern)


def disable(pattern: str = "*", sink: Sink | None = None) -> int:
    """Undo `enable` calls made with exactly this pattern (`*`: all of them), for `sink` or for every sink.

    Returns how many were undone.
    """
    with _lock:
        before = len(event_module.enabled)
        event_module.enabled[:] = [
            (old, target)
            for old, target in event_module.enabled
            if not ((pattern in ("*", old)) and (sink is None or sink is target))
        ]
        _apply_all("*")
        return before - len(event_module.enabled)


def _apply_all(pattern: str) -> int:
    count = 0
    for event in list(event_module.declared.values()):
        if fnmatchcase(event.name, pattern):
            event_module.apply(event)
            count += 1
    return count


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    return json.dumps(str(value))


class TextSink:
    """One line per event: seconds, name, `field=value`; integers in hexadecimal."""

    def __init__(self, file: TextIO, clock: Clock) -> None:
        self._file = file
        self._clock = clock

    def emit(self, event: Event, values: tuple[object, ...]) -> None:
        now = self._clock.now_ns()
        pairs = list(zip(event.fields, values, strict=True))
        fields = " ".join(f"{name}={_text(value)}" for name, value in pairs if not _is_block(value))
        below = "".join(f"    {line}\n" for _, value in pairs if _is_block(value) for line in str(value).splitlines())
        self._file.write(f"{now // SECOND}.{now % SECOND:09d} {event.name} {fields}\n{below}")


def _is_block(value: object) -> bool:
    """Text of several lines: written below its event, indented."""
    return isinstance(value, str) and "\n" in value


class JsonSink:
    """JSON lines: {"time_ns": …, "event": …, fields}; bytes as hexadecimal text."""

    def __init__(self, file: TextIO, clock: Clock) -> None:
        self._file = file
        self._clock = clock

    def emit(self, event: Event, values: tuple[object, ...]) -> None:
        record: dict[str, object] = {"time_ns": self._clock.now_ns(), "event": event.name}
        for name, value in zip(event.fields, values, strict=True):
            plain = value if value is None or isinstance(value, (bool, int, float, str)) else _text(value)
            record[name] = plain
        self._file.write(json.dumps(record) + "\n")


class RingSink:
    """The last `count` events in memory, for dumps after a failure and for tests."""

    def __init__(self, count: int = 1024) -> None:
        self.events: deque[tuple[str, tuple[object, ...]]] = deque(maxlen=count)

    def emit(self, event: Event, values: tuple[object, ...]) -> None:
        self.events.append((event.name, values))


class RateLimited:
    """Passes at most `burst` events at once and `per_second` on average; counts what it drops.

    The limit protects the host's log from a guest that makes mistakes in a loop.
    """

    def __init__(self, sink: Sink, clock: Clock, burst: int = 20, per_second: int = 5) -> None:
        self._sink = sink
        self._clock = clock
        self._burst = burst * SECOND
        self._per_second = per_second
        self._tokens = self._burst
        self._last = clock.now_ns()
        self.dropped = 0

    def emit(self, event: Event, values: tuple[object, ...]) -> None:
        now = self._clock.now_ns()
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._per_second)
        self._last = now
        if self._tokens < SECOND:
            self.dropped += 1
            return
        self._tokens -= SECOND
        self._sink.emit(event, values)
