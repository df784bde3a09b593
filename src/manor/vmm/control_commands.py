"""The commands of the control socket: a table, and what each does to the VM.

Thread: the I/O loop's, but for the commands marked slow. Nothing here holds the machine lock while it waits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from manor.base.console_log import ConsoleLog
from manor.base.errors import ConfigError, ProtocolError
from manor.spec.control import Json, decode_bytes, encode_bytes
from manor.spec.record import plain, read
from manor.trace import catalog, sink
from manor.trace.event import Event
from manor.vmm.console import Console
from manor.vmm.control import Client, Command, ControlServer, Reply
from manor.vmm.control_devices import DeviceControl
from manor.vmm.control_saving import SaveControl
from manor.vmm.control_services import ServiceControl
from manor.vmm.hotplug import DeviceEvent
from manor.vmm.lifecycle import LifeEvent, Reason, VmEnd
from manor.vmm.stages import Stage, StageTracker
from manor.vmm.vm import Vm

KEPT_HISTORY: Final = 1 << 16
"""Bytes of a console's output that are saved with a VM."""
MAX_HISTORY: Final = 1 << 20
"""Bytes of earlier output that a client gets when it attaches to a console."""
MAX_QUEUED_OUTPUT: Final = 1 << 20
"""Bytes of a console's output on their way to the I/O loop; what the guest prints faster is skipped, and said so."""
MAX_TRACE_EVENTS: Final = 10_000
"""Trace events on their way to the I/O loop; further ones are dropped, and counted."""


class VmControl:
    """What clients of one VM can see and do. Make it before the VM starts."""

    def __init__(self, vm: Vm, accelerator: str) -> None:
        """accelerator: what runs the guest, in words."""
        self._vm = vm
        self._accelerator = accelerator
        self._server: ControlServer | None = None
        self._log: ConsoleLog | None = None
        self._stages = StageTracker()
        self._consoles = {"serial": vm.serial, "virtio": vm.console}
        self._streams = {name: _ConsoleStream(self, name, console) for name, console in self._consoles.items()}
        self._traces = _TraceStream(self)
        self._devices = DeviceControl(vm)
        vm.devices.listen(self._on_device)
        vm.listen(self._on_life)
        self._saves = SaveControl(vm, self.publish, self.call_soon, self._extra)
        if vm.saved is not None:
            self._recall(vm.saved.extra)

    def commands(self) -> Mapping[str, Command]:
        """The table for a ControlServer."""
        return {
            "status": Command(self._status),
            "statistics": Command(self._statistics),
            "stop": Command(self._stop),
            "subscribe": Command(self._subscribe, {"topic": str}),
            "unsubscribe": Command(self._unsubscribe, {"topic": str}),
            "tail": Command(self._tail),
            "console": Command(self._console, {}, {"console": str, "history": int}),
            "input": Command(self._input, {"data": str}, {"console": str}),
            "window": Command(self._window, {"columns": int, "rows": int}),
            "trace": Command(self._trace, {}, {"on": list, "off": list}),
            **self._devices.commands(),
            **ServiceControl(self._vm).commands(),
            **self._saves.commands(),
        }

    def _extra(self) -> Json:
        """What a saved VM's control socket shall know again: what the guest has printed it will not print once more."""
        consoles = {name: stream.tail() for name, stream in self._streams.items()}
        return {"stage": plain(self._stages.stage), "consoles": consoles}

    def _recall(self, extra: Json) -> None:
        with suppress(ProtocolError):
            self._stages.stage = read(Stage, extra.get("stage"), "stage")
        consoles = extra.get("consoles")
        if isinstance(consoles, dict):
            for name, stream in self._streams.items():
                with suppress(ConfigError):
                    stream.adopt(decode_bytes(consoles.get(name)))

    def log_to(self, log: ConsoleLog) -> None:
        """Keep the serial output in a file. Before the VM starts."""
        self._log = log

    def connect(self, server: ControlServer) -> None:
        """The server that events go to."""
        self._server = server

    def publish(self, topic: str, event: Json) -> None:
        """Thread: the loop's."""
        if self._server is not None:
            self._server.publish(topic, event)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Thread: any."""
        self._vm.loop.call_soon_threadsafe(callback)

    def on_console(self, name: str, data: bytes) -> None:
        """Output of the guest. Thread: the loop's."""
        if name == "serial" and self._log is not None:
            self._log.write(data)
        if name == "serial" and self._stages.feed(data):
            self.publish("stage", {"event": "stage", **self._stage()})
        self.publish(f"console:{name}", {"event": "console", "console": name, "data": encode_bytes(data)})

    def _on_device(self, event: DeviceEvent) -> None:
        """Thread: any."""
        message: Json = {"event": f"device-{event.what}", "device": event.device}
        if event.error:
            message["error"] = event.error
        self.call_soon(partial(self.publish, "devices", message))

    def _on_life(self, event: LifeEvent) -> None:
        """Thread: any."""
        self.call_soon(partial(self.publish, "life", {"event": event}))

    # --- commands -----------------------------------------------------------------------------------------------------

    def _status(self, client: Client, arguments: Json, reply: Reply) -> Json:
        vm = self._vm
        return {
            "name": vm.spec.name,
            "pid": os.getpid(),
            "state": vm.state.value,
            "accelerator": self._accelerator,
            "cpus": vm.spec.cpus,
            "max_cpus": vm.spec.possible_cpus,
            "memory": vm.spec.memory,
            "wall_ns": vm.statistics().wall_ns,
            "stage": self._stage(),
            "addresses": self._devices.addresses(),
            "ports": self._devices.ports(),
            "agent": vm.has_agent,
            "crashed": vm.has_crashed,
        }

    def _statistics(self, client: Client, arguments: Json, reply: Reply) -> Json:
        return self._vm.statistics().as_dict()

    def _stop(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Pull the plug; who wants the guest to be asked first does so through the guest."""
        self._vm.request_end(VmEnd(Reason.STOPPED, "by a command"))
        return {}

    def _subscribe(self, client: Client, arguments: Json, reply: Reply) -> Json:
        client.subscribe(self._topic(arguments["topic"]))
        return self._stage() if arguments["topic"] == "stage" else {}

    def _unsubscribe(self, client: Client, arguments: Json, reply: Reply) -> Json:
        client.unsubscribe(self._topic(arguments["topic"]))
        return {}

    def _topic(self, topic: str) -> str:
        topics = ("stage", "trace", "devices", "life", "save", *(f"console:{name}" for name in self._consoles))
        if topic not in topics:
            raise ConfigError("topic", f"{topic!r} is unknown; there are {', '.join(topics)}")
        return topic

    def _stage(self) -> Json:
        stage = self._stages.stage
        return {**asdict(stage), "text": str(stage)}

    def _tail(self, client: Client, arguments: Json, reply: Reply) -> Json:
        return {"lines": self._stages.tail()}

    def _console(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Attach: the last bytes of output now, all further ones as events."""
        name, console = self._console_of(arguments)
        wanted = arguments.get("history", 0)
        if not 0 <= wanted <= MAX_HISTORY:
            raise ConfigError("history", f"{wanted} is not a number of bytes from 0 to {MAX_HISTORY}")
        stream = self._streams[name]
        stream.flush()
        client.subscribe(f"console:{name}")
        return {"console": name, "data": encode_bytes(console.history(wanted, stream.position))}

    def _input(self, client: Client, arguments: Json, reply: Reply) -> Json | None:
        """Type bytes; answered when there is room for more, so that a client that waits for it floods nobody."""
        _, console = self._console_of(arguments)
        console.send_bytes(decode_bytes(arguments["data"]))
        if console.input_room() > 0:
            return {}
        console.on_input_room(partial(reply, {}))
        return None

    def _console_of(self, arguments: Json) -> tuple[str, Console]:
        name = arguments.get("console", self._vm.spec.console)
        if name not in self._consoles:
            raise ConfigError("console", f"{name!r} is unknown; there are {', '.join(self._consoles)}")
        return name, self._consoles[name]

    def _window(self, client: Client, arguments: Json, reply: Reply) -> Json:
        columns, rows = arguments["columns"], arguments["rows"]
        if not (1 <= columns <= 0xFFFF and 1 <= rows <= 0xFFFF):
            raise ConfigError("columns", f"{columns} by {rows} is not a window; give 1 to 65535 for each")
        self._vm.resize(columns, rows)
        return {}

    def _trace(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Switch trace events by globs; they come as events of topic "trace"."""
        on, off = arguments.get("on", []), arguments.get("off", [])
        for glob in (*on, *off):
            if not isinstance(glob, str) or not 0 < len(glob) <= 100:
                raise ConfigError("on", f"{glob!r} is no pattern of event names")
        known = list(catalog.events())
        for glob in on:
            if not any(fnmatchcase(event.name, glob) for event in known):
                raise ConfigError("on", f"no event's name matches {glob!r}; one of {len(known)} is guest_error")
        self._traces.switch(on, off)
        return {"on": self._traces.globs}


class _ConsoleStream:
    """A console's output on its way from vCPU threads to the loop's. position: bytes handed on or skipped so far."""

    def __init__(self, control: VmControl, name: str, console: Console) -> None:
        self.position = 0
        self._control = control
        self._name = name
        self._lock = threading.Lock()
        self._pending = bytearray()
        self._skipped = 0
        self._console = console
        console.watch(self._note)

    def tail(self) -> str:
        """The last output that clients were told of, as a JSON string."""
        return encode_bytes(self._console.history(KEPT_HISTORY, self.position))

    def adopt(self, data: bytes) -> None:
        """`tail` of a VM that goes on here."""
        self._console.adopt(data)
        self.position = len(data)

    def _note(self, data: bytes) -> None:
        """Thread: machine lock held."""
        with self._lock:
            if len(self._pending) > MAX_QUEUED_OUTPUT:
                self._skipped += len(data)
                return
            is_first = not self._pending
            self._pending += data
        if is_first:
            self._control.call_soon(self.flush)

    def flush(self) -> None:
        """Thread: the loop's."""
        with self._lock:
            pending, self._pending = self._pending, bytearray()
            skipped, self._skipped = self._skipped, 0
        self.position += len(pending) + skipped
        if pending:
            self._control.on_console(self._name, bytes(pending))
        if skipped:
            self._control.publish(f"console:{self._name}", {"event": "missed", "count": skipped})


class _TraceStream:
    """Trace events on their way to subscribers (trace.event.Sink)."""

    def __init__(self, control: VmControl) -> None:
        self.globs: list[str] = []
        self._control = control
        self._lock = threading.Lock()
        self._pending: list[Json] = []
        self._dropped = 0

    def switch(self, on: list[str], off: list[str]) -> None:
        for glob in off:
            if glob in self.globs:
                self.globs.remove(glob)
                sink.disable(glob, self)
        for glob in on:
            if glob not in self.globs:
                self.globs.append(glob)
                sink.enable(glob, self)

    def emit(self, event: Event, values: tuple[object, ...]) -> None:
        """Thread: any, any lock held."""
        fields = {field: _plain(value) for field, value in zip(event.fields, values, strict=True)}
        with self._lock:
            if len(self._pending) >= MAX_TRACE_EVENTS:
                self._dropped += 1
                return
            is_first = not self._pending
            self._pending.append({"name": event.name, **fields})
        if is_first:
            self._control.call_soon(self._flush)

    def _flush(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, []
            dropped, self._dropped = self._dropped, 0
        for start in range(0, len(pending), 500):
            self._control.publish("trace", {"event": "trace", "events": pending[start : start + 500]})
        if dropped:
            self._control.publish("trace", {"event": "missed", "count": dropped})


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return bytes(value).hex() if isinstance(value, (bytes, bytearray)) else str(value)
