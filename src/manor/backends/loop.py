"""What a backend asks of the event loop that runs it. The VM's I/O loop implements this; tests have their own.

Thread: the loop's own for every method and every callback, or any before the loop starts; no lock is held. A network
has a loop whose callbacks hold the network's lock, and calls it from any thread that holds that (`vmm.net_loop`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from manor.base.timers import Timers

Callback = Callable[[], None]


class Watch(Protocol):
    """One descriptor and what it is watched for; nothing at first."""

    def want(self, *, read: bool = False, write: bool = False) -> None:
        """Call back while the descriptor is readable, or writable; neither: leave it alone."""

    def close(self) -> None:
        """Watch no more. Comes before the descriptor itself is closed."""


class Loop(Timers, Protocol):
    """Readiness of descriptors, and timers (without any lock)."""

    def watch(self, descriptor: int, on_readable: Callback | None = None, on_writable: Callback | None = None) -> Watch:
        """Be ready to watch `descriptor`, non-blocking. One watch for a descriptor at a time."""

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Run `callback` on the loop's thread, in the order of calls. Thread: any."""
