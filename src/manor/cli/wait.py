"""`manor run --wait`: how far the guest has come, shown until it is far enough."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from manor.cli.status import EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from manor.instances.instance import Instance
    from manor.spec.control import Json

STALL: Final = 30.0
"""Seconds without another stage, after which the end of the serial output is shown."""
AGENT_PAUSE: Final = 1.0
"""Seconds between two looks for the agent."""


def has_reached(stage: Json, wanted: str) -> bool:
    """Whether a guest at `stage` has come as far as `wanted`."""
    match wanted:
        case "boot":
            return stage.get("name") in ("systemd", "login")
        case "login":
            return stage.get("name") == "login"
        case "cloud-init":
            return stage.get("cloud_init") == "done"
        case _:
            return False


def wait_for(instance: Instance, wanted: str) -> int:
    """Show the guest's stages until it has reached `wanted`; returns the exit status. The VM runs on in any case."""
    from manor.instances.agent import has_agent
    from manor.instances.client import ControlClient, VmGone

    shown = _Shown(instance.name)
    try:
        with ControlClient(instance.control) as client:
            stage = client.call("subscribe", topic="stage")
            moved = time.monotonic()
            has_told = False
            while not (has_reached(stage, wanted) or (wanted == "agent" and has_agent(client))):
                shown.show(str(stage.get("text", "")))
                event = client.next_event(AGENT_PAUSE)
                if event is not None and event.get("event") == "stage":
                    stage, moved, has_told = event, time.monotonic(), False
                elif not has_told and time.monotonic() - moved > STALL:
                    has_told = True
                    shown.tell_stall(client.call("tail")["lines"])
    except VmGone:
        end = instance.last_end() or {}
        reason = ": ".join(filter(None, [str(end.get("reason", "it was killed")), str(end.get("detail", ""))]))
        shown.finish(f"ended before it had reached {wanted!r} ({reason}); its output is in {instance.log}")
        return EXIT_ERROR
    except KeyboardInterrupt:
        shown.finish(f"still runs in the background; manor stop {instance.name} ends it")
        return 130
    shown.finish(f"is ready: {wanted}")
    return EXIT_OK


class _Shown:
    """One line that changes on a terminal, a line for each stage elsewhere; on standard error."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = ""
        self._began = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if self._is_terminal:
            print(f"\r\x1b[Kmanor: {self._name}: {text} ({self._seconds():.0f} s)", end="", file=sys.stderr, flush=True)
        elif text.split(":")[0] != self._last.split(":")[0]:
            print(f"manor: {self._name}: {text}", file=sys.stderr)
        self._last = text

    def tell_stall(self, lines: list[str]) -> None:
        """The guest has not moved; what it said last may tell why."""
        self._clear()
        print(f"manor: {self._name} has stayed at {self._last!r} for {STALL:.0f} s; it printed last:", file=sys.stderr)
        for line in lines:
            print(f"    {line}", file=sys.stderr)

    def finish(self, text: str) -> None:
        self._clear()
        print(f"manor: {self._name} {text} ({self._seconds():.1f} s).", file=sys.stderr)

    def _clear(self) -> None:
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr)

    def _seconds(self) -> float:
        return time.monotonic() - self._began
