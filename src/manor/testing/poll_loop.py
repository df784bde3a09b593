"""An event loop for tests of backends: real descriptors, a clock that moves when told to, no thread."""

from __future__ import annotations

from collections.abc import Callable

from manor.base.clock import FakeClock
from manor.testing.fakes import FakeTimers
from manor.vmm.io_loop import Callback, Watch, Watched

_TURN_S = 0.05


class PollLoop(FakeTimers):
    """backends.loop.Loop. `turn` runs what is ready; `advance` what is due."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        super().__init__(FakeClock() if clock is None else clock)
        self._watched = Watched()
        self._calls: list[Callback] = []

    def watch(self, descriptor: int, on_readable: Callback | None = None, on_writable: Callback | None = None) -> Watch:
        return Watch(self._watched, descriptor, on_readable, on_writable)

    def call_soon_threadsafe(self, callback: Callback) -> None:
        self._calls.append(callback)

    def turn(self, wait_s: float = 0.0) -> bool:
        """Run the callbacks of descriptors that are ready, within `wait_s`; whether there were any."""
        events = self._watched.epoll.poll(wait_s)
        for descriptor, ready in events:
            watch = self._watched.by_descriptor.get(descriptor)
            if watch is not None:
                watch.run(ready, lambda callback: callback())
        calls, self._calls = self._calls, []
        for call in calls:
            call()
        return bool(events or calls)

    def settle(self) -> None:
        """Run until nothing is ready any more."""
        while self.turn(_TURN_S):
            pass

    def until(self, condition: Callable[[], bool], turns: int = 200) -> None:
        """Run until `condition` holds. Raises AssertionError."""
        for _ in range(turns):
            if condition():
                return
            self.turn(_TURN_S)
        raise AssertionError("the condition did not come true")

    def close(self) -> None:
        self._watched.epoll.close()
