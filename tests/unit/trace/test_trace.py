"""Trace events: declaration, switching by glob, sinks, rate limit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from manor.base.clock import SECOND, FakeClock
from manor.trace import catalog, sink
from manor.trace.event import declare, guest_error

probe_open = declare("probe_open", offset=int, name=str)
probe_data = declare("probe_data", data=bytes, ok=bool)


@pytest.fixture(autouse=True)
def all_off() -> Iterator[None]:
    yield
    sink.disable()
    assert not probe_open.on


def test_events_are_off_by_default_and_obey_globs() -> None:
    ring = sink.RingSink()
    assert not probe_open.on
    assert sink.enable("probe_*", ring) == 2
    assert sink.enable("no_such_event", ring) == 0
    probe_open(3, "x")
    assert list(ring.events) == [("probe_open", (3, "x"))]
    assert sink.disable("probe_*", ring) == 1
    assert not probe_open.on


def test_events_declared_later_obey_too() -> None:
    ring = sink.RingSink()
    sink.enable("probe_late*", ring)
    late = declare("probe_later", value=int)
    assert late.on


def test_declaring_twice() -> None:
    assert declare("probe_open", offset=int, name=str) is probe_open
    with pytest.raises(ValueError, match="declared twice"):
        declare("probe_open", offset=str)
    with pytest.raises(TypeError, match="takes"):
        probe_open(1)


def test_text_and_json_lines() -> None:
    clock = FakeClock(now_ns=2 * SECOND + 5)
    text, lines = io.StringIO(), io.StringIO()
    sink.enable("probe_*", sink.TextSink(text, clock))
    sink.enable("probe_*", sink.JsonSink(lines, clock))
    probe_open(255, 'a "b"')
    probe_data(b"\x01\xff", True)
    assert text.getvalue().splitlines() == [
        '2.000000005 probe_open offset=0xff name="a \\"b\\""',
        "2.000000005 probe_data data=01ff ok=true",
    ]
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert first == {"time_ns": 2 * SECOND + 5, "event": "probe_open", "offset": 255, "name": 'a "b"'}
    assert second["data"] == "01ff"


def test_text_of_several_lines_stands_below_its_event() -> None:
    """Indented, so that no text of the guest's looks like an event."""
    text = io.StringIO()
    sink.enable("probe_*", sink.TextSink(text, FakeClock()))
    probe_open(1, "0.0 probe_data\nb")
    assert text.getvalue() == "0.000000000 probe_open offset=0x1\n    0.0 probe_data\n    b\n"


def test_guest_errors_are_rate_limited() -> None:
    clock = FakeClock()
    ring = sink.RingSink()
    limited = sink.RateLimited(ring, clock, burst=3, per_second=2)
    sink.enable("guest_error", limited)
    for _ in range(10):
        guest_error("test", "wrong")
    assert (len(ring.events), limited.dropped) == (3, 7)
    clock.advance(SECOND)
    for _ in range(10):
        guest_error("test", "wrong")
    assert len(ring.events) == 5


def test_one_sink_by_two_globs_gets_an_event_once() -> None:
    ring = sink.RingSink()
    sink.enable("probe_*", ring)
    sink.enable("*_open", ring)
    probe_open(1, "x")
    assert len(ring.events) == 1


def test_catalog_knows_events() -> None:
    names = [event.name for event in catalog.events()]
    assert names == sorted(names)
    assert "guest_error" in names
    assert "| `probe_open` | `offset`: int, `name`: str |" in catalog.markdown()
    assert repr(probe_open) == "declare('probe_open', offset=int, name=str)"
