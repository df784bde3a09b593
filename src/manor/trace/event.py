"""Trace events: declared beside the code, typed, off by default.

    serial_write = declare("serial_write", offset=int, value=int)
    ...
    if serial_write.on:                 # one attribute test when off; arguments are not computed
        serial_write(offset, value)

The set of declared events is what `declare` has seen in this process: a table filled by import, never by
running code. Which events are on is a switch per event, changed by `trace.sink`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Protocol


class Sink(Protocol):
    """Where fired events go. Called on the firing thread; must be quick and must not fire events."""

    def emit(self, event: Event, values: tuple[object, ...]) -> None: ...


class Event:
    """One declared event. Calling it with its values, in declared order, hands them to the sinks."""

    __slots__ = ("fields", "name", "on", "sinks")

    def __init__(self, name: str, fields: dict[str, type]) -> None:
        self.name = name
        self.fields = fields
        self.on = False
        self.sinks: tuple[Sink, ...] = ()

    def __call__(self, *values: object) -> None:
        if len(values) != len(self.fields):
            raise TypeError(f"event {self.name} takes ({', '.join(self.fields)}), got {len(values)} values")
        for sink in self.sinks:
            sink.emit(self, values)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={kind.__name__}" for name, kind in self.fields.items())
        return f"declare({self.name!r}, {fields})"


declared: dict[str, Event] = {}
"""Every event of this process by name. Filled by `declare` at import; read it through `trace.catalog`."""

enabled: list[tuple[str, Sink]] = []
"""(glob, sink) pairs in force, so that events of modules imported later obey them too. See `trace.sink`."""


def declare(name: str, /, **fields: type) -> Event:
    """The event `name`. Declaring the same name and fields again gives the same event.

    Raises ValueError if the name is taken by an event with other fields.
    """
    event = declared.get(name)
    if event is not None:
        if event.fields != fields:
            raise ValueError(f"trace event {name} is declared twice with different fields")
        return event
    event = declared[name] = Event(name, fields)
    apply(event)
    return event


def apply(event: Event) -> None:
    """Recompute the sinks of `event` from the (glob, sink) pairs in force."""
    sinks = tuple(dict.fromkeys(sink for pattern, sink in enabled if fnmatchcase(event.name, pattern)))
    event.sinks = sinks
    event.on = bool(sinks)


guest_error = declare("guest_error", source=str, message=str)
"""The guest did something its specification forbids; the result was defined. Send it to
`sink.RateLimited`."""
